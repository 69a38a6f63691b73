"""The folder of a trained model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.files import atomic, write_json
from medistill.models.zoo import Classifier, count_macs, count_params, map_size, save_model
from medistill.training.loop import Fit, predict


def write_outputs(
    folder: Path,
    model: Classifier,
    dataset: Dataset,
    fit: Fit,
    facts: dict[str, Any],
    inherited: Sequence[provenance.TrainIds] = (),
) -> None:
    """Write a trained model with all that later stages need, atomically.

    Args:
        folder: replaced as a whole.
        facts: what config.json says beyond architecture and data set: role, name, recipe, fingerprint…
        inherited: what its initial weights and its teachers were trained on.
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
    ids = provenance.ids_of(dataset, "train")
    for other in inherited:
        ids |= other
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
        provenance.write_ids(temporary / provenance.FILE, ids)


def predictions(model: Classifier, dataset: Dataset) -> pd.DataFrame:
    """Logits on val and test: `image_id`, `group_id`, `split`, and a float32 column `logit:<label>` each."""
    rows = pd.concat([dataset.split("val"), dataset.split("test")], ignore_index=True)
    logits = predict(model, dataset, rows)
    columns = {f"logit:{label}": logits[:, i] for i, label in enumerate(dataset.labels)}
    return pd.concat([rows[["image_id", "group_id", "split"]], pd.DataFrame(columns)], axis=1)
