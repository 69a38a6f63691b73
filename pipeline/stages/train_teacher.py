"""Train one teacher or assistant, or take it as it is: `python -m pipeline.stages.train_teacher TEACHER`."""

import argparse
from pathlib import Path

from medistill.data.dataset import Dataset
from medistill.distillation.settings import Recipe
from medistill.errors import at_key
from medistill.params import load_params
from pipeline.stage import require_name, run_stage


def main(argv: list[str] | None) -> int:
    """Write models/teachers/TEACHER/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    name = parser.parse_args(argv).teacher
    params = load_params()
    require_name("run.teachers", name, params.run.all_teachers)
    teacher = params.teachers[name]
    folder, dataset = Path("models/teachers") / name, Dataset.open()

    from medistill.distillation.train import require_run, train_by_recipe
    from medistill.training.processes import this_process
    from medistill.training.run import adopt

    require_run(params, dataset)
    facts = {"role": "teacher", "name": name, "seed": teacher.seed}
    if teacher.frozen:
        if this_process().is_main_process:
            batch_size = 2 * params.training.batch_size  # as at the validation of those that are trained
            with at_key(f"teachers.{name}"):
                adopt(folder, teacher, dataset, facts={**facts, "teachers": []}, batch_size=batch_size)
        return 0
    recipe = params.recipes[teacher.recipe] if teacher.recipe else Recipe(views="fresh", terms=teacher.terms)
    train_by_recipe(folder, teacher, recipe, dataset, params, facts=facts, seed=teacher.seed)
    return 0


if __name__ == "__main__":
    run_stage(main)
