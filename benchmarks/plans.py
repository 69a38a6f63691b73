"""What `benchmarks.results` trains: networks, recipes, folds and seeds, and where each model is."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from benchmarks.study import (
    BCE,
    DENSENET,
    EEEA,
    FOLDS,
    LITE0,
    LITE2,
    TEACHERS,
    Setting,
    Trained,
    fold_of,
    network_of,
    open_phantom,
    open_xrays,
    read_params,
)
from medistill.data.dataset import Dataset
from medistill.distillation.settings import Recipe
from medistill.training.batches import training_rows
from medistill.training.settings import TrainedNetwork

SEEDS = (0, 1, 2)
BATCH_SIZE = 16

# Settings, chosen on validation; docs/results.md lists the attempts, and what was known of the test split by then.


def _system_b(temperature: float) -> list[dict]:
    """Terms and weights after arXiv 2508.15251, with a sigmoid for each label."""
    return [{"loss": BCE, "weight": 0.1}, {"loss": "sigmoid_kd", "weight": 0.9, "temperature": temperature}]


_SYSTEM_A = [{"loss": "focal_bce", "weight": 0.5}, {"loss": "mse_kd", "weight": 0.5, "temperature": 2.0}]


@dataclass(frozen=True)
class Plan:
    """One data set: sizes, and how long each network is trained.

    Attributes:
        data: `phantom` or `xrays`.
        folds: 1 for the data set's own splits.
        size: of the frames, in pixels.
        epochs: of each teacher and student, by name; fewer with unlabelled images, so that the number of steps is
            the same.
        rates: peak learning rates, by name.
        views: number of views of each training image that teachers answer.
        temperature: of the recipes that are no paper's.
        unlabelled: number of images that the recipes `unlabelled` add; with 0 there are no such recipes.
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
"""The recipes of each student. EEEA-Net-C2, whose trainings are the longest, has only those chosen for it on
validation, and on the phantom the other temperature, with and without more images."""

ORDER = [
    *((data, [student], recipes) for (data, student), recipes in RECIPES.items()),
    *((data, [], ()) for data in PLANS),
]
"""The order of training, chosen so that a run that ends early leaves whole tables: students by some recipes, seed by
seed, after the teachers that these need; an entry without students is for the teachers' other seeds, which teach
nobody."""


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
    """All jobs in order; those of a phase need only models of earlier phases."""
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
    """A data set with the splits of a fold."""
    plan = PLANS[data]
    if data == "phantom":
        return open_phantom(plan.size, plan.unlabelled if unlabelled else 0)
    return fold_of(open_xrays(xrays, plan.size), fold)


@cache
def setting_of(
    data: str, fold: int, name: str, xrays: Path | None, *, unlabelled: bool
) -> tuple[Setting, TrainedNetwork]:
    """Data, parameters and network of a training."""
    plan, dataset = PLANS[data], open_fold(data, fold, xrays, unlabelled=unlabelled)
    share = len(training_rows(dataset, unlabelled=False)) / len(training_rows(dataset, unlabelled))
    epochs = round(plan.epochs[name] * share)
    params = read_params(training={"batch_size": BATCH_SIZE}, teach={"views": plan.views, "answers": ["cams"]})
    place = f"{data}/{fold if plan.folds > 1 else 'own'}"
    return Setting(place, dataset, params), network_of(params, name, epochs, plan.rates[name])


def locate(job: Job, xrays: Path | None, *, train: bool = False) -> Trained:
    """Where a job's model is, trained first where `train` says so."""

    def prepared(name: str, *, unlabelled: bool = False) -> tuple[Setting, TrainedNetwork]:
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
    # with no more epochs than views, both baselines are the same training
    same = not teachers and network.training_on(setting.params.training).epochs <= setting.params.teach.views
    return do(f"{job.network}-{'baseline' if same else job.recipe}", network, recipe, job.seed, teachers)
