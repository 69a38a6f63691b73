"""MODEL_CARD.md: what a person must know before using the model."""

from typing import Any

from medistill.data.dataset import Dataset
from medistill.report.html import markdown
from medistill.runtime.bundle import DISCLAIMER
from medistill.task import Task

_FITS = {
    "pad": "padded with black to a square, then resized",
    "squash": "resized to a square, whatever their shape",
    "crop": "cropped to the middle square, then resized",
}


def model_card(config: dict[str, Any], metrics: dict[str, Any], dataset: Dataset, batch_size: int | None = None) -> str:
    """Write the card, as Markdown.

    Args:
        config: the model folder's config.json.
        metrics: its metrics.json, with what else was measured on validation.
        dataset: the ingested data.
        batch_size: how many images the file takes at once; None: any number.
    """
    train, val = dataset.split("train"), dataset.split("val")
    multiclass = Task(config["task"]).exclusive
    colour = "grey" if config["channels"] == 1 else "RGB"
    size = config["image_size"]
    facts = {
        "Task": "multiclass, one of several classes" if multiclass else "multilabel, each label on its own",
        "Architecture": config["arch"],
        "Parameters": f"{config['params']:,}{_in_training(config)}",
        "Multiply-accumulates": f"{config['macs'] / 1e6:,.1f} M an image of {size} px",
        "Initialisation": config["initialisation"],
        "Recipe": _recipe(config),
        "Seed": config.get("seed"),
        "Fingerprint": config["fingerprint"],
    }
    scope = (
        "It knows the classes above and nothing else, and always names one: its probabilities sum to 1."
        if multiclass
        else "It knows the labels above and nothing else; a low probability everywhere does not mean a healthy image."
    )
    figures = {key: value for key, value in metrics.items() if key.startswith("val_") or key == "best_epoch"}
    lines = [
        f"# {markdown(config['name'])}",
        "",
        f"**{DISCLAIMER}.** Its answers must not guide the care of anybody.",
        "",
        f"A {'single-label' if multiclass else 'multi-label'} image classifier, made for small devices. It takes "
        f"one {colour} image and gives one number a label.",
        "",
        *_table(("", ""), [(key, value) for key, value in facts.items() if value is not None]),
        "",
        "## Labels",
        "",
        "The classes, one of which is right:"
        if multiclass
        else "Each is judged on its own; none, one or several may be present:",
        "",
        *[f"{number}. {markdown(label)}" for number, label in enumerate(config["labels"], 1)],
        "",
        "## Data",
        "",
        f"{markdown(dataset.name)} (fingerprint `{markdown(dataset.fingerprint)}`): trained on {len(train):,} images "
        f"of {train['group_id'].nunique():,} patients or other groups, validated on {len(val):,} images of "
        f"{val['group_id'].nunique():,}.",
        "",
        f"Images are {_FITS[config['fit']]} to {size}×{size} px, {colour}, 8 bits. Scaling and normalisation are in "
        "the graph.",
        "",
        "## Measured on validation",
        "",
        *_table(("figure", "value"), [(key, _number(value)) for key, value in figures.items()]),
        "",
        "The same images chose the epoch and rank the candidates, so that the figures flatter the model a little. The "
        "report of the run that made it has figures on test data, with intervals, beside baseline and teachers.",
        "",
        "## Use",
        "",
        "```",
        f"medistill predict IMAGE… --model exports/{config['name']}",
        "```",
        "",
        f"Probabilities are the {'softmax' if multiclass else 'sigmoid'} of the logits. They are not calibrated, "
        "and no threshold comes with them. `parity.json` compares the file with the network that was trained, "
        "`latency.json` says how fast it is, and on which processor.",
        *(["", "The file takes one image at a time."] if batch_size == 1 else []),
        "",
        "## Limits",
        "",
        f"- {scope}",
        "- It answers for any image, also for one of a kind that it has never seen.",
        "- Nothing is known of its quality on other devices, hospitals, projections, ages or prevalences.",
        "- Labels of public data sets are often read from reports by a program, and contain that program's errors.",
    ]
    return "\n".join(lines) + "\n"


def _in_training(config: dict[str, Any]) -> str:
    """How many parameters a network has before its branches are merged; of most nothing."""
    return f" ({config['params_in_training']:,} in training, then merged)" if "params_in_training" in config else ""


def _recipe(config: dict[str, Any]) -> str:
    """The recipe, its teachers and its settings in one line."""
    recipe, teachers = config.get("recipe", config["role"]), config.get("teachers") or []
    if not teachers:
        return f"{recipe}, without a teacher"
    terms = " + ".join(_term(term) for term in config["terms"])
    together = f", by {config['combine']}" if len(teachers) > 1 else ""
    return f"{recipe}: {terms}; distilled from {', '.join(teachers)}{together}"


def _term(term: dict[str, Any]) -> str:
    """A weighted loss: `0.5 sigmoid_kd (temperature 1.0)`."""
    said = {key: value for key, value in term.items() if key not in ("loss", "weight") and value is not False}
    options = ", ".join(f"{key} {value}" for key, value in said.items())
    return f"{term['weight']:g} {term['loss']}" + (f" ({options})" if options else "")


def _table(head: tuple[str, str], rows: list[tuple[str, Any]]) -> list[str]:
    return [
        f"| {head[0]} | {head[1]} |",
        "|---|---|",
        *[f"| {markdown(key)} | {markdown(value)} |" for key, value in rows],
    ]


def _number(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
