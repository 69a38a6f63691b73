"""How every stage's script starts and ends."""

import sys
from collections.abc import Callable

from medistill.errors import UserError


def run_stage(main: Callable[[list[str] | None], int]) -> None:
    """Run `main`, leave with its exit code; a user's mistake is one line on stderr and exit code 2."""
    try:
        sys.exit(main(None))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
