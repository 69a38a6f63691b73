"""Label tables: reading them whatever their dialect, and joining their rows with the files that are there."""

import codecs
import contextlib
import csv
import gzip
import io
import math
import os
import re
import warnings
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from medistill.data.reading.folders import Files, compose, is_image_name, suggest_root
from medistill.errors import UserError
from medistill.kinds import HEAD, describe_kind, describe_picture
from medistill.text import pluralise, printable

_DELIMITERS = ",;\t|"
_MORE_THAN_HEADER = "the header has fewer columns; quote cells that contain the delimiter, or name every column"
_EXPORT = "save the table in it as CSV in UTF-8"
_FLOAT_ID = r"[0-9]+\.0+"
_RUINED_ID = r"[0-9]+(\.[0-9]+)?[eE]\+[0-9]+"
_YEARS = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


def read_table(path: Path, columns: Mapping[str, tuple[str, ...]], *, optional: Collection[str] = ()) -> pd.DataFrame:
    """Read columns of a table of text with a header; nothing in it is turned into a number or a missing value.

    UTF-8 or UTF-16, with or without byte order mark; separated by comma, semicolon, tab or bar, whichever the header
    has most of, or as the line `sep=;` says that spreadsheets put above it; any line ends; what gzip has packed is
    unpacked, whatever its name. Any row may end in more delimiters than the header; blank rows are passed over.

    Args:
        path: the file.
        columns: column -> other spellings of it, in the order in which they are returned. A name is matched exactly,
            else without regard to case, blanks and punctuation.
        optional: those of `columns` that may be missing; they are then empty.

    Returns:
        str columns, stripped of blanks; and `line`, int, the line of the file in which a row begins (from 1).

    Raises:
        UserError: the file is missing, is not such a table, has no rows, lacks a column or has it twice; a row ends
            before one that is not optional (a cut-off cell must not be read as an empty one); or a row has more cells
            than the header has names (its cells may be shifted).
    """
    text, delimiter, first = _from_header_on(path)
    try:
        reader = csv.reader(io.StringIO(text), delimiter=delimiter)
        header = [name.strip() for name in next(reader)]
        begins, fields = _measure_rows(reader, path, header, first)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            raw = pd.read_csv(
                io.StringIO(text),
                dtype=str,
                keep_default_na=False,
                index_col=False,
                usecols=range(len(header)),  # else a row with a delimiter more than the first would be an error
                sep=delimiter,
                skip_blank_lines=False,
            )
    except (csv.Error, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path}: not a readable CSV file: {' '.join(str(error).split())}") from None
    if len(raw) != len(begins):
        raise UserError(f"{path}: not a readable CSV file: it has an unmatched quote")
    raw.columns = pd.RangeIndex(raw.shape[1])  # pandas renames a name that is there twice
    lines = first + begins
    places = _find_columns(path, header, columns, optional)
    for column, place in places.items():
        if place is not None and column not in optional:
            _require_field(path, column, raw[fields <= place], lines[fields <= place])
    table: pd.DataFrame = pd.DataFrame(
        {c: "" if place is None else raw[place] for c, place in places.items()}, index=raw.index
    )
    table = table.apply(lambda column: column.str.strip())
    table["line"] = lines
    table = table[(table.drop(columns="line") != "").any(axis=1)].reset_index(drop=True)
    if table.empty:
        raise UserError(f"{path}: no rows below the header")
    return table


def read_header(path: Path) -> list[str]:
    """Names of a table's columns, stripped of blanks; `UserError` as for `read_table`."""
    return read_fields(path, rows=1)[0][1]


def read_fields(path: Path, *, rows: int | None = None) -> list[tuple[int, list[str]]]:
    """Rows of a table whose header does not name all fields: line of the file, fields stripped of blanks.

    The header comes first; blank rows are left out. Dialects and `UserError` as for `read_table`.

    `rows`: read no more than these.
    """
    text, delimiter, first = _from_header_on(path)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    try:
        found = [(first - 1 + reader.line_num, [field.strip() for field in row]) for row in islice(reader, rows)]
    except csv.Error as error:
        raise UserError(f"{path}: not a readable CSV file: {error}") from None
    found = [(line, row) for line, row in found if any(row)]
    if not found:
        raise UserError(f"{path}: not a readable CSV file: it has no header")
    return found


def _from_header_on(path: Path) -> tuple[str, str, int]:
    """The text of a table from its header on, its delimiter, and the line of the file in which the header begins."""
    text = read_text(path)
    table = text.lstrip("\n")
    declared = re.match(r'"?sep=(.)"?\n', table, re.IGNORECASE)
    if declared:
        table = table[declared.end() :].lstrip("\n")
    if not table:
        raise UserError(f"{path}: not a readable CSV file: it is empty")
    header = table.split("\n", 1)[0]
    delimiter = declared[1] if declared else max(_DELIMITERS, key=header.count)  # the comma where none occurs
    return table, delimiter, 1 + text.count("\n") - table.count("\n")


def _measure_rows(reader: Any, path: Path, header: list[str], first: int) -> tuple[np.ndarray, np.ndarray]:
    """For each remaining row of a `csv.reader`: the number of lines before it, the header's included, and its fields.

    pandas does not say how many fields a row has: it fills up those that are too short, and cuts off what is too long.
    """
    ends, fields = [reader.line_num], []
    for row in reader:
        if len(row) > len(header):
            require_no_more(row, len(header), f"{path}: line {first + ends[-1]}", _MORE_THAN_HEADER)
        ends.append(reader.line_num)  # a quoted field may hold line ends
        fields.append(len(row))
    return np.array(ends[:-1], np.int64), np.array(fields, np.int64)


def require_no_more(row: Sequence[str], most: int, where: str, advice: str) -> None:
    """Refuse a row with content beyond its first `most` fields; empty fields at its end are ignored.

    Args:
        row: its fields.
        most: how many there may be.
        where: file and line, for the message.
        advice: what to do, for the message.
    """
    if any(field.strip() for field in row[most:]):
        filled = max(place for place, field in enumerate(row, 1) if field.strip())
        raise UserError(f"{where} has {filled} fields, more than {most}: {advice}")


def _require_field(path: Path, column: str, short: pd.DataFrame, lines: np.ndarray) -> None:
    """Refuse rows that end before a column, unless they are blank."""
    told = np.zeros(len(short), bool)
    for place in short:
        told |= (short[place].str.strip() != "").to_numpy()
    if told.any():
        raise UserError(
            f"{path}: line {lines[told.argmax()]} ends before column {column!r}: the file is cut off, or the row"
            " lacks fields"
        )


def find_table(folder: Path, *names: str) -> Path | None:
    """The first of these files in a folder, under its name or packed as `NAME.gz`; None if there is none."""
    files = (folder / f"{name}{packed}" for name in names for packed in ("", ".gz"))
    return next((file for file in files if file.is_file()), None)


def require_table(root: Path, *names: str) -> Path:
    """The table of a data set under one of these names, packed or not.

    Raises:
        UserError: none is in the root; the message says what is there instead, or which folder has one.
    """
    found = find_table(root, *names)
    if found:
        return found
    advice = describe_instead(root, *(PurePosixPath(name).stem for name in names))
    advice = advice or suggest_root(root, lambda folder: find_table(folder, *names) is not None)
    raise UserError(f"{root}: no {' or '.join(names)} in it, compressed (.gz) or not{advice}")


def describe_instead(folder: Path, *beginnings: str) -> str:
    """What to add to a message that a table is missing: a file that may hold it in a form that is not read, if any.

    Args:
        folder: where the table should be.
        beginnings: how that file's name may begin, in any case; empty: any file.
    """
    begins = tuple(beginning.lower() for beginning in beginnings) or ("",)
    with contextlib.suppress(OSError), os.scandir(folder) as scan:
        names = sorted(entry.name for entry in scan if entry.is_file() and not is_image_name(entry.name))
        for name in names:
            if name.lower().startswith(begins) and not name.lower().endswith((".html", ".htm", ".xml", ".pdf")):
                with open(folder / name, "rb") as file:
                    kind = describe_kind(file.read(HEAD))
                if kind:
                    return f"; {name} is there, {kind[0]}: {kind[1] or _EXPORT}"
    return ""


def read_text(path: Path) -> str:
    """The text of a file in UTF-8 or UTF-16, packed by gzip or not, with `\n` at the end of each line.

    Raises:
        UserError: the file is missing or is not text; the message says what kind of file it is.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # to open a pipe would wait for ever
            raise UserError(f"{path}: is not a file")
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    _require_text(path, content[:HEAD])
    encoding = _encoding(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line} is not valid {error.encoding.upper()}; save the file as UTF-8") from None
    if "\0" in text:
        raise UserError(f"{path}: not a readable CSV file: it holds zero bytes; save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _require_text(path: Path, head: bytes) -> None:
    kind, picture = describe_kind(head), describe_picture(head)
    if kind:
        what, advice = kind
        raise UserError(f"{path}: is {what}, not a table of text; {advice or _EXPORT}")
    if picture:
        raise UserError(f"{path}: is {picture}, not a table of text")


def _encoding(content: bytes) -> str:
    """UTF-8 or UTF-16, by the byte order mark or, where there is none, by the zeros beside the first two letters."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zeros = tuple(byte == 0 for byte in content[:4])
    if zeros == (False, True, False, True):
        return "utf-16-le"
    return "utf-16-be" if zeros == (True, False, True, False) else "utf-8-sig"


def _find_columns(
    path: Path, header: list[str], columns: Mapping[str, tuple[str, ...]], optional: Collection[str]
) -> dict[str, int | None]:
    """The place in the header of each of `columns`; None for an optional one that is not there."""

    def plain(name: str) -> str:
        return re.sub(r"[^a-z0-9]", "", name.lower())

    places = {}
    for column, spellings in columns.items():
        alike: list[int] = []
        for name in (column, *spellings):
            alike = alike or [place for place, found in enumerate(header) if found == name]
            alike = alike or [place for place, found in enumerate(header) if plain(found) == plain(name)]
        if len(alike) > 1:
            names = " or ".join(dict.fromkeys(repr(header[place]) for place in alike))
            raise UserError(f"{path}: {len(alike)} columns are named {names}; keep one of them")
        if not alike and column not in optional:
            raise UserError(f"{path}: column {column!r} is missing; it has {describe_header(header)}")
        places[column] = alike[0] if alike else None
    return places


def describe_header(header: Sequence[str]) -> str:
    """The names in a header for a message, and what to do where blanks separate them or they look like a row."""
    names = ", ".join(header)
    # a table separated by blanks is read as one column
    cells = header[0].split() if len(header) == 1 else [name for name in header if name]
    numbers = [re.fullmatch(r"-?[0-9]+([.,][0-9]+)?", cell) for cell in cells]
    advice = []
    if len(cells) > len(header):
        advice.append(f"the header is one column; if blanks separate {len(cells)} columns, save the table with commas")
    if any(is_image_name(cell) for cell in cells) or (numbers and all(numbers)):
        advice.append("this looks like a row; put a line with the names of the columns above it")
    return f"{names}: {'; '.join(advice)}" if advice else names


def identifiers(values: pd.Series, path: Path, column: str) -> pd.Series:
    """Ids as text, undoing changes by spreadsheets and pandas; null where empty.

    A column of whole numbers that was saved as floats (`17.0`) loses the `.0`.

    Raises:
        UserError: an id has become `1.2E+18`: its last digits are gone.
    """
    ruined = values.str.fullmatch(_RUINED_ID)
    if ruined.any():
        raise UserError(
            f"{path}: column {column!r} has {values[ruined].iloc[0]!r}: a spreadsheet seems to have rounded the ids;"
            " export the column as text"
        )
    floats = values.str.fullmatch(_FLOAT_ID)
    if floats.any() and values[~floats].str.fullmatch(r"[0-9]*").all():
        values = values.str.replace(r"\.0+$", "", regex=True)
    return values.where(values != "", None)


def require_filled(table: pd.DataFrame, path: Path, column: str) -> None:
    """Raise `UserError` if a cell of a column is empty; the message names its line."""
    empty = table[column] == ""
    if empty.any():
        raise UserError(f"{path}: line {table['line'][empty].iloc[0]}: column {column!r} is empty")


def years(text: str) -> float:
    """An age in years: `58`, `58.5`, `58,5`, or as DICOM has it, `058Y`, `006M`, `010D`; NaN for anything else."""
    match = re.fullmatch(r"(-?[0-9]+(?:\.[0-9]+)?)\s*([YMWD]?)", text.upper().replace(",", "."))
    return float(match[1]) * _YEARS[match[2]] if match else math.nan


def ages(cells: pd.Series, column: str) -> tuple[pd.Series, list[str]]:
    """A column of ages in years, float64, NaN where there is none; and a note on cells that are not ages."""
    found = cells.fillna("").map({text: years(text) for text in cells.fillna("").unique()}).astype("float64")
    strange = cells[found.isna() & (cells.fillna("") != "")]
    if strange.empty:
        return found, []
    return found, [f"{pluralise(len(strange), 'cell')} in column {column!r} without a valid age: {strange.iloc[0]!r}"]


@dataclass(frozen=True)
class Joined:
    """Rows with their file, and everything that is left out; see `join_files`."""

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
        table: `image`, the key of the row's file in `files`; `line`; and the columns in which two rows of one image may
            contradict each other.
        files: as `find_files` found them.
        name: of the label table, for the reasons.
        bad: why a row cannot be used, null where it can; same index as `table`.
        missing: the path to show for a row without a file, where `image` is a bare name.

    Returns:
        `rows`: rows of `table` with `path` added, a new index; `entries`: rows of the table plus files that no row
        names; `quarantined`: (path, reason).
    """
    image = table["image"].map(compose)
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
        (files.path(key) if key in there else missing.replace("{image}", printable(key) or "(empty)"), reason)
        for key, reason in zip(image[left_out], reasons[left_out], strict=True)
    ]
    listed = set(image)
    unlisted = [key for key in sorted(there - listed) if files.is_image(files.path(key))]
    unnamed = f"no row of {name} names this image"
    quarantined += [files.refused.get(key, (files.path(key), unnamed)) for key in unlisted]
    surplus = [(path, reason) for path, reason in files.surplus if files.is_image(path)]
    quarantined += surplus
    rows = table[~left_out].assign(path=path[~left_out].astype("str")).reset_index(drop=True)
    return Joined(rows, len(table) + len(unlisted) + len(surplus), quarantined)
