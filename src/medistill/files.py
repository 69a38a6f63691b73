"""Reading and writing files so that a reader never sees an incomplete one, and a full disk is a one-line error."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medistill.errors import UserError, remedy, system_error
from medistill.text import shortened, to_json

if TYPE_CHECKING:
    import numpy as np

_MARK = r"\.[0-9a-f]{8}\.tmp"
"""End of the name of the folder in which `atomic` lets write: `.NAME.0a1b2c3d.tmp`, beside NAME."""

_ABOUT_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_ABOUT_FOLDERS = (errno.ENOTDIR, errno.EEXIST)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path, renamed onto `path` when the block ends without an exception.

    The block may create a file or a folder there; an older file or folder at `path` is replaced.
    After an exception nothing is left and `path` is unchanged. Leftovers of killed writers of `path` are removed.

    Raises:
        UserError: the system refuses to write: the disk is full, read-only, …
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        with _private_folder(path) as folder:
            temporary = folder / path.name
            yield temporary
            _replace(temporary, path)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors in writing within the block into one line with the reason, whichever library writes.

    Raises:
        UserError: the system refuses to write `path`.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        known = system_error(error)
        if known is None:
            raise
        final = Path(*(part for part in path.parts if not re.fullmatch(rf"\..+{_MARK}", part)))
        folder = final.parent if final.parent.parts else Path.cwd()
        reason = remedy(known)
        if known.errno in _ABOUT_FOLDERS:
            reason = f"{next((p for p in (folder, *folder.parents) if p.is_file()), final)} is in the way; move it away"
        elif known.filename and known.errno not in _ABOUT_WRITING and not _is_at(known.filename, path.parent):
            raise UserError(f"{known.filename}: {reason}") from None  # something that is read meanwhile
        raise UserError(f"{folder}: {final.name} cannot be written: {reason}") from None


def _is_at(file: Any, folder: Path) -> bool:
    """Whether a file is in a folder, or is one of its parents."""
    file, folder = Path(os.path.abspath(file)), Path(os.path.abspath(folder))
    return file.is_relative_to(folder) or folder.is_relative_to(file)


@contextlib.contextmanager
def _private_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, gone afterwards; it is locked as long as its writer lives."""
    while True:
        folder = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        folder.mkdir()
        lock = _lock(folder, wait=True)
        if folder.exists():  # else another writer took it for a leftover before it was locked
            break
        if lock is not None:
            os.close(lock)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _replace(temporary: Path, path: Path) -> None:
    """Rename `temporary` onto `path`."""
    if not temporary.is_dir() or not path.is_dir():
        os.replace(temporary, path)
        return
    before = temporary.with_name(".before")  # rename cannot replace a folder that has files in it
    os.rename(path, before)
    try:
        os.rename(temporary, path)
    except OSError:
        os.rename(before, path)
        raise


def _remove_leftovers(path: Path) -> None:
    """Remove leftovers of killed writers beside `path`, which may be large; files of live writers stay."""
    with os.scandir(path.parent) as entries:
        left = [Path(entry) for entry in entries if re.fullmatch(rf"\.{re.escape(path.name)}{_MARK}", entry.name)]
    for place in left:
        if (lock := _lock(place, wait=False)) is not None:
            remove(place)
            os.close(lock)


def _lock(place: Path, *, wait: bool) -> int | None:
    """A descriptor that holds the lock of a file or folder, which the kernel drops when its holder ends in any way.

    None where another holds it, or where the file system has no such locks: then it is unknown whether its writer
    lives.
    """
    try:
        import fcntl  # POSIX only, like all training; a device that only predicts may have another system

        descriptor = os.open(place, os.O_RDONLY)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def locked(path: Path, *, taken: str | None) -> Iterator[None]:
    """Hold a lock that the kernel drops when its holder ends, however it ends; the file stays.

    Args:
        path: the file that is locked; it holds the process id of the holder.
        taken: the message if another process holds it, `{holder}` its process id; None: wait for it.

    Raises:
        UserError: another process holds it, or the system refuses to write it.
    """
    import fcntl

    with contextlib.ExitStack() as stack:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("a+b", buffering=0))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if taken else 0))
        except BlockingIOError:
            file.seek(0)
            assert taken is not None  # without it the call waits
            raise UserError(taken.replace("{holder}", file.read().decode().strip() or "unknown")) from None
        with writing(path):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        yield


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, whichever is there."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def reserve(path: Path) -> None:
    """Allocate the disk space of a sparse file: without it, a write to its memory map on a full disk ends as SIGBUS."""
    with writing(path), path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except AttributeError:  # macOS has no such call
            pass
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # nor have some file systems
                raise


def write_array(path: Path, array: "np.ndarray") -> None:
    """Write a `.npy` file. Unlike `numpy.save`, it says why a write was incomplete."""
    import numpy as np

    array = np.ascontiguousarray(array)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON in UTF-8, atomically; NaN and infinity are refused (`ValueError`)."""
    text = to_json(value) + "\n"
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_regular(path: Path, *, limit: int) -> bytes:
    """Content of a file that is not larger than `limit` bytes.

    Raises:
        UserError: the file is missing, too large, cannot be read, or is a folder, pipe or device, which may never end.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: not a regular file")
        if status.st_size > limit:
            raise UserError(f"{path}: has {status.st_size:,} bytes; more than {limit:,} are not read")
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


LARGEST_JSON = 2**28
"""Bytes; all files that are written here are far smaller."""


def read_json(path: Path, *, limit: int = LARGEST_JSON) -> Any:
    """Read a JSON file of at most `limit` bytes.

    Raises:
        UserError: the file cannot be read, or is not JSON: NaN and a key that is twice in an object are none, either.
    """
    content = read_regular(path, limit=limit)
    try:
        return json.loads(
            content.decode("utf-8-sig"), object_pairs_hook=_without_repeated_keys, parse_constant=_refuse_constant
        )
    except RecursionError:
        raise UserError(f"{path}: not valid JSON (nested too deeply)") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


def _without_repeated_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"the key {shortened(repr(repeated), 100)} is there twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def sha256(path: Path | None) -> str | None:
    """Checksum of a file's content, hex; None if there is no file."""
    if path is None or not Path(path).is_file():
        return None
    return digest(path)


def digest(path: Path) -> str:
    """Checksum of the content of a file that exists, SHA-256 in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
