"""Whether a folder is the one that a data set's owner means, and where that one may be."""

import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from medistill.data.folders import is_hidden
from medistill.errors import UserError

_LOOKED_INTO = 500
"""Folders below the root at most that are searched for what is missing in it."""


def packed(name: str) -> tuple[str, str]:
    """A table as it is called, and as it is called when it is packed."""
    return name, f"{name}.gz"


def find_table(root: Path, names: Sequence[str]) -> Path:
    """The first of these files or folders that is in the root.

    Args:
        root: the data set's folder.
        names: relative to it, the best first.

    Raises:
        UserError: none is there; the message says in which folder near the root one is.
    """
    found = next((root / name for name in names if (root / name).exists()), None)
    if found:
        return found
    raise UserError(f"{root}: no {' or '.join(names)} in it{advise(root, names)}")


def advise(root: Path, names: Sequence[str]) -> str:
    """Which folder near the root has one of these, for the end of a message; empty where none has."""
    near = _find_near(root, names)
    return f"; set data.root to {near}, which holds it" if near else ""


def _find_near(root: Path, names: Sequence[str]) -> Path | None:
    """A folder above or below the root that has one of these."""
    above = [folder for folder in root.resolve().parents[:2] if any((folder / name).exists() for name in names)]
    if above:
        return above[0]
    waiting = deque([root])
    for _ in range(_LOOKED_INTO):
        if not waiting:
            break
        folder = waiting.popleft()
        if folder != root and any((folder / name).exists() for name in names):
            return folder
        try:
            with os.scandir(folder) as entries:
                below = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue
        waiting += [folder / name for name in sorted(below) if not is_hidden(name)]
    return None
