"""Correlations by numpy and scipy, cosines and overlaps by scikit-learn, pairs of other groups by a loop."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import jaccard_score
from sklearn.metrics.pairwise import cosine_similarity

from medistill.explain.agreement import agreement
from medistill.metrics.means import mean_interval


def maps(*rows) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 2, 2)


def test_it_is_the_mean_correlation_beside_that_of_all_pairs_of_other_groups():
    rng = np.random.default_rng(0)
    student = rng.random((30, 4, 4), np.float32)
    teacher = student + rng.random((30, 4, 4), np.float32)
    groups = np.repeat(np.arange(12), [1, 4] * 6)
    pairs = np.corrcoef(student.reshape(30, -1), teacher.reshape(30, -1))[:30, 30:]
    others = np.array([row[groups != group].mean() for row, group in zip(pairs, groups, strict=True)])
    same = np.diag(pairs)

    result = agreement(student, teacher, groups)

    assert result.findings == 30
    expected = mean_interval(same, groups)
    assert [result.estimate, result.lower, result.upper] == pytest.approx(list(expected.interval().values()), abs=1e-6)
    assert result.shuffled == pytest.approx(others.mean(), abs=1e-6)
    lead = mean_interval(same - others, groups, difference=True)
    assert list(result.difference_shuffled.interval().values()) == pytest.approx(
        list(lead.interval().values()), abs=1e-6
    )


def test_ranks_cosines_and_the_strongest_fifth_are_those_of_other_libraries():
    rng = np.random.default_rng(1)
    student = np.maximum(rng.normal(size=(12, 5, 5)), 0).astype(np.float32)  # with ties at 0, as of ReLU
    teacher = np.maximum(student + rng.normal(size=(12, 5, 5)), 0).astype(np.float32)
    groups = np.repeat(np.arange(6), 2)
    own, other = student.reshape(12, -1), teacher.reshape(12, -1)
    tops = [[row >= np.sort(row)[-5] for row in of] for of in (own, other)]  # a fifth of 25 pixels
    expected = {
        "spearman": spearmanr(own, other, axis=1).statistic[:12, 12:],
        "cosine": cosine_similarity(own, other),
        "top_fifth": np.array([[jaccard_score(one, two) for two in tops[1]] for one in tops[0]]),
    }
    result = agreement(student, teacher, groups)
    for name, pairs in expected.items():
        others = np.array([row[groups != group].mean() for row, group in zip(pairs, groups, strict=True)])
        found = getattr(result, name)
        assert found.value.estimate == pytest.approx(np.diag(pairs).mean(), abs=1e-6)
        assert found.shuffled == pytest.approx(others.mean(), abs=1e-6)
        lead = mean_interval(np.diag(pairs) - others, groups, difference=True)
        assert list(found.difference.interval().values()) == pytest.approx(list(lead.interval().values()), abs=1e-6)


def test_pixels_without_evidence_are_not_among_the_strongest():
    one = maps([0, 0, 1, 0]).repeat(3, axis=1).repeat(3, axis=2)  # 9 of 36 pixels; of the others all tie
    two = one[:, ::-1].copy()
    assert agreement(one, two, np.array([0])).top_fifth.value.estimate == 0


def test_neither_strength_nor_level_matters():
    rng = np.random.default_rng(0)
    frames, groups = rng.random((12, 4, 4), np.float32), np.arange(12)
    assert agreement(frames, 1e-6 * frames, groups).estimate == pytest.approx(1, abs=1e-5)
    assert agreement(frames, 3 - frames, groups).estimate == pytest.approx(-1, abs=1e-5)


def test_flat_maps_are_left_out_and_counted():
    first = maps([1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0])
    second = maps([1, 0, 0, 0], [1, 0, 0, 0], [3, 3, 3, 3])
    result = agreement(first, second, np.array(["a", "a", "b"])).to_json()
    assert result["estimate"] == pytest.approx(1)
    assert (result["findings"], result["flat_maps"]) == (1, 2)
    assert result["lower"] is None  # a quarter of the resamples have only patient b, whose maps are flat
    assert result["shuffled"] is None  # no other patient has maps


def test_nothing_to_compare():
    result = agreement(maps([0, 0, 0, 0]), maps([1, 0, 0, 0]), np.array(["a"])).to_json()
    empty = dict.fromkeys(("estimate", "lower", "upper", "shuffled", "difference_shuffled"))
    none = {name: {"value": None, "shuffled": None, "difference": None} for name in ("cosine", "spearman", "top_fifth")}
    assert result == empty | {"findings": 0, "flat_maps": 1} | none
