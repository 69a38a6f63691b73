"""Train one student by one recipe: `python -m pipeline.stages.distill STUDENT RECIPE SEED`."""

import argparse
from pathlib import Path

from medistill.config import StudentModel, load_params
from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.errors import UserError
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

    from medistill.distillation.knowledge import Knowledge
    from medistill.distillation.objective import build_objective
    from medistill.training.run import train

    folders = [Path("data/knowledge") / name for name in recipe.teachers]
    teachers = [Knowledge.open(folder, dataset, params.augmentation, **params.teach.model_dump()) for folder in folders]
    train(
        Path("models/students") / model.name,
        params.students[model.student],
        dataset,
        build_objective(recipe, dataset, teachers),
        params,
        facts={"role": "student", "name": model.name, **vars(arguments), **recipe.model_dump(mode="json")},
        seed=model.seed,
        view_seed=params.teach.view_seed,
        views=params.teach.views if recipe.views == "cached" else None,
        knowledge=[teacher.checksum for teacher in teachers],
        inherited=[provenance.read_ids(folder / provenance.FILE) for folder in folders],
    )
    return 0


if __name__ == "__main__":
    run_stage(main)
