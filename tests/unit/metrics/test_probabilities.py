"""Proper scores and calibration against scikit-learn; resamples against fitting each anew; intervals by simulation."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from medistill.metrics.bootstrap import draw
from medistill.metrics.intervals import summarise
from medistill.metrics.probabilities import FIGURES, measure_probabilities

NAMES = dict(zip(FIGURES, range(5), strict=True))


def problem(images: int = 300, seed: int = 0, slope: float = 0.6, shift: float = 0.4):
    """Truth, probabilities and patients; the most likely slope and intercept are near 1/`slope` and `shift`."""
    random = np.random.default_rng(seed)
    chances = random.normal(-1, 1.5, images)
    truth = (random.random(images) < expit(slope * chances + shift)).astype(float)
    return truth, expit(chances), random.integers(0, images // 3, images)


def on_data(truth, probabilities) -> dict[str, float]:
    values = measure_probabilities(truth, probabilities, np.arange(len(truth)), np.ones((len(truth), 1), int))
    return dict(zip(FIGURES, values[:, 0], strict=True))


def regression(truth, probabilities, weights=None) -> LogisticRegression:
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000)
    return model.fit(logit(probabilities)[:, None], truth, sample_weight=weights)


def intercept_alone(truth, probabilities) -> float:
    """The root of Σ truth − sigmoid(b + logit p), by bisection."""
    low, high = -20.0, 20.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if expit(middle + logit(probabilities)).sum() < truth.sum() else (low, middle)
    return middle


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["random", "tied", "masked", "rare"])
def test_they_are_scikit_learns(kind, seed):
    truth, given, _ = problem(seed=seed, shift=-2.5 if kind == "rare" else 0.4)
    if kind == "tied":
        given = given.round(1).clip(0.1, 0.9)
    found = on_data(np.where(np.arange(300) % 7 == 0, np.nan, truth) if kind == "masked" else truth, given)
    if kind == "masked":
        truth, given = (values[np.arange(300) % 7 != 0] for values in (truth, given))
    assert found["brier"] == pytest.approx(brier_score_loss(truth, given), abs=1e-12)
    assert found["log_loss"] == pytest.approx(log_loss(truth, given), abs=1e-12)
    assert found["observed_expected"] == pytest.approx(truth.sum() / given.sum(), abs=1e-12)
    assert found["calibration_slope"] == pytest.approx(regression(truth, given).coef_[0, 0], rel=1e-4)
    assert found["calibration_intercept"] == pytest.approx(intercept_alone(truth, given), abs=1e-8)


def test_the_slope_is_that_by_which_logits_were_stretched():
    truth, given, _ = problem()
    slope = on_data(truth, given)["calibration_slope"]
    stretched = on_data(truth, expit(2.5 * logit(given)))
    assert stretched["calibration_slope"] == pytest.approx(slope / 2.5, rel=1e-8)
    raised = on_data(truth, expit(logit(given) + 1))
    assert raised["calibration_slope"] == pytest.approx(slope, rel=1e-8)
    assert raised["calibration_intercept"] == pytest.approx(on_data(truth, given)["calibration_intercept"] - 1)
    calibrated = expit(regression(truth, given).decision_function(logit(given)[:, None]))
    perfect = on_data(truth, calibrated)
    assert perfect["calibration_slope"] == pytest.approx(1, abs=1e-4)
    assert perfect["calibration_intercept"] == pytest.approx(0, abs=1e-4)
    assert perfect["observed_expected"] == pytest.approx(1, abs=1e-4)


def test_resamples_are_weighted_sums_and_nearly_what_fitting_anew_gives():
    truth, given, patients = problem()
    counts = draw(100, 60, 1)
    values = measure_probabilities(truth, given, patients, counts)
    again = []
    for drawn in range(1, 61):
        weights = counts[patients, drawn].astype(float)
        assert values[NAMES["brier"], drawn] == pytest.approx(brier_score_loss(truth, given, sample_weight=weights))
        assert values[NAMES["log_loss"], drawn] == pytest.approx(log_loss(truth, given, sample_weight=weights))
        ratio = (weights * truth).sum() / (weights * given).sum()
        assert values[NAMES["observed_expected"], drawn] == pytest.approx(ratio)
        again.append(regression(truth, given, weights).coef_[0, 0])
    steps = values[NAMES["calibration_slope"], 1:]
    assert np.abs(steps - again).mean() < 0.1 * np.std(again)
    assert np.std(steps) == pytest.approx(np.std(again), rel=0.05)


def test_what_is_undefined():
    both = np.array([1.0, 0.0, 1.0, 0.0])
    apart = on_data(both, np.array([0.9, 0.1, 0.8, 0.2]))  # the likelihood rises for ever
    assert np.isnan(apart["calibration_slope"])
    assert apart["calibration_intercept"] == pytest.approx(0)
    assert np.isnan(on_data(both, np.array([0.1, 0.9, 0.2, 0.8]))["calibration_slope"])
    assert np.isnan(on_data(both, np.full(4, 0.3))["calibration_slope"])
    assert on_data(both, np.full(4, 0.3))["calibration_intercept"] == pytest.approx(-logit(0.3))
    for value in (0.0, 1.0):
        one = on_data(np.full(4, value), np.array([0.2, 0.4, 0.6, 0.8]))
        assert np.isnan([one["calibration_slope"], one["calibration_intercept"]]).all()
        assert one["brier"] == pytest.approx(0.3)
    assert np.isnan(list(on_data(np.full(4, np.nan), np.full(4, 0.5)).values())).all()


def test_certainty_is_finite():
    certain = on_data(np.array([1.0, 0.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0, 1.0]))
    assert certain["brier"] == 0.5
    assert certain["log_loss"] == pytest.approx(log_loss([1, 0, 1, 0], [1.0, 0.0, 0.0, 1.0]))
    assert np.isfinite(certain["log_loss"])
    assert np.isfinite(certain["calibration_slope"])


def test_intervals_hold_the_truth():
    """Patients with one to several images of which 40 % of the logit is their own; 300 data sets of 100 patients."""
    random = np.random.default_rng(0)
    held = np.zeros(3)
    runs = 300
    for run in range(runs):
        patients = np.repeat(np.arange(100), 1 + random.poisson(1, 100))
        own, noise = random.normal(size=100)[patients], random.normal(size=len(patients))
        logits = -0.5 + 1.2 * (np.sqrt(0.4) * own + np.sqrt(0.6) * noise)
        truth = (random.random(len(patients)) < expit(0.7 * logits - 0.5)).astype(float)
        values = measure_probabilities(truth, expit(logits), patients, draw(100, 500, run))
        # Σ (chance of the truth − probability of it)² and their ratio, where the truth is drawn anew for these images
        chances = expit(0.7 * logits - 0.5)
        expected = chances.sum() / expit(logits).sum()
        brier = (chances * (1 - expit(logits)) ** 2 + (1 - chances) * expit(logits) ** 2).mean()
        truths = {"calibration_slope": 0.7, "observed_expected": expected, "brier": brier}
        for k, (name, true) in enumerate(truths.items()):
            found = summarise(values[NAMES[name]], groups=min(int(truth.sum()), 100))
            held[k] += found.lower <= true <= found.upper
    slope, ratio, brier = held / runs
    assert 0.92 <= slope <= 0.985
    assert ratio >= 0.92  # these two are given the images, which resamples draw as well
    assert brier >= 0.92
