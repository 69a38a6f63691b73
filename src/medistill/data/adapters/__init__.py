"""Data set formats: one file a format, from a folder to a `Source`.

A new format is a new file here, NAME.py, with

* `class Options(Settings)`: what `data.options` may say, with defaults wherever the format can do without;
* `read(root: Path, options: Options) -> Source`.

Nothing has to be registered: `data.format` is the file's name.
"""

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from medistill.errors import UserError

if TYPE_CHECKING:
    from medistill.data.source import Source

FORMATS: tuple[str, ...] = tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))
"""What `data.format` may be."""


def read_source(
    format: str, root: Path, options: dict[str, Any], *, given: str = "params.yaml: data.options"
) -> "Source":
    """Read a data set's tables and folders; no pixel is decoded.

    Args:
        format: one of `FORMATS`.
        root: the data set's folder.
        options: what `data.options` says.
        given: where the options come from, for messages.

    Raises:
        UserError: an option is unknown or has a bad value, or the folder is not what its format promises.
    """
    from medistill.config import describe_errors

    adapter = importlib.import_module(f"{__name__}.{format}")
    try:
        checked = adapter.Options.model_validate(options)
    except ValidationError as error:
        raise UserError(f"{given}: {describe_errors(error, adapter.Options)}") from None
    return adapter.read(Path(root), checked)
