"""What a model has been trained on, without its ids: enough to refuse a test of what it has seen.

`train_ids.npz` lies beside a model's weights: `groups` and `images`, uint64 each, sorted and unique. A group is hashed
together with the data set's format, since patient 13 of one data set is not patient 13 of another; an image is its
ingested pixels.
"""

import hashlib
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from medistill.data.dataset import Dataset
from medistill.errors import UserError

FILE = "train_ids.npz"


class TrainIds(NamedTuple):
    """Sorted unique uint64 hashes of the groups and of the images that a model was trained on."""

    groups: np.ndarray
    images: np.ndarray

    def __or__(self, other: "TrainIds") -> "TrainIds":
        """What either was trained on."""
        return TrainIds(np.union1d(self.groups, other.groups), np.union1d(self.images, other.images))


def ids_of(dataset: Dataset, split: str) -> TrainIds:
    """The ids of one split: the first eight bytes of the SHA-256 of format and group id, and of the pixels."""
    rows = dataset.split(split)
    names = pd.unique(rows["group_id"])
    groups = [hashlib.sha256(f"{dataset.format}\n{group}".encode()).digest()[:8] for group in names]
    images = [bytes.fromhex(digest[:16]) for digest in pd.unique(rows["sha256"])]
    return TrainIds(*(np.sort(np.frombuffer(b"".join(found), ">u8").astype("<u8")) for found in (groups, images)))


def write_ids(file: Path, ids: TrainIds) -> None:
    """Write `train_ids.npz`."""
    np.savez(file, groups=ids.groups, images=ids.images)


def read_ids(file: Path) -> TrainIds:
    """Read `train_ids.npz`.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        with np.load(file, allow_pickle=False) as content:
            return TrainIds(content["groups"], content["images"])
    except FileNotFoundError:
        raise UserError(f"{file}: no such file, so nobody knows what the model has seen; train it again") from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        raise UserError(f"{file}: damaged; train the model again") from None


class Overlap(NamedTuple):
    """How many groups and images of a side a model was trained on."""

    split: str
    groups: int
    images: int


def overlaps(ids: TrainIds, dataset: Dataset) -> list[Overlap]:
    """What of val and of test the owner of `ids` was trained on; a side of which it knows nothing is not listed."""
    found = []
    for split in ("val", "test"):
        held_out = ids_of(dataset, split)
        groups, images = (len(np.intersect1d(a, b)) for a, b in zip(ids, held_out, strict=True))
        if groups or images:
            found.append(Overlap(split, groups, images))
    return found


def refuse_overlap(file: Path, dataset: Dataset) -> TrainIds:
    """Read `train_ids.npz`, and refuse a model that was trained on images or groups of the val or test side.

    Raises:
        UserError: it was, or the file is missing or damaged.
    """
    ids = read_ids(file)
    found = overlaps(ids, dataset)
    if found:
        sides = " and ".join(
            f"{groups} groups and {images} images of the {split} side" for split, groups, images in found
        )
        raise UserError(f"{file}: the model was trained on {sides}; it cannot be judged there, nor teach who is")
    return ids
