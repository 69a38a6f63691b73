"""Hold every student against the gate, and show everything on one page."""

import argparse
import csv
from pathlib import Path
from typing import Any

from medistill.checksums import read_record, require_whole
from medistill.errors import UserError
from medistill.files import atomic, read_json, write_json
from medistill.gate import rules as gate
from medistill.params import load_params
from medistill.report import page
from medistill.report.content import Content, Model
from pipeline.stage import run_stage

REPORTS = Path("reports")
PROCESSED = Path("data/processed")


def main(argv: list[str] | None = None) -> int:
    """Write reports/gate.json and reports/index.html; a refusal is a result, not a failure."""
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    params = load_params()
    verdicts = gate.evaluate_candidates(gate.collect_facts(params), params.promote)
    metrics = gate.read_metrics(REPORTS)
    require_whole(PROCESSED / "dataset.json", ["quarantine.csv"])
    models = [read_model(name, folder.folder, metrics) for name, folder in params.model_folders().items()]
    explained = REPORTS / "explain"
    if explained.is_dir():
        require_whole(explained / "record.json")
    content = Content(
        dataset=read_record(PROCESSED / "dataset.json"),
        quarantine=[(row["path"], row["reason"]) for row in read_rows(PROCESSED / "quarantine.csv")],
        validation=read_record(REPORTS / "validation" / "validation.json"),
        models=models,
        comparisons=[typed(row) for row in read_rows(REPORTS / "comparisons.csv")],
        explain=read_json(explained / "metrics.json") if explained.is_dir() else None,
        verdicts=verdicts,
        ranking=[verdict.model for verdict in gate.rank(v for v in verdicts if v.passed)],
    )
    text = page.render(content)
    write_json(REPORTS / "gate.json", {"candidates": [verdict.to_dict() for verdict in verdicts]})
    with atomic(REPORTS / "index.html") as path:
        path.write_text(text, encoding="utf-8")
    return 0


def read_model(name: str, folder: Path, metrics: dict[str, Any]) -> Model:
    """What the page shows of one model; latency and ONNX file may be missing."""
    if name not in metrics:
        raise UserError(f"{REPORTS / 'metrics.json'}: has no model {name}; run the evaluate stage")
    export, config = Path("exports") / name, require_whole(folder / "config.json")
    latency, onnx, history = export / "latency.json", export / "model.onnx", folder / "history.csv"
    if export.is_dir():
        require_whole(export / "bundle.json")
    return Model(
        name=name,
        config=config,
        numbers=metrics[name],
        evaluation=read_json(REPORTS / "evaluation" / f"{name}.json"),
        roc=[(float(row["fpr"]), float(row["tpr"])) for row in read_rows(REPORTS / "roc" / f"{name}.csv")],
        history=read_rows(history) if history.is_file() else [],
        latency=read_record(latency) if export.is_dir() else None,
        onnx_mb=onnx.stat().st_size / 1e6 if onnx.is_file() else None,
    )


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file as text; the file is known to be whole."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def typed(row: dict[str, str]) -> dict[str, Any]:
    """A row of comparisons.csv with its numbers as float, None where the cell is empty."""
    numbers = ("estimate", "lower", "upper", "p", "p_holm")
    return row | {key: float(row[key]) if row[key] else None for key in numbers}


if __name__ == "__main__":
    run_stage(main)
