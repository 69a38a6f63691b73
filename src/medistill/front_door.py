"""How every command starts and ends: `medistill`, `python -m pipeline` and each stage alike."""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from medistill.errors import UserError
from medistill.text import printable, shortened

LONGEST = 2000
"""Characters of a message; what is longer holds more of the data than of the mistake."""


def run(command: Callable[[], int | None]) -> NoReturn:
    """Run `command` and leave with its exit code; a user's mistake is one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):  # what is no text in this locale is shown escaped
        stream.reconfigure(errors="backslashreplace")
    try:
        sys.exit(command())
    except UserError as error:
        print(f"error: {shortened(printable(str(error)), LONGEST)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader (`head`) has left; give the interpreter somewhere to flush to.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
