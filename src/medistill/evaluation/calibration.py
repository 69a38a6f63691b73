"""A model's calibration: fitted on validation alone, and what it makes of the probabilities there and on test."""

import numpy as np

from medistill.evaluation.answers import Answers, Validation
from medistill.evaluation.comparison import Measured
from medistill.metrics.calibration import fit_calibration
from medistill.metrics.eligibility import MIN_IMAGES
from medistill.metrics.intervals import FloatArray
from medistill.metrics.probabilities import FIGURES
from medistill.records.evaluation import Calibrated

FOLDS = 5
"""Parts of validation's patients, each of which is calibrated by a fit to the others."""

FIGURES_AFTER = (*FIGURES, "ece", "ece_null")
"""What a calibration changes: it keeps the order of a label's images, and so AUROC."""


def cross_fit(validation: Validation) -> FloatArray:
    """Logits (N, L) on validation, those of each patient calibrated by a fit to patients of other parts.

    A fit is better on the images that it has seen than on others; this shows how it does on others.
    """
    answers = validation.answers
    split = answers.split
    fold_of = np.random.default_rng(0).permutation(len(split.counts)) % FOLDS
    calibrated = np.array(answers.logits, np.float64)
    for fold in range(FOLDS):
        own = fold_of[split.groups] == fold
        calibration = fit_calibration(split.targets[~own], answers.logits[~own], split.task, MIN_IMAGES)
        calibrated[own] = calibration.logits(answers.logits[own])
    return calibrated


def calibrate(validation: Validation, test: Answers) -> Calibrated:
    """Fit a model's calibration, and measure validation (cross-fitted) and test after it."""
    fitted, count = validation.calibration, len(test.split.labels)
    slopes, intercepts = fitted.slopes or [1.0] * count, fitted.intercepts or [0.0] * count
    val = validation.answers.split
    return Calibrated(
        slopes=dict(zip(val.labels, slopes, strict=True)),
        intercepts=dict(zip(val.labels, intercepts, strict=True)),
        val=Measured.of(val, cross_fit(validation), names=FIGURES_AFTER).describe(),
        test=Measured.of(test.split, test.logits, fitted, names=FIGURES_AFTER).describe(),
    )
