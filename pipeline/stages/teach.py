"""Let one teacher answer every training image in every view: `python -m pipeline.stages.teach TEACHER`."""

import argparse

from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.layout import Layout
from medistill.params import load_params
from pipeline.stage import require_name, run_stage


def main(argv: list[str] | None) -> int:
    """Write data/knowledge/TEACHER/, of an assistant data/assistants/TEACHER/."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    name = parser.parse_args(argv).teacher
    params = load_params()
    dataset = Dataset.open()
    require_name("run.teachers", name, params.run.all_teachers)
    files, unfinished = Layout().teacher(name), Layout().unfinished_knowledge(name).folder
    provenance.refuse_overlap(files.train_ids, dataset)  # before PyTorch is imported

    from medistill.distillation.train import teach
    from medistill.training.processes import this_process
    from pipeline.trainings import require_trained

    require_trained(params, name, dataset)
    if this_process().is_main_process:  # of several processes only the first answers
        folder = params.knowledge_folder(name)
        teach(folder, files.folder, dataset, params.augmentation, params.teach, unfinished=unfinished)
    return 0


if __name__ == "__main__":
    run_stage(main)
