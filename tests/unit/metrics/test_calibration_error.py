"""Calibration error of equal-mass bins without its bias: by a loop over bins, by hand, and by simulation."""

import warnings

import numpy as np
import pytest

from medistill.metrics.reliability import expected_calibration_error, null_calibration_error


def literal(targets: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> float:
    """Bin by bin, as the definition reads: an image is in the bin of the share of probabilities below its own."""
    known = ~np.isnan(targets)
    y, p = targets[known], probabilities[known]
    which = [int(bins * (p < own).sum() // len(p)) for own in p]
    total, images = 0.0, 0
    for b in set(which):
        inside = np.array(which) == b
        n = inside.sum()
        if n > 1:
            rate = y[inside].mean()
            total += n * ((rate - p[inside].mean()) ** 2 - rate * (1 - rate) / (n - 1))
            images += n
    return np.sign(total) * np.sqrt(abs(total) / images)


@pytest.mark.parametrize("digits", [12, 1])  # the latter has ties
@pytest.mark.parametrize("images", [25, 40, 333])
def test_it_is_what_the_definition_says(images, digits):
    random = np.random.default_rng(images)
    given = random.beta(0.5, 2, images).round(digits)
    targets = (random.random(images) < given**1.5).astype(float)
    targets[random.random(images) < 0.2] = np.nan
    assert expected_calibration_error(targets, given) == pytest.approx(literal(targets, given), abs=1e-12)
    shuffled = random.permutation(images)
    again = expected_calibration_error(targets[shuffled], given[shuffled])
    assert again == pytest.approx(literal(targets, given), abs=1e-12)


def test_a_calibrated_model_has_none_on_average_and_another_has_its_own():
    random = np.random.default_rng(0)
    given = random.random(200)

    def squares(power: float) -> np.ndarray:
        errors = [expected_calibration_error(random.random(200) < given, given**power) for _ in range(2000)]
        return np.sign(errors) * np.square(errors)

    right = squares(1.0)
    assert right.mean() == pytest.approx(0, abs=4 * right.std() / 2000**0.5)
    wrong = squares(2.0)
    order = np.sort(given).reshape(10, 20)
    true = np.square((order - order**2).mean(axis=1)).mean()
    assert wrong.mean() == pytest.approx(true, abs=4 * wrong.std() / 2000**0.5)


@pytest.mark.parametrize("images", [40, 400])
def test_the_null_is_what_right_probabilities_show_on_average(images):
    random = np.random.default_rng(1)
    given = random.beta(0.5, 2, images)
    errors = [expected_calibration_error(random.random(images) < given, given) for _ in range(400)]
    null = null_calibration_error(np.zeros(images), given)
    assert null == pytest.approx(np.mean(errors), abs=4 * np.std(errors) / 10)  # of 100 draws
    assert null == null_calibration_error(np.ones(images), given)  # whatever the truth


def test_what_is_unknown_is_left_out_and_of_nothing_there_is_no_error():
    given = np.linspace(0.05, 0.95, 100)
    some = np.where(np.arange(100) < 50, 1.0, np.nan)
    assert null_calibration_error(some, given) == null_calibration_error(np.ones(50), given[:50])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for truth in (np.full(100, np.nan), np.empty(0), np.ones(1)):
            assert np.isnan(expected_calibration_error(truth, given[: len(truth)]))
            assert np.isnan(null_calibration_error(truth, given[: len(truth)]))
