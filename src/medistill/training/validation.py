"""Logits of a network without augmentation, and the figure by which its best epoch is chosen."""

import numpy as np
import pandas as pd
import torch
from scipy.special import log_softmax

from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.layout import DataFolder
from medistill.metrics.eligibility import ineligibility
from medistill.metrics.ranking import auroc
from medistill.models.classifier import Classifier
from medistill.views import render_plain


@torch.inference_mode()
def predict(model: Classifier, dataset: Dataset, rows: pd.DataFrame, *, batch_size: int = 64) -> np.ndarray:
    """Logits of `rows` without augmentation: float32 (N, L), in the order of `rows`."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    out = []
    for start in range(0, len(rows), batch_size):
        pixels = torch.from_numpy(dataset.images(rows.iloc[start : start + batch_size])).to(device)
        out.append(model(render_plain(pixels).contiguous(memory_format=torch.channels_last)).float().cpu())
    model.train(was_training)
    return torch.cat(out).numpy()


class Validation:
    """The validation split, and the labels on it that choose the best epoch."""

    def __init__(self, dataset: Dataset) -> None:
        """Look for labels that can be measured on the validation split of `dataset`.

        Raises:
            UserError: none has both classes there.
        """
        self._dataset, self._rows = dataset, dataset.split("val")
        self._targets = dataset.targets(self._rows)
        self._labels = measured_labels(self._targets, self._rows["group_id"].to_numpy())
        if not len(self._labels):
            raise UserError(
                f"{DataFolder(dataset.folder).manifest}: no label has both classes on val; raise data.val_fraction"
            )

    def macro_auroc(self, model: Classifier, *, batch_size: int, epoch: int) -> float:
        """Mean AUROC of `model`, which has been trained for `epoch` epochs.

        Raises:
            UserError: a logit is not finite.
        """
        logits = predict(model, self._dataset, self._rows, batch_size=batch_size)
        _require_finite(logits, self._rows["image_id"], epoch)
        if self._dataset.task.exclusive:  # a constant added to an image's logits must not rank it
            logits = log_softmax(logits, axis=1)
        return mean_auroc(self._targets, logits, self._labels)


def measured_labels(targets: np.ndarray, group_ids: np.ndarray) -> np.ndarray:
    """Indices of the labels that choose the best epoch: the eligible ones, as in evaluation.

    In a set too small for any, those that have both classes at all.

    Args:
        targets: (N, L), 1, 0, or NaN where unknown.
        group_ids: (N,), the group of each image.
    """
    eligible = [label for label in range(targets.shape[1]) if ineligibility(targets[:, label], group_ids) is None]
    if eligible:
        return np.array(eligible)
    return np.flatnonzero((targets == 1).any(axis=0) & (targets == 0).any(axis=0))


def mean_auroc(targets: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean AUROC over `labels` (indices); `targets` and `logits` (N, L), NaN targets are left out."""
    return float(np.mean([auroc(targets[:, label], logits[:, label]) for label in labels]))


def _require_finite(logits: np.ndarray, image_ids: pd.Series, epoch: int) -> None:
    bad = ~np.isfinite(logits).all(axis=1)
    if bad.any():
        raise UserError(
            f"after epoch {epoch} the network's logits of {int(bad.sum())} validation images are not finite, first"
            f" {image_ids[bad].iloc[0]}; lower learning_rate"
        )
