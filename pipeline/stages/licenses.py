"""Stage `licenses`: what each model of the run descends from, and under which licences."""

import argparse
import sys

from medistill.files import atomic
from medistill.layout import HERE
from medistill.params import load_params
from medistill.records.licenses import LicenseRecord
from medistill.text import printable
from pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> int:
    """Write reports/licenses, a file per model; which licences are allowed, the gate says."""
    argparse.ArgumentParser(prog="python -m pipeline.stages.licenses", description=__doc__).parse_args(argv)
    params = load_params()

    from medistill.ancestry import ancestors_of

    written = {name: LicenseRecord(model=name, ancestors=ancestors_of(params, name)) for name in params.model_folders()}
    with atomic(HERE.reports.all_licenses) as folder:
        folder.mkdir()
        for name, record in written.items():
            record.write(folder / HERE.reports.licenses(name).name)
    unknown = {ancestor.what for record in written.values() for ancestor in record.ancestors if not ancestor.license}
    for what in sorted(unknown):
        print(f"note: the licence of {printable(what)} is unknown", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run_stage(main)
