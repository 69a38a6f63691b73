"""Records: JSON files with checksums of themselves and of files beside them, and reading files that may be damaged.

Every stage writes a record of its outputs: config.json of a model, dataset.json, knowledge.json, and so on.
Its key `files` has the SHA-256 of each file by its name from the record's folder, and `record_sha256` is that of all
other keys. So a file between stages is read as it was written, or the reader gets an error that says what to run again.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

from medistill.errors import UserError, is_out_of_memory
from medistill.files import digest, read_json, write_json
from medistill.layout import HERE
from medistill.text import shortened

OWN = "record_sha256"
"""Key of a record's own checksum."""

INGEST_AGAIN = "run the ingest stage again"
TRAIN_AGAIN = "train the model again"
TEACH_AGAIN = "run the teach stage again"
EXPORT_AGAIN = "export the model again"
"""What to do if an output of a stage is damaged or does not fit; all messages end with these words."""

_REPORTS, _EXPORT = HERE.reports, HERE.export("any")
_AGAIN = {
    HERE.processed.record.name: INGEST_AGAIN,
    _REPORTS.audit.name: "run the audit stage again",
    _REPORTS.validation.name: "run the validate stage again",
    HERE.model("any").config.name: TRAIN_AGAIN,
    HERE.knowledge("any").record.name: TEACH_AGAIN,
    _REPORTS.evaluation_record.name: "run the evaluate stage again",
    _REPORTS.explain.record.name: "run the explain stage again",
    _REPORTS.stress.record.name: "run the stress stage again",
    _EXPORT.bundle.name: EXPORT_AGAIN,
    _EXPORT.latency.name: EXPORT_AGAIN,
}
"""The same by the name of the record that is damaged, or that names the damaged file."""

_HOW = "dvc repro; with --force if it sees no change"

LICENSES_AGAIN = f"run the licenses stage again ({_HOW})"
"""The same for its files, each of which has the name of a model."""

_FRESH = 2_000_000_000
"""Nanoseconds: a file that has just been written may change once more without a new time of change."""

_known: dict[tuple[int, ...], str] = {}


def write_record(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON object with its own checksum, atomically; its key `files`, if any, is from `checksums`."""
    write_json(path, {**value, OWN: _own_checksum(value)})


def checksums(files: Iterable[Path], folder: Path) -> dict[str, str]:
    """The SHA-256 of each file by its name from `folder`, sorted by name."""
    return {file.relative_to(folder).as_posix(): digest(file) for file in sorted(files)}


def read_record(path: Path, again: str | None = None) -> dict[str, object]:
    """Read a record that is as it was written; of the files beside it nothing is said.

    Args:
        path: the record's.
        again: what to do if it is missing or damaged; None: run the stage that writes it.

    Raises:
        UserError: it is missing, damaged or changed, or has no checksum; the message says what to run.
    """
    path, again = Path(path), again or what_to_run(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; {again}")
    return require_own(path, read_json_or(path, again), again)


def read_json_or(path: Path, again: str) -> object:
    """Read a JSON file.

    Raises:
        UserError: it is missing or damaged; the message ends with `again`.
    """
    try:
        return read_json(path)
    except UserError as error:
        raise UserError(f"{error}; {again}") from None


def require_own(path: Path, content: object, again: str) -> dict[str, object]:
    """Hold what a record's file has been found to contain against its own checksum, which is left out of the answer.

    Raises:
        UserError: the checksum is missing or wrong; the message names the file and ends with `again`.
    """
    if not isinstance(content, dict) or content.get(OWN) is None:
        raise UserError(f"{path}: has no checksum, so an older version of medistill wrote it; {again}")
    said = {key: value for key, value in content.items() if key != OWN}
    if content[OWN] != _own_checksum(said):
        raise UserError(f"{path}: damaged or changed: its {OWN} does not match; {again}")
    return said


def require_whole(path: Path, names: Collection[str] | None = None, again: str | None = None) -> dict[str, object]:
    """Read a record, and hold files that it names against their checksums, each once in a process.

    Args:
        path: the record's.
        names: of the files, as the record has them; None: all.
        again: as for `read_record`.

    Returns:
        The content of the record.

    Raises:
        UserError: the record or a file is missing or damaged; the message names it and says what to run.
    """
    path, again = Path(path), again or what_to_run(path)
    record = read_record(path, again)
    files = cast(dict[str, str], record.get("files", {}))  # as `checksums` gave it
    for name in files if names is None else names:
        file = path.parent / name
        if not file.is_file():
            raise UserError(f"{file}: no such file; {again}")
        if name not in files:
            raise UserError(f"{file}: {path.name} has no checksum for it; {again}")
        with reading(file, again):
            found = _sha256(file)
        if found != files[name]:
            raise UserError(f"{file}: damaged or changed: {path.name} has another checksum of it; {again}")
    return record


@contextlib.contextmanager
def reading(path: Path, again: str) -> Iterator[None]:
    """Turn errors in reading a file within the block into one line, whichever library reads it.

    Args:
        path: the file.
        again: what to do if it is missing or damaged.

    Raises:
        UserError: it cannot be read, or is not what it should be.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {again}") from None
    except OSError as error:
        if error.errno is None:  # raised by a library, not by the system
            raise UserError(f"{path}: damaged ({_line(error)}); {again}") from None
        raise UserError(f"{path}: cannot be read ({os.strerror(error.errno)}); {again}") from None
    except Exception as error:  # parsers of damaged files raise many kinds of exceptions
        if is_out_of_memory(error):
            raise UserError(f"{path}: not enough memory to read it ({_line(error)})") from None
        raise UserError(f"{path}: damaged ({_line(error)}); {again}") from None


def what_to_run(record: Path) -> str:
    """What to do if a record, or a file that it names, is damaged: the end of a message."""
    name = Path(record).name
    return f"{_AGAIN[name]} ({_HOW})" if name in _AGAIN else "delete it"


def _line(error: Exception) -> str:
    return shortened(" ".join(f"{type(error).__name__}: {error}".split()), 200)


def _own_checksum(content: Mapping[str, object]) -> str:
    """SHA-256 of a JSON object, whatever the order of its keys and its spaces."""
    content = json.loads(json.dumps(dict(content)))  # as it will be read: tuples are lists, and keys texts
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _sha256(file: Path) -> str:
    """Checksum of a file that exists, computed once in a process for as long as it does not change."""
    status = file.stat()
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if key not in _known:
        found = digest(file)
        if time.time_ns() - status.st_mtime_ns < _FRESH:
            return found
        _known[key] = found
    return _known[key]
