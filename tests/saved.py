"""Folders of models as the pipeline saves them, and of a user's own weights."""

from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from medistill.checksums import checksums, write_record
from medistill.layout import ModelFolder
from medistill.models.classifier import Classifier
from medistill.models.weights import save_model
from tests.filled import model_record


def save_filled(folder: Path, model: Classifier, **changes: Any) -> None:
    """Write a model's folder with a record of `model_record`."""
    record = model_record(**{**model.config, **changes})
    save_model(folder, model, record.model_dump(exclude={"model_sha256", "files"}))


def save_weights(folder: Path, model: Classifier, beside: dict[str, Any]) -> None:
    """Write a user's own weights, with `beside` as the config.json next to them."""
    files = ModelFolder(folder)
    save_file({name: value.contiguous() for name, value in model.backbone.state_dict().items()}, files.weights)
    write_record(files.config, {**beside, "files": checksums([files.weights], folder)})
