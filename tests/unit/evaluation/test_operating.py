"""Thresholds against a search over all of them, promises by simulation, and what test may not do."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import precision_score, recall_score

from medistill.evaluation.answers import Answers, Split, Validation
from medistill.evaluation.operating import POINTS, Known, operating_points, threshold
from medistill.metrics.means import share_interval
from medistill.task import Calibration, Task


def known(present, probabilities, groups=None, split="val") -> Known:
    present, probabilities = np.asarray(present, bool), np.asarray(probabilities, float)
    return Known(split, present, probabilities, np.arange(len(present)) if groups is None else np.asarray(groups))


def risk(val: Known, at: float, kind: str) -> float:
    """(Σ loss + 1) / (n + 1) by a loop over patients."""
    among = val.present if kind == "sensitivity" else ~val.present
    wrong = (val.probabilities >= at) != val.present
    losses = [wrong[among & (val.groups == group)].mean() for group in np.unique(val.groups[among])]
    return (sum(losses) + 1) / (len(losses) + 1)


@pytest.mark.parametrize("kind", ["sensitivity", "specificity"])
@pytest.mark.parametrize("promised", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_last_threshold_that_keeps_the_promise(seed, promised, kind):
    """Of all that lie at, just above or just below a probability: no other call differs."""
    random = np.random.default_rng(seed)
    given = random.random(120).round(2 if seed % 2 else 6)  # with ties and without
    val = known(random.random(120) < given, given, random.integers(0, 60, 120))
    found = threshold(val, kind, promised)
    every = np.unique([given, np.nextafter(given, 2), np.nextafter(given, -1)])
    allowed = [at for at in every if risk(val, at, kind) <= 1 - promised + 1e-9]
    called = val.probabilities >= found
    best = max(allowed) if kind == "sensitivity" else min(allowed)
    np.testing.assert_array_equal(called, val.probabilities >= best)
    assert risk(val, found, kind) <= 1 - promised + 1e-9


def test_one_image_a_patient_is_an_order_statistic():
    """The ⌊α (n + 1)⌋-th smallest probability of a positive, as of any conformal quantile."""
    given = np.random.default_rng(0).random(39)
    val = known(np.ones(39), given)
    for promised, place in ((0.8, 8), (0.9, 4), (0.95, 2)):
        assert threshold(val, "sensitivity", promised) == np.sort(given)[place - 1]


@pytest.mark.parametrize(("promised", "least"), [(0.8, 4), (0.9, 9), (0.95, 19)])
def test_with_few_patients_nothing_can_be_promised(promised, least):
    for patients in (1, least - 1, least):
        given = np.linspace(0.2, 0.9, patients)
        found = threshold(known(np.ones(patients), given), "sensitivity", promised)
        assert found == (None if patients < least else 0.2)
        lacking = threshold(known(np.zeros(patients), given), "specificity", promised)
        assert lacking == (None if patients < least else np.nextafter(0.9, 1))
    twice = known(np.ones(2 * (least - 1)), np.ones(2 * (least - 1)), np.repeat(np.arange(least - 1), 2))
    assert threshold(twice, "sensitivity", promised) is None  # patients count, not images
    assert threshold(known([], []), "sensitivity", promised) is None


@pytest.mark.parametrize("kind", ["sensitivity", "specificity"])
def test_promises_are_kept(kind):
    """Over 400 validation sets of 40 patients with correlated images; a quantile that forgets the one is below 0.9."""
    random = np.random.default_rng(0)

    def draw(patients: int, split: str) -> Known:
        groups = np.repeat(np.arange(patients), 1 + random.poisson(1, patients))
        logits = random.normal(size=patients)[groups] + random.normal(size=len(groups))
        return known(np.full(len(groups), kind == "sensitivity"), expit(logits), groups, split)

    def kept(of: Known, at: float) -> float:
        right = (of.probabilities >= at) == of.present
        return float((np.bincount(of.groups, right) / np.bincount(of.groups)).mean())

    new, ours, plain = draw(20_000, "test"), [], []
    for _ in range(400):
        val = draw(40, "val")
        ours.append(kept(new, threshold(val, kind, 0.9)))
        plain.append(kept(new, np.quantile(val.probabilities, 0.1 if kind == "sensitivity" else 0.9)))
    assert 0.9 <= np.mean(ours) < 0.93  # 1 / (n + 1) above it at most, and a little for steps
    assert np.mean(plain) < 0.9


def test_thresholds_are_fitted_on_validation_alone():
    with pytest.raises(ValueError, match="never on test"):
        threshold(known([1, 0], [0.5, 0.2], split="test"), "sensitivity", 0.9)
    for name in ("test", "train", ""):
        with pytest.raises(ValueError, match="on val alone"):
            Validation(answers(0, name))


def answers(seed: int, name: str, patients: int = 60) -> Answers:
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(patients), 2)
    targets = (random.random((2 * patients, 3)) < [0.5, 0.3, 0.02]).astype(float)
    logits = 2 * targets - 1 + random.normal(size=targets.shape)
    targets[::9, 0] = np.nan
    split = Split.of(["a", "b", "rare"], targets, groups, 50, 0, Task.MULTILABEL, name)
    return Answers(split, logits, Calibration(Task.MULTILABEL).probabilities(logits))


def test_what_test_shows_is_counted_on_test():
    val, test = answers(0, "val"), answers(1, "test")
    found = operating_points(Validation(val), test)
    calibration = Validation(val).calibration
    val, test = val.calibrated(calibration), test.calibrated(calibration)  # thresholds are on what a device shows
    assert [(point.kind, point.promised) for point in found["a"]] == list(POINTS)
    for k, label in enumerate(("a", "b")):
        for point in found[label]:
            assert point.threshold == threshold(Known.of(val, k), point.kind, point.promised)
            truth = test.split.targets[:, k]
            rows = ~np.isnan(truth)
            truth, called = truth[rows], test.probabilities[rows, k] >= point.threshold
            assert point.sensitivity.estimate == pytest.approx(recall_score(truth, called))
            assert point.specificity.estimate == pytest.approx(recall_score(1 - truth, ~called))
            assert point.ppv.estimate == pytest.approx(precision_score(truth, called))
            assert point.npv.estimate == pytest.approx(precision_score(1 - truth, ~called))
            groups = test.split.groups[rows]
            wilson = share_interval(called[truth == 1].astype(float), groups[truth == 1])
            assert point.sensitivity == wilson
            among = truth == (1 if point.kind == "sensitivity" else 0)
            right = called == (truth == 1)
            by_patient = [right[among & (groups == g)].mean() for g in np.unique(groups[among])]
            assert point.observed.estimate == pytest.approx(np.mean(by_patient))
            assert point.observed.lower <= point.observed.estimate <= point.observed.upper
    for point in found["rare"]:
        if point.kind == "sensitivity" and point.promised > 0.8:  # of four patients
            assert (point.groups, point.threshold) == (4, None)
            assert point.observed.estimate is point.ppv.estimate is None


def test_a_label_that_a_model_does_not_know_has_no_point():
    val, test = answers(0, "val"), answers(1, "test")
    for each in (val, test):
        each.logits[:, 1] = np.nan
        each.probabilities[:, 1] = np.nan
    for point in operating_points(Validation(val), test)["b"]:
        assert (point.threshold, point.groups, point.observed.estimate) == (None, 0, None)
