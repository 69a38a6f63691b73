"""Stage `explain`: maps of where teachers and students look, against boxes or masks, and a gallery to look at."""

import argparse
import sys

from tqdm import tqdm

from medistill.data.dataset import Dataset
from medistill.explain import figures, selection
from medistill.explain.choice import choose_way
from medistill.explain.detection import call_each
from medistill.explain.explained import explain_each, explainable
from medistill.explain.lungs import lungs_of
from medistill.explain.road import Removed
from medistill.explain.second_look import find_doubts
from medistill.explain.shown import student_of
from medistill.layout import HERE
from medistill.params import load_params
from medistill.report import gallery
from medistill.report.explanations import Explanations, doubt_rows, fill_gallery, write_explanations
from pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> int:
    """Write reports/explain/: figures, the choice of a way, what the gallery shows, doubtful labels, and the page."""
    argparse.ArgumentParser(prog="python -m pipeline.stages.explain", description=__doc__).parse_args(argv)
    params = load_params()
    dataset = Dataset.open()
    folders, left_out = explainable(params.model_folders(), dataset, teachers=list(params.teacher_models()))
    for name, reason in left_out.items():
        tqdm.write(f"explain: {name} is left out: {reason}", file=sys.stderr)
    chosen = selection.choose(dataset, params.explain, {name: files.predictions for name, files in folders.items()})
    wrong = selection.wrong_labels(chosen.measured, dataset) if chosen.located else []
    maps = len(folders) * (len(chosen.deciding) + len(chosen.findings) + 2 * len(wrong))
    with tqdm(total=maps, desc="explain", unit="map", disable=None) as bar:
        way, choice = choose_way(params.explain, chosen.deciding, folders, dataset, bar.update)
        images = selection.images_of(chosen.findings, dataset)
        removed = Removed(chosen.findings, images, chosen.removed)
        explained = explain_each(folders, dataset, chosen.findings, images, way, wrong, removed, bar.update)
    references = {m.name: [t for t in params.references(m) if t in folders] for m in params.student_models()}
    called = call_each(folders, dataset, chosen.findings, explained)
    lungs = lungs_of(chosen.measured, dataset)
    metrics, scores = figures.measure(chosen, explained, called, references, dataset.image_size, lungs)
    roles = {name: role for name, role in params.roles().items() if name in folders}
    teachers = {name: folders[name].predictions for name, role in roles.items() if role == "teacher"}
    doubts, student = find_doubts(dataset, teachers), student_of(roles, folders)
    beside = [name for name in params.beside(student) if name in folders]
    everything = Explanations(chosen, images, explained, scores, called, roles)
    shown = fill_gallery(dataset, everything, student, beside, params.explain.gallery)
    page = gallery.render(dataset, roles, metrics, choice, shown, doubt_rows(dataset, doubts), left_out)
    write_explanations(HERE.reports.explain.folder, metrics, choice, shown, doubts, page)
    return 0


if __name__ == "__main__":
    run_stage(main)
