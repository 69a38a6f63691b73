"""What is left out of a data set: quarantine.csv, and how much of it is allowed."""

from pathlib import Path

import pandas as pd

from medistill.data.settings import Data, quarantine_limit
from medistill.errors import UserError
from medistill.files import atomic
from medistill.layout import DataFolder
from medistill.records.data import QUARANTINE_COLUMNS
from medistill.text import printable


def require_few(quarantined: list[tuple[str, str]], entries: int, data: Data, cache: Path) -> None:
    """Raise `UserError` if more is left out than the settings allow."""
    if len(quarantined) <= quarantine_limit(data.max_quarantined, entries):
        return
    what = f"{len(quarantined)} of {entries} entries cannot be used, more than data.max_quarantined"
    raise UserError(f"{data.root}: {what} ({data.max_quarantined:g}) allows; {list_left_out(quarantined, cache)}")


def list_left_out(quarantined: list[tuple[str, str]], cache: Path) -> str:
    """Write everything that is left out to the cache, and name the first entry."""
    listing = DataFolder(cache).quarantine
    write_quarantine(listing, quarantined)
    path, reason = min(quarantined)
    return f"the first: {path}: {reason}; all: {listing}"


def write_quarantine(path: Path, quarantined: list[tuple[str, str]]) -> None:
    """Write quarantine.csv, sorted by path."""
    with atomic(path) as temporary:
        rows = [(_as_cell(path), printable(reason)) for path, reason in sorted(quarantined)]
        pd.DataFrame(rows, columns=list(QUARANTINE_COLUMNS)).to_csv(temporary, index=False, lineterminator="\n")


def _as_cell(path: str) -> str:
    """A path without control characters, which no spreadsheet takes for a formula: `./=x` is the same file as `=x`."""
    shown = printable(path)
    return f"./{shown}" if shown.startswith(("=", "+", "-", "@")) else shown
