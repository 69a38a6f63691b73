"""Stage `ingest`: read the user's data set into data/processed."""

import argparse
import sys

from medistill.layout import HERE
from medistill.params import load_params
from medistill.text import printable
from pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> int:
    """Write data/processed from `data` in params.yaml."""
    argparse.ArgumentParser(prog="python -m pipeline.stages.ingest", description=__doc__).parse_args(argv)

    from medistill.data.ingest import ingest

    info = ingest(load_params().data, HERE.processed.folder, cache=HERE.decoded)
    splits = ", ".join(f"{split} {counts.images} ({counts.groups})" for split, counts in info.counts.items())
    print(f"{info.name}: images (groups): {splits}; {info.boxes} boxes")
    for note in info.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    if info.quarantined:
        print(f"{info.quarantined} of {info.entries} left out; see {HERE.processed.quarantine}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run_stage(main)
