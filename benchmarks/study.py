"""What `benchmarks.results` and `benchmarks.attempts` share: data sets, their splits, and models, each trained once.

Everything is kept in .cache/results/. A model's folder is named after all that decides it (settings, data, teachers and
the code of training), and appears in one rename: a model that is there is not trained again, and a killed run goes on.
"""

import functools
import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.controls import shuffle
from medistill.data.dataset import LABEL_PREFIX, Dataset
from medistill.data.ingest import ingest
from medistill.data.settings import Data
from medistill.distillation.calibrate import CalibratedTeacher
from medistill.distillation.knowledge import Knowledge
from medistill.distillation.settings import Recipe, TableTeacher
from medistill.distillation.table import import_table
from medistill.distillation.teachers import Teacher
from medistill.distillation.train import teach, train_by_recipe
from medistill.files import atomic, locked, sha256
from medistill.params import Params
from medistill.phantom.settings import Phantom
from medistill.phantom.write import write_phantom
from medistill.training.settings import TrainedNetwork
from medistill.training.spec import TrainingSpec, fingerprint

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / ".cache" / "results"
FOLDS = 5
INNER_FOLDS = 6
"""One in so many patients of an outer training part is in the validation split."""
SPLIT_SEED = 0
FIRST = ("epochs", "batch_size", "learning_rate", "weight_decay", "warmup", "clip_norm", "precision")
"""Keys of `training` of the first outcomes in benchmarks/outcomes; newer ones count unless at their default."""

BCE = "binary_cross_entropy"
TEACHERS = (LITE2, DENSENET) = ("efficientnet_lite2", "densenet")
LITE2_224 = "efficientnet_lite2_224"
STUDENTS = (LITE0, EEEA) = ("tf_efficientnet_lite0", "eeea_net_c2")
OFA = "ofa_595"


def read_params(**changed: Any) -> Params:
    """benchmarks/params.yaml with some of its sections (`training`, `teach`…) changed key by key."""
    raw = yaml.safe_load((ROOT / "benchmarks" / "params.yaml").read_text(encoding="utf-8"))
    for section, keys in changed.items():
        raw[section] = raw[section] | keys
    return Params.model_validate(raw)


def network_of(params: Params, name: str, epochs: int, rate: float, **changed: Any) -> TrainedNetwork:
    """A teacher or student of params.yaml, with its number of epochs, its peak learning rate and other keys."""
    made = (params.teachers | params.students)[name]
    own = {"epochs": epochs, "learning_rate": rate}
    return made.model_copy(update={"training": made.training.model_copy(update=own), **changed})


# Data sets


@functools.cache
def open_phantom(size: int, unlabelled: int = 0) -> Dataset:
    """The phantom of params.yaml in frames of `size` pixels, with its own splits; drawn and ingested if it is missing.

    Args:
        size: of the frames.
        unlabelled: so many more images are drawn, without labels, for the training split. They are of other patients:
            a patient with images of both kinds loses the unlabelled ones.
    """
    params = read_params()
    phantom = params.phantom.model_copy(update={"images": params.phantom.images + unlabelled})
    raw = WORK / "raw" / f"phantom-{_short(phantom.model_dump())}"
    once(raw, lambda: _draw(raw, phantom))
    dataset = ingested("phantom", params.data.model_copy(update={"name": "phantom", "root": raw}), size)
    return _with_unlabelled(open_phantom(size), dataset) if unlabelled else dataset


def _with_unlabelled(known: Dataset, larger: Dataset) -> Dataset:
    """`larger`, in which all images but those of `known` are for training, without labels; `known` keeps its splits."""
    manifest = larger.manifest[
        larger.manifest["image_id"].isin(known.manifest["image_id"])
        | ~larger.manifest["group_id"].isin(known.manifest["group_id"])
    ].reset_index(drop=True)
    splits = known.manifest.set_index("image_id")["split"].reindex(manifest["image_id"]).to_numpy()
    unknown = pd.isna(splits)
    manifest["split"] = np.where(unknown, "train", splits)
    manifest.loc[unknown, [LABEL_PREFIX + label for label in larger.labels]] = np.nan
    return _renamed(larger, manifest)


@functools.cache
def open_xrays(root: Path, size: int) -> Dataset:
    """The X-rays in `root` (chestxray14) in frames of `size` pixels, ingested if they are not yet.

    Their splits are not used: `fold_of` makes others, which do not depend on `size`.
    """
    data = read_params().data.model_copy(update={"name": "X-rays", "root": root, "split": "patient"})
    return ingested("xrays", data, size)


def _draw(folder: Path, phantom: Phantom) -> None:
    with atomic(folder) as temporary:
        write_phantom(temporary, **phantom.model_dump())


def ingested(name: str, data: Data, size: int) -> Dataset:
    """A data set in frames of `size` pixels, ingested if it is not yet."""
    data = data.model_copy(update={"image_size": size, "workers": 1, "splits": WORK / "no_splits"})
    folder = WORK / "data" / f"{name}-{size}-{_short(data.model_dump(mode='json'))}"
    once(folder, lambda: ingest(data, folder, cache=WORK / "ingest"))
    return Dataset.open(folder)


def once(folder: Path, make: Callable[[], Any]) -> None:
    """Make a folder unless it is there; of several processes that need it one makes it, and the others wait."""
    with locked(folder.with_name(f".{folder.name}.lock"), taken=None):
        if not folder.exists():
            make()


def _short(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:8]


# Splits


def fold_splits(targets: np.ndarray, groups: np.ndarray, fold: int) -> np.ndarray:
    """The split of each image when fold `fold` is the test split: `train`, `val` or `test`, (N,) of str.

    Each patient is in one split. Images are stratified by their rarest label, so that rare labels are spread over
    folds as evenly as possible. One in `INNER_FOLDS` of the outer training patients is in the validation split.

    Args:
        targets: (N, L), 1, 0, or NaN where unknown.
        groups: (N,), the patient of each image.
        fold: 0 to `FOLDS` - 1.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a label may have fewer images than there are folds
        return _fold_splits(targets, rarest_label(targets), groups, fold)


def _fold_splits(targets: np.ndarray, kinds: np.ndarray, groups: np.ndarray, fold: int) -> np.ndarray:
    outer = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SPLIT_SEED)
    rest, test = list(outer.split(targets, kinds, groups))[fold]
    inner = StratifiedGroupKFold(INNER_FOLDS, shuffle=True, random_state=SPLIT_SEED)
    _, val = next(inner.split(rest, kinds[rest], groups[rest]))
    splits = np.full(len(targets), "train", object)
    splits[test], splits[rest[val]] = "test", "val"
    return splits


def rarest_label(targets: np.ndarray) -> np.ndarray:
    """Each image's label that is rarest in the data: int (N,), L if it has none.

    Args:
        targets: (N, L), 1, 0, or NaN where unknown.
    """
    positive = targets == 1
    counts = np.where(positive, positive.sum(axis=0), len(targets) + 1)
    return np.where(positive.any(axis=1), counts.argmin(axis=1), targets.shape[1])


def fold_of(dataset: Dataset, fold: int) -> Dataset:
    """`dataset` with the splits of a fold, and a fingerprint of its own."""
    rows = dataset.manifest
    return with_splits(dataset, fold_splits(dataset.targets(rows), rows["group_id"].to_numpy(), fold))


def with_splits(dataset: Dataset, splits: np.ndarray) -> Dataset:
    """`dataset` with other splits, (N,) of str, and a fingerprint of its own."""
    return _renamed(dataset, dataset.manifest.assign(split=splits))


def _renamed(dataset: Dataset, manifest: pd.DataFrame) -> Dataset:
    """`dataset` with another manifest and a fingerprint of its own."""
    identity = dataset.fingerprint + "".join(manifest["image_id"]) + "".join(manifest["split"])
    return replace(dataset, manifest=manifest, fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:16])


# Models


@dataclass(frozen=True)
class Trained:
    """A model's folder, which may not be there yet.

    Attributes:
        folder: named after `key`.
        key: a hash of all that decides the model.
        settings: a hash of the same without the code of training.
        teachers: the models that teach it.
        shuffled: as a teacher, it gives each image its answer about another one.
        table: somebody else's answers, which are imported instead of trained.
    """

    folder: Path
    key: str
    settings: str
    teachers: tuple["Trained", ...] = ()
    shuffled: bool = False
    table: TableTeacher | None = None

    @property
    def done(self) -> bool:
        """Whether it is trained."""
        return self.folder.exists()

    def named(self, identity: str) -> str:
        """`key` or `settings` of what it teaches."""
        return f"shuffled {identity}" if self.shuffled else identity


@dataclass(frozen=True)
class Setting:
    """All that decides a model except its network, recipe and seed.

    Attributes:
        place: a name for folders and progress, such as `xrays/3`.
        dataset: with its splits.
        params: augmentation, training, and `teach`, the views that teachers answer.
    """

    place: str
    dataset: Dataset
    params: Params

    def teacher(self, name: str, network: TrainedNetwork, seed: int) -> Trained:
        """Where a teacher is."""
        return self._located(name, self._teacher(network, seed), ())

    def student(
        self, name: str, network: TrainedNetwork, recipe: Recipe, seed: int, teachers: Sequence[Trained]
    ) -> Trained:
        """Where a student is; `name` only makes its folder readable."""
        return self._located(name, self._student(network, recipe, seed), teachers)

    def stored(self, name: str, table: TableTeacher) -> Trained:
        """Where a table of answers is; whoever asks it imports it first."""
        content = sha256(table.answers)
        key = fingerprint({"table": content, "dataset": self.dataset.fingerprint})
        folder = WORK / "models" / self.place / f"{name}-{key}"
        return Trained(folder, key, _short([content, table.id, table.labels, table.values]), table=table)

    def train_teacher(self, name: str, network: TrainedNetwork, seed: int) -> Trained:
        """Train a teacher, unless it is there."""
        return self._trained(name, self._teacher(network, seed), ())

    def train_student(
        self, name: str, network: TrainedNetwork, recipe: Recipe, seed: int, teachers: Sequence[Trained]
    ) -> Trained:
        """Train a student, unless it is there; `teachers` in the order of the recipe."""
        return self._trained(name, self._student(network, recipe, seed), teachers)

    def _teacher(self, network: TrainedNetwork, seed: int) -> TrainingSpec:
        return self._spec(network, Recipe(views="fresh"), seed, teaches=True)

    def _student(self, network: TrainedNetwork, recipe: Recipe, seed: int) -> TrainingSpec:
        spec = self._spec(network, recipe, seed)
        if not recipe.teachers and spec.views is not None and spec.views >= spec.training.epochs:
            # each epoch has a view of its own either way, so both are the same training
            return replace(spec, recipe=recipe.model_copy(update={"views": "fresh"}), views=None)
        return spec

    def _spec(self, network: TrainedNetwork, recipe: Recipe, seed: int, *, teaches: bool = False) -> TrainingSpec:
        return TrainingSpec(
            name=self.place,
            teaches=teaches,
            network=network,
            training=network.training_on(self.params.training),
            augmentation=self.params.augmentation,
            recipe=recipe,
            seed=seed,
        ).with_views(self.params.teach)

    def _located(self, name: str, spec: TrainingSpec, teachers: Sequence[Trained]) -> Trained:
        key = spec.fingerprint(self.dataset, [teacher.named(teacher.key) for teacher in teachers])
        folder = WORK / "models" / self.place / f"{name}-{spec.seed}-{key}"
        return Trained(folder, key, self._settings(spec, teachers), tuple(teachers))

    def _settings(self, spec: TrainingSpec, teachers: Sequence[Trained]) -> str:
        # Defaults and unused new options are left out, so that a new option does not make kept outcomes worthless.
        decides = {
            "network": spec.network.model_dump(mode="json", exclude={"training", "seed"}, exclude_defaults=True),
            "training": spec.training.model_dump(include={*FIRST}) | spec.training.model_dump(exclude_defaults=True),
            "augmentation": spec.augmentation.model_dump(),
            "recipe": spec.recipe.model_dump(mode="json", exclude={"views", "teachers"}, exclude_defaults=True),
            "seed": spec.seed,
            "views": spec.views,
            "dataset": self._content,
            "teachers": [teacher.named(teacher.settings) for teacher in teachers],
            "taught": [self.params.teach.views, self.params.teach.view_seed] if teachers else None,
        }
        return _short(decides)

    @functools.cached_property
    def _content(self) -> str:
        """A hash of pixels, labels, groups and splits; that of the code that read them is left out."""
        rows = self.dataset.manifest
        digest = hashlib.sha256(self.dataset.images(rows).tobytes() + self.dataset.targets(rows).tobytes())
        for column in ("group_id", "split"):
            digest.update("\n".join(rows[column]).encode())
        return digest.hexdigest()

    def _trained(self, name: str, spec: TrainingSpec, teachers: Sequence[Trained]) -> Trained:
        """Train a model, unless it is there; it is named after its folder, as models of other keys share its `name`."""
        trained = self._located(name, spec, teachers)
        named = replace(spec, name=f"{self.place}/{trained.folder.name}")

        def make() -> None:
            answers = [self.ask(teacher, spec) for teacher in teachers]
            train_by_recipe(trained.folder, named, self.dataset, answers, checkpoints=WORK / "checkpoints")

        once(trained.folder, make)
        return trained

    def ask(self, teacher: Trained, spec: TrainingSpec) -> Teacher:
        """A trained teacher's answers in all views, computed once, as the student of `spec` hears them."""
        asked, augmentation = self.params.teach, self.params.augmentation
        # a data set with additional images needs answers of its own
        about = asked.model_dump(exclude={"batch_size"}) | {"dataset": self.dataset.fingerprint}
        name = f"{teacher.folder.name}-{_short(about)}"
        folder, unfinished = (WORK / kind / self.place / name for kind in ("knowledge", "unfinished"))
        if teacher.table is not None:
            once(
                teacher.folder, partial(import_table, teacher.folder, teacher.folder.name, teacher.table, self.dataset)
            )
        once(
            folder,
            lambda: teach(folder, teacher.folder, self.dataset, augmentation, asked, unfinished=unfinished),
        )
        answers: Teacher = Knowledge.open(folder, self.dataset, augmentation, asked)
        if spec.recipe.calibrate:
            answers = CalibratedTeacher.open(answers, folder, self.dataset)
        return shuffle(answers, self.dataset, spec.seed) if teacher.shuffled else answers
