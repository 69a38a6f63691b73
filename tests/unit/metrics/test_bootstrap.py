"""The bootstrap against brute force on the same resamples, and its rules against numbers computed by hand."""

import time

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, average_precision_score, recall_score, roc_auc_score

from medistill.metrics import bootstrap
from medistill.metrics.classification import measure_classes
from medistill.metrics.eligibility import fewer_groups, ineligibility
from medistill.metrics.intervals import centred, holm, p_value, summarise, wilson
from medistill.metrics.means import GroupedMean
from medistill.metrics.ranking import RankedLabel, measure_ranking
from medistill.records.estimate import Estimate


def problem(images: int = 90, groups: int = 30, labels: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(11)
    targets = (random.random((images, labels)) < 0.3).astype(np.float32)
    targets[random.random((images, labels)) < 0.05] = np.nan
    scores = np.round(np.nan_to_num(targets) + random.normal(size=(images, labels)), 1)
    return targets, scores, random.integers(0, groups, images)


def test_every_resample_is_what_scikit_learn_says_of_the_images_drawn():
    targets, scores, groups = problem()
    counts = bootstrap.draw(30, 25, seed=3)
    auroc, precision = measure_ranking(targets, scores, groups, counts)
    assert auroc.shape == precision.shape == (26, 3)
    for row in range(26):
        # The images themselves, repeated as often as their group was drawn: no weights involved.
        drawn = np.repeat(np.arange(len(groups)), counts[groups, row])
        for label in range(3):
            chosen = drawn[~np.isnan(targets[drawn, label])]
            y, s = targets[chosen, label], scores[chosen, label]
            assert auroc[row, label] == pytest.approx(roc_auc_score(y, s), abs=1e-12)
            assert precision[row, label] == pytest.approx(average_precision_score(y, s), abs=1e-12)


def test_accuracies_of_every_resample_are_those_of_the_images_drawn():
    random = np.random.default_rng(4)
    truth, groups = random.choice(3, 60, p=[0.7, 0.27, 0.03]), random.integers(0, 20, 60)
    targets, scores = np.eye(3)[truth], np.eye(3)[truth] + random.normal(size=(60, 3))
    unknown = random.random(60) < 0.1
    targets[unknown] = np.nan
    counts = bootstrap.draw(20, 40, seed=2)
    accuracy, balanced, *_ = measure_classes(targets, scores, groups, counts)
    undefined = 0
    for row in range(41):
        drawn = np.repeat(np.arange(60), counts[groups, row])
        y, predicted = (values[drawn[~unknown[drawn]]] for values in (truth, scores.argmax(axis=1)))
        assert accuracy[row] == pytest.approx(accuracy_score(y, predicted), abs=1e-12)
        if len(np.unique(y)) < 3:
            undefined += 1
            assert np.isnan(balanced[row])
        else:
            expected = recall_score(y, predicted, average=None, labels=[0, 1, 2]).mean()
            assert balanced[row] == pytest.approx(expected, abs=1e-12)
    assert 0 < undefined < 40


def test_auroc_alone_is_that_of_both():
    targets, scores, groups = problem()
    weights = bootstrap.draw(30, 200, seed=0).astype(np.float64)
    weights[:, 7] = 0
    for k in range(targets.shape[1]):
        label = RankedLabel.of(targets[:, k], scores[:, k], groups, 30)
        np.testing.assert_array_equal(label.auroc(weights), label.measure(weights)[0])
        assert np.isnan(label.auroc(weights)[7])


def test_draws_are_whole_samples_of_groups_repeatable_and_different():
    counts = bootstrap.draw(40, 500, seed=0)
    assert counts.shape == (40, 501)
    assert (counts[:, 0] == 1).all()
    assert (counts.sum(axis=0) == 40).all()
    np.testing.assert_array_equal(counts, bootstrap.draw(40, 500, seed=0))
    assert (counts != bootstrap.draw(40, 500, seed=1)).any()
    # A group is missing from a resample with probability (1 − 1/40)^40 = 0.363.
    assert (counts[:, 1:] == 0).mean() == pytest.approx((1 - 1 / 40) ** 40, abs=0.01)


def test_a_chunk_is_an_implementation_detail(monkeypatch):
    targets, scores, groups = problem()
    counts = bootstrap.draw(30, 64, seed=0)
    whole = measure_ranking(targets, scores, groups, counts)
    whole_accuracies = measure_classes(targets, scores, groups, counts)
    monkeypatch.setattr(bootstrap, "_CHUNK_BYTES", 8 * 181 * 7)
    calls = []
    parts = measure_ranking(targets, scores, groups, counts, on_label=lambda: calls.append(1))
    accuracies = measure_classes(targets, scores, groups, counts)
    np.testing.assert_allclose(parts[0], whole[0], atol=1e-14)
    np.testing.assert_allclose(parts[1], whole[1], atol=1e-14)
    np.testing.assert_allclose(accuracies, whole_accuracies, atol=1e-14)
    assert len(calls) == 3


def test_interval_is_the_percentile_interval_of_the_resamples():
    values = np.append(0.5, np.arange(101) / 100)
    summary = summarise(values)
    assert (summary.estimate, summary.dropped) == (0.5, 0)
    assert (summary.lower, summary.upper) == pytest.approx((0.025, 0.975))


@pytest.mark.parametrize("groups", [2, 10, 27, 5000])
def test_interval_of_few_groups_is_expanded(groups):
    """By Student's t, and by the factor n/(n − 1) that the variance of resamples lacks."""
    values = np.append(0.5, np.linspace(0, 1, 4001))
    tail = stats.norm.cdf(-stats.t.ppf(0.975, groups - 1) * np.sqrt(groups / (groups - 1)))
    summary = summarise(values, groups=groups)
    assert (summary.lower, summary.upper) == pytest.approx((tail, 1 - tail), abs=1e-9)
    expanded = {2: 0, 10: 0.0086, 27: 0.0181, 5000: 0.025}
    assert summary.lower == pytest.approx(expanded[groups], abs=1e-4)


@pytest.mark.parametrize("sign", [1, -1])
def test_interval_of_a_few_heavy_patients_is_expanded_for_what_its_variance_is_known_from(sign):
    """By the kurtosis and the skewness of what each patient adds to a mean, here as scipy has them."""
    patients, random = 60, np.random.default_rng(4)
    sample = sign * random.lognormal(0, 1.2, patients)
    counts = bootstrap.draw(patients, 40_000, seed=1)
    means = sample @ counts / patients
    df = 2 / (2 / (patients - 1) + stats.kurtosis(sample) / patients)
    skew = stats.skew(sample) / (6 * np.sqrt(patients))
    assert df < 15
    reach = stats.t.ppf(0.975, df) * np.sqrt((df + 1) / df)
    below, above = (stats.norm.cdf(-reach / (1 + side * skew * reach)) for side in (1, -1))
    found = summarise(means, counts, difference=True)
    expected = np.quantile(means[1:], [below, 1 - above])
    assert [found.lower, found.upper] == pytest.approx(expected, abs=0.05 * means.std())
    plain = summarise(means, difference=True)
    assert found.lower < plain.lower
    assert found.upper > plain.upper
    # the longer side is where the heavy patients are
    longer, shorter = (found.upper, found.lower)[::sign]
    assert abs(longer - means[0]) > 1.3 * abs(shorter - means[0])


def test_a_mean_of_like_patients_is_worth_all_of_them():
    patients = 50
    sample = stats.norm.ppf((np.arange(patients) + 0.5) / patients)  # as normal as they can be
    counts = bootstrap.draw(patients, 40_000, seed=1)
    means = sample @ counts / patients
    found = summarise(means, counts, difference=True)
    tail = stats.norm.cdf(-stats.t.ppf(0.975, patients - 1) * np.sqrt(patients / (patients - 1)))
    expected = np.quantile(means[1:], [tail, 1 - tail])
    assert [found.lower, found.upper] == pytest.approx(expected, abs=0.02 * means.std())
    # a label is worth no more than the patients who have it
    few = summarise(means, counts, groups=12, difference=True)
    tail = stats.norm.cdf(-stats.t.ppf(0.975, 11) * np.sqrt(12 / 11))
    expected = np.quantile(means[1:], [tail, 1 - tail])
    assert [few.lower, few.upper] == pytest.approx(expected, abs=0.02 * means.std())


def test_more_patients_than_resamples_are_not_taken_for_few():
    """The Monte Carlo error of each patient's share is then larger than the share."""
    sample = np.random.default_rng(2).normal(size=3000)
    counts = bootstrap.draw(3000, 500, seed=1)
    means = sample @ counts / 3000
    found, plain = summarise(means, counts, difference=True), summarise(means, difference=True)
    assert found.upper - found.lower == pytest.approx(plain.upper - plain.lower, rel=0.05)


def test_degrees_of_freedom_by_hand():
    """Of nine patients one adds 8 and eight −1: Σu² = 72, Σu⁴ = 4104, 1/df = 1/8 + (4104/72² − 3/9)/2 = 0.354."""
    values = 0.5 - 0.001 * np.array([0, 8, *[-1] * 8])
    found = centred(values, groups=9)
    half = stats.t.ppf(0.975, 1 / (1 / 8 + (4104 / 72**2 - 3 / 9) / 2)) * np.sqrt(8 / 9 * 72) * 0.001
    assert (found.lower, found.upper) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-12)
    # were only two of them known to have the label, it would be Student's t for 2
    few = centred(values, groups=2)
    assert few.upper - 0.5 == pytest.approx(stats.t.ppf(0.975, 1) * 0.008, abs=1e-12)


def test_one_group_has_no_interval():
    summary = summarise(np.full(101, 0.7), groups=1)
    assert (summary.estimate, summary.lower, summary.upper) == (0.7, None, None)


@pytest.mark.parametrize(("share", "trials"), [(0.0, 20), (1.0, 12), (0.05, 20), (0.3, 50), (0.5, 2)])
def test_interval_of_a_share_is_wilsons(share, trials):
    known = stats.binomtest(round(share * trials), trials).proportion_ci(0.95, "wilson")
    assert wilson(share, trials) == pytest.approx((known.low, known.high), abs=1e-12)


def test_figures_at_the_end_of_their_range_have_an_interval_with_width_or_none():
    """With 12 positives above all negatives every resample has AUROC 1, and yet the next positive may be lower."""
    targets, groups = np.repeat([1.0, 0.0], [12, 40])[:, None], np.arange(52)
    auroc, precision = measure_ranking(targets, targets + 0.1 * targets, groups, bootstrap.draw(52, 200, seed=0))
    rests_on = fewer_groups(targets[:, 0], groups)
    assert rests_on == 12
    lower = stats.binomtest(12, 12).proportion_ci(0.95, "wilson").low
    for values in (auroc[:, 0], precision[:, 0]):
        summary = summarise(values, groups=rests_on)
        assert (summary.estimate, summary.lower, summary.upper) == pytest.approx((1, lower, 1))
    assert summarise(auroc.mean(axis=1)).lower is None
    assert centred(auroc.mean(axis=1), groups=rests_on).lower is None
    worst = summarise(1 - auroc[:, 0], groups=rests_on)
    assert (worst.lower, worst.upper) == pytest.approx((0, 1 - lower))
    # A difference of 0 between two equal models is not an end of its range.
    same = summarise(auroc[:, 0] - auroc[:, 0], groups=rests_on, difference=True)
    assert (same.lower, same.upper) == (0, 0)


@pytest.mark.parametrize(("undefined", "has_interval"), [(0, True), (5, True), (6, False), (100, False)])
def test_undefined_resamples_are_dropped_and_more_than_five_percent_leave_no_interval(undefined, has_interval):
    values = np.append(0.5, np.linspace(0, 1, 100))
    values[1 : 1 + undefined] = np.nan
    summary = summarise(values)
    assert summary.dropped == undefined
    assert summary.estimate == 0.5
    assert (summary.lower is not None) == (summary.upper is not None) == has_interval
    assert (p_value(values) is not None) == has_interval


def test_a_label_of_few_groups_loses_its_interval_by_itself():
    # One group holds all positives: it is missing from 37 % of the resamples.
    targets = np.zeros((40, 1), np.float32)
    targets[0] = 1
    auroc, _ = measure_ranking(targets, np.arange(40.0)[:, None], np.arange(40), bootstrap.draw(40, 1000, seed=0))
    summary = summarise(auroc[:, 0])
    assert summary.estimate == 0
    assert summary.lower is None
    assert summary.dropped / 1000 == pytest.approx((1 - 1 / 40) ** 40, abs=0.05)


def test_p_value_by_hand():
    # R = 9: two are ≤ 0 (one of them exactly 0) and eight are ≥ 0, so p = 2 (1 + 2) / 10.
    differences = np.array([0.3, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert p_value(differences) == pytest.approx(0.6)
    assert p_value(-differences) == pytest.approx(0.6)
    # The smallest possible value is 2 / (R + 1), never 0.
    assert p_value(np.ones(10)) == pytest.approx(2 / 10)
    assert p_value(np.zeros(10)) == 1


@pytest.mark.parametrize("groups", [10, 25, 200])
def test_p_value_of_a_label_goes_with_its_interval(groups):
    random = np.random.default_rng(0)
    for shift in np.linspace(0, 4, 41):
        differences = np.append(shift, random.normal(shift, 1, 4000))
        summary = summarise(differences, groups=groups, difference=True)
        p = p_value(differences, groups=groups)
        if abs(p - 0.05) > 0.005:
            assert (p < 0.05) == (summary.lower > 0)
        assert p >= p_value(differences)
    assert p_value(np.zeros(100), groups=groups) == 1


@pytest.mark.parametrize("sign", [1, -1])
def test_p_value_of_skewed_patients_goes_with_its_interval(sign):
    sample = sign * np.random.default_rng(4).lognormal(0, 1.0, 80)
    counts = bootstrap.draw(80, 4000, seed=1)
    means = sample @ counts / 80
    seen = set()
    for shift in np.linspace(-5, 5, 41) * means.std():
        differences = means - means[0] + shift
        found, p = summarise(differences, counts, difference=True), p_value(differences, counts)
        if abs(p - 0.05) > 0.005:
            assert (p < 0.05) == (found.lower > 0 or found.upper < 0)
        seen.add(p < 0.05)
    assert seen == {True, False}


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04, made monotone.
    assert holm([0.04, 0.01, None, 0.03, 0.02]) == pytest.approx([0.06, 0.04, None, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []
    assert holm([None]) == [None]


def label(positives: int, positive_groups: int, negatives: int = 30, negative_groups: int = 30):
    """Targets and groups, with these numbers of positives and negatives from these numbers of groups."""
    targets = np.append(np.ones(positives), np.zeros(negatives))
    groups = np.append(np.arange(positives) % positive_groups, 1000 + np.arange(negatives) % negative_groups)
    return targets, groups


@pytest.mark.parametrize(
    ("targets", "groups", "reason"),
    [
        (*label(10, 10), None),
        (*label(9, 9), "9 positives, fewer than 10"),
        (*label(10, 9), "positives from 9 groups, fewer than 10"),
        (*label(50, 10, 10, 10), None),
        (*label(50, 10, 9, 9), "9 negatives, fewer than 10"),
        (*label(50, 10, 40, 9), "negatives from 9 groups, fewer than 10"),
        (np.full(40, np.nan), np.arange(40), "0 positives, fewer than 10"),
    ],
)
def test_eligibility(targets, groups, reason):
    assert ineligibility(targets, groups) == reason


def test_intervals_over_images_miss_the_truth():
    """Images of a patient share an effect: intervals over patients contain the truth, those over images too rarely."""
    random = np.random.default_rng(5)
    truth, held = 0.76025, {"patients": 0, "images": 0}  # Φ(1 / √2), positives one standard deviation above
    runs, patients, each = 120, 60, 8
    for seed in range(runs):
        # Sick and healthy patients; most of a score's variance is the patient's own.
        groups = np.repeat(np.arange(patients), each)
        targets = (groups % 2).astype(np.float32)
        effect = random.normal(size=patients)[groups]
        scores = targets + np.sqrt(0.8) * effect + np.sqrt(0.2) * random.normal(size=len(groups))
        for unit, codes in (("patients", groups), ("images", np.arange(len(groups)))):
            counts = bootstrap.draw(codes.max() + 1, 300, seed)
            auroc, _ = measure_ranking(targets[:, None], scores[:, None], codes, counts)
            summary = summarise(auroc[:, 0], groups=30 if unit == "patients" else None)
            held[unit] += summary.lower <= truth <= summary.upper
    assert held["patients"] / runs >= 0.93
    assert held["images"] / runs < 0.75


SEPARATION = 1.2
"""How far the positives' mean score is above the negatives', in standard deviations."""


def patients_of_nih(random: np.random.Generator, rate: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, patients and scores of 140 patients with as many images as those of NIH ChestX-ray14, and 14 labels.

    Half of the patients have one image and a few have a hundred. Labels and scores of a patient's images are alike
    (40 % of a score's variance is the patient's). `rate` is the prevalence of each label: of 0.035 a median label has
    18 positives.
    """
    patients, labels = 140, 14
    sizes = np.clip(np.round(random.lognormal(0.2, 1.4, patients)), 1, 184).astype(int)
    groups = np.repeat(np.arange(patients), sizes)
    prevalence = random.beta(9 * rate, 9 * (1 - rate), (patients, labels))
    targets = (random.random((len(groups), labels)) < prevalence[groups]).astype(float)
    own, rest = random.normal(size=(patients, labels))[groups], random.normal(size=targets.shape)
    return targets, groups, SEPARATION * targets + np.sqrt(0.4) * own + np.sqrt(0.6) * rest


def true_values(rate: float) -> tuple[float, float]:
    """True AUROC and average precision of `patients_of_nih`, the latter by its integral over thresholds."""
    thresholds = np.linspace(10, -10, 20_001)
    hits, alarms = stats.norm.sf(thresholds - SEPARATION), stats.norm.sf(thresholds)
    precision = rate * hits / (rate * hits + (1 - rate) * alarms)
    return stats.norm.cdf(SEPARATION / np.sqrt(2)), np.trapezoid(precision, hits)


def coverage(rate: float, runs: int) -> dict[str, float]:
    """How often the intervals in use, and others, contain the true value, by name."""
    random = np.random.default_rng(1)
    truth, held = true_values(rate), {}

    def note(name: str, values: np.ndarray, true: float, **options) -> None:
        check(name, summarise(values, **options), true)

    def check(name: str, found: Estimate, true: float) -> None:
        held.setdefault(name, []).append(found.lower <= true <= found.upper)

    def reflected(values: np.ndarray) -> Estimate:
        plain = summarise(values)
        return Estimate(values[0], 2 * values[0] - plain.upper, 2 * values[0] - plain.lower)

    for seed in range(runs):
        targets, groups, scores = patients_of_nih(random, rate)
        chosen = [k for k in range(14) if not ineligibility(targets[:, k], groups)]
        counts = bootstrap.draw(140, 300, seed)
        auroc, precision = measure_ranking(targets[:, chosen], scores[:, chosen], groups, counts)
        for j, k in enumerate(chosen):
            rests_on = fewer_groups(targets[:, k], groups)
            note("auroc", auroc[:, j], truth[0], counts=counts, groups=rests_on)
            note("auroc, percentile", auroc[:, j], truth[0])
            note("auprc", precision[:, j], truth[1], counts=counts, groups=rests_on)
            check("auprc, reflected", reflected(precision[:, j]), truth[1])
        note("macro auroc", auroc.mean(axis=1), truth[0], counts=counts)
        for own in targets.T:
            share = bootstrap.resample(GroupedMean.of(own, groups, 140).measure, counts)
            note("prevalence", share, rate, counts=counts)
            note("prevalence, percentile", share, rate)
        few = min(fewer_groups(targets[:, k], groups) for k in chosen)
        left_out = measure_ranking(targets[:, chosen], scores[:, chosen], groups, bootstrap.leave_out(140))[1]
        check("macro auprc", centred(left_out.mean(axis=1), few), truth[1])
        check("macro auprc, reflected", reflected(precision.mean(axis=1)), truth[1])
        note("macro auprc, percentile", precision.mean(axis=1), truth[1])
    return {name: float(np.mean(values)) for name, values in held.items()}


def test_intervals_of_rare_labels_hold_the_truth_as_often_as_they_say():
    held = coverage(0.035, runs=160)  # some 1,500 intervals of each kind
    assert held["auroc"] >= 0.93
    assert held["auprc"] >= 0.93
    assert held["macro auroc"] >= 0.93
    # What a few patients of a hundred images weigh most in, too.
    assert held["prevalence"] >= 0.93
    assert held["prevalence, percentile"] < 0.92
    # Both earlier kinds of interval for labels would fail.
    assert held["auroc, percentile"] < 0.92
    assert held["auprc, reflected"] < 0.88


def test_intervals_of_macro_average_precision_hold_the_truth_more_often_by_a_jackknife():
    """A resample's duplicates raise average precision; a mean over labels narrows its interval but not that bias."""
    held = coverage(0.15, runs=80)
    assert held["macro auprc"] >= 0.85
    assert held["macro auprc, percentile"] < 0.8


def test_a_jackknife_removes_the_bias_of_a_variance():
    """The bias of the variance by n is known; less it, the estimate is the variance by n − 1."""
    sample = np.random.default_rng(3).random(12)
    counts = bootstrap.leave_out(12)
    values = np.array([np.var(sample[column == 1]) for column in counts.T])
    found = centred(values, groups=9)
    assert found.estimate == np.var(sample)
    middle = (found.lower + found.upper) / 2
    assert middle == pytest.approx(np.var(sample, ddof=1), abs=1e-12)
    error = np.sqrt(11 / 12 * np.square(values[1:] - values[1:].mean()).sum())
    assert found.upper - middle == pytest.approx(stats.t.ppf(0.975, 8) * error, abs=1e-12)
    assert centred(np.array([0.5, np.nan, 0.4]), groups=9).lower is None
    assert centred(np.full(5, np.nan), groups=9).estimate is None


def test_blocks_are_left_out_once_each_and_are_equally_large():
    counts = bootstrap.leave_out(1000)
    assert counts.shape == (1000, 201)
    assert (counts[:, 0] == 1).all()
    assert ((counts[:, 1:] == 0).sum(axis=1) == 1).all()
    assert ((counts[:, 1:] == 0).sum(axis=0) == 5).all()


def test_a_usual_evaluation_takes_seconds():
    random = np.random.default_rng(0)
    targets = (random.random((300, 14)) < 0.1).astype(np.float32)
    counts = bootstrap.draw(150, 2000, seed=0)
    start = time.perf_counter()
    for _ in range(8):
        measure_ranking(targets, random.normal(size=targets.shape), np.arange(300) // 2, counts)
    assert time.perf_counter() - start < 10
