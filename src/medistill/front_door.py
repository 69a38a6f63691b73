"""How every command starts and ends: `medistill`, `python -m pipeline` and each stage alike."""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from medistill.errors import UserError, remedy, system_error
from medistill.text import printable, shortened

LONGEST = 2000
"""Most characters of a message; longer ones consist mostly of data."""


def run(command: Callable[[], int | None]) -> NoReturn:
    """Run `command` and leave with its exit code; a user's mistake is one line on stderr and exit code 2.

    So are errors of the system: a full disk, a folder without permission, an output that cannot be written.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):  # characters that this locale lacks are shown escaped
        stream.reconfigure(errors="backslashreplace")
    try:
        try:
            status: int | str | None = command()
        except SystemExit as end:  # typer and argparse end so
            status = end.code
        if sys.stdout is not None:
            sys.stdout.flush()  # here, since an error at the interpreter's end would have no message
        sys.exit(status)
    except UserError as error:
        _end(2, str(error))
    except KeyboardInterrupt:
        _end(130, "interrupted")
    except BrokenPipeError:  # the reader (`head`) has left
        _end(1)
    except OSError as error:
        known = system_error(error)
        if known is None and error.filename is None:
            raise
        # errors in writing files are named by `files.atomic`
        _end(2, f"{error.filename or 'standard output'}: {remedy(known) if known else error.strerror}")


def _end(status: int, message: str | None = None) -> NoReturn:
    """Leave with a message, if stderr is still open."""
    if message is not None and sys.stderr is not None:
        with contextlib.suppress(OSError):
            print(f"error: {shortened(printable(message), LONGEST)}", file=sys.stderr, flush=True)
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:  # the interpreter flushes once more; give it somewhere to flush to
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)
