"""Metrics against scikit-learn, and against numbers computed by hand."""

import warnings

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    roc_auc_score,
)
from sklearn.metrics import roc_curve as sklearn_roc_curve

from medistill.metrics.classification import CountedClasses, measure_classes, metrics_at_half
from medistill.metrics.ranking import RankedLabel, auroc, average_precision, macro_roc, roc_curve


def problem(seed: int, tied: bool, count: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, scores and integer weights, some of them 0; `tied` leaves seven distinct scores."""
    random = np.random.default_rng(seed)
    targets = (random.random(count) < 0.3).astype(np.float32)
    scores = (targets + random.normal(size=count)).astype(np.float32)
    return targets, np.round(scores) if tied else scores, random.integers(0, 4, count)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_weighted_metrics_are_those_of_scikit_learn(seed, tied):
    targets, scores, weights = problem(seed, tied)
    expected = roc_auc_score(targets, scores, sample_weight=weights)
    assert auroc(targets, scores, weights) == pytest.approx(expected, abs=1e-13)
    expected = average_precision_score(targets, scores, sample_weight=weights)
    assert average_precision(targets, scores, weights) == pytest.approx(expected, abs=1e-13)
    assert auroc(targets, scores) == pytest.approx(roc_auc_score(targets, scores), abs=1e-13)
    expected = average_precision_score(targets, scores)
    assert average_precision(targets, scores) == pytest.approx(expected, abs=1e-13)


def test_many_weightings_of_groups_are_each_that_of_scikit_learn():
    targets, scores, _ = problem(1, tied=True)
    groups = np.random.default_rng(2).integers(0, 30, len(targets))
    weights = np.random.default_rng(3).integers(0, 3, (30, 40)).astype(np.float64)
    auroc, precision = RankedLabel.of(targets, scores, groups, 30).measure(weights)
    for column in range(40):
        spread = weights[groups, column]
        assert auroc[column] == pytest.approx(roc_auc_score(targets, scores, sample_weight=spread), abs=1e-13)
        expected = average_precision_score(targets, scores, sample_weight=spread)
        assert precision[column] == pytest.approx(expected, abs=1e-13)


def test_ties_by_hand():
    # Two positives and two negatives; one pair is tied: 3 of 4 pairs are right, the tie is half a pair.
    targets, scores = np.array([1.0, 1.0, 0.0, 0.0]), np.array([3.0, 2.0, 2.0, 1.0])
    assert auroc(targets, scores) == 3.5 / 4
    # Precision is 1 at the first recall step, 2/3 at the second, where the tied negative counts as well.
    assert average_precision(targets, scores) == pytest.approx((1 + 2 / 3) / 2)


def test_constant_scores_are_worth_nothing():
    targets = np.array([1.0, 0.0, 0.0, 0.0])
    assert auroc(targets, np.zeros(4)) == 0.5
    assert average_precision(targets, np.zeros(4)) == 0.25


def test_perfect_and_reversed_order_are_exact():
    targets, scores = np.array([0.0, 0.0, 1.0, 1.0]), np.arange(4.0)
    assert auroc(targets, scores) == 1
    assert average_precision(targets, scores) == 1
    assert auroc(targets, -scores) == 0


def test_only_the_order_of_scores_counts():
    targets, scores, weights = problem(4, tied=False)
    changed = np.exp(scores.astype(np.float64) / 3) - 5
    assert auroc(targets, scores, weights) == auroc(targets, changed, weights)
    assert average_precision(targets, scores, weights) == average_precision(targets, changed, weights)


def test_unknown_targets_are_left_out():
    targets, scores, _ = problem(5, tied=True)
    unknown = np.random.default_rng(0).random(len(targets)) < 0.3
    masked = np.where(unknown, np.nan, targets)
    assert auroc(masked, scores) == pytest.approx(roc_auc_score(targets[~unknown], scores[~unknown]), abs=1e-13)
    expected = average_precision_score(targets[~unknown], scores[~unknown])
    assert average_precision(masked, scores) == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("targets", [[0.0, 0.0], [1.0, 1.0], [np.nan, np.nan], []])
def test_without_positives_or_negatives_there_is_no_figure_and_no_warning(targets):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(auroc(np.array(targets), np.arange(len(targets))))
        assert np.isnan(average_precision(np.array(targets), np.arange(len(targets))))


def test_weights_that_leave_no_positive_make_it_undefined():
    assert np.isnan(auroc(np.array([1.0, 0.0, 0.0]), np.arange(3), np.array([0, 1, 1])))


@pytest.mark.parametrize("prevalence", [0.0, 0.02, 0.5, 1.0])
def test_thresholded_figures_are_those_of_scikit_learn(prevalence):
    random = np.random.default_rng(3)
    targets = (random.random(400) < prevalence).astype(float)
    probabilities = np.clip(0.3 * targets + random.random(400) * 0.8, 0, 1)
    called = probabilities > 0.5
    share, f1, weighted = metrics_at_half(targets, probabilities)
    assert share == pytest.approx(accuracy_score(targets, called), abs=1e-13)
    assert f1 == pytest.approx(f1_score(targets, called), abs=1e-13)
    assert weighted == pytest.approx(f1_score(targets, called, average="weighted"), abs=1e-13)
    unknown = random.random(400) < 0.5
    masked = metrics_at_half(np.where(unknown, np.nan, targets), probabilities)
    assert masked == metrics_at_half(targets[~unknown], probabilities[~unknown])


def test_thresholded_figures_of_a_rare_label_that_is_never_found():
    """Two of 100 images are positive, but none is predicted so: a probability of exactly one half is not above it."""
    targets = np.array([1.0, 1.0] + [0.0] * 98)
    share, f1, weighted = metrics_at_half(targets, np.full(100, 0.5))
    assert (share, f1) == (0.98, 0)
    assert weighted == pytest.approx(0.98 * (2 * 98 / (2 * 98 + 2)))  # 0.97 without any true positive


def test_thresholded_figures_that_are_undefined_are_nan_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(metrics_at_half(np.full(3, np.nan), np.full(3, 0.2))).all()
        share, f1, weighted = metrics_at_half(np.zeros(3), np.full(3, 0.2))
    assert (share, weighted) == (1, 1)
    assert np.isnan(f1)


def classes(seed: int, count: int = 150) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The true class of each image as a number and one-hot, and scores with ties; four classes of unequal size."""
    random = np.random.default_rng(seed)
    truth = random.choice(4, count, p=[0.6, 0.25, 0.1, 0.05])
    one_hot = np.eye(4, dtype=np.float32)[truth]
    return truth, one_hot, np.round(one_hot + random.normal(size=(count, 4)), 1)


def figures_of(truth: np.ndarray, answers: np.ndarray, weights: np.ndarray | None = None) -> list[float]:
    """The figures of exclusive classes by scikit-learn; classes are ordered 2, 0, 1, 3."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            accuracy_score(truth, answers, sample_weight=weights),
            balanced_accuracy_score(truth, answers, sample_weight=weights),
            f1_score(truth, answers, average="macro", sample_weight=weights),
            matthews_corrcoef(truth, answers, sample_weight=weights),
            cohen_kappa_score(truth, answers, labels=[2, 0, 1, 3], weights="quadratic", sample_weight=weights),
        ]


PLACES = np.array([1.0, 2.0, 0.0, 3.0])


@pytest.mark.parametrize("seed", range(5))
def test_figures_of_classes_under_many_weightings_are_those_of_scikit_learn(seed):
    truth, targets, scores = classes(seed)
    predicted = scores.argmax(axis=1)
    groups = np.random.default_rng(seed).integers(0, 30, len(truth))
    weights = np.random.default_rng(9).integers(0, 4, (30, 20)).astype(np.float64) + 0.5
    counted = CountedClasses.of(targets, scores, groups, 30, PLACES)
    np.testing.assert_array_equal(counted.confusion, confusion_matrix(truth, predicted))
    found = counted.measure(weights)
    for column in range(20):
        expected = figures_of(truth, predicted, weights[groups, column])
        np.testing.assert_allclose(found[:, column], expected, atol=1e-12)


def once(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The figures of four classes on the data themselves."""
    alone = np.ones((len(truth), 1), int)
    return measure_classes(np.eye(4)[truth], np.eye(4)[predicted], np.arange(len(truth)), alone, PLACES)[:, 0]


@pytest.mark.parametrize(
    ("truth", "predicted"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3]),
        ([0, 1, 2, 3], [1, 2, 3, 0]),
        ([0, 0, 1, 1], [0, 0, 0, 0]),  # one answer
        ([0, 0, 0, 0], [0, 1, 0, 0]),  # one class
        ([0, 0, 0, 0], [1, 1, 1, 1]),
        ([2, 2, 2, 2], [2, 2, 2, 2]),  # both: kappa is undefined
        ([0, 0, 1, 1], [2, 2, 3, 3]),  # answers that no image has
        ([3], [3]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_figures_of_degenerate_classes_are_those_of_scikit_learn(truth, predicted):
    truth, predicted = np.array(truth), np.array(predicted)
    np.testing.assert_allclose(once(truth, predicted), figures_of(truth, predicted), atol=1e-12)


def test_figures_of_classes_by_hand():
    # Class 0: right, wrong; class 1: right (of two equal scores the first is the answer); class 2 does not occur.
    targets = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0]], float)
    scores = np.array([[3, 1, 2], [0, 0, 5], [1, 4, 4]], float)
    found = measure_classes(targets, scores, np.arange(3), np.ones((3, 1), int))[:, 0]
    # F1: 2/3, 1, 0. Correlation: (2 · 3 − 3) / √((9 − 5) (9 − 3)).
    np.testing.assert_allclose(found, [2 / 3, (1 / 2 + 1) / 2, 5 / 9, 3 / np.sqrt(24), np.nan])


def test_images_of_unknown_class_are_left_out_of_figures_of_classes():
    truth, targets, scores = classes(7)
    unknown = np.random.default_rng(0).random(len(truth)) < 0.3
    targets[unknown, 2] = np.nan  # one class unknown is enough
    found = measure_classes(targets, scores, np.arange(len(truth)), np.ones((len(truth), 1), int), PLACES)[:, 0]
    np.testing.assert_allclose(found, figures_of(truth[~unknown], scores[~unknown].argmax(axis=1)), atol=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("count", [0, 3])
def test_without_a_known_class_there_is_no_figure_and_no_warning(count):
    found = measure_classes(np.full((count, 3), np.nan), np.zeros((count, 3)), np.arange(count), np.ones((count, 2)))
    assert np.isnan(found).all()


@pytest.mark.filterwarnings("error")
def test_a_weighting_without_a_class_that_occurs_has_no_balanced_accuracy():
    targets, scores = np.eye(2), np.array([[1.0, 0.0], [1.0, 0.0]])
    counted = CountedClasses.of(targets, scores, np.arange(2), 2)
    share, balanced, f1, mcc, _ = counted.measure(np.array([[1.0, 2.0], [1.0, 0.0]]))
    np.testing.assert_allclose(share, [0.5, 1])
    np.testing.assert_allclose(balanced, [0.5, np.nan])
    np.testing.assert_allclose(f1, [1 / 3, 1])
    np.testing.assert_allclose(mcc, [0, 0])


@pytest.mark.parametrize("tied", [False, True])
def test_roc_curve_is_that_of_scikit_learn(tied):
    targets, scores, _ = problem(6, tied)
    expected = sklearn_roc_curve(targets, scores, drop_intermediate=False)
    fpr, tpr = roc_curve(targets, scores)
    np.testing.assert_allclose(fpr, expected[0], atol=1e-15)
    np.testing.assert_allclose(tpr, expected[1], atol=1e-15)


def test_macro_roc_is_the_mean_of_the_labels_curves():
    # Label 0 is perfect, label 1 is reversed: 1 and 0 everywhere inside, so the mean is one half.
    targets = np.array([[0, 0], [0, 0], [1, 1], [1, 1]], float)
    fpr, tpr = macro_roc(targets, np.array([[0, 3], [1, 2], [2, 1], [3, 0]], float))
    assert (fpr[0], tpr[0]) == (0, 0)
    assert (fpr[-1], tpr[-1]) == (1, 1)
    assert (tpr[1:-1] == 0.5).all()


def test_macro_roc_without_labels_is_empty():
    fpr, tpr = macro_roc(np.empty((5, 0)), np.empty((5, 0)))
    assert len(fpr) == len(tpr) == 0
