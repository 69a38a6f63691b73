"""registry/history.jsonl: which student was champion when, and which were refused or rolled back; append-only.

It outlives MLflow's registry, which is rebuilt from it. Each line carries a checksum of itself, so that a changed
byte is noticed; a line without one (from an older version, or edited by hand) is accepted.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from medistill.errors import UserError
from medistill.files import writing
from medistill.layout import Layout
from medistill.records.gate import Release

CHECKSUM = "checksum"
"""Key of the first 16 hexadecimal digits of the SHA-256 of the rest of its line."""
LOOKS = 20
"""Number of verdicts on different models after which a test set counts as used too often."""
TOOK_OVER = ("promoted", "restored", "recorded", "rolled_back")
"""Actions after which the line's champion is champion."""


Action = Literal["promoted", "kept", "refused", "restored", "recorded", "rolled_back"]


class Line(BaseModel):
    """A line of the history; keys that another version has written are kept.

    Attributes:
        time: when, in UTC.
        action: what happened.
        champion: the champion from then on; None if there is none.
        previous: the champion before, or the model that was rolled back.
        reason: of a verdict, in a sentence.
        refused: `model: rule: reason` of every rule that was not passed.
        evidence: of a verdict, a hash of the models that were judged.
        data: of a verdict, the fingerprint of the data they were measured on.
    """

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    time: str
    action: Action
    champion: Release | None
    previous: Release | None = None
    reason: str | None = None
    refused: list[str] = []
    evidence: str | None = None
    data: str | None = None

    @classmethod
    def now(cls, action: Action, champion: Release | None, **more: Any) -> "Line":
        """A line about an action at the present time; `more` are its other fields."""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(time=time, action=action, champion=champion, **{"previous": None, **more})

    @model_validator(mode="after")
    def _complete(self) -> "Line":
        if self.action in (*TOOK_OVER, "kept") and self.champion is None:
            raise ValueError(f"{self.action} needs a champion")
        if self.action == "rolled_back" and self.previous is None:
            raise ValueError("rolled_back needs previous")
        if self.evidence is not None and self.data is None:
            raise ValueError("evidence needs data")
        return self


def read_history(root: Path) -> list[Line]:
    """Lines of registry/history.jsonl, oldest first; empty where there is no such file.

    A last line that was cut off while it was written is left out: the next `promote` derives it again from the registry
    and the exports.

    Raises:
        UserError: a line is damaged; the message names it, and what to do.
    """
    path = Layout(root).history
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if _is_cut(lines[-1]):
        del lines[-1]
    return [_parse(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def append(root: Path, line: Line) -> None:
    """Add a line, and write it through to the disk.

    An unfinished line that a killed process left is overwritten; complete lines are never changed.

    Raises:
        UserError: the disk is full, read-only, …
    """
    path = Layout(root).history
    content = line.model_dump(exclude_unset=True)
    text = json.dumps({**content, CHECKSUM: _checksum(content)})
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            file.seek(0)
            before = file.read()
            last = before[before.rfind(b"\n") + 1 :]
            if _is_cut(last):
                file.truncate(len(before) - len(last))
                last = b""
            file.write(b"\n" * bool(last) + text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def champions(history: list[Line]) -> list[Release]:
    """Champions that were not withdrawn, in order of time; the last is the present one."""
    stack: list[Release] = []
    for line in history:
        if line.action == "rolled_back" and line.previous:
            stack = [model for model in stack if model.onnx_sha256 != line.previous.onnx_sha256]
        took_over = line.champion if line.action in TOOK_OVER else None
        if took_over and (not stack or stack[-1].onnx_sha256 != took_over.onnx_sha256):
            stack.append(took_over)
    return stack


def withdrawn(history: list[Line]) -> dict[str, str]:
    """Sha256 of every model that was rolled back → when."""
    gone = ((line.previous, line.time) for line in history if line.action == "rolled_back")
    return {model.onnx_sha256: time for model, time in gone if model and model.onnx_sha256}


def looks(history: list[Line]) -> int:
    """How many different sets of models were judged on the data of the last verdict, each a look at its test set."""
    judged = [line for line in history if line.evidence is not None]
    return len({line.evidence for line in judged if line.data == judged[-1].data})


def _is_cut(line: bytes) -> bool:
    """Whether a line is an unfinished one, as a killed process leaves it, and not a damaged one."""
    if not line.startswith(b"{"):
        return False
    try:
        json.JSONDecoder().raw_decode(line.decode("utf-8", errors="replace"))
    except ValueError:
        return True
    except RecursionError:
        return False
    return False


def _checksum(line: Mapping[str, object]) -> str:
    text = json.dumps({key: value for key, value in line.items() if key != CHECKSUM}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _parse(path: Path, number: int, text: bytes) -> Line:
    mend = "mend or remove that line"
    try:
        line: dict[str, object] = json.loads(text.decode("utf-8"))
        parsed = Line.model_validate_json(text)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: line {number}: byte {error.start} is not UTF-8; {mend}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{key}: " for key in first["loc"])
        raise UserError(f"{path}: line {number}: {where}{first['msg']}; {mend}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path}: line {number} is not JSON; {mend}") from None
    if line.get(CHECKSUM, _checksum(line)) != _checksum(line):
        raise UserError(
            f"{path}: line {number}: does not match its {CHECKSUM}; restore the file from a backup, or, if the line"
            f" is right, remove {CHECKSUM} from it"
        )
    return parsed
