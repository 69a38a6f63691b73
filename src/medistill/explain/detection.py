"""Whether a model calls the label of a finding, at the threshold that it ships with."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medistill.data.dataset import Dataset
from medistill.evaluation.operating import POINTS, Known, threshold
from medistill.evaluation.predictions import align, read_logits
from medistill.explain.explained import Explained
from medistill.explain.selection import Finding
from medistill.layout import ModelFolder
from medistill.task import Calibration


def call_each(
    folders: Mapping[str, ModelFolder], dataset: Dataset, findings: list[Finding], explained: Mapping[str, Explained]
) -> dict[str, NDArray[np.float64]]:
    """What `called` says of the model of each folder, by its answers about the findings."""
    return {
        name: called(dataset, folders[name].predictions, name, findings, answers.probabilities)
        for name, answers in explained.items()
    }


def called(
    dataset: Dataset, predictions: Path, name: str, findings: list[Finding], probabilities: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Whether a model calls each finding's label: float64 (N,), 1 or 0; NaN where the label has no threshold.

    A class is called if it is the most probable one, another label from the threshold of the first of
    `evaluation.operating.POINTS` on, which is fitted on validation.

    Args:
        dataset: the labels.
        predictions: the model's logits; it knows all labels.
        name: of the model, for messages.
        findings: N labels on images.
        probabilities: (N, L), the model's of all labels.
    """
    columns = np.array([dataset.labels.index(finding.label) for finding in findings], np.intp)
    own = probabilities[np.arange(len(findings)), columns]
    if dataset.task.exclusive:
        return np.where(own == probabilities.max(axis=1), 1.0, 0.0)
    rows = dataset.split("val")
    logits = align(read_logits(predictions, name, dataset.labels), "val", rows["image_id"], predictions, name)
    given, targets = Calibration(dataset.task).probabilities(logits), dataset.targets(rows)
    groups = np.unique(rows["group_id"], return_inverse=True)[1]
    result = np.full(len(findings), np.nan)
    for label in np.unique(columns):
        known = ~np.isnan(targets[:, label])
        val = Known("val", targets[known, label] == 1, given[known, label], groups[known])
        least = threshold(val, *POINTS[0])
        if least is not None:
            here = columns == label
            result[here] = own[here] >= least
    return result
