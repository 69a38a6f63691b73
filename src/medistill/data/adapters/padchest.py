"""PadChest, as BIMCV ships it.

PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv     labels, patients, projections; or packed, `.csv.gz`;
                                                         chest_x_ray_images_labels_sample.csv in BIMCV's sample
0/*.png ... 54/*.png                                     16-bit grey images, as the archives unpack, or in one folder

Images are found by name, in any folder. There is no official split. Children (PED in the column
`Pediatric`) are part of the data set.

The labels come from the report: a quarter was labelled by physicians, the rest by a network that learnt from them. A
finding that a report does not name counts as absent, as is usual in the field. A report that names none at all (an
empty list, or one with only `unchanged`, relative to an earlier image, or `suboptimal study`) leaves all labels
unknown. `normal` means that all are 0. Images marked `exclude` are not part of the data set.
"""

import ast
import contextlib
import os
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from medistill.data.reading.folders import find_files, require_folder, suggest_root
from medistill.data.reading.padchest_labels import DIFFERENTIAL, EXCLUDE, FINDINGS, NORMAL, TOKENS
from medistill.data.reading.source import Source
from medistill.data.reading.tables import describe_instead, identifiers, join_files, read_table, require_filled
from medistill.errors import UserError
from medistill.records.data import LABEL_PREFIX
from medistill.settings import Settings
from medistill.task import Task

SAMPLE = "chest_x_ray_images_labels_sample.csv"

DETAILS = ("StudyID", "StudyDate_DICOM", "PatientBirth", "PatientSex_DICOM", "Manufacturer_DICOM")
"""Columns that may be missing."""

COLUMNS = dict.fromkeys(("ImageID", "PatientID", "Projection", "Labels", *DETAILS), ())

FRONTAL = {"PA": "PA", "AP": "AP", "AP_HORIZONTAL": "AP"}
LATERAL = {"L": "L"}
"""Projections -> views."""

UNWANTED = ("COSTAL", "EXCLUDE")
"""Projections that are never read: of the ribs, and unusable chest X-rays."""

KNOWN = {name.casefold(): name for name in (*DIFFERENTIAL, *FINDINGS, *TOKENS, NORMAL, EXCLUDE)}


class Options(Settings):
    """The keys of `data.options`."""

    labels: Literal["differential", "findings"] = "differential"
    """`differential`: the 19 diseases of PadChest's tree `differential diagnosis`. `findings`: the 170 radiographic
    findings, among them devices and operations; always all of them, so that any part of the images has the labels of
    the whole. In both a name counts for those above it, too: atypical pneumonia is pneumonia."""
    views: Literal["frontal", "all"] = "frontal"
    """`frontal`: PA, AP and AP_horizontal; `all`: laterals, too. Other images are not part of the data set, neither as
    entries nor in the quarantine."""


def read(root: Path, options: Options) -> Source:
    """Join the label table with the files of a PadChest folder; no pixel is decoded.

    `source` is the scanner's manufacturer; `age` the year of the study less that of birth, whatever that gives.

    Left out with a reason: rows whose file is missing or that repeat an image (all of them where they contradict each
    other), rows with a projection or label that is unknown, with labels that are no list, or with `normal` beside a
    finding, images that no row names.

    Raises:
        UserError: there is no label table, or more than one, or a column is missing.
    """
    root = require_folder(root)
    file = _find_table(root)
    raw = read_table(file, COLUMNS, optional=DETAILS)
    tree = DIFFERENTIAL if options.labels == "differential" else FINDINGS
    values, complaints, excluded = _read_labels(raw["Labels"], tree)
    projection = raw["Projection"].str.upper()
    unknown = ~projection.isin([*FRONTAL, *LATERAL, *UNWANTED])
    complaints[unknown] = "has the unknown projection " + raw["Projection"][unknown].map(repr)
    unclear = "line " + raw["line"].astype(str) + f" of {file.name} " + complaints

    unusable = excluded | projection.isin(UNWANTED)
    unwanted = unusable | projection.isin(LATERAL if options.views == "frontal" else ())
    wanted = ~unwanted.groupby(raw["ImageID"]).transform("all")
    left = {
        "lateral views (views: frontal)": int((~wanted & ~unusable).sum()),
        "views of the ribs, and images marked exclude": int((~wanted & unusable).sum()),
    }
    table = pd.concat([_read_details(raw, file), values], axis=1)
    files = find_files(root, ["."], recursive=True, by="name").without(set(table["image"][~wanted]))
    joined = join_files(table[wanted], files, file.name, bad=unclear[wanted])
    rows = joined.rows.rename(columns={"image": "image_id", "patient": "patient_id", "study": "study_id"})
    rows["group_id"] = rows["patient_id"].fillna(rows["image_id"])
    return Source(
        labels=list(tree),
        task=Task.MULTILABEL,
        rows=rows.drop(columns="line"),
        entries=joined.entries,
        quarantined=joined.quarantined,
        unwanted={what: count for what, count in left.items() if count},
    )


def read_list(file: Path) -> pd.DataFrame:
    """Images and patients of a published list: a table with `ImageID` and `PatientID`.

    Raises:
        UserError: the file or a column is missing, or a row has no image.
    """
    listed = read_table(file, COLUMNS, optional=set(COLUMNS) - {"ImageID", "PatientID"})
    require_filled(listed, file, "ImageID")
    return pd.DataFrame(
        {"image_id": listed["ImageID"], "patient_id": identifiers(listed["PatientID"], file, "PatientID")}
    )


def _find_table(root: Path) -> Path:
    found = _tables(root)
    if not found:
        advice = describe_instead(root, "padchest", "chest_x_ray")
        advice = advice or suggest_root(root, lambda folder: len(_tables(folder)) == 1)
        raise UserError(f"{root}: no label table in it, PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv{advice}")
    if len(found) > 1:
        raise UserError(f"{root}: several label tables, {' and '.join(found)}; leave one of them there")
    return root / found[0]


def _tables(folder: Path) -> list[str]:
    with contextlib.suppress(OSError), os.scandir(folder) as scan:
        names = sorted(entry.name for entry in scan if entry.is_file())
        found = [name for name in names if "padchest" in name.lower() and name.lower().endswith((".csv", ".csv.gz"))]
        return found or [name for name in names if name in (SAMPLE, f"{SAMPLE}.gz")]
    return []


def _read_labels(cells: pd.Series, tree: dict[str, frozenset[str]]) -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    """Columns of 1, 0 and NaN; why a row's labels are unusable, else null; whether it is excluded."""
    codes, lists = pd.factorize(cells)
    labels = list(tree)
    values = np.zeros((len(lists), len(labels)), np.float32)
    complaints, excluded = np.full(len(lists), None, object), np.zeros(len(lists), bool)
    for number, cell in enumerate(lists):
        names = _parse(cell)
        if names is None:
            complaints[number] = f"has labels that are not a list: {_shorten(cell)}"
            continue
        unknown = sorted(names - set(KNOWN))
        findings = {KNOWN[name] for name in names - set(unknown)} - {NORMAL, EXCLUDE, *TOKENS}
        excluded[number] = EXCLUDE in names
        if unknown:
            complaints[number] = f"has the unknown label {_shorten(unknown[0])}"
        elif NORMAL in names and findings:
            complaints[number] = f"has the contradictory labels {_shorten(cell)}"
        elif NORMAL not in names and not findings:
            values[number] = np.nan
        named = set().union(*(tree[name] for name in findings & set(tree)))
        values[number, [labels.index(name) for name in named]] = 1
    columns = pd.DataFrame(values[codes], columns=[LABEL_PREFIX + label for label in labels], index=cells.index)
    wrong = pd.Series(complaints[codes], index=cells.index, dtype="str")
    return columns, wrong, pd.Series(excluded[codes], index=cells.index)


def _parse(cell: str) -> set[str] | None:
    """Names in a list such as `['pneumonia', ' unchanged']`, in lower case; None if it is not a list of names."""
    try:
        names = ast.literal_eval(cell) if cell else []
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return {" ".join(name.split()).casefold() for name in names} - {""}


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def _read_details(raw: pd.DataFrame, file: Path) -> pd.DataFrame:
    dates, births = (pd.to_numeric(raw[column], errors="coerce") for column in ("StudyDate_DICOM", "PatientBirth"))
    return pd.DataFrame(
        {
            "line": raw["line"],
            "image": raw["ImageID"],
            "patient": identifiers(raw["PatientID"], file, "PatientID"),
            "study": identifiers(raw["StudyID"], file, "StudyID"),
            "view": raw["Projection"].str.upper().map(FRONTAL | LATERAL),
            "sex": raw["PatientSex_DICOM"].str.upper().where(raw["PatientSex_DICOM"] != "", None),
            "age": dates // 10_000 - births,  # 20140915, 1952
            "source": raw["Manufacturer_DICOM"].where(raw["Manufacturer_DICOM"] != "", None),
        }
    )
