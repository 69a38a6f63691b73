"""Why the student of the built-in run stays behind its teacher: variants of its training, on validation.

    make repro && python -m benchmarks.built_in --workers 2

Each variant changes one thing of the built-in run's student: its start, recipe, learning rate, batch or epochs. Those
that have not been trained are, on the data and by the teacher that lie in this checkout; for losses of maps or
features `answers: [cams, features]` must stand under `teach`. Figures are kept in benchmarks/outcomes/built_in.jsonl,
and docs/results.md has the table. Only validation images are looked at.
"""

import argparse
import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.outcomes import FOLDER
from benchmarks.page import write_between
from medistill.data.dataset import Dataset
from medistill.distillation.settings import Recipe
from medistill.distillation.train import train_by_recipe
from medistill.layout import ModelFolder
from medistill.models.settings import Start
from medistill.params import StudentModel, load_params
from medistill.records.models import TrainingMetrics
from pipeline import trainings
from pipeline.stage import keep_freed_memory

FILE = FOLDER / "built_in.jsonl"
WORK = Path(".cache/built_in")
LITE2, EEEA = "efficientnet_lite2", "eeea_net_c2"


@dataclass(frozen=True)
class Variant:
    """One training of the student.

    Attributes:
        changed: what is other than in the built-in run, in words.
        terms: losses of its recipe; none: the baseline.
        select: which channels of EfficientNet-Lite2 it starts from.
        training: keys of its training.
    """

    changed: str
    terms: list[dict[str, Any]] = field(default_factory=list)
    select: str = "uniform"
    training: dict[str, Any] = field(default_factory=dict)


def _kd(weight: float = 0.5, temperature: float = 1.0, loss: str = "sigmoid_kd") -> list[dict[str, Any]]:
    warm = {"temperature": temperature} if temperature != 1 else {}
    return [{"loss": "binary_cross_entropy", "weight": 1 - weight}, {"loss": loss, "weight": weight} | warm]


VARIANTS = [
    Variant("baseline"),
    Variant("kd", _kd()),
    Variant("baseline, channels by importance", select="importance"),
    Variant("kd, channels by importance", _kd(), select="importance"),
    Variant("kd, weight 0.9, temperature 4", _kd(0.9, 4.0)),
    Variant("mse_kd in place of sigmoid_kd", _kd(loss="mse_kd")),
    Variant("kd, twice the learning rate", _kd(), training={"learning_rate": 0.004}),
    Variant("kd, half the batch and learning rate", _kd(), training={"learning_rate": 0.001, "batch_size": 8}),
    Variant("kd and cam_kd", [*_kd(), {"loss": "cam_kd", "weight": 0.5}]),
    Variant("kd and feature_mse", [*_kd(), {"loss": "feature_mse", "weight": 1.0}]),
    Variant("baseline, twice the epochs", training={"epochs": 16}),
    Variant("kd, twice the epochs", _kd(), training={"epochs": 16}),
]


def make(variant: Variant) -> dict[str, Any]:
    """Train a variant, and return its settings and figures."""
    torch.set_num_threads(1)
    keep_freed_memory()
    params, dataset = load_params(), Dataset.open()
    recipe = Recipe(teachers=[LITE2] if variant.terms else [], terms=variant.terms)
    spec = trainings.student_spec(params, StudentModel(student=EEEA, recipe="kd", seed=0))
    start = Start(arch="tf_efficientnet_lite2", pretrained=True, select=variant.select)
    network = spec.network.model_copy(update={"init_from": start})
    training = spec.training.model_copy(update=variant.training)
    spec = replace(spec, name=variant.changed, network=network, training=training, recipe=recipe)
    teachers = trainings.open_teachers(recipe, dataset, params)
    folder = WORK / variant.changed.replace(" ", "_").replace(",", "")
    train_by_recipe(folder, spec, dataset, teachers, checkpoints=WORK / "checkpoints")
    found = TrainingMetrics.read(ModelFolder(folder).metrics, "run this again")
    shutil.rmtree(folder)
    return asdict(variant) | {"best_epoch": found.best_epoch, "val_macro_auroc": found.val_macro_auroc}


def known() -> dict[str, dict[str, Any]]:
    """What has been trained, by the settings of the variant."""
    if not FILE.is_file():
        return {}
    rows = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    return {key_of({name: row[name] for name in asdict(VARIANTS[0])}): row for row in rows}


def key_of(settings: dict[str, Any]) -> str:
    """By which a variant is known: its settings."""
    return json.dumps(settings, sort_keys=True)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| variant | epochs | best epoch | validation macro AUROC |", "|---|---:|---:|---:|"]
    for row in rows:
        epochs = row["training"].get("epochs", 8)
        lines.append(f"| {row['changed']} | {epochs} | {row['best_epoch']} | {row['val_macro_auroc']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--no-training", action="store_true", help="write the table of what is there")
    arguments = parser.parse_args()
    missing = [variant for variant in VARIANTS if key_of(asdict(variant)) not in known()]
    if not arguments.no_training:
        with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
            for row in pool.map(make, missing):
                with FILE.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
    found = known()
    write_between(
        "docs/results.md",
        "built_in",
        table([found[key_of(asdict(variant))] for variant in VARIANTS if key_of(asdict(variant)) in found]),
    )


if __name__ == "__main__":
    main()
