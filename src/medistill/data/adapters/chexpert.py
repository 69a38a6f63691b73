"""CheXpert, full size or `small`, as Stanford and Kaggle ship it.

train.csv                        labels of train/; needed
valid.csv                        labels of valid/
test_labels.csv or test.csv      labels of test/, which came out later
train/patient00001/study1/view1_frontal.jpg, valid/ ..., test/ ...

`data.root` is the folder of these files or the one above it. The column `Path` begins with a folder of the release
(`CheXpert-v1.0-small/` ...) or not; what counts is what follows.

Official split: train.csv trains, test_labels.csv tests and valid.csv validates. Without a test table valid.csv tests:
its 234 images, labelled by three radiologists, are what publications report on. Validation is then carved from
train.csv by patient.

A cell of train.csv is what a program found in the report; `chexpert_labels` says what it may be.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from medistill.data.chexpert_labels import LABELS, LabelOptions, read_label
from medistill.data.dataset import LABEL_PREFIX
from medistill.data.folders import find_files, is_hidden, require_folder
from medistill.data.source import Source
from medistill.data.tables import join_files, read_table, years
from medistill.errors import UserError

TABLES = {"train": ("train.csv",), "valid": ("valid.csv",), "test": ("test_labels.csv", "test.csv")}
"""Folder -> names of its table."""

DETAILS = {"Sex": ("Gender",), "Age": (), "Frontal/Lateral": (), "AP/PA": ()}
"""Columns that test_labels.csv does not have."""

COLUMNS = {"Path": ()} | DETAILS | dict.fromkeys(LABELS, ()) | {"Lung Opacity": ("Airspace Opacity",)}

SEXES = {"MALE": "M", "FEMALE": "F", "UNKNOWN": None, "": None}

_PLACE = r"^(?:[^/]+/)?((?:train|valid|test)/(patient[^/]*)/(study[^/]*)/[^/]*?(frontal|lateral)?\.[^/]*)$"


class Options(LabelOptions):
    """What `data.options` may say."""

    views: Literal["frontal", "all"] = "frontal"
    """`frontal`: laterals are not part of the data set, neither as entries nor in the quarantine."""


def read(root: Path, options: Options) -> Source:
    """Join the tables with the files of a CheXpert folder; no pixel is decoded.

    `study_id` is patient and study, as studies are numbered anew for each patient. Views are AP, PA, and, where the
    table says so, LL and RL; L for laterals. An age of 0 stands for an unknown one.

    Left out with a reason: rows whose file is missing or that repeat an image (all of them where they contradict each
    other, be it in two tables), images that no row names, rows whose path names no patient and study, and, where only
    frontal views are wanted, rows that do not say which they are.

    Raises:
        UserError: a table or column is missing, or a label is none of 1, 0, -1 and blank; the message names file, line
            and column.
    """
    root = require_folder(root)
    base = _find_base(root)
    found = {folder: _find_table(root / base, folder) for folder in TABLES}
    tables = {folder: file for folder, file in found.items() if file}
    table = pd.concat([_read_table(file, options) for file in tables.values()], ignore_index=True)
    sides = {"train": "train", "valid": "val" if "test" in tables else "test", "test": "test"}
    table["side"] = table["table"].map({file.name: sides[folder] for folder, file in tables.items()})

    prefix = "" if base == "." else f"{base}/"
    table["image"] = prefix + table["image_id"]
    folders = [prefix + folder for folder in TABLES if (root / base / folder).is_dir()]
    files = find_files(root, folders, recursive=True)
    unclear = pd.Series(None, index=table.index, dtype=object)
    unwanted = {}
    unclear[table["patient"].isna()] = "its path is not train/patient00001/study1/view1_frontal.jpg or alike"
    if options.views == "frontal":
        unclear[table["plane"].isna() & unclear.isna()] = "neither frontal nor lateral"
        wanted = (table["plane"] != "lateral").groupby(table["image"]).transform("any")
        files = files.without(set(table["image"][~wanted]))
        unwanted = {"lateral views (views: frontal)": int((~wanted).sum())}
        table, unclear = table[wanted], unclear[wanted]
    names = " and ".join(file.name for file in tables.values())
    # every row says which table it is from
    table["line"] = table["line"].astype(str) + " of " + table["table"]
    joined = join_files(table.drop(columns="table"), files, "the tables", bad=unclear)
    return Source(
        labels=list(LABELS),
        task="multilabel",
        rows=_describe(joined.rows),
        entries=joined.entries,
        quarantined=joined.quarantined,
        official=joined.rows["side"] if len(tables) > 1 else None,
        official_files=names if len(tables) > 1 else "train.csv and valid.csv",
        unwanted={what: count for what, count in unwanted.items() if count},
    )


def _find_base(root: Path) -> str:
    """The folder of the tables: `.`, or one in the root."""
    if (root / "train.csv").is_file():
        return "."
    found = sorted(file.parent.name for file in root.glob("*/train.csv") if not is_hidden(file.parent.name))
    if not found:
        raise UserError(f"{root}: no train.csv in it; data.root must be the folder that holds it")
    if len(found) > 1:
        raise UserError(f"{root}: train.csv is in {' and in '.join(found)}; set data.root to one of them")
    return found[0]


def _find_table(folder: Path, name: str) -> Path | None:
    return next((folder / table for table in TABLES[name] if (folder / table).is_file()), None)


def _read_table(file: Path, options: Options) -> pd.DataFrame:
    """Rows of one table: where they are from, what `Path` says, details as text, labels as float32."""
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
