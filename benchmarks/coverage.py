"""How often 95 % intervals hold the truth: `python -m benchmarks.coverage` writes the tables of docs/intervals.md.

Labels: patients are drawn with replacement from real label tables, with all their images, and given scores whose true
AUROC and average precision are known. Hits: patients have findings, and a known share of these is hit. For each data
set it is noted whether the interval of each figure contains the true value.

The phantom is drawn if it is not there; the X-rays' label files must be at hand (`--data`, or MEDISTILL_TEST_DATA).
"""

import argparse
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special
from tqdm import tqdm

from benchmarks.page import write_between
from benchmarks.study import open_phantom, open_xrays
from medistill.metrics.abstention import LEVELS, measure_abstention
from medistill.metrics.bootstrap import draw, leave_out, resample
from medistill.metrics.classification import measure_classes
from medistill.metrics.eligibility import fewer_groups, ineligibility
from medistill.metrics.intervals import centred, summarise
from medistill.metrics.means import GroupedMean, paired_interval, share_interval
from medistill.metrics.probabilities import FIGURES as PROBABILITIES
from medistill.metrics.probabilities import measure_probabilities
from medistill.metrics.ranking import measure_ranking
from medistill.metrics.strata import ineligibility_within, measure_within
from medistill.records.estimate import Estimate

ROOT = Path(__file__).resolve().parents[1]
RESAMPLES = 1000
BLOCK = 25
"""Number of data sets that a process simulates at a time."""

OWN = 0.4
"""Share of a score's variance, given the label, that all images of a patient have in common."""
CORRELATION = 0.8
"""Correlation of two models' scores, given the label."""
AUROCS = (0.65, 0.90)
"""True AUROC of the first and of the last label; others lie between."""
LEAD = 0.02
"""By how much the first model's true AUROC of each label is above the second's."""
BINS = {"10–14": 10, "15–29": 15, "30–99": 30, "100 or more": 100}
"""Bins of labels by a data set's mean number of positives: the lower bound of each."""

FIGURES = {
    "macro AUROC": "expanded (percentile)",
    "macro AUROC, difference": "expanded (percentile)",
    "macro AUPRC, difference": "expanded (percentile)",
    "label AUROC": "expanded (percentile)",
    "label AUROC, difference": "expanded (percentile)",
    "label AUPRC": "expanded (reflected)",
}
"""Figures and their interval; in brackets another interval, which the table shows beside it."""

JUDGED = {
    "Brier score": "brier",
    "log loss": "log_loss",
    "slope": "calibration_slope",
    "intercept": "calibration_intercept",
    "O/E": "observed_expected",
}
"""Figures of probabilities, by their name in `metrics.probabilities`."""
MORE = {
    "macro AUPRC": "jackknife (reflected)",
    **{f"macro {name}": "expanded (percentile)" for name in ("AUROC within strata", *JUDGED, "AURC")},
    **{f"{name} of a label": "expanded (percentile)" for name in ("AUROC within strata", *JUDGED, "AURC")},
}
"""The same of macro AUPRC, of figures of probabilities and of pairs within strata."""
HIGHER = 1.5
"""By how many standard deviations of a score all scores of the second stratum are higher."""

CLASSES = (0.55, 0.25, 0.15, 0.05)
"""Shares of exclusive classes."""
CLASS_FIGURES = {"accuracy": 0, "balanced accuracy": 1, "macro F1": 2, "MCC": 3, "quadratic kappa": 4}
"""Their figures, by the place in `metrics.classification.FIGURES`."""
CLASS_PATIENTS = (60, 200, 600)
TRUTH_PATIENTS = 1_000_000
"""Patients whose figures are taken for the truth."""

COUNTS, RATES = (10, 20, 42), (0.03, 0.1, 0.3)
"""Numbers of patients with findings, and shares of findings that are hit."""
LIKE = 0.3
"""Correlation of hits among a patient's findings."""

MIN_RUNS = 100
"""A cell of a table stays empty with fewer data sets than these."""

Noted = tuple[str, int, bool, bool, float, float]
"""A row of the table, a data set, whether the interval and the one beside it contain the true value, their widths."""


# Labels


@dataclass(frozen=True)
class Population:
    """A table of images from which patients are drawn.

    Attributes:
        name: for the head of the table.
        targets: (N, L), 1 or 0, the images of a patient side by side.
        starts: (P + 1,), where each patient's images begin.
        patients: number of patients in a data set.
    """

    name: str
    targets: NDArray
    starts: NDArray
    patients: int

    @classmethod
    def of(cls, name: str, targets: NDArray, owners: pd.Series, patients: int) -> "Population":
        """Build it from the labels (N, L) and patients (N,) of N images."""
        codes, _ = pd.factorize(owners)
        order = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[order], np.arange(codes.max() + 2))
        return cls(f"{name}, {patients} patients", targets[order], starts, patients)

    def draw(self, generator: np.random.Generator) -> tuple[NDArray, NDArray]:
        """Labels (n, L) and patients (n,) of a data set."""
        drawn = generator.integers(len(self.starts) - 1, size=self.patients)
        rows = [np.arange(self.starts[k], self.starts[k + 1]) for k in drawn]
        return self.targets[np.concatenate(rows)], np.repeat(np.arange(self.patients), [len(own) for own in rows])

    def draw_eligible(self, run: int, seed: int) -> tuple[np.random.Generator, NDArray, NDArray, list[int]]:
        """The generator, labels (n, L), patients (n,) and indices of eligible labels of a data set."""
        generator = np.random.default_rng([seed, run])
        targets, groups = self.draw(generator)
        return generator, targets, groups, [k for k, own in enumerate(targets.T) if not ineligibility(own, groups)]

    def bins(self) -> list[str | None]:
        """The bin of `BINS` of each label; None below the first."""
        expected = self.targets.sum(axis=0) * self.patients / (len(self.starts) - 1)
        return [next((name for name in reversed(BINS) if count >= BINS[name]), None) for count in expected]


@cache
def populations(data: Path) -> list[Population]:
    """The columns of the table."""
    phantom, xrays = open_phantom(96), open_xrays(data / "nih1000_256", 96)
    table = pd.read_csv(data / "nih_label_files" / "Data_Entry_2017_v2020.csv.gz")
    whole = table["Finding Labels"].str.get_dummies("|").drop(columns="No Finding").to_numpy()
    own, others = (set_.targets(set_.manifest) for set_ in (phantom, xrays))
    return [
        *(Population.of("phantom", own, phantom.manifest["group_id"], count) for count in (65, 178)),
        Population.of("1,000 X-rays", others, xrays.manifest["group_id"], 682),
        *(Population.of("ChestX-ray14", whole, table["Patient ID"], count) for count in (140, 280)),
    ]


@cache
def true_precision(prevalence: float, separation: float) -> float:
    """Average precision of infinitely many images, where positives score N(separation, 1) and negatives N(0, 1)."""
    thresholds = np.linspace(10, -10, 20_001)
    hits, alarms = special.ndtr(separation - thresholds), special.ndtr(-thresholds)
    return float(np.trapezoid(prevalence * hits / (prevalence * hits + (1 - prevalence) * alarms), hits))


def scores_of(
    targets: NDArray, groups: NDArray, separations: NDArray, generator: np.random.Generator
) -> tuple[NDArray, NDArray]:
    """Scores (n, L) of two models, whose positives are `separations` (2, L) above the negatives."""

    def noise() -> NDArray:
        own = generator.normal(size=(groups.max() + 1, targets.shape[1]))[groups]
        return np.sqrt(OWN) * own + np.sqrt(1 - OWN) * generator.normal(size=targets.shape)

    first = noise()
    second = CORRELATION * first + np.sqrt(1 - CORRELATION**2) * noise()
    return first + separations[0] * targets, second + separations[1] * targets


def label_rows(population: Population, run: int, seed: int) -> Iterator[Noted]:
    """Draw a data set; for each figure, whether its interval contains the true value."""
    labels = population.targets.shape[1]
    auroc = np.array([np.linspace(*AUROCS, labels), np.linspace(*AUROCS, labels) - LEAD])
    separations = np.sqrt(2) * special.ndtri(auroc)
    rates = population.targets.mean(axis=0)
    precision = np.array([[true_precision(*pair) for pair in zip(rates, row, strict=True)] for row in separations])

    generator, targets, groups, chosen = population.draw_eligible(run, seed)
    if not chosen:
        return
    counts = draw(population.patients, RESAMPLES, run)
    both = [
        measure_ranking(targets[:, chosen], scores[:, chosen], groups, counts)
        for scores in scores_of(targets, groups, separations, generator)
    ]
    first, second = ({"AUROC": area, "AUPRC": mean} for area, mean in both)
    for name, true in {"AUROC": auroc[:, chosen], "AUPRC": precision[:, chosen]}.items():
        values, lead = first[name].mean(axis=1), (first[name] - second[name]).mean(axis=1)
        if name == "AUROC":
            yield _noted(f"macro {name}", run, true[0].mean(), summarise(values, counts), summarise(values))
        paired, plain = (summarise(lead, drawn, difference=True) for drawn in (counts, None))
        yield _noted(f"macro {name}, difference", run, (true[0] - true[1]).mean(), paired, plain)
    bins = population.bins()
    for j, k in enumerate(chosen):
        if bins[k] is None:
            continue
        few, of = fewer_groups(targets[:, k], groups), f" ({bins[k]} positives)"
        own, mean = first["AUROC"][:, j], first["AUPRC"][:, j]
        lead = own - second["AUROC"][:, j]
        yield _noted("label AUROC" + of, run, auroc[0, k], summarise(own, counts, groups=few), summarise(own))
        expanded = summarise(lead, counts, groups=few, difference=True)
        yield _noted("label AUROC, difference" + of, run, LEAD, expanded, summarise(lead, difference=True))
        yield _noted("label AUPRC" + of, run, precision[0, k], summarise(mean, counts, groups=few), _reflected(mean))


def _noted(row: str, run: int, true: float, used: Estimate, beside: Estimate) -> Noted:
    held = (bool(found.lower <= true <= found.upper) for found in (used, beside))
    return row, run, *held, *(found.upper - found.lower for found in (used, beside))


def _reflected(values: NDArray) -> Estimate:
    """The percentile interval mirrored about the estimate (the basic bootstrap)."""
    plain = summarise(values)
    return replace(plain, lower=2 * values[0] - plain.upper, upper=2 * values[0] - plain.lower)


# Probabilities, strata, macro AUPRC


@cache
def true_losses(rate: float, separation: float) -> tuple[float, float]:
    """Brier score and log loss of the true probabilities of infinitely many images, scored as in `true_precision`."""
    scores = np.linspace(-10, 10 + separation, 40_001)
    given = probability(scores, rate, separation)
    present, absent = (
        density * np.exp(-((scores - at) ** 2) / 2) / np.sqrt(2 * np.pi)
        for density, at in ((rate, separation), (1 - rate, 0))
    )
    brier = np.trapezoid(present * (1 - given) ** 2 + absent * given**2, scores)
    return float(brier), float(np.trapezoid(-present * np.log(given) - absent * np.log1p(-given), scores))


@cache
def true_abstention(rate: float, separation: float) -> float:
    """Area under the risk–coverage curve of the true probabilities of infinitely many images, called at one half."""
    scores = np.linspace(-10, 10 + separation, 40_001)
    given = probability(scores, rate, separation)
    density = rate * np.exp(-((scores - separation) ** 2) / 2) + (1 - rate) * np.exp(-(scores**2) / 2)
    surest = np.argsort(-np.abs(given - 0.5), kind="stable")
    kept = np.cumsum(density[surest])
    risks = np.cumsum((density * np.minimum(given, 1 - given))[surest]) / kept
    return float(np.interp(np.arange(1, LEVELS + 1) / LEVELS, kept / kept[-1], risks).mean())


def probability(scores: NDArray, rate: NDArray | float, separation: NDArray | float) -> NDArray:
    """The probability of a positive at a score, where positives score N(separation, 1) and negatives N(0, 1)."""
    return special.expit(separation * scores - separation**2 / 2 + special.logit(rate))


def more_rows(population: Population, run: int, seed: int) -> Iterator[Noted]:
    """Draw a data set with the true probabilities; whether the intervals of `MORE` contain the true values."""
    labels, rates = population.targets.shape[1], population.targets.mean(axis=0)
    auroc = np.linspace(*AUROCS, labels)
    separations = np.sqrt(2) * special.ndtri(auroc)
    generator, targets, groups, chosen = population.draw_eligible(run, seed)
    if not chosen:
        return
    counts = draw(population.patients, RESAMPLES, run)
    scores = scores_of(targets, groups, np.stack([separations, separations]), generator)[0]
    few, bins = [fewer_groups(column, groups) for column in targets.T], population.bins()
    precision = np.mean([true_precision(rates[k], separations[k]) for k in chosen])
    wanted = targets[:, chosen], scores[:, chosen], groups
    left_out = measure_ranking(*wanted, leave_out(population.patients))[1].mean(axis=1)
    used = centred(left_out, min(few[k] for k in chosen))
    yield _noted("macro AUPRC", run, precision, used, _reflected(measure_ranking(*wanted, counts)[1].mean(axis=1)))

    true = {k: (*true_losses(rates[k], separations[k]), 1, 0, 1) for k in chosen}
    given = {k: probability(scores[:, k], rates[k], separations[k]) for k in chosen}
    judged = {k: measure_probabilities(targets[:, k], given[k], groups, counts) for k in chosen}
    places = {name: PROBABILITIES.index(key) for name, key in JUDGED.items()}
    found = {name: {k: (true[k][at], judged[k][at]) for k in chosen} for name, at in places.items()}
    sure = {k: np.abs(given[k] - 0.5) for k in chosen}
    wrong = {k: ((given[k] > 0.5) != (targets[:, k] == 1)).astype(float) for k in chosen}
    found["AURC"] = {
        k: (true_abstention(rates[k], separations[k]), measure_abstention(wrong[k], sure[k], groups, counts))
        for k in chosen
    }

    strata = generator.integers(0, 2, population.patients)[groups]
    paired = [k for k in chosen if not ineligibility_within(targets[:, k], groups, strata)]
    if paired:
        moved = scores[:, paired] + HIGHER * strata[:, None]
        within = measure_within(targets[:, paired], moved, groups, strata, counts)
        found["AUROC within strata"] = {k: (auroc[k], within[:, j]) for j, k in enumerate(paired)}
    for name, by_label in found.items():
        means = [np.mean(each, axis=0) for each in zip(*by_label.values(), strict=True)]
        interval = summarise(means[1], counts)
        if interval.lower is not None:
            yield _noted(f"macro {name}", run, means[0], interval, summarise(means[1]))
        for k, (expected, values) in by_label.items():
            used = summarise(values, counts, groups=few[k])
            if bins[k] is not None and used.lower is not None:
                yield _noted(f"{name} of a label ({bins[k]} positives)", run, expected, used, summarise(values))


# Exclusive classes


def draw_classes(patients: int, generator: np.random.Generator) -> tuple[NDArray, NDArray, NDArray]:
    """One-hot classes (n, L), scores (n, L) and patients (n,), who have one to several images of any class."""
    groups = np.repeat(np.arange(patients), 1 + generator.poisson(1.0, patients))
    truth = generator.choice(len(CLASSES), len(groups), p=CLASSES)
    targets = np.eye(len(CLASSES))[truth]
    own = generator.normal(size=(patients, len(CLASSES)))[groups]
    noise = np.sqrt(OWN) * own + np.sqrt(1 - OWN) * generator.normal(size=targets.shape)
    return targets, 1.5 * targets + np.log(CLASSES) / 2 + noise, groups


@cache
def true_figures() -> NDArray:
    """The figures of `CLASS_FIGURES` of very many patients."""
    targets, scores, groups = draw_classes(TRUTH_PATIENTS, np.random.default_rng(0))
    everyone = np.ones((len(np.unique(groups)), 1), int)
    return measure_classes(targets, scores, groups, everyone, np.arange(len(CLASSES)))[:, 0]


def class_rows(patients: int, run: int, seed: int) -> Iterator[Noted]:
    """Draw patients; whether the intervals of `CLASS_FIGURES` contain the true values."""
    targets, scores, groups = draw_classes(patients, np.random.default_rng([seed, run]))
    counts = draw(patients, RESAMPLES, run)
    values = measure_classes(targets, scores, groups, counts, np.arange(len(CLASSES)))
    for name, place in CLASS_FIGURES.items():
        interval = summarise(values[place], counts)
        if interval.lower is not None:
            yield _noted(name, run, true_figures()[place], interval, summarise(values[place]))


# Hits


def hits_of(patients: int, rate: float | None, generator: np.random.Generator) -> tuple[NDArray, NDArray, NDArray]:
    """Whether each finding is hit (n,), the chance of a hit (n,), and its patient (n,).

    Args:
        patients: number of patients, with one or more findings each; `LIKE` is the correlation of their hits.
        rate: share of findings that are hit; None: each is hit with its chance.
        generator: of random numbers.
    """
    groups = np.repeat(np.arange(patients), 1 + generator.poisson(1.2, patients))
    chance = generator.uniform(0.02, 0.18, len(groups))
    own, alike = generator.random(len(groups)), generator.random(len(groups)) < np.sqrt(LIKE)
    shared = generator.random(patients)[groups]
    hits = np.where(alike, shared, own) < (chance if rate is None else rate)
    return hits.astype(float), chance, groups


def hit_rows(patients: int, run: int, seed: int) -> Iterator[Noted]:
    """Draw findings of each rate; whether their intervals contain the true value."""
    generator = np.random.default_rng([seed, run])
    for rate in RATES:
        hits, _, groups = hits_of(patients, rate, generator)
        yield _noted(
            f"share of hits ({100 * rate:.0f} %)", run, rate, share_interval(hits, groups), _plain(hits, groups)
        )
    hits, chance, groups = hits_of(patients, None, generator)
    used, plain = paired_interval(hits, chance, groups), _plain(hits, groups)
    # the former interval: that of the hits, minus the mean chance as if it were known exactly
    shifted = replace(plain, lower=plain.lower - chance.mean(), upper=plain.upper - chance.mean())
    yield _noted("share of hits − chance (0)", run, 0, used, shifted)


def _plain(values: NDArray, groups: NDArray) -> Estimate:
    """The percentile interval of a mean."""
    count = groups.max() + 1
    means = resample(GroupedMean.of(values, groups, count).measure, draw(count, RESAMPLES))
    return Estimate(means[0], *np.quantile(means[1:], [0.025, 0.975]))


# Tables


def block(rows: Callable[[int], Iterator[Noted]], start: int) -> list[Noted]:
    """The notes on `BLOCK` data sets."""
    return [noted for run in range(start, start + BLOCK) for noted in rows(run)]


def table(head: str, columns: dict[str, pd.DataFrame], beside: Callable[[str], str]) -> str:
    """Coverage in % ± its Monte Carlo error, and of the interval beside: figures in rows, populations in columns.

    The last column is the mean width over that of the interval beside, from the least to the most of the populations.
    """
    names = list(dict.fromkeys(row for frame in columns.values() for row in frame["row"]))
    lines = [f"| {head} | interval | {' | '.join(columns)} | width |", f"|---|---|{'---|' * len(columns)}---|"]
    for name in sorted(names, key=_order):
        rows = [frame[frame["row"] == name] for frame in columns.values()]
        shown = [frame for frame in rows if frame["run"].nunique() >= MIN_RUNS]
        wider = [frame["width"].mean() / frame["width beside"].mean() for frame in shown]
        if not shown:
            continue
        cells = [_cell(frame) for frame in rows]
        lines.append(f"| {name} | {beside(name)} | {' | '.join(cells)} | {min(wider):.2f}–{max(wider):.2f} |")
    return "\n".join(lines)


def _order(name: str) -> tuple[int, int]:
    """Means over labels first, then figures of a label from rare to frequent."""
    figure, _, rest = name.partition(" (")
    known = [*FIGURES, *MORE, *CLASS_FIGURES]
    return known.index(figure) if figure in known else 0, [*map(rest.startswith, BINS), True].index(True)


def _cell(found: pd.DataFrame) -> str:
    if found["run"].nunique() < MIN_RUNS:
        return ""
    by_run = found.groupby("run")["used"].agg(["sum", "size"])
    share = found["used"].mean()
    # labels of one data set are not independent, so the error is computed from the spread over data sets
    error = np.sqrt(np.square(by_run["sum"] - share * by_run["size"]).sum()) / by_run["size"].sum()
    return f"{100 * share:.1f} ± {100 * error:.1f} ({100 * found['beside'].mean():.1f})"


def main() -> None:
    """Simulate and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.environ.get("MEDISTILL_TEST_DATA") or ROOT.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=default, help="folder with nih1000_256 and nih_label_files")
    parser.add_argument("--runs", type=int, default=1000, help="data sets of each column")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--table", choices=["labels", "hits", "more", "classes"], help="write this one alone")
    arguments = parser.parse_args()
    people = populations(arguments.data)
    seeds = iter(range(100))
    jobs = {"labels": {one.name: partial(label_rows, one, seed=next(seeds)) for one in people}}
    jobs["hits"] = {f"{count} patients": partial(hit_rows, count, seed=next(seeds)) for count in COUNTS}
    jobs["more"] = {one.name: partial(more_rows, one, seed=next(seeds)) for one in people}
    jobs["classes"] = {f"{count} patients": partial(class_rows, count, seed=next(seeds)) for count in CLASS_PATIENTS}
    for name in [arguments.table] if arguments.table else jobs:
        found = simulate(jobs[name], arguments.runs, arguments.workers)
        runs = -(-arguments.runs // BLOCK) * BLOCK
        note = f"{runs:,} data sets a column, {RESAMPLES:,} resamples each."
        text = f"{table('figure', found, KINDS[name])}\n\n{note}"
        write_between("docs/intervals.md", f"coverage of {name}", text)
        print(text)


KINDS: dict[str, Callable[[str], str]] = {
    "labels": lambda name: FIGURES[name.partition(" (")[0]],
    "hits": lambda name: "paired (against a constant)" if "−" in name else "Wilson (percentile)",
    "more": lambda name: MORE[name.partition(" (")[0]],
    "classes": lambda name: "expanded (percentile)",
}
"""The interval of a row, and in brackets the one beside it, by table."""


def simulate(jobs: dict[str, Callable[[int], Iterator[Noted]]], runs: int, workers: int) -> dict[str, pd.DataFrame]:
    """The notes on all data sets of each column."""
    noted: dict[str, list[Noted]] = {name: [] for name in jobs}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        starts = range(0, runs, BLOCK)
        todo = [(name, pool.submit(block, rows, start)) for name, rows in jobs.items() for start in starts]
        for name, future in tqdm(todo, unit="block", disable=None):
            noted[name] += future.result()
    return {
        name: pd.DataFrame(rows, columns=["row", "run", "used", "beside", "width", "width beside"])
        for name, rows in noted.items()
    }


if __name__ == "__main__":
    main()
