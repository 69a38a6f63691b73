"""Train one student by one recipe: `python -m pipeline.stages.distill STUDENT RECIPE SEED`."""

import argparse
from pathlib import Path

from medistill.config import StudentModel, load_params
from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.files import read_json
from pipeline.stage import run_stage


def main(argv: list[str] | None) -> int:
    """Write models/students/STUDENT-RECIPE-SEED/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student")
    parser.add_argument("recipe")
    parser.add_argument("seed", type=int)
    arguments = parser.parse_args(argv)
    params = load_params()
    for kind, name in (("students", arguments.student), ("recipes", arguments.recipe)):
        if name not in getattr(params, kind):
            raise UserError(f"params.yaml: {kind} has no {name!r}, only {', '.join(getattr(params, kind))}")
    model = StudentModel(**vars(arguments))
    recipe = params.recipes[model.recipe]
    dataset = Dataset.open()

    from medistill.distillation.answers import LiveTeacher
    from medistill.distillation.knowledge import Knowledge
    from medistill.distillation.objective import RecipeObjective
    from medistill.models.zoo import load_model, map_shape
    from medistill.training.run import train

    live = recipe.views == "live"
    folders = [Path("models/teachers" if live else "data/knowledge") / name for name in recipe.teachers]
    if live:
        teachers = [LiveTeacher(load_model(folder), dataset.labels) for folder in folders]
        knowledge = [read_json(folder / "config.json")["fingerprint"] for folder in folders]
    else:
        asked = params.teach.model_dump()
        teachers = [Knowledge.open(folder, dataset, params.augmentation, **asked) for folder in folders]
        knowledge = [teacher.checksum for teacher in teachers]
    train(
        Path("models/students") / model.name,
        params.students[model.student],
        dataset,
        lambda student: RecipeObjective(recipe, dataset, teachers, width=map_shape(student, dataset.image_size)[0]),
        params,
        facts={"role": "student", "name": model.name, **vars(arguments), **recipe.model_dump(mode="json")},
        seed=model.seed,
        view_seed=params.teach.view_seed,
        views=params.teach.views if recipe.views == "cached" else None,
        unlabelled=recipe.unlabelled,
        whole_frames=live,
        knowledge=knowledge,
        inherited=[provenance.read_ids(folder / provenance.FILE) for folder in folders],
    )
    return 0


if __name__ == "__main__":
    run_stage(main)
