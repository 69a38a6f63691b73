"""The fit of a calibration: against literal formulas, and what it may not do."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from medistill.metrics.calibration import (
    LEAST,
    OWN_SLOPE,
    calibratable,
    fit_calibration,
)
from medistill.metrics.ranking import auroc
from medistill.task import Task


def labels_of(logits: np.ndarray, slope: float, intercept: float, seed: int) -> np.ndarray:
    """Labels that come true as often as sigmoid(slope * logits + intercept) says."""
    return (np.random.default_rng(seed).random(logits.shape) < expit(slope * logits + intercept)).astype(float)


def binary_loss(targets: np.ndarray, answers: np.ndarray) -> float:
    known = ~np.isnan(targets)
    p = np.clip(expit(answers[known]), 1e-300, 1)
    q = np.clip(expit(-answers[known]), 1e-300, 1)
    return float(-(targets[known] * np.log(p) + (1 - targets[known]) * np.log(q)).sum())


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3, (600, 3))


def test_a_label_with_many_images_has_the_most_probable_slope_and_intercept(logits):
    targets = labels_of(logits, 0.4, -0.7, 1)
    targets[::7, 0] = np.nan
    found = fit_calibration(targets, logits, Task.MULTILABEL)
    for label in range(3):
        own, given = targets[:, label], logits[:, label]

        def literal(x, own=own, given=given):
            return binary_loss(own, x[0] * given + x[1]) + 2 * ((x[0] - 1) ** 2 + x[1] ** 2)  # 1 / (2 * 0.5**2) = 2

        best = minimize(literal, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-10}).x
        np.testing.assert_allclose([found.slopes[label], found.intercepts[label]], best, atol=1e-5)
        np.testing.assert_allclose(best, [0.4, -0.7], atol=0.2)


def test_labels_with_few_images_share_a_slope_and_rare_ones_stay_as_they_are(logits):
    rng = np.random.default_rng(2)
    targets = np.zeros_like(logits)
    for label, positives in enumerate((OWN_SLOPE - 1, LEAST, LEAST - 1)):
        targets[rng.choice(600, positives, replace=False), label] = 1
        logits[targets[:, label] == 1, label] += 2
    assert calibratable(targets, logits, Task.MULTILABEL).tolist() == [True, True, False]
    found = fit_calibration(targets, logits, Task.MULTILABEL)
    assert found.slopes[0] == found.slopes[1] < 1
    assert (found.slopes[2], found.intercepts[2]) == (1, 0)

    def literal(x):
        inner = binary_loss(targets[:, 0], x[0] * logits[:, 0] + x[1]) + binary_loss(
            targets[:, 1], x[0] * logits[:, 1] + x[2]
        )
        return inner + 2 * ((x[0] - 1) ** 2 + x[1] ** 2 + x[2] ** 2)

    best = minimize(literal, [1.0, 0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-10}).x
    np.testing.assert_allclose([found.slopes[0], *found.intercepts[:2]], best, atol=1e-5)
    alone = fit_calibration(targets[:, :1], logits[:, :1], Task.MULTILABEL)
    assert alone.slopes[0] != found.slopes[0]


def test_one_temperature_for_exclusive_classes(logits):
    rng = np.random.default_rng(3)
    classes = (0.5 * logits + rng.gumbel(size=logits.shape)).argmax(1)  # a temperature of 2
    targets = np.eye(3)[classes]
    targets[:40] = np.nan
    found = fit_calibration(targets, logits, Task.MULTICLASS)
    assert len(set(found.slopes)) == 1
    assert found.intercepts is None

    def literal(x):
        return -(targets[40:] * log_softmax(x[0] * logits[40:], axis=1)).sum() + 2 * (x[0] - 1) ** 2

    best = minimize(literal, [1.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-10}).x
    assert found.slopes[0] == pytest.approx(best[0], abs=1e-6)
    assert found.slopes[0] == pytest.approx(0.5, abs=0.1)
    few = np.where(np.arange(600)[:, None] < 40 + LEAST - 1, targets, np.nan)
    assert fit_calibration(few, logits, Task.MULTICLASS).slopes is None


def test_calibrated_answers_are_likelier_and_rank_as_before(logits):
    targets = labels_of(logits, 0.3, 1.0, 4)
    found = fit_calibration(targets, logits, Task.MULTILABEL)
    assert binary_loss(targets, found.logits(logits)) < binary_loss(targets, logits)
    for label in range(3):
        assert auroc(targets[:, label], found.logits(logits)[:, label]) == auroc(targets[:, label], logits[:, label])
    turned = fit_calibration(1 - targets, logits, Task.MULTILABEL)  # worse than chance: not turned round
    assert min(turned.slopes) > 0


def test_few_images_change_little_and_none_change_nothing(logits):
    targets, faint = labels_of(logits, 1.0, 0.0, 5), logits / 3
    many, few = (fit_calibration(targets[:n], faint[:n], Task.MULTILABEL) for n in (600, 80))
    assert 1 < np.mean(few.slopes) < np.mean(many.slopes) < 3.5
    unknown = np.full_like(targets, np.nan)
    for task in Task:
        nothing = fit_calibration(unknown, logits, task)
        assert nothing.logits(logits) is logits
    untaught = np.where(np.arange(3) == 1, np.nan, logits)
    assert calibratable(targets, untaught, Task.MULTILABEL).tolist() == [True, False, True]
    assert not calibratable(targets, untaught, Task.MULTICLASS).any()
