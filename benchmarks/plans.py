"""What `benchmarks.results` trains: networks, rows, folds and seeds, and where each model is."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from benchmarks.sets import CHEXNET, SETS, chexnet
from benchmarks.study import (
    BCE,
    DENSENET,
    EEEA,
    LITE0,
    LITE2,
    LITE2_224,
    OFA,
    Setting,
    Trained,
    network_of,
    open_phantom,
    read_params,
)
from medistill.data.dataset import Dataset
from medistill.distillation.settings import Recipe
from medistill.layout import member_name
from medistill.models.settings import Start
from medistill.training.batches import training_rows
from medistill.training.settings import TrainedNetwork

BATCH_SIZE = 16

# Settings, chosen on validation; docs/results.md lists the attempts, and what was known of the test split by then.

STARTS: dict[str, dict[str, Any]] = {
    "own": {},
    "selected": {"init_from": Start(arch="tf_efficientnet_lite2", pretrained=True)},
    "by importance": {"init_from": Start(arch="tf_efficientnet_lite2", pretrained=True, select="importance")},
}
"""Where a student's weights come from: as benchmarks/params.yaml says (EEEA-Net-C2 and OFA-595: random), or a part of
EfficientNet-Lite2's."""

STORED = {CHEXNET: chexnet}
"""Teachers whose answers are published, and where these are."""

Kind = Literal["baseline", "taught", "control"]


@dataclass(frozen=True)
class Row:
    """One row of a table: how a student is trained.

    Attributes:
        recipe: its views, teachers and losses.
        start: of `STARTS`.
        rate: the peak learning rate, as a multiple of the plan's.
        training: other keys of its training.
        control: `shuffled`, where each image gets the teachers' answers about another one; `self`, where the student's
            own baseline of the same seed teaches; empty for a row that is no control.
    """

    recipe: Recipe = field(default_factory=Recipe)
    start: str = "own"
    rate: float = 1.0
    training: dict[str, Any] = field(default_factory=dict)
    control: Literal["", "shuffled", "self"] = ""

    @property
    def kind(self) -> Kind:
        """A baseline has no teacher; a control has one that cannot know more."""
        if self.control:
            return "control"
        return "taught" if self.recipe.teachers else "baseline"


def _system_b(temperature: float, *, exclusive: bool = False) -> list[dict]:
    """Terms and weights after arXiv 2508.15251; of labels that are not exclusive each has a sigmoid."""
    hard, soft = ("cross_entropy", "softmax_kd") if exclusive else (BCE, "sigmoid_kd")
    return [{"loss": hard, "weight": 0.1}, {"loss": soft, "weight": 0.9, "temperature": temperature}]


_SYSTEM_A = [{"loss": "focal_bce", "weight": 0.5}, {"loss": "mse_kd", "weight": 0.5, "temperature": 2.0}]


@dataclass(frozen=True)
class Plan:
    """One data set: sizes, and how long each network is trained.

    Attributes:
        data: of `SETS`.
        size: of the frames, in pixels.
        epochs: of each teacher and student, by name; fewer with unlabelled images, so that the number of steps is
            the same.
        rates: peak learning rates, by name.
        views: number of views of each training image that teachers answer.
        students: the rows of each student, both by name.
        seeds: of each row.
        inputs: the size that a network sees, where it is not that of the frames.
        paired: teachers of which that of the student's own seed teaches; of others that of the first seed.
        unlabelled: number of images that rows with `unlabelled` in their recipe add.
    """

    data: str
    size: int
    epochs: dict[str, int]
    rates: dict[str, float]
    views: int
    students: dict[str, dict[str, Row]]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    inputs: dict[str, int] = field(default_factory=dict)
    paired: tuple[str, ...] = (LITE2, DENSENET)
    unlabelled: int = 0

    @property
    def folds(self) -> int:
        """Number of folds by patient."""
        return SETS[self.data].folds

    @property
    def recipes(self) -> dict[str, Recipe]:
        """The recipe of each row, by name; of a row of several students that of the last."""
        return {name: row.recipe for rows in self.students.values() for name, row in rows.items()}

    def seed_of(self, teacher: str, student_seed: int, member: int = 0) -> int:
        """The seed of the teacher that teaches the student of a seed, or of another member of its ensemble."""
        first = self.seeds.index(student_seed) if teacher in self.paired else 0
        return self.seeds[(first + member) % len(self.seeds)]


def rows_of(student: str, start: str, *, exclusive: bool, large: bool = True) -> dict[str, Row]:
    """The full list of rows of a student; each differs in one thing from `baseline` or from `system_b`.

    Args:
        student: its name.
        start: of `STARTS`, of all rows but those that are about the start.
        exclusive: whether the labels are exclusive classes.
        large: whether there is a teacher that sees 224 px.
    """
    terms, features = _system_b(4.0, exclusive=exclusive), [{"loss": "feature_mse"}]

    def by(*teachers: str, terms: list[dict] = terms, **keys: Any) -> Recipe:
        return Recipe(teachers=list(teachers), terms=terms, **keys)

    rows = {
        "baseline": Row(start=start),
        "baseline_fresh": Row(Recipe(views="fresh"), start),
        "slower": Row(start=start, rate=0.5),
        "faster": Row(start=start, rate=2.0),
        "averaged_weights": Row(start=start, training={"ema": 0.99}),
        "decay": Row(start=start, training={"weight_decay": 0.2}),
        "smooth": Row(Recipe(terms=[{"loss": terms[0]["loss"], "smoothing": 0.1}]), start),
        "system_b": Row(by(LITE2), start),
        "calibrated": Row(by(LITE2, calibrate=True), start),
        "two_stage": Row(Recipe(teachers=[LITE2], stages=[{"terms": features, "epochs": 2}, {"terms": terms}]), start),
        "system_b_t1": Row(by(LITE2, terms=_system_b(1.0, exclusive=exclusive)), start),
        "cam": Row(by(LITE2, terms=[*terms, {"loss": "cam_kd", "weight": 0.1}]), start),
        "by_densenet": Row(by(DENSENET), start),
        "several": Row(by(LITE2, DENSENET, combine="confidence"), start),
        "ensemble": Row(by(LITE2).model_copy(update={"teachers": [member_name(LITE2, k) for k in range(3)]}), start),
        "shuffled": Row(by(LITE2), start, control="shuffled"),
        "self": Row(by(student), start, control="self"),
    }
    if not exclusive:  # system A's losses are for labels that are not
        rows["system_a"] = Row(by(LITE2, terms=_SYSTEM_A), start)
    if large:
        rows["by_224"] = Row(by(LITE2_224), start)
    if start == "selected":
        rows["random"] = Row()
        rows["random_faster"] = Row(rate=2.0)
        rows["random_system_b"] = Row(by(LITE2))
        rows["by_importance"] = Row(start="by importance")
    return rows


SHORT = ("baseline", "baseline_fresh", "system_b", "shuffled", "self")
"""The rows of the second student."""

_RATES = {LITE2: 1e-3, DENSENET: 1e-3, LITE0: 1e-3, EEEA: 2e-3}

_NAMES = (LITE2, DENSENET, LITE0, EEEA)


def _older(temperature: float, *, unlabelled: bool = False) -> dict[str, Row]:
    """The rows of the tables of three seeds."""
    terms, both = _system_b(temperature), [LITE2, DENSENET]
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
    if unlabelled:
        recipes["unlabelled"] = Recipe(teachers=[LITE2], terms=terms, unlabelled=True)
        recipes["unlabelled_t4"] = Recipe(teachers=[LITE2], terms=_system_b(4.0), unlabelled=True)
    return {name: Row(recipe) for name, recipe in recipes.items()}


def _some(rows: dict[str, Row], *names: str) -> dict[str, Row]:
    return {name: rows[name] for name in names}


def _older_plan(data: str, epochs: Sequence[int], views: int, students: dict[str, dict[str, Row]], **keys: Any) -> Plan:
    """The plan of a table of three seeds, in which the teachers of the first seed teach."""
    lengths = dict(zip(_NAMES, epochs, strict=True))
    return Plan(data, 96, lengths, _RATES, views, students, seeds=(0, 1, 2), paired=(), **keys)


def _newer_plan(
    data: str,
    student: str,
    lengths: Sequence[int],
    *,
    exclusive: bool = False,
    size: int = 224,
    without: Sequence[str] = (),
) -> Plan:
    """The plan of a table of five seeds: `student` has all rows, Lite0 a few; all networks but one see 96 px.

    Args:
        data: of `SETS`.
        student: whose rows these are.
        lengths: epochs of EfficientNet-Lite2, DenseNet, Lite0 and `student`.
        exclusive: whether the labels are exclusive classes.
        size: of the frames; larger than 96 px, there is a teacher that sees 224 px.
        without: rows of `student` that are left to other data sets, as they would take too long.
    """
    large = size > 96
    epochs = dict(zip((LITE2, DENSENET, LITE0, student), lengths, strict=True))
    epochs |= {LITE2_224: epochs[LITE2]} if large else {}
    rows = rows_of(student, "selected", exclusive=exclusive, large=large)
    if data == "nih":
        rows["by_chexnet"] = Row(Recipe(teachers=[CHEXNET], terms=_system_b(4.0)), "selected")
    students = {
        student: {name: row for name, row in rows.items() if name not in without},
        LITE0: _some(rows_of(LITE0, "own", exclusive=exclusive, large=large), *SHORT),
    }
    inputs = {name: 224 if name == LITE2_224 else 96 for name in epochs} if large else {}
    return Plan(data, size, epochs, dict.fromkeys(epochs, 1e-3), 4, students, inputs=inputs)


_ELSEWHERE = ("system_b_t1", "cam", "by_densenet", "random_faster", "random_system_b", "by_importance")

_DRAWN, _REAL = _older(1.0, unlabelled=True), _older(4.0)

PLANS = {
    plan.data: plan
    for plan in (
        _older_plan(
            "phantom",
            (24, 24, 24, 96),
            8,
            {
                LITE0: _DRAWN,
                EEEA: _some(_DRAWN, "baseline", "baseline_fresh", "system_b", "unlabelled", "unlabelled_t4"),
            },
            unlabelled=2000,
        ),
        _older_plan(
            "xrays", (6, 8, 4, 8), 4, {LITE0: _REAL, EEEA: _some(_REAL, "baseline", "baseline_fresh", "system_b")}
        ),
        _newer_plan("kermany", EEEA, (6, 12, 6, 8), exclusive=True),
        _newer_plan("nih", EEEA, (6, 8, 6, 8), without=_ELSEWHERE),
        _newer_plan("covid_qu_ex", OFA, (6, 12, 6, 8), exclusive=True, without=_ELSEWHERE),
        _newer_plan("phantom_96", EEEA, (16, 24, 16, 16), size=96),
    )
}
"""By data set. Of those of three seeds: at 64 px both teachers are worse by several hundredths, and EEEA-Net-C2, which
starts from nothing there and is trained longest, has only the rows that were chosen for it on validation, and on the
phantom the other temperature, with and without more images."""

RECIPES = {(data, student): tuple(rows) for data, plan in PLANS.items() for student, rows in plan.students.items()}
"""The names of each student's rows."""

OLDER = ("phantom", "xrays")
"""Data sets whose tables are of three seeds."""

FIRST_ROWS = ("baseline", "random", "system_b", "shuffled", "self")

Order = Sequence[tuple[str, Sequence[str], Sequence[str]]]


def _order() -> Iterator[tuple[str, Sequence[str], Sequence[str]]]:
    for (data, student), names in RECIPES.items():
        if data in OLDER:
            yield data, [student], names
    yield from ((data, [], ()) for data in OLDER)
    newer = {data: plan for data, plan in PLANS.items() if data not in OLDER}
    for data, plan in newer.items():  # the first student's most telling rows, then the rest of each table
        student = next(iter(plan.students))
        yield data, [student], FIRST_ROWS
    for data, plan in newer.items():
        for number, (student, rows) in enumerate(plan.students.items()):
            yield data, [student], tuple(name for name in rows if number or name not in FIRST_ROWS)


ORDER: Order = list(_order())
"""The order of training, chosen so that a run that ends early leaves whole tables: students by some rows, seed by
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

    @property
    def row(self) -> Row:
        """The row of a student."""
        if self.recipe is None:
            raise ValueError(f"{self.network} is a teacher")
        return PLANS[self.data].students[self.network][self.recipe]

    @property
    def teachers(self) -> list["Job"]:
        """The models that teach it and are trained here, in the order of its recipe; none for a teacher."""
        if self.recipe is None:
            return []
        if self.row.control == "self":
            return [replace(self, recipe="baseline")]
        found = []
        for name in self.row.recipe.teachers:
            if name in STORED:
                continue
            network, _, member = name.partition(".")
            seed = PLANS[self.data].seed_of(network, self.seed, int(member or 0))
            found.append(Job(self.data, self.fold, network, None, seed))
        return found


def phases(order: Order) -> Iterator[list[Job]]:
    """All jobs in order; those of a phase need only models of earlier phases."""
    listed: set[Job] = set()
    for data, students, recipes in order:
        plan = PLANS[data]
        folds = range(plan.folds)
        if not students:
            names = dict.fromkeys(
                name for rows in plan.students.values() for row in rows.values() for name in row.recipe.teachers
            )
            every = [Job(data, fold, name, None, seed) for seed in plan.seeds[1:] for fold in folds for name in names]
            yield [job for job in every if job not in listed]
            continue
        every = [
            Job(data, fold, student, recipe, seed)
            for seed, student, fold, recipe in itertools.product(plan.seeds, students, folds, recipes)
        ]
        for seed in plan.seeds:
            own = [job for job in every if job.seed == seed]
            needed = dict.fromkeys(teacher for job in own for teacher in job.teachers if teacher.recipe is None)
            yield [job for job in needed if job not in listed]
            listed |= set(needed)
            yield [job for job in own if job.row.control != "self"]
            yield [job for job in own if job.row.control == "self"]


@cache
def open_fold(data: str, fold: int, root: Path | None, *, unlabelled: bool = False) -> Dataset:
    """A data set with the splits of a fold."""
    plan = PLANS[data]
    if unlabelled:
        return open_phantom(plan.size, plan.unlabelled)
    return SETS[data].divided(root or Path(), plan.size, fold)


@cache
def setting_of(data: str, fold: int, root: Path | None, *, unlabelled: bool = False) -> Setting:
    """Data and parameters of a fold's trainings; one object for all of them, as the data are hashed once."""
    plan = PLANS[data]
    answers = ["cams"] if data in OLDER else ["cams", "features"]
    params = read_params(training={"batch_size": BATCH_SIZE}, teach={"views": plan.views, "answers": answers})
    place = f"{data}/{fold if plan.folds > 1 else 'own'}"
    return Setting(place, open_fold(data, fold, root, unlabelled=unlabelled), params)


def _share(setting: Setting) -> float:
    """Share of the training images that have a label."""
    return len(training_rows(setting.dataset, unlabelled=False)) / len(training_rows(setting.dataset, unlabelled=True))


def network_for(plan: Plan, setting: Setting, name: str, row: Row | None) -> TrainedNetwork:
    """A network with the start, size, epochs and learning rate of a training; `row` is that of a student."""
    changed = dict(STARTS[row.start]) if row else {}
    changed |= {"input_size": plan.inputs[name]} if name in plan.inputs else {}
    share = _share(setting) if row and row.recipe.unlabelled else 1
    rate, keys = (row.rate, row.training) if row else (1.0, {})
    network = network_of(setting.params, name, round(plan.epochs[name] * share), plan.rates[name] * rate, **changed)
    return network.model_copy(update={"training": network.training.model_copy(update=keys)})


def locate(job: Job, root: Path | None, *, train: bool = False) -> Trained:
    """Where a job's model is, trained first where `train` says so."""
    plan = PLANS[job.data]
    if job.recipe is None:
        setting = setting_of(job.data, job.fold, root)
        network = network_for(plan, setting, job.network, None)
        return (setting.train_teacher if train else setting.teacher)(job.network, network, job.seed)
    row = job.row
    teachers = [replace(locate(teacher, root), shuffled=row.control == "shuffled") for teacher in job.teachers]
    setting = setting_of(job.data, job.fold, root, unlabelled=row.recipe.unlabelled)
    teachers += [setting.stored(name, STORED[name](root)) for name in row.recipe.teachers if name in STORED]
    network = network_for(plan, setting, job.network, row)
    do = setting.train_student if train else setting.student
    # with no more epochs than views, both baselines are the same training
    same = not teachers and network.training_on(setting.params.training).epochs <= setting.params.teach.views
    name = "baseline" if same and job.recipe == "baseline_fresh" else job.recipe
    return do(f"{job.network}-{name}", network, row.recipe, job.seed, teachers)
