"""Distilled students against their baselines over three seeds, on the phantom and on real X-rays; see docs/results.md.

    python -m benchmarks.results --xrays ROOT     # or `make results` for the phantom alone

Trains what is missing, in .cache/results/, and writes the tables of what is complete. A killed run goes on.

The X-rays are few, so each is tested once in five-fold cross-validation. The logits of two folds come from two
trainings and their levels differ, so that ranking them together would measure how well these happen to agree. An AUROC
is therefore the share of pairs *within a fold* in which the positive image ranks above the negative one: the mean of
the folds' AUROCs, each weighted by its number of pairs. Unlike their plain mean it is defined where a rare label is
absent from a fold, as it is in many bootstrap resamples, and a fold with one positive counts less than one with nine.
Ranks normalised within a fold would assume that folds have equally many positives. With one fold it is the usual AUROC.
"""

import argparse
import contextlib
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.page import write_between
from benchmarks.study import (
    BCE,
    DENSENET,
    EEEA,
    FOLDS,
    LITE0,
    LITE2,
    STUDENTS,
    TEACHERS,
    Setting,
    Trained,
    fold_of,
    network_of,
    open_phantom,
    open_xrays,
    read_params,
)
from medistill.config import Network, Recipe
from medistill.data.dataset import Dataset
from medistill.evaluation import bootstrap
from medistill.evaluation.comparison import Split
from medistill.evaluation.predictions import align, read_logits
from medistill.files import read_json
from medistill.training.loop import training_rows

SEEDS = (0, 1, 2)
RESAMPLES = 2000
BOOTSTRAP_SEED = 0
BATCH_SIZE = 16

# Settings, fixed on validation (table of attempts in docs/results.md) before any test figure was looked at.


def _system_b(temperature: float) -> list[dict]:
    """Weights of arXiv 2508.15251's kind, with a sigmoid for each label."""
    return [{"loss": BCE, "weight": 0.1}, {"loss": "sigmoid_kd", "weight": 0.9, "temperature": temperature}]


_SYSTEM_A = [{"loss": "focal_bce", "weight": 0.5}, {"loss": "mse_kd", "weight": 0.5, "temperature": 2.0}]


@dataclass(frozen=True)
class Plan:
    """One data set: sizes, and how long each network is trained.

    Attributes:
        data: `phantom` or `xrays`.
        folds: 1 for the data set's own sides.
        size: of the frames, in pixels.
        epochs: of each teacher and student, by name; where images without a label train as well, as many fewer as
            give as many steps.
        rates: peak learning rates, likewise.
        views: that teachers answer of each training image.
        temperature: of the recipes that are no paper's.
        unlabelled: images that the recipe `unlabelled` has more; without any there is no such recipe.
    """

    data: str
    folds: int
    size: int
    epochs: dict[str, int]
    rates: dict[str, float]
    views: int
    temperature: float
    unlabelled: int = 0

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        """How students are taught, by name."""
        terms, both = _system_b(self.temperature), [LITE2, DENSENET]
        recipes = {
            "baseline": Recipe(),
            "baseline_fresh": Recipe(views="fresh"),
            "system_a": Recipe(teachers=[LITE2], terms=_SYSTEM_A),
            "system_b": Recipe(teachers=[LITE2], terms=_system_b(4.0)),
            "system_b_t1": Recipe(teachers=[LITE2], terms=_system_b(1.0)),
            "by_densenet": Recipe(teachers=[DENSENET], terms=terms),
            "several": Recipe(teachers=both, combine="confidence", terms=terms),
            "cam": Recipe(teachers=[LITE2], terms=[*terms, {"loss": "cam_kd", "weight": 0.1}]),
        }
        if self.unlabelled:
            recipes["unlabelled"] = Recipe(teachers=[LITE2], terms=terms, unlabelled=True)
        return recipes


_RATES = {LITE2: 1e-3, DENSENET: 1e-3, LITE0: 1e-3, EEEA: 2e-3}

_NAMES = (LITE2, DENSENET, LITE0, EEEA)

PLANS = {
    "phantom": Plan(
        "phantom", 1, 96, dict(zip(_NAMES, (24, 24, 24, 96), strict=True)), _RATES, 8, temperature=1.0, unlabelled=2000
    ),
    "xrays": Plan("xrays", FOLDS, 96, dict(zip(_NAMES, (6, 8, 4, 8), strict=True)), _RATES, 4, temperature=4.0),
}
"""At 64 px both teachers are worse by several hundredths. EEEA-Net-C2 starts from nothing and needs more epochs."""

MORE = ("system_b_t1", "system_a", "by_densenet", "several", "cam")
ORDER = [
    ("phantom", STUDENTS, ("baseline", "baseline_fresh", "unlabelled")),
    ("xrays", STUDENTS, ("baseline", "baseline_fresh", "system_b")),
    ("phantom", STUDENTS, ("system_b", *MORE)),
    ("xrays", STUDENTS[:1], MORE),
    ("phantom", (), ()),
    ("xrays", (), ()),
    ("xrays", STUDENTS[1:], MORE),
]
"""What is trained first, so that a run that ends early leaves something whole: students by some recipes, seed by
seed, with the teachers that these need; or where there are none the teachers' other seeds, which teach nobody."""


# What is trained


@dataclass(frozen=True)
class Job:
    """One model of one fold; a teacher has no recipe."""

    data: str
    fold: int
    network: str
    recipe: str | None
    seed: int


Order = Sequence[tuple[str, Sequence[str], Sequence[str]]]


def phases(order: Order) -> Iterator[list[Job]]:
    """All jobs in order; those of a phase need only models of phases before it."""
    trained = set()
    for data, students, recipes in order:
        folds, made = range(PLANS[data].folds), PLANS[data].recipes
        if not students:
            yield [Job(data, fold, name, None, seed) for seed in SEEDS[1:] for fold in folds for name in TEACHERS]
            continue
        needed = {(data, name) for recipe in recipes for name in made[recipe].teachers} - trained
        yield [Job(data, fold, name, None, SEEDS[0]) for fold in folds for _, name in sorted(needed)]
        trained |= needed
        every = itertools.product(SEEDS, students, folds, recipes)
        yield [Job(data, fold, student, recipe, seed) for seed, student, fold, recipe in every]


@cache
def open_fold(data: str, fold: int, xrays: Path | None, *, unlabelled: bool = False) -> Dataset:
    """A data set with the sides of a fold."""
    plan = PLANS[data]
    if data == "phantom":
        return open_phantom(plan.size, plan.unlabelled if unlabelled else 0)
    return fold_of(open_xrays(xrays, plan.size), fold)


@cache
def setting_of(data: str, fold: int, name: str, xrays: Path | None, *, unlabelled: bool) -> tuple[Setting, Network]:
    """Data, parameters and network of a training."""
    plan, dataset = PLANS[data], open_fold(data, fold, xrays, unlabelled=unlabelled)
    share = len(training_rows(dataset, unlabelled=False)) / len(training_rows(dataset, unlabelled))
    epochs = round(plan.epochs[name] * share)
    params = read_params(training={"batch_size": BATCH_SIZE}, teach={"views": plan.views, "cams": True})
    place = f"{data}/{fold if plan.folds > 1 else 'own'}"
    return Setting(place, dataset, params), network_of(params, name, epochs, plan.rates[name])


def locate(job: Job, xrays: Path | None, *, train: bool = False) -> Trained:
    """Where a job's model is, trained first where `train` says so."""

    def prepared(name: str, *, unlabelled: bool = False) -> tuple[Setting, Network]:
        return setting_of(job.data, job.fold, name, xrays, unlabelled=unlabelled)

    if job.recipe is None:
        setting, network = prepared(job.network)
        return (setting.train_teacher if train else setting.teacher)(job.network, network, job.seed)
    recipe = PLANS[job.data].recipes[job.recipe]
    teachers = []
    for name in recipe.teachers:
        setting, network = prepared(name)
        teachers.append(setting.teacher(name, network, SEEDS[0]))
    setting, network = prepared(job.network, unlabelled=recipe.unlabelled)
    do = setting.train_student if train else setting.student
    return do(f"{job.network}-{job.recipe}", network, recipe, job.seed, teachers)


def _train(job: Job, xrays: Path | None) -> tuple[Job, float]:
    """Train a job in a process of its own; the seconds that it took."""
    torch.set_num_threads(1)
    start = perf_counter()
    locate(job, xrays, train=True)
    return job, perf_counter() - start


def train_all(order: Order, xrays: Path | None, workers: int) -> None:
    """Train what is missing, with the time that is left after each model."""
    left = [[job for job in phase if not locate(job, xrays).done] for phase in phases(order)]
    times: dict[tuple[str, str], list[float]] = {}
    begun, total = perf_counter(), sum(map(len, left))
    print(f"{total} models to train", flush=True)
    with contextlib.ExitStack() as stack:
        pool = (
            stack.enter_context(ProcessPoolExecutor(workers, mp_context=get_context("spawn"))) if workers > 1 else None
        )
        for number, phase in enumerate(left):
            for job, seconds in (pool.map if pool else map)(partial(_train, xrays=xrays), tuple(phase)):
                times.setdefault((job.data, job.network), []).append(seconds)
                phase.remove(job)
                rest = sum(_expected(other, times) for others in left[number:] for other in others) / workers
                print(
                    f"{(perf_counter() - begun) / 60:6.1f} min  {job.data} fold {job.fold} {job.network} "
                    f"{job.recipe or 'teacher'} seed {job.seed}: {seconds:.0f} s; "
                    f"{sum(map(len, left))} left, about {rest / 60:.0f} min",
                    flush=True,
                )


def _expected(job: Job, times: dict[tuple[str, str], list[float]]) -> float:
    """Seconds that a job will take: those of its like, or where there are none yet of all in proportion to epochs."""
    if (job.data, job.network) in times:
        return float(np.mean(times[job.data, job.network]))
    pace = [second / PLANS[data].epochs[network] for (data, network), seconds in times.items() for second in seconds]
    return float(np.mean(pace)) * PLANS[job.data].epochs[job.network]


# Statistics


def foldwise_auroc(targets: NDArray, scores: NDArray, groups: NDArray, folds: NDArray, counts: NDArray) -> NDArray:
    """AUROC of each label over pairs of images of one fold, in every resample: (1 + R, L), NaN where there is no pair.

    Args:
        targets: (N, L), 1, 0, or NaN where unknown.
        scores: (N, L), comparable within a fold.
        groups: (N,) int, 0..G-1.
        folds: (N,) the fold that tests each image.
        counts: (G, 1 + R), from `bootstrap.draw`.
    """
    won = np.zeros((counts.shape[1], targets.shape[1]))
    pairs = np.zeros_like(won)
    for fold in np.unique(folds):
        here = folds == fold
        drawn = counts[groups[here]].T.astype(np.float64)  # (1 + R, n)
        weight = (drawn @ (targets[here] == 1)) * (drawn @ (targets[here] == 0))
        auroc, _ = bootstrap.measure(targets[here], scores[here], groups[here], counts)
        won += np.where(weight > 0, weight * np.nan_to_num(auroc), 0)
        pairs += weight
    return np.divide(won, pairs, out=np.full_like(won, np.nan), where=pairs > 0)


@dataclass(frozen=True)
class Truth:
    """All tested images of a data set.

    Attributes:
        split: targets, patients and resamples of the pooled test sides, (N, …), fold after fold.
        folds: (N,) int.
    """

    split: Split
    folds: NDArray


def truth_of(data: str, xrays: Path | None) -> Truth:
    """Pool the test sides of all folds; a label is eligible by what is pooled."""
    sets = [open_fold(data, fold, xrays) for fold in range(PLANS[data].folds)]
    rows = [dataset.split("test") for dataset in sets]
    targets = np.concatenate([dataset.targets(part) for dataset, part in zip(sets, rows, strict=True)])
    groups = np.concatenate([part["group_id"].to_numpy() for part in rows])
    split = Split.of(sets[0].labels, targets, groups, RESAMPLES, BOOTSTRAP_SEED)
    return Truth(split, np.repeat(np.arange(len(sets)), [len(part) for part in rows]))


@dataclass(frozen=True)
class Scores:
    """One network by one recipe, or one teacher.

    Attributes:
        seeds: S of which all folds are trained.
        macro: test macro AUROC of each on the data themselves and in each resample, (S, 1 + R).
        val: validation macro AUROC, the mean over seeds and folds.
        config: one model's config.json.
        seconds: of all trainings.
    """

    seeds: list[int]
    macro: NDArray
    val: float
    config: dict
    seconds: float


def scores_of(data: str, network: str, recipe: str | None, truth: Truth, xrays: Path | None) -> Scores | None:
    """Measure what is complete; None where nothing is."""
    seeds, macro, val, seconds = [], [], [], 0.0
    config: dict = {}
    for seed in SEEDS:
        jobs = [Job(data, fold, network, recipe, seed) for fold in range(PLANS[data].folds)]
        models = [locate(job, xrays) for job in jobs]
        if not all(model.done for model in models):
            continue
        logits = []
        for job, model in zip(jobs, models, strict=True):
            dataset, file = open_fold(data, job.fold, xrays), model.folder / "predictions.parquet"
            predicted = read_logits(file, model.folder.name, dataset.labels)
            logits.append(align(predicted, "test", dataset.split("test")["image_id"], file, model.folder.name))
            metrics = read_json(model.folder / "metrics.json")
            val.append(metrics["val_macro_auroc"])
            seconds += metrics["train_seconds"]
        config = read_json(models[0].folder / "config.json")
        split, columns = truth.split, truth.split.columns()
        auroc = foldwise_auroc(
            split.targets[:, columns], np.concatenate(logits)[:, columns], split.groups, truth.folds, split.counts
        )
        seeds.append(seed)
        macro.append(auroc.mean(axis=1))
    return Scores(seeds, np.array(macro), float(np.mean(val)), config, seconds) if seeds else None


# Tables


def interval(values: NDArray, *, sign: bool = False) -> str:
    """A figure (1 + R,) with its 95 % interval, as text."""
    figure = bootstrap.summarise(values)
    form = "{:+.3f}" if sign else "{:.3f}"
    text = form.format(figure.estimate)
    return text if figure.lower is None else f"{text} [{form.format(figure.lower)}, {form.format(figure.upper)}]"


HEADER = (
    "| model | taught by | initialisation | parameters | MACs | seeds | val macro AUROC | test macro AUROC "
    "| over seeds | difference to the better baseline |\n|---|---|---|---:|---:|---:|---:|---|---|---|"
)


def row(title: str, taught_by: str, scores: Scores, difference: str) -> str:
    """One row of the table."""
    single = scores.macro[:, 0]
    cells = (
        title,
        taught_by,
        scores.config["initialisation"].split(" (")[0],
        f"{scores.config['params'] / 1e6:.2f} M",
        f"{scores.config['macs'] / 1e6:.0f} M",
        str(len(scores.seeds)),
        f"{scores.val:.3f}",
        interval(scores.macro.mean(axis=0)),
        f"{single.min():.3f} … {single.max():.3f}",
        difference,
    )
    return f"| {' | '.join(cells)} |"


def paired(scores: Scores, reference: Scores) -> NDArray:
    """Mean over the seeds that both have of their difference, on the data and in each resample: (1 + R,)."""
    both = [seed for seed in scores.seeds if seed in reference.seeds]
    own = [scores.macro[scores.seeds.index(seed)] for seed in both]
    other = [reference.macro[reference.seeds.index(seed)] for seed in both]
    return (np.array(own) - np.array(other)).mean(axis=0)


def student_block(
    student: str, measured: dict[str, Scores], teachers: dict[str, Scores], recipes: dict[str, Recipe]
) -> tuple[list[str], str]:
    """A student's rows, and what they say; baseline and recipe that are spoken of are chosen on validation."""
    baselines = [name for name in measured if not recipes[name].teachers]
    better = max(baselines, key=lambda name: (len(measured[name].seeds), measured[name].val))
    base = measured[better]
    rows = []
    for name, scores in measured.items():
        difference = "" if scores is base else interval(paired(scores, base), sign=True)
        rows.append(row(f"{student}, {name}", ", ".join(recipes[name].teachers), scores, difference))
    says = []
    for unlabelled in (False, True):
        taught = [name for name in measured if recipes[name].teachers and recipes[name].unlabelled == unlabelled]
        most = max((len(measured[name].seeds) for name in taught), default=0)
        taught = [name for name in taught if len(measured[name].seeds) == most]
        if taught:
            chosen = max(taught, key=lambda name: measured[name].val)
            who = f"`{chosen}`" + (" (the best taught on validation)" if len(taught) > 1 else "")
            who += ", which has seen more images than the baseline," if unlabelled else ""
            says.append(f"{who} {_gain(measured[chosen], base, teachers[recipes[chosen].teachers[0]])}")
    return rows, f"**{student}**, against `{better}`: {' '.join(says)}" if says else ""


def _gain(taught: Scores, base: Scores, teacher: Scores) -> str:
    """What a recipe has won on test, and what there was to win."""
    gain = paired(taught, base)
    lead = teacher.macro[teacher.seeds.index(SEEDS[0])] - base.macro.mean(axis=0)
    text = f"is {interval(gain, sign=True)}; the lead of its teacher is {interval(lead, sign=True)}"
    lower = bootstrap.summarise(lead).lower
    if lower is None or lower <= 0:
        return f"{text}."
    return f"{text}, {f'{gain[0] / lead[0]:.0%}' if gain[0] > 0 else 'nothing'} of it won back."


def results_of(data: str, xrays: Path | None) -> tuple[str, str]:
    """A data set's table and what it says; and the same in short, for the README."""
    plan, truth = PLANS[data], truth_of(data, xrays)
    teachers = {name: scores for name in TEACHERS if (scores := scores_of(data, name, None, truth, xrays))}
    lines = [row(name, "", scores, "") for name, scores in teachers.items()]
    says, missing, seconds = [], [], sum(scores.seconds for scores in teachers.values())
    missing += [f"{name} ({_absent(teachers.get(name))})" for name in TEACHERS if _absent(teachers.get(name))]
    for student in STUDENTS:
        measured = {}
        for recipe in plan.recipes:
            scores = scores_of(data, student, recipe, truth, xrays)
            if scores:
                measured[recipe] = scores
                seconds += scores.seconds
            if absent := _absent(scores):
                missing.append(f"{student}, {recipe} ({absent})")
        if any(not plan.recipes[recipe].teachers for recipe in measured):
            rows, text = student_block(student, measured, teachers, plan.recipes)
            lines += rows
            says += [text] if text else []
    split = truth.split
    skipped = "; ".join(f"{label} ({reason})" for label, reason in split.skipped.items()) or "none"
    where = f"{plan.folds}-fold cross-validation by patient" if plan.folds > 1 else "its own test side"
    facts = (
        f"{len(split.targets)} images of {len(split.counts)} patients to test ({where}), {plan.size} px. Mean over "
        f"{len(split.eligible)} labels; left out: {skipped}. Trained for {seconds / 60:.0f} minutes of one core. "
        f"Missing: {'; '.join(missing) or 'nothing'}."
    )
    epochs = ", ".join(f"{name} {count}" for name, count in plan.epochs.items())
    facts += f" Epochs: {epochs}. Views that are taught: {plan.views}."
    full = "\n".join([HEADER, *lines, "", *(f"{text}\n" for text in says), facts])
    short = "\n".join([_short_header(), *map(_short_row, lines), "", *(f"{text}\n" for text in says)])
    return full, short


_SHORT = (0, 1, 3, 5, 7, 9)
"""Columns of the README's table."""


def _short_row(line: str) -> str:
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    return f"| {' | '.join(cells[column] for column in _SHORT)} |"


def _short_header() -> str:
    return "\n".join(_short_row(line) for line in HEADER.splitlines())


def _absent(scores: Scores | None) -> str:
    """Seeds that are not complete, as text."""
    seeds = [seed for seed in SEEDS if scores is None or seed not in scores.seeds]
    return f"seed {', '.join(map(str, seeds))}" if seeds else ""


def main() -> None:
    """Train what is missing and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--xrays", type=Path, help="folder of the X-rays, in the layout of ChestX-ray14")
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--no-training", action="store_true", help="write the tables of what is there")
    arguments = parser.parse_args()
    order = [item for item in ORDER if item[0] != "xrays" or arguments.xrays]
    if not arguments.no_training:
        train_all(order, arguments.xrays, arguments.workers)
    for data in dict.fromkeys(data for data, *_ in order):
        full, short = results_of(data, arguments.xrays)
        write_between("docs/results.md", data, full)
        if data == "phantom":
            write_between("README.md", "results", short)
        print(full)


if __name__ == "__main__":
    main()
