"""Train one teacher or assistant, or import a finished one: `python -m pipeline.stages.train_teacher TEACHER`."""

import argparse

from medistill.data.dataset import Dataset
from medistill.errors import at_key
from medistill.layout import Layout
from medistill.params import load_params
from pipeline.stage import require_name, run_stage


def main(argv: list[str] | None) -> int:
    """Write models/teachers/TEACHER/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    name = parser.parse_args(argv).teacher
    params = load_params()
    require_name("run.teachers", name, params.run.all_teachers)
    dataset = Dataset.open()

    from medistill.training.processes import this_process
    from pipeline import trainings
    from pipeline.preflight import require_run

    require_run(params, dataset)
    for member, teacher in params.members(name).items():
        folder = Layout().teacher(member).folder
        if not teacher.frozen:
            trainings.train(folder, trainings.teacher_spec(params, member), dataset, params)
        elif this_process().is_main_process:
            with at_key(f"teachers.{name}"):
                trainings.import_finished(folder, member, dataset, params)
    return 0


if __name__ == "__main__":
    run_stage(main)
