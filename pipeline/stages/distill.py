"""Train one student by one recipe: `python -m pipeline.stages.distill STUDENT RECIPE SEED`."""

import argparse
from pathlib import Path

from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.params import StudentModel, load_params
from medistill.settings import SEEDS
from pipeline.stage import require_name, run_stage


def main(argv: list[str] | None) -> int:
    """Write models/students/STUDENT-RECIPE-SEED/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student")
    parser.add_argument("recipe")
    parser.add_argument("seed", type=int)
    arguments = parser.parse_args(argv)
    params = load_params()
    require_name("run.students", arguments.student, params.run.students)
    require_name("run.recipes", arguments.recipe, params.run.recipes)
    if not 0 <= arguments.seed < SEEDS:
        raise UserError(f"seed {arguments.seed}: must be between 0 and {SEEDS - 1}")
    model = StudentModel(**vars(arguments))
    dataset = Dataset.open()

    from medistill.distillation.train import require_run, train_by_recipe

    require_run(params, dataset)
    train_by_recipe(
        Path("models/students") / model.name,
        params.students[model.student],
        params.recipes[model.recipe],
        dataset,
        params,
        facts={"role": "student", "name": model.name, **vars(arguments)},
        seed=model.seed,
    )
    return 0


if __name__ == "__main__":
    run_stage(main)
