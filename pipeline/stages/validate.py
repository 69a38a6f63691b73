"""Stage `validate`: the gate between data and training."""

import argparse
import sys

from medistill.layout import HERE
from medistill.params import load_params
from medistill.records.audit import Audit
from medistill.text import printable
from pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> int:
    """Check data/processed; 1 if a critical expectation failed, with one line per failure on stderr."""
    argparse.ArgumentParser(prog="python -m pipeline.stages.validate", description=__doc__).parse_args(argv)
    params = load_params()
    audit = Audit.read(HERE.reports.audit)

    from pipeline.expectations import validate

    weights = {f"teachers.{name}": network.file for name, network in params.teachers.items()}
    weights |= {f"students.{name}": network.file for name, network in params.students.items()}
    result = validate(
        HERE.processed.folder,
        docs=HERE.reports.data_docs,
        max_quarantined=params.data.max_quarantined,
        audit=audit,
        weights={name: file for name, file in weights.items() if file},
    )
    result.write(HERE.reports.validation)
    for line in result.warnings:
        print(f"warning: {printable(line)}", file=sys.stderr)
    for line in result.failures:
        print(f"error: {printable(line)}", file=sys.stderr)
    counts = result.statistics
    print(
        f"{counts.evaluated} expectations: {counts.successful} met, {counts.warnings} warnings,"
        f" {counts.failed} failed; see {HERE.reports.data_docs / 'index.html'}"
    )
    return 0 if result.success else 1


if __name__ == "__main__":
    run_stage(main)
