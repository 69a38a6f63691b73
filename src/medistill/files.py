"""Reading and writing files so that a reader never sees half of one."""

import contextlib
import glob
import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medistill.errors import UserError
from medistill.text import shortened, to_json


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`, renamed onto it when the block ends without an exception.

    The block may create a file or a folder there; an older file or folder at `path` is replaced.
    After an exception nothing is left and `path` is as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        if temporary.is_dir() and path.exists():
            shutil.rmtree(path)  # rename cannot replace a folder that has files in it
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers of `path` have left beside it, which may be large.

    Only for whoever is alone in writing it: `atomic` cannot know what another process is still at work on.
    """
    for left in Path(path).parent.glob(f".{glob.escape(Path(path).name)}.????????.tmp"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextlib.contextmanager
def locked(path: Path, *, taken: str | None) -> Iterator[None]:
    """Hold a lock that the kernel drops when its holder ends, however it ends; the file stays.

    Args:
        path: the file that is locked; it holds the process id of who has locked it.
        taken: what to say where another process holds it, `{holder}` its process id; None: wait for it.

    Raises:
        UserError: another process holds it.
    """
    import fcntl  # POSIX only, as is all that trains; a device that only predicts may have another system

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if taken else 0))
        except BlockingIOError:
            file.seek(0)
            raise UserError(taken.replace("{holder}", file.read().strip() or "unknown")) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


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
"""Bytes; no file that is written here comes near."""


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


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {shortened(repr(repeated), 100)} is there twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def sha256(path: Path | None) -> str | None:
    """Checksum of a file's content, hex; None where there is no file."""
    if path is None or not Path(path).is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
