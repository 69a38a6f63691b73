"""Every statistic in each resample equals brute force on the rows of the drawn groups."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, roc_auc_score

from medistill.metrics import intervals
from medistill.metrics.bootstrap import RESAMPLES, draw, estimate, resample
from medistill.metrics.classification import CountedClasses
from medistill.metrics.intervals import summarise
from medistill.metrics.means import GroupedMean
from medistill.metrics.ranking import RankedLabel
from medistill.metrics.strata import StratifiedLabel
from medistill.records.estimate import Estimate

GROUPS = 24


def rows_drawn(groups: np.ndarray, counts: np.ndarray):
    """The rows of each resample: those of a group as often as it was drawn."""
    for drawn in counts.T:
        yield np.repeat(np.arange(len(groups)), drawn[groups])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tied", [False, True])
def test_statistics_are_those_of_the_rows_drawn(seed, tied):
    random = np.random.default_rng(seed)
    groups = random.integers(0, GROUPS, 120)
    target = (random.random(120) < 0.3).astype(float)
    score = target + random.normal(size=120)
    score = np.round(score) if tied else score
    truth = random.choice(3, 120, p=[0.5, 0.3, 0.2])
    answers = np.eye(3)[truth] + random.normal(size=(120, 3))
    hits = (random.random(120) < 0.4).astype(float)
    counts = draw(GROUPS, 40, seed)

    label = RankedLabel.of(target, score, groups, GROUPS)
    auroc, precision = resample(label.measure, counts, rows=label.rows)
    accuracy, balanced, *_ = resample(CountedClasses.of(np.eye(3)[truth], answers, groups, GROUPS).measure, counts)
    mean = resample(GroupedMean.of(hits, groups, GROUPS).measure, counts)
    for column, rows in enumerate(rows_drawn(groups, counts)):
        assert auroc[column] == pytest.approx(roc_auc_score(target[rows], score[rows]), abs=1e-12)
        assert precision[column] == pytest.approx(average_precision_score(target[rows], score[rows]), abs=1e-12)
        named = answers[rows].argmax(axis=1)
        assert accuracy[column] == pytest.approx(accuracy_score(truth[rows], named), abs=1e-12)
        assert balanced[column] == pytest.approx(balanced_accuracy_score(truth[rows], named), abs=1e-12)
        assert mean[column] == pytest.approx(hits[rows].mean(), abs=1e-12)


def test_a_label_of_folds_counts_pairs_within_a_fold():
    random = np.random.default_rng(0)
    groups, folds = random.integers(0, GROUPS, 90), random.integers(0, 3, 90)
    target = (random.random(90) < 0.2).astype(float)
    score = np.round(target + 5 * folds + random.normal(size=90), 1)
    counts = draw(GROUPS, 30, 1)
    values = resample(StratifiedLabel.of(target, score, groups, GROUPS, folds).auroc, counts)
    for column, rows in enumerate(rows_drawn(groups, counts)):
        won = pairs = 0
        for fold in range(3):
            here = rows[folds[rows] == fold]
            lead = score[here][target[here] == 1][:, None] - score[here][target[here] == 0]
            won, pairs = won + (lead > 0).sum() + (lead == 0).sum() / 2, pairs + lead.size
        assert values[column] == pytest.approx(won / pairs, abs=1e-12)


def test_a_label_without_a_pair_in_any_fold_is_undefined():
    label = StratifiedLabel.of(np.array([1.0, 1, 0, 0]), np.arange(4.0), np.arange(4), 4, np.array([0, 0, 1, 1]))
    assert np.isnan(label.auroc(np.ones((4, 2)))).all()


def test_differences_are_paired():
    """Two models that differ by a constant in each resample have an interval without width."""
    random = np.random.default_rng(2)
    values, groups = random.random(80), random.integers(0, GROUPS, 80)
    counts = draw(GROUPS)
    own, other = (resample(GroupedMean.of(v, groups, GROUPS).measure, counts) for v in (values + 0.25, values))
    found, p = intervals.compare(own, other, counts, groups=GROUPS)
    assert (found.estimate, found.lower, found.upper) == pytest.approx((0.25, 0.25, 0.25))
    assert p < 0.01
    assert found == summarise(own - other, counts, groups=GROUPS, difference=True)


def test_an_estimate_is_the_summary_of_its_resamples():
    values, groups = np.random.default_rng(3).random(60), np.arange(60) % GROUPS
    mean, counts = GroupedMean.of(values, groups, GROUPS), draw(GROUPS)
    assert counts.shape == (GROUPS, 1 + RESAMPLES)
    values = resample(mean.measure, counts)
    assert estimate(mean.measure, counts, groups=GROUPS) == summarise(values, counts, groups=GROUPS)


def test_draws_are_kept_and_cannot_be_changed():
    assert draw(GROUPS, 10, 0) is draw(GROUPS, 10, 0)
    with pytest.raises(ValueError, match="read-only"):
        draw(GROUPS, 10, 0)[0, 0] = 2


@pytest.mark.parametrize("figure", [Estimate(0.5, 0.25, 0.75), Estimate(0.5), Estimate(None)])
def test_an_estimate_reads_what_it_writes(figure):
    flat = figure.flat("macro_auroc")
    assert list(flat) == ["macro_auroc", "macro_auroc_lower", "macro_auroc_upper"]
    assert Estimate.read({"images": 3} | flat, "macro_auroc") == figure
    given = {key: value for key, value in flat.items() if value is not None}
    assert Estimate.read(given, "macro_auroc") == figure
