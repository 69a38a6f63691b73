"""Judge every student by the gate, and show the whole run on one page."""

import argparse

from medistill.files import atomic
from medistill.gate.facts import collect_facts
from medistill.gate.rules import evaluate_candidates
from medistill.layout import HERE
from medistill.params import load_params
from medistill.records.gate import Gate
from medistill.report import page
from medistill.report.reading import read_content
from pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> int:
    """Write reports/gate.json and reports/index.html; a refusal is a result, not a failure."""
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    params = load_params()
    verdicts = evaluate_candidates(collect_facts(params.candidates(), HERE), params.promote)
    text = page.render(read_content(params.model_folders(), verdicts, HERE))
    Gate(candidates=[verdict.record for verdict in verdicts]).write(HERE.reports.gate)
    with atomic(HERE.reports.page) as path:
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    run_stage(main)
