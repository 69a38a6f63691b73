"""Labels that the teachers contradict: where a label may be wrong, or the teachers are. Nothing is changed by it.

Teachers have not learnt from validation and test images, so that their answers about these are out of sample, as
confident learning asks (Northcutt et al., JAIR 2021). Labels are ranked by the teachers' mean −log of the probability
of what the label says.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from medistill.data.dataset import Dataset
from medistill.evaluation.predictions import align, read_logits
from medistill.metrics.intervals import FloatArray
from medistill.records.data import LABEL_PREFIX
from medistill.task import Calibration
from medistill.text import as_cell

SPLITS = ("val", "test")
LISTED = 200
"""Labels in the list."""
SHOWN = 12
"""Labels on the page, with their images."""


@dataclass(frozen=True)
class Doubt:
    """A label that the teachers contradict.

    Attributes:
        image_id, split: the image.
        label: of the image; of exclusive classes its class.
        present: what the label says; True for a class.
        probability: of the label, the teachers' mean.
        instead: the class that they name; None of labels that are not exclusive.
        loss: mean over teachers of −log of the probability of what the label says.
    """

    image_id: str
    split: str
    label: str
    present: bool
    probability: float
    instead: str | None
    loss: float


def find_doubts(dataset: Dataset, predictions: Mapping[str, Path], most: int = LISTED) -> list[Doubt]:
    """The labels of validation and test images that teachers contradict most, the worst first.

    Args:
        dataset: the labels.
        predictions: each teacher's logits; teachers that know all labels.
        most: length of the list; labels that the teachers hold for more likely right than wrong are never in it.
    """
    if not predictions:
        return []
    logits = {name: read_logits(path, name, dataset.labels) for name, path in predictions.items()}
    found: list[Doubt] = []
    for split in SPLITS:
        rows = dataset.split(split)
        answers = [
            Calibration(dataset.task).probabilities(align(table, split, rows["image_id"], predictions[name], name))
            for name, table in logits.items()
        ]
        found += _doubts_of(dataset, rows, np.stack(answers), split)
    return sorted(found, key=lambda doubt: (-doubt.loss, doubt.image_id, doubt.label))[:most]


def _doubts_of(dataset: Dataset, rows: pd.DataFrame, answers: FloatArray, split: str) -> list[Doubt]:
    """All doubts of a split by answers (T, N, L)."""
    targets, means = dataset.targets(rows), answers.mean(axis=0)
    claimed = np.where(targets == 1, answers, 1 - answers)
    losses = -np.log(np.maximum(claimed, np.finfo(np.float64).tiny)).mean(axis=0)
    if dataset.task.exclusive:  # of each image one class, which is doubted where another is more likely
        doubtful = (targets == 1) & (means < means.max(axis=1, keepdims=True))
    else:
        doubtful = ~np.isnan(targets) & (losses > np.log(2))
    return [
        Doubt(
            image_id=str(rows["image_id"].iloc[n]),
            split=split,
            label=dataset.labels[k],
            present=bool(targets[n, k] == 1),
            probability=float(means[n, k]),
            instead=dataset.labels[means[n].argmax()] if dataset.task.exclusive else None,
            loss=float(losses[n, k]),
        )
        for n, k in zip(*np.nonzero(doubtful), strict=True)
    ]


def write_doubts(path: Path, doubts: list[Doubt]) -> None:
    """The list as CSV, the worst first."""
    columns = ["image_id", "split", "label", "present", "probability", "instead", "loss"]
    table = pd.DataFrame([[getattr(doubt, name) for name in columns] for doubt in doubts], columns=columns)
    table["present"] = table["present"].astype(int)
    table["image_id"] = [as_cell(doubt.image_id) for doubt in doubts]
    for column in ("label", "instead"):  # as in the manifest's columns where it would be a formula
        table[column] = table[column].map(lambda label: as_cell(label, before=LABEL_PREFIX), na_action="ignore")
    table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
