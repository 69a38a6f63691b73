"""Data set formats: one file per format, from a folder to a `Source`.

A new format is a new file here, NAME.py, with

* `class Options(Settings)`: the keys of `data.options`, with a default for every optional key;
* `read(root: Path, options: Options) -> Source`;
* where lists of training images of the data set are published, `read_list(file: Path) -> DataFrame`, with which
  `medistill.data.published` says what a model has seen: a row per image, `image_id` and `patient_id` (null where
  unknown) as `read` has them, and, where the list has other images too, `held_out`, whether one was not trained on;
* where a file's name or folder tells its patient, `patient_of(path: str) -> str | None`.

Nothing has to be registered: `data.format` is the file's name.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from medistill.data.reading.folders import compose
from medistill.errors import UserError
from medistill.settings import describe_errors
from medistill.text import is_name, shortened

if TYPE_CHECKING:
    from medistill.data.reading.source import Source


def formats() -> tuple[str, ...]:
    """The values of `data.format`."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def read_source(
    format: str, root: Path, options: Mapping[str, object], *, given: str = "params.yaml: data.options"
) -> "Source":
    """Read a data set's tables and folders; no pixel is decoded.

    Args:
        format: one of `formats()`.
        root: the data set's folder.
        options: the content of `data.options`.
        given: where the options come from, for messages.

    Raises:
        UserError: an option is unknown or has a bad value, the folder is not what its format promises, or a label is
            not a valid name.
    """
    adapter = importlib.import_module(f"{__name__}.{format}")
    try:
        checked = adapter.Options.model_validate(options)
    except ValidationError as error:
        raise UserError(f"{given}: {describe_errors(error, adapter.Options)}") from None
    source: Source = adapter.read(Path(root), checked)
    _require_names(source.labels, Path(root))
    return source


def patient_of(format: str, path: str) -> str | None:
    """The patient of an image by the name of its file or folder; None where a format or a name does not tell.

    Args:
        format: one of `formats()`.
        path: POSIX path of the file.
    """
    tell: Callable[[str], str | None] | None
    tell = getattr(importlib.import_module(f"{__name__}.{format}"), "patient_of", None)
    return tell(path) if tell else None


def _require_names(labels: list[str], root: Path) -> None:
    """Refuse labels with control characters, which would change terminals and pages that print them.

    Names of files and people are kept unchanged and escaped where they are shown; labels can be renamed in the table or
    the folders.
    """
    for number, label in enumerate(labels):
        if not is_name(label):
            raise UserError(
                f"{root}: the label {shortened(repr(label), 100)} is blank or has a control character, a line break or"
                " a mark that changes the writing direction; rename it in the table, or rename the folder"
            )
        if compose(label) in map(compose, labels[:number]):
            raise UserError(f"{root}: the label {shortened(repr(label), 100)} occurs twice; give each label once")
