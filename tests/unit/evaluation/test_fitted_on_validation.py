"""A calibration is fitted on validation alone, shown on patients that it has not seen, and carried to the device."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from medistill.evaluation.answers import Answers, Split, Validation
from medistill.evaluation.calibration import FOLDS, calibrate, cross_fit
from medistill.task import Calibration, Task

LABELS = ["a", "b", "rare"]


def answers(seed: int, name: str, patients: int = 300) -> Answers:
    """Answers that are twice too sure and, about the second label, too high; two images a patient."""
    random = np.random.default_rng(seed)
    true = random.normal(-0.5, 1.2, (2 * patients, 3)) - [0, 0, 7]
    targets = (random.random(true.shape) < expit(true)).astype(float)
    targets[::9, 0] = np.nan
    split = Split.of(LABELS, targets, np.arange(2 * patients) // 2, 100, 0, name=name)
    logits = 2 * true + [0, 1, 0]
    return Answers(split, logits, Calibration(Task.MULTILABEL).probabilities(logits))


def test_test_labels_change_no_calibration():
    val, test = Validation(answers(0, "val")), answers(1, "test")
    before = calibrate(val, test)
    turned = Answers(
        Split.of(LABELS, 1 - test.split.targets, test.split.groups, 100, 0, name="test"),
        test.logits,
        test.probabilities,
    )
    after = calibrate(val, turned)
    assert (after.slopes, after.intercepts, after.val) == (before.slopes, before.intercepts, before.val)
    assert after.test != before.test


def test_each_patient_is_calibrated_by_the_others():
    """The fit to the other parts is found anew: in each part the change is one slope and one intercept per label."""
    val = Validation(answers(0, "val"))
    split, logits = val.answers.split, val.answers.logits
    calibrated, parts = cross_fit(val), {}
    for patient in range(len(split.counts)):
        own = split.groups == patient
        a, b = np.polyfit(logits[own, 0], calibrated[own, 0], 1)
        parts.setdefault((round(a, 6), round(b, 6)), []).append(patient)
    assert sorted(map(len, parts.values())) == [len(split.counts) // FOLDS] * FOLDS
    for (a, b), patients in parts.items():  # the most probable parameters of all other patients
        rows = ~np.isin(split.groups, patients) & ~np.isnan(split.targets[:, 0])
        y, z = split.targets[rows, 0], logits[rows, 0]

        def loss(x, y=y, z=z):
            return (np.logaddexp(0, x[0] * z + x[1]) - y * (x[0] * z + x[1])).sum() + 2 * ((x[0] - 1) ** 2 + x[1] ** 2)

        assert minimize(loss, [1.0, 0.0], tol=1e-10).x == pytest.approx([a, b], abs=1e-4)


def test_figures_after_it_are_those_of_calibrated_probabilities():
    val, test = Validation(answers(0, "val")), answers(1, "test")
    found = calibrate(val, test)
    assert found.slopes["a"] == pytest.approx(0.5, abs=0.1)
    assert found.intercepts["b"] == pytest.approx(-0.5, abs=0.2)
    assert (found.slopes["rare"], found.intercepts["rare"]) == (1, 0)  # too few to fit
    for k, label in enumerate("ab"):
        rows = ~np.isnan(test.split.targets[:, k])
        truth = test.split.targets[rows, k]
        given = expit(found.slopes[label] * test.logits[rows, k] + found.intercepts[label])
        after = found.test.per_label[label]
        assert after.figure("brier").estimate == pytest.approx(brier_score_loss(truth, given), abs=1e-12)
        assert after.figure("log_loss").estimate == pytest.approx(log_loss(truth, given), abs=1e-12)
        regression = LogisticRegression(penalty=None, tol=1e-10).fit(logit(given)[:, None], truth)
        assert after.figure("calibration_slope").estimate == pytest.approx(regression.coef_[0, 0], abs=1e-5)
        assert brier_score_loss(truth, given) < brier_score_loss(truth, test.probabilities[rows, k])
    assert "auroc" not in found.test.figures
    cross = 1 / (1 + np.exp(-cross_fit(val)))
    rows = ~np.isnan(val.answers.split.targets[:, 0])
    expected = brier_score_loss(val.answers.split.targets[rows, 0], cross[rows, 0])
    assert found.val.per_label["a"].figure("brier").estimate == pytest.approx(expected, abs=1e-12)


def test_exclusive_classes_have_one_temperature():
    random = np.random.default_rng(3)
    splits = []
    for name in ("val", "test"):
        logits = random.normal(0, 2, (400, 3))
        targets = np.eye(3)[(0.5 * logits + random.gumbel(size=logits.shape)).argmax(axis=1)]
        split = Split.of(LABELS, targets, np.arange(400) // 2, 100, 0, Task.MULTICLASS, name)
        splits.append(Answers(split, logits, Calibration(Task.MULTICLASS).probabilities(logits)))
    found = calibrate(Validation(splits[0]), splits[1])
    assert len(set(found.slopes.values())) == 1
    assert found.slopes["a"] == pytest.approx(0.5, abs=0.1)
    assert set(found.intercepts.values()) == {0}
    before = np.square(splits[1].probabilities - splits[1].split.targets).mean()
    assert found.test.figure("macro_brier").estimate < before
