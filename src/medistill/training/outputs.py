"""The folder of a trained model."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from medistill.data.dataset import Dataset
from medistill.files import atomic, write_json
from medistill.models.zoo import Classifier, count_macs, count_params, map_size, save_model
from medistill.training.loop import Fit, predict


def write_outputs(folder: Path, model: Classifier, dataset: Dataset, fit: Fit, facts: dict[str, Any]) -> None:
    """Write a trained model with all that later stages need, atomically.

    Args:
        folder: replaced as a whole.
        facts: what config.json says beyond architecture and data set: role, name, recipe, fingerprint…
    """
    size = dataset.image_size
    config = {
        **facts,
        **model.config,
        "task": dataset.task,
        "image_size": size,
        "channels": dataset.channels,
        "fit": dataset.fit,
        "params": count_params(model),
        "macs": count_macs(model, size),
        "map_size": map_size(model, size),
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "versions": {"torch": torch.__version__.split("+")[0]},
    }
    with atomic(folder) as temporary:
        temporary.mkdir()
        save_model(temporary, model, config)
        fit.history.to_csv(temporary / "history.csv", index=False, float_format="%.6g")
        write_json(
            temporary / "metrics.json",
            {
                "params": config["params"],
                "macs": config["macs"],
                "best_epoch": fit.best_epoch,
                "val_macro_auroc": fit.val_macro_auroc,
                "train_seconds": round(fit.seconds, 1),
            },
        )
        predictions(model, dataset).to_parquet(temporary / "predictions.parquet", index=False)
        np.savez(temporary / "train_ids.npz", **train_ids(dataset))


def predictions(model: Classifier, dataset: Dataset) -> pd.DataFrame:
    """Logits on val and test: `image_id`, `group_id`, `split`, and a float32 column `logit:<label>` each."""
    rows = pd.concat([dataset.split("val"), dataset.split("test")], ignore_index=True)
    logits = predict(model, dataset, rows)
    columns = {f"logit:{label}": logits[:, i] for i, label in enumerate(dataset.labels)}
    return pd.concat([rows[["image_id", "group_id", "split"]], pd.DataFrame(columns)], axis=1)


def train_ids(dataset: Dataset) -> dict[str, np.ndarray]:
    """Provenance of the training split without its ids: sorted 64-bit hashes of groups and of pixels.

    Returns:
        `groups` and `images`, uint64 each, sorted and unique: the first eight bytes of the SHA-256 of the group id, and
        of the pixels.
    """
    rows = dataset.split("train")
    groups = [hashlib.sha256(group.encode()).digest()[:8] for group in rows["group_id"].unique()]
    images = [bytes.fromhex(digest[:16]) for digest in rows["sha256"].unique()]
    return {
        "groups": np.sort(np.frombuffer(b"".join(groups), ">u8").astype("<u8")),
        "images": np.sort(np.frombuffer(b"".join(images), ">u8").astype("<u8")),
    }
