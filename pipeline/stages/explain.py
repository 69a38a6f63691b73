"""Stage `explain`: Grad-CAM of teachers and students, measured against the boxes, and a gallery to look at."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from medistill.data import provenance
from medistill.data.dataset import LABEL_PREFIX, Dataset
from medistill.errors import UserError
from medistill.evaluation.predictions import align, read_logits
from medistill.explain import localisation, selection
from medistill.explain.agreement import agreement
from medistill.explain.cam import grad_cam, upsample
from medistill.explain.selection import Finding
from medistill.files import atomic, write_json
from medistill.layout import HERE, ExplainFolder, ModelFolder
from medistill.models.weights import load_model
from medistill.params import Params, load_params
from medistill.records.base import Sealed
from medistill.records.models import ModelRecord
from medistill.report import gallery
from medistill.task import Calibration
from pipeline.stage import run_stage

BATCH = 8  # small: what could be trained can be explained


def main(argv: list[str] | None = None) -> int:
    """Write reports/explain/metrics.json, index.html, and record.json with their checksums."""
    argparse.ArgumentParser(prog="python -m pipeline.stages.explain", description=__doc__).parse_args(argv)
    params = load_params()
    dataset = Dataset.open()
    folders = _explained(params, dataset)
    boxed = selection.boxed_findings(dataset, params.explain.max_images)
    measured = boxed or selection.positive_findings(dataset, params.explain.max_images)
    if not measured:
        raise UserError(f"{dataset.folder}: neither a box nor a test image with a positive label; change data.split")
    labels = [label for label in dataset.labels if any(finding.label == label for finding in measured)]
    few = params.explain.gallery // 4
    if dataset.task.exclusive:  # no image lacks all classes, but it may be taken for a wrong one
        absent = selection.mistaken_findings(dataset, _predicted(folders, dataset), labels, few)
    else:
        absent = selection.absent_findings(dataset, labels, few)
    present = selection.spread(measured, dataset.labels, params.explain.gallery - len(absent))
    findings = measured + absent
    images = _images(dataset, findings)

    maps: dict[str, NDArray[np.float32]] = {}
    answers: dict[str, NDArray[np.float64]] = {}
    with tqdm(total=len(folders) * len(findings), desc="explain", unit="map", disable=None) as bar:
        for name, folder in folders.items():
            maps[name], answers[name] = _explain(folder.folder, dataset, findings, images, bar)

    metrics, scores = _measure(_references(params, folders), dataset, measured, maps, with_boxes=bool(boxed))
    shown = [findings.index(finding) for finding in present + absent]
    rows = _rows(dataset, findings, shown, images, maps, answers, scores)
    roles = {name: role for name, role in _roles(params).items() if name in folders}
    page = gallery.render(dataset.name, dataset.task, dataset.labels, roles, metrics, rows)
    with atomic(HERE.reports.explain.folder) as temporary:
        temporary.mkdir()
        files = ExplainFolder(temporary)
        write_json(files.metrics, metrics)
        files.page.write_text(page, encoding="utf-8")
        Sealed().write(files.record, temporary.iterdir())
    return 0


def _roles(params: Params) -> dict[str, str]:
    students = {m.name: "student" if params.recipes[m.recipe].teachers else "baseline" for m in params.student_models()}
    return dict.fromkeys(params.run.all_teachers, "teacher") | students


def _explained(params: Params, dataset: Dataset) -> dict[str, ModelFolder]:
    """Folder of each model that is explained; a teacher that was taken as it is and lacks a label is left out."""
    folders = {}
    for name, files in params.model_folders().items():
        labels = ModelRecord.read_whole(files.config).labels
        provenance.refuse_overlap(files.train_ids, dataset)
        missing = [label for label in dataset.labels if label not in labels]
        if name in params.run.all_teachers and missing:
            tqdm.write(f"explain: {name} does not know {', '.join(missing)}; it is left out")
        elif labels != dataset.labels and name not in params.run.all_teachers:
            raise UserError(f"{files.config}: labels differ from the data set's; train it again with dvc repro")
        else:
            folders[name] = files
    return folders


def _references(params: Params, folders: dict[str, ModelFolder]) -> dict[str, list[str]]:
    """The teachers each student is compared with: its recipe's own; for a baseline, those of the run's recipes."""
    used = {teacher for recipe in params.run.recipes for teacher in params.recipes[recipe].teachers}
    everyone = [teacher for teacher in params.run.all_teachers if teacher in used]
    references = {model.name: params.recipes[model.recipe].teachers or everyone for model in params.student_models()}
    return {model: [teacher for teacher in teachers if teacher in folders] for model, teachers in references.items()}


def _predicted(folders: dict[str, ModelFolder], dataset: Dataset) -> dict[str, NDArray[np.intp]]:
    """The class that each model names on each test image: indices (N,)."""
    files = {name: folder.predictions for name, folder in folders.items()}
    image_ids = dataset.split("test")["image_id"]
    return {
        name: align(read_logits(path, name, dataset.labels), "test", image_ids, path, name).argmax(axis=1)
        for name, path in files.items()
    }


def _images(dataset: Dataset, findings: list[Finding]) -> NDArray[np.uint8]:
    """The image of each finding: uint8 (N, C, S, S)."""
    rows = dataset.manifest.set_index("image_id").loc[[finding.image_id for finding in findings]]
    return dataset.images(rows.reset_index())


def _explain(
    folder: Path, dataset: Dataset, findings: list[Finding], images: NDArray[np.uint8], bar: tqdm
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """One model's maps (N, h, w) of the findings' labels, and the probabilities (N, L) of all labels."""
    model = load_model(folder)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    theirs = model.config["labels"]
    columns = [theirs.index(label) for label in dataset.labels]
    labels = np.array([theirs.index(finding.label) for finding in findings])
    maps, answers, calibration = [], [], Calibration(dataset.task)
    for start in range(0, len(findings), BATCH):
        here = slice(start, start + BATCH)
        batch = torch.from_numpy(images[here]).float() / 255
        cams, logits = grad_cam(model, batch, labels[here])
        maps.append(cams)
        answers.append(calibration.probabilities(logits[:, columns]))
        bar.update(len(cams))
    return np.concatenate(maps), np.concatenate(answers)


def _measure(
    references: dict[str, list[str]],
    dataset: Dataset,
    findings: list[Finding],
    maps: dict[str, NDArray[np.float32]],
    *,
    with_boxes: bool,
) -> tuple[dict[str, Any], dict[str, localisation.Scores]]:
    """metrics.json, and each model's scores where there are boxes."""
    size, count = dataset.image_size, len(findings)
    groups = np.array([finding.group_id for finding in findings])
    where = localisation.targets(findings, size) if with_boxes else None
    metrics: dict[str, Any] = {}
    scores: dict[str, localisation.Scores] = {}
    for name, cams in maps.items():
        frames = upsample(cams[:count], size)
        map_size = cams.shape[1:]
        metrics[name] = {"map_size": list(map_size)}
        if where:
            scores[name] = localisation.score(frames, where.masks)
            metrics[name] |= localisation.localise(findings, where, scores[name], map_size)
        else:
            metrics[name] |= localisation.NO_BOXES
        teachers = references.get(name, [])
        metrics[name]["agreement_teacher"] = {
            teacher: agreement(frames, upsample(maps[teacher][:count], size), groups) for teacher in teachers
        }
        metrics[name]["difference_teacher"] = {
            teacher: localisation.difference(findings, scores[name], scores[teacher]) for teacher in teachers if where
        }
    return metrics, scores


def _rows(
    dataset: Dataset,
    findings: list[Finding],
    shown: list[int],
    images: NDArray[np.uint8],
    maps: dict[str, NDArray[np.float32]],
    answers: dict[str, NDArray[np.float64]],
    scores: dict[str, localisation.Scores],
) -> list[gallery.Row]:
    """What the gallery shows; a model's scale for a label is its largest value on the findings that are present."""
    people = dataset.manifest.set_index("image_id")
    exclusive = dataset.task.exclusive
    rows = []
    for at in shown:
        finding = findings[at]
        same = [k for k, other in enumerate(findings) if other.label == finding.label and other.present]
        overlays = []
        for name, cams in maps.items():
            frame = upsample(cams[at : at + 1], dataset.image_size)[0]
            top = float(cams[same].max())
            overlays.append(
                gallery.Overlay(
                    model=name,
                    probability=float(answers[name][at, dataset.labels.index(finding.label)]),
                    heat=frame / top if top > 0 else frame,
                    peak=localisation.peak(frame),
                    hit=bool(scores[name].hits[at]) if finding.boxes else None,
                    predicted=dataset.labels[answers[name][at].argmax()] if exclusive else None,
                )
            )
        person = people.loc[finding.image_id]
        truth = [f"true class {label}" for label in dataset.labels if exclusive and person[LABEL_PREFIX + label] == 1]
        rows.append(gallery.Row(finding, images[at], ", ".join([*truth, *_facts(person)]), overlays))
    return rows


def _facts(person: Any) -> list[str]:
    age = f"{person['age']:.0f} years" if person["age"] == person["age"] else None
    return [fact for fact in (person["sex"], age, person["view"]) if isinstance(fact, str)]


if __name__ == "__main__":
    run_stage(main)
