"""Finding the file that a cell of a table names."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import pandas as pd

from medistill.data.reading.folders import Files, compose, is_image_name
from medistill.data.reading.source import split_of
from medistill.data.reading.tables import identifiers
from medistill.errors import UserError
from medistill.text import pluralise

_ABSOLUTE = r"/|[A-Za-z]:/"

ADVICE = "write the whole path, or set data.options.images and masks to the right folders"


class _Names:
    """The names under which the files of a folder can be found.

    Attributes:
        paths: path relative to the folder or to the root -> key.
        stems: such a path without suffix -> keys.
        bare: name, and name without suffix -> keys.
    """

    def __init__(self, files: Files, folder: str) -> None:
        prefix = "" if folder in ("", ".") else PurePosixPath(folder).as_posix() + "/"
        self.paths: dict[str, str] = {}
        self.stems: dict[str, set[str]] = defaultdict(set)
        self.bare: dict[str, set[str]] = defaultdict(set)
        for key in sorted(files.keys()):
            path = key.removeprefix(prefix)
            self.paths |= {path: key, key: key}
            self.bare[path.rpartition("/")[2]].add(key)
            if is_image_name(path):
                stem = _without_suffix(path)
                self.stems[stem].add(key)
                self.bare[stem.rpartition("/")[2]].add(key)

    def of(self, cell: str) -> set[str]:
        """Files that a path or name may mean."""
        if cell in self.paths:
            return {self.paths[cell]}
        found = self.stems.get(cell, set()) | self.bare.get(cell, set())
        if found or "/" not in cell:
            return found
        alike = self.bare.get(cell.rpartition("/")[2], set())
        return {
            key for key in alike if f"/{key}".endswith(f"/{cell}") or f"/{_without_suffix(key)}".endswith(f"/{cell}")
        }

    def ending(self, cell: str) -> set[str]:
        """Files whose whole path is the end of a longer path; of several the longest."""
        parts = cell.split("/")
        for first in range(1, len(parts)):
            end = "/".join(parts[first:])
            if end in self.paths:
                return {self.paths[end]}
            if end in self.stems:
                return self.stems[end]
        return set()


def _without_suffix(path: str) -> str:
    return path.rpartition(".")[0]


def locate(raw: pd.DataFrame, file: Path, column: str, files: Files, folder: str) -> tuple[pd.Series, list[str]]:
    """The key in `files` of the file that each cell of a column means; the cell itself if there is no such file.

    A cell is a path relative to the folder or the root, or the name of one file in whatever folder, or the end of the
    path of one; each with or without suffix, and as Windows writes it. A path of another machine
    (`/home/me/xrays/a/17.png`, `D:/xrays/a/17.png`; or any, where no cell names a file as it is) means the file whose
    own path is its end, `a/17.png`.

    Args:
        raw: the table, `line` among its columns.
        file: it was read from, for messages.
        column: its name.
        files: the image files, by path.
        folder: they are in, relative to the root.

    Returns:
        str (N,), "" for a blank; and a sentence on paths of another machine.

    Raises:
        UserError: a cell may mean several files, or two paths of another machine the same one.
    """
    names = _Names(files, folder)
    cells = identifiers(raw[column], file, column).fillna("")
    key_of, foreign = {"": ""}, {}

    def only(cell: str, found: set[str]) -> str | None:
        if len(found) > 1:
            first, second = sorted(found)[:2]
            line = raw["line"][cells == cell].iloc[0]
            raise UserError(f"{file}: line {line}: column {column!r}: {cell!r} may be {first} or {second}; {ADVICE}")
        return next(iter(found), None)

    for cell in cells[cells != ""].unique():
        spelt = compose(cell)
        if spelt not in names.paths:
            spelt = spelt.replace("\\", "/").removeprefix("./")  # tables come from Windows, too
        key = only(cell, names.of(spelt))
        key_of[cell] = key or cell
        if key is None and ".." not in spelt.split("/"):
            foreign[cell] = spelt
    strange = len(key_of) - 1 == len(foreign)  # no cell names a file as it is
    distant = {cell: spelt for cell, spelt in foreign.items() if strange or re.match(_ABSOLUTE, spelt)}
    found = {cell: only(cell, names.ending(spelt)) for cell, spelt in distant.items()}
    if not any(found.values()) and _lie_in_one_folder(distant.values()):
        found = {cell: only(cell, names.of(PurePosixPath(spelt).name)) for cell, spelt in distant.items()}
    joined = {cell: key for cell, key in found.items() if key}
    twice = _one_file_of_two_cells(joined, {cell: key for cell, key in key_of.items() if cell not in foreign})
    if twice:
        cell, other = twice
        line = raw["line"][cells == cell].iloc[0]
        both = f"{cell!r} and {other!r} may both be {joined[cell]}"
        raise UserError(f"{file}: line {line}: column {column!r}: {both}; {ADVICE}")
    if not joined:
        return cells.map(key_of), []
    cell, key = next(iter(joined.items()))
    count = pluralise(int(cells.isin(joined.keys()).sum()), "cell")
    note = f"{count} of column {column!r} with a path of another machine, matched by its last parts: {cell!r} is {key}"
    return cells.map(key_of | joined), [note]


def _lie_in_one_folder(paths: Iterable[str]) -> bool:
    """Whether all paths of another machine lie in one folder, which then does not distinguish them.

    The folder of a split does not count: a file in `test` there is not the file of the same name in `train` here.
    """
    folders = {PurePosixPath(path).parent for path in paths}
    return len(folders) == 1 and all(
        re.match(_ABSOLUTE, str(folder)) and not any(split_of(part) for part in folder.parts) for folder in folders
    )


def _one_file_of_two_cells(found: Mapping[str, str], known: Mapping[str, str]) -> tuple[str, str] | None:
    """A cell that was found by its end, and another cell that has the same file; None where there is none.

    Both are cells -> keys of files; `known` are those that name their file as it is.
    """
    cell_of = {key: cell for cell, key in known.items()}
    for cell, key in found.items():
        if cell_of.setdefault(key, cell) != cell:
            return cell, cell_of[key]
    return None


def by_stem(files: Files, folder: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Name without suffix -> key of the image in a folder that has it: for tables that name an image by its id.

    Of several images the one whose suffix comes first in `suffixes`; other suffixes come last, in alphabetical order.
    """

    def rank(key: str) -> tuple[int, str]:
        suffix = PurePosixPath(key).suffix.lower()
        return (suffixes.index(suffix) if suffix in suffixes else len(suffixes)), key

    keys = [key for key in files.keys() if key.startswith(f"{folder}/") and files.is_image(files.path(key))]  # noqa: SIM118
    found: dict[str, str] = {}
    for key in sorted(keys, key=rank):
        name = key.rpartition("/")[2]
        found.setdefault(name.rpartition(".")[0] if is_image_name(name) else name, key)
    return found
