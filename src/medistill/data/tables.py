"""Label tables: reading them whatever their dialect, and joining their rows with the files that are there."""

import codecs
import gzip
import io
import math
import re
import unicodedata
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medistill.data.folders import Files, is_image_name
from medistill.errors import UserError

_DELIMITERS = ",;\t|"
_FLOAT_ID = r"[0-9]+\.0+"
_RUINED_ID = r"[0-9]+(\.[0-9]+)?[eE]\+[0-9]+"
_YEARS = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def read_table(
    path: Path, columns: Mapping[str, tuple[str, ...]] | None = None, *, optional: Collection[str] = ()
) -> pd.DataFrame:
    """Read a table of text with a header; nothing in it is turned into a number or a missing value.

    UTF-8 or UTF-16, with or without byte order mark; separated by comma, semicolon, tab or bar, whichever the header
    has most of; any line ends; `.gz` is unpacked. Rows may have more or fewer fields than the header.

    Args:
        path: the file.
        columns: column -> other spellings of it. They are found whatever their case, blanks and signs, and only they
            are returned, in this order; without it all columns are returned as they are named.
        optional: those of `columns` that may be missing; they are then empty.

    Returns:
        str columns, stripped of blanks, empty where a row has no such field; and `line`, int, the line of the file in
        which a row begins (from 1).

    Raises:
        UserError: the file is missing, is not such a table, has no rows, or lacks a column.
    """
    text = _read_text(path)
    header = text.lstrip("\r\n").split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=header.count)  # the comma where none occurs
    try:
        with warnings.catch_warnings():  # rows may end in one comma more than the header; index_col=False lets them
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            raw = pd.read_csv(
                io.StringIO(text),
                dtype=str,
                keep_default_na=False,
                index_col=False,
                sep=delimiter,
                skip_blank_lines=False,
            )
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path}: not a readable CSV file: {' '.join(str(error).split())}") from None
    raw = raw.fillna("")
    raw.columns = [str(name).strip() for name in raw.columns]
    # A quoted field may hold line ends; they are looked for only where the count of lines says so
    breaks = np.zeros(len(raw), np.int64)
    if text.count("\n") > len(raw) + 1:
        breaks = sum(raw[name].str.count("\n").to_numpy() for name in raw)
    lines = 2 + np.arange(len(raw)) + np.concatenate([[0], np.cumsum(breaks)[:-1]])[: len(raw)]
    if columns is not None:
        found = _find_columns(path, list(raw.columns), columns, optional)
        raw = pd.DataFrame({column: raw[name] if name else "" for column, name in found.items()}, index=raw.index)
    table = raw.apply(lambda column: column.str.strip())
    table["line"] = lines.astype(np.int64)
    table = table[(table.drop(columns="line") != "").any(axis=1)].reset_index(drop=True)
    if table.empty:
        raise UserError(f"{path}: no rows below the header")
    return table


def _read_text(path: Path) -> str:
    path = Path(path)
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".gz":
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line} is not valid {error.encoding.upper()}; save the file as UTF-8") from None
    if "\0" in text:
        raise UserError(f"{path}: not a readable CSV file: it holds zero bytes")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _find_columns(
    path: Path, header: list[str], columns: Mapping[str, tuple[str, ...]], optional: Collection[str]
) -> dict[str, str | None]:
    """The name in the header of each of `columns`; None for an optional one that is not there."""

    def plain(name: str) -> str:
        return re.sub(r"[^a-z0-9]", "", name.lower())

    known = {plain(name): name for name in reversed(header)}
    found = {}
    for column, spellings in columns.items():
        found[column] = next((known[plain(name)] for name in (column, *spellings) if plain(name) in known), None)
        if found[column] is None and column not in optional:
            raise UserError(f"{path}: column {column!r} is missing; it has {', '.join(header)}")
    return found


def identifiers(values: pd.Series, path: Path, column: str) -> pd.Series:
    """Ids as text, without what spreadsheets and pandas do to them; null where empty.

    A column of whole numbers that was saved as floats (`17.0`) loses the `.0`.

    Raises:
        UserError: an id has become `1.2E+18`: its last digits are gone.
    """
    ruined = values.str.fullmatch(_RUINED_ID)
    if ruined.any():
        raise UserError(
            f"{path}: column {column!r} has {values[ruined].iloc[0]!r}: a spreadsheet has rounded the ids;"
            " export the column as text"
        )
    floats = values.str.fullmatch(_FLOAT_ID)
    if floats.any() and values[~floats].str.fullmatch(r"[0-9]*").all():
        values = values.str.replace(r"\.0+$", "", regex=True)
    return values.where(values != "", None)


def years(text: str) -> float:
    """An age in years: `58`, `58.5`, `58,5`, or as DICOM has it, `058Y`, `006M`, `010D`; NaN for anything else."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([YMWD]?)", text.upper().replace(",", "."))
    return float(match[1]) * _YEARS[match[2]] if match else math.nan


@dataclass(frozen=True)
class Joined:
    """Rows that have their file, and all that is left out; see `join_files`."""

    rows: pd.DataFrame
    entries: int
    quarantined: list[tuple[str, str]]


def join_files(
    table: pd.DataFrame, files: Files, name: str, *, bad: pd.Series | None = None, missing: str = "{image}"
) -> Joined:
    """Join the rows of a label table with their files.

    Left out, each with its reason: rows without a file, rows whose file must not be read, rows that repeat an image
    (all of them where they contradict each other), rows that are `bad`, image files that no row names or whose name
    another file has.

    Args:
        table: `image`, the key of the row's file in `files`; `line`; and what else makes two rows of an image differ.
        files: as `find_files` found them.
        name: of the label table, for the reasons.
        bad: why a row cannot be used, null where it can; same index as `table`.
        missing: the path to show for a row without a file, where `image` is a bare name.

    Returns:
        `rows`: rows of `table` with `path` added, a new index; `entries`: rows of the table plus files that no row
        names; `quarantined`: (path, reason).
    """
    image = table["image"].map(lambda key: key if key.isascii() else unicodedata.normalize("NFC", key))
    reasons = pd.Series(None, index=table.index, dtype=object)

    def give(holds: pd.Series, text: str) -> None:
        here = holds & reasons.isna()
        reasons[here] = [text.replace("<line>", f"line {line}") for line in table["line"][here]]

    contents = table.drop(columns="line").assign(image=image)
    repeated = image.duplicated(keep=False)
    if repeated.any():
        variants = contents[repeated].drop_duplicates().groupby("image").size()
        give(
            image.isin(variants.index[variants > 1]),
            f"rows of {name} contradict each other about this image (<line>)",
        )
        give(image.duplicated(), f"<line> repeats an earlier row of {name}")
    if files.refused:
        refused = image.map({key: reason for key, (_, reason) in files.refused.items()})
        reasons = reasons.where(reasons.notna() | refused.isna(), refused)
    path = image.map(files.usable)
    give(path.isna(), f"listed in {name} (<line>), but there is no such file")
    if bad is not None:
        reasons = reasons.where(reasons.notna() | bad.isna(), bad)

    left_out = reasons.notna()
    there = files.keys()
    quarantined = [
        (files.path(key) if key in there else missing.replace("{image}", _printable(key)), reason)
        for key, reason in zip(image[left_out], reasons[left_out], strict=True)
    ]
    listed = set(image)
    unlisted = [key for key in sorted(there - listed) if is_image_name(key)]
    unnamed = f"no row of {name} names this image"
    quarantined += [files.refused.get(key, (files.path(key), unnamed)) for key in unlisted]
    surplus = [(path, reason) for path, reason in files.surplus if is_image_name(path)]
    quarantined += surplus
    rows = table[~left_out].assign(path=path[~left_out].astype("str")).reset_index(drop=True)
    return Joined(rows, len(table) + len(unlisted) + len(surplus), quarantined)


def _printable(key: str) -> str:
    """A name from a table, fit for one line of a report."""
    return key.encode("unicode_escape").decode() if not key.isprintable() else key or "(empty)"
