"""NIH ChestX-ray14, as NIH and Kaggle ship it.

Data_Entry_2017_v2020.csv or Data_Entry_2017.csv     labels, patients, views, ages (the newer file wins);
                                                     sample_labels.csv in Kaggle's sample
BBox_List_2017.csv                                   boxes of some images; optional
train_val_list.txt, test_list.txt                    the official split; needed for `data.split: official`
images/*.png, or images_001/images/*.png ...         flat, or as Kaggle unpacks the twelve archives

Tables and lists may be packed by gzip: `Data_Entry_2017_v2020.csv.gz`.
"""

import math
import re
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from medistill.data.reading.folders import Files, find_files, is_image_name, require_folder, suggest_root
from medistill.data.reading.source import Source, no_boxes
from medistill.data.reading.tables import (
    ages,
    describe_instead,
    find_table,
    identifiers,
    join_files,
    read_fields,
    read_header,
    read_table,
    read_text,
    require_filled,
    require_no_more,
)
from medistill.errors import UserError
from medistill.nih import BOX_FRAME, LABELS
from medistill.records.data import LABEL_PREFIX
from medistill.settings import Settings
from medistill.task import Task

NO_FINDING = "No Finding"
"""Excludes all labels; not a label itself: such an image has 0 everywhere."""

LABEL_FILES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv", "sample_labels.csv")
BOX_FILE = "BBox_List_2017.csv"
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}

_BOX_FIELDS = 6  # image, label, x, y, w, h

SAMPLE_FOLDERS = ("sample/images", "sample/sample/images")

COLUMNS = {
    "Image Index": (),
    "Finding Labels": (),
    "Patient ID": (),
    "Patient Age": (),
    "Patient Gender": ("Patient Sex",),
    "View Position": (),
}


class Options(Settings):
    """The keys of `data.options`."""

    lists: Literal["official", "chexnet"] = "official"
    """The split of `data.split: official`: NIH's own lists, or those of the CheXNet reproductions, `train_list.txt`,
    `val_list.txt` and `test_list.txt` with 14 labels per line, in the folder `chexnet` or, with the prefix `chexnet_`,
    beside the label file. Their splits overlap with NIH's: 70 % of NIH's test images train there."""


def read(root: Path, options: Options) -> Source:
    """Join labels, lists, boxes and files of a ChestX-ray14 folder; no pixel is decoded.

    Left out with a reason: rows whose file is missing, rows that repeat an image (all of them where they contradict
    each other), rows without a label or with `No Finding` beside one, images that no row names.

    Raises:
        UserError: a file or column is missing, a label is unknown, a box is not four numbers or lies outside of
            the image, no box is of an image in the table, an image is in two lists; the message names file and row.
    """
    root = require_folder(root)
    label_file = find_table(root, *LABEL_FILES)
    if label_file is None:
        names = ", ".join(LABEL_FILES[:-1]) + f" or {LABEL_FILES[-1]}"
        advice = suggest_root(root, lambda folder: find_table(folder, *LABEL_FILES) is not None)
        advice = describe_instead(root, "data_entry", "sample_labels") or advice or "; data.root must hold one of them"
        raise UserError(f"{root}: none of {names} is there{advice}")
    table = read_table(label_file, COLUMNS)
    table = table.set_axis(["image", "labels", "patient", "age", "sex", "view", "line"], axis=1)
    table["patient"] = identifiers(table["patient"], label_file, "Patient ID").fillna("")
    columns, values = _parse_labels(table, label_file)
    unclear = pd.Series(None, index=table.index, dtype=object)
    for row in np.flatnonzero(np.isnan(values).any(axis=1)).tolist():
        line, combination = table["line"][row], table["labels"][row]
        unclear[row] = f"line {line} of {label_file.name} has the contradictory or empty labels {combination!r}"
    table = pd.concat([table, pd.DataFrame(values, columns=columns, index=table.index)], axis=1)
    table["age"], notes = ages(table["age"], "Patient Age")
    joined = join_files(table, _find_images(root), label_file.name, bad=unclear, missing="images/{image}")
    rows = _describe(joined.rows)
    official, official_files = _read_split(root, rows["image_id"], options)
    return Source(
        labels=list(LABELS),
        task=Task.MULTILABEL,
        rows=rows,
        boxes=_read_boxes(find_table(root, BOX_FILE), rows["image_id"], table["image"]),
        official=official,
        official_files=official_files,
        entries=joined.entries,
        quarantined=joined.quarantined,
        notes=notes,
    )


def _parse_labels(table: pd.DataFrame, path: Path) -> tuple[list[str], np.ndarray]:
    """Names of the label columns, and float32 (N, 14) of 1 and 0; a row is NaN where its labels are empty or contradict
    each other.
    """
    codes, combinations = pd.factorize(table["labels"])
    vectors = np.zeros((len(combinations), len(LABELS)), np.float32)
    for number, combination in enumerate(combinations):
        names = [name.strip() for name in combination.split("|")]
        for name in names:
            if name not in LABELS and name not in (NO_FINDING, ""):
                first = table.iloc[int(np.argmax(codes == number))]
                raise UserError(
                    f"{path}: line {first['line']} ({first['image']}): unknown label {name!r};"
                    f" known are {', '.join(LABELS)} and {NO_FINDING}"
                )
        vectors[number, [LABELS.index(name) for name in names if name in LABELS]] = 1
        if "" in names or (NO_FINDING in names and len(set(names)) > 1):
            vectors[number] = np.nan
    return [LABEL_PREFIX + label for label in LABELS], vectors[codes]


def _find_images(root: Path) -> Files:
    folders = ["images"] if (root / "images").is_dir() else []
    folders += sorted(folder.relative_to(root).as_posix() for folder in root.glob("images_*/images") if folder.is_dir())
    folders = folders or [folder for folder in SAMPLE_FOLDERS if (root / folder).is_dir()][:1]
    if not folders:
        raise UserError(f"{root}: no folder images/ or images_001/images/ in it; unpack the images there")
    return find_files(root, folders, by="name")


def patient_of(path: str) -> str | None:
    """The patient of an image that has its name from NIH, `00000013_005.png`; None for another name."""
    match = re.fullmatch(r"([0-9]{8})_[0-9]{3}\.\w+", path.rpartition("/")[2])
    return match[1].lstrip("0") or None if match else None


def read_list(file: Path) -> pd.DataFrame:
    """Images and patients of a published list: one name per line, or a table with `Image Index`, perhaps `Patient ID`.

    Without that column patients are those of the names.

    Raises:
        UserError: the file or a column is missing, a row has no image, or no patient can be told.
    """
    if is_image_name("".join(read_header(file)[0].split()[:1])):
        listed = pd.DataFrame(_read_list(file, labels=len(LABELS)), columns=["line", "image_id"])
        patient = pd.Series("", index=listed.index)
    else:
        listed = read_table(file, COLUMNS, optional=set(COLUMNS) - {"Image Index"})
        require_filled(listed, file, "Image Index")
        patient = identifiers(listed["Patient ID"], file, "Patient ID").fillna("")
        listed = listed.rename(columns={"Image Index": "image_id"})
    by_name = listed["image_id"].map(patient_of)
    if (patient == "").all() and by_name.isna().any():
        line, image = listed[["line", "image_id"]][by_name.isna()].iloc[0]
        raise UserError(
            f"{file}: line {line}: {image!r} has no name of NIH's such as 00000013_005.png, so its patient is unknown;"
            " give a table with the columns Image Index and Patient ID"
        )
    return listed[["image_id"]].assign(patient_id=_patients(patient).fillna(by_name))


def _patients(cells: pd.Series) -> pd.Series:
    """Patients as ids, null where a cell is empty: 00000013 and 13 are one."""
    patient = cells.str.lstrip("0").where(cells.str.fullmatch("0*[1-9][0-9]*"), cells)
    return patient.where(patient != "", None)


def _describe(table: pd.DataFrame) -> pd.DataFrame:
    patient = _patients(table["patient"])
    rows = pd.DataFrame(
        {
            "image_id": table["image"],
            "path": table["path"],
            "group_id": patient.fillna(table["image"]),
            "patient_id": patient,
            "view": table["view"].str.upper().where(table["view"] != "", None),
            "sex": table["sex"].str.upper().where(table["sex"] != "", None),
            "age": table["age"],
        }
    )
    return pd.concat([rows, table.filter(like=LABEL_PREFIX)], axis=1)


def _read_boxes(path: Path | None, image_ids: pd.Series, listed: pd.Series) -> pd.DataFrame:
    """Boxes of the images in `image_ids` as fractions; boxes of other images are dropped.

    `listed`: the images of the label table. Boxes may reach beyond the image.
    """
    if path is None:
        return no_boxes()
    # The header `Bbox [x,y,w,h],,,` is nine fields, rows have six or nine: read by place
    (_, header), *rows = read_fields(path)
    for place, column in enumerate(("Image Index", "Finding Label", "Bbox [x")):
        if len(header) <= place or re.sub(r"\W", "", header[place]).lower() != re.sub(r"\W", "", column).lower():
            raise UserError(f"{path}: column {column!r} is missing; the header is {','.join(header)}")
    boxes = []
    for line, row in rows:
        image, label, *numbers = [*row, *[""] * _BOX_FIELDS][:_BOX_FIELDS]
        label = "Infiltration" if label == "Infiltrate" else label
        where = f"{path}: line {line} ({image})"
        require_no_more(
            row,
            _BOX_FIELDS,
            where,
            "a row of boxes is image, label, x, y, w, h; quote numbers with a decimal comma, such as 225,5",
        )
        if label not in LABELS:
            raise UserError(f"{where}: unknown label {label!r}; known are {', '.join(LABELS)}")
        try:
            x, y, w, h = (float(number.replace(",", ".")) / BOX_FRAME for number in numbers)
        except ValueError:
            x = y = w = h = math.nan
        if not (math.isfinite(x + y) and 0 < w < math.inf and 0 < h < math.inf):
            given = ", ".join(map(repr, numbers))
            raise UserError(f"{where}: x, y, w, h must be numbers, w and h positive, not {given}")
        if x >= 1 or y >= 1 or x + w <= 0 or y + h <= 0:
            given = ", ".join(numbers)
            raise UserError(f"{where}: the box {given} lies outside of the image of {BOX_FRAME} x {BOX_FRAME} pixels")
        boxes.append((image, label, x, y, w, h))
    if boxes and not listed.isin([image for image, *_ in boxes]).any():
        raise UserError(f"{path}: none of its images is in the label table; the first is {boxes[0][0]}")
    table = pd.DataFrame(boxes, columns=list(no_boxes().columns)).astype(no_boxes().dtypes)
    kept = image_ids[image_ids.isin(table["image_id"])]  # avoids a list of the larger split
    return table[table["image_id"].isin(kept)].reset_index(drop=True)


def _read_split(root: Path, image_ids: pd.Series, options: Options) -> tuple[pd.Series | None, str]:
    """The split of each image in the lists, and their names; None if one of them is missing."""
    lists: dict[str, tuple[str, ...]]
    if options.lists == "official":
        lists = {split: (name,) for split, name in LISTS.items()}
    else:
        files = {"train": "train_list.txt", "val": "val_list.txt", "test": "test_list.txt"}
        lists = {split: (f"chexnet/{name}", f"chexnet_{name}") for split, name in files.items()}
    found = {split: find_table(root, *names) for split, names in lists.items()}
    names = " and ".join(
        path.relative_to(root).as_posix() if (path := found[split]) else name for split, (name, *_) in lists.items()
    )
    there = {split: file for split, file in found.items() if file}
    if len(there) < len(found):
        return None, names
    split_of: dict[str, str] = {}
    for split, file in there.items():
        labels = 0 if options.lists == "official" else len(LABELS)
        listed = [image for _, image in _read_list(file, labels)]
        twice = next((image for image in listed if split_of.get(image, split) != split), None)
        if twice:
            other = there[split_of[twice]].name
            raise UserError(f"{file}: {twice} is also in {other}; remove it from one of the lists")
        split_of |= dict.fromkeys(listed, split)
    return image_ids.map(split_of), names


def _read_list(file: Path, labels: int) -> list[tuple[int, str]]:
    """Line and name of the images of a list: one name per line, optionally followed by `labels` numbers."""
    images: list[tuple[int, str]] = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        fields = [field for field in re.split(r'[\s,;"]+', line) if field]
        require_no_more(fields, 1 + labels, f"{file}: line {number}", "write one image name per line")
        images += [(number, field) for field in fields[:1]]
    return images
