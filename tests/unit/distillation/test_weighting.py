"""Groups that weigh the same, and answers that contradict the label, against brute force."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medistill.distillation import functional
from medistill.distillation.objective import RecipeObjective
from medistill.errors import UserError
from medistill.training.batches import Batch
from tests.answers import Answers, batch, recipe


@pytest.mark.parametrize("column", ["sex", "view", "source"])
def test_every_group_counts_the_same(tiny_dataset, column):
    generator = np.random.default_rng(0)
    manifest = tiny_dataset.manifest.copy()
    manifest[column] = generator.choice(["A", "A", "A", "B", None], len(manifest))
    dataset = replace(tiny_dataset, manifest=manifest)
    labels = [f"label:{label}" for label in dataset.labels]
    manifest.loc[generator.random(len(manifest)) < 0.2, labels] = np.nan  # images that no hard loss sees
    manifest.loc[generator.random(len(manifest)) < 0.2, labels[0]] = np.nan
    rows = dataset.split("train")
    rows = rows[rows[labels].notna().any(axis=1)].reset_index(drop=True)
    groups, targets = rows[column].tolist(), torch.from_numpy(dataset.targets(rows))
    counts = {name: groups.count(name) for name in ("A", "B")}
    assert min(*counts.values(), sum(group not in counts for group in groups)) > 0
    known = counts["A"] + counts["B"]
    weights = [known / (2 * counts[group]) if group in counts else 1.0 for group in groups]

    logits = torch.randn(len(rows), 2, generator=torch.Generator().manual_seed(0))
    term = {"loss": "focal_bce", "gamma": 1.0, "group_weights": column}
    objective = RecipeObjective(recipe(term, teachers=0), dataset)
    value = objective(logits, Batch(rows["image_id"].tolist(), 0, targets))["loss"].item()
    entries, total = 0, 0.0
    for i, j in np.ndindex(len(rows), 2):
        if not targets[i, j].isnan():
            logit = logits[i, j].item() * (1 if targets[i, j] else -1)
            p = 1 / (1 + np.exp(-logit))
            total, entries = total - weights[i] * (1 - p) * np.log(p), entries + 1
    assert value == pytest.approx(total / entries, rel=1e-5)
    assert np.mean(weights) == pytest.approx(1)
    sums = [sum(w for w, group in zip(weights, groups, strict=True) if group == name) for name in ("A", "B")]
    assert sums[0] == pytest.approx(sums[1])


def test_groups_weigh_beside_classes(classes):
    manifest = classes.manifest.assign(sex=["F", "F", "M"] * (len(classes.manifest) // 3))
    dataset = replace(classes, manifest=manifest)
    rows = dataset.split("train")
    targets = torch.from_numpy(dataset.targets(rows))
    logits = torch.randn(len(rows), 3, generator=torch.Generator().manual_seed(0))
    term = {"loss": "cross_entropy", "balanced": True, "group_weights": "sex"}
    seen = Batch(rows["image_id"].tolist(), 0, targets)
    value = RecipeObjective(recipe(term, teachers=0), dataset)(logits, seen)["loss"]
    of_group = torch.tensor([len(rows) / (2 * (rows["sex"] == sex).sum()) for sex in rows["sex"]])
    of_class = targets.sum() / targets.sum(0) / 3
    losses = F.cross_entropy(logits, targets.argmax(1), weight=of_class, reduction="none")
    assert value.item() == pytest.approx(((of_group * losses).sum() / (targets @ of_class).sum()).item(), rel=1e-5)


def test_groups_that_the_data_set_does_not_have_are_refused(tiny_dataset):
    term = {"loss": "binary_cross_entropy", "group_weights": "source"}
    manifest = tiny_dataset.manifest.assign(source=None, sex="F", view=None)
    message = "^group_weights: the training images have no source; known here: sex$"
    with pytest.raises(UserError, match=message):
        RecipeObjective(recipe(term, teachers=0), replace(tiny_dataset, manifest=manifest))
    with pytest.raises(UserError, match="have no source; nor any other; leave it out"):
        RecipeObjective(recipe(term, teachers=0), replace(tiny_dataset, manifest=manifest.assign(sex=None)))


def probability(logits: np.ndarray, label: int, present: float, exclusive: bool) -> float:
    """What a teacher with these logits (L,) of an image says of its label."""
    if exclusive:
        return np.exp(logits[label]) / np.exp(logits).sum()
    return 1 / (1 + np.exp(-logits[label] if present else logits[label]))


@pytest.mark.parametrize("term", [{"loss": "sigmoid_kd"}, {"loss": "mse_kd", "space": "logits"}, {"loss": "bckd"}])
def test_answers_that_contradict_the_label_count_less(tiny_dataset, term):
    teacher = (2 * np.random.default_rng(1).normal(size=(6, 2))).astype(np.float32)
    teacher[5, 1] = np.nan
    targets = torch.tensor([[1, 0], [0, 1], [np.nan, 1], [1, 1], [0, 0], [1, 1]]).float()
    logits, answer = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.from_numpy(teacher)
    objective = RecipeObjective(recipe(term | {"trust": True}), tiny_dataset, [Answers(teacher)])
    value = objective(logits, batch(targets))["loss"]
    options = {key: value for key, value in term.items() if key != "loss"}
    total, less = 0.0, 0
    for i, j in np.ndindex(6, 2):
        if (i, j) == (5, 1):
            continue
        p = probability(teacher[i], j, targets[i, j].item(), exclusive=False)
        weight = p if p < 0.5 and not targets[i, j].isnan() else 1.0
        less += weight < 1
        entry = getattr(functional, term["loss"])(logits[i, j].view(1, 1), answer[i, j].view(1, 1), **options)
        total += weight * entry.item() / 11
    assert less > 1
    assert value.item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("loss", ["softmax_kd", "logit_standardized_kd", "dkd", "sigmoid_kd"])
def test_of_exclusive_classes_whole_images_count_less(classes, loss):
    teacher = (2 * np.random.default_rng(1).normal(size=(6, 3))).astype(np.float32)
    targets = F.one_hot(torch.tensor([0, 1, 2, 0, 1, 2]), 3).float()
    if loss != "dkd":  # which leaves such images out
        targets[5] = np.nan
    logits, answer = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.from_numpy(teacher)
    objective = RecipeObjective(recipe({"loss": loss, "trust": True}), classes, [Answers(teacher)])
    value, total, less = objective(logits, batch(targets))["loss"], 0.0, 0
    for i in range(6):
        of_class = int(targets[i].nan_to_num().argmax())
        p = probability(teacher[i], of_class, 1.0, exclusive=True)
        weight = p if p < 0.5 and not targets[i].isnan().any() else 1.0
        less += weight < 1
        more = {"target": targets[i : i + 1]} if loss == "dkd" else {}
        total += weight * getattr(functional, loss)(logits[i : i + 1], answer[i : i + 1], **more).item() / 6
    assert less > 1
    assert value.item() == pytest.approx(total, rel=1e-5)


def test_images_cannot_be_trusted_where_labels_are_not_exclusive(tiny_dataset):
    term = {"loss": "softmax_kd", "allow_offset_blind": True, "trust": True}
    message = r"trust weighs whole images in softmax_kd, but .* not exclusive; use sigmoid_kd, mse_kd or bckd$"
    with pytest.raises(UserError, match=message):
        RecipeObjective(recipe(term), tiny_dataset, [Answers(np.zeros((6, 2)))])
