"""The figures of each model of `benchmarks.results`, computed from its kept logits.

The X-rays are few, so each is tested once in five-fold cross-validation. The logits of two folds come from two
trainings and their levels differ, so that ranking them together would measure how well the levels agree. An AUROC
is therefore the share of pairs *within a fold* in which the positive image ranks above the negative one: the mean of
the folds' AUROCs, each weighted by its number of pairs. Unlike their plain mean it is defined where a rare label is
absent from a fold, as in many bootstrap resamples, and a fold with one positive counts less than one with nine.
Ranks normalised within a fold would assume that folds have equally many positives. With one fold it is the usual AUROC.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from benchmarks.outcomes import FOLDER, Outcome, read_outcomes
from benchmarks.plans import OLDER, PLANS, RECIPES, Job, Plan, locate, open_fold
from benchmarks.sets import SETS
from benchmarks.study import Trained
from medistill.checksums import TRAIN_AGAIN
from medistill.data.dataset import Dataset
from medistill.evaluation.answers import Split
from medistill.evaluation.predictions import align, read_logits
from medistill.layout import ModelFolder
from medistill.metrics.bootstrap import RESAMPLES
from medistill.metrics.eligibility import ineligibility
from medistill.metrics.intervals import CONFIDENCE, holm, p_value
from medistill.metrics.ranking import auroc
from medistill.metrics.strata import NO_STRATUM, StratifiedLabel, ineligibility_within, measure_within
from medistill.records.models import ModelRecord, TrainingMetrics
from medistill.training.spec import fingerprint

BOOTSTRAP_SEED = 0

Interval = tuple[float, float]


@dataclass(frozen=True)
class Truth:
    """All tested images of a data set.

    Attributes:
        split: targets, patients and resamples of the pooled test splits, (N, …), fold after fold.
        folds: (N,) int.
        val_labels: for each fold, the labels (columns) that enter its validation macro AUROC.
        strata: (N,) int, the data set's stratum of each image, −1 for none; None: it has no strata.
    """

    split: Split
    folds: NDArray
    val_labels: list[list[int]]
    strata: NDArray | None = None

    def auroc(
        self, logits: NDArray, columns: Sequence[int], rows: NDArray | None = None, targets: NDArray | None = None
    ) -> NDArray:
        """Mean AUROC over labels on the data themselves and in each resample, (1 + R,).

        Args:
            logits: (N, L).
            columns: the labels.
            rows: (N,) of bool, the images that are ranked; None: all.
            targets: (N, L) instead of the split's own.
        """
        rows = slice(None) if rows is None else rows
        truth = self.split.targets if targets is None else targets
        split, columns = self.split, list(columns)
        own, scores = truth[rows][:, columns], self.ranked(logits)[rows][:, columns]
        return measure_within(own, scores, split.groups[rows], self.folds[rows], split.counts).mean(axis=1)

    def ranked(self, logits: NDArray) -> NDArray:
        """What is ranked: a class by its softmax, which no constant added to all logits of an image changes."""
        return self.split.task.probabilities(logits) if self.split.task.exclusive else logits

    @cached_property
    def strata_of_folds(self) -> NDArray:
        """The strata of each fold, (N,) int: scores of two folds are of two models."""
        strata = np.zeros(len(self.folds), int) if self.strata is None else self.strata
        return np.where(strata < 0, NO_STRATUM, self.folds * (strata.max() + 1) + strata)

    @cached_property
    def columns_within(self) -> list[int]:
        """Labels that are eligible within strata."""
        strata = np.zeros(len(self.folds), int) if self.strata is None else self.strata
        labels = enumerate(self.split.targets.T)
        return [k for k, target in labels if not ineligibility_within(target, self.split.groups, strata)]

    def within(self, logits: NDArray) -> NDArray:
        """Mean AUROC within strata over the labels that are eligible there, (1 + R,)."""
        split, columns = self.split, self.columns_within
        scores = self.ranked(logits)[:, columns]
        aurocs = measure_within(split.targets[:, columns], scores, split.groups, self.strata_of_folds, split.counts)
        return aurocs.mean(axis=1)


@cache
def truth_of(data: str, root: Path | None) -> Truth:
    """Pool the test splits of all folds; a label's eligibility is judged on the pool."""
    sets = [open_fold(data, fold, root) for fold in range(PLANS[data].folds)]
    rows = [dataset.split("test") for dataset in sets]
    targets = np.concatenate([dataset.targets(part) for dataset, part in zip(sets, rows, strict=True)])
    groups = np.concatenate([part["group_id"].to_numpy() for part in rows])
    split = Split.of(sets[0].labels, targets, groups, RESAMPLES, BOOTSTRAP_SEED, sets[0].task)
    val_labels = []
    for dataset in sets:
        part = dataset.split("val")
        known, owners = dataset.targets(part), part["group_id"].to_numpy()
        val_labels.append([k for k in range(known.shape[1]) if not ineligibility(known[:, k], owners)])
    strata = np.concatenate([strata_of(data, part) for part in rows]) if SETS[data].strata else None
    return Truth(split, np.repeat(np.arange(len(sets)), [len(part) for part in rows]), val_labels, strata)


@dataclass(frozen=True)
class Scores:
    """Figures of one network by one recipe, or of one teacher.

    Attributes:
        seeds: the S seeds with all folds trained.
        macro: test macro AUROC of each seed on the data themselves and in each resample, (S, 1 + R).
        logits: of each seed on the pooled test splits, (S, N, L).
        on_val_labels: test macro AUROC over the labels of `Truth.val_labels`, the mean over seeds and folds.
        outcomes: of all seeds and folds.
        within: as `macro`, within strata; None where the data set has none.
    """

    seeds: list[int]
    macro: NDArray
    logits: NDArray
    on_val_labels: float
    outcomes: list[Outcome]
    within: NDArray | None = None

    def val_within(self, columns: Sequence[int]) -> float:
        """Validation AUROC within strata, of the pairs of all folds: the mean over labels and seeds."""
        counted = np.stack([outcome.val_pairs for outcome in self.outcomes])[:, :, columns]
        won, pairs = counted.reshape(len(self.seeds), -1, *counted.shape[1:]).sum(axis=1).transpose(1, 0, 2)
        return float(np.nanmean(won / pairs))

    @property
    def val(self) -> float:
        """Validation macro AUROC, the mean over seeds and folds."""
        return float(np.mean([outcome.val for outcome in self.outcomes]))


def scores_of(data: str, network: str, recipe: str | None, truth: Truth, root: Path | None) -> Scores | None:
    """Measure the complete seeds; None if there are none."""
    seeds, logits, found = [], [], []
    for seed in PLANS[data].seeds:
        jobs = [Job(data, fold, network, recipe, seed) for fold in range(PLANS[data].folds)]
        outcomes = [outcome for job in jobs if (outcome := outcome_of(job, locate(job, root), root))]
        if len(outcomes) < len(jobs):
            continue
        seeds.append(seed)
        logits.append(np.concatenate([outcome.logits for outcome in outcomes]))
        found += outcomes
    if not seeds:
        return None
    macro = np.array([truth.auroc(answers, truth.split.columns()) for answers in logits])
    on_val_labels = float(np.mean([_on_val_labels(answers, truth) for answers in logits]))
    within = np.array([truth.within(answers) for answers in logits]) if truth.strata is not None else None
    return Scores(seeds, macro, np.array(logits), on_val_labels, found, within)


def _on_val_labels(logits: NDArray, truth: Truth) -> float:
    """Mean over folds of the mean AUROC over the fold's `val_labels` that have a pair in its test split."""
    means = []
    for fold, columns in enumerate(truth.val_labels):
        here = truth.folds == fold
        values = [auroc(truth.split.targets[here, k], truth.ranked(logits)[here, k]) for k in columns]
        means.append(np.nanmean(values))
    return float(np.mean(means))


@cache
def kept_of(data: str, network: str, recipe: str | None) -> tuple[Path, dict[str, Outcome]]:
    """The file of a network by a recipe, and the outcomes in it."""
    file = FOLDER / data / f"{network}-{recipe or 'teacher'}.parquet"
    return file, read_outcomes(file)


def outcome_of(job: Job, model: Trained, root: Path | None) -> Outcome | None:
    """A model's kept outcome, or the one in its folder; None if there is neither."""
    _, kept = kept_of(job.data, job.network, job.recipe)
    if model.settings in kept or not model.done:
        return kept.get(model.settings)
    dataset, files = open_fold(job.data, job.fold, root), ModelFolder(model.folder)
    predicted = read_logits(files.predictions, model.folder.name, dataset.labels)
    logits = align(predicted, "test", dataset.split("test")["image_id"], files.predictions, model.folder.name)
    record, measured = ModelRecord.read(files.config), TrainingMetrics.read(files.metrics, TRAIN_AGAIN)
    return Outcome(
        settings=model.settings,
        code=fingerprint({}),
        initialisation=record.initialisation.split(" (")[0],
        params=record.params,
        macs=record.macs,
        seconds=measured.train_seconds,
        val=measured.val_macro_auroc,
        logits=logits.astype(np.float32 if job.data in OLDER else np.float16),
        val_pairs=_val_pairs(job, dataset, predicted, files) if job.data not in OLDER else None,
    )


def _val_pairs(job: Job, dataset: Dataset, predicted: pd.DataFrame, files: ModelFolder) -> NDArray:
    """See `Outcome.val_pairs`."""
    rows = dataset.split("val")
    logits = align(predicted, "val", rows["image_id"], files.predictions, files.folder.name)
    scores = dataset.task.probabilities(logits) if dataset.task.exclusive else logits
    once, images = np.ones((len(rows), 1)), np.arange(len(rows))
    labels = zip(dataset.targets(rows).T, scores.T, strict=True)
    counted = [StratifiedLabel.of(*pair, images, len(rows), strata_of(job.data, rows)).count(once) for pair in labels]
    return np.concatenate(counted, axis=1)


def strata_of(data: str, rows: pd.DataFrame) -> NDArray:
    """The stratum of each row of a manifest; of a set without strata all are of the same."""
    divide = SETS[data].strata
    return np.zeros(len(rows), int) if divide is None else divide(rows)


@dataclass(frozen=True)
class Results:
    """All complete figures of a data set.

    Attributes:
        plan: sizes and recipes.
        truth: the tested images.
        teachers: by name.
        students: by name, then by recipe; only those with a baseline.
    """

    plan: Plan
    truth: Truth
    teachers: dict[str, Scores]
    students: dict[str, dict[str, Scores]]

    def taught(self, student: str) -> list[str]:
        """A student's recipes with a teacher."""
        return [name for name in self.students[student] if self.plan.recipes[name].teachers]

    def baseline(self, student: str) -> str:
        """The recipe without a teacher that is best on validation, among those with most seeds."""
        measured = self.students[student]
        own = [name for name in measured if not self.plan.recipes[name].teachers]
        return max(own, key=lambda name: (len(measured[name].seeds), measured[name].val))

    def gain(self, student: str, recipe: str) -> NDArray:
        """A recipe's gain over the baseline for each seed that both have, (S, 1 + R)."""
        measured = self.students[student]
        return paired(measured[recipe], measured[self.baseline(student)])


def results_of(data: str, root: Path | None) -> Results:
    """Measure all complete models of a data set."""
    plan, truth = PLANS[data], truth_of(data, root)

    def complete(network: str, recipes: Sequence[str | None]) -> dict[str | None, Scores]:
        found = {recipe: scores_of(data, network, recipe, truth, root) for recipe in recipes}
        return {recipe: scores for recipe, scores in found.items() if scores}

    names = [name for name in plan.epochs if name not in plan.students]
    teachers = {name: found[None] for name in names if (found := complete(name, [None]))}
    students = {name: complete(name, RECIPES[data, name]) for name in plan.students}
    with_baseline = {
        name: found for name, found in students.items() if any(not plan.recipes[recipe].teachers for recipe in found)
    }
    return Results(plan, truth, teachers, with_baseline)


# Comparisons


def paired(scores: Scores, reference: Scores) -> NDArray:
    """Difference for each seed that both have, on the data and in each resample: (seeds, 1 + R)."""
    both = [seed for seed in scores.seeds if seed in reference.seeds]
    own = [scores.macro[scores.seeds.index(seed)] for seed in both]
    other = [reference.macro[reference.seeds.index(seed)] for seed in both]
    return np.array(own) - np.array(other)


def with_seeds(differences: NDArray, groups: int) -> Interval | None:
    """95 % interval of the mean over seeds, for other patients and for other trainings.

    Both variances are added, and the degrees of freedom of Student's t are Satterthwaite's (Biometrics 1946). The
    interaction of seeds and patients is in both variances, so that the interval is a little too wide.

    Args:
        differences: (S, 1 + R), by seed, on the data and in each resample.
        groups: number of patients.

    Returns:
        None if there is one seed.
    """
    seeds = len(differences)
    if seeds < 2:
        return None
    mean = float(differences[:, 0].mean())
    by_patients = np.nanvar(differences.mean(axis=0)[1:], ddof=1)
    by_seeds = differences[:, 0].var(ddof=1) / seeds
    both = by_patients + by_seeds
    if both == 0:
        return mean, mean
    freedom = both**2 / (by_seeds**2 / (seeds - 1) + by_patients**2 / (groups - 1))
    half = float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2) * np.sqrt(both))
    return mean - half, mean + half


def adjusted(results: Results, student: str) -> dict[str, float | None]:
    """p of each recipe with a teacher against the baseline, adjusted for their number (Holm)."""
    taught = results.taught(student)
    p_values = [p_value(results.gain(student, recipe).mean(axis=0)) for recipe in taught]
    return dict(zip(taught, holm(p_values), strict=True))


def lead(results: Results, student: str, teacher: str, seeds: Sequence[int]) -> NDArray | None:
    """Lead of a teacher, the mean over its `seeds`, over a student's baseline, (1 + R,); None if not known."""
    scores = results.teachers.get(teacher)
    if scores is None or not set(seeds) <= set(scores.seeds):
        return None
    own = [scores.macro[scores.seeds.index(seed)] for seed in seeds]
    return np.mean(own, axis=0) - results.students[student][results.baseline(student)].macro.mean(axis=0)
