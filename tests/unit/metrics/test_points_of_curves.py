"""Curves are those of scikit-learn, scipy and of counting by hand, with ties, unknown labels and repeated patients."""

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_curve

from medistill.metrics.abstention import LEVELS, measure_abstention, risk_coverage
from medistill.metrics.bootstrap import draw
from medistill.metrics.decisions import net_benefit
from medistill.metrics.ranking import RECALLS, macro_precision_recall
from medistill.metrics.reliability import reliability


@pytest.fixture(params=[3, 0], ids=["tied", "distinct"])
def answers(request) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets with unknown ones, probabilities and groups of 300 images."""
    random = np.random.default_rng(1)
    probabilities = random.random(300)
    targets = (random.random(300) < probabilities).astype(float)
    targets[random.random(300) < 0.1] = np.nan
    return targets, probabilities.round(request.param) if request.param else probabilities, np.arange(300) // 3


def repeated(answers: tuple[np.ndarray, ...], counts: np.ndarray, column: int) -> list[np.ndarray]:
    """The known images of a resample, each as often as its group is drawn."""
    targets, *_, groups = answers
    known = ~np.isnan(targets)
    return [np.repeat(values[known], counts[groups[known], column]) for values in answers]


def test_precision_at_each_recall_is_that_of_scikit_learn(answers):
    targets, probabilities, _ = answers
    probabilities = np.round(probabilities, 1)
    both = np.stack([targets, 1 - targets], axis=1), np.stack([probabilities, 1 - probabilities**2], axis=1)
    found = []
    for truth, score in zip(both[0].T, both[1].T, strict=True):
        known = ~np.isnan(truth)
        precision, recall, _ = precision_recall_curve(truth[known], score[known])
        # From the highest threshold down, the first point that reaches a recall; its last point, (1, 0), is none.
        down = list(zip(recall[-2::-1], precision[-2::-1], strict=True))
        grid = np.arange(1, RECALLS + 1) / RECALLS
        found.append([next(p for r, p in down if r >= at - 1e-9) for at in grid])
    recalls, precisions = macro_precision_recall(*both)
    np.testing.assert_allclose(precisions, np.mean(found, axis=0), atol=1e-12)
    assert recalls[[0, -1]].tolist() == [0.01, 1.0]


def test_the_area_below_precision_is_nearly_average_precision(answers):
    targets, probabilities, _ = answers
    known = ~np.isnan(targets)
    _, precisions = macro_precision_recall(targets[:, None], probabilities[:, None])
    expected = average_precision_score(targets[known], probabilities[known])
    assert precisions.mean() == pytest.approx(expected, abs=0.01)


def test_net_benefit_counts_true_and_false_alarms_of_every_resample(answers):
    targets, probabilities, groups = answers
    counts, thresholds = draw(100, resamples=5), [0.1, 0.5, 0.8]
    found = net_benefit(targets, probabilities, thresholds, groups, counts)
    for column in range(6):
        truth, given, _ = repeated((targets, probabilities, groups), counts, column)
        for k, at in enumerate(thresholds):
            (_, false), (_, true) = confusion_matrix(truth, given >= at, labels=[0, 1])
            assert found[k, column] == pytest.approx((true - false * at / (1 - at)) / len(truth), abs=1e-12)


def test_net_benefit_of_calling_everybody_is_that_of_the_prevalence(answers):
    targets, _, groups = answers
    prevalence = np.nanmean(targets)
    found = net_benefit(targets, np.ones(300), [0.2], groups, np.ones((100, 1), int))
    assert found[0, 0] == pytest.approx(prevalence - (1 - prevalence) * 0.25, abs=1e-12)


def area_by_hand(wrong: np.ndarray, confidence: np.ndarray, level: np.ndarray) -> float:
    """The mean over images of the risk among all at its level or before."""
    return float(np.mean([wrong[level <= own].mean() for own in level]))


def test_the_area_of_risk_is_that_of_counting_in_every_resample(answers):
    targets, probabilities, groups = answers
    wrong = np.where(np.isnan(targets), np.nan, (probabilities > 0.5) != (targets == 1))
    confidence = np.abs(probabilities - 0.5)
    known = ~np.isnan(wrong)
    surer = (confidence[known][None, :] >= confidence[known][:, None]).sum(axis=1)
    level = np.full(300, -1)
    level[known] = np.ceil(LEVELS * surer / known.sum())
    counts = draw(100, resamples=5)
    found = measure_abstention(wrong, confidence, groups, counts)
    for column in range(6):
        own = repeated((wrong, confidence, level, groups), counts, column)
        assert found[column] == pytest.approx(area_by_hand(*own[:3]), abs=1e-12)


def test_risk_at_a_coverage_is_that_of_the_surest_images():
    random = np.random.default_rng(2)
    wrong, confidence = (random.random(200) < 0.3).astype(float), random.random(200)
    surest = wrong[np.argsort(-confidence)]
    expected = [surest[: 2 * k].mean() for k in range(1, LEVELS + 1)]
    np.testing.assert_allclose(risk_coverage(wrong, confidence), expected, atol=1e-12)


def test_of_equally_sure_calls_none_goes_before_the_others():
    wrong = np.array([1.0, 0.0, 0.0, 0.0])
    assert risk_coverage(wrong, np.zeros(4)).tolist() == [0.25] * LEVELS
    assert measure_abstention(wrong, np.zeros(4), np.arange(4), np.ones((4, 1), int)).tolist() == [0.25]
    assert np.isnan(measure_abstention(np.full(4, np.nan), np.zeros(4), np.arange(4), np.ones((4, 1), int))).all()


def test_rates_of_equally_full_bins_are_those_of_scikit_learn(answers):
    targets, probabilities, _ = answers
    known = np.flatnonzero(~np.isnan(targets))[:250]  # which ten bins divide
    targets, probabilities = targets[known], np.random.default_rng(3).permutation(250) / 250 * 0.8 + 0.1
    rate, probability = calibration_curve(targets, probabilities, n_bins=10, strategy="quantile")
    found = reliability(targets, probabilities)
    np.testing.assert_allclose(found.rate, rate, atol=1e-12)
    np.testing.assert_allclose(found.probability, probability, atol=1e-12)
    assert found.answers.tolist() == [25] * 10


def test_the_band_of_one_probability_is_binomial():
    found = reliability(np.zeros(400), np.full(400, 0.3), draws=4000)
    assert (found.answers.tolist(), found.rate.tolist()) == ([400], [0.0])
    assert found.lower[0] * 400 == pytest.approx(binom.ppf(0.025, 400, 0.3), abs=1.5)
    assert found.upper[0] * 400 == pytest.approx(binom.ppf(0.975, 400, 0.3), abs=1.5)


def test_without_a_known_image_there_are_no_bins():
    assert len(reliability(np.array([np.nan]), np.array([0.5])).rate) == 0
