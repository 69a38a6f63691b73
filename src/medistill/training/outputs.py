"""The folder of a trained model."""

import functools
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.files import atomic
from medistill.layout import ModelFolder
from medistill.models.classifier import Classifier, map_size
from medistill.models.costs import costs
from medistill.models.weights import save_model
from medistill.records.models import LOGIT_PREFIX, PREDICTION_COLUMNS, TrainingMetrics
from medistill.training.trainer import Fit, predict, say_what_to_lower


def write_outputs(
    folder: Path,
    model: Classifier,
    dataset: Dataset,
    fit: Fit | None,
    facts: dict[str, Any],
    seen: Sequence[provenance.TrainIds] = (),
    *,
    batch_size: int,
) -> None:
    """Write a trained model with all that later stages need, atomically.

    Args:
        folder: replaced as a whole.
        fit: how it was trained; None where it was taken as it is, which has neither history.csv nor training figures.
        facts: what config.json says beyond architecture and data set: role, name, recipe, fingerprint…
        seen: what it, its initial weights and its teachers were trained on.
        batch_size: images that are predicted at once.

    Raises:
        UserError: memory runs out.
    """
    size = dataset.image_size
    config = {
        **facts,
        **model.config,
        "task": dataset.task,
        "image_size": size,
        "channels": dataset.channels,
        "fit": dataset.fit,
        **costs(model, size),
        "map_size": map_size(model, size),
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "versions": {"torch": torch.__version__.split("+")[0]},
    }
    measured = TrainingMetrics(
        params=config["params"],
        macs=config["macs"],
        best_epoch=None if fit is None else fit.best_epoch,
        val_macro_auroc=None if fit is None else fit.val_macro_auroc,
        train_seconds=None if fit is None else round(fit.seconds, 1),
    )
    with atomic(folder) as temporary:
        temporary.mkdir()
        files = ModelFolder(temporary)
        if fit is not None:
            fit.history.to_csv(files.history, index=False, float_format="%.6g")
        measured.write(files.metrics)
        with say_what_to_lower(model, dataset, "training.batch_size lower"):
            predicted = predictions(model, dataset, batch_size=batch_size)
        predicted.to_parquet(files.predictions, index=False)
        provenance.write_ids(files.train_ids, functools.reduce(operator.or_, seen, provenance.NOTHING))
        save_model(temporary, model, config)  # last, as its record has the checksums of the others


def predictions(model: Classifier, dataset: Dataset, *, batch_size: int = 64) -> pd.DataFrame:
    """Logits on val and test: `image_id`, `group_id`, `split`, and a float32 column `logit:<label>` each.

    The labels are those that model and data set both have.
    """
    rows = pd.concat([dataset.split("val"), dataset.split("test")], ignore_index=True)
    logits = predict(model, dataset, rows, batch_size=batch_size)
    theirs = model.config["labels"]
    columns = {LOGIT_PREFIX + label: logits[:, theirs.index(label)] for label in dataset.labels if label in theirs}
    return pd.concat([rows[list(PREDICTION_COLUMNS)], pd.DataFrame(columns)], axis=1)
