"""What `ingest` writes: dataset.json, and the columns of its tables."""

from typing import Annotated

from pydantic import Field

from medistill.records.base import Content, KnownTask, Record

SPLITS = ("train", "val", "test")

MANIFEST_COLUMNS = (
    "image_id",
    "path",
    "shard",
    "row",
    "group_id",
    "patient_id",
    "study_id",
    "split",
    "view",
    "sex",
    "age",
    "source",
    "mask_row",
    "lung_row",
    "width",
    "height",
    "sha256",
)
"""Of manifest.parquet, one row per image; the labels' columns follow."""

LABEL_PREFIX = "label:"
"""Of the manifest's columns, one per label: 1, 0, or NaN where unknown."""

UNLABELLED = "unlabelled//"
"""Begins the id and the path of an image of the folder `data.unlabelled`. None of the data set begins like this: in its
paths a single slash stands between two names."""

BOX_NUMBERS = ("x", "y", "w", "h")
BOX_COLUMNS = ("image_id", "label", *BOX_NUMBERS)
"""Of boxes.parquet, one row per box: top left, width and height as fractions of the frame."""

QUARANTINE_COLUMNS = ("path", "reason")
"""Of quarantine.csv, one row per entry of the source that was left out."""


class Origin(Content):
    """From what a data set was read.

    Neither the root nor settings that only decide whether ingest stops: who moves the data need not train again.

    Attributes:
        format: as `data.format` named it.
        split: as `data.split` said.
    """

    format: str
    split: str


class SplitCounts(Content):
    """How much is in one split; positives and negatives by label."""

    images: int
    groups: int
    positives: dict[str, int]
    negatives: dict[str, int]


class UnlabelledFolder(Content):
    """What came from the folder `data.unlabelled`.

    Attributes:
        folder: its name, without the folders it lies in; empty where there are no images.
        images: number of its images, all in the train split.
        copies: number of images that were left out because the train split has the same pixels already.
    """

    folder: str = ""
    images: int = 0
    copies: int = 0


class DatasetInfo(Record):
    """dataset.json: what an ingested data set is.

    Attributes:
        name: shown in reports.
        task: `multilabel` or `multiclass`.
        labels: label names, in the order of every logit vector.
        image_size: height and width of the frames in pixels.
        channels: 1 or 3.
        fit: how frames were made square (`pad`, `squash`, `crop`).
        fingerprint: changes when pixels, labels or splits change.
        source: from what it was read.
        boxes: number of boxes.
        entries: number of entries of the source; each is in the manifest or in the quarantine.
        quarantined: number of entries that were left out.
        counts: by split.
        notes: what the user should know of how it was read, a sentence each.
        unlabelled: the images of `data.unlabelled`.
    """

    name: str
    task: KnownTask
    labels: list[str]
    image_size: int
    channels: int
    fit: str
    fingerprint: str
    source: Origin
    boxes: int
    entries: int
    quarantined: int
    counts: dict[str, SplitCounts]
    notes: list[str] = []
    unlabelled: UnlabelledFolder = UnlabelledFolder()


class BlockRecord(Record):
    """index.json of a block of decoded frames in the cache of `ingest`.

    Attributes:
        images: key, width and height of the upright source image in pixels, one per frame.
    """

    images: list[Annotated[tuple[str, int, int], Field(strict=False)]]
