"""Hold every student against the gate, and show everything on one page."""

import argparse
import csv
from pathlib import Path
from typing import Any

from medistill.errors import UserError
from medistill.files import atomic, read_json, write_json
from medistill.gate.facts import collect_facts, read_metrics
from medistill.gate.rules import evaluate_candidates, rank
from medistill.layout import HERE, ModelFolder
from medistill.params import load_params
from medistill.records.audit import Validation
from medistill.records.base import Sealed
from medistill.records.data import DatasetInfo
from medistill.records.export import Latency
from medistill.records.models import ModelRecord
from medistill.report import page
from medistill.report.content import Content, Model
from pipeline.stage import run_stage


def main(argv: list[str] | None = None) -> int:
    """Write reports/gate.json and reports/index.html; a refusal is a result, not a failure."""
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    params, reports, processed = load_params(), HERE.reports, HERE.processed
    verdicts = evaluate_candidates(collect_facts(params.candidates(), HERE), params.promote)
    metrics = read_metrics(reports)
    dataset = DatasetInfo.read_whole(processed.record, [processed.quarantine.name])
    models = [read_model(name, folder, metrics) for name, folder in params.model_folders().items()]
    explained = reports.explain
    if explained.folder.is_dir():
        Sealed.read_whole(explained.record)
    content = Content(
        dataset=dataset,
        quarantine=[(row["path"], row["reason"]) for row in read_rows(processed.quarantine)],
        validation=Validation.read(reports.validation),
        models=models,
        comparisons=[typed(row) for row in read_rows(reports.comparisons)],
        explain=read_json(explained.metrics) if explained.folder.is_dir() else None,
        verdicts=verdicts,
        ranking=[verdict.model for verdict in rank(v for v in verdicts if v.passed)],
    )
    text = page.render(content)
    write_json(reports.gate, {"candidates": [verdict.to_dict() for verdict in verdicts]})
    with atomic(reports.page) as path:
        path.write_text(text, encoding="utf-8")
    return 0


def read_model(name: str, folder: ModelFolder, metrics: dict[str, Any]) -> Model:
    """What the page shows of one model; latency and ONNX file may be missing."""
    reports, export = HERE.reports, HERE.export(name)
    if name not in metrics:
        raise UserError(f"{reports.metrics}: has no model {name}; run the evaluate stage")
    record = ModelRecord.read_whole(folder.config)
    is_exported = export.folder.is_dir()
    if is_exported:
        Sealed.read_whole(export.bundle)
    return Model(
        record=record,
        numbers=metrics[name],
        evaluation=read_json(reports.evaluation(name)),
        roc=[(float(row["fpr"]), float(row["tpr"])) for row in read_rows(reports.roc(name))],
        history=read_rows(folder.history) if folder.history.is_file() else [],
        latency=Latency.read(export.latency) if is_exported else None,
        onnx_mb=export.onnx.stat().st_size / 1e6 if export.onnx.is_file() else None,
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
