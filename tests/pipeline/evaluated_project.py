"""A small project as the stages before `evaluate` leave it, with made-up targets and predictions."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from medistill.layout import Layout
from medistill.params import Params, load_params
from medistill.records.base import write_each
from medistill.records.data import DatasetInfo, Origin, SplitCounts
from medistill.records.estimate import Estimate
from tests.filled import agreed, expectation, gallery, latency, model_maps, model_record, parity, validation
from tests.params import with_several
from tests.seal import seal

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = '<script>alert("x")</script> & co'
LABELS = ["Effusion", "Mass", "Hernia", HOSTILE]
RARE = "Hernia"
"""A label with three positives per split, too few to be eligible."""


def write_project(
    root: Path,
    images: int = 240,
    resamples: int = 200,
    change: dict[str, Any] | None = None,
    task: str = "multilabel",
) -> Params:
    """Write params.yaml, data/processed, models and predictions under `root`; two images per patient.

    By construction distilled students are better than the teachers, and baselines worse by far more than the margin.

    Args:
        images: number in each of val and test; train has none, since nothing here reads it.
        change: sections of params.yaml to update, such as `{"run": {"seeds": [0, 1]}}`.
        task: `multilabel` or `multiclass`; for the latter, a random constant per image is added to the logits.
    """
    raw = with_several()
    raw["evaluate"] = {"resamples": resamples, "seed": 0, "net_benefit": [0.1, 0.5]}
    for section, values in (change or {}).items():
        raw[section] = raw[section] | values
    (root / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    params = load_params(root / "params.yaml")
    random = np.random.default_rng(7)
    targets = write_dataset(root, images, random, task)
    strengths = dict.fromkeys(params.run.teachers, 2.0)
    strengths |= {
        model.name: 2.4 if params.recipes[model.recipe].teachers else 1.2 for model in params.student_models()
    }
    for name, strength in strengths.items():
        logits = strength * np.nan_to_num(targets) - 2 + random.normal(size=targets.shape)
        if task == "multiclass":
            logits += random.normal(0, 5, (len(logits), 1))
        write_model(root, params, name, logits)
    return params


def write_dataset(root: Path, images: int, random: np.random.Generator, task: str = "multilabel") -> np.ndarray:
    """Write data/processed without pixels; return the targets, (2 × images, L)."""
    files = Layout(root).processed
    files.folder.mkdir(parents=True)
    split = np.repeat(["val", "test"], images)
    patients = np.array([f"p{k // 2:04d}" for k in range(2 * images)])
    targets = (random.random((2 * images, len(LABELS))) < 0.25).astype(np.float32)
    rare = LABELS.index(RARE)
    targets[:, rare] = 0
    targets[[0, 2, 4, images, images + 2, images + 4], rare] = 1
    if task == "multiclass":
        common = [k for k in range(len(LABELS)) if k != rare]
        targets[:, common] = np.eye(len(common))[random.choice(len(common), len(targets), p=[0.5, 0.3, 0.2])]
        targets[targets[:, rare] == 1] = np.eye(len(LABELS))[rare]
    targets[random.random(len(targets)) < 0.05, 0] = np.nan
    manifest = pd.DataFrame(
        {
            "image_id": [f"i{k:05d}" for k in range(2 * images)],
            "group_id": patients,
            "patient_id": patients,
            "split": split,
            "sex": np.where(np.arange(2 * images) // 2 % 2, "F", "M"),
            "age": 20.0 + np.arange(2 * images) // 2 % 60,
            "view": None,
            "source": None,
            "sha256": [f"{k:064x}" for k in range(2 * images)],
        }
    )
    for k, label in enumerate(LABELS):
        manifest[f"label:{label}"] = targets[:, k]
    manifest.to_parquet(files.manifest, index=False)
    counts = {
        name: SplitCounts(
            images=int((split == name).sum()),
            groups=len(set(patients[split == name])),
            positives={label: int((targets[split == name, k] == 1).sum()) for k, label in enumerate(LABELS)},
            negatives={label: int((targets[split == name, k] == 0).sum()) for k, label in enumerate(LABELS)},
        )
        for name in ("train", "val", "test")
    }
    info = DatasetInfo(
        name="toy <b>set</b>",
        task=task,
        labels=LABELS,
        image_size=32,
        channels=1,
        fit="pad",
        fingerprint="f" * 16,
        source=Origin(format="chestxray14", split="patient"),
        boxes=0,
        entries=2 * images + 2,
        quarantined=2,
        counts=counts,
    )
    quarantine = 'path,reason\nbad.png,truncated\n"\x1b[2J\n\u202e.png",no image\n'
    files.quarantine.write_text(quarantine, encoding="utf-8")
    seal(files.record, info)
    return targets


def write_model(root: Path, params: Params, name: str, logits: np.ndarray) -> None:
    """Write the folder of a model that predicted `logits`, rows as in the manifest."""
    student = {model.name: model for model in params.student_models()}.get(name)
    files = Layout(root).model(name)
    files.folder.mkdir(parents=True, exist_ok=True)
    network = params.students[student.student] if student else params.teachers[name]
    about: dict[str, Any] = {}
    if student:
        about = {"student": student.student, "recipe": student.recipe, "seed": student.seed}
        about |= params.recipes[student.recipe].model_dump(mode="json", include={"teachers", "combine", "terms"})
    record = model_record(
        role=params.roles()[name],
        name=name,
        arch=network.arch,
        labels=LABELS,
        initialisation="imagenet (somewhere)" if network.pretrained else "random",
        params=4_732_838 if student else 20_000_000,
        macs=290_000_000 if student else 900_000_000,
        **about,
    )
    nothing = np.array([], np.uint64)
    np.savez(files.train_ids, groups=nothing, images=nothing)
    epochs = pd.DataFrame({"epoch": [1, 2, 3], "step": [8, 16, 24], "train_loss": [0.6, 0.4, 0.3]})
    epochs.assign(val_macro_auroc=[0.6, 0.75, 0.74]).to_csv(files.history, index=False)
    manifest = pd.read_parquet(Layout(root).processed.manifest)
    table = manifest[["image_id", "group_id", "split"]].copy()
    for k, label in enumerate(LABELS):
        table[f"logit:{label}"] = logits[:, k].astype(np.float32)
    # In another order than the manifest: rows are matched by image_id.
    table.sample(frac=1, random_state=0).to_parquet(files.predictions, index=False)
    seal(files.config, record)


def write_surroundings(root: Path, params: Params) -> None:
    """Write what the other stages leave beside the evaluation: validation, exports, explanations."""
    layout = Layout(root)
    broken = f"age: expected: Ages; violated by 7 rows: {HOSTILE} (411.0)"
    expectations = [
        expectation(column="age", expected="Ages are 0 to 120 years", success=False, message=broken),
        expectation(expected="All columns", severity="critical"),
    ]
    validation(expectations, evaluated=9, warnings=[f"label {HOSTILE} is rare"]).write(layout.reports.validation)
    maps = model_maps(
        pointing_game=Estimate(0.512, 0.401, 0.623),
        chance=0.0717,
        centre_prior=0.1919,
        conclusion="better than chance and than pointing at the centre",
    )
    names = [*params.run.teachers, *(model.name for model in params.student_models())]
    explained = dict.fromkeys(names, maps)
    for model in params.student_models():
        agreement = agreed(estimate=0.6161, lower=0.55, upper=0.67, findings=31, shuffled=0.2)
        against = {"agreement_teacher": {params.run.teachers[0]: agreement}}
        explained[model.name] = maps.model_copy(update=against)
        export = layout.export(model.name)
        export.folder.mkdir(parents=True)
        export.onnx.write_bytes(b"0" * 18_960_000)
        parity(max_abs_logit_difference=2.3e-6).write(export.parity)
        seal(export.bundle, {"name": model.name})
        latency(cpu="test <cpu>", p50_ms=4.5678, p95_ms=5.4321).write(export.latency)
    write_each(layout.reports.explain.metrics, explained)
    gallery(params.student_models()[-1].name, params.run.teachers[0]).write(layout.reports.explain.gallery)
    seal(layout.reports.explain.record, {})
