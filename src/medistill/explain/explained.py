"""One model's answers about chosen findings: its maps, those that should not point at them, and probabilities."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.explain.cam import FloatArray, explain_by, has_layer
from medistill.explain.road import Drops, Removed, measure_drops
from medistill.explain.selection import Finding
from medistill.explain.ways import Way
from medistill.layout import ModelFolder
from medistill.models.classifier import Classifier
from medistill.models.weights import load_model
from medistill.records.models import ModelRecord
from medistill.task import Calibration
from medistill.views import render_plain

BATCH = 8  # small, so that every network that could be trained can be explained


@dataclass(frozen=True)
class Explained:
    """One model's answers about N findings.

    Attributes:
        way: how its maps are made; the layer is `last` where it has no other.
        maps: float32 (N, h, w), of each finding's label, unnormalised and ≥ 0.
        probabilities: float64 (N, L), of all labels in the data set's order.
        wrong_maps: float32 (M, h, w), of the first M findings: those of a label that the image does not have; NaN
            where it has all.
        random_maps: float32 (M, h, w): those of the same network with random weights.
        drops: of the probability where pixels are removed, of some of the findings.
    """

    way: Way
    maps: FloatArray
    probabilities: NDArray[np.float64]
    wrong_maps: FloatArray
    random_maps: FloatArray
    drops: Drops


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


def explain_each(
    folders: Mapping[str, ModelFolder],
    dataset: Dataset,
    findings: list[Finding],
    images: NDArray[np.uint8],
    way: Way,
    wrong: list[str | None],
    removed: Removed,
    on_maps: Callable[[int], object] = lambda count: None,
) -> dict[str, Explained]:
    """What `explain` says of the model of each folder, one after the other."""
    return {
        name: explain(load_model(files.folder), dataset, findings, images, way, wrong, removed, on_maps)
        for name, files in folders.items()
    }


def explain(
    model: Classifier,
    dataset: Dataset,
    findings: list[Finding],
    images: NDArray[np.uint8],
    way: Way,
    wrong: list[str | None],
    removed: Removed,
    on_maps: Callable[[int], object] = lambda count: None,
) -> Explained:
    """Compute a model's maps and probabilities for findings.

    Args:
        model: moved to a GPU where there is one, and put into evaluation mode; it knows all labels of the data set.
        dataset: its labels and task.
        findings: N labels on images.
        images: uint8 (N, C, S, S), the image of each finding.
        way: how maps are made.
        wrong: of the first M findings, a label that the image does not have, or None.
        removed: findings from whose images pixels are removed.
        on_maps: called with the number of new maps.
    """
    maps, logits = _maps(model, images, [finding.label for finding in findings], [way], on_maps)
    own = [finding.label for finding in findings[: len(wrong)]]
    others = [label or same for label, same in zip(wrong, own, strict=True)]
    wrong_maps = _maps(model, images[: len(own)], others, [way], on_maps)[0][way]
    wrong_maps[[label is None for label in wrong]] = np.nan
    random_maps = _maps(randomised(model), images[: len(own)], own, [way], on_maps)[0][way]
    columns = [model.config["labels"].index(label) for label in dataset.labels]
    probabilities = Calibration(dataset.task).probabilities(logits[:, columns])
    layer = way.layer if has_layer(model, way.layer) else "last"
    drops = measure_drops(model, dataset.task, dataset.labels, removed, maps[way][removed.rows])
    return Explained(Way(way.method, layer), maps[way], probabilities, wrong_maps, random_maps, drops)


def try_ways(
    model: Classifier,
    findings: list[Finding],
    images: NDArray[np.uint8],
    ways: Sequence[Way],
    on_maps: Callable[[int], object] = lambda count: None,
) -> dict[Way, FloatArray]:
    """A model's maps, float32 (N, h, w), of N findings by each way; arguments as of `explain`."""
    return _maps(model, images, [finding.label for finding in findings], ways, on_maps)[0]


def _maps(
    model: Classifier,
    images: NDArray[np.uint8],
    labels: Sequence[str],
    ways: Sequence[Way],
    on_maps: Callable[[int], object],
) -> tuple[dict[Way, FloatArray], FloatArray]:
    """Maps by way, and logits (N, L) of the model's own labels."""
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    indices = np.array([model.config["labels"].index(label) for label in labels], np.intp)
    found: dict[Way, list[FloatArray]] = {way: [] for way in ways}
    logits = []
    for start in range(0, len(labels), BATCH):
        here = slice(start, start + BATCH)
        maps, answers = explain_by(model, render_plain(torch.from_numpy(images[here])), indices[here], ways)
        logits.append(answers)
        for way in ways:
            found[way].append(maps[way])
        on_maps(len(answers))
    if not logits:
        return {way: np.zeros((0, 1, 1), np.float32) for way in ways}, np.zeros((0, 0), np.float32)
    return {way: np.concatenate(parts) for way, parts in found.items()}, np.concatenate(logits)


def randomised(model: Classifier) -> Classifier:
    """The same network with random weights, always the same ones (Adebayo et al., NeurIPS 2018: all layers)."""
    copied = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for module in copied.cpu().modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return copied
