"""Correlation of maps by numpy's own, pairs of other groups by a loop, flat maps by hand."""

import numpy as np
import pytest

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
    assert result == empty | {"findings": 0, "flat_maps": 1}
