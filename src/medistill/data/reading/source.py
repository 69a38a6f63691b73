"""What every adapter returns."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from medistill.data.reading.folders import compose
from medistill.errors import UserError
from medistill.records.data import LABEL_PREFIX
from medistill.task import Task

DETAILS = ("patient_id", "study_id", "view", "sex", "source", "mask", "lungs")
"""Text columns that an adapter may leave out of `Source.rows`; they are then null."""

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev", "development", "tune", "tuning"), "val"),
    **dict.fromkeys(("test", "testing", "holdout", "heldout"), "test"),
}
"""Data sets' names of splits -> the split; see `split_of`."""


def split_of(name: str) -> str | None:
    """`train`, `val` or `test` by any of its names (`Training`, `validate`, `hold-out`); None for another word."""
    return SPLIT_NAMES.get(re.sub(r"[\s_-]", "", name).lower())


def no_boxes() -> pd.DataFrame:
    """The boxes of a data set without boxes."""
    columns = dict.fromkeys(["image_id", "label"], "str") | dict.fromkeys(["x", "y", "w", "h"], "float64")
    return pd.DataFrame({column: pd.Series(dtype=dtype) for column, dtype in columns.items()})


@dataclass(frozen=True)
class Source:
    """What an adapter knows of a data set before any pixel is decoded.

    Attributes:
        labels: label names, in the order of every logit vector.
        task: whether its labels exclude each other.
        rows: one row per image, `image_id` unique. Columns `image_id`, `path` (relative to the root, POSIX), `group_id`
            (never null: patient, else source picture, else image), a float32 column `label:<Name>` each (1, 0, NaN
            where unknown), and, where known, `age` (float, years) and the text columns of `DETAILS`: `source` is the
            scanner, hospital or collection that an image comes from, `mask` the path of a picture of the findings,
            `lungs` of one of the lungs.
        entries: rows of the label table plus image files that no row names: each is in `rows` or in `quarantined`. Rows
            that only add a box or a reader's answer to an image are one entry.
        quarantined: `(path, reason)` of every entry that is left out.
        boxes: `image_id`, `label`, `x`, `y`, `w`, `h` of the upright source image; x, y: top left.
        boxes_in: their unit: `fractions` of that image, or its `pixels`.
        official: the data set's own split of `rows`, same index: `train`, `val`, `test`, null for an image in none;
            None where the data set has none.
        official_files: what the official split is read from, for messages.
        copies: the data set holds augmented copies of its pictures and `rows` do not say of which: `group_id` must be
            found before anything can be split.
        unwanted: what an option excludes, such as `lateral views (views: frontal)` -> number of rows or images, which
            are not among `entries`.
        notes: further sentences for the user on how the tables were read.
    """

    labels: list[str]
    task: Task
    rows: pd.DataFrame
    entries: int
    quarantined: list[tuple[str, str]]
    boxes: pd.DataFrame = field(default_factory=no_boxes)
    boxes_in: Literal["fractions", "pixels"] = "fractions"
    official: pd.Series | None = None
    official_files: str = "lists of an official split"
    copies: bool = False
    unwanted: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def collect_labels(names: Iterable[str], where: str, *, least: int = 2, advice: str = "") -> list[str]:
    """Labels of a data set that has no list of them, from the labels of its images: sorted, each once.

    Args:
        names: on the images.
        where: their place, for messages.
        least: fewer are an error; a single-label task needs two.
        advice: what to do about too few, added to the message.

    Raises:
        UserError: there are too few, or two that differ only in case or in how Unicode spells them.
    """
    labels = sorted(set(names))
    if len(labels) < least:
        there = " and ".join(labels) or "none"
        raise UserError(f"{where}: {least} or more labels are needed, but found {there}{advice}")
    spelt: dict[str, str] = {}
    for label in labels:
        other = spelt.setdefault(compose(label).casefold(), label)
        if other != label and compose(other) == compose(label):  # they look alike: shown as code points
            raise UserError(f"{where}: {other!a} and {label!a} are the same name in two Unicode forms; use one of them")
        if other != label:
            raise UserError(f"{where}: {other!r} and {label!r} differ only in case; give them one name")
    return labels


def one_hot(classes: pd.Series, labels: list[str]) -> pd.DataFrame:
    """Label columns of single-label data: float32, 1 for an image's class, 0 for the others, NaN where it is unknown.

    Args:
        classes: str (N,), one of `labels` each, or null where unknown.
        labels: their order.
    """
    known = classes.notna()
    columns = {LABEL_PREFIX + label: (classes == label).astype(np.float32).where(known) for label in labels}
    return pd.DataFrame(columns, index=classes.index)
