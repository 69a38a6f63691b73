"""NIH ChestX-ray14 (Wang et al., "ChestX-ray8", CVPR 2017) as the NIH and Kaggle ship it.

Data_Entry_2017_v2020.csv or Data_Entry_2017.csv     labels, patients, views, ages (the newer file wins)
BBox_List_2017.csv                                   boxes of some images; optional
train_val_list.txt, test_list.txt                    the official split; needed for `data.split: official`
images/*.png, or images_001/images/*.png ...         flat, or as Kaggle unpacks the twelve archives
"""

import csv
import math
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from medistill.data.adapters.source import Source, is_image_name
from medistill.data.dataset import LABEL_PREFIX
from medistill.data.nih import BOX_FRAME, LABELS
from medistill.errors import UserError

NO_FINDING = "No Finding"
"""Excludes all labels; not a label itself: such an image has 0 everywhere."""

LABEL_FILES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
BOX_FILE = "BBox_List_2017.csv"
LISTS = {"train": "train_val_list.txt", "test": "test_list.txt"}

# Column -> its spellings without blanks, case and signs; headers differ between releases and mirrors.
_COLUMNS = {
    "Image Index": ("imageindex",),
    "Finding Labels": ("findinglabels",),
    "Patient ID": ("patientid",),
    "Patient Age": ("patientage",),
    "Patient Gender": ("patientgender", "patientsex"),
    "View Position": ("viewposition",),
}
_OUTSIDE = "is a link that leads out of the data set's folder"
_YEARS = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def read(root: Path) -> Source:
    """Join labels, lists, boxes and files of a ChestX-ray14 folder; no pixel is decoded.

    Left out with a reason: rows whose file is missing, rows that repeat an image (all of them where they contradict
    each other), rows without a label or with `No Finding` beside one, images that no row names.

    Raises:
        UserError: a file or column is missing, a label is unknown, a box is not four numbers, an image is in both
            lists; the message names file and row.
    """
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; set data.root to the data set's folder")
    label_file = next((root / name for name in LABEL_FILES if (root / name).is_file()), None)
    if label_file is None:
        raise UserError(f"{root}: neither {' nor '.join(LABEL_FILES)} is there; data.root must hold one of them")
    table = _read_table(label_file)
    files, outside, quarantined = _find_images(root)
    entries = len(table) + len(quarantined)

    labels = _parse_labels(table, label_file)
    known_combination = ~np.isnan(labels).any(axis=1)
    repeated = table["image"].duplicated(keep=False)
    contradictory = pd.Series(False, index=table.index)
    if repeated.any():
        variants = table[repeated].drop(columns="line").drop_duplicates().groupby("image").size()
        contradictory = table["image"].isin(variants.index[variants > 1])
    path = table["image"].map(files)
    reasons = pd.Series(None, index=table.index, dtype=object)
    rules = [  # the first that holds gives the reason
        (contradictory, "rows of {file} contradict each other about this image (line {line})"),
        (table["image"].duplicated(), "line {line} of {file} repeats an earlier row"),
        (table["image"].isin(list(outside)), _OUTSIDE),
        (path.isna(), "listed in {file} (line {line}), but there is no such file"),
        (~known_combination, "line {line} of {file} has the contradictory or empty labels {labels!r}"),
    ]
    for holds, text in rules:
        here = holds & reasons.isna()
        reasons[here] = [
            text.format(file=label_file.name, line=line, labels=names)
            for line, names in zip(table["line"][here], table["labels"][here], strict=True)
        ]
    left_out = reasons.notna()
    found = files | outside
    quarantined += [
        (found.get(image, f"images/{image}"), reason)
        for image, reason in zip(table["image"][left_out], reasons[left_out], strict=True)
    ]
    listed = set(table["image"])
    unlisted = [path for name, path in found.items() if name not in listed and is_image_name(name)]
    quarantined += [(path, f"no row of {label_file.name} names this image") for path in unlisted]

    keep = ~left_out
    rows = _describe(table[keep], path[keep], labels[keep.to_numpy()])
    return Source(
        labels=list(LABELS),
        task="multilabel",
        rows=rows,
        boxes=_read_boxes(root / BOX_FILE, rows["image_id"]),
        official=_read_lists(root, rows["image_id"]),
        official_files=" and ".join(LISTS.values()),
        entries=entries + len(unlisted),
        quarantined=quarantined,
    )


def _read_csv(path: Path, **options: object) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():  # rows may end in one comma more than the header; index_col=False lets them
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            table = pd.read_csv(
                path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig", **options
            )
        return table.fillna("")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable CSV file: {' '.join(str(error).split())}") from None


def _read_table(path: Path) -> pd.DataFrame:
    """Columns `image`, `labels`, `patient`, `age`, `sex`, `view` as stripped str, and `line` (in the file, from 1)."""
    raw = _read_csv(path)
    plain = {re.sub(r"[^a-z0-9]", "", str(name).lower()): name for name in reversed(raw.columns)}
    names = {}
    for column, spellings in _COLUMNS.items():
        found = next((plain[spelling] for spelling in spellings if spelling in plain), None)
        if found is None:
            raise UserError(f"{path}: column {column!r} is missing; it has {', '.join(map(str, raw.columns))}")
        names[column] = found
    if raw.empty:
        raise UserError(f"{path}: no rows below the header")
    table = raw[list(names.values())].set_axis(["image", "labels", "patient", "age", "sex", "view"], axis=1)
    table = table.apply(lambda column: column.str.strip())
    table["line"] = np.arange(2, len(table) + 2)
    return table


def _parse_labels(table: pd.DataFrame, path: Path) -> np.ndarray:
    """float32 (N, 14) of 1 and 0; a row is NaN where its labels contradict each other or are empty."""
    codes, combinations = pd.factorize(table["labels"])
    vectors = np.zeros((len(combinations), len(LABELS)), np.float32)
    for number, combination in enumerate(combinations):
        names = [name.strip() for name in combination.split("|")]
        for name in names:
            if name not in LABELS and name not in (NO_FINDING, ""):
                first = table.iloc[int(np.argmax(codes == number))]
                raise UserError(
                    f"{path}: row {first['line'] - 1} (line {first['line']}, {first['image']}): unknown label {name!r};"
                    f" known are {', '.join(LABELS)} and {NO_FINDING}"
                )
        vectors[number, [LABELS.index(name) for name in names if name in LABELS]] = 1
        if "" in names or (NO_FINDING in names and len(set(names)) > 1):
            vectors[number] = np.nan
    return vectors[codes]


def _find_images(root: Path) -> tuple[dict[str, str], dict[str, str], list[tuple[str, str]]]:
    """Image files: name -> path relative to `root`; the same of links that lead out of it; files beyond the first of a
    name, with the reason.

    Rows find their file only through this index of what lies in the image folders, so a name such as `../x.png` in a
    CSV file leads nowhere.
    """
    folders = [root / "images"] if (root / "images").is_dir() else []
    folders += sorted(folder for folder in root.glob("images_*/images") if folder.is_dir())
    if not folders:
        raise UserError(f"{root}: no folder images/ or images_001/images/ in it")
    real_root = root.resolve()
    files: dict[str, str] = {}
    outside: dict[str, str] = {}
    surplus: list[tuple[str, str]] = []
    for folder in folders:
        prefix = folder.relative_to(root).as_posix()
        if not folder.resolve().is_relative_to(real_root):
            raise UserError(f"{folder}: is a link that leads out of {root}; move the images there or set data.root")
        with os.scandir(folder) as scan:
            found = sorted(scan, key=lambda entry: entry.name)
        for entry in found:
            path = f"{prefix}/{entry.name}"
            if entry.name in files or entry.name in outside:
                first = files.get(entry.name, outside.get(entry.name))
                surplus.append((path, f"a second file of this name, the first is {first}"))
            elif entry.is_symlink() and not Path(entry).resolve().is_relative_to(real_root):
                outside[entry.name] = path
            elif not entry.is_dir():
                files[entry.name] = path
    return files, outside, surplus


def _describe(table: pd.DataFrame, path: pd.Series, labels: np.ndarray) -> pd.DataFrame:
    patient = table["patient"].str.lstrip("0").where(table["patient"].str.fullmatch("0*[1-9][0-9]*"), table["patient"])
    patient = patient.where(patient != "", None)
    ages = {text: _years(text) for text in table["age"].unique()}
    rows = pd.DataFrame(
        {
            "image_id": table["image"],
            "path": path.astype("str"),
            "group_id": patient.fillna(table["image"]),
            "patient_id": patient,
            "study_id": pd.Series(None, index=table.index, dtype="str"),
            "view": table["view"].str.upper().where(table["view"] != "", None),
            "sex": table["sex"].str.upper().where(table["sex"] != "", None),
            "age": table["age"].map(ages).astype("float64"),
        }
    )
    columns = [LABEL_PREFIX + label for label in LABELS]
    return pd.concat([rows, pd.DataFrame(labels, columns=columns, index=rows.index)], axis=1).reset_index(drop=True)


def _years(text: str) -> float:
    """`58`, `058Y`, `006M`, `010D` in years; NaN for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([YMWD]?)", text.upper())
    return float(match[1]) * _YEARS[match[2]] if match else math.nan


def _read_boxes(path: Path, image_ids: pd.Series) -> pd.DataFrame:
    """Boxes of the images in `image_ids` as fractions; the full list beside a part of the images is common."""
    numbers = ["x", "y", "w", "h"]
    if not path.is_file():
        return pd.DataFrame({"image_id": [], "label": []}, dtype="str").assign(**dict.fromkeys(numbers, np.empty(0)))
    # The header `Bbox [x,y,w,h],,,` is nine fields, rows have six or nine: read by place
    with path.open(encoding="utf-8-sig", newline="") as stream:
        header = [name.strip() for name in next(csv.reader(stream), [])]
    for place, column in enumerate(("Image Index", "Finding Label", "Bbox [x")):
        if len(header) <= place or re.sub(r"\W", "", header[place]).lower() != re.sub(r"\W", "", column).lower():
            raise UserError(f"{path}: column {column!r} is missing; the header is {','.join(header)}")
    raw = _read_csv(path, names=range(max(len(header), 6)), header=None, skiprows=1)
    boxes = raw[[0, 1]].set_axis(["image_id", "label"], axis=1).apply(lambda column: column.str.strip())
    boxes["label"] = boxes["label"].replace("Infiltrate", "Infiltration")
    values = raw[[2, 3, 4, 5]].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    bad = ~boxes["label"].isin(LABELS).to_numpy()
    if bad.any():
        line = int(np.argmax(bad))
        raise UserError(
            f"{path}: row {line + 1} (line {line + 2}, {boxes['image_id'][line]}):"
            f" unknown label {boxes['label'][line]!r}; known are {', '.join(LABELS)}"
        )
    bad = ~np.isfinite(values).all(axis=1) | (values[:, 2:] <= 0).any(axis=1)
    if bad.any():
        line = int(np.argmax(bad))
        raise UserError(
            f"{path}: row {line + 1} (line {line + 2}, {boxes['image_id'][line]}): x, y, w, h must be numbers, w and h"
            f" positive, not {', '.join(map(repr, raw.loc[line, [2, 3, 4, 5]]))}"
        )
    boxes[numbers] = values / BOX_FRAME
    kept = image_ids[image_ids.isin(boxes["image_id"])]
    return boxes[boxes["image_id"].isin(kept)].reset_index(drop=True)


def _read_lists(root: Path, image_ids: pd.Series) -> pd.Series | None:
    if not all((root / name).is_file() for name in LISTS.values()):
        return None
    side_of: dict[str, str] = {}
    for side, name in LISTS.items():
        try:
            lines = (root / name).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise UserError(f"{root / name}: not a text file with one image name a line") from None
        listed = [line.strip() for line in lines if line.strip()]
        twice = next((image for image in listed if side_of.get(image, side) != side), None)
        if twice:
            raise UserError(f"{root / name}: {twice} is in {LISTS['train']} too; an image has one side")
        side_of |= dict.fromkeys(listed, side)
    return image_ids.map(side_of)
