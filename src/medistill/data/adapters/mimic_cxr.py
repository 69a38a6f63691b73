"""MIMIC-CXR-JPG, as PhysioNet ships it.

mimic-cxr-2.0.0-metadata.csv.gz                          one row per image: patient, study, view
mimic-cxr-2.0.0-chexpert.csv.gz, or -negbio.csv.gz       one row per study: its labels
mimic-cxr-2.0.0-split.csv.gz                             the official split; needed for `data.split: official`
files/p10/p10000032/s50414267/<dicom_id>.jpg

A dicom_id names one image in any folder of `files`: images may have been converted (`.png`, `.dcm` of MIMIC-CXR).
Tables may also be unpacked (`.csv`); release 2.1.0 has them under the same names.

All images of a study have the labels of its report; `evaluate.study` measures whole studies. Cells were extracted from
reports by a program; see `chexpert_labels` for their values. Labels are in CheXpert's order, so that a network fits
both data sets. The tables have neither sex nor age: those are in MIMIC-IV.
"""

import re
from pathlib import Path
from typing import Literal

import pandas as pd

from medistill.data.reading.chexpert_labels import LABELS, LabelOptions, read_label
from medistill.data.reading.folders import find_files, require_folder, require_within
from medistill.data.reading.locate import by_stem
from medistill.data.reading.source import Source, split_of
from medistill.data.reading.tables import (
    find_table,
    identifiers,
    join_files,
    read_table,
    require_filled,
    require_table,
)
from medistill.errors import UserError
from medistill.records.data import LABEL_PREFIX
from medistill.task import Task

TABLE = "mimic-cxr-2.0.0-{}.csv"
FOLDER = "files"

FRONTAL = ("AP", "PA")

VIEWS = {"LATERAL": "L"}
"""Names of views that differ from those of other data sets."""


class Options(LabelOptions):
    """The keys of `data.options`."""

    labels: Literal["chexpert", "negbio"] = "chexpert"
    """The program that read the reports."""
    views: Literal["frontal", "all"] = "frontal"
    """`frontal`: AP and PA; other views (lateral, oblique, lying, unnamed) are neither ingested nor
    quarantined."""


def read(root: Path, options: Options) -> Source:
    """Join the tables with the files of a MIMIC-CXR-JPG folder; no pixel is decoded.

    Left out with a reason: rows whose file is missing or that repeat an image, images of studies that have no labels,
    images that no row names.

    Raises:
        UserError: a table, a column or the folder `files` is missing, an id is blank, a study has two rows of labels,
            an image two studies or two splits, a label is none of 1, 0, -1 and blank, or a split is unknown.
    """
    root = require_folder(root)
    file = require_table(root, TABLE.format("metadata"))
    table = _read_images(file)
    wanted = table["view"].isin(FRONTAL) | (options.views == "all")
    require_within(root, FOLDER)
    files = find_files(root, [FOLDER], recursive=True)
    stems = by_stem(files, FOLDER, (".jpg",))
    table["image"] = [stems.get(*place) for place in zip(table["dicom"], table["image"], strict=True)]
    files = files.without(set(table["image"][~wanted]))
    table = table[wanted]

    labels_file = require_table(root, TABLE.format(options.labels))
    labels = _read_labels(labels_file, options)
    unclear = pd.Series(None, index=table.index, dtype=object)
    unclear[~table["study"].isin(labels.index)] = f"its study has no row in {labels_file.name}"
    joined = join_files(table, files, file.name, bad=unclear)
    rows = joined.rows
    official, official_files = _read_split(root, rows["dicom"])
    described = pd.DataFrame(
        {
            "image_id": rows["dicom"],
            "path": rows["path"],
            "group_id": rows["patient"],
            "patient_id": rows["patient"],
            "study_id": rows["study"],
            "view": rows["view"],
        }
    )
    left = int((~wanted).sum())
    return Source(
        labels=list(LABELS),
        task=Task.MULTILABEL,
        rows=pd.concat([described, labels.reindex(rows["study"]).reset_index(drop=True)], axis=1),
        entries=joined.entries,
        quarantined=joined.quarantined,
        official=official,
        official_files=official_files,
        unwanted={"views other than AP and PA (views: frontal)": left} if left else {},
    )


def patient_of(path: str) -> str | None:
    """The patient of an image that lies as in the release, `.../p10/p10000032/s50414267/...`; None elsewhere."""
    match = re.search(r"(?:^|/)p([0-9]{8})/s[0-9]+/", path)
    return match[1] if match else None


def read_list(file: Path) -> pd.DataFrame:
    """Images and patients of a published list: a table with `dicom_id` and `subject_id`.

    Where it has a column `split`, as the release's own table, images of its test split are `held_out`.

    Raises:
        UserError: the file or a column is missing, an id is blank, or a split is unknown.
    """
    columns = dict.fromkeys(("dicom_id", "subject_id", "study_id", "split"), ())
    raw = read_table(file, columns, optional=["study_id", "split"])
    image, patient = _ids(raw, file, "dicom_id", "subject_id")
    listed = pd.DataFrame({"image_id": image, "patient_id": patient})
    return listed.assign(held_out=_splits(raw, file) == "test") if raw["split"].any() else listed


def _ids(raw: pd.DataFrame, file: Path, *columns: str) -> list[pd.Series]:
    """Columns of ids, none of which may be blank."""
    for column in columns:
        require_filled(raw, file, column)
    return [identifiers(raw[column], file, column) for column in columns]


def _read_images(file: Path) -> pd.DataFrame:
    """One row per image: `line`, `image` (where its file should be), `dicom`, `patient`, `study` and `view`."""
    raw = read_table(file, dict.fromkeys(("dicom_id", "subject_id", "study_id", "ViewPosition"), ()))
    image, patient, study = _ids(raw, file, "dicom_id", "subject_id", "study_id")
    path = f"{FOLDER}/p" + patient.str[:2] + "/p" + patient + "/s" + study + "/" + image + ".jpg"
    places = path.groupby(image).nunique()
    if (places > 1).any():
        raise UserError(f"{file}: dicom_id {places.index[places > 1][0]} is in two studies")
    view = raw["ViewPosition"].str.upper().where(raw["ViewPosition"] != "", None).replace(VIEWS)
    columns = {"line": raw["line"], "image": path, "dicom": image, "patient": patient, "study": study, "view": view}
    return pd.DataFrame(columns)


def _read_labels(file: Path, options: Options) -> pd.DataFrame:
    """Columns of labels, float32, by study."""
    raw = read_table(file, {"study_id": ()} | dict.fromkeys(LABELS, ()))
    columns = {LABEL_PREFIX + label: read_label(raw, file, label, options) for label in LABELS}
    return pd.DataFrame(columns).set_index(_unique(raw, file, "study_id"))


def _read_split(root: Path, images: pd.Series) -> tuple[pd.Series | None, str]:
    """The official split of each image, and the table it is read from; None if there is none."""
    file = find_table(root, TABLE.format("split"))
    if file is None:
        return None, TABLE.format("split") + ".gz"
    raw = read_table(file, {"dicom_id": (), "split": ()})
    return images.map(_splits(raw, file).set_axis(_unique(raw, file, "dicom_id"))), file.name


def _splits(raw: pd.DataFrame, file: Path) -> pd.Series:
    """The split of each row by the column `split`."""
    words = {word: split_of(word) for word in raw["split"].unique()}
    strange = next((word for word, split in words.items() if split is None), None)
    if strange is not None:
        line = raw["line"][raw["split"] == strange].iloc[0]
        raise UserError(f"{file}: line {line}: column 'split' has {strange!r}; known are train, validate and test")
    return raw["split"].map(words)


def _unique(raw: pd.DataFrame, file: Path, column: str) -> pd.Index:
    """A column of ids, each once."""
    ids = identifiers(raw[column], file, column)
    twice = ids.isna() | ids.duplicated()
    if twice.any():
        line, cell = raw["line"][twice].iloc[0], raw[column][twice].iloc[0]
        what = "is there twice" if cell else "is empty"
        raise UserError(f"{file}: line {line}: {column} {cell} {what}".replace("  ", " "))
    unique: pd.Index = pd.Index(ids)
    return unique
