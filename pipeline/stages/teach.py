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
    members = params.members(name)
    for member in members:
        provenance.refuse_overlap(Layout().teacher(member).train_ids, dataset)  # before PyTorch is imported

    from medistill.distillation.train import teach
    from medistill.training.processes import this_process
    from pipeline.trainings import require_trained

    for member in members:
        require_trained(params, member, dataset)
        if this_process().is_main_process:  # of several processes only the first answers
            folder, model = params.knowledge_folder(member), Layout().teacher(member).folder
            unfinished = Layout().unfinished_knowledge(member).folder
            teach(folder, model, dataset, params.augmentation, params.teach, unfinished=unfinished)
    return 0


if __name__ == "__main__":
    run_stage(main)
