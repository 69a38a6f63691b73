"""Which findings on which images are explained: chosen by a hash of the image id, never by how well a model does."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medistill.data.dataset import Dataset
from medistill.errors import UserError

Box = tuple[float, float, float, float]
"""x, y, w, h as fractions of the frame; x, y: top left."""

SIDES = ("val", "test")
"""Boxes on these sides are used; networks were fitted to the images of the training side."""


@dataclass(frozen=True)
class Finding:
    """One label on one image.

    Attributes:
        image_id: the image.
        label: the label's name.
        group_id: whom the image is of; the unit of the bootstrap.
        split: `val` or `test`.
        boxes: where the finding is; empty where the data set does not say.
        present: False where the label is known to be absent, or another class is the true one.
    """

    image_id: str
    label: str
    group_id: str
    split: str
    boxes: tuple[Box, ...] = ()
    present: bool = True


def boxed_findings(dataset: Dataset, max_images: int) -> list[Finding]:
    """Findings with boxes on validation and test images, never on training images.

    Args:
        dataset: the ingested data set.
        max_images: at most so many images, chosen by a hash of their ids.

    Returns:
        A finding for each (image, label) that has a box, with all its boxes; sorted by image id, then label.

    Raises:
        UserError: a box has a label that the data set does not have.
    """
    boxes = dataset.boxes()
    unknown = sorted(set(boxes["label"]) - set(dataset.labels))
    if unknown:
        raise UserError(f"{dataset.files.boxes}: label {unknown[0]!r} is not one of the data set's labels")
    sides = dataset.manifest.loc[dataset.manifest["split"].isin(SIDES), ["image_id", "group_id", "split"]]
    boxes = boxes.merge(sides, on="image_id")
    boxes = boxes[boxes["image_id"].isin(_by_hash(boxes["image_id"].unique())[:max_images])]
    findings = [
        Finding(image_id, label, rows["group_id"].iloc[0], rows["split"].iloc[0], tuple(_boxes(rows)))
        for (image_id, label), rows in boxes.groupby(["image_id", "label"])
    ]
    return sorted(findings, key=lambda f: (f.image_id, dataset.labels.index(f.label)))


def positive_findings(dataset: Dataset, max_images: int) -> list[Finding]:
    """Positive labels of test images, for data sets without boxes; chosen and sorted as `boxed_findings`."""
    rows, targets = _side(dataset, "test")
    chosen = set(_by_hash(rows["image_id"][(targets == 1).any(axis=1)])[:max_images])
    return [
        Finding(row.image_id, dataset.labels[k], row.group_id, row.split)
        for row, target in zip(rows.itertuples(), targets, strict=True)
        if row.image_id in chosen
        for k in np.flatnonzero(target == 1)
    ]


def absent_findings(dataset: Dataset, labels: list[str], count: int) -> list[Finding]:
    """At most `count` test images on which every label is known to be absent, each with one of `labels` in turn."""
    rows, targets = _side(dataset, "test")
    free = rows[(targets == 0).all(axis=1)].set_index("image_id")
    return [
        Finding(image_id, label, free.at[image_id, "group_id"], "test", present=False)
        for image_id, label in zip(_by_hash(free.index)[:count], cycle(labels), strict=False)
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
    rows, targets = _side(dataset, "test")
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
    """At most `count` findings on different images: one of each label in turn, in the order of the images' hashes."""
    order = {image_id: place for place, image_id in enumerate(_by_hash({f.image_id for f in findings}))}
    waiting = {
        label: sorted((f for f in findings if f.label == label), key=lambda f: order[f.image_id]) for label in labels
    }
    chosen: list[Finding] = []
    seen: set[str] = set()
    while len(chosen) < count and any(waiting.values()):
        for label in labels:
            waiting[label] = [f for f in waiting[label] if f.image_id not in seen]
            if waiting[label] and len(chosen) < count:
                chosen.append(waiting[label].pop(0))
                seen.add(chosen[-1].image_id)
    return sorted(chosen, key=lambda f: (labels.index(f.label), order[f.image_id]))


def _by_hash(image_ids: Iterable[str]) -> list[str]:
    return sorted(image_ids, key=lambda image_id: hashlib.sha256(image_id.encode()).digest())


def _boxes(rows: pd.DataFrame) -> list[Box]:
    return [(float(x), float(y), float(w), float(h)) for x, y, w, h in rows[["x", "y", "w", "h"]].to_numpy()]


def _side(dataset: Dataset, split: str) -> tuple[pd.DataFrame, np.ndarray]:
    rows = dataset.split(split)
    return rows, dataset.targets(rows)
