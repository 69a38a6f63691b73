"""What a model calls, by thresholds that a scan over all of validation finds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from medistill.data.dataset import Dataset
from medistill.explain.detection import called
from medistill.explain.selection import Finding
from medistill.task import Task

LABELS = ["Mass", "Rare"]


@pytest.fixture
def answers(tmp_path) -> tuple[pd.DataFrame, Path]:
    """A manifest of 80 validation images of 40 patients, two of them with the rare label, and logits."""
    rng = np.random.default_rng(0)
    ids = [f"i{k:02d}" for k in range(80)]
    manifest = pd.DataFrame({"image_id": ids, "group_id": [f"p{k // 2}" for k in range(80)], "split": "val"})
    manifest["label:Mass"] = np.float32(rng.random(80) < 0.5)
    manifest["label:Rare"] = np.float32(np.arange(80) < 4)
    logits = pd.DataFrame(
        {"image_id": ids, "split": "val"} | {f"logit:{name}": np.float32(rng.normal(size=80)) for name in LABELS}
    )
    logits["logit:Mass"] += manifest["label:Mass"]
    logits.to_parquet(tmp_path / "predictions.parquet")
    return manifest, tmp_path / "predictions.parquet"


def of(manifest: pd.DataFrame, task: Task) -> Dataset:
    return Dataset(Path(), "made up", "csv", task, LABELS, 64, 1, "pad", "", manifest)


def test_a_label_is_called_from_the_threshold_that_misses_a_tenth_at_most(answers):
    manifest, file = answers
    logits = pd.read_parquet(file)
    present = manifest["label:Mass"] == 1
    probabilities, patients = expit(logits["logit:Mass"][present].astype(np.float64)), manifest["group_id"][present]
    kept = [
        at
        for at in probabilities
        if ((probabilities < at).groupby(patients).mean().sum() + 1) / (patients.nunique() + 1) <= 0.1
    ]
    findings = [Finding(f"t{k}", label, f"t{k}", "test") for k, label in enumerate(["Mass"] * 3 + ["Rare"])]
    given = np.array([[max(kept), 0.9], [np.nextafter(max(kept), 0), 0.9], [0.99, 0.9], [0.5, 1.0]])
    found = called(of(manifest, Task.MULTILABEL), file, "m", findings, given)
    np.testing.assert_array_equal(found, [1, 0, 1, np.nan])  # nothing can be promised of the rare label


def test_a_class_is_called_where_it_is_the_most_probable(answers):
    manifest, file = answers
    findings = [Finding("a", "Mass", "a", "test"), Finding("b", "Rare", "b", "test")]
    given = np.array([[0.6, 0.4], [0.7, 0.3]])
    assert called(of(manifest, Task.MULTICLASS), file, "m", findings, given).tolist() == [1, 0]
