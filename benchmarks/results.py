"""Distilled students against their baselines over three seeds, on the phantom and on real X-rays; see docs/results.md.

    python -m benchmarks.results --xrays ROOT     # or `make results` for the phantom alone

Trains what is missing, in .cache/results/, keeps what came of it in benchmarks/outcomes/, and writes the tables of what
is complete. A killed run goes on; what is kept is not trained again: delete it, and it is.

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
import sys
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

from benchmarks.outcomes import FOLDER, Outcome, read_outcomes, write_outcomes
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
from medistill.training.checkpoint import fingerprint
from medistill.training.loop import training_rows
from pipeline.stage import keep_freed_memory

SEEDS = (0, 1, 2)
RESAMPLES = 2000
BOOTSTRAP_SEED = 0
BATCH_SIZE = 16

# Settings, chosen on validation; docs/results.md has the attempts, and what was known of the test side by then.


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
        unlabelled: images that the recipes `unlabelled` have more; without any there are no such recipes.
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
            recipes["unlabelled_t4"] = Recipe(teachers=[LITE2], terms=_system_b(4.0), unlabelled=True)
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

RECIPES = {
    ("phantom", LITE0): tuple(PLANS["phantom"].recipes),
    ("xrays", LITE0): tuple(PLANS["xrays"].recipes),
    ("xrays", EEEA): ("baseline", "baseline_fresh", "system_b"),
    ("phantom", EEEA): ("baseline", "baseline_fresh", "system_b", "unlabelled", "unlabelled_t4"),
}
"""By which each student is trained: EEEA-Net-C2, whose trainings are the longest, by what was chosen for it on
validation alone, and on the phantom by the other temperature, with and without more images."""

ORDER = [
    *((data, [student], recipes) for (data, student), recipes in RECIPES.items()),
    *((data, [], ()) for data in PLANS),
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
    # where there are no more epochs than views both baselines are one training
    same = not teachers and setting.params.training_of(network).epochs <= setting.params.teach.views
    return do(f"{job.network}-{'baseline' if same else job.recipe}", network, recipe, job.seed, teachers)


def _train(job: Job, xrays: Path | None) -> tuple[Job, float]:
    """Train a job in a process of its own; the seconds that it took."""
    torch.set_num_threads(1)
    keep_freed_memory()
    start = perf_counter()
    locate(job, xrays, train=True)
    return job, perf_counter() - start


def to_train(order: Order, xrays: Path | None) -> list[list[Job]]:
    """The jobs of each phase whose outcomes are not known, each model once, and their teachers where these are gone."""
    every = list(phases(order))
    models = {job: locate(job, xrays) for phase in every for job in phase}
    unknown = {job: model for job, model in models.items() if outcome_of(job, model, xrays) is None}
    asked = {teacher.folder for model in unknown.values() for teacher in model.teachers if not teacher.done}
    found: set[Path] = set()
    left: list[list[Job]] = []
    for phase in every:
        left.append([])
        for job in phase:
            folder = models[job].folder
            if folder not in found and (job in unknown or folder in asked):
                found.add(folder)
                left[-1].append(job)
    return left


def train_all(order: Order, xrays: Path | None, workers: int) -> None:
    """Train what is missing, with the time that is left after each model."""
    left = to_train(order, xrays)
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
        outcomes: of all seeds and folds.
    """

    seeds: list[int]
    macro: NDArray
    outcomes: list[Outcome]

    @property
    def val(self) -> float:
        """Validation macro AUROC, the mean over seeds and folds."""
        return float(np.mean([outcome.val for outcome in self.outcomes]))


def scores_of(data: str, network: str, recipe: str | None, truth: Truth, xrays: Path | None) -> Scores | None:
    """Measure what is complete; None where nothing is."""
    seeds, macro, found = [], [], []
    for seed in SEEDS:
        jobs = [Job(data, fold, network, recipe, seed) for fold in range(PLANS[data].folds)]
        outcomes = [outcome for job in jobs if (outcome := outcome_of(job, locate(job, xrays), xrays))]
        if len(outcomes) < len(jobs):
            continue
        logits = np.concatenate([outcome.logits for outcome in outcomes])
        split, columns = truth.split, truth.split.columns()
        auroc = foldwise_auroc(split.targets[:, columns], logits[:, columns], split.groups, truth.folds, split.counts)
        seeds.append(seed)
        macro.append(auroc.mean(axis=1))
        found += outcomes
    return Scores(seeds, np.array(macro), found) if seeds else None


@cache
def kept_of(data: str, network: str, recipe: str | None) -> tuple[Path, dict[str, Outcome]]:
    """The file of a network by a recipe, and what is in it."""
    file = FOLDER / data / f"{network}-{recipe or 'teacher'}.parquet"
    return file, read_outcomes(file)


def outcome_of(job: Job, model: Trained, xrays: Path | None) -> Outcome | None:
    """What is kept of a model, or what its folder says; None where there is neither."""
    _, kept = kept_of(job.data, job.network, job.recipe)
    if model.settings in kept or not model.done:
        return kept.get(model.settings)
    dataset, file = open_fold(job.data, job.fold, xrays), model.folder / "predictions.parquet"
    predicted = read_logits(file, model.folder.name, dataset.labels)
    logits = align(predicted, "test", dataset.split("test")["image_id"], file, model.folder.name)
    metrics, config = read_json(model.folder / "metrics.json"), read_json(model.folder / "config.json")
    return Outcome(
        settings=model.settings,
        code=fingerprint({}),
        initialisation=config["initialisation"].split(" (")[0],
        params=config["params"],
        macs=config["macs"],
        seconds=metrics["train_seconds"],
        val=metrics["val_macro_auroc"],
        logits=logits.astype(np.float32),
    )


def keep_outcomes(order: Order, xrays: Path | None) -> None:
    """Keep what is known of the models of today's settings."""
    known: dict[Path, list[tuple[int, int, Outcome]]] = {}
    for job in itertools.chain.from_iterable(phases(order)):
        if outcome := outcome_of(job, locate(job, xrays), xrays):
            file, _ = kept_of(job.data, job.network, job.recipe)
            known.setdefault(file, []).append((job.seed, job.fold, outcome))
    for file, outcomes in known.items():
        write_outcomes(file, outcomes)


# Tables


def interval(values: NDArray, *, sign: bool = False) -> str:
    """A figure (1 + R,) with its 95 % interval, as text."""
    figure = bootstrap.summarise(values)
    form = "{:+.3f}" if sign else "{:.3f}"
    text = form.format(figure.estimate)
    return text if figure.lower is None else f"{text} [{form.format(figure.lower)}, {form.format(figure.upper)}]"


HEADER = (
    "| model | taught by | initialisation | parameters | MACs | seeds | val macro AUROC | test macro AUROC "
    "| over seeds | difference to the better baseline | over seeds |\n|---|---|---|---:|---:|---:|---:|---|---|---|---|"
)


def row(title: str, taught_by: str, scores: Scores, base: Scores | None = None) -> str:
    """One row of the table; `base` is what it differs from."""
    difference = over_seeds = ""
    if base is not None:
        differences = paired(scores, base)
        difference = interval(differences.mean(axis=0), sign=True)
        over_seeds = f"{differences[:, 0].min():+.3f} … {differences[:, 0].max():+.3f}"
    single, any_one = scores.macro[:, 0], scores.outcomes[0]
    cells = (
        title,
        taught_by,
        any_one.initialisation,
        f"{any_one.params / 1e6:.2f} M",
        f"{any_one.macs / 1e6:.0f} M",
        str(len(scores.seeds)),
        f"{scores.val:.3f}",
        interval(scores.macro.mean(axis=0)),
        f"{single.min():.3f} … {single.max():.3f}",
        difference,
        over_seeds,
    )
    return f"| {' | '.join(cells)} |"


def paired(scores: Scores, reference: Scores) -> NDArray:
    """Difference by each seed that both have, on the data and in each resample: (seeds, 1 + R)."""
    both = [seed for seed in scores.seeds if seed in reference.seeds]
    own = [scores.macro[scores.seeds.index(seed)] for seed in both]
    other = [reference.macro[reference.seeds.index(seed)] for seed in both]
    return np.array(own) - np.array(other)


def student_block(
    student: str, measured: dict[str, Scores], teachers: dict[str, Scores], recipes: dict[str, Recipe]
) -> tuple[list[str], str]:
    """A student's rows, and what they say; baseline and recipe that are spoken of are chosen on validation."""
    baselines = [name for name in measured if not recipes[name].teachers]
    better = max(baselines, key=lambda name: (len(measured[name].seeds), measured[name].val))
    base = measured[better]
    rows = []
    for name, scores in measured.items():
        taught_by = ", ".join(recipes[name].teachers)
        rows.append(row(f"{student}, {name}", taught_by, scores, None if scores is base else base))
    says = []
    for unlabelled in (False, True):
        taught = [name for name in measured if recipes[name].teachers and recipes[name].unlabelled == unlabelled]
        most = max((len(measured[name].seeds) for name in taught), default=0)
        taught = [name for name in taught if len(measured[name].seeds) == most]
        if taught:
            chosen = max(taught, key=lambda name: measured[name].val)
            who = f"`{chosen}`" + (" (the best taught on validation)" if len(taught) > 1 else "")
            who += ", which has seen more images than the baseline," if unlabelled else ""
            teacher = recipes[chosen].teachers[0]
            says.append(f"{who} {_gain(measured[chosen], base, teacher, teachers.get(teacher))}")
    return rows, f"**{student}**, against `{better}`: {' '.join(says)}" if says else ""


def _gain(taught: Scores, base: Scores, name: str, teacher: Scores | None) -> str:
    """What a recipe has won on test, and what there was to win: the lead of its (first) teacher, by name."""
    gain = paired(taught, base).mean(axis=0)
    text = f"is {interval(gain, sign=True)}"
    if teacher is None or SEEDS[0] not in teacher.seeds:  # the one that taught
        return f"{text}."
    lead = teacher.macro[teacher.seeds.index(SEEDS[0])] - base.macro.mean(axis=0)
    text += f"; the lead of {name} is {interval(lead, sign=True)}"
    lower = bootstrap.summarise(lead).lower
    if lower is None or lower <= 0:
        return f"{text}."
    return f"{text}, {f'{gain[0] / lead[0]:.0%}' if gain[0] > 0 else 'nothing'} of it won back."


def results_of(data: str, xrays: Path | None) -> tuple[str, str] | None:
    """A data set's table and what it says, and the same in short, for the README; None where nothing is trained."""
    plan, truth = PLANS[data], truth_of(data, xrays)
    teachers = {name: scores for name in TEACHERS if (scores := scores_of(data, name, None, truth, xrays))}
    lines = [row(name, "", scores) for name, scores in teachers.items()]
    says, missing, complete = [], [], list(teachers.values())
    missing += [f"{name} ({_absent(teachers.get(name))})" for name in TEACHERS if _absent(teachers.get(name))]
    for student in STUDENTS:
        measured = {}
        for recipe in RECIPES[data, student]:
            scores = scores_of(data, student, recipe, truth, xrays)
            if scores:
                measured[recipe] = scores
                complete.append(scores)
            if absent := _absent(scores):
                missing.append(f"{student}, {recipe} ({absent})")
        if any(not plan.recipes[recipe].teachers for recipe in measured):
            rows, text = student_block(student, measured, teachers, plan.recipes)
            lines += rows
            says += [text] if text else []
    if not lines:
        return None
    split = truth.split
    skipped = "; ".join(f"{label} ({reason})" for label, reason in split.skipped.items()) or "none"
    where = f"{plan.folds}-fold cross-validation by patient" if plan.folds > 1 else "its own test side"
    models = {outcome.settings: outcome for scores in complete for outcome in scores.outcomes}.values()
    codes = sorted({outcome.code for outcome in models})
    facts = (
        f"{len(split.targets)} images of {len(split.counts)} patients to test ({where}), {plan.size} px. Mean over "
        f"{len(split.eligible)} labels; left out: {skipped}. {len(models)} models, trained for "
        f"{sum(outcome.seconds for outcome in models) / 60:.0f} minutes of one core by code {', '.join(codes)}. "
        f"Missing: {'; '.join(missing) or 'nothing'}."
    )
    epochs = ", ".join(f"{name} {count}" for name, count in plan.epochs.items())
    facts += f" Epochs: {epochs}. Views that are taught: {plan.views}."
    full = "\n".join([HEADER, *lines, "", *(f"{text}\n" for text in says), facts])
    short = "\n".join([_short_header(), *map(_short_row, lines), "", *(f"{text}\n" for text in says)])
    return full, short


_SHORT = (0, 1, 2, 3, 4, 5, 7, 9)
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
    try:
        if not arguments.no_training:
            train_all(order, arguments.xrays, arguments.workers)
    finally:  # a run that is interrupted leaves what it has
        keep_outcomes(order, arguments.xrays)
    kept_of.cache_clear()
    for data in dict.fromkeys(data for data, *_ in order):
        tables = results_of(data, arguments.xrays)
        if tables is None:
            print(f"{data}: nothing is trained with these settings and data; its table stays as it is", file=sys.stderr)
            continue
        full, short = tables
        write_between("docs/results.md", data, full)
        if data == "xrays":
            write_between("README.md", "results", short)
        print(full)


if __name__ == "__main__":
    main()
