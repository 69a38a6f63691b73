"""Train one student by one recipe: `python -m pipeline.stages.distill STUDENT RECIPE SEED`."""

import argparse

from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.layout import Layout
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

    from pipeline import trainings
    from pipeline.preflight import require_run

    require_run(params, dataset)
    trainings.train(Layout().student(model.name).folder, trainings.student_spec(params, model), dataset, params)
    return 0


if __name__ == "__main__":
    run_stage(main)
