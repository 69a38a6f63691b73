"""A tiny data set, a tiny network that behaves like a trained one, and its export."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medistill.data.dataset import Dataset
from medistill.data.provenance import NOTHING, write_ids
from medistill.export.bundle import export_model
from medistill.export.settings import Export
from medistill.layout import ModelFolder
from medistill.models.build import create_classifier
from medistill.models.classifier import Classifier, map_size
from medistill.models.costs import count_macs, count_params
from medistill.models.settings import Network
from medistill.models.weights import load_model
from medistill.records.models import TrainingMetrics
from tests.filled import dataset_info
from tests.saved import save_filled
from tests.seal import digests, seal

LABELS = ["Effusion", "Nodule", "Épanchement | <b>"]
SIZE = 32


@pytest.fixture(scope="session")
def settings() -> Export:
    return Export(opset=18, parity_images=8, latency_runs=5, threads=1)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Dataset:
    """24 grey images with coarse and fine structure, of every brightness; 12 are in the validation split."""
    folder = tmp_path_factory.mktemp("processed")
    rng = np.random.default_rng(0)
    coarse = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (4, 4), np.uint8)).resize((SIZE, SIZE))) for _ in range(24)
    ]
    pixels = np.clip(np.stack(coarse)[:, None] + rng.normal(0, 20, (24, 1, SIZE, SIZE)), 0, 255).astype(np.uint8)
    np.save(folder / "images-00000.npy", pixels)
    manifest = pd.DataFrame(
        {
            "image_id": [f"image{i:02d}" for i in range(24)],
            "shard": np.zeros(24, np.int32),
            "row": np.arange(24, dtype=np.int32),
            "group_id": [f"patient{i // 2:02d}" for i in range(24)],
            "sha256": digests(pixels),
            "split": ["train"] * 12 + ["val"] * 12,
        }
        | {f"label:{label}": np.float32(rng.integers(0, 2, 24)) for label in LABELS}
    )
    manifest.to_parquet(folder / "manifest.parquet")
    meta = {"task": "multilabel", "labels": LABELS, "image_size": SIZE, "channels": 1, "fit": "pad"}
    seal(folder / "dataset.json", dataset_info(name="tiny", **meta))
    return Dataset.open(folder)


@pytest.fixture(scope="session")
def save_network(dataset):
    """A function that saves a network in a folder as training does, with logits that differ from image to image."""

    def save(folder: Path, arch: str, size: int = SIZE) -> Path:
        torch.manual_seed(0)
        model = create_classifier(Network(arch=arch), labels=LABELS)
        train = torch.from_numpy(dataset.images(dataset.split("train")))
        enliven(model, torch.nn.functional.interpolate(train / 255, size=(size, size)))
        config = {
            **{"name": folder.name, "role": "distilled", "task": "multilabel", "fit": "pad"},
            **{"image_size": size, "channels": 1},
            **{"params": count_params(model), "macs": count_macs(model, size), "map_size": map_size(model, size)},
            **{"student": arch, "recipe": "kd", "seed": 0, "teachers": ["densenet"], "combine": "mean"},
            "terms": [{"loss": "sigmoid_kd", "weight": 0.9, "temperature": 2.0}],
            **{"dataset_fingerprint": dataset.fingerprint, "fingerprint": "f00d", "versions": {"torch": "any"}},
        }
        folder.mkdir(parents=True)
        measured = {"best_epoch": 3, "val_macro_auroc": 0.71239, "train_seconds": 9.5}
        costs = {key: config[key] for key in ("params", "macs")}
        TrainingMetrics(**costs, **measured).write(ModelFolder(folder).metrics)
        logits = {f"logit:{label}": np.float32(np.arange(24)) for label in LABELS}
        dataset.manifest[["image_id", "split"]].assign(**logits).to_parquet(ModelFolder(folder).predictions)
        write_ids(ModelFolder(folder).train_ids, NOTHING)
        save_filled(folder, model, **config)
        return folder

    return save


def enliven(model: Classifier, images: torch.Tensor) -> None:
    """Make a random network answer like a trained one: no batch norm is an identity, and logits spread over ±1."""
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.running_mean.normal_(0, 0.1)
                norm.running_var.uniform_(0.5, 1.5)
        head = model.eval().backbone.get_classifier()
        head.weight /= model(images).std(dim=0)[:, None]


@pytest.fixture(scope="session")
def source(save_network, tmp_path_factory) -> Path:
    """A model folder."""
    return save_network(tmp_path_factory.mktemp("students") / "tiny-kd-0", "test_efficientnet")


@pytest.fixture(scope="session")
def classifier(source) -> Classifier:
    return load_model(source)


@pytest.fixture(scope="session")
def exported(source, dataset, settings, tmp_path_factory) -> Path:
    """The folder that `export_model` writes; tests do not change it."""
    folder = tmp_path_factory.mktemp("exports") / "tiny-kd-0"
    export_model(source, dataset, folder, settings)
    return folder


@pytest.fixture(scope="session")
def images(dataset) -> np.ndarray:
    """Pixels of the validation images, uint8 (12, 1, 32, 32)."""
    return dataset.images(dataset.split("val"))
