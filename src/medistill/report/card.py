"""MODEL_CARD.md: the facts and limits of a model for its user."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from medistill.data.dataset import Dataset
from medistill.records.licenses import Ancestor
from medistill.records.models import ModelRecord
from medistill.report.html import render_card
from medistill.runtime.bundle import DISCLAIMER, CalledAt
from medistill.text import printable

FITS = {
    "pad": "padded with black to a square, then resized",
    "squash": "resized to a square, whatever their shape",
    "crop": "cropped to the middle square, then resized",
}
"""How an image becomes a frame, by `data.fit`."""


def model_card(
    config: ModelRecord,
    metrics: Mapping[str, object],
    dataset: Dataset,
    points: Sequence[CalledAt] = (),
    batch_size: int | None = None,
    ancestors: Sequence[Ancestor] | None = None,
    maps: bool = False,
) -> str:
    """Write the card, as Markdown.

    Args:
        config: of the model.
        metrics: its metrics.json, with what else was measured on validation.
        dataset: the ingested data.
        points: its operating points.
        batch_size: how many images the file takes at once; None: any number.
        ancestors: what the model descends from, with the licence of each; None: not recorded.
        maps: whether the exported file gives heat maps.
    """
    multiclass, (params, macs) = config.task.exclusive, config.costs
    facts = {
        "Task": "multiclass, one of several classes" if multiclass else "multilabel, each label on its own",
        "Architecture": config.arch,
        "Parameters": f"{params:,}{_in_training(config)}",
        "Multiply-accumulates": f"{macs / 1e6:,.1f} M per image of {config.image_size} px",
        "Initialisation": config.initialisation,
        "Recipe": recipe_in_words(config),
        "Seed": config.seed,
        "Fingerprint": config.fingerprint,
    }
    figures = {key: value for key, value in metrics.items() if key.startswith("val_") or key == "best_epoch"}
    return render_card(
        "card",
        config=config,
        front_matter=Markup(front_matter(config, metrics, dataset)),  # YAML has an escape of its own
        disclaimer=DISCLAIMER,
        multiclass=multiclass,
        maps=maps,
        colour="grey" if config.channels == 1 else "RGB",
        facts={key: value for key, value in facts.items() if value is not None},
        dataset=dataset,
        train=Side.of(dataset, "train"),
        val=Side.of(dataset, "val"),
        fit=FITS[config.fit],
        figures={key: _number(value) for key, value in figures.items()},
        command=Markup(printable(f"medistill predict IMAGE… --model exports/{config.name}")),  # in a block of code
        single=batch_size == 1,
        ancestors=ancestors or [],
        points=points,
    )


METRIC_TYPES = {"val_macro_auroc": "roc_auc", "val_macro_auprc": "average_precision", "val_accuracy": "accuracy"}
"""The Hub's own names of figures; others are known by ours."""


def front_matter(config: ModelRecord, metrics: Mapping[str, object], dataset: Dataset) -> str:
    """What Hugging Face's Hub reads at the top of a card, as YAML: tags, and figures as a `model-index`.

    Args:
        config: of the model.
        metrics: as for `model_card`.
        dataset: the ingested data.
    """
    import yaml

    figures = [
        {"type": METRIC_TYPES.get(key, key.removeprefix("val_")), "value": value, "name": key}
        for key, value in metrics.items()
        if key.startswith("val_") and isinstance(value, int | float)
    ]
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"name": dataset.name, "type": dataset.name, "split": "validation", "revision": dataset.fingerprint},
        "metrics": figures,
    }
    content = {
        "library_name": "onnx",
        "pipeline_tag": "image-classification",
        "license": "other",  # that of its data and weights, below
        "tags": ["medical-imaging", "knowledge-distillation", "research-only"],
        "model-index": [{"name": config.name, "results": [result] if figures else []}],
    }
    written: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=False)
    return written


@dataclass(frozen=True)
class Side:
    """Numbers of images, and of patients or other groups."""

    images: int
    groups: int

    @classmethod
    def of(cls, dataset: Dataset, split: str) -> "Side":
        """Count a split."""
        rows = dataset.split(split)
        return cls(len(rows), rows["group_id"].nunique())


def _in_training(config: ModelRecord) -> str:
    """How many parameters a network has before its branches are merged; of most nothing."""
    before = config.params_in_training
    return "" if before is None else f" ({before:,} in training, then merged)"


def recipe_in_words(config: ModelRecord) -> str:
    """The recipe, its teachers and its settings in one line."""
    recipe, teachers = config.recipe or config.role, config.teachers
    if not teachers:
        return f"{recipe}, without a teacher"
    stages = [stage.terms for stage in config.stages or []] or [config.terms or []]
    terms = ", then ".join(" + ".join(map(_term, losses)) for losses in stages)
    together = f", by {config.combine}" if len(teachers) > 1 else ""
    calibrated = ", calibrated on validation" if config.calibrate else ""
    return f"{recipe}: {terms}; distilled from {', '.join(teachers)}{together}{calibrated}"


def _term(term: Mapping[str, object]) -> str:
    """A weighted loss: `0.5 sigmoid_kd (temperature 1.0)`."""
    said = {key: value for key, value in term.items() if key not in ("loss", "weight") and value is not False}
    options = ", ".join(f"{key} {value}" for key, value in said.items())
    return f"{term['weight']:g} {term['loss']}" + (f" ({options})" if options else "")


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
