"""Means and shares of hits: intervals against a bootstrap that copies patients, and against numbers by hand."""

import numpy as np
import pytest
from scipy import stats

from medistill.metrics.bootstrap import RESAMPLES, draw, resample
from medistill.metrics.intervals import summarise
from medistill.metrics.means import GroupedMean, mean_interval, paired_interval, share_interval
from medistill.records.estimate import Estimate


def expanded(means: list[float], values: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """The expanded percentile interval, as its definition reads, by the kurtosis and skewness of patients' sums."""
    apart = np.nan_to_num(values - np.nanmean(values))
    sums = np.array([apart[groups == name].sum() for name in np.unique(groups)])
    count = len(sums)
    df = 2 / (2 / (count - 1) + max(stats.kurtosis(sums), 0) / count)
    reach, skew = np.sqrt((df + 1) / df) * stats.t.ppf(0.975, df), stats.skew(sums) / (6 * np.sqrt(count))
    below, above = (stats.norm.cdf(-reach / (1 + side * skew * reach)) for side in (1, -1))
    return tuple(np.quantile(means, [below, 1 - above]))


def test_interval_is_the_bootstrap_that_copies_patients():
    rng = np.random.default_rng(3)
    groups = rng.integers(0, 15, 60).astype(str)
    values = rng.random(60)
    values[[4, 9]] = np.nan
    names = np.unique(groups)
    generator = np.random.default_rng(0)
    means = []
    for _ in range(RESAMPLES):
        drawn = names[generator.integers(len(names), size=len(names))]
        means.append(np.nanmean(np.concatenate([values[groups == name] for name in drawn])))
    result = mean_interval(values, groups)
    assert result.estimate == pytest.approx(np.nanmean(values))
    assert (result.lower, result.upper) == pytest.approx(expanded(means, values, groups), abs=0.1 * np.std(means))
    assert mean_interval(values, groups) == result


def test_interval_knows_that_images_of_a_patient_are_not_independent():
    values, groups = np.repeat([0.0, 1.0] * 10, 10), np.repeat(np.arange(20), 10)
    clustered, independent = mean_interval(values, groups), mean_interval(values, np.arange(200))
    assert clustered.upper - clustered.lower > 2.5 * (independent.upper - independent.lower)


def test_interval_of_nothing():
    nothing = Estimate(None).interval()
    assert mean_interval(np.array([]), np.array([])).interval() == nothing
    assert mean_interval(np.array([np.nan, np.nan]), np.array(["a", "b"])).interval() == nothing
    assert share_interval(np.array([]), np.array([])).interval() == nothing


@pytest.mark.parametrize("interval", [mean_interval, share_interval])
def test_findings_of_one_patient_have_no_interval(interval):
    """One patient shows nothing about differences between patients: each resample draws the same one."""
    hits = np.array([1.0, 0.0, 0.0, 1.0])
    assert interval(hits, np.array(["a"] * 4)) == Estimate(0.5, None, None)


@pytest.mark.parametrize(("hits", "patients"), [(0, 20), (20, 20), (0, 11), (1, 20), (7, 40)])
def test_share_of_hits_of_patients_with_one_finding_is_wilsons(hits, patients):
    values = np.arange(patients) < hits
    result = share_interval(values.astype(float), np.arange(patients))
    known = stats.binomtest(hits, patients).proportion_ci(0.95, "wilson")
    assert result.estimate == hits / patients
    if hits in (0, patients):
        assert (result.lower, result.upper) == pytest.approx((known.low, known.high))
    else:  # as wide or a little wider, since the variance over patients is estimated
        assert known.low - 0.02 < result.lower < known.low
        assert known.high < result.upper < known.high + 0.02


def test_findings_that_go_together_count_once():
    """Five findings per patient that are all hits or all misses carry no more information than one."""
    hits, patients = np.repeat([0.0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0], 5), np.repeat(np.arange(12), 5)
    assert share_interval(hits, patients).interval() == pytest.approx(
        share_interval(hits[::5], np.arange(12)).interval()
    )
    none = share_interval(np.zeros(60), patients)
    assert none.upper == pytest.approx(stats.binomtest(0, 12).proportion_ci(0.95, "wilson").high)
    # With 49 findings of one patient and one of each of eleven, the effective number is 60² / (49² + 11) = 1.49.
    uneven = np.repeat(np.arange(12), [49, *[1] * 11])
    assert share_interval(np.zeros(60), uneven).upper == pytest.approx(1.96**2 / (1.4925 + 1.96**2), abs=0.001)


def test_share_of_hits_holds_the_truth_where_hits_are_rare():
    """One finding in ten is hit; 20 patients have one to six correlated findings each."""
    random = np.random.default_rng(0)
    held = {"share": 0, "percentile": 0}
    for _ in range(300):
        patients = np.repeat(np.arange(20), 1 + random.poisson(1.2, 20))
        hits = (random.random(len(patients)) < random.beta(0.23, 2.1, 20)[patients]).astype(float)  # ICC 0.3
        means = resample(GroupedMean.of(hits, patients, 20).measure, draw(20))
        for name, result in (("share", share_interval(hits, patients)), ("percentile", summarise(means))):
            held[name] += (result.lower or 0) <= 0.0987 <= (result.upper or 0)  # none where there is no hit
    assert held["share"] / 300 >= 0.93
    assert held["percentile"] / 300 < 0.93


def test_difference_of_hits_is_the_bootstrap_of_the_differences():
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(18), 3)
    own, other = (rng.random(54) < 0.6).astype(float), (rng.random(54) < 0.3).astype(float)
    generator = np.random.default_rng(0)
    means = []
    for _ in range(RESAMPLES):
        drawn = generator.integers(18, size=18)
        means.append(np.concatenate([(own - other)[groups == group] for group in drawn]).mean())
    result = paired_interval(own, other, groups)
    assert result.estimate == pytest.approx((own - other).mean())
    assert (result.lower, result.upper) == pytest.approx(
        expanded(means, own - other, groups), abs=1.01 / 54
    )  # one finding


def test_a_model_that_never_hits_is_not_worse_than_chance_for_sure():
    """If boxes cover 8 % of the frame, chance gives 0 hits of 20 in one case of five."""
    chance = np.linspace(0.04, 0.12, 20)
    result = paired_interval(np.zeros(20), chance, np.arange(20))
    assert result.estimate == pytest.approx(-0.08)
    assert result.lower == pytest.approx(-0.08 - (chance.std() / 20**0.5) * 2.1, abs=0.005)
    assert result.upper == pytest.approx(-0.08 + 0.161, abs=0.005)  # 0 of 20: at most 16 %
    # Against 20 of 20 the bounds of both are squared and added: 1 − √2 · 0.161.
    sure = paired_interval(np.ones(20), np.zeros(20), np.arange(20))
    assert list(sure.interval().values()) == pytest.approx([1, 1 - 2**0.5 * 0.1611, 1], abs=1e-3)
