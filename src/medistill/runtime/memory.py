"""How much memory this process may still take."""

import math
from pathlib import Path


def free_memory(root: Path = Path("/")) -> float:
    """Bytes until Linux kills a process for lack of memory: of the machine with its swap, and of its control groups.

    Args:
        root: where `proc` and `sys` are.

    Returns:
        Infinity if no limit is known, as on other systems.
    """
    machine = _numbers(root / "proc/meminfo")
    free = [1024 * (machine["MemAvailable"] + machine.get("SwapFree", 0))] if "MemAvailable" in machine else []
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0":  # version 2, of which there is one hierarchy
            free += _left(root / "sys/fs/cgroup", path, "memory.max", "memory.current", "inactive_file")
        elif controllers == "memory":
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            free += _left(root / "sys/fs/cgroup/memory", path, *names)
    return max(0, min(free, default=math.inf))


def _left(top: Path, path: str, limit: str, used: str, droppable: str) -> list[int]:
    """Bytes below the limit of a control group and of each above it, counting file pages that can be dropped as free.

    A container may see its own group as the uppermost, and `path` be that of the machine outside.
    """
    group, left = top / path.lstrip("/"), []
    for folder in (group, *group.parents):
        if not folder.is_relative_to(top):
            break
        most, now = (next(iter(_lines(folder / name)), "") for name in (limit, used))
        if most.isdigit() and now.isdigit():
            left.append(int(most) - int(now) + _numbers(folder / "memory.stat").get(droppable, 0))
    return left


def _numbers(path: Path) -> dict[str, int]:
    """The first number of each line by the word before it."""
    words = [line.replace(":", " ").split() for line in _lines(path)]
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdigit()}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
