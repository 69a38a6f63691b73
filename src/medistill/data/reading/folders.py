"""The image files of a data set's folder, and nothing outside it."""

import contextlib
import os
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medistill.data.reading.masks import is_mask_folder, refuse_masks
from medistill.errors import UserError
from medistill.kinds import HEAD, describe_kind

IMAGE_SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".tif", ".tiff"}
    | {".bmp", ".gif", ".webp", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".dcm", ".dicom"}
)
"""Suffixes of the formats that `medistill.images` reads. A file that no row names is listed in the quarantine if it has
one of these or is a DICOM file of any name; `Thumbs.db` and the like are not."""

_PACKED = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")

_LEVELS = 3
"""How far below a folder `suggest_root` looks."""

_LOOKED_INTO = 500
"""How many folders `suggest_root` looks into at most: some data sets have one per patient."""

_OUTSIDE = "is a link that leads out of the data set's folder"
_NOT_TEXT = "its name is not valid UTF-8; rename the file"


def compose(text: str) -> str:
    """Text in Unicode's composed form (NFC), in which names are compared, since file systems store either form."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


@dataclass(frozen=True)
class Files:
    """The image files in the folders of a data set.

    Attributes:
        usable: key -> path relative to the root (POSIX). The key is the path, or the bare name; see `find_files`.
        refused: key -> (path, reason) of files that must not or cannot be read.
        surplus: (path, reason) of files with the same key as another file.
        dicom: paths of DICOM files without an image's suffix, such as `IM0001` and `1.2.840.99`.
    """

    usable: dict[str, str]
    refused: dict[str, tuple[str, str]]
    surplus: list[tuple[str, str]]
    dicom: set[str] = field(default_factory=set)

    def keys(self) -> set[str]:
        """Keys of all files, usable or not."""
        return self.usable.keys() | self.refused.keys()

    def path(self, key: str) -> str:
        """Path of a file, usable or not."""
        return self.usable[key] if key in self.usable else self.refused[key][0]

    def is_image(self, path: str) -> bool:
        """Whether a file looks like an image, by its name or its content."""
        return is_image_name(path) or path in self.dicom

    def joined_by(self, others: "Files", rename: Callable[[str], str]) -> "Files":
        """These files together with others whose keys are renamed; of two files with one key the first counts."""
        joined = Files(dict(self.usable), dict(self.refused), self.surplus + others.surplus, self.dicom | others.dicom)
        for key in sorted(others.keys()):
            new, path = rename(key), others.path(key)
            if new in joined.usable or new in joined.refused:
                joined.surplus.append((path, _second_of(joined.path(new))))
            elif key in others.usable:
                joined.usable[new] = path
            else:
                joined.refused[new] = others.refused[key]
        return joined

    def without(self, keys: Collection[str]) -> "Files":
        """All files but these, for files that a table excludes."""
        return Files(
            {key: path for key, path in self.usable.items() if key not in keys},
            {key: found for key, found in self.refused.items() if key not in keys},
            self.surplus,
            self.dicom,
        )


def require_folder(root: Path, wanted: str = "set data.root to the data set's folder") -> Path:
    """`root` as a path; `UserError`, which ends in what is `wanted`, if it is not a folder or cannot be read."""
    root = Path(root)
    try:
        with os.scandir(root):
            return root
    except FileNotFoundError:
        raise UserError(f"{root}: no such folder; {wanted}") from None
    except NotADirectoryError:
        what, unpack = _describe_file(root)
        raise UserError(f"{root}: is {what}, not a folder; {unpack}{wanted}") from None
    except OSError as error:
        raise UserError(f"{root}: the folder cannot be read: {error.strerror}") from None


def require_within(root: Path, folder: str) -> None:
    """Refuse a data set's folder that lacks the folder `folder`; `UserError` says which folder near it has one."""
    if not (root / folder).is_dir():
        raise UserError(f"{root}: no folder {folder} in it{suggest_root(root, lambda near: (near / folder).is_dir())}")


def _describe_file(file: Path) -> tuple[str, str]:
    """The kind of a file that was given for a folder, and what to do with it first."""
    if not file.is_file():
        return "no file", ""
    with open(file, "rb") as stream:
        kind = describe_kind(stream.read(HEAD))
    if not kind:
        return "a file", ""
    return kind[0], f"{kind[1]} and " if kind[1] else ""


def suggest_root(root: Path, would_do: Callable[[Path], object], *, above: bool = True) -> str:
    """What to add to a message that a folder is not the data set's: the nearest folder that is, or archives to unpack.

    Args:
        root: what `data.root` is.
        would_do: true of a folder in which a data set of the format lies.
        above: whether to look above `root`, too.
    """
    found: list[Path] = []
    nearest = _LEVELS
    for folder, level in _folders_below(root):
        if level <= nearest and would_do(folder):
            found.append(folder)
            nearest = level
    if not found and (packed := _describe_packed(root)):
        return packed  # before the folders above, where another download may lie
    if above and not found:
        found = [folder for folder in root.resolve().parents[:2] if would_do(folder)][:1]
    return f"; set data.root to {' or to '.join(map(str, found[:3]))}" if found else ""


def _describe_packed(root: Path) -> str:
    with contextlib.suppress(OSError), os.scandir(root) as scan:
        names = sorted(entry.name for entry in scan if entry.name.lower().endswith(_PACKED) and entry.is_file())
        return f"; {names[0]} is there: unpack it" if names else ""
    return ""


def _folders_below(root: Path) -> Iterator[tuple[Path, int]]:
    """Folders below `folder` with their depth, nearest first; hidden folders and links are skipped."""
    waiting = [(root, 0)]
    for looked_into, (folder, level) in enumerate(waiting):
        if level:
            yield folder, level
        if level < _LEVELS and looked_into < _LOOKED_INTO:
            with contextlib.suppress(OSError), os.scandir(folder) as scan:
                names = [entry.name for entry in scan if entry.is_dir(follow_symlinks=False)]
                waiting += [(folder / name, level + 1) for name in sorted(names)[:_LOOKED_INTO] if not is_hidden(name)]


def find_files(root: Path, folders: Iterable[str], *, recursive: bool = False, by: str = "path") -> Files:
    """Index the files of some folders of a data set.

    Rows of a label table find their file only through this index, so a name such as `../x.png` or a
    link leads nowhere. Keys are in Unicode's composed form (NFC): file systems may store the same name composed or
    decomposed. Of two files of one name the first outside of a folder of masks counts.

    Args:
        root: the data set's folder.
        folders: folders to look into, relative to `root`, in order; `.` for the root itself.
        recursive: also look into the folders below them, but into none that is hidden or `__MACOSX`.
        by: what a key is: `path`, relative to the root, or `name`, where folders only spread out the files.

    Raises:
        UserError: one of the folders leads out of `root` or cannot be read, or below them is a link to a folder:
            following it might read an image twice, skipping it might lose images.
    """
    root = Path(root)
    real_root = root.resolve()
    files = Files({}, {}, [])
    for folder in folders:
        _require_inside(root, folder, real_root)
        waiting = [folder]
        while waiting:
            current = waiting.pop()
            prefix = "" if current == "." else f"{current}/"
            try:
                with os.scandir(f"{root}/{current}") as scan:  # root / current takes as long as reading the folder
                    found = sorted(scan, key=lambda entry: entry.name)
            except OSError as error:
                raise UserError(f"{root / current}: the folder cannot be read: {error.strerror}") from None
            for entry in found:
                path = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    if recursive and not is_hidden(entry.name):
                        waiting.append(path)
                    continue
                # entry.is_dir() fails for a link to itself
                if recursive and entry.is_symlink() and not is_hidden(entry.name) and Path(entry).is_dir():
                    _require_inside(root, path, real_root)
                    raise UserError(
                        f"{root / path}: is a link to a folder; put the folder itself there, or remove the link"
                    )
                _add(files, entry, path, real_root, by)
    return files


def _require_inside(root: Path, folder: str, real_root: Path) -> None:
    if not (root / folder).resolve().is_relative_to(real_root):
        raise UserError(f"{root / folder}: is a link that leads out of {root}; move the images there or set data.root")


def is_hidden(folder: str) -> bool:
    """Whether a folder of this name belongs to a program that handled the data set, not to the data set."""
    return folder.startswith(".") or folder == "__MACOSX"


def _add(files: Files, entry: os.DirEntry[str], path: str, real_root: Path, by: str) -> None:
    reason = None
    if not path.isascii():
        shown = os.fsencode(path).decode("utf-8", "backslashreplace")
        if shown != path:
            path, reason = shown, _NOT_TEXT
    if reason is None and entry.is_symlink():
        target = Path(os.path.realpath(entry))  # unlike resolve(), gives a path for a link to itself too
        if not target.is_relative_to(real_root):
            reason = _OUTSIDE
        elif target.is_dir():
            return
    if not is_image_name(path) and reason != _OUTSIDE and _is_dicom(entry):
        files.dicom.add(path)
    key = compose(path if by == "path" else path.rpartition("/")[2])
    if key in files.usable and by == "name" and _among_masks(files.usable[key]) and not _among_masks(path):
        files.surplus.append((files.usable.pop(key), _second_of(path)))
    if key in files.usable or key in files.refused:
        files.surplus.append((path, _second_of(files.path(key))))
    elif reason is None:
        files.usable[key] = path
    else:
        files.refused[key] = (path, reason)


def _second_of(path: str) -> str:
    return f"a second file of this name, the first is {path}"


def _among_masks(path: str) -> bool:
    return any(is_mask_folder(folder) for folder in path.split("/")[:-1])


def is_image_name(name: str) -> bool:
    """Whether a file of this name looks like an image; see `IMAGE_SUFFIXES`."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _is_dicom(file: os.DirEntry[str]) -> bool:
    if file.name == "DICOMDIR":  # the table of contents of a disc
        return False
    try:
        if not file.is_file():  # to open a pipe would wait for ever
            return False
        with open(file, "rb", buffering=0) as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def list_images(files: Files) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The image files of a data set without a label table: each of them is an entry.

    Returns:
        Key -> path of those that may be read; (path, reason) of the others.

    Raises:
        UserError: among them is the mask of another.
    """
    usable = {key: path for key, path in files.usable.items() if files.is_image(path)}
    refuse_masks(usable.values())
    others = [*files.refused.values(), *files.surplus]
    return usable, [(path, reason) for path, reason in others if files.is_image(path)]
