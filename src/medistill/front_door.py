"""How every command starts and ends: `medistill`, `python -m pipeline` and each stage alike."""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from medistill.errors import UserError, remedy, system_error
from medistill.text import printable, shortened

LONGEST = 2000
"""Characters of a message; what is longer holds more of the data than of the mistake."""


def run(command: Callable[[], int | None]) -> NoReturn:
    """Run `command` and leave with its exit code; a user's mistake is one line on stderr and exit code 2.

    So is what the system refuses: a full disk, a folder without permission, an output that cannot be written.
    """
    for stream in filter(None, (sys.stdout, sys.stderr)):  # what is no text in this locale is shown escaped
        stream.reconfigure(errors="backslashreplace")
    try:
        try:
            status: int | str | None = command()
        except SystemExit as end:  # typer and argparse end so
            status = end.code
        if sys.stdout is not None:
            sys.stdout.flush()  # here, since at the interpreter's end nobody could say what is wrong
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
        # what is written into files passes `files.atomic`, which names them
        _end(2, f"{error.filename or 'standard output'}: {remedy(known) if known else error.strerror}")


def _end(status: int, message: str | None = None) -> NoReturn:
    """Leave with a message, where anybody can still read it."""
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
