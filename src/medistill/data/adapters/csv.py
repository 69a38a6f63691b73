"""Any table of images: the options say what its columns are.

    data:
      format: csv
      root: hospital              # holds table.csv and images/17.png ...
      options:
        images: images            # the folder of the image files
        path: image               # the column that names them: path, name, or name without its suffix
        labels: [Mass, Effusion]  # a column each: 1, 0, or blank where unknown
        patient: patient_id       # no patient is ever on two sides

In place of a list of columns,

        label: severity           # one class an image: mild, moderate ...

        labels: findings          # any number of findings in one column: `Mass|Effusion`
        separator: "|"
        negative: [No Finding]    # what the column says where there are none

The table may be separated by comma, semicolon, tab or bar, be UTF-8 or UTF-16, and be packed (`.csv.gz`).
"""

import re
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field, ValidationInfo, field_validator, model_validator

from medistill.config import Settings
from medistill.data.dataset import LABEL_PREFIX
from medistill.data.folders import Files, compose, find_files, is_image_name, require_folder
from medistill.data.source import SIDE_NAMES, Source, collect_labels, one_hot
from medistill.data.splits import merge_groups
from medistill.data.tables import ages, identifiers, join_files, read_header, read_table
from medistill.errors import UserError

TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
TRUE = ("1", "true", "yes", "t", "y")
FALSE = ("0", "false", "no", "f", "n")
SEXES = {"MALE": "M", "FEMALE": "F"}

_MEASURE = r"-[0-9.,]+|[0-9]*[.,][0-9]+"
"""Numbers that no one gives a class: negative ones and fractions."""


class Options(Settings):
    """What `data.options` may say; columns, but for the folders, `table`, `unlabelled`, `separator` and `negative`."""

    table: str = ""
    """The table, relative to the root; empty: the only one there."""
    images: str = "."
    """Folder of the image files, relative to the root; folders within it are looked into."""
    path: str
    """The image file: its path within `images`, or its name, with or without suffix, where no other file has it."""
    label: str | None = None
    """One class an image; a row where it is blank is left out."""
    unlabelled: bool = False
    """Keep the rows where `label` is blank: for recipes that learn from what teachers say of them."""
    labels: str | list[str] | None = None
    """Any number of findings an image: columns of 1 (also true, yes), 0 (false, no) and blank (unknown), each the
    name of a label; or, with `separator`, one column of names."""
    separator: str | None = Field(default=None, min_length=1)
    """What stands between the names in the column `labels`."""
    negative: list[str] = Field(default=[])
    """Names in the column `labels` that mean none of the findings; an empty one, "", for a blank."""
    patient: str | None = None
    """All images of a patient are on one side."""
    group: str | None = None
    """What else must not be torn apart: a family, a source picture."""
    study: str | None = None
    view: str | None = None
    sex: str | None = None
    age: str | None = None
    """Years, or as DICOM has them: `058Y`, `006M`."""
    source: str | None = None
    """Scanner, hospital or collection."""
    split: str | None = None
    """The side, for `data.split: official`: train, val (also valid, validation) or test."""
    mask: str | None = None
    """A picture of the findings, white (at least half of its brightest value) where they are: named like `path`, within
    `masks`; blank where there is none."""
    masks: str = "."
    """Folder of the masks, relative to the root."""

    @field_validator("*", mode="before")
    @classmethod
    def _not_a_word_of_yaml(cls, value: Any, info: ValidationInfo) -> Any:
        items = value if isinstance(value, list) else [value]
        if info.field_name != "unlabelled" and any(isinstance(item, bool) for item in items):
            raise ValueError("no, yes, on, off, true and false are no text in YAML; put the name in quotes")
        return value

    @model_validator(mode="after")
    def _one_kind_of_label(self) -> "Options":
        if (self.label is None) == (self.labels is None):
            raise ValueError("set either label: COLUMN (one class an image) or labels (any number of findings)")
        if not (self.label or self.labels):
            raise ValueError("label or labels names no column")
        if self.unlabelled and self.labels:
            raise ValueError("unlabelled goes with label: COLUMN; in labels a blank is unknown anyway")
        if isinstance(self.labels, str) and self.separator is None:
            raise ValueError(
                f"labels: {self.labels} needs separator, what stands between the names in that column;"
                f" a column of 1 and 0 is labels: [{self.labels}]"
            )
        if not isinstance(self.labels, str) and (self.separator is not None or self.negative):
            raise ValueError("separator and negative go with labels: COLUMN only")
        if isinstance(self.labels, list) and len(set(self.labels)) < len(self.labels):
            raise ValueError("labels names a column twice")
        return self

    def columns(self) -> dict[str, str]:
        """Column of each option that names one."""
        others = {"table", "images", "masks", "unlabelled", "separator", "negative"}
        named = {option: value for option, value in self.model_dump(exclude=others).items() if value is not None}
        if isinstance(self.labels, list):
            del named["labels"]
            named |= {f"labels.{number}": column for number, column in enumerate(self.labels)}
        return named


def read(root: Path, options: Options) -> Source:
    """Join a table with its image files; no pixel is decoded.

    Left out with a reason: rows whose image or mask is missing, rows that repeat an image (all of them where they
    contradict each other), rows without a label, images that no row names and that are no row's mask.

    Raises:
        UserError: the table or one of its columns is missing, a cell of a label or side has a value that nobody knows,
            or a name may be that of several files; the message names file, line and column.
    """
    root = require_folder(root)
    file = _find_table(root, options.table)
    wanted, known = options.columns(), read_header(file)
    for option, column in wanted.items():
        if column not in known:
            raise UserError(
                f"{file}: data.options.{option} names the column {column!r}, which is not there;"
                f" its columns are {', '.join(known)}"
            )
        if column == "line":  # as `read_table` calls the number of a row
            raise UserError(f"{file}: data.options.{option}: a column cannot be called 'line'; rename it in the table")
    raw = read_table(file, dict.fromkeys(wanted.values(), ()))
    labels, values, unclear = _read_labels(raw, file, options)

    files = _find_files(root, options.images, "images")
    table = pd.DataFrame({"line": raw["line"], "image": _keys_of(raw, file, options.path, files, options.images)})
    if options.mask:
        masks = _find_files(root, options.masks, "masks")
        mask = _keys_of(raw, file, options.mask, masks, options.masks)
        table["mask"] = mask.map(masks.usable)
        lost = (mask != "") & table["mask"].isna() & unclear.isna()
        refused = {key: f"its mask {reason}" for key, (_, reason) in masks.refused.items()}
        unclear[lost] = mask[lost].map(refused).fillna("its mask " + mask[lost].map(repr) + " is not there")
        files = files.without(set(mask) - set(table["image"]))
    for option in ("patient", "group", "study", "view", "sex", "age", "source", "split"):
        column = getattr(options, option)
        if column:
            table[option] = identifiers(raw[column], file, column)
    if options.split:
        table["split"] = _sides(table["split"], raw, file, options.split)
    notes: list[str] = []
    if options.age:
        table["age"], notes = _ages(table["age"], raw, file, options.age)

    joined = join_files(pd.concat([table, values], axis=1), files, file.name, bad=unclear)
    rows = joined.rows
    return Source(
        labels=labels,
        task="multiclass" if options.label else "multilabel",
        rows=_describe(rows, options),
        entries=joined.entries,
        quarantined=joined.quarantined,
        notes=notes,
        official=rows["split"] if options.split else None,
        official_files=f"the sides of column {options.split!r}" if options.split else "sides (data.options.split)",
    )


def _find_table(root: Path, name: str) -> Path:
    if name:
        return _within(root, name, "table")
    found = sorted(entry.name for entry in root.iterdir() if entry.is_file() and entry.name.lower().endswith(TABLES))
    if len(found) != 1:
        names = ", ".join(found) if found else f"none that ends in {', '.join(TABLES)}"
        raise UserError(f"{root}: which file is the table? set data.options.table; there is {names}")
    return root / found[0]


def _find_files(root: Path, name: str, option: str) -> Files:
    if not _within(root, name, option).is_dir():
        raise UserError(f"{root / name}: no such folder; set data.options.{option} to a folder in data.root")
    return find_files(root, [PurePosixPath(name).as_posix()], recursive=True)


def _within(root: Path, name: str, option: str) -> Path:
    """A file or folder of the data set: one outside would change without anybody noticing."""
    if not (root / name).resolve().is_relative_to(root.resolve()):
        raise UserError(f"{root / name}: lies outside of data.root; set data.options.{option} to something in it")
    return root / name


def _keys_of(raw: pd.DataFrame, file: Path, column: str, files: Files, folder: str) -> pd.Series:
    """The key in `files` of the file that each cell of a column names; the cell itself where there is none.

    A cell is a path relative to the folder or the root, or the name of one file in whatever folder; either with or
    without suffix.

    Raises:
        UserError: a name may be that of several files.
    """
    prefix = "" if folder in ("", ".") else PurePosixPath(folder).as_posix() + "/"
    by_path: dict[str, str] = {}
    by_name: dict[str, set[str]] = defaultdict(set)
    for key in sorted(files.keys()):
        path = key.removeprefix(prefix)
        by_path |= {path: key, key: key}
        by_name[path.rpartition("/")[2]].add(key)
        if is_image_name(path):
            stem = path.rpartition(".")[0]
            by_name[stem].add(key)
            by_name[stem.rpartition("/")[2]].add(key)

    cells = identifiers(raw[column], file, column).fillna("")
    key_of = {"": ""}
    for cell in cells[cells != ""].unique():
        spelt = compose(cell)
        if spelt not in by_path:
            spelt = spelt.replace("\\", "/").removeprefix("./")  # tables come from Windows, too
        found = sorted(by_name.get(spelt, ())) if spelt not in by_path else [by_path[spelt]]
        if len(found) > 1:
            line = raw["line"][cells == cell].iloc[0]
            raise UserError(
                f"{file}: line {line}: column {column!r}: {cell!r} may be {found[0]} or {found[1]};"
                " write the path, or let data.options.images and masks name the folders that are meant"
            )
        key_of[cell] = found[0] if found else cell
    return cells.map(key_of)


def _read_labels(raw: pd.DataFrame, file: Path, options: Options) -> tuple[list[str], pd.DataFrame, pd.Series]:
    """Label names, their float32 columns, and why a row has no label, null where it has."""
    if options.label:
        return _read_classes(raw, file, options.label, keep_blank=options.unlabelled)
    if isinstance(options.labels, str):
        return _read_names(raw, file, options.labels, options.separator, options.negative)
    values = {LABEL_PREFIX + column: _read_flags(raw, file, column) for column in options.labels}
    return options.labels, pd.DataFrame(values), pd.Series(None, index=raw.index, dtype=object)


def _read_classes(
    raw: pd.DataFrame, file: Path, column: str, *, keep_blank: bool
) -> tuple[list[str], pd.DataFrame, pd.Series]:
    classes = identifiers(raw[column], file, column)
    measured = classes.str.fullmatch(_MEASURE).fillna(False).astype(bool)
    if measured.any():
        line, value = raw["line"][measured].iloc[0], classes[measured].iloc[0]
        raise UserError(f"{file}: line {line}: column {column!r} has {value!r}, which is a number and no class")
    labels = collect_labels(classes.dropna(), f"{file}: column {column!r}")
    unclear = pd.Series(None, index=raw.index, dtype=object)
    blank = classes.isna() & (not keep_blank)
    unclear[blank] = [f"line {line} of {file.name} has no label" for line in raw["line"][blank]]
    return labels, one_hot(classes, labels), unclear


def _read_flags(raw: pd.DataFrame, file: Path, column: str) -> pd.Series:
    """A column of 1, 0 and blank as float32."""
    value_of = {"": np.nan} | dict.fromkeys(TRUE, 1) | dict.fromkeys(FALSE, 0)
    flags = raw[column].str.lower().str.replace(r"^([01])[.,]0*$", r"\1", regex=True)
    unknown = ~flags.isin(value_of.keys())
    if unknown.any():
        line, cell = raw["line"][unknown].iloc[0], raw[column][unknown].iloc[0]
        known = "known are 1, 0, yes, no, true, false, and blank for unknown"
        if re.fullmatch(r"-1([.,]0*)?", cell):
            known = "-1 (uncertain) is not a label: blank it, or decide for 1 or 0"
        raise UserError(f"{file}: line {line}: column {column!r} has {cell!r}; {known}")
    return flags.map(value_of).astype(np.float32)


def _read_names(
    raw: pd.DataFrame, file: Path, column: str, separator: str, negative: list[str]
) -> tuple[list[str], pd.DataFrame, pd.Series]:
    codes, cells = pd.factorize(raw[column])
    named = [{name.strip() for name in cell.split(separator)} - {""} or {""} for cell in cells]  # `Mass|` is Mass
    where = f"{file}: column {column!r}"
    names = collect_labels(set().union(*named) - {""}, where, least=0)
    absent = next((name for name in negative if name and name not in names), None)
    if absent:
        raise UserError(f"{where}: {absent!r} of data.options.negative is nowhere in it; it has {', '.join(names)}")
    labels = collect_labels(set(names) - set(negative), where, least=1)
    values = np.array([[label in cell for label in labels] for cell in named], np.float32)[codes]

    unclear = pd.Series(None, index=raw.index, dtype=object)
    for code, cell in enumerate(named):
        none = cell & set(negative)
        if none and cell != none:
            reason = f"has the contradictory labels {cells[code]!r}"
        elif cell == {""} and not none:
            reason = 'has no label (where a blank means none, add "" to data.options.negative)'
        else:
            continue
        here = codes == code
        unclear[here] = [f"line {line} of {file.name} {reason}" for line in raw["line"][here]]
    columns = [LABEL_PREFIX + label for label in labels]
    return labels, pd.DataFrame(values, columns=columns, index=raw.index), unclear


def _sides(cells: pd.Series, raw: pd.DataFrame, file: Path, column: str) -> pd.Series:
    sides = cells.str.lower().map(SIDE_NAMES)
    unknown = sides.isna() & cells.notna()
    if unknown.any():
        line, cell = raw["line"][unknown].iloc[0], cells[unknown].iloc[0]
        raise UserError(f"{file}: line {line}: column {column!r} has {cell!r}; known are {', '.join(SIDE_NAMES)}")
    return sides


def _ages(cells: pd.Series, raw: pd.DataFrame, file: Path, column: str) -> tuple[pd.Series, list[str]]:
    found, notes = ages(cells, column)
    if cells.notna().any() and found.isna().all():
        line, cell = raw["line"][cells.notna()].iloc[0], cells.dropna().iloc[0]
        raise UserError(f"{file}: line {line}: column {column!r} has {cell!r}, and no age in any row; ages are years")
    return found, notes


def _describe(table: pd.DataFrame, options: Options) -> pd.DataFrame:
    """The rows of a `Source`, from joined ones."""
    folder = PurePosixPath(options.images).as_posix()
    image_id = table["image"] if folder == "." else table["image"].str.removeprefix(f"{folder}/")
    text = {
        name: table[name] if name in table else pd.Series(None, index=table.index, dtype="str")
        for name in ("patient", "group", "study", "view", "sex", "source", "mask")
    }
    groups = text["patient" if options.patient else "group"].fillna(image_id)
    if options.patient and options.group:
        groups = merge_groups(groups, table["path"], text["group"].set_axis(table["path"].map(compose)).dropna())
    sex = text["sex"].str.upper()
    rows = pd.DataFrame(
        {
            "image_id": image_id,
            "path": table["path"],
            "group_id": groups,
            "patient_id": text["patient"],
            "study_id": text["study"],
            "view": text["view"].str.upper(),
            "sex": sex.map(SEXES).fillna(sex),
            "source": text["source"],
            "mask": text["mask"],
            "age": table.get("age", np.nan),
        }
    )
    return pd.concat([rows, table.filter(regex=f"^{LABEL_PREFIX}")], axis=1)
