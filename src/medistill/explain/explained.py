"""One model's answers about chosen findings: its maps, and the probabilities of all labels."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.explain.cam import grad_cam
from medistill.explain.selection import Finding
from medistill.layout import ModelFolder
from medistill.models.classifier import Classifier
from medistill.records.models import ModelRecord
from medistill.task import Calibration
from medistill.views import render_plain

BATCH = 8  # small, so that every network that could be trained can be explained


@dataclass(frozen=True)
class Explained:
    """One model's answers about N findings.

    Attributes:
        maps: float32 (N, h, w), Grad-CAM of each finding's label, unnormalised and ≥ 0.
        probabilities: float64 (N, L), of all labels in the data set's order.
    """

    maps: NDArray[np.float32]
    probabilities: NDArray[np.float64]


def explainable(
    folders: Mapping[str, ModelFolder], dataset: Dataset, *, teachers: Collection[str]
) -> tuple[dict[str, ModelFolder], dict[str, str]]:
    """Folder of each model that can be explained: a teacher that lacks a label or has no feature map is left out.

    Args:
        folders: of all models.
        dataset: its labels are explained.
        teachers: names of those that may know other labels.

    Returns:
        The folders; and of each model that is left out, why.

    Raises:
        UserError: a file is missing or damaged, a model was trained on images that it is explained on, or a student has
            other labels.
    """
    found, left_out = {}, {}
    for name, files in folders.items():
        record = ModelRecord.read_whole(files.config)
        provenance.refuse_overlap(files.train_ids, dataset)
        reason, labels = record.why_unexplained(dataset.labels), record.labels
        if reason and name in teachers:
            left_out[name] = reason
        elif labels != dataset.labels and name not in teachers:
            raise UserError(f"{files.config}: labels differ from the data set's; train it again with dvc repro")
        else:
            found[name] = files
    return found, left_out


def explain(
    model: Classifier,
    dataset: Dataset,
    findings: list[Finding],
    images: NDArray[np.uint8],
    on_maps: Callable[[int], object] = lambda count: None,
) -> Explained:
    """Compute a model's maps and probabilities for findings.

    Args:
        model: moved to a GPU where there is one, and put into evaluation mode; it knows all labels of the data set.
        dataset: its labels and task.
        findings: N labels on images.
        images: uint8 (N, C, S, S), the image of each finding.
        on_maps: called with the number of new maps.
    """
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    theirs = model.config["labels"]
    columns = [theirs.index(label) for label in dataset.labels]
    labels = np.array([theirs.index(finding.label) for finding in findings])
    maps, answers, calibration = [], [], Calibration(dataset.task)
    for start in range(0, len(findings), BATCH):
        here = slice(start, start + BATCH)
        cams, logits = grad_cam(model, render_plain(torch.from_numpy(images[here])), labels[here])
        maps.append(cams)
        answers.append(calibration.probabilities(logits[:, columns]))
        on_maps(len(cams))
    return Explained(np.concatenate(maps), np.concatenate(answers))
