"""The folder of an exported model: everything a device and its user need, and the proofs that it is right."""

from pathlib import Path
from typing import Any

import numpy as np

from medistill.checksums import TRAIN_AGAIN, checksums, write_record
from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.evaluation.predictions import align, read_logits
from medistill.export.latency import measure_latency
from medistill.export.onnx import export_onnx
from medistill.export.parity import measure_parity
from medistill.export.settings import Export
from medistill.files import atomic, read_json, sha256, write_json
from medistill.metrics.classification import accuracy
from medistill.models.deploy import deployed
from medistill.models.weights import load_model
from medistill.report.card import model_card
from medistill.runtime.bundle import BUNDLE_FILE, BUNDLE_VERSION, DISCLAIMER

ONNX_FILE = "model.onnx"

_TRAINING = (
    *("role", "student", "recipe", "seed", "arch", "args", "initialisation", "teachers", "combine", "terms"),
    *("views", "training", "dataset_fingerprint", "fingerprint", "versions"),
)
"""Keys of config.json that say how the model came about."""


def export_model(source: Path, dataset: Dataset, target: Path, settings: Export) -> dict[str, Any]:
    """Export a trained model: `model.onnx`, `bundle.json`, `parity.json`, `latency.json`, `MODEL_CARD.md`.

    The folder appears complete or not at all. A failed parity is written down, not raised: the gate refuses it.

    Args:
        source: a model folder.
        dataset: the ingested data; its validation images prove parity.
        target: the folder to write; an older one is replaced.
        settings: the section `export` of params.yaml.

    Returns:
        `parity` and `latency`, the contents of the two files.

    Raises:
        UserError: the model is missing or damaged, does not fit the data, or cannot be expressed in ONNX.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such model; train it first (dvc repro)")
    classifier = load_model(source)
    config = classifier.config
    for key in ("task", "labels", "image_size", "channels", "fit"):
        if config[key] != getattr(dataset, key):
            raise UserError(
                f"{source / 'config.json'}: {key} is {config[key]}, but {dataset.folder} has {getattr(dataset, key)}; "
                f"{TRAIN_AGAIN} (dvc repro)"
            )
    images = _spread(dataset, settings.parity_images)
    figures = read_json(source / "metrics.json") | _accuracy(source, dataset)
    with atomic(target) as folder:
        folder.mkdir()
        model = folder / ONNX_FILE
        batch_size = export_onnx(deployed(classifier), model, opset=settings.opset)
        parity = measure_parity(classifier, model, images)
        latency = measure_latency(model, images[0], runs=settings.latency_runs, threads=settings.threads)
        write_json(folder / "parity.json", parity)
        (folder / "MODEL_CARD.md").write_text(model_card(config, figures, dataset, batch_size), encoding="utf-8")
        bundle = describe(config, model, batch_size) | {"files": checksums(folder.iterdir(), folder)}
        write_record(folder / BUNDLE_FILE, bundle)
        write_record(folder / "latency.json", latency)  # of its own, as it differs from time to time
    return {"parity": parity, "latency": latency}


def describe(config: dict[str, Any], model: Path, batch_size: int | None = None) -> dict[str, Any]:
    """The content of bundle.json for a model with `config` (config.json) and its ONNX file.

    Args:
        config: the model folder's config.json.
        model: the ONNX file.
        batch_size: how many images it takes at once; None: any number.
    """
    return {
        "bundle_version": BUNDLE_VERSION,
        "name": config["name"],
        "disclaimer": DISCLAIMER,
        "task": config["task"],
        "labels": config["labels"],
        "preprocessing": {key: config[key] for key in ("image_size", "channels", "fit", "mean", "std")},
        "file": model.name,
        "sha256": sha256(model),
        "batch_size": batch_size,
        "params": config["params"],
        "macs": config["macs"],
        "training": {key: config[key] for key in _TRAINING if key in config},
    }


def _accuracy(source: Path, dataset: Dataset) -> dict[str, float]:
    """Accuracy on validation of a model of exclusive classes, from what it predicted; of others there is none."""
    if not dataset.task.exclusive:
        return {}
    path, rows = source / "predictions.parquet", dataset.split("val")
    table = read_logits(path, source.name, dataset.labels)
    share, balanced = accuracy(dataset.targets(rows), align(table, "val", rows["image_id"], path, source.name))
    return {"val_accuracy": share, "val_balanced_accuracy": balanced}


def _spread(dataset: Dataset, count: int) -> np.ndarray:
    """Pixels, uint8 (N, C, S, S), of `count` validation images spread evenly over the split, or of all it has."""
    rows = dataset.split("val")
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    return dataset.images(rows.iloc[chosen])
