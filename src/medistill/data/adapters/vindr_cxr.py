"""VinDr-CXR, as PhysioNet ships it, or the part of it that Kaggle has (VinBigData Abnormalities Detection).

PhysioNet:

annotations/image_labels_train.csv     one row per image and reader: 1 or 0 in one column per label
annotations/image_labels_test.csv      one row per image: the consensus of five readers
annotations/annotations_train.csv, annotations_test.csv        one row per box; optional
train/<image_id>.dicom, test/<image_id>.dicom

Kaggle:

train.csv                              one row per image, reader and box: `class_name`, x_min, y_min, x_max, y_max
train/<image_id>.dicom                 and test/, whose labels Kaggle keeps to itself

Three readers labelled each image of the training part; `vote` combines them. `No finding` is not a label:
such an image has 0 everywhere. Boxes are in pixels of the DICOM files; where the images have been converted to another
size, the table of boxes needs the columns `width` and `height` of the original, as many copies on Kaggle have them.

There are no patient ids: an image is its own group.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medistill.data.reading.boxes import TWO_CORNERS, BoxColumns, upheld
from medistill.data.reading.folders import Files, find_files, list_images, require_folder, require_within
from medistill.data.reading.label_columns import read_flags
from medistill.data.reading.locate import by_stem
from medistill.data.reading.readers import Vote, vote
from medistill.data.reading.source import Source, no_boxes
from medistill.data.reading.tables import find_table, join_files, read_table, require_table
from medistill.errors import UserError
from medistill.records.data import LABEL_PREFIX
from medistill.settings import Settings
from medistill.task import Task

FINDINGS = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Clavicle fracture",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Nodule/Mass",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "Rib fracture",
    "Other lesion",
)
"""Labels with boxes."""

IMPRESSIONS = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other disease")
"""Labels of the whole image."""

KAGGLE = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
)
"""Labels of Kaggle's train.csv, in the order of its `class_id`."""

TABLE = "image_labels_{}.csv"
KAGGLE_TABLE = "train.csv"
NO_FINDING = "No finding"
DICOM = (".dicom", ".dcm")
CORNERS = {name: name for name in TWO_CORNERS}
SIZE = ("width", "height")


class Options(Settings):
    """The keys of `data.options`."""

    vote: Vote = "majority"
    """How the three readers of a training image vote; see `medistill.data.reading.readers.Vote`."""


def read(root: Path, options: Options) -> Source:
    """Join the tables with the files of a VinDr-CXR folder; no pixel is decoded.

    An image is one entry, however many readers and boxes it has. A box counts where the label that it shows is 1.

    Left out with a reason: images of a table whose file is missing, images that one reader calls both free of findings
    and abnormal (Kaggle), images that no table names.

    Raises:
        UserError: a table or column is missing, a reader has two rows of an image, a cell is neither 1 nor 0, a label
            is unknown, a box is invalid, or boxes are in pixels of DICOM files but the files are not DICOM.
    """
    root = require_folder(root)
    first = require_table(root, f"annotations/{TABLE.format('train')}", TABLE.format("train"), KAGGLE_TABLE)
    if first.name.removesuffix(".gz") == KAGGLE_TABLE:
        labels: tuple[str, ...] = KAGGLE
        parts = {"train": _read_kaggle(first, options)}
    else:
        labels = (*FINDINGS, *IMPRESSIONS)
        parts = {"train": _read_part(first, "train", options)}
        if test := find_table(first.parent, TABLE.format("test")):
            parts["test"] = _read_part(test, "test", options)
    for part in parts:
        require_within(root, part)
    files = find_files(root, parts)
    table = pd.concat([_with_files(part, name, files) for name, part in parts.items()], ignore_index=True)
    twice = table["image_id"].duplicated()
    if twice.any():
        raise UserError(f"{root}: image_id {table['image_id'][twice].iloc[0]} is in both label tables")
    names = " and ".join(part.file.name for part in parts.values())
    joined = join_files(table.drop(columns="wrong"), files, names, bad=table["wrong"])
    rows = joined.rows.assign(group_id=joined.rows["image_id"])
    boxes, notes = upheld(pd.concat([part.boxes for part in parts.values()]), rows)
    in_pixels = {part.in_pixels for part in parts.values() if len(part.boxes)}
    if len(in_pixels) > 1:
        raise UserError(f"{root}: only one table of boxes has the columns width and height; add them to the other")
    _require_dicom(parts.values(), rows, files)
    return Source(
        labels=list(labels),
        task=Task.MULTILABEL,
        rows=rows.drop(columns=["line", "image", "part"]),
        entries=joined.entries,
        quarantined=joined.quarantined,
        boxes=boxes,
        boxes_in="pixels" if True in in_pixels else "fractions",
        official=rows["part"] if "test" in parts else None,
        official_files=names if "test" in parts else TABLE.format("test"),
        unwanted=_count_unwanted(root) if "test" not in parts else {},
        notes=[note for part in parts.values() for note in part.notes] + notes,
    )


@dataclass(frozen=True)
class _Part:
    """The tables of the training or of the test part.

    Attributes:
        file: the table of labels.
        images: one row per image: `image_id`, `line`, `wrong` (why it cannot be used, else null), and its labels.
        boxes: `image_id`, `label`, `x`, `y`, `w`, `h`.
        boxes_file: the table of boxes.
        in_pixels: whether they are in pixels of the DICOM files.
        notes: sentences for the user.
    """

    file: Path
    images: pd.DataFrame
    boxes: pd.DataFrame
    boxes_file: Path
    in_pixels: bool
    notes: list[str]


def _read_part(file: Path, name: str, options: Options) -> _Part:
    """A part of PhysioNet's release."""
    readers: dict[str, tuple[str, ...]] = {"rad_id": ()} if name == "train" else {}
    others = {"Other disease": ("Other diseases",)}  # one in the training table, the other in that of the test
    labels = (*FINDINGS, *IMPRESSIONS)
    raw = read_table(file, {"image_id": ()} | readers | dict.fromkeys(labels, ()) | others)
    values = pd.DataFrame({LABEL_PREFIX + label: read_flags(raw, file, label) for label in labels})
    ids = _require_ids(raw, file, ["image_id", *readers])
    twice = raw.duplicated(["image_id", *readers])
    if twice.any():
        who = f" by {raw['rad_id'][twice].iloc[0]}" if readers else ""
        raise UserError(f"{file}: line {raw['line'][twice].iloc[0]}: a second row of image {ids[twice].iloc[0]}{who}")
    images, notes = values.assign(image_id=ids, line=raw["line"]), list[str]()
    if readers:
        images, notes = _merge(raw, values, options.vote)
    table = find_table(file.parent, f"annotations_{name}.csv")
    if table is None:
        notes = [*notes, f"annotations_{name}.csv is missing, so there are no boxes"]
        return _Part(file, images.assign(wrong=None), no_boxes(), file, False, notes)
    raw = read_table(table, {"image_id": (), "class_name": ()} | dict.fromkeys([*CORNERS, *SIZE], ()), optional=SIZE)
    boxes, in_pixels = _read_boxes(raw, table, FINDINGS)
    if len(boxes) and not boxes["image_id"].isin(ids).any():
        raise UserError(f"{table}: none of its images is in {file.name}; the first is {boxes['image_id'].iloc[0]}")
    return _Part(file, images.assign(wrong=None), boxes, table, in_pixels, notes)


def _read_kaggle(file: Path, options: Options) -> _Part:
    """The training part as Kaggle has it: labels and boxes in one table."""
    columns = dict.fromkeys(["image_id", "class_name", "rad_id", *CORNERS, *SIZE], ())
    raw = read_table(file, columns, optional=SIZE)
    _require_ids(raw, file, ["image_id", "rad_id"])
    unknown = ~raw["class_name"].isin([*KAGGLE, NO_FINDING])
    if unknown.any():
        line, name = raw["line"][unknown].iloc[0], raw["class_name"][unknown].iloc[0]
        raise UserError(f"{file}: line {line}: unknown class {name!r}; known are {', '.join(KAGGLE)} and {NO_FINDING}")
    values = {LABEL_PREFIX + label: (raw["class_name"] == label).astype(np.float32) for label in KAGGLE}
    images, notes = _merge(raw, pd.DataFrame(values), options.vote)
    free = (raw["class_name"] == NO_FINDING).groupby([raw["image_id"], raw["rad_id"]]).mean()
    torn = set(free.index[(free > 0) & (free < 1)].get_level_values("image_id"))
    wrong = f'a reader names both a finding and "No finding" for it ({file.name})'
    images["wrong"] = images["image_id"].map(dict.fromkeys(torn, wrong)).astype(object)
    boxes, in_pixels = _read_boxes(raw, file, KAGGLE)
    return _Part(file, images, boxes, file, in_pixels, notes)


def _require_ids(raw: pd.DataFrame, file: Path, columns: list[str]) -> pd.Series:
    """`image_id`; `UserError` if it or another of these columns is blank."""
    for column in columns:
        blank = raw[column] == ""
        if blank.any():
            raise UserError(f"{file}: line {raw['line'][blank].iloc[0]}: column {column!r} is empty")
    return raw["image_id"]


def _merge(raw: pd.DataFrame, values: pd.DataFrame, how: Vote) -> tuple[pd.DataFrame, list[str]]:
    """One row per image: `image_id`, the `line` of its first row, and the labels by vote of its readers."""
    verdict = vote(values, raw["image_id"], raw["rad_id"], how)
    lines = raw.groupby("image_id")["line"].first()
    return verdict.values.assign(line=lines).rename_axis("image_id").reset_index(), verdict.notes


def _read_boxes(raw: pd.DataFrame, file: Path, labels: tuple[str, ...]) -> tuple[pd.DataFrame, bool]:
    """The boxes of a table, and whether they are in pixels of the DICOM files."""
    in_pixels = bool((raw[list(SIZE)] == "").all(axis=None))  # no columns, or empty ones
    columns = BoxColumns.model_validate(CORNERS | ({} if in_pixels else {"size": list(SIZE)}))
    boxes = columns.read(raw, file)
    names = raw["class_name"][boxes.index]
    unknown = ~names.isin(labels)
    if unknown.any():
        line = raw["line"][boxes.index][unknown].iloc[0]
        raise UserError(
            f"{file}: line {line}: the box's label {names[unknown].iloc[0]!r} is unknown; known are {', '.join(labels)}"
        )
    return boxes.assign(image_id=raw["image_id"][boxes.index], label=names)[list(no_boxes().columns)], in_pixels


def _with_files(part: _Part, name: str, files: Files) -> pd.DataFrame:
    """The images of a part with `image`, the key of their file, and `part`, its name."""
    stems = by_stem(files, name, DICOM)
    image = [stems.get(image_id, f"{name}/{image_id}{DICOM[0]}") for image_id in part.images["image_id"]]
    line = part.images["line"].astype(str) + f" of {part.file.name}"
    return part.images.assign(image=image, part=name, line=line)


def _require_dicom(parts: Iterable[_Part], rows: pd.DataFrame, files: Files) -> None:
    """Raise `UserError` if boxes are in pixels of DICOM files but the files are not DICOM."""
    for part in parts:
        boxed = rows["path"][rows["image_id"].isin(part.boxes["image_id"])]
        other = boxed[~boxed.str.lower().str.endswith(DICOM) & ~boxed.isin(files.dicom)]
        if part.in_pixels and len(other):
            raise UserError(
                f"{part.boxes_file}: boxes are in pixels of the original DICOM file, but {other.iloc[0]} is not a"
                " DICOM file; add columns width and height with the size of the original to the table"
            )


def _count_unwanted(root: Path) -> dict[str, int]:
    """Images of the test part, which have no labels."""
    count = len(list_images(find_files(root, ["test"]))[0]) if (root / "test").is_dir() else 0
    return {"images of test/, whose labels are not there": count} if count else {}
