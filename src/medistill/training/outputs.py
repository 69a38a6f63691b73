"""The folder of a trained model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.files import atomic
from medistill.layout import ModelFolder
from medistill.models.classifier import Classifier, feature_shape
from medistill.models.costs import costs
from medistill.models.weights import save_model
from medistill.records.models import LOGIT_PREFIX, PREDICTION_COLUMNS, TrainingMetrics
from medistill.training.memory import explain_out_of_memory
from medistill.training.trainer import TrainingResult
from medistill.training.validation import predict


def write_outputs(
    folder: Path,
    model: Classifier,
    dataset: Dataset,
    result: TrainingResult | None,
    facts: Mapping[str, object],
    seen: Sequence[provenance.TrainIds] = (),
    *,
    batch_size: int,
) -> None:
    """Write a trained model with all files that later stages need, atomically.

    Args:
        folder: replaced as a whole.
        result: how its training went; None for an imported model, which has neither history.csv nor training figures.
        facts: further keys of config.json: role, name, recipe, fingerprint…
        seen: hashes of what it, its initial weights and its teachers were trained on.
        batch_size: images that are predicted at once.

    Raises:
        UserError: memory runs out.
    """
    size = dataset.image_size
    spent = costs(model, size)
    config: dict[str, object] = {
        **facts,
        **model.config,
        **facts_of(dataset),
        **spent,
        "map_size": feature_shape(model, size)[1:] or None,
        "versions": {"torch": torch.__version__.split("+")[0]},
    }
    measured = TrainingMetrics(
        params=spent["params"],
        macs=spent["macs"],
        best_epoch=None if result is None else result.best_epoch,
        val_macro_auroc=None if result is None else result.val_macro_auroc,
        train_seconds=None if result is None else round(result.seconds, 1),
    )
    with atomic(folder) as temporary:
        temporary.mkdir()
        files = ModelFolder(temporary)
        if result is not None:
            result.history.to_csv(files.history, index=False, float_format="%.6g")
        measured.write(files.metrics)
        with explain_out_of_memory(model, dataset, "training.batch_size lower"):
            predicted = predictions(model, dataset, batch_size=batch_size)
        predicted.to_parquet(files.predictions, index=False)
        provenance.write_ids(files.train_ids, provenance.union(seen))
        save_model(temporary, model, config)  # last, as its record has the checksums of the others


def facts_of(dataset: Dataset) -> dict[str, object]:
    """What config.json of a model says of its data set."""
    return {
        "task": dataset.task,
        "image_size": dataset.image_size,
        "channels": dataset.channels,
        "fit": dataset.fit,
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
    }


def predicted_rows(dataset: Dataset) -> pd.DataFrame:
    """The images of val and test, in the order in which models' predictions have them."""
    return pd.concat([dataset.split("val"), dataset.split("test")], ignore_index=True)


def predictions(model: Classifier, dataset: Dataset, *, batch_size: int = 64) -> pd.DataFrame:
    """Logits on val and test: `image_id`, `group_id`, `split`, and a float32 column `logit:<label>` each.

    The labels are those that model and data set both have.
    """
    rows = predicted_rows(dataset)
    return tabulate(rows, model.config["labels"], predict(model, dataset, rows, batch_size=batch_size), dataset)


def tabulate(rows: pd.DataFrame, labels: Sequence[str], logits: np.ndarray, dataset: Dataset) -> pd.DataFrame:
    """A table as of `predictions`, from logits (N, L) of a model's `labels` about `rows`."""
    columns = {LOGIT_PREFIX + label: logits[:, labels.index(label)] for label in dataset.labels if label in labels}
    return pd.concat([rows[list(PREDICTION_COLUMNS)], pd.DataFrame(columns)], axis=1)
