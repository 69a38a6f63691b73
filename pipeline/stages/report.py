"""Judge every student by the gate, and show the whole run on one page."""

import argparse

from medistill.files import atomic
from medistill.gate.facts import collect_facts
from medistill.gate.rules import evaluate_candidates
from medistill.layout import HERE
from medistill.params import load_params
from medistill.records.gate import Gate
from medistill.report import page, reporting
from medistill.report.reading import read_content
from pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> int:
    """Write reports/gate.json, reports/index.html and reports/tripod-ai.md; a refusal is a result, not a failure."""
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    params = load_params()
    verdicts = evaluate_candidates(collect_facts(params.candidates(), HERE), params.promote)
    content = read_content(params.model_folders(), verdicts, HERE)
    texts = {HERE.reports.page: page.render(content), HERE.reports.checklists: reporting.render(content)}
    Gate(candidates=[verdict.record for verdict in verdicts]).write(HERE.reports.gate)
    for target, text in texts.items():
        with atomic(target) as path:
            path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    run_stage(main)
