"""Let one teacher answer every training image in every view: `python -m pipeline.stages.teach TEACHER`."""

import argparse
import shutil
from pathlib import Path

from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.files import atomic, writing
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
    ids = provenance.refuse_overlap(Path("models/teachers") / name / provenance.FILE, dataset)

    from medistill.distillation.knowledge import write_knowledge
    from medistill.distillation.train import require_trained
    from medistill.models.weights import load_model
    from medistill.training.processes import this_process

    require_trained(params, name, dataset)
    if not this_process().is_main_process:  # of several that were launched, one answers
        return 0
    teacher = load_model(Path("models/teachers") / name).to(this_process().device)
    whole, part = params.knowledge_folder(name), Path(".checkpoints/teach") / name
    with writing(part / provenance.FILE):
        part.mkdir(parents=True, exist_ok=True)
        provenance.write_ids(part / provenance.FILE, ids)  # what the teacher has seen, its students have in part
    write_knowledge(part, teacher, dataset, params.augmentation, **params.teach.model_dump())
    with atomic(whole) as temporary:
        shutil.move(part, temporary)
    return 0


if __name__ == "__main__":
    run_stage(main)
