"""CheXpert, full size or `small`, as Stanford and Kaggle ship it.

train.csv                        labels of train/; needed
valid.csv                        labels of valid/
test_labels.csv or test.csv      labels of test/, which was released later
train/patient00001/study1/view1_frontal.jpg, valid/ ..., test/ ...

`data.root` is the folder of these files or the one above it. The column `Path` begins with a folder of the release
(`CheXpert-v1.0-small/` ...) or not; it is ignored. Tables may be packed by gzip: `train.csv.gz`.

The archives of the full-size release unpack into separate folders, which are read as they are:

CheXpert-v1.0 batch 1 (validate & csv)/train.csv, valid.csv, valid/ ...
CheXpert-v1.0 batch 2 (train 1)/patient00001/study1/view1_frontal.jpg, batch 3 (train 2) ..., batch 4 (train 3) ...

Official split: train.csv trains, test_labels.csv tests and valid.csv validates. Without a test table valid.csv tests:
its 234 images, labelled by three radiologists, are what publications report on. Validation is then carved from
train.csv by patient.

The cells of train.csv were extracted from reports by a program; see `chexpert_labels` for their values.
"""

import contextlib
import os
import re
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from medistill.data.reading.chexpert_labels import LABELS, LabelOptions, read_label
from medistill.data.reading.folders import Files, find_files, is_hidden, require_folder, suggest_root
from medistill.data.reading.source import Source
from medistill.data.reading.tables import describe_instead, find_table, join_files, read_table, years
from medistill.errors import UserError
from medistill.records.data import LABEL_PREFIX
from medistill.task import Task

TABLES = {"train": ("train.csv",), "valid": ("valid.csv",), "test": ("test_labels.csv", "test.csv")}
"""Folder -> names of its table."""

DETAILS = {"Sex": ("Gender",), "Age": (), "Frontal/Lateral": (), "AP/PA": ()}
"""Columns that test_labels.csv does not have."""

COLUMNS = {"Path": ()} | DETAILS | dict.fromkeys(LABELS, ()) | {"Lung Opacity": ("Airspace Opacity",)}

SEXES = {"MALE": "M", "FEMALE": "F", "UNKNOWN": None, "": None}

_BATCH = re.compile(r"batch[ _-]*([0-9]+)", re.IGNORECASE)
_FEW = 10  # folders in one that is none of patients

_PLACE = r"^(?:[^/]+/)?((?:train|valid|test)/(patient[^/]*)/(study[^/]*)/[^/]*?(frontal|lateral)?\.[^/]*)$"


_PATIENT = r"(?:^|/)(patient[^/]*)/study[^/]*/"


class Options(LabelOptions):
    """The keys of `data.options`."""

    views: Literal["frontal", "all"] = "frontal"
    """`frontal`: laterals are neither ingested nor quarantined."""


def read(root: Path, options: Options) -> Source:
    """Join the tables with the files of a CheXpert folder; no pixel is decoded.

    `study_id` is patient and study, as studies are numbered anew for each patient. Views are AP, PA, and, where the
    table says so, LL and RL; L for laterals. An age of 0 stands for an unknown one.

    Left out with a reason: rows whose file is missing or that repeat an image (all of them where they contradict each
    other, be it in two tables), images that no row names, rows whose path names no patient and study, and, where only
    frontal views are wanted, rows without a view.

    Raises:
        UserError: a table or column is missing, or a label is none of 1, 0, -1 and blank; the message names file, line
            and column.
    """
    root = require_folder(root)
    base = _find_base(root)
    found = {folder: find_table(root / base, *names) for folder, names in TABLES.items()}
    tables = {folder: file for folder, file in found.items() if file}
    table = pd.concat([_read_table(file, options) for file in tables.values()], ignore_index=True)
    splits = {"train": "train", "valid": "val" if "test" in tables else "test", "test": "test"}
    table["split"] = table["table"].map({file.name: splits[folder] for folder, file in tables.items()})

    table["image"] = table["image_id"]
    folders = _find_folders(root, base)
    files = _find_images(root, folders)
    unclear = pd.Series(None, index=table.index, dtype=object)
    unwanted = {}
    unclear[table["patient"].isna()] = "its path is not of the form train/patient00001/study1/view1_frontal.jpg"
    if options.views == "frontal":
        unclear[table["plane"].isna() & unclear.isna()] = "neither frontal nor lateral"
        wanted = (table["plane"] != "lateral").groupby(table["image"]).transform("any")
        files = files.without(set(table["image"][~wanted]))
        unwanted = {"lateral views (views: frontal)": int((~wanted).sum())}
        table, unclear = table[wanted], unclear[wanted]
    names = " and ".join(file.name for file in tables.values())
    # every row has the name of its table
    table["line"] = table["line"].astype(str) + " of " + table["table"]
    missing = "{image}" if base == "." else f"{base}/{{image}}"
    joined = join_files(table.drop(columns="table"), files, "the tables", bad=unclear, missing=missing)
    return Source(
        labels=list(LABELS),
        task=Task.MULTILABEL,
        rows=_describe(joined.rows),
        entries=joined.entries,
        quarantined=joined.quarantined,
        official=joined.rows["split"] if len(tables) > 1 else None,
        official_files=names if len(tables) > 1 else "train.csv and valid.csv",
        unwanted={what: count for what, count in unwanted.items() if count},
        notes=_missing_batches(folders),
    )


def patient_of(path: str) -> str | None:
    """The patient of an image that lies as in the release, `.../patient00001/study1/...`; None elsewhere."""
    match = re.search(_PATIENT, path)
    return match[1] if match else None


def read_list(file: Path) -> pd.DataFrame:
    """Images and patients of a published list: a table with `Path`.

    Raises:
        UserError: the file or the column is missing, or a path names no patient.
    """
    listed = read_table(file, COLUMNS, optional=set(COLUMNS) - {"Path"})
    patient = listed["Path"].map(patient_of)
    if patient.isna().any():
        line, path = listed[["line", "Path"]][patient.isna()].iloc[0]
        raise UserError(
            f"{file}: line {line}: column 'Path' has {path!r}, which is not of the form"
            " train/patient00001/study1/view1_frontal.jpg"
        )
    return pd.DataFrame(
        {"image_id": listed["Path"].str.extract(_PLACE)[0].fillna(listed["Path"]), "patient_id": patient}
    )


def _find_base(root: Path) -> str:
    """The folder of the tables: `.`, or one in the root."""
    found = _bases(root)
    if not found:
        advice = describe_instead(root, "train.", "chexpert") or suggest_root(root, _is_data_set)
        advice = advice or "; data.root must be the folder that holds it"
        raise UserError(f"{root}: no train.csv in it{advice}")
    if len(found) > 1:
        raise UserError(f"{root}: train.csv is in {' and in '.join(found)}; set data.root to one of them")
    if not any(place == "train" for place in _find_folders(root, found[0]).values()):
        advice = suggest_root(root, _is_data_set) or "; unpack the other archives beside that of train.csv"
        raise UserError(f"{root}: train.csv is there, but no folder train/ with its images{advice}")
    return found[0]


def _bases(root: Path) -> list[str]:
    if find_table(root, *TABLES["train"]):
        return ["."]
    return [name for name in _names(root) if find_table(root / name, *TABLES["train"])]


def _is_data_set(folder: Path) -> bool:
    bases = _bases(folder)
    return len(bases) == 1 and "train" in _find_folders(folder, bases[0]).values()


def _find_folders(root: Path, base: str) -> dict[str, str]:
    """Folders of images, relative to the root, and which of `TABLES` each is of.

    Those of the tables' folder; and where its train/ is missing, or their names say that they are batches, folders of
    patients beside or in it.
    """
    prefix = "" if base == "." else f"{base}/"
    found = {prefix + folder: folder for folder in TABLES if (root / base / folder).is_dir()}
    incomplete = prefix + "train" not in found
    around = [*_names(root), *(f"{base}/{name}" for name in (_names(root / base) if prefix else ()))]
    for folder in around:
        if folder in found or folder == base or not (incomplete or _BATCH.search(folder)):
            continue
        within = [folder, *(f"{folder}/{name}" for name in _names(root / folder)[:_FEW])]
        found |= {place: "train" for place in within if _has_patients(root / place) and place not in found}
    return found


def _names(folder: Path) -> list[str]:
    """Names of the folders in a folder, but hidden ones; none where it must not be read."""
    with contextlib.suppress(OSError), os.scandir(folder) as scan:
        return sorted(entry.name for entry in scan if entry.is_dir() and not is_hidden(entry.name))
    return []


def _has_patients(folder: Path) -> bool:
    with contextlib.suppress(OSError), os.scandir(folder) as scan:
        return any(entry.name.startswith("patient") and entry.is_dir() for entry in scan)
    return False


def _moved(folder: str, place: str, key: str) -> str:
    """The key of a file of `folder` as if that stood at `place`."""
    return place + key.removeprefix(folder)


def _find_images(root: Path, folders: dict[str, str]) -> Files:
    """The image files, by their names in the tables: `train/patient00001/study1/view1_frontal.jpg`."""
    found = Files({}, {}, [])
    for folder, place in folders.items():
        files = find_files(root, [folder], recursive=True)
        found = found.joined_by(files, partial(_moved, folder, place))
    return found


def _missing_batches(folders: dict[str, str]) -> list[str]:
    batches = {int(match[1]) for folder in folders if (match := _BATCH.search(folder))}
    missing = sorted({2, 3, 4} - batches) if batches else []
    if not missing:
        return []
    return [
        f"batch {' and '.join(map(str, missing))} of the full-size release is not there: unpack it beside the others"
    ]


def _read_table(file: Path, options: Options) -> pd.DataFrame:
    """Rows of one table: its name, the parts of `Path`, details as text, labels as float32."""
    raw = read_table(file, COLUMNS, optional=DETAILS)
    place = raw["Path"].str.extract(_PLACE)
    labels = {LABEL_PREFIX + label: read_label(raw, file, label, options) for label in LABELS}
    plane = raw["Frontal/Lateral"].str.lower()
    described = pd.DataFrame(
        {
            "line": raw["line"],
            "table": file.name,
            "image_id": place[0].fillna(raw["Path"]),
            "patient": place[1],
            "study": place[2],
            "plane": plane.where(plane.isin(["frontal", "lateral"]), place[3]),
            "view": raw["AP/PA"].str.upper(),
            "sex": raw["Sex"],
            "age": raw["Age"],
        }
    )
    return pd.concat([described, pd.DataFrame(labels)], axis=1)


def _describe(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of a `Source`, from joined ones."""
    view = table["view"].where(table["view"] != "", None)
    sex = table["sex"].str.upper()
    ages = {text: years(text) or np.nan for text in table["age"].unique()}
    rows = pd.DataFrame(
        {
            "image_id": table["image_id"],
            "path": table["path"],
            "group_id": table["patient"],
            "patient_id": table["patient"],
            "study_id": table["patient"] + "/" + table["study"],
            "view": view.fillna("L").where(table["plane"] == "lateral", view),
            "sex": sex.map({text: SEXES.get(text, text) for text in sex.unique()}),
            "age": table["age"].map(ages).astype("float64"),
        }
    )
    return pd.concat([rows, table.filter(like=LABEL_PREFIX)], axis=1)
