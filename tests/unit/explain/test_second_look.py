"""Planted wrong labels come first; what is unknown, or likelier right than wrong, is never in the list."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from medistill.data.dataset import Dataset
from medistill.explain.second_look import find_doubts, write_doubts
from medistill.task import Task

LABELS = ["Mass", "Nodule"]
IMAGES = 120


def dataset(targets: np.ndarray, task: Task = Task.MULTILABEL) -> Dataset:
    labels = LABELS[: targets.shape[1]] if targets.shape[1] < 3 else [*LABELS, "None"]
    rows = {
        "image_id": [f"i{k:03d}" for k in range(len(targets))],
        "split": [("train", "val", "test")[k % 3] for k in range(len(targets))],
    }
    rows |= {f"label:{label}": targets[:, k].astype(np.float32) for k, label in enumerate(labels)}
    return Dataset(Path(), "made up", "csv", task, labels, 32, 1, "pad", "", pd.DataFrame(rows))


def predictions(folder: Path, data: Dataset, logits: np.ndarray, name: str) -> Path:
    table = data.manifest[["image_id", "split"]].assign(
        **{f"logit:{la}": logits[:, k] for k, la in enumerate(data.labels)}
    )
    path = folder / f"{name}.parquet"
    table.sample(frac=1, random_state=0).to_parquet(path)
    return path


def problem(folder: Path):
    """Labels of which a tenth is written down wrongly, and two teachers that are fairly right about the true ones."""
    random = np.random.default_rng(0)
    true = (random.random((IMAGES, 2)) < 0.4).astype(float)
    flipped = random.random(true.shape) < 0.1
    data = dataset(np.where(flipped, 1 - true, true))
    logits = {name: 4 * true - 2 + random.normal(size=true.shape) for name in ("a", "b")}
    return data, flipped, logits, {name: predictions(folder, data, own, name) for name, own in logits.items()}


def test_wrong_labels_come_first(tmp_path):
    data, flipped, _, files = problem(tmp_path)
    losses = np.zeros((IMAGES, 2))
    for doubt in find_doubts(data, files, most=1000):
        losses[int(doubt.image_id[1:]), LABELS.index(doubt.label)] = doubt.loss
    held_out = data.manifest["split"] != "train"
    assert not losses[~held_out].any()  # teachers have learnt these
    assert roc_auc_score(flipped[held_out].ravel(), losses[held_out].ravel()) > 0.9
    first = find_doubts(data, files, most=8)
    assert np.mean([flipped[int(d.image_id[1:]), LABELS.index(d.label)] for d in first]) > 0.7


def test_the_figures_are_the_means_over_teachers(tmp_path):
    data, _, logits, files = problem(tmp_path)
    found = find_doubts(data, files)
    assert [d.loss for d in found] == sorted([d.loss for d in found], reverse=True)
    for doubt in found:
        n, k = int(doubt.image_id[1:]), LABELS.index(doubt.label)
        chances = [1 / (1 + np.exp(-np.float32(own[n, k]))) for own in logits.values()]
        truth = data.manifest[f"label:{doubt.label}"][n]
        assert doubt.present == (truth == 1)
        assert doubt.probability == pytest.approx(np.mean(chances))
        assert doubt.loss == pytest.approx(np.mean([log_loss([truth], [p], labels=[0, 1]) for p in chances]), rel=1e-5)
        assert doubt.loss > np.log(2)
        assert doubt.split == data.manifest["split"][n]


def test_unknown_labels_are_not_doubted_and_without_teachers_nothing_is(tmp_path):
    data, _, logits, _ = problem(tmp_path)
    unknown = dataset(np.full((IMAGES, 2), np.nan))
    assert find_doubts(unknown, {"a": predictions(tmp_path, unknown, logits["a"], "c")}) == []
    assert find_doubts(data, {}) == []


def test_a_class_is_doubted_where_another_is_likelier(tmp_path):
    truth = np.eye(3)[np.arange(60) % 3]
    data = dataset(truth, Task.MULTICLASS)
    logits = 3 * truth
    logits[[4, 7, 9]] = [[0, 0, 5], [2, 0, 0], [0, 9, 0]]  # 4: test, 7: test, 9: train
    (worst, next_) = find_doubts(data, {"a": predictions(tmp_path, data, logits, "a")})
    assert (worst.image_id, worst.label, worst.instead, worst.present) == ("i004", "Nodule", "None", True)
    assert (next_.image_id, next_.label, next_.instead) == ("i007", "Nodule", "Mass")
    assert worst.probability == pytest.approx(1 / (2 + np.exp(5)))


def test_the_list_can_be_read_by_anybody(tmp_path):
    data, _, _, files = problem(tmp_path)
    found = find_doubts(data, files)
    write_doubts(tmp_path / "list.csv", found)
    table = pd.read_csv(tmp_path / "list.csv")
    assert table["image_id"].tolist() == [doubt.image_id for doubt in found]
    assert table["loss"].tolist() == pytest.approx([doubt.loss for doubt in found], rel=1e-5)
    odd = replace(found[0], image_id="a\x1b[2J\nb", label="=SUM(1+1)", instead="-1")
    write_doubts(tmp_path / "odd.csv", [odd])
    (row,) = pd.read_csv(tmp_path / "odd.csv").itertuples()
    assert (row.image_id, row.label, row.instead) == (r"a\x1b[2J\nb", "label:=SUM(1+1)", "label:-1")
    write_doubts(tmp_path / "none.csv", [])
    assert pd.read_csv(tmp_path / "none.csv").empty
