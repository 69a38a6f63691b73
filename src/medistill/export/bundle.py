"""The folder of an exported model: everything a device and its user need, with the proofs of parity and latency."""

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medistill.checksums import TRAIN_AGAIN, checksums, what_to_run, write_record
from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.evaluation.answers import Split, Validation
from medistill.evaluation.comparison import Measured
from medistill.evaluation.figures import LEAD
from medistill.evaluation.operating import thresholds_of
from medistill.evaluation.predictions import align, read_logits
from medistill.export.finer import export_explained, measure_map_parity
from medistill.export.latency import measure_latency
from medistill.export.onnx import export_onnx
from medistill.export.parity import measure_parity
from medistill.export.settings import Export
from medistill.export.vjp import can_explain
from medistill.files import atomic, digest
from medistill.layout import ExportFolder, ModelFolder, StressFolder
from medistill.models.classifier import Classifier
from medistill.models.deploy import deployed
from medistill.models.weights import load_model
from medistill.records.base import Sealed
from medistill.records.export import Latency, MapParity, Parity
from medistill.records.licenses import Ancestor
from medistill.records.models import ModelRecord, TrainingMetrics
from medistill.report.applied_card import applied_model_card
from medistill.report.card import model_card
from medistill.runtime.bundle import LARGEST, MAPS, Bundle, CalledAt, content
from medistill.runtime.session import open_session, run_all
from medistill.stress.unlike import Unlike
from medistill.task import Calibration

_TRAINING = (
    *("role", "student", "recipe", "seed", "arch", "args", "initialisation", "teachers", "combine", "terms", "stages"),
    *("views", "training", "dataset_fingerprint", "fingerprint", "versions"),
)
"""Keys of config.json about the model's training."""


@dataclass(frozen=True)
class Proofs:
    """Parity of an export with its network, and its latency: the content of its two files."""

    parity: Parity
    latency: Latency


def export_model(
    source: Path,
    dataset: Dataset,
    target: Path,
    settings: Export,
    ancestors: Sequence[Ancestor] | None = None,
    stress: StressFolder | None = None,
) -> Proofs:
    """Export a trained model: `model.onnx`, of some networks `model.explain.onnx`, `bundle.json`, `parity.json`,
    `latency.json`, `MODEL_CARD.md`, `model_card.xml`, and the model's `train_ids.npz`, by which it is not evaluated on
    what it was trained on.

    The folder appears complete or not at all. A failed parity is written down, not raised: the gate refuses it.

    Args:
        source: a model folder.
        dataset: the ingested data; images of test, of validation where there is no test, prove parity.
        target: the folder to write; an older one is replaced.
        settings: the section `export` of params.yaml.
        ancestors: what the model descends from, for card and bundle; None: not recorded.
        stress: what the stage `stress` wrote: what the model knows of its training images; None: the file does not say.

    Raises:
        UserError: the model is missing or damaged, does not fit the data, or cannot be expressed in ONNX.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such model; train it first (dvc repro)")
    classifier = load_model(source)
    trained = ModelFolder(source)
    record = ModelRecord.read(trained.config)
    for key in ("task", "labels", "image_size", "channels", "fit"):
        theirs, ours = getattr(record, key), getattr(dataset, key)
        if theirs != ours:
            raise UserError(
                f"{trained.config}: trained with {key} {theirs}, but {dataset.folder} has {ours}; {TRAIN_AGAIN} (dvc"
                " repro)"
            )
    rows = _spread(dataset, "test" if (dataset.manifest["split"] == "test").any() else "val", settings.parity_images)
    images = dataset.images(rows)
    measured = _measured(trained, dataset, "val")
    validation = Validation(measured.answers)
    points = [CalledAt(*point, at) for point, at in thresholds_of(validation).items()]
    figures = _figures(measured) | TrainingMetrics.read(trained.metrics, what_to_run(trained.config)).to_json()
    unlike = None if stress is None else _read_unlike(stress, source.name)
    with atomic(target) as folder:
        folder.mkdir()
        files = ExportFolder(folder)
        calibration = validation.calibration
        merged, opset = deployed(classifier), settings.opset
        batch_size = export_onnx(merged, files.onnx, opset=opset, calibration=calibration, unlike=unlike, points=points)
        targets = dataset.targets(rows)
        parity = measure_parity(classifier, files.onnx, images, calibration=calibration, unlike=unlike, targets=targets)
        parity = parity.model_copy(update={"maps": _explained(classifier, merged, files, images, opset)})
        latency = measure_latency(files.onnx, images[0], runs=settings.latency_runs, threads=settings.threads)
        parity.write(files.parity)
        shutil.copyfile(trained.train_ids, files.train_ids)
        card = model_card(record, figures, dataset, points, batch_size, ancestors, MAPS in parity.outputs)
        files.card.write_text(card, encoding="utf-8")
        files.applied_card.write_text(applied_model_card(record, figures, dataset, ancestors), encoding="utf-8")
        own = _test_auroc(trained, dataset)
        shown = dataset.images(_spread(dataset, "val", settings.parity_images))
        scale = _map_scale(files.onnx, shown, record.labels)
        bundle = bundle_content(record, files, batch_size, ancestors, points, calibration, own, scale)
        bundle |= {"files": checksums(folder.iterdir(), folder)}
        write_record(files.bundle, bundle)
        latency.write(files.latency)  # in a file of its own, as it varies from run to run
    return Proofs(parity, latency)


def _explained(
    classifier: Classifier, merged: Classifier, files: ExportFolder, images: np.ndarray, opset: int
) -> MapParity | None:
    """Write the merged network with finer heat maps, unless they are not autograd's: a device then has none.

    Returns:
        How far its maps are from autograd's; None of a network that cannot have them.
    """
    if can_explain(merged) is not None:
        return None
    export_explained(merged, files.explain_onnx, opset=opset)
    parity = measure_map_parity(classifier, files.explain_onnx, images)
    if not parity.passed:
        files.explain_onnx.unlink()
    return parity


def _read_unlike(stress: StressFolder, name: str) -> Unlike:
    """What a model knows of its training images, as it was written."""
    file = stress.unlike(name)
    Sealed.read_whole(stress.record, [file.name], "run the stress stage again (dvc repro --force stress)")
    return Unlike.read(file)


def _map_scale(model: Path, images: np.ndarray, labels: Sequence[str]) -> dict[str, float]:
    """The largest value of each label's maps on these images; empty where the file gives no maps."""
    session = open_session(model.read_bytes(), name=str(model))
    if LARGEST not in session.outputs:
        return {}
    largest = run_all(session, images, [LARGEST])[LARGEST].max(axis=0)
    return dict(zip(labels, map(float, np.nan_to_num(largest, posinf=0.0)), strict=True))


def bundle_content(
    record: ModelRecord,
    files: ExportFolder,
    batch_size: int | None = None,
    ancestors: Sequence[Ancestor] | None = None,
    points: Sequence[CalledAt] = (),
    calibration: Calibration | None = None,
    test_auroc: Mapping[str, float] | None = None,
    map_scale: Mapping[str, float] | None = None,
) -> dict[str, object]:
    """The content of bundle.json for a model and its ONNX files.

    Args:
        record: the model folder's config.json.
        files: the folder with its ONNX files.
        batch_size: how many images it takes at once; None: any number.
        ancestors: what the model descends from; None: not recorded.
        points: its operating points.
        calibration: fitted on validation; None: there is none.
        test_auroc: of each eligible label on its own test images.
        map_scale: of each label, the largest value of its maps; None: the file gives none.
    """
    explain = files.explain_onnx if files.explain_onnx.exists() else None
    return content(
        Bundle(
            name=record.name,
            task=record.task,
            labels=tuple(record.labels),
            image_size=record.image_size,
            channels=record.channels,
            fit=record.fit,
            model=files.onnx,
            sha256=digest(files.onnx),
            points=tuple(points),
            calibration=calibration or Calibration(record.task),
            test_auroc=test_auroc or {},
            explain=explain,
            explain_sha256=digest(explain) if explain else None,
            map_scale=map_scale or {},
        ),
        normalisation={"mean": record.mean, "std": record.std},
        batch_size=batch_size,
        costs=dict(zip(("params", "macs"), record.costs, strict=True)),
        training={key: value for key, value in record.to_json().items() if key in _TRAINING},
        licenses=None if ancestors is None else [ancestor.to_json() for ancestor in ancestors],
    )


def _measured(
    trained: ModelFolder, dataset: Dataset, split_name: str, names: Collection[str] | None = None
) -> Measured:
    """The model's predictions on a split, without resamples; all figures, or those of these names."""
    path, name, rows = trained.predictions, trained.folder.name, dataset.split(split_name)
    logits = align(read_logits(path, name, dataset.labels), split_name, rows["image_id"], path, name)
    groups = rows["group_id"].to_numpy()
    split = Split.of(dataset.labels, dataset.targets(rows), groups, 0, 0, dataset.task, split_name)
    return Measured.of(split, logits, names=names)


def _test_auroc(trained: ModelFolder, dataset: Dataset) -> dict[str, float]:
    """AUROC of each eligible label on test: what `medistill evaluate` holds those on foreign images against."""
    if not (dataset.manifest["split"] == "test").any():
        return {}
    measured = _measured(trained, dataset, "test", [LEAD])
    return {measured.split.labels[k]: float(measured.values[LEAD][0, k]) for k in measured.split.columns()}


def _figures(measured: Measured) -> dict[str, float]:
    """Figures on validation, one number each; undefined ones are left out."""
    values = {figure.key: measured.overall(figure)[0] for figure in measured.figures if figure.summary}
    return {f"val_{key}": float(value) for key, value in values.items() if not np.isnan(value)}


def _spread(dataset: Dataset, split: str, count: int) -> pd.DataFrame:
    """Rows of `count` images spread evenly over a split, or of all of them."""
    rows = dataset.split(split)
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    return rows.iloc[chosen]
