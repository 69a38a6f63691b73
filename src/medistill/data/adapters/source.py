"""What every adapter returns."""

from dataclasses import dataclass
from pathlib import PurePosixPath

import pandas as pd


@dataclass(frozen=True)
class Source:
    """What an adapter knows of a data set before any pixel is decoded.

    Attributes:
        labels: label names, in the order of every logit vector.
        task: `multilabel` or `multiclass`.
        rows: a row an image, `image_id` unique. Columns `image_id`, `path` (relative to the root, POSIX), `group_id`
            (never null: patient, else image), `patient_id`, `study_id`, `view`, `sex` (str, null where unknown), `age`
            (float, years, NaN where unknown), and a float32 column `label:<Name>` each: 1, 0, NaN where unknown.
        boxes: `image_id`, `label`, `x`, `y`, `w`, `h` as fractions of the upright source image; x, y: top left.
        official: the data set's own split of `rows`, same index: `train`, `test`, null for an image in neither; None
            where the data set's lists are not there.
        official_files: the files that hold the official split, for messages.
        entries: rows of the label file plus image files that no row names: each is in `rows` or in `quarantined`.
        quarantined: `(path, reason)` of every entry that is left out.
    """

    labels: list[str]
    task: str
    rows: pd.DataFrame
    boxes: pd.DataFrame
    official: pd.Series | None
    official_files: str
    entries: int
    quarantined: list[tuple[str, str]]


def is_image_name(name: str) -> bool:
    """Whether a file that no row names is worth a line in the quarantine, unlike `Thumbs.db` and the like."""
    return PurePosixPath(name).suffix.lower() in {
        ".png",
        ".jpg",
        ".jpeg",
        ".jp2",
        ".tif",
        ".tiff",
        ".bmp",
        ".gif",
        ".webp",
    }
