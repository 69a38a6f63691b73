"""Stage `audit`: look for copies across splits and for shortcuts in data/processed."""

import argparse

from medistill.data.dataset import Dataset
from medistill.layout import HERE
from pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> int:
    """Write reports/validation/audit.json, which the gate judges."""
    argparse.ArgumentParser(prog="python -m pipeline.stages.audit", description=__doc__).parse_args(argv)
    dataset = Dataset.open()

    from medistill.audit.findings import audit

    audit(dataset).write(HERE.reports.audit)
    return 0


if __name__ == "__main__":
    run_stage(main)
