"""Training by a recipe from Python, in two stages, and in a folder that is no checkout."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from medistill.augmentation import Augmentation
from medistill.data.dataset import Dataset
from medistill.data.provenance import NOTHING
from medistill.distillation.settings import Recipe
from medistill.distillation.train import train_by_recipe
from medistill.models.settings import Network
from medistill.records.models import ModelRecord
from medistill.training.settings import Training
from medistill.training.spec import TrainingSpec

NO_CHECKOUT = "import importlib.util\nassert importlib.util.find_spec('pipeline') is None, 'this is a checkout'\n"


class Patients:
    """A teacher that answers with the number of an image's patient."""

    name, checksum, seen, map_shape, unknown = "patients", "c0ffee", NOTHING, (3, 2, 2), ()

    def answer(self, batch, needs):
        number = torch.tensor([int(image_id[:5]) / 30 for image_id in batch.image_ids])
        return {"logits": torch.stack([number, -number], 1), "features": torch.stack([number] * 3, 1)}


def test_a_student_is_taught_in_two_stages(tiny_dataset, tmp_path):
    """Features of all images first, without their labels; then the task, by the images that have labels."""
    manifest = tiny_dataset.manifest.copy()
    labels = [f"label:{label}" for label in tiny_dataset.labels]
    manifest.loc[manifest["image_id"].isin(tiny_dataset.split("train")["image_id"].iloc[::2]), labels] = np.nan
    dataset = replace(tiny_dataset, manifest=manifest)
    features = [{"loss": "feature_mse"}, {"loss": "rkd", "angle": 0}]
    task = [{"loss": "focal_bce", "smoothing": 0.1}, {"loss": "sigmoid_kd", "trust": True}]
    stages = [{"terms": features, "epochs": 2, "unlabelled": True}, {"terms": task}]
    spec = TrainingSpec(
        name="student",
        network=Network(arch="test_resnet"),
        training=Training(epochs=3, batch_size=8, learning_rate=0.002),
        augmentation=Augmentation(),
        recipe=Recipe(teachers=["patients"], stages=stages),
        views=2,
    )
    options = {"checkpoints": tmp_path / "checkpoints"}
    result = train_by_recipe(tmp_path / "student", spec, dataset, [Patients()], **options)
    assert (result.best_epoch, len(result.history)) == (3, 3)
    history = pd.read_csv(tmp_path / "student" / "history.csv")
    assert history["stage"].tolist() == [1, 1, 2]
    for column, present in (("train_rkd", [1, 1, 0]), ("train_sigmoid_kd", [0, 0, 1]), ("val_macro_auroc", [0, 0, 1])):
        assert history[column].notna().tolist() == present
    config = ModelRecord.read_whole(tmp_path / "student" / "config.json")
    assert [stage.epochs for stage in config.stages] == [2, None]
    assert config.stages[1].terms[1]["trust"] is True
    assert (config.role, config.terms) == ("distilled", [])

    again = train_by_recipe(tmp_path / "again", spec, dataset, [Patients()], **options)  # its finished copy
    assert again.history["train_rkd"].tolist()[:2] == pytest.approx(result.history["train_rkd"].tolist()[:2], rel=1e-5)
    baseline = replace(spec, name="baseline", recipe=Recipe())
    train_by_recipe(tmp_path / "baseline", baseline, dataset, **options)
    assert "stages" not in json.loads((tmp_path / "baseline" / "config.json").read_text())
    assert pd.read_csv(tmp_path / "baseline" / "history.csv")["step"].tolist() == history["step"].tolist()


def test_the_example_of_the_documentation_trains_a_student(root, tmp_path):
    text = (root / "docs" / "distillation.md").read_text(encoding="utf-8")
    example = text.partition("<!-- example: begin -->\n```python\n")[2].partition("```\n<!-- example: end -->")[0]
    (tmp_path / "example.py").write_text(NO_CHECKOUT + example)
    environment = os.environ | {"PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-W", "ignore", "example.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("best after epoch") == 2
    dataset = Dataset.open(tmp_path / "data")
    history = pd.read_csv(tmp_path / "models/small/history.csv")
    assert {"train_binary_cross_entropy", "train_sigmoid_kd"} <= set(history)
    predictions = pd.read_parquet(tmp_path / "models/small/predictions.parquet")
    assert len(predictions) == sum(len(dataset.split(name)) for name in ("val", "test"))
    assert np.isfinite(predictions.filter(like="logit:")).all(axis=None)
