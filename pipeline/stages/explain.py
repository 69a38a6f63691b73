"""Stage `explain`: maps of where teachers and students look, against boxes or masks, and a gallery to look at."""

import argparse
import sys

from tqdm import tqdm

from medistill.data.dataset import Dataset
from medistill.explain import figures, selection
from medistill.explain.choice import choose_way
from medistill.explain.detection import call_each
from medistill.explain.explained import explain_each, explainable
from medistill.explain.road import Removed
from medistill.explain.second_look import find_doubts, write_doubts
from medistill.files import atomic
from medistill.layout import HERE, ExplainFolder
from medistill.params import load_params
from medistill.records.base import Sealed, write_each
from medistill.report import gallery
from medistill.report.explanations import doubt_rows, gallery_rows
from pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> int:
    """Write reports/explain/: metrics.json, choice.json, second_look.csv and index.html, and their checksums."""
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
    metrics, scores = figures.measure(chosen, explained, called, references, dataset.image_size)
    roles = {name: role for name, role in params.roles().items() if name in folders}
    teachers = {name: folders[name].predictions for name, role in roles.items() if role == "teacher"}
    doubts = find_doubts(dataset, teachers)
    rows = gallery_rows(dataset, chosen, images, explained, scores), doubt_rows(dataset, doubts)
    page = gallery.render(dataset, roles, metrics, choice, *rows, left_out)
    with atomic(HERE.reports.explain.folder) as temporary:
        temporary.mkdir()
        written = ExplainFolder(temporary)
        write_each(written.metrics, metrics)
        choice.write(written.choice)
        write_doubts(written.second_look, doubts)
        written.page.write_text(page, encoding="utf-8")
        Sealed().write(written.record, temporary.iterdir())
    return 0


if __name__ == "__main__":
    run_stage(main)
