"""Locks of a checkout, which the kernel drops when the holding process ends in any way."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from medistill.errors import UserError
from medistill.files import locked
from medistill.layout import Layout


@contextlib.contextmanager
def exclusive(root: Path, name: str, *, wait: bool) -> Iterator[None]:
    """Hold the checkout's lock `name`, a file in `.dvc/tmp`, which git ignores; it is never left behind as stale.

    Args:
        root: the repository's root.
        name: what is locked, such as `retrain`.
        wait: wait for the holder to finish; otherwise refuse at once.

    Raises:
        UserError: `root` has no `.dvc` folder; or the lock is held and `wait` is false (names the holder's process id).
    """
    if not Layout(root).dvc.is_dir():
        raise UserError(f"{root}: not a DVC repository (no .dvc folder); run this in the repository's root")
    path = Layout(root).lock(name)
    taken = f"another {name} (process {{holder}}) is running in this checkout; wait until it ends, or use another clone"
    with locked(path, taken=None if wait else taken):
        yield
