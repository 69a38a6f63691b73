"""Data set formats: one file and one function a format, from a folder to a `Source`.

A new format is a new file here with a function `read(root: Path) -> Source`, and a line in `ADAPTERS`.
"""

from collections.abc import Callable
from pathlib import Path

from medistill.data.adapters import chestxray14
from medistill.data.adapters.source import Source

ADAPTERS: dict[str, Callable[[Path], Source]] = {
    "chestxray14": chestxray14.read,
}
"""By `data.format`."""
