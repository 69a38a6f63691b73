"""Hashes of the patients and images a model was trained on: enough to refuse testing it on them.

`train_ids.npz` lies beside a model's weights: `groups` and `images`, uint64 each, sorted and unique. Each image adds
two hashes to `groups`, of its group and of its patient (without a patient id: of its image id), because groups.csv may
join more images later while patients stay the same. The data set is hashed with them: patient 13 of one data set is not
patient 13 of another. `images` are hashes of ingested pixels.
"""

import functools
import hashlib
import operator
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medistill.checksums import TRAIN_AGAIN, reading
from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.layout import ModelFolder
from medistill.text import pluralise

FILE = ModelFolder(Path()).train_ids.name

_ANY_DATA = ("csv", "folder")
"""Formats of many data sets, whose ids are unique only together with the data set's name."""


class TrainIds(NamedTuple):
    """Sorted unique uint64 hashes of the groups and of the images that a model was trained on."""

    groups: np.ndarray
    images: np.ndarray

    def __or__(self, other: "TrainIds") -> "TrainIds":
        """The union of both."""
        return TrainIds(np.union1d(self.groups, other.groups), np.union1d(self.images, other.images))


NOTHING = TrainIds(np.empty(0, np.uint64), np.empty(0, np.uint64))
"""Empty ids, for a model of unknown provenance."""


def union(all_ids: Iterable[TrainIds]) -> TrainIds:
    """Everything that is in any of them."""
    return functools.reduce(operator.or_, all_ids, NOTHING)


def ids_of(dataset: Dataset, split: str) -> TrainIds:
    """The ids of one split: the first eight bytes of the SHA-256 of data set and group, and of the pixels."""
    rows = dataset.split(split)
    return TrainIds(np.unique(_groups(dataset, rows)), np.unique(_images(rows)))


def _groups(dataset: Dataset, rows: pd.DataFrame) -> np.ndarray:
    """Hashes of each image's group and of its patient (without a patient id: of the image id), uint64 (N, 2)."""
    origin = dataset.format + (f"\n{dataset.name}" if dataset.format in _ANY_DATA else "")
    person = rows["patient_id"].fillna(rows["image_id"])
    codes, names = pd.factorize(pd.concat([rows["group_id"], person]))
    return hash_names(origin, names)[codes].reshape(2, -1).T


def hash_names(origin: str, names: Iterable[str]) -> np.ndarray:
    """Hashes of patients, groups or image ids of a data set, uint64: the first eight bytes of a SHA-256 each.

    Args:
        origin: the data set: its format, and for a format of many data sets its name on the next line.
        names: as `ingest` writes them into the manifest.
    """
    digests = b"".join(hashlib.sha256(f"{origin}\n{name}".encode()).digest()[:8] for name in names)
    return np.frombuffer(digests, ">u8").astype("<u8")


def _images(rows: pd.DataFrame) -> np.ndarray:
    """Hashes of images' pixels, uint64 (N,)."""
    return np.frombuffer(bytes.fromhex("".join(digest[:16] for digest in rows["sha256"])), ">u8").astype("<u8")


def write_ids(file: Path, ids: TrainIds) -> None:
    """Write `train_ids.npz`, or a file of another name."""
    with open(file, "wb") as stream:  # numpy would add the suffix to a name without it
        np.savez(stream, groups=ids.groups, images=ids.images)


def read_ids(file: Path) -> TrainIds:
    """Read `train_ids.npz`.

    Raises:
        UserError: it is missing or damaged.
    """
    if not file.exists():
        raise UserError(f"{file}: no such file, so the model's training data are unknown; train it again")
    # opened here, since numpy leaves a damaged archive open
    with reading(file, TRAIN_AGAIN), open(file, "rb") as stream, np.load(stream, allow_pickle=False) as content:
        ids = TrainIds(content["groups"], content["images"])
    if any(part.dtype != np.uint64 or part.ndim != 1 for part in ids):
        raise UserError(f"{file}: damaged, it does not hold lists of ids; {TRAIN_AGAIN}")
    return ids


class Overlap(NamedTuple):
    """How many groups and images of a split a model was trained on."""

    split: str
    groups: int
    images: int


def overlaps(ids: TrainIds, dataset: Dataset) -> list[Overlap]:
    """What of val and of test is among `ids`; a split of which nothing is among them is not listed."""
    found = []
    for split in ("val", "test"):
        rows = dataset.split(split)
        seen = of_groups(ids, dataset, rows)
        groups, images = rows["group_id"][seen].nunique(), len(np.intersect1d(_images(rows), ids.images))
        if groups or images:
            found.append(Overlap(split, groups, images))
    return found


def of_groups(ids: TrainIds, dataset: Dataset, rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Which images are of a group or patient among `ids`: bool (N,).

    Args:
        ids: of a model.
        dataset: the data set.
        rows: N rows of its manifest.
    """
    return np.asarray(np.isin(_groups(dataset, rows), ids.groups).any(axis=1))


def of_pixels(ids: TrainIds, rows: pd.DataFrame) -> NDArray[np.bool_]:
    """Which images have the pixels of an image among `ids`: bool (N,); args as of `of_groups`."""
    return np.asarray(np.isin(_images(rows), ids.images))


def describe_overlaps(found: list[Overlap]) -> str:
    """`3 groups and 5 images of the test split`."""
    return " and ".join(
        f"{pluralise(groups, 'group')} and {pluralise(images, 'image')} of the {split} split"
        for split, groups, images in found
    )


def refuse_overlap(file: Path, dataset: Dataset) -> TrainIds:
    """Read `train_ids.npz`, and refuse a model that was trained on images or groups of the val or test split.

    Raises:
        UserError: it was, or the file is missing or damaged.
    """
    ids = read_ids(file)
    found = overlaps(ids, dataset)
    if found:
        raise UserError(
            f"{file}: the model was trained on {describe_overlaps(found)};"
            " it must not be evaluated on this split, nor teach students that are evaluated on it"
        )
    return ids
