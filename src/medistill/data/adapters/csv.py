"""Any table of images: the options say what its columns are.

    data:
      format: csv
      root: hospital              # holds table.csv and images/17.png ...
      options:
        images: images            # the folder of the image files
        path: image               # the column that names them: path, name, or name without its suffix
        labels: [Mass, Effusion]  # one column per label: 1, 0, or blank where unknown
        patient: patient_id       # no patient is ever in two splits

In place of a list of columns,

        label: severity           # one class per image: mild, moderate ...

        labels: findings          # any number of findings in one column: `Mass|Effusion`
        separator: "|"
        negative: [No Finding]    # the cell of an image without any

or

        labels: [COVID, Pneumonia, Normal]
        exclusive: true           # one of them is 1 in each row: classes

Tables with several rows per image, one for each box and each reader, are read by

        path: image_id
        labels: class_name
        negative: [No finding]
        readers: rad_id           # the reader who found it
        vote: majority            # how they become one label
        boxes: {x_min: x_min, y_min: y_min, x_max: x_max, y_max: y_max}

The table may be separated by comma, semicolon, tab or bar, be UTF-8 or UTF-16, and be packed (`.csv.gz`).
"""

import contextlib
import os
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field, ValidationInfo, field_validator, model_validator

from medistill.data.reading.boxes import ABSENT, BoxColumns, upheld
from medistill.data.reading.folders import Files, compose, find_files, require_folder, suggest_root
from medistill.data.reading.label_columns import exclude, read_classes, read_flags, read_names, with_line
from medistill.data.reading.locate import locate
from medistill.data.reading.readers import Vote, vote
from medistill.data.reading.source import SPLIT_NAMES, Source, no_boxes, split_of
from medistill.data.reading.tables import (
    ages,
    describe_header,
    describe_instead,
    identifiers,
    join_files,
    read_header,
    read_table,
)
from medistill.data.reading.uncertainty import Policy, by_label, value_of
from medistill.data.splits import merge_groups
from medistill.errors import UserError
from medistill.records.data import LABEL_PREFIX
from medistill.settings import Settings
from medistill.task import Task
from medistill.text import pluralise

TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
DETAILS = ("patient", "group", "study", "view", "sex", "age", "source", "split")
SEXES = {"MALE": "M", "FEMALE": "F"}


class Options(Settings):
    """The keys of `data.options`: names of columns, except for the folders, `table` and choices of words."""

    table: str = ""
    """The table, relative to the root; empty: the only one there."""
    images: str = "."
    """Folder of the image files, relative to the root; folders within it are looked into."""
    path: str
    """The image file: its path within `images`, or its name, with or without suffix, if only one file has it; see
    `locate` for paths of another machine."""
    label: str | None = None
    """One class per image; a row where it is blank is left out."""
    labels: str | list[str] | None = None
    """Any number of findings per image: columns of 1 (also true, yes), 0 (false, no) and blank (unknown), each the
    name of a label; or one column of names, with `separator` or, where a row has one box, one name in a row."""
    separator: str | None = Field(default=None, min_length=1)
    """The separator of the names in the column `labels`."""
    negative: list[str] = Field(default=[])
    """Names in the column `labels` that mean none of the findings; an empty one, "", for a blank."""
    exclusive: bool = False
    """Of the columns `labels` one is 1 in each row: they are classes. Rows with none or several are left out."""
    unlabelled: bool = False
    """Keep the rows without a class (`label`, or columns that exclude each other): for recipes that learn from what
    teachers say of them."""
    uncertainty: dict[str, Policy] = Field(default=ABSENT)
    """What -1 counts as in the columns `labels`: `ones`, `zeros`, or `ignore`: unknown. One word for all of them, or a
    mapping with a default: `{Atelectasis: ones, default: zeros}`. Without it, -1 is an error."""
    readers: str | None = None
    """The column of readers: an image has one row per reader, and they vote."""
    vote: Vote = "majority"
    """What readers say together; see `medistill.data.reading.readers.Vote`."""
    boxes: BoxColumns = Field(default=ABSENT)
    """Where the findings are: an image has a row for each box."""
    patient: str | None = None
    """All images of a patient are in one split."""
    group: str | None = None
    """Further groups whose images must be in one split: a family, a source picture."""
    study: str | None = None
    view: str | None = None
    sex: str | None = None
    age: str | None = None
    """Years, or as DICOM has them: `058Y`, `006M`."""
    source: str | None = None
    """Scanner, hospital or collection."""
    split: str | None = None
    """The split, for `data.split: official`: train, val, test or another word for one of them; see `SPLIT_NAMES`."""
    mask: str | None = None
    """A picture, white (at least half of its brightest value) at the findings: named like `path`, within `masks`;
    blank if there is none."""
    masks: str = "."
    """Folder of the masks, relative to the root."""

    @field_validator("*", mode="before")
    @classmethod
    def _not_a_word_of_yaml(cls, value: Any, info: ValidationInfo) -> Any:
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if info.field_name not in ("unlabelled", "exclusive") and any(isinstance(item, bool) for item in items):
            raise ValueError("no, yes, on, off, true and false are booleans in YAML; put the name in quotes")
        return value

    @field_validator("uncertainty", mode="before")
    @classmethod
    def _by_label(cls, value: Any, info: ValidationInfo) -> Any:
        labels = info.data.get("labels")
        if not isinstance(labels, list):
            raise ValueError("is for columns of 1, 0 and -1: labels: [COLUMN, ...]")
        return by_label(value, labels)

    @model_validator(mode="after")
    def _one_kind_of_label(self) -> "Options":
        if (self.label is None) == (self.labels is None):
            raise ValueError("set either label: COLUMN (one class per image) or labels (any number of findings)")
        if not (self.label or self.labels):
            raise ValueError("label or labels names no column")
        if isinstance(self.labels, str) and self.separator is None and self.boxes is None and self.readers is None:
            raise ValueError(
                f"labels: {self.labels} needs separator, the text between the names in that column;"
                f" a column of 1 and 0 is labels: [{self.labels}]"
            )
        if not isinstance(self.labels, str) and (self.separator is not None or self.negative):
            raise ValueError("separator and negative go with labels: COLUMN only")
        if isinstance(self.labels, list) and len(set(self.labels)) < len(self.labels):
            raise ValueError("labels names a column twice")
        return self

    @model_validator(mode="after")
    def _what_goes_with_what(self) -> "Options":
        if self.exclusive and not (isinstance(self.labels, list) and len(self.labels) > 1):
            raise ValueError(
                "exclusive: true needs several columns, of which one is 1 in each row: labels: [COLUMN, COLUMN, ...]"
            )
        if self.unlabelled and self.labels and not self.exclusive:
            raise ValueError(
                "unlabelled is for label: COLUMN or exclusive: true; with other labels a blank is always unknown"
            )
        if "vote" in self.model_fields_set and self.readers is None:
            raise ValueError("vote needs readers: COLUMN, the column with the reader's name")
        return self

    @property
    def task(self) -> Task:
        """Whether the labels exclude each other."""
        return Task.MULTICLASS if self.label or self.exclusive else Task.MULTILABEL

    def columns(self) -> dict[str, str]:
        """Column of each option that names one."""
        single = ("path", "label", "labels", "readers", "mask", *DETAILS)
        named = {key: getattr(self, key) for key in single if isinstance(getattr(self, key), str)}
        if isinstance(self.labels, list):
            named |= {f"labels.{number}": column for number, column in enumerate(self.labels)}
        boxes = self.boxes.columns() if self.boxes else {}
        return named | {f"boxes.{key}": column for key, column in boxes.items()}


def read(root: Path, options: Options) -> Source:
    """Join a table with its image files; no pixel is decoded.

    Rows that differ in nothing but their box, or in reader and label, are one entry.

    Left out with a reason: rows whose image or mask is missing, rows that repeat an image (all of them where they
    contradict each other), rows without a label, images that no row names and that are no row's mask.

    Raises:
        UserError: the table or one of its columns is missing, a cell of a label or split has an unknown value,
            a box is invalid, or a name may be that of several files; the message names file, line and column.
    """
    root = require_folder(root)
    file = _find_table(root, options.table)
    wanted, known = options.columns(), read_header(file)
    for option, column in wanted.items():
        if column not in known:
            raise UserError(
                f"{file}: data.options.{option} names the column {column!r}, which is not there;"
                f" its columns are {describe_header(known)}"
            )
        if column == "line":  # as `read_table` calls the number of a row
            raise UserError(f"{file}: data.options.{option}: a column cannot be called 'line'; rename it in the table")
    raw = read_table(file, dict.fromkeys(wanted.values(), ()))
    labels, values, unclear = _read_labels(raw, file, options)
    boxes = _read_boxes(raw, file, options, labels, values)

    files = _find_files(root, options.images, "images")
    table, lost, files, notes = _read_table(raw, file, root, options, files)
    unclear = unclear.fillna(lost)

    joined = pd.concat([table, values], axis=1)
    if options.readers or options.boxes:
        joined, unclear, of_rows = _merge_rows(joined, raw, file, unclear, options)
        notes += of_rows
    if options.exclusive or (options.label and options.readers):
        joined[values.columns], classless = exclude(joined[values.columns], keep_blank=options.unlabelled)
        if options.label:
            classless[classless.notna()] = "has readers who do not agree on a class"
        unclear = unclear.fillna(with_line(classless, joined, file))
    found = join_files(joined, files, file.name, bad=unclear)
    rows = found.rows
    described = _describe(rows, options)
    image_ids = pd.Series(described["image_id"].to_numpy(), index=rows["image"])
    boxes, of_boxes = upheld(boxes.assign(image_id=table["image"][boxes.index].map(image_ids)), described)
    return Source(
        labels=labels,
        task=options.task,
        rows=described,
        entries=found.entries,
        quarantined=found.quarantined,
        boxes=boxes,
        boxes_in="pixels" if options.boxes and options.boxes.in_pixels else "fractions",
        notes=notes + of_boxes,
        official=rows["split"] if options.split else None,
        official_files=f"the splits of column {options.split!r}" if options.split else "splits (data.options.split)",
    )


def _read_table(
    raw: pd.DataFrame, file: Path, root: Path, options: Options, files: Files
) -> tuple[pd.DataFrame, pd.Series, Files, list[str]]:
    """All columns of a table about its images, except labels.

    Returns:
        `line`, `image` (a key of `files`), `mask` (a path) and `DETAILS`, as far as the options name them; why the mask
        of a row cannot be used, null where it can; the files that are not masks; and notes for the user.
    """
    image, notes = locate(raw, file, options.path, files, options.images)
    table = pd.DataFrame({"line": raw["line"], "image": image})
    lost = pd.Series(None, index=raw.index, dtype=object)
    if options.mask:
        masks = _find_files(root, options.masks, "masks")
        mask, of_masks = locate(raw, file, options.mask, masks, options.masks)
        notes += of_masks
        table["mask"] = mask.map(masks.usable)
        missing = (mask != "") & table["mask"].isna()
        refused = {key: f"its mask {reason}" for key, (_, reason) in masks.refused.items()}
        lost[missing] = [refused.get(key, f"its mask {key!r} is not there") for key in mask[missing]]
        files = files.without(set(mask) - set(table["image"]))
    for option in DETAILS:
        column = getattr(options, option)
        if column:
            table[option] = identifiers(raw[column], file, column)
    if options.split:
        table["split"] = _read_splits(table["split"], raw, file, options.split)
    if options.age:
        table["age"], of_ages = _ages(table["age"], raw, file, options.age)
        notes += of_ages
    return table, lost, files, notes


def _find_table(root: Path, name: str) -> Path:
    if name:
        return _within(root, name, "table")
    found = _tables(root)
    if not found:
        below = suggest_root(root, _tables, above=False)
        advice = below or describe_instead(root) or suggest_root(root, _tables) or "; set data.options.table"
        raise UserError(f"{root}: no table found: no file ends in {', '.join(TABLES)}{advice}")
    if len(found) > 1:
        raise UserError(f"{root}: several files may be the table; set data.options.table to one of {', '.join(found)}")
    return root / found[0]


def _tables(folder: Path) -> list[str]:
    """Names of the files in a folder that end as tables do; none where it must not be read."""
    with contextlib.suppress(OSError), os.scandir(folder) as scan:
        return sorted(entry.name for entry in scan if entry.is_file() and entry.name.lower().endswith(TABLES))
    return []


def _find_files(root: Path, name: str, option: str) -> Files:
    if not _within(root, name, option).is_dir():
        raise UserError(f"{root / name}: no such folder; set data.options.{option} to a folder in data.root")
    return find_files(root, [PurePosixPath(name).as_posix()], recursive=True)


def _within(root: Path, name: str, option: str) -> Path:
    """A file or folder of the data set; one outside is refused, since DVC would not notice its changes."""
    if not (root / name).resolve().is_relative_to(root.resolve()):
        raise UserError(
            f"{root / name}: lies outside of data.root; set data.options.{option} to a folder or file in it"
        )
    return root / name


def _read_labels(raw: pd.DataFrame, file: Path, options: Options) -> tuple[list[str], pd.DataFrame, pd.Series]:
    """Label names, their float32 columns, and why a row has no label, null if it has one."""
    if options.label:
        return read_classes(raw, file, options.label, keep_blank=options.unlabelled)
    if isinstance(options.labels, str):
        return read_names(raw, file, options.labels, options.separator, options.negative)
    values = {}
    labels = options.labels or []  # one of the three ways is given
    for column in labels:
        uncertain = value_of(options.uncertainty, column) if options.uncertainty else None
        values[LABEL_PREFIX + column] = read_flags(raw, file, column, uncertain=uncertain)
    return labels, pd.DataFrame(values), pd.Series(None, index=raw.index, dtype=object)


def _merge_rows(
    table: pd.DataFrame, raw: pd.DataFrame, file: Path, unclear: pd.Series, options: Options
) -> tuple[pd.DataFrame, pd.Series, list[str]]:
    """One row per image of a table with a row for each reader or box.

    A reader's rows of an image must agree; with one name per row, the reader affirms all names of these rows.

    Args:
        table: `line`, `image`, details and labels of each row.
        raw: all columns that were read of the table, same index.
        file: the table, for messages.
        unclear: why a row cannot be used, null where it can.
        options: the names of the columns.

    Returns:
        Its rows, with labels that hold for the image: the first of an image, and all those that repeat another in every
        cell or differ in more than boxes, readers and labels; why a row cannot be used; and notes for the user.
    """
    columns = [column for column in table.columns if column.startswith(LABEL_PREFIX)]
    readers = pd.Series("", index=raw.index)
    if options.readers:
        readers = identifiers(raw[options.readers], file, options.readers)
        if readers.isna().any():
            line = raw["line"][readers.isna()].iloc[0]
            raise UserError(f"{file}: line {line}: column {options.readers!r} is empty; name the reader")
    alone = raw.drop(columns="line").duplicated() | (table["image"] == "")  # join_files has words for these
    image, readers, answers = table["image"][~alone], readers[~alone], table.loc[~alone, columns]
    verdict = vote(answers, image, readers, options.vote)

    differ = _contradictory(answers, [image, readers], one_name=isinstance(options.labels, str))
    wrong = unclear.mask(table[columns].isna().all(axis=1))  # a reader without any answer does not vote
    wrong[differ.index[differ]] = f"rows of {file.name} contradict each other about this image"
    merged = table.copy()
    merged[columns] = verdict.values.reindex(table["image"]).to_numpy()
    unclear = unclear.where(merged[columns].isna().all(axis=1))
    unclear = table["image"].map(wrong.groupby(table["image"]).first()).fillna(unclear)

    kept = alone | ~merged.drop(columns="line").duplicated()
    notes = verdict.notes if options.readers else []
    if not kept.all():
        notes = [f"{len(table):,} rows of {file.name} describe {pluralise(len(verdict.values), 'image')}", *notes]
    return merged[kept], unclear[kept].astype(object), notes


def _contradictory(answers: pd.DataFrame, by: list[pd.Series], *, one_name: bool) -> pd.Series:
    """Whether the rows of an image by one reader contradict each other, by row.

    Args:
        answers: columns of labels.
        by: image and reader of each row.
        one_name: a row names one of several findings, or none; else each row has all labels of the image.
    """
    if one_name:
        none = answers.eq(0).all(axis=1).groupby(by).transform("any")
        return none & answers.eq(1).any(axis=1).groupby(by).transform("any")
    return (answers.fillna(-1).groupby(by).transform("nunique") > 1).any(axis=1)


def _read_boxes(
    raw: pd.DataFrame, file: Path, options: Options, labels: list[str], values: pd.DataFrame
) -> pd.DataFrame:
    """`label`, `x`, `y`, `w`, `h` of each box and label that it shows, by the index of its row."""
    if not options.boxes:
        return no_boxes().drop(columns="image_id")
    boxes = options.boxes.read(raw, file)
    column = options.boxes.label
    shown = values.loc[boxes.index].set_axis(labels, axis=1)
    if column:
        names = raw[column][boxes.index]
        unknown = ~names.isin(labels)
        if unknown.any():
            line, name = raw["line"][boxes.index][unknown].iloc[0], names[unknown].iloc[0]
            raise UserError(f"{file}: line {line}: the box's label {name!r} is unknown; known are {', '.join(labels)}")
        shown = pd.DataFrame({label: names == label for label in labels}, dtype="float32")
    nothing = shown.eq(0).all(axis=1)
    if nothing.any():
        line = raw["line"][boxes.index][nothing].iloc[0]
        raise UserError(
            f"{file}: line {line}: has a box, but no label is 1; set data.options.boxes.label to the column with the"
            " box's label"
        )
    rows, places = np.nonzero(shown.to_numpy() == 1)
    return boxes.iloc[rows].assign(label=np.array(labels)[places])


def _read_splits(cells: pd.Series, raw: pd.DataFrame, file: Path, column: str) -> pd.Series:
    splits = cells.map({cell: split_of(cell) for cell in cells.dropna().unique()})
    unknown = splits.isna() & cells.notna()
    if unknown.any():
        line, cell = raw["line"][unknown].iloc[0], cells[unknown].iloc[0]
        raise UserError(f"{file}: line {line}: column {column!r} has {cell!r}; known are {', '.join(SPLIT_NAMES)}")
    return splits


def _ages(cells: pd.Series, raw: pd.DataFrame, file: Path, column: str) -> tuple[pd.Series, list[str]]:
    found, notes = ages(cells, column)
    if cells.notna().any() and found.isna().all():
        line, cell = raw["line"][cells.notna()].iloc[0], cells.dropna().iloc[0]
        raise UserError(f"{file}: line {line}: column {column!r} has {cell!r}, and no row has an age in years")
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
