"""Answers of teachers: logits, and if a recipe needs them maps and features; live or from `knowledge`."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from medistill.data import provenance
from medistill.data.dataset import Dataset, label_columns
from medistill.distillation.answers import ANSWERS
from medistill.errors import UserError
from medistill.layout import ModelFolder
from medistill.models.classifier import Classifier, feature_shape
from medistill.models.weights import load_model
from medistill.records.models import Config
from medistill.training.batches import Batch
from medistill.training.processes import this_process


class Teacher(Protocol):
    """A source of answers about batches.

    Attributes:
        name: of the teacher.
        checksum: of every input of its answers.
        seen: hashes of the images and groups that it was trained on.
        map_shape: K, h, w of its feature map; K alone where it has none but gives pooled features; else empty.
        unknown: the data set's labels that it does not know.
    """

    @property
    def name(self) -> str: ...  # noqa: D102  (the attributes are told above)
    @property
    def checksum(self) -> str: ...  # noqa: D102
    @property
    def seen(self) -> provenance.TrainIds: ...  # noqa: D102
    @property
    def map_shape(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def unknown(self) -> Sequence[str]: ...  # noqa: D102

    def answer(self, batch: Batch, needs: AbstractSet[str]) -> dict[str, Tensor]:
        """Its `logits` for the images in their view, and what `needs` names, in the order of the data set's labels.

        Args:
            batch: its `image_ids` and `view`, or its `images`.
            needs: of `attention`, `cams`, `features`.

        Returns:
            float32: `logits` (N, L), `attention` (N, h, w), `cams` (N, L, h, w), `features` (N, K); NaN for labels that
            the teacher does not know.
        """
        ...


class ChangedTeacher:
    """Base of teachers whose answers are another one's, changed; all else that is known of it stays.

    Attributes:
        teacher: whose answers they are.
    """

    teacher: Teacher

    @property
    def name(self) -> str:
        """The teacher's."""
        return self.teacher.name

    @property
    def seen(self) -> provenance.TrainIds:
        """As of the teacher."""
        return self.teacher.seen

    @property
    def map_shape(self) -> Sequence[int]:
        """As of the teacher."""
        return self.teacher.map_shape

    @property
    def unknown(self) -> Sequence[str]:
        """As of the teacher."""
        return self.teacher.unknown


class Asked(Protocol):
    """A model that answers about images: of torch, or of ONNX Runtime.

    Attributes:
        config: what is known of it: `name`, `labels`, `model_sha256`, `fingerprint`.
        input_size: height and width that it sees; None: those of its images.
        map_shape: as of `Teacher`.
        device: where its images should lie.
    """

    @property
    def config(self) -> Config: ...  # noqa: D102
    @property
    def input_size(self) -> int | None: ...  # noqa: D102
    @property
    def map_shape(self) -> Sequence[int]: ...  # noqa: D102
    @property
    def device(self) -> torch.device: ...  # noqa: D102

    def ask(self, images: Tensor, needs: AbstractSet[str]) -> dict[str, Tensor]:
        """Its `logits` (N, L) of its own labels, and what `needs` names, for float images (N, C, H, W) in 0..1."""
        ...


class TorchModel:
    """A classifier that is asked about images; see `Asked`."""

    def __init__(self, network: Classifier, image_size: int) -> None:
        """Put `network` into evaluation mode; frames have `image_size` pixels."""
        self._network = network.eval().to(memory_format=torch.channels_last)
        self.config, self.input_size = network.config, network.input_size
        self.map_shape = feature_shape(network, image_size)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self._network.parameters()).device

    def ask(self, images: Tensor, needs: AbstractSet[str]) -> dict[str, Tensor]:
        """As `Asked` says; the network moves to where the images are."""
        self._network.to(images.device)
        return ask(self._network, images.contiguous(memory_format=torch.channels_last), needs)


def open_model(folder: Path, dataset: Dataset) -> Asked:
    """The model in `folder`, to be asked about images of `dataset`.

    Raises:
        UserError: a file is missing or damaged.
    """
    from medistill.distillation.onnx_teacher import OnnxModel  # ONNX Runtime is for those who have such a teacher

    if ModelFolder(folder).onnx.exists():
        return OnnxModel.open(folder, dataset)
    return TorchModel(load_model(folder).to(this_process().device), dataset.image_size)


class LiveTeacher:
    """A teacher that runs on every batch, at the price of its forward pass."""

    def __init__(
        self, model: Classifier | Asked, dataset: Dataset, seen: provenance.TrainIds = provenance.NOTHING
    ) -> None:
        """Let `model`, which is not trained further and was trained on `seen`, answer about the labels of `dataset`.

        Raises:
            UserError: it knows none of them.
        """
        self.name, self.checksum, self.seen = model.config["name"], model.config.get("model_sha256", ""), seen
        if isinstance(model, Classifier):
            model = TorchModel(model.requires_grad_(False), dataset.image_size)
        self._model = model
        self._columns = label_columns(model.config["labels"], dataset.labels, f"teacher {self.name}")
        self.map_shape = self._model.map_shape
        self.unknown = unknown_labels(dataset, self._columns)

    @classmethod
    def open(cls, folder: Path, dataset: Dataset) -> "LiveTeacher":
        """Load the trained model in `folder`.

        Raises:
            UserError: a file is missing or damaged, or it knows none of the data set's labels.
        """
        return cls(open_model(folder, dataset), dataset, provenance.read_ids(ModelFolder(folder).train_ids))

    def answer(self, batch: Batch, needs: AbstractSet[str]) -> dict[str, Tensor]:
        """As `Teacher` says."""
        assert batch.images is not None  # the view is rendered before anybody is asked
        answers = {name: values.float() for name, values in self._model.ask(batch.images, needs).items()}
        require_finite(answers, batch.image_ids, self._model.config)
        return {
            name: by_label(values, self._columns) if ANSWERS[name].by_label else values
            for name, values in answers.items()
        }


def ask(teacher: Classifier, images: Tensor, needs: AbstractSet[str]) -> dict[str, Tensor]:
    """A network's answers about images, without gradients.

    Args:
        teacher: in evaluation mode; its labels are the L of the answers.
        images: float32 (N, C, H, W) in 0..1.
        needs: kinds of answers besides the logits.

    Returns:
        `logits` and the kinds in `needs`; see `ANSWERS`.
    """
    with torch.no_grad():
        logits, features = teacher(images, with_map=True)
        return {
            name: kind.of(teacher, logits, features) for name, kind in ANSWERS.items() if name in {"logits", *needs}
        }


def require_finite(answers: Mapping[str, Tensor], image_ids: Sequence[str], teacher: Config) -> None:
    """Refuse answers that are not finite: a NaN would be read as a label that the teacher does not know.

    Raises:
        UserError: names the teacher and the first image.
    """
    for name, values in answers.items():
        bad = ~torch.isfinite(values.flatten(1)).all(1)
        if bad.any():
            image = image_ids[int(bad.nonzero()[0])]
            again = "look at mean and std, or export it again" if teacher.get("arch") == "onnx" else "train it again"
            raise UserError(f"teacher {teacher['name']}: its {name} for image {image} are not finite; {again}")


def by_label(values: Tensor, columns: Sequence[int | None]) -> Tensor:
    """Values (N, L', …) of a teacher's labels as (N, L, …) of the data set's, NaN where it does not know a label."""
    out = values.new_full((len(values), len(columns), *values.shape[2:]), torch.nan)
    for label, column in enumerate(columns):
        if column is not None:
            out[:, label] = values[:, column]
    return out


def unknown_labels(dataset: Dataset, columns: Sequence[int | None]) -> list[str]:
    """The labels of a data set for which a teacher has no column."""
    return [label for label, column in zip(dataset.labels, columns, strict=True) if column is None]
