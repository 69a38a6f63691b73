"""Stage `ingest`: read the user's data set into data/processed."""

import argparse
import sys
from pathlib import Path

from medistill.params import load_params
from medistill.text import printable
from pipeline.stage import run_stage

OUT = Path("data/processed")


def main(argv: list[str] | None = None) -> int:
    """Write data/processed from `data` in params.yaml."""
    argparse.ArgumentParser(prog="python -m pipeline.stages.ingest", description=__doc__).parse_args(argv)

    from medistill.data.ingest import ingest

    summary = ingest(load_params().data, OUT, cache=Path(".cache/ingest"))
    sides = ", ".join(f"{side} {count['images']} ({count['groups']})" for side, count in summary["counts"].items())
    print(f"{summary['name']}: images (groups): {sides}; {summary['boxes']} boxes")
    for note in summary["notes"]:
        print(f"note: {printable(note)}", file=sys.stderr)
    if summary["quarantined"]:
        print(
            f"{summary['quarantined']} of {summary['entries']} left out; see {OUT / 'quarantine.csv'}", file=sys.stderr
        )
    return 0


if __name__ == "__main__":
    run_stage(main)
