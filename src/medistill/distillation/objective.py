"""From a recipe to the loss of a batch."""

import inspect
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from medistill.config import Recipe
from medistill.data.dataset import Dataset
from medistill.distillation import functional
from medistill.distillation.knowledge import Knowledge
from medistill.distillation.maps import class_maps
from medistill.distillation.teachers import combine_answers
from medistill.distillation.terms import HARD_LOSS, HardTerm, Term
from medistill.errors import UserError
from medistill.training.loop import Batch, Objective

Loss = Callable[..., Tensor]


def build_objective(recipe: Recipe, dataset: Dataset, teachers: Sequence[Knowledge] = ()) -> Objective:
    """The loss of a recipe: the sum of its terms, each times its weight.

    Args:
        recipe: its terms; without any, the usual loss of the data set's task.
        dataset: its task, and the training labels that balanced terms count.
        teachers: the answers of the recipe's teachers.

    Returns:
        A function of logits (N, L) and their batch: `loss`, and the value of each term by name, before its weight.

    Raises:
        UserError: a term does not fit the data set's task, or no teacher knows any of its labels.
    """
    terms = recipe.terms or [HARD_LOSS[dataset.task]]
    exclusive = dataset.task == "multiclass"
    prepared = [
        (name, term, _prepare(term, dataset, teachers)) for name, term in zip(_names(terms), terms, strict=True)
    ]

    def objective(logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        answer, known = logits, None
        if teachers:
            answers = np.stack([teacher.logits(batch.image_ids, batch.view) for teacher in teachers])
            answers = torch.from_numpy(answers).to(logits.device)
            answer, known = combine_answers(answers, batch.targets, how=recipe.combine, exclusive=exclusive)
        values = {}
        for name, term, loss in prepared:
            values[name] = (
                loss(logits, batch.targets)
                if isinstance(term, HardTerm)
                else loss(logits, answer, batch=batch, known=known)
            )
        return {"loss": sum(term.weight * values[name] for name, term, _ in prepared)} | values

    return objective


def _names(terms: Sequence[Term]) -> list[str]:
    """Each term's name, with a number where a recipe has it twice."""
    seen: Counter[str] = Counter()
    names = []
    for term in terms:
        seen[term.loss] += 1
        names.append(term.loss if seen[term.loss] == 1 else f"{term.loss}_{seen[term.loss]}")
    return names


def _prepare(term: Term, dataset: Dataset, teachers: Sequence[Knowledge]) -> Loss:
    """The term's function with its options."""
    function, options = getattr(functional, term.loss), term.options()
    _require_task(term, dataset.task)
    if isinstance(term, HardTerm):
        if getattr(term, "balanced", False):
            options |= _balance(term, dataset)
        return lambda logits, targets: function(logits, targets, **_on(options, logits))
    if term.needs == "features":
        return lambda logits, answer, *, batch, known: _of_features(function, options, teachers, batch)
    if term.needs == "cams":
        likeliest = term.loss == "explanation_kd"
        return lambda logits, answer, *, batch, known: _of_maps(
            function, teachers, logits, batch, _explained(batch.targets, answer, known, likeliest)
        )
    if "target" in inspect.signature(function).parameters:
        return lambda logits, answer, *, batch, known: function(
            logits, answer, target=batch.targets, mask=known.all(1), **options
        )
    return lambda logits, answer, *, batch, known: function(logits, answer, mask=known, **options)


def _of_features(function: Loss, options: dict, teachers: Sequence[Knowledge], batch: Batch) -> Tensor:
    """The mean over teachers of a loss of pooled features."""
    pooled = batch.features.mean((2, 3))
    answers = [
        torch.from_numpy(teacher.features(batch.image_ids, batch.view)).to(pooled.device) for teacher in teachers
    ]
    return sum(function(pooled, answer, **options) for answer in answers) / len(teachers)


def _explained(targets: Tensor, answer: Tensor, known: Tensor, likeliest: bool) -> Tensor:
    """Whose maps are compared, boolean (N, L): the labels of an image, and the one that the teachers find likeliest."""
    explained = (targets == 1) & known
    if likeliest:
        top = torch.where(known, answer, -torch.inf).argmax(1, keepdim=True)
        explained = explained | (torch.zeros_like(known).scatter(1, top, True) & known)
    return explained


def _of_maps(function: Loss, teachers: Sequence[Knowledge], logits: Tensor, batch: Batch, explained: Tensor) -> Tensor:
    """The mean over teachers of a loss of class activation maps."""
    labels = torch.nonzero(explained.any(0))[:, 0].tolist()
    if not labels:
        return 0 * logits.sum()
    maps = class_maps(logits, batch.features, labels, create_graph=True)
    total = torch.zeros((), device=logits.device)
    for teacher in teachers:
        answer = torch.from_numpy(teacher.cams(batch.image_ids, batch.view)[:, labels]).to(logits.device)
        total = total + function(maps, answer, mask=explained[:, labels] & ~torch.isnan(answer[:, :, 0, 0]))
    return total / len(teachers)


def _require_task(term: Term, task: str) -> None:
    """Refuse a loss for exclusive classes where labels are not, and the other way round."""
    (traits,) = [
        traits
        for name, options, traits in functional.TRAITS
        if name == term.loss and all(getattr(term, key) == value for key, value in options.items())
    ]
    if task == "multilabel" and traits.exclusive and not getattr(term, "allow_offset_blind", False):
        blind = "allow_offset_blind" in type(term).model_fields
        raise UserError(
            f"recipes: {term.loss} is for exclusive classes, and the labels of this data set are not; "
            + ("take the form with the sigmoid, or set allow_offset_blind: true" if blind else "take sigmoid_kd")
        )
    if task == "multiclass" and isinstance(term, HardTerm) and not traits.exclusive:
        raise UserError(f"recipes: {term.loss} is for labels that are not exclusive; take cross_entropy")


def _balance(term: Term, dataset: Dataset) -> dict[str, Tensor]:
    """Weights from the training labels; a label without positives or negatives weighs 1."""
    targets = dataset.targets(dataset.split("train"))
    positive, negative = (targets == 1).sum(0), (targets == 0).sum(0)
    if term.loss == "cross_entropy":
        weight = positive.sum() / np.maximum(positive, 1) / len(positive)
        return {"class_weight": torch.from_numpy(np.where(positive > 0, weight, 1).astype(np.float32))}
    weight = np.where((positive > 0) & (negative > 0), negative / np.maximum(positive, 1), 1)
    return {"positive_weight": torch.from_numpy(weight.astype(np.float32))}


def _on(options: dict, logits: Tensor) -> dict:
    """Options with their tensors on the logits' device."""
    return {key: value.to(logits.device) if isinstance(value, Tensor) else value for key, value in options.items()}
