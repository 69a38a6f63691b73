import numpy as np
import pytest

from medistill.explain.agreement import agreement, cosine


def maps(*rows) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 2, 2)


def test_cosine_by_hand():
    first = maps([1, 0, 0, 0], [1, 1, 0, 0], [3, 4, 0, 0])
    second = maps([0, 1, 0, 0], [2, 0, 0, 0], [6, 8, 0, 0])
    np.testing.assert_allclose(cosine(first, second), [0, 1 / np.sqrt(2), 1], atol=1e-12)


def test_agreement_ignores_the_maps_strength():
    rng = np.random.default_rng(0)
    frames = rng.random((4, 2, 2), np.float32)
    np.testing.assert_allclose(cosine(frames, 1e-6 * frames), 1, rtol=1e-6)
    assert (cosine(frames, frames[:, ::-1]) < 1).all()


def test_zero_maps_are_left_out_and_counted():
    first = maps([1, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0])
    second = maps([1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0])
    result = agreement(first, second, np.array(["a", "a", "b"])).to_json()
    assert result["estimate"] == pytest.approx(1)
    assert (result["findings"], result["zero_maps"]) == (1, 2)
    assert result["lower"] is None  # a quarter of the resamples have only patient b, whose maps are all zero


def test_nothing_to_compare():
    result = agreement(maps([0, 0, 0, 0]), maps([1, 0, 0, 0]), np.array(["a"])).to_json()
    assert result == {"estimate": None, "lower": None, "upper": None, "findings": 0, "zero_maps": 1}
