"""Subprocesses that end together with everything they started."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from medistill.errors import UserError


def end_group(process: subprocess.Popen[bytes], patience: float = 10.0) -> None:
    """End `process` and its children; it must have been started with `start_new_session=True`.

    They get SIGTERM, and SIGKILL after `patience` seconds. Children that outlived the process itself end too.
    """
    for kind in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + patience
        while _alive(process) and time.monotonic() < deadline:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, kind)
            time.sleep(0.05)
    process.wait()


def _alive(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process or any member of its group is alive."""
    process.poll()  # a leader that has ended must be reaped, or its group would seem alive
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def server(
    command: Sequence[str],
    health: str,
    folder: Path,
    seconds: float = 120.0,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server while the block runs; it answers when the block begins and is gone when it ends.

    Args:
        command: what to start.
        health: address that answers once it is up.
        folder: its working directory.
        seconds: how long it may take to come up.
        environment: variables that it gets besides this process's own; other users cannot see these, unlike a command
            line.

    Raises:
        UserError: it does not come up, or ended while the block ran; the message has its last line.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + seconds
            while not answers(health):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    lines = log.read().decode(errors="replace").split("\n")
                    last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
                    raise UserError(f"the server at {health} did not start: {last}")
                time.sleep(0.2)
            yield process
        finally:
            end_group(process)


def answers(address: str | urllib.request.Request) -> bool:
    """Whether a server answers there, or to such a request, with status 200."""
    try:
        with urllib.request.urlopen(address, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False
