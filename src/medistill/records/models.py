"""What a training writes: config.json and metrics.json of a model, and the columns of its tables."""

from typing import Literal

from pydantic import ConfigDict, JsonValue

from medistill.records.base import Content, JsonObject, KnownTask, Plain, Record

LOGIT_PREFIX = "logit:"
"""Of the columns of predictions.parquet, one per label; before them `PREDICTION_COLUMNS`."""

PREDICTION_COLUMNS = ("image_id", "group_id", "split")


class ModelRecord(Record):
    """config.json: what a trained model is, and how it came about.

    Attributes:
        role: of the model in the run.
        name: of its folder, stage and run.
        student, recipe: of a student: its keys in params.yaml.
        seed: initialisation, order of images, dropout.
        teachers, combine, terms, views, unlabelled: the recipe, where it was trained by one.
        network, training, augmentation: the settings with which it was built and trained.
        fingerprint: of all that decides the training.
        weights_sha256: of the file of initial weights that a user gave.
        arch, args: by which timm builds the network.
        initialisation: where its weights came from before the training.
        input_size: height and width that the network sees in pixels; None: those of the frames.
        labels: in the order of the logits.
        mean, std: normalisation of images in 0..1, one number per channel of the network.
        task, image_size, channels, fit: of the data set, see `Dataset`.
        params, macs: what the network costs where it runs, on one RGB image of `image_size`.
        params_in_training, macs_in_training: the same while it trains, where that is more.
        map_size: height and width of the last feature map.
        dataset, dataset_fingerprint: name and fingerprint of the data set it was trained on.
        versions: of the libraries that trained it.
        model_sha256: of its weights.
    """

    role: Literal["teacher", "student"]
    name: str
    student: str | None = None
    recipe: str | None = None
    seed: int | None = None
    teachers: list[str] = []
    combine: str | None = None
    terms: list[JsonObject] | None = None
    views: str | None = None
    unlabelled: bool | None = None
    network: JsonObject
    training: JsonObject | None = None
    augmentation: JsonObject | None = None
    fingerprint: str
    weights_sha256: str | None = None
    arch: str
    args: JsonObject
    initialisation: str
    input_size: int | None = None
    labels: list[str]
    mean: list[float]
    std: list[float]
    task: KnownTask
    image_size: int
    channels: int
    fit: str
    params: int
    macs: int
    params_in_training: int | None = None
    macs_in_training: int | None = None
    map_size: list[int]
    dataset: str
    dataset_fingerprint: str
    versions: dict[str, str]
    model_sha256: str


class TrainingMetrics(Plain):
    """metrics.json of a model: what its training has measured; of a model that was not trained here only its costs.

    Attributes:
        best_epoch: from 1, the epoch whose weights were kept.
        val_macro_auroc: of that epoch, on validation.
        train_seconds: spent training and validating.
    """

    params: int
    macs: int
    best_epoch: int | None = None
    val_macro_auroc: float | None = None
    train_seconds: float | None = None


class Beside(Content):
    """config.json beside a user's own weights: a ModelRecord, or as much of one as the user has typed.

    Attributes:
        labels: in the order of the logits.
        files: checksums, where it is a record.
    """

    model_config = ConfigDict(strict=False)

    arch: str | None = None
    args: JsonObject | None = None
    input_size: JsonValue = None
    image_size: JsonValue = None
    labels: list[str] | None = None
    mean: JsonValue = None
    std: JsonValue = None
    task: str | None = None
    files: dict[str, str] = {}
