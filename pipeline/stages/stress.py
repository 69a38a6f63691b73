"""Stage `stress`: how models answer when test images are shifted, and whether students tell images of other kinds."""

import argparse
import sys

from tqdm import tqdm

from medistill.data.dataset import Dataset
from medistill.files import atomic
from medistill.layout import HERE, StressFolder
from medistill.models.weights import load_model
from medistill.params import load_params
from medistill.records.base import Sealed, write_each
from medistill.stress import run
from medistill.stress.answered import Material, ask, askable
from pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> int:
    """Write reports/stress/: metrics.json, a safetensors file for each student, and their checksums."""
    argparse.ArgumentParser(prog="python -m pipeline.stages.stress", description=__doc__).parse_args(argv)
    params = load_params()
    dataset = Dataset.open()
    folders, left_out = askable(params.model_folders(), dataset, teachers=list(params.teacher_models()))
    for name, reason in left_out.items():
        tqdm.write(f"stress: {name} is left out: {reason}", file=sys.stderr)
    others, what = run.read_others(dataset, params.stress)
    material = Material.of(dataset, params.stress.images, others)
    students = {model.name: model for model in params.student_models()}
    asked, answers = sum(material.images_asked(student=name in students) for name in folders), {}
    with tqdm(total=asked, desc="stress", unit="image", disable=None) as bar:
        for name, files in folders.items():
            answers[name] = ask(load_model(files.folder), material, student=name in students, on_images=bar.update)
    compared = {
        name: run.Compared(
            run.best_teacher(dataset, folders, [t for t in params.references(model) if t in folders]),
            [other.name for other in params.baselines_of(model)],
        )
        for name, model in students.items()
        if params.is_distilled(model)
    }
    metrics, unlike = run.measure_all(material, answers, compared, what, params.evaluate)
    with atomic(HERE.reports.stress.folder) as temporary:
        temporary.mkdir()
        written = StressFolder(temporary)
        write_each(written.metrics, metrics)
        for name, fitted in unlike.items():
            fitted.write(written.unlike(name), {"model": name})
        Sealed().write(written.record, temporary.iterdir())
    return 0


if __name__ == "__main__":
    run_stage(main)
