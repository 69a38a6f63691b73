"""The findings that are explained: chosen by a hash of the image id, never by a model's result."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.evaluation.predictions import align, read_logits
from medistill.explain.settings import Explain
from medistill.metrics.eligibility import MIN_GROUPS
from medistill.text import by_hash

Box = tuple[float, float, float, float]
"""x, y, w, h as fractions of the frame; x, y: top left."""


_MASKS_AT_ONCE = 256


@dataclass(frozen=True)
class Finding:
    """One label on one image.

    Attributes:
        image_id: the image.
        label: the label's name.
        group_id: the image's group; the unit of the bootstrap.
        split: `val` or `test`.
        boxes: where the finding is; empty without boxes.
        mask: bool (S, S), where it is in a data set with masks; None without one.
        present: False where the label is known to be absent, or another class is the true one.
    """

    image_id: str
    label: str
    group_id: str
    split: str
    boxes: tuple[Box, ...] = ()
    present: bool = True
    mask: NDArray[np.bool_] | None = field(default=None, compare=False)

    @property
    def located(self) -> bool:
        """Whether it is known where the finding is."""
        return bool(self.boxes) or self.mask is not None


@dataclass(frozen=True)
class Chosen:
    """The findings that are explained: those that are measured, then those that are only shown.

    Attributes:
        deciding: findings of validation images by which the way to make maps is chosen; empty where there is no choice.
        measured: findings that are present.
        absent: labels that are absent, or classes that an image is taken for, each on another image.
        removed: indices of the measured findings from whose images pixels are removed, one of each image.
        located: whether the measured findings have boxes or masks.
    """

    deciding: list[Finding]
    measured: list[Finding]
    absent: list[Finding]
    removed: list[int]
    located: bool

    @property
    def findings(self) -> list[Finding]:
        """All, the measured ones first."""
        return self.measured + self.absent


def wrong_labels(findings: list[Finding], dataset: Dataset) -> list[str | None]:
    """For each finding a label that its image is known to lack, chosen by a hash; None where it has all others."""
    rows = dataset.manifest.set_index("image_id").loc[[finding.image_id for finding in findings]]
    chosen: list[str | None] = []
    for finding, target in zip(findings, dataset.targets(rows.reset_index()), strict=True):
        absent = [label for label, value in zip(dataset.labels, target, strict=True) if value == 0]
        name = f"{finding.image_id}\0{finding.label}".encode()
        chosen.append(absent[int.from_bytes(hashlib.sha256(name).digest()[:8]) % len(absent)] if absent else None)
    return chosen


def images_of(findings: list[Finding], dataset: Dataset) -> NDArray[np.uint8]:
    """The image of each finding: uint8 (N, C, S, S)."""
    rows = dataset.manifest.set_index("image_id").loc[[finding.image_id for finding in findings]]
    return dataset.images(rows.reset_index())


def choose(dataset: Dataset, explain: Explain, predictions: Mapping[str, Path]) -> Chosen:
    """Choose the findings by which maps are chosen, those that are measured, and those that are absent.

    Boxes or masks on validation images choose if these are of enough groups and there are some on test images; else
    all are measured. Those on training images are of no use, since networks were fitted to these images.

    Args:
        dataset: the ingested data set.
        explain: how many images at most.
        predictions: file of each model's logits; read where classes are exclusive.

    Raises:
        UserError: there is nothing to explain, or a box has a label that the data set does not have.
    """
    deciding = located_findings(dataset, explain.max_images, ["val"])
    located = located_findings(dataset, explain.max_images, ["test"])
    if not located or not explain.undecided or len({finding.group_id for finding in deciding}) < MIN_GROUPS:
        deciding, located = [], located_findings(dataset, explain.max_images, ["val", "test"])
    measured = located or positive_findings(dataset, explain.max_images)
    if not measured:
        raise UserError(
            f"{dataset.folder}: neither a box nor a mask nor a test image with a positive label; change data.split"
        )
    labels = [label for label in dataset.labels if any(finding.label == label for finding in measured)]
    few = explain.gallery // 4
    if dataset.task.exclusive:  # no image lacks all classes, but it may be taken for a wrong one
        absent = mistaken_findings(dataset, _predicted_classes(dataset, predictions), labels, few)
    else:
        absent = absent_findings(dataset, labels, few)
    removed = [measured.index(finding) for finding in spread(measured, dataset.labels, explain.images)]
    return Chosen(deciding, measured, absent, removed, bool(located))


def _predicted_classes(dataset: Dataset, predictions: Mapping[str, Path]) -> dict[str, NDArray[np.intp]]:
    """The class that each model names on each test image: indices (N,)."""
    image_ids = dataset.split("test")["image_id"]
    return {
        name: align(read_logits(path, name, dataset.labels), "test", image_ids, path, name).argmax(axis=1)
        for name, path in predictions.items()
    }


def located_findings(dataset: Dataset, max_images: int, splits: list[str]) -> list[Finding]:
    """Findings with boxes on the images of some splits; if there are none, those with masks.

    Arguments, order and errors as of `boxed_findings`.
    """
    return boxed_findings(dataset, max_images, splits) or masked_findings(dataset, max_images, splits)


def masked_findings(dataset: Dataset, max_images: int, splits: list[str]) -> list[Finding]:
    """Images with a mask, which is not empty, and with exactly one positive label, whose finding the mask then shows.

    Arguments and order as of `boxed_findings`.
    """
    if "mask_row" not in dataset.manifest:
        return []
    rows = dataset.manifest[dataset.manifest["split"].isin(splits) & (dataset.manifest["mask_row"] >= 0)]
    rows = rows[(dataset.targets(rows) == 1).sum(axis=1) == 1].set_index("image_id")
    findings: list[Finding] = []
    waiting = by_hash(rows.index)
    while waiting and len(findings) < max_images:
        some = rows.loc[waiting[:_MASKS_AT_ONCE]].reset_index()
        waiting = waiting[_MASKS_AT_ONCE:]
        labels = np.nanargmax(dataset.targets(some), axis=1)
        findings += [
            Finding(image_id, dataset.labels[label], group_id, split, mask=mask)
            for image_id, group_id, split, label, mask in zip(
                some["image_id"], some["group_id"], some["split"], labels, dataset.masks(some), strict=True
            )
            if mask.any()
        ]
    return sorted(findings[:max_images], key=lambda finding: finding.image_id)


def boxed_findings(dataset: Dataset, max_images: int, splits: list[str]) -> list[Finding]:
    """Findings with boxes on the images of some splits.

    Args:
        dataset: the ingested data set.
        max_images: at most so many images, chosen by a hash of their ids.
        splits: `val`, `test`, or both.

    Returns:
        One finding per (image, label) that has a box, with all its boxes; sorted by image id, then label.

    Raises:
        UserError: a box has a label that the data set does not have.
    """
    boxes = dataset.boxes()
    unknown = sorted(set(boxes["label"]) - set(dataset.labels))
    if unknown:
        raise UserError(f"{dataset.files.boxes}: label {unknown[0]!r} is not one of the data set's labels")
    rows = dataset.manifest.loc[dataset.manifest["split"].isin(splits), ["image_id", "group_id", "split"]]
    boxes = boxes.merge(rows, on="image_id")
    boxes = boxes[boxes["image_id"].isin(by_hash(boxes["image_id"].unique())[:max_images])]
    findings = [
        Finding(str(image_id), str(label), rows["group_id"].iloc[0], rows["split"].iloc[0], tuple(_boxes(rows)))
        for (image_id, label), rows in boxes.groupby(["image_id", "label"])
    ]
    return sorted(findings, key=lambda f: (f.image_id, dataset.labels.index(f.label)))


def positive_findings(dataset: Dataset, max_images: int) -> list[Finding]:
    """Positive labels of test images, for data sets without boxes; chosen and sorted as `boxed_findings`."""
    rows, targets = _test_rows(dataset)
    chosen = set(by_hash(rows["image_id"][(targets == 1).any(axis=1)])[:max_images])
    return [
        Finding(image_id, dataset.labels[k], group_id, split)
        for image_id, group_id, split, target in zip(
            rows["image_id"], rows["group_id"], rows["split"], targets, strict=True
        )
        if image_id in chosen
        for k in np.flatnonzero(target == 1)
    ]


def absent_findings(dataset: Dataset, labels: list[str], count: int) -> list[Finding]:
    """At most `count` test images on which every label is known to be absent, each with one of `labels` in turn."""
    rows, targets = _test_rows(dataset)
    free = rows[(targets == 0).all(axis=1)].set_index("image_id")
    return [
        Finding(image_id, label, free.at[image_id, "group_id"], "test", present=False)
        for image_id, label in zip(by_hash(free.index)[:count], cycle(labels), strict=False)
    ]


def mistaken_findings(
    dataset: Dataset, predicted: Mapping[str, NDArray[np.integer]], labels: list[str], count: int
) -> list[Finding]:
    """At most `count` test images that a model takes for another class, each with the class that it is taken for.

    For exclusive classes, where no image lacks all of them. Chosen as by `spread`.

    Args:
        dataset: the ingested data set.
        predicted: the class that each model names, (N,) indices, rows as in the test split.
        labels: the classes that may be shown.
        count: findings at most.
    """
    rows, targets = _test_rows(dataset)
    places = np.arange(len(rows))
    wrong = {
        (int(place), int(classes[place]))
        for classes in predicted.values()
        for place in np.flatnonzero(targets[places, classes] == 0)
    }
    findings = [
        Finding(rows["image_id"][place], dataset.labels[k], rows["group_id"][place], "test", present=False)
        for place, k in sorted(wrong)
    ]
    return spread(findings, labels, count)


def spread(findings: list[Finding], labels: list[str], count: int) -> list[Finding]:
    """The first `count` of `in_turn`, in the order of their labels."""
    return sorted(in_turn(findings, labels)[:count], key=lambda finding: labels.index(finding.label))


def in_turn(findings: list[Finding], labels: list[str]) -> list[Finding]:
    """Findings on different images: one of each label in turn, in the order of the images' hashes."""
    order = {image_id: place for place, image_id in enumerate(by_hash({f.image_id for f in findings}))}
    waiting = {
        label: sorted((f for f in findings if f.label == label), key=lambda f: order[f.image_id]) for label in labels
    }
    chosen: list[Finding] = []
    seen: set[str] = set()
    while any(waiting.values()):
        for label in labels:
            waiting[label] = [f for f in waiting[label] if f.image_id not in seen]
            if waiting[label]:
                chosen.append(waiting[label].pop(0))
                seen.add(chosen[-1].image_id)
    return chosen


def _boxes(rows: pd.DataFrame) -> list[Box]:
    return [(float(x), float(y), float(w), float(h)) for x, y, w, h in rows[["x", "y", "w", "h"]].to_numpy()]


def _test_rows(dataset: Dataset) -> tuple[pd.DataFrame, np.ndarray]:
    rows = dataset.split("test")
    return rows, dataset.targets(rows)
