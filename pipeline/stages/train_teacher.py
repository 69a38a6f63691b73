"""Train one teacher: `python -m pipeline.stages.train_teacher TEACHER`."""

import argparse
from pathlib import Path

from medistill.config import Recipe, load_params
from medistill.data.dataset import Dataset
from medistill.errors import UserError
from pipeline.stage import run_stage


def main(argv: list[str] | None) -> int:
    """Write models/teachers/TEACHER/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    name = parser.parse_args(argv).teacher
    params = load_params()
    if name not in params.teachers:
        raise UserError(f"params.yaml: teachers has no {name!r}, only {', '.join(params.teachers)}")
    teacher = params.teachers[name]
    dataset = Dataset.open()

    from medistill.distillation.objective import RecipeObjective
    from medistill.training.run import train

    train(
        Path("models/teachers") / name,
        teacher,
        dataset,
        lambda model: RecipeObjective(Recipe(), dataset),
        params,
        facts={"role": "teacher", "name": name, "teachers": [], "seed": teacher.seed},
        seed=teacher.seed,
        view_seed=teacher.seed + 1_000_003,  # never the views that it will answer, whatever teach.view_seed
        views=None,
    )
    return 0


if __name__ == "__main__":
    run_stage(main)
