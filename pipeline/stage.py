"""How every stage's script starts and ends."""

import ctypes
import sys
from collections.abc import Callable, Sequence

from medistill import front_door
from medistill.errors import UserError


def run_stage(main: Callable[[list[str] | None], int]) -> None:
    """Run `main` and leave with its exit code; a user's mistake is one line on stderr and exit code 2."""
    keep_freed_memory()
    front_door.run(lambda: main(None))


def require_name(key: str, name: str, known: Sequence[str]) -> None:
    """Refuse a name from the command line that params.yaml does not have under `key`."""
    if name not in known:
        raise UserError(f"params.yaml: {key} has no {name!r}; known are {', '.join(known)}")


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees: the next training step needs as much again.

    glibc returns large blocks to the kernel at once, and the next step on a CPU waits for new pages, longer than for
    some of its convolutions (docs/distillation.md has the ratio). With other C libraries this function does nothing.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
        mallopt(m_mmap_max, 0)  # large blocks come from the heap, too,
        mallopt(m_trim_threshold, -1)  # whose end is never given back
