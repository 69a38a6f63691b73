"""What a training writes: config.json and metrics.json of a model, and the columns of its tables."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypedDict

from pydantic import ConfigDict, Field, JsonValue

from medistill.records.base import Content, JsonObject, KnownTask, Plain, Record

Fit = Literal["pad", "squash", "crop"]
"""How a frame was made square."""

Role = Literal["teacher", "baseline", "distilled"]
"""Of a model in its run: assistants are teachers, and a student without teachers is a baseline."""

LOGIT_PREFIX = "logit:"
"""Of the columns of predictions.parquet, one per label; before them `PREDICTION_COLUMNS`."""

PREDICTION_COLUMNS = ("image_id", "group_id", "split")


class InheritedRecord(Content):
    """What a network has started with of another network's weights.

    Attributes:
        tensors: how many were taken, whole or in part.
        params: how many parameters of the network these are.
        share: of all its parameters.
        identities: residual blocks that the other network lacks, which start as the identity.
        opened: squeeze-excitations that it lacks, which start open.
    """

    tensors: int
    params: int
    share: float
    identities: list[str]
    opened: list[str]


Terms = list[JsonObject]
"""Losses of a recipe with their options."""


class StageRecord(Content):
    """A stage of a recipe.

    Attributes:
        terms: its losses.
        epochs: how many it has; None: what the other stages leave.
        unlabelled: whether images without labels were shown.
    """

    terms: Terms
    epochs: int | None = None
    unlabelled: bool


class ModelRecord(Record):
    """config.json: what a trained model is, and how it came about.

    Attributes:
        role: of the model in the run.
        name: of its folder, stage and run.
        student, recipe: of a student: its keys in params.yaml.
        seed: initialisation, order of images, dropout.
        teachers, combine, calibrate, terms, views, unlabelled, stages: the recipe, where it was trained by one.
        network, training, augmentation: the settings with which it was built and trained.
        fingerprint: of all that decides the training.
        weights_sha256: of the file of initial weights that a user gave.
        arch, args: by which timm builds the network; or what else the teacher is, such as `onnx`.
        initialisation: where its weights came from before the training.
        inherited: what it has of another network, where it started with a part of that one.
        input_size: height and width that the network sees in pixels; None: those of the frames.
        labels: in the order of the logits.
        mean, std: normalisation of images in 0..1, one number per channel of the network.
        task, image_size, channels, fit: of the data set, see `Dataset`.
        params, macs: what the network costs where it runs, on one RGB image of `image_size`; None where that is not
            known, as of a table of answers.
        measured: whether it has answered all images of val and test; without that it has no figures.
        params_in_training, macs_in_training: the same while it trains, where that is more.
        map_size: height and width of the last feature map; None of a network without one.
        dataset, dataset_fingerprint: name and fingerprint of the data set it was trained on.
        versions: of the libraries that trained it.
        model_sha256: of its weights.
    """

    role: Role
    name: str
    student: str | None = None
    recipe: str | None = None
    seed: int | None = None
    teachers: list[str] = []
    combine: str | None = None
    calibrate: bool | None = None
    terms: Terms | None = None
    views: str | None = None
    unlabelled: bool | None = None
    stages: list[StageRecord] | None = None
    network: JsonObject
    training: JsonObject | None = None
    augmentation: JsonObject | None = None
    fingerprint: str
    weights_sha256: str | None = None
    arch: str
    args: JsonObject
    initialisation: str
    inherited: InheritedRecord | None = None
    input_size: int | None = None
    labels: list[str]
    mean: list[float]
    std: list[float]
    task: KnownTask
    image_size: int
    channels: int
    fit: Fit
    params: int | None
    macs: int | None
    measured: bool = True
    params_in_training: int | None = None
    macs_in_training: int | None = None
    map_size: list[int] | None
    dataset: str
    dataset_fingerprint: str
    versions: dict[str, str]
    model_sha256: str

    @property
    def costs(self) -> tuple[int, int]:
        """`params` and `macs` of a model that was trained here: of those both are known."""
        assert self.params is not None
        assert self.macs is not None
        return self.params, self.macs

    @property
    def measured_labels(self) -> list[str] | None:
        """Labels that it has figures for; None: all of the data set."""
        return None if self.role != "teacher" else self.labels if self.measured else []

    def why_unexplained(self, labels: Sequence[str]) -> str | None:
        """Why its heat maps of `labels`, the data set's, are not measured; None if they are."""
        missing = [label for label in labels if label not in self.labels]
        if self.map_size is None:
            return "it has no feature map"
        return f"it does not know {', '.join(missing)}" if missing and self.role == "teacher" else None


class Config(TypedDict, total=False):
    """What a network in memory knows of itself, with the keys of `ModelRecord`.

    A new one knows how it was built (up to `std`), one that was loaded all that its config.json says.
    """

    arch: str
    args: dict[str, Any]  # timm's own, so that they are handed on as they are
    initialisation: str
    inherited: InheritedRecord | None
    input_size: int | None
    labels: list[str]
    mean: list[float]
    std: list[float]
    name: str
    task: str
    image_size: int
    channels: int
    fit: str
    fingerprint: str
    model_sha256: str


class TrainingMetrics(Plain):
    """metrics.json of a model: what its training has measured; of a model that was not trained here only its costs.

    Attributes:
        best_epoch: from 1, the epoch whose weights were kept.
        val_macro_auroc: of that epoch, on validation.
        train_seconds: spent training and validating.
    """

    params: int | None
    macs: int | None
    best_epoch: int | None = None
    val_macro_auroc: float | None = None
    train_seconds: float | None = None


class Beside(Content):
    """config.json beside a user's own weights: a ModelRecord, or as much of one as the user has typed.

    Attributes:
        arch, args, input_size, image_size, labels, mean, std, task: as in `ModelRecord`; who typed a value of another
            type learns what the network has instead.
    """

    model_config = ConfigDict(strict=False)

    arch: str | None = None
    args: JsonValue = None
    input_size: JsonValue = None
    image_size: JsonValue = None
    labels: list[str] | None = None
    mean: JsonValue = None
    std: JsonValue = None
    task: JsonValue = None


class KnowledgeRecord(Record):
    """knowledge.json: what a teacher was asked about the training images, and by which weights it answered.

    Attributes:
        teacher: its name.
        labels: in the order of its logits.
        views, view_seed: how many views of each image it answered, and the seed of the views.
        every_view: the answers are the same for every view, and stand there once; NaN about images without an answer.
        answers: kinds of answers besides logits that it was asked for; it has given those that its `map_shape` allows.
        map_shape: channels, height and width of its last feature map; of one without a map the number of its pooled
            features alone; empty without either.
        augmentation: ranges of the views.
        dataset_fingerprint: of the data set whose images they are.
        teacher_sha256: of its weights when it answered. Its settings would not suffice: on another machine, or with
            another number of processes, they give different weights.
        checksum: of all answers and of what they are about.
    """

    teacher: str
    labels: list[str]
    views: int
    view_seed: int
    every_view: bool = False
    answers: list[str]
    map_shape: list[int]
    augmentation: JsonObject
    dataset_fingerprint: str
    teacher_sha256: str
    checksum: str


class LabelCalibration(Content):
    """How a teacher's logits of a label are calibrated.

    Attributes:
        slope, intercept: a logit is multiplied by the slope, then the intercept is added.
        positives, negatives: images of the validation split.
        fitted: whether they suffice; otherwise the logits stay as they are.
    """

    slope: float
    intercept: float
    positives: int
    negatives: int
    fitted: bool


class CalibrationRecord(Plain):
    """calibration.json: what a teacher's answers on validation say about its logits.

    Attributes:
        labels: those that the teacher and the data set both know.
    """

    labels: dict[str, LabelCalibration]


class AnsweredSoFar(Record):
    """progress.json: how far a teacher has come.

    Attributes:
        identity: of all that decides the answers, the code among it.
        arrays: shape of each kind of answer.
        parts: number of images that were answered in full, and the checksum of the answers since the part before.
    """

    identity: str
    arrays: dict[str, list[int]]
    parts: list[Annotated[tuple[int, str], Field(strict=False)]]
