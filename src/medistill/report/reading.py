"""The records of a finished run, read for the report."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from medistill.checksums import what_to_run
from medistill.errors import UserError
from medistill.gate.facts import read_metrics
from medistill.gate.rules import Verdict, rank
from medistill.layout import ExplainFolder, Layout, ModelFolder, StressFolder
from medistill.records.audit import Validation
from medistill.records.base import Kind, Sealed, read_each
from medistill.records.data import DatasetInfo
from medistill.records.evaluation import Evaluation, ModelNumbers, read_comparisons
from medistill.records.explain import ModelMaps
from medistill.records.export import Latency
from medistill.records.gallery import Gallery
from medistill.records.licenses import read_recorded
from medistill.records.models import ModelRecord
from medistill.records.stress import ModelStress
from medistill.report.content import Content, Model


def read_content(folders: Mapping[str, ModelFolder], verdicts: Sequence[Verdict], layout: Layout) -> Content:
    """Read the content of the page.

    Args:
        folders: of the run's models, teachers first.
        verdicts: the gate's, on the students.
        layout: of the checkout; explanations, shifts and exports may be missing.

    Raises:
        UserError: another file is missing or damaged.
    """
    reports, processed = layout.reports, layout.processed
    figures = read_metrics(reports)
    dataset = DatasetInfo.read_whole(processed.record, [processed.quarantine.name])
    models = [_read_model(name, folder, figures, layout) for name, folder in folders.items()]
    return Content(
        dataset=dataset,
        quarantine=[(row["path"], row["reason"]) for row in read_rows(processed.quarantine)],
        validation=Validation.read(reports.validation),
        models=models,
        comparisons=read_comparisons(reports.comparisons),
        explain=_read_sealed(reports.explain, ModelMaps),
        gallery=_read_gallery(reports.explain),
        stress=_read_sealed(reports.stress, ModelStress),
        verdicts=verdicts,
        ranking=[verdict.model for verdict in rank(verdict for verdict in verdicts if verdict.passed)],
    )


def _read_sealed(folder: ExplainFolder | StressFolder, kind: type[Kind]) -> dict[str, Kind] | None:
    """What metrics.json in a folder says of each model; None where the folder is missing."""
    if not folder.folder.is_dir():
        return None
    Sealed.read_whole(folder.record)
    return read_each(folder.metrics, kind, what_to_run(folder.record))


def _read_gallery(folder: ExplainFolder) -> Gallery | None:
    """The findings that are shown; None where the folder is missing."""
    return Gallery.read(folder.gallery, what_to_run(folder.record)) if folder.folder.is_dir() else None


def _read_model(name: str, folder: ModelFolder, figures: Mapping[str, ModelNumbers], layout: Layout) -> Model:
    """What the page shows of one model; latency and ONNX file may be missing."""
    reports, export = layout.reports, layout.export(name)
    if name not in figures:
        raise UserError(f"{reports.metrics}: has no model {name}; run the evaluate stage")
    record = ModelRecord.read_whole(folder.config)
    is_exported = export.folder.is_dir()
    if is_exported:
        Sealed.read_whole(export.bundle)
    return Model(
        record=record,
        numbers=figures[name],
        evaluation=Evaluation.read(reports.evaluation(name), what_to_run(reports.evaluation_record)),
        roc=[(float(row["fpr"]), float(row["tpr"])) for row in read_rows(reports.roc(name))],
        history=read_rows(folder.history) if folder.history.is_file() else [],
        latency=Latency.read(export.latency) if is_exported else None,
        onnx_mb=export.onnx.stat().st_size / 1e6 if export.onnx.is_file() else None,
        ancestors=read_recorded(reports, name),
    )


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file as text; the file has been verified."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
