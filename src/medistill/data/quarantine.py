"""What is left out of a data set: quarantine.csv, and how much of it is allowed."""

from pathlib import Path

import pandas as pd

from medistill.data.settings import Data, quarantine_limit
from medistill.errors import UserError
from medistill.files import atomic
from medistill.layout import DataFolder
from medistill.records.data import QUARANTINE_COLUMNS, UNLABELLED
from medistill.text import as_cell, printable


def require_few(quarantined: list[tuple[str, str]], entries: int, extra: int, data: Data, cache: Path) -> None:
    """Raise `UserError` if more is left out than the settings allow.

    Args:
        quarantined: (path, reason) of all that is left out.
        entries: number of entries of the data set.
        extra: number of images of `data.unlabelled`, which are judged apart: many of them excuse nothing.
        data: the settings.
        cache: folder for a list of what is left out.
    """
    own = [item for item in quarantined if not item[0].startswith(UNLABELLED)]
    others = [item for item in quarantined if item[0].startswith(UNLABELLED)]
    for folder, left_out, total in ((data.root, own, entries), (data.unlabelled, others, extra)):
        if len(left_out) > quarantine_limit(data.max_quarantined, total):
            what = f"{len(left_out)} of {total} entries cannot be used, more than data.max_quarantined"
            raise UserError(f"{folder}: {what} ({data.max_quarantined:g}) allows; {list_left_out(left_out, cache)}")


def list_left_out(quarantined: list[tuple[str, str]], cache: Path) -> str:
    """Write everything that is left out to the cache, and name the first entry."""
    listing = DataFolder(cache).quarantine
    write_quarantine(listing, quarantined)
    path, reason = min(quarantined)
    return f"the first: {path}: {reason}; all: {listing}"


def write_quarantine(path: Path, quarantined: list[tuple[str, str]]) -> None:
    """Write quarantine.csv, sorted by path."""
    with atomic(path) as temporary:
        rows = [(as_cell(path), printable(reason)) for path, reason in sorted(quarantined)]
        pd.DataFrame(rows, columns=list(QUARANTINE_COLUMNS)).to_csv(temporary, index=False, lineterminator="\n")
