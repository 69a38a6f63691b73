"""AUROC within strata, against counting pairs one by one."""

import itertools

import numpy as np
import pytest
from scipy.stats import rankdata

from medistill.metrics.bootstrap import draw
from medistill.metrics.eligibility import ineligibility
from medistill.metrics.ranking import auroc, measure_ranking
from medistill.metrics.strata import (
    NO_STRATUM,
    StratifiedLabel,
    auroc_within,
    ineligibility_within,
    measure_within,
    with_pairs,
)

IMAGES, GROUPS = 80, 30


def made(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Targets, with unknown ones, scores, with ties, groups and strata, some in none and one with a single class."""
    random = np.random.default_rng(seed)
    groups, strata = random.integers(GROUPS, size=IMAGES), random.integers(NO_STRATUM, 4, size=IMAGES)
    targets = (random.random(IMAGES) < 0.4).astype(float)
    targets[random.random(IMAGES) < 0.1] = np.nan
    targets[strata == 3] = 0
    scores = np.round(targets == 1) + np.round(random.normal(size=IMAGES), 1) + 10 * strata
    return targets, scores, groups, strata


def count_pairs(targets: np.ndarray, scores: np.ndarray, strata: np.ndarray) -> tuple[float, int]:
    """Pairs in order, ties half, and all pairs, one by one."""
    won = pairs = 0
    for i, j in itertools.product(range(len(targets)), repeat=2):
        if targets[i] == 1 and targets[j] == 0 and strata[i] == strata[j] != NO_STRATUM:
            won, pairs = won + (scores[i] > scores[j]) + (scores[i] == scores[j]) / 2, pairs + 1
    return won, pairs


@pytest.mark.parametrize("seed", range(4))
def test_it_counts_the_pairs_of_a_stratum(seed):
    targets, scores, groups, strata = made(seed)
    won, pairs = count_pairs(targets, scores, strata)
    assert auroc_within(targets, scores, strata) == pytest.approx(won / pairs, abs=1e-12)
    once = np.ones((GROUPS, 1))
    label = StratifiedLabel.of(targets, scores, groups, GROUPS, strata)
    assert label.count(once)[:, 0] == pytest.approx([won, pairs], abs=1e-9)


def test_in_a_resample_it_counts_the_pairs_that_are_drawn():
    first, second = made(0), made(1)
    groups, strata = first[2], first[3]
    targets, scores = np.stack([first[0], second[0]], axis=1), np.stack([first[1], second[1]], axis=1)
    counts = draw(GROUPS, 12, seed=1)
    values = measure_within(targets, scores, groups, strata, counts)
    assert values.shape == (13, 2)
    for column, label in itertools.product(range(13), range(2)):
        rows = np.repeat(np.arange(IMAGES), counts[groups, column])
        won, pairs = count_pairs(targets[rows, label], scores[rows, label], strata[rows])
        assert values[column, label] == pytest.approx(won / pairs, abs=1e-12)


def test_one_stratum_is_the_usual_auroc():
    targets, scores, groups, _ = made(2)
    known = ~np.isnan(targets)
    assert auroc_within(targets, scores, np.zeros(IMAGES, int)) == pytest.approx(auroc(targets[known], scores[known]))
    counts = draw(GROUPS, 20, seed=0)
    within = measure_within(targets[:, None], scores[:, None], groups, np.full(IMAGES, 5), counts)
    np.testing.assert_allclose(within, measure_ranking(targets[:, None], scores[:, None], groups, counts)[0])


def test_only_the_order_within_a_stratum_counts():
    targets, scores, _, strata = made(3)
    own = auroc_within(targets, scores, strata)
    ranked = np.zeros(IMAGES)
    for stratum in np.unique(strata):
        here = strata == stratum
        ranked[here] = rankdata(scores[here]) * (1 + stratum + 1) - 1000 * stratum
    assert auroc_within(targets, ranked, strata) == pytest.approx(own)
    assert auroc_within(targets, -scores, strata) == pytest.approx(1 - own)
    assert auroc_within(1 - targets, -scores, strata) == pytest.approx(own)


def test_a_score_that_knows_the_stratum_alone_is_worth_nothing_within_it():
    """The positives of two labels lie in one stratum: over all pairs a score that says which is right, within not."""
    strata = np.repeat([0, 1], 40)
    targets = np.where(np.arange(80) % 2 == 0, strata, 0).astype(float)
    assert auroc(targets, strata) > 0.8
    assert auroc_within(targets, strata, strata) == 0.5


def test_without_a_pair_it_is_undefined_and_no_label_has_no_column():
    targets, strata = np.array([1.0, 1, 0, 0]), np.array([0, 0, 1, 1])
    assert np.isnan(auroc_within(targets, np.arange(4.0), strata))
    assert np.isnan(auroc_within(np.array([1.0, 0]), np.arange(2.0), np.full(2, NO_STRATUM)))
    once = np.ones((4, 3), int)
    assert np.isnan(measure_within(targets[:, None], np.zeros((4, 1)), np.arange(4), strata, once)).all()
    assert measure_within(np.empty((4, 0)), np.empty((4, 0)), np.arange(4), strata, once).shape == (3, 0)


def test_the_same_resamples_pair_the_difference():
    targets, scores, groups, strata = made(1)
    counts = draw(GROUPS, 50, seed=0)
    own, other = (
        measure_within(targets[:, None], s[:, None], groups, strata, counts) for s in (scores, 3 * scores + 1)
    )
    assert np.array_equal(own, other)


def test_images_of_strata_with_one_class_do_not_make_a_label_eligible():
    targets = np.array([1.0] * 12 + [0] * 12 + [1] * 30)
    strata, groups = np.repeat([0, 1], [24, 30]), np.arange(54)
    assert with_pairs(targets, strata).tolist() == [0]
    assert ineligibility(targets, groups) is None
    assert ineligibility_within(targets, groups, strata) is None
    assert ineligibility_within(targets[3:], groups[3:], strata[3:]) == "9 positives, fewer than 10"
    assert ineligibility(targets[3:], groups[3:]) is None
    assert ineligibility_within(targets, groups, np.full(54, NO_STRATUM)) == "0 positives, fewer than 10"
