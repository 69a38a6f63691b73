"""Records as the stages would have written them, for files that a test has made or changed by hand."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from medistill.checksums import OWN, checksums, write_record
from medistill.records.base import Content


def seal(record: Path, content: Content | dict[str, Any] | None = None, **changes: Any) -> None:
    """Write a record, or rewrite it with `changes`, with the current checksums of the files beside it."""
    if content is None:
        content = json.loads(record.read_text(encoding="utf-8"))
        content.pop(OWN, None)
    if isinstance(content, Content):
        content = content.to_json()
    files = [file for file in record.parent.iterdir() if file != record and not file.name.startswith("images-")]
    files = checksums(filter(Path.is_file, files), record.parent)
    if "model.safetensors" in files:
        changes["model_sha256"] = files["model.safetensors"]
    write_record(record, content | changes | {"files": files})


def digests(pixels: np.ndarray) -> list[str]:
    """The manifest's checksum of each frame (N, C, S, S)."""
    return [hashlib.sha256(frame.tobytes()).hexdigest() for frame in pixels]
