"""Labels from the columns of a table: one class per row, columns of 1 and 0, or names in one column.

Each reader of a column returns float32 columns `label:<Name>` (1, 0, NaN where unknown) and for each row the
reason why it has no usable label, null if it has one.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from medistill.data.reading.source import collect_labels, one_hot
from medistill.data.reading.tables import identifiers
from medistill.errors import UserError
from medistill.records.data import LABEL_PREFIX

TRUE = ("1", "true", "yes", "t", "y")
FALSE = ("0", "false", "no", "f", "n")

_MEASURE = r"-[0-9.,]+|[0-9]*[.,][0-9]+"
"""Numbers that cannot be names of classes: negative ones and fractions."""


def read_classes(
    raw: pd.DataFrame, file: Path, column: str, *, keep_blank: bool
) -> tuple[list[str], pd.DataFrame, pd.Series]:
    """A column of classes; `keep_blank`: a row with a blank cell is unlabelled, not unusable."""
    classes = identifiers(raw[column], file, column)
    measured = classes.str.fullmatch(_MEASURE).fillna(False).astype(bool)
    if measured.any():
        line, value = raw["line"][measured].iloc[0], classes[measured].iloc[0]
        raise UserError(f"{file}: line {line}: column {column!r} has {value!r}, which is a number, not a class")
    labels = collect_labels(classes.dropna(), f"{file}: column {column!r}")
    unclear = pd.Series(None, index=raw.index, dtype=object)
    unclear[classes.isna() & (not keep_blank)] = "has no label"
    return labels, one_hot(classes, labels), with_line(unclear, raw, file)


def read_flags(raw: pd.DataFrame, file: Path, column: str, *, uncertain: float | None = None) -> pd.Series:
    """A column of 1, 0 and blank as float32.

    `uncertain`: what -1 counts as; None: it is an error like any other cell that is neither 1, 0 nor blank.
    """
    value_of = {"": np.nan} | dict.fromkeys(TRUE, 1) | dict.fromkeys(FALSE, 0)
    if uncertain is not None:
        value_of["-1"] = uncertain
    flags = raw[column].str.lower().str.replace(r"^(-1|[01])[.,]0*$", r"\1", regex=True)
    unknown = ~flags.isin(value_of.keys())
    if unknown.any():
        line, cell = raw["line"][unknown].iloc[0], raw[column][unknown].iloc[0]
        known = "known are 1, 0, yes, no, true, false, and blank for unknown"
        if re.fullmatch(r"-1([.,]0*)?", cell):
            known = "set data.options.uncertainty to ignore, ones or zeros for -1 (uncertain)"
        raise UserError(f"{file}: line {line}: column {column!r} has {cell!r}; {known}")
    return flags.map(value_of).astype(np.float32)


def read_names(
    raw: pd.DataFrame, file: Path, column: str, separator: str | None, negative: list[str]
) -> tuple[list[str], pd.DataFrame, pd.Series]:
    """A column of names of labels, divided by `separator` (None: one name); `negative`: names that mean no label."""
    codes, cells = pd.factorize(raw[column])
    parts = [cell.split(separator) if separator else [cell] for cell in cells]
    named = [{name.strip() for name in part} - {""} or {""} for part in parts]  # `Mass|` is Mass
    where = f"{file}: column {column!r}"
    names = collect_labels(set().union(*named) - {""}, where, least=0)
    absent = next((name for name in negative if name and name not in names), None)
    if absent:
        raise UserError(f"{where}: {absent!r} of data.options.negative does not occur; values are {', '.join(names)}")
    labels = collect_labels(set(names) - set(negative), where, least=1)
    values = np.array([[label in cell for label in labels] for cell in named], np.float32)
    reasons = np.full(len(cells), None, object)
    for code, cell in enumerate(named):
        none = cell & set(negative)
        if none and cell != none:
            reasons[code] = f"has the contradictory labels {cells[code]!r}"
        elif cell == {""} and not none:
            reasons[code] = 'has no label (where a blank means none, add "" to data.options.negative)'
            values[code] = np.nan
    columns = [LABEL_PREFIX + label for label in labels]
    unclear = pd.Series(reasons[codes], index=raw.index, dtype=object)
    return labels, pd.DataFrame(values[codes], columns=columns, index=raw.index), with_line(unclear, raw, file)


def exclude(values: pd.DataFrame, *, keep_blank: bool) -> tuple[pd.DataFrame, pd.Series]:
    """Columns of exclusive labels, exactly one of which is 1 in each row, as classes.

    A blank beside a 1 is 0.

    Args:
        values: columns of 1, 0 and NaN.
        keep_blank: a row in which all are unknown is unlabelled, not unusable.

    Returns:
        `values` with one 1 in each row, or NaN everywhere; and why a row has no class, null where it has one.
    """
    ones, blank = values.eq(1).sum(axis=1), values.isna().all(axis=1)
    reasons = pd.Series(None, index=values.index, dtype=object)
    several = ones > 1
    names = [column.removeprefix(LABEL_PREFIX) for column in values.columns]
    reasons[several] = [
        "is of several classes, " + " and ".join(name for name, value in zip(names, row, strict=True) if value == 1)
        for row in values[several].to_numpy()
    ]
    reasons[(ones == 0) & ~blank] = "is of no class: no label is 1"
    if not keep_blank:
        reasons[blank] = "has no label"
    one = ones == 1
    return values.mask(one, values.eq(1).astype(np.float32)).mask(~one).astype(np.float32), reasons


def with_line(reasons: pd.Series, raw: pd.DataFrame, file: Path) -> pd.Series:
    """Reasons with the line of the table that they are about; null for rows without a reason."""
    given = reasons.notna()
    told = "line " + raw["line"][given].astype(str) + f" of {file.name} " + reasons[given]
    return reasons.where(~given, told).astype(object)
