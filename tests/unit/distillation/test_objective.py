"""A recipe's loss is the weighted sum of its terms, and only those that fit the task."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medistill.config import Recipe
from medistill.data.dataset import Dataset
from medistill.distillation.functional import dkd, softmax_kd
from medistill.distillation.objective import build_objective
from medistill.errors import UserError
from medistill.training.loop import Batch


class Answers:
    """A teacher that says the same whatever it is asked."""

    def __init__(self, logits: np.ndarray) -> None:
        self._logits = logits

    def logits(self, image_ids, view):
        return self._logits


@pytest.fixture
def classes(tiny_dataset):
    """The tiny data set with three exclusive classes, rare ones and common ones."""
    manifest = tiny_dataset.manifest.drop(columns=[f"label:{label}" for label in tiny_dataset.labels])
    number = np.array([0, 0, 0, 1, 1, 2] * len(manifest))[: len(manifest)]
    manifest = manifest.assign(**{f"label:{name}": (number == k).astype(np.float32) for k, name in enumerate("abc")})
    return Dataset(**(vars(tiny_dataset) | {"manifest": manifest, "labels": list("abc"), "task": "multiclass"}))


def batch(targets: torch.Tensor) -> Batch:
    return Batch([str(number) for number in range(len(targets))], 0, targets)


def recipe(*terms: dict, teachers: int = 1) -> Recipe:
    return Recipe(teachers=["a", "b", "c"][:teachers], terms=list(terms))


def test_a_recipe_without_terms_is_the_tasks_loss(tiny_dataset, classes):
    logits = torch.randn(6, 2)
    targets = torch.tensor([[1.0, 0.0]] * 6)
    values = build_objective(Recipe(), tiny_dataset)(logits, batch(targets))
    assert values["loss"].item() == pytest.approx(F.binary_cross_entropy_with_logits(logits, targets).item())
    assert set(values) == {"loss", "binary_cross_entropy"}
    logits, number = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    values = build_objective(Recipe(), classes)(logits, batch(F.one_hot(number, 3).float()))
    assert values["loss"].item() == pytest.approx(F.cross_entropy(logits, number).item(), rel=1e-6)


def test_the_loss_of_exclusive_classes_is_the_sum_of_its_terms(classes):
    logits, teacher = torch.randn(6, 3), np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    number = torch.tensor([0, 1, 2, 0, 1, 2])
    targets = F.one_hot(number, 3).float()
    terms = [
        {"loss": "cross_entropy", "weight": 0.1},
        {"loss": "softmax_kd", "weight": 0.5, "temperature": 2},
        {"loss": "dkd", "weight": 2.0, "beta": 4},
        {"loss": "softmax_kd"},
    ]
    values = build_objective(recipe(*terms), classes, [Answers(teacher)])(logits, batch(targets))
    answer = torch.from_numpy(teacher)
    parts = [
        0.1 * F.cross_entropy(logits, number),
        0.5 * softmax_kd(logits, answer, temperature=2),
        2 * dkd(logits, answer, target=targets, beta=4),
        softmax_kd(logits, answer),
    ]
    assert values["loss"].item() == pytest.approx(sum(parts).item(), rel=1e-6)
    assert list(values) == ["loss", "cross_entropy", "softmax_kd", "dkd", "softmax_kd_2"]
    assert values["softmax_kd_2"].item() == pytest.approx(parts[3].item(), rel=1e-6)


def test_balanced_terms_count_the_training_labels(tiny_dataset, classes):
    train = tiny_dataset.targets(tiny_dataset.split("train"))
    ratio = torch.from_numpy((train == 0).sum(0) / (train == 1).sum(0)).float()
    logits, targets = torch.randn(6, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0]] * 3)
    objective = build_objective(recipe({"loss": "binary_cross_entropy", "balanced": True}, teachers=0), tiny_dataset)
    expected = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=ratio)
    assert objective(logits, batch(targets))["loss"].item() == pytest.approx(expected.item(), rel=1e-5)

    counts = torch.from_numpy(classes.targets(classes.split("train")).sum(0))
    logits, number = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    objective = build_objective(recipe({"loss": "cross_entropy", "balanced": True}, teachers=0), classes)
    expected = F.cross_entropy(logits, number, weight=counts.sum() / counts)
    value = objective(logits, batch(F.one_hot(number, 3).float()))["loss"]
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"loss": "dkd"}, "dkd is for exclusive classes, and the labels of this data set are not; take sigmoid_kd"),
        ({"loss": "logit_standardized_kd"}, "logit_standardized_kd is for exclusive classes"),
        ({"loss": "softmax_kd"}, "softmax_kd is for exclusive classes.*or set allow_offset_blind: true"),
        ({"loss": "mse_kd", "space": "softmax"}, "mse_kd is for exclusive classes.*take the form with the sigmoid"),
        ({"loss": "dist"}, "dist is for exclusive classes"),
    ],
)
def test_what_cannot_see_an_offset_is_refused_where_labels_are_not_exclusive(tiny_dataset, term, message):
    with pytest.raises(UserError, match=message):
        build_objective(recipe(term), tiny_dataset, [Answers(np.zeros((6, 2)))])


@pytest.mark.parametrize(
    "term",
    [
        {"loss": "mse_kd", "space": "softmax", "allow_offset_blind": True},
        {"loss": "mse_kd"},
        {"loss": "dist", "activation": "sigmoid", "inter": 0},
        {"loss": "bckd"},
    ],
)
def test_what_can_or_was_asked_for_is_taken(tiny_dataset, term):
    teacher = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    objective = build_objective(recipe(term), tiny_dataset, [Answers(teacher)])
    assert objective(torch.zeros(6, 2), batch(torch.zeros(6, 2)))["loss"] > 0


def test_a_hard_loss_of_the_other_task_is_refused(tiny_dataset, classes):
    with pytest.raises(UserError, match="cross_entropy is for exclusive classes"):
        build_objective(recipe({"loss": "cross_entropy"}, teachers=0), tiny_dataset)
    with pytest.raises(UserError, match="focal_bce is for labels that are not exclusive; take cross_entropy"):
        build_objective(recipe({"loss": "focal_bce"}, teachers=0), classes)


def test_labels_that_no_teacher_knows_have_the_hard_loss_alone(tiny_dataset):
    teacher = np.full((6, 2), np.nan, np.float32)
    teacher[:, 0] = 1.5
    terms = [{"loss": "binary_cross_entropy"}, {"loss": "sigmoid_kd"}]
    logits = torch.randn(6, 2, requires_grad=True)
    targets = torch.full((6, 2), float("nan"))
    values = build_objective(recipe(*terms), tiny_dataset, [Answers(teacher)])(logits, batch(targets))
    values["loss"].backward()
    assert (logits.grad[:, 0] != 0).all()
    assert (logits.grad[:, 1] == 0).all()
