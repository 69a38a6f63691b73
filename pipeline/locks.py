"""One at a time: locks that the kernel drops when their holder ends, however it ends."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from medistill.errors import UserError


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
    if not (root / ".dvc").is_dir():
        raise UserError(f"{root}: not a DVC repository (no .dvc folder); run this in the repository's root")
    path = root / ".dvc" / "tmp" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UserError(
                f"another {name} (process {holder}) is at work in this checkout; wait until it ends, or use a clone"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
