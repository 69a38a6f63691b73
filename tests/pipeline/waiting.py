"""Waiting for other processes."""

import socket
import time
from collections.abc import Callable


def until(condition: Callable[[], object], seconds: float = 120) -> bool:
    """Wait until a condition is true; whether it is within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def free_port() -> int:
    """A port on which no process listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
