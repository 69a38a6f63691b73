"""Intervals over patients and seeds, and the tables of five seeds, against arithmetic."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmarks import claims
from benchmarks.claims import Claims
from benchmarks.crossed import Crossed, cross
from benchmarks.outcomes import Outcome
from benchmarks.plans import PLANS
from benchmarks.scores import Results, Scores, Truth
from benchmarks.study import EEEA, LITE2
from medistill.evaluation.answers import Split

SEEDS, IMAGES = 5, 240


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def drawn(generator: np.random.Generator, by_patients: float, by_seeds: float, between: float = 0.0) -> np.ndarray:
    """A difference of 0.02 by seed in 60 patients, and in resamples of them, with these standard errors."""
    values = generator.normal(size=(SEEDS, 1, 60)) * between + generator.normal(size=(1, 1, 60)) * by_patients
    counts = generator.multinomial(60, np.full(60, 1 / 60), size=1001)
    counts[0] = 1
    means = (values * counts).sum(axis=2) / np.sqrt(60)
    return 0.02 + means + by_seeds * np.sqrt(SEEDS) * generator.normal(size=(SEEDS, 1))


# Patients and seeds


def test_the_estimate_is_the_mean_over_seeds(generator):
    by_seed = drawn(generator, 0.01, 0.01)
    found = cross(by_seed, 60)
    assert found.estimate == pytest.approx(by_seed[:, 0].mean())
    assert found.values.shape == (1001,)
    assert found.bounds[0] < found.estimate < found.bounds[1]


def test_without_a_spread_over_seeds_it_is_the_interval_over_patients(generator):
    by_seed = np.repeat(drawn(generator, 0.01, 0)[:1], SEEDS, axis=0)
    found = cross(by_seed, 60)
    assert (found.freedom, found.widening) == pytest.approx((59, 1))
    tail = stats.norm.cdf(stats.t.ppf(0.025, 59))
    assert found.bounds == pytest.approx(tuple(np.quantile(by_seed[0, 1:], [tail, 1 - tail])))


def test_without_a_spread_over_patients_it_is_students_t_of_the_seeds(generator):
    by_seed = np.repeat(drawn(generator, 0, 0.01)[:, :1], 20_001, axis=1)
    lower, upper = stats.t.interval(0.95, SEEDS - 1, by_seed[:, 0].mean(), by_seed[:, 0].std(ddof=1) / np.sqrt(SEEDS))
    found = cross(by_seed, 60)
    assert found.freedom == pytest.approx(SEEDS - 1)
    # the mean of five drawn with replacement has lighter tails than Student's t has
    assert np.array(found.bounds) == pytest.approx([lower, upper], abs=0.2 * (upper - lower))
    assert found.bounds[1] - found.bounds[0] > 1.2 * np.subtract(*np.quantile(found.values[1:], [0.975, 0.025]))


def test_what_a_model_gets_wrong_about_a_patient_is_counted_once(generator):
    """Errors that are new for each seed and patient: the mean has 1/S of their variance, resamples thrice that."""
    spreads, true = [], 0.01 / np.sqrt(SEEDS)
    for _ in range(60):
        found = cross(drawn(generator, 0, 0, between=0.01), 60)
        spreads.append(found.widening * found.values[1:].std())
    assert np.mean(spreads) == pytest.approx(true, rel=0.12)


def test_p_is_below_a_twentieth_where_the_interval_leaves_out_zero(generator):
    found = cross(drawn(generator, 0.01, 0.01), 60)
    for shift in np.linspace(-0.06, 0.06, 41):
        moved = replace(found, values=found.values - found.estimate + shift)
        lower, upper = moved.bounds
        if min(abs(lower), abs(upper)) > 1e-3:
            assert (moved.p < 0.05) == (lower > 0 or upper < 0)


def test_one_seed_is_refused_and_equal_models_differ_by_nothing():
    with pytest.raises(ValueError, match="one seed"):
        cross(np.zeros((1, 11)), 60)
    assert cross(np.zeros((SEEDS, 11)), 60).bounds == (0, 0)


def test_a_share_is_the_ratio_in_the_same_resamples(generator):
    gain = drawn(generator, 0.002, 0.001)
    assert cross(gain, 60).over(cross(2 * gain, 60)) == "50% [50%, 50%]"


def test_the_interval_holds_the_truth_for_other_seeds_and_patients(generator):
    held = {"crossed": 0, "percentile": 0}
    for _ in range(300):
        found = cross(drawn(generator, 0.01, 0.01), 60)
        held["crossed"] += found.bounds[0] <= 0.02 <= found.bounds[1]
        lower, upper = np.quantile(found.values[1:], [0.025, 0.975])
        held["percentile"] += lower <= 0.02 <= upper
    assert held["crossed"] / 300 >= 0.93
    assert held["percentile"] < held["crossed"]


# Tables


def made_claims(generator: np.random.Generator, skill: dict[str, float], lead: float = 1.5) -> Claims:
    """EEEA-Net-C2 on made-up images like NIH's: three labels, two folds, an ill and a healthy stratum.

    Args:
        generator: of random numbers.
        skill: how well each row tells positives from negatives of its stratum.
        lead: the same of the teacher.
    """
    ill = np.arange(IMAGES) % 2
    targets = np.stack([(ill == 1) & (generator.random(IMAGES) < 0.4) for _ in range(3)], axis=1).astype(float)
    targets[::7] = (generator.random((len(targets[::7]), 3)) < 0.3).astype(float)
    split = Split.of(["A", "B", "C"], targets, np.arange(IMAGES) // 2, 200, 0)
    truth = Truth(split, np.arange(IMAGES) // 120, [[0, 1, 2]] * 2, ill)
    noise = generator.normal(size=(IMAGES, 3))

    def everywhere(logits: np.ndarray) -> np.ndarray:
        return truth.auroc(logits, range(3))

    def scores(gain: float) -> Scores:
        own = 0.4 * generator.normal(size=(SEEDS, IMAGES, 3))
        logits = gain * targets + noise + own + 5 * ill[:, None]
        macro, within = (
            np.array([of(one) for one in logits]) for of in (lambda x: truth.auroc(x, range(3)), truth.within)
        )
        pairs = np.stack([np.full(3, 50.0 + 10 * gain), np.full(3, 100.0)])
        outcomes = [Outcome("s", "c", "random", 1, 1, 1.0, 0.5, one, pairs) for one in logits for _ in range(2)]
        return Scores(list(range(SEEDS)), macro, logits, 0.5, outcomes, within)

    students = {EEEA: {name: scores(gain) for name, gain in skill.items()}}
    return Claims(Results(PLANS["nih"], truth, {LITE2: scores(lead)}, students), EEEA)


SKILL = {
    "baseline": 0.5,
    "slower": 0.6,
    "random": 0.1,
    "system_b": 0.9,
    "calibrated": 0.8,
    "shuffled": 0.5,
    "self": 0.55,
}


def test_the_figure_is_that_of_pairs_of_one_fold_and_stratum(generator):
    made = made_claims(generator, SKILL)
    truth, logits = made.results.truth, made.scores("calibrated").logits[2]
    values = []
    for label in range(3):
        won = pairs = 0.0
        for fold in (0, 1):
            for ill in (0, 1):
                here = (truth.folds == fold) & (truth.strata == ill)
                y = truth.split.targets[here, label]
                weight = y.sum() * (1 - y).sum()
                if weight:
                    won, pairs = won + weight * roc_auc_score(y, logits[here, label]), pairs + weight
        values.append(won / pairs)
    assert made.figure(made.scores("calibrated"))[2, 0] == pytest.approx(np.mean(values))
    assert made.scores("calibrated").macro[2, 0] > np.mean(values) + 0.05  # that of all pairs asks for the stratum, too


def test_validation_chooses_the_baseline_and_the_claim(generator):
    made = made_claims(generator, SKILL)
    assert made.baseline("selected") == "slower"
    assert (made.baseline("own"), made.taught, made.chosen) == ("random", ["system_b", "calibrated"], "system_b")
    assert made.val("calibrated") == pytest.approx(0.58)
    gain = made.figure(made.scores("system_b")) - made.figure(made.scores("slower"))
    assert made.gains["system_b"].estimate == pytest.approx(gain[:, 0].mean())
    assert "slower" not in made.gains
    p_values = sorted(made.gains[name].p for name in made.taught)
    assert sorted(made.adjusted.values()) == pytest.approx([min(1, 2 * p_values[0]), max(2 * p_values[0], p_values[1])])


def test_sentences_say_what_the_intervals_show(generator):
    (text,) = claims.sentences(made_claims(generator, SKILL))
    assert "Best on validation of 2 baselines is `slower`." in text
    assert re.search(r"start instead of the random one \(`random`\): \+0\.\d+ \[\+.*, a gain\.", text)
    assert re.search(r"of 2 taught rows validation chooses `system_b`, \+0\.\d+ \[\+.*\], a gain\.", text)
    assert re.search(r"The lead of efficientnet_lite2 .* the student wins back \d+% \[\d+%, \d+%\] of it", text)
    assert re.search(r"`shuffled` -0\.\d+ \[.*, and `system_b` minus it \+0\.", text)
    assert "the mean of 2 baselines, +0." in text
    (none,) = claims.sentences(made_claims(generator, SKILL | {"system_b": 0.61, "calibrated": 0.6}, lead=0.5))
    assert "validation chooses `system_b`" in none
    assert "no difference shown" in none
    assert "there is no lead to win back" in none


def test_a_mean_of_baselines_is_that_of_their_logits(generator):
    made = made_claims(generator, SKILL)
    logits = made.scores("slower").logits
    pairs = [(logits[k] + logits[k - 1]) / 2 for k in range(SEEDS)]
    expected = np.mean([made.results.truth.within(pair)[0] for pair in pairs])
    own = made.figure(made.scores("slower"))[:, 0].mean()
    assert made.averaged(2).estimate == pytest.approx(expected - own)
    assert made.averaged(1) is None


def test_a_table_stands_once_the_most_telling_rows_are_complete(generator):
    made = made_claims(generator, SKILL)
    text = claims.page(made.results)
    table = [row for row in text.splitlines() if row.startswith("|")]
    assert len(table) == 2 + 1 + len(SKILL)
    assert len({row.count("|") for row in table}) == 1
    assert "AUROC within sample × Pneumonia or not, 3 labels" in table[0]
    assert "all pairs (for the most part: ill or not), 3 labels" in table[0]
    assert "eeea_net_c2, by_224" in text.rpartition("Not trained yet: ")[2]
    of_one_seed = replace(made.scores("random"), seeds=[0])
    students = {EEEA: made.results.students[EEEA] | {"random": of_one_seed}}
    assert claims.page(replace(made.results, students=students)) is None


def test_an_interval_that_touches_zero_shows_nothing():
    spread = np.append(0.01, np.linspace(-0.01, 0.03, 200))
    assert claims.shows(Crossed(spread, 50, 1.0)) == "no difference shown"
    assert claims.shows(Crossed(spread + 0.05, 50, 1.0)) == "a gain"
    assert claims.shows(Crossed(spread - 0.05, 50, 1.0)) == "a loss"
