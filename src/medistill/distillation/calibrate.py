"""Calibrated teachers: their logits corrected by what they said about the validation split.

A student inherits its teacher's calibration, and teachers of unequal confidence are not combined fairly (arXiv
2508.20224). The correction is fitted once on validation and lies beside the answers, which stay as they are: recipes
with and without it read the same ones.
"""

import hashlib
import json
from collections.abc import Set as AbstractSet
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from medistill.checksums import TEACH_AGAIN, reading
from medistill.data.dataset import Dataset
from medistill.distillation.teachers import ChangedTeacher, Teacher
from medistill.layout import KnowledgeFolder, ModelFolder
from medistill.metrics.calibration import calibratable, fit_calibration
from medistill.records.models import LOGIT_PREFIX, CalibrationRecord, KnowledgeRecord, LabelCalibration, ModelRecord
from medistill.task import Calibration
from medistill.training.batches import Batch


def calibration_of(model: Path, dataset: Dataset) -> CalibrationRecord:
    """Fit a model's calibration on the labels of the validation split; see `fit_calibration`.

    Args:
        model: folder of the model, whose predictions on validation are read.
        dataset: its labels, and those of the split.

    Returns:
        Slope and intercept of each label that the model knows; 1 and 0 where validation has too few images.

    Raises:
        UserError: the predictions are missing or damaged.
    """
    files = ModelFolder(model)
    ModelRecord.read_whole(files.config, [files.predictions.name])
    with reading(files.predictions, "run the stage that wrote it again"):
        said = pd.read_parquet(files.predictions)
    said = said[said["split"] == "val"].set_index("image_id")
    rows = dataset.split("val")
    labels = [label for label in dataset.labels if LOGIT_PREFIX + label in said]
    logits = said.reindex(rows["image_id"])[[LOGIT_PREFIX + label for label in labels]].to_numpy(np.float64)
    targets = dataset.targets(rows)[:, [dataset.labels.index(label) for label in labels]]
    targets = np.where(np.isnan(logits), np.nan, targets)  # images that the model has not answered do not count
    fitted, enough = fit_calibration(targets, logits, dataset.task), calibratable(targets, logits, dataset.task)
    slopes, intercepts = fitted.slopes or [1.0] * len(labels), fitted.intercepts or [0.0] * len(labels)
    return CalibrationRecord(
        labels={
            label: LabelCalibration(
                slope=slopes[place],
                intercept=intercepts[place],
                positives=int((targets[:, place] == 1).sum()),
                negatives=int((targets[:, place] == 0).sum()),
                fitted=bool(enough[place]),
            )
            for place, label in enumerate(labels)
        }
    )


def uncalibrated(dataset: Dataset) -> list[str]:
    """Labels of which validation has too few images, so that a teacher's logits of them stay as they are."""
    targets = dataset.targets(dataset.split("val"))
    enough = calibratable(targets, np.zeros_like(targets), dataset.task)
    return [label for label, is_enough in zip(dataset.labels, enough, strict=True) if not is_enough]


class CalibratedTeacher(ChangedTeacher):
    """A teacher whose logits are calibrated before they are combined or compared; all else it says is its own."""

    def __init__(self, teacher: Teacher, record: CalibrationRecord, dataset: Dataset) -> None:
        """Let `teacher` answer about the labels of `dataset` with the slopes and intercepts of `record`.

        Labels that the record lacks stay as they are.
        """
        self.teacher = teacher
        own = [record.labels.get(label) for label in dataset.labels]
        slopes = [1.0 if label is None else label.slope for label in own]
        intercepts = [0.0 if label is None else label.intercept for label in own]
        self.calibration = Calibration(dataset.task, slopes, intercepts)
        self._slopes, self._intercepts = torch.tensor(slopes), torch.tensor(intercepts)
        self.checksum = hashlib.sha256(json.dumps([teacher.checksum, slopes, intercepts]).encode()).hexdigest()

    @classmethod
    def open(cls, teacher: Teacher, folder: Path, dataset: Dataset) -> "CalibratedTeacher":
        """The teacher with the calibration that lies in the folder of its answers.

        Raises:
            UserError: the file is missing or damaged.
        """
        files = KnowledgeFolder(folder)
        KnowledgeRecord.read_whole(files.record, [files.calibration.name])
        return cls(teacher, CalibrationRecord.read(files.calibration, TEACH_AGAIN), dataset)

    def answer(self, batch: Batch, needs: AbstractSet[str]) -> dict[str, Tensor]:
        """As `Teacher` says, with calibrated logits."""
        answers = self.teacher.answer(batch, needs)
        logits = answers["logits"]
        slopes, intercepts = self._slopes.to(logits.device), self._intercepts.to(logits.device)
        return answers | {"logits": slopes * logits + intercepts}
