"""The specification of a training, complete before it starts."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

import timm
import torch

import medistill
from medistill.augmentation import Augmentation
from medistill.data.dataset import Dataset
from medistill.distillation.settings import Recipe, Teach
from medistill.errors import UserError
from medistill.files import sha256
from medistill.models.settings import Network
from medistill.records.models import Role
from medistill.training.settings import Training

ROOMS_THAT_DECIDE_A_TRAINING = (
    *("augmentation.py", "data/dataset.py", "data/provenance.py", "distillation", "metrics", "models", "task.py"),
    *("training", "views.py"),
)
"""Folders and files of this package whose code affects the result of a training, and so its fingerprint.

dvc.yaml names the same ones for the stages that train, and for those that let teachers answer.
"""

PACKAGE = Path(medistill.__file__).parent

OWN_VIEWS = 1_000_003
"""Added to a teacher's seed for its views, apart from any `teach.view_seed`: no teacher trains on the views that it
will answer."""


def fingerprint(settings: Mapping[str, object]) -> str:
    """Hash of `settings` (JSON values), the code that decides a training, and the versions of torch and timm."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(f"{torch.__version__} {timm.__version__}".encode())
    for file in _code():
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _code() -> Iterator[Path]:
    for room in ROOMS_THAT_DECIDE_A_TRAINING:
        path = PACKAGE / room
        yield from sorted(path.rglob("*.py")) if path.is_dir() else [path]


@dataclass(frozen=True)
class TrainingStage:
    """A part of a training: a stage of its recipe, or all of it.

    Attributes:
        recipe: its losses, and which images it shows.
        first: its first epoch, from 0.
        epochs: how many epochs it has.
    """

    recipe: Recipe
    first: int
    epochs: int


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """Every input of a training except the data set and the teachers' answers.

    Attributes:
        name: of the model.
        network: the network to train, and its initial weights.
        training: settings of the training, the network's own keys included.
        augmentation: ranges of the views.
        recipe: its losses and teachers, and which images it learns from.
        seed: initialisation, order of images, dropout.
        view_seed: seed of the augmented views; with cached answers that of the teachers' views.
        views: epoch e shows view e mod `views`; None: a new view each epoch.
        student: key of the network in params.yaml, where it is a student of a run.
        recipe_name: key of the recipe in params.yaml, likewise.
        teaches: whether it will teach students.
    """

    name: str
    network: Network
    training: Training
    augmentation: Augmentation
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0
    view_seed: int = 0
    views: int | None = None
    student: str | None = None
    recipe_name: str | None = None
    teaches: bool = False

    @property
    def role(self) -> Role:
        """Of the model in its run: without teachers a student is a baseline."""
        if self.teaches:
            return "teacher"
        return "distilled" if self.recipe.teachers else "baseline"

    def with_views(self, teach: Teach) -> "TrainingSpec":
        """The same training in the views that its recipe asks for: those that teachers answer by `teach`, or new ones.

        A teacher that learns only from labels has other views than those that it will answer.
        """
        own = self.teaches and not self.recipe.teachers
        return replace(
            self,
            view_seed=self.seed + OWN_VIEWS if own else teach.view_seed,
            views=teach.views if self.recipe.views == "cached" else None,
        )

    @property
    def stages(self) -> list[TrainingStage]:
        """The parts of the training, one after the other.

        Raises:
            UserError: they do not have as many epochs as the training.
        """
        try:
            epochs = self.recipe.epochs_of_parts(self.training.epochs)
        except ValueError as error:
            raise UserError(f"recipe: {error}") from None
        starts = [0, *accumulate(epochs)]
        return [TrainingStage(*stage) for stage in zip(self.recipe.parts, starts, epochs, strict=False)]

    def facts(self) -> dict[str, object]:
        """What config.json of the model says of its training."""
        names = {"student": self.student, "recipe": self.recipe_name}
        return {
            "role": self.role,
            "name": self.name,
            "seed": self.seed,
            **{key: name for key, name in names.items() if name is not None},
            **self.recipe.model_dump(mode="json"),
            "network": self.network.model_dump(mode="json"),
            "training": self.training.model_dump(),
            "augmentation": self.augmentation.model_dump(),
        }

    def fingerprint(self, dataset: Dataset, answers: Sequence[str] = ()) -> str:
        """Hash of every input of the training, including code and initial weights; no network is built for it.

        Args:
            dataset: what it trains on.
            answers: a checksum of each teacher's answers, in the order of the recipe.
        """
        return fingerprint(
            {
                **self.facts(),
                "weights": sha256(self.network.file),
                "views": [self.view_seed, self.views, self.recipe.unlabelled, self.recipe.views == "live"],
                "dataset": dataset.fingerprint,
                "answers": list(answers),
            }
        )
