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
    prepared = [(name, term, _prepare(term, dataset)) for name, term in zip(_names(terms), terms, strict=True)]

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
                else loss(logits, answer, targets=batch.targets, known=known)
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


def _prepare(term: Term, dataset: Dataset) -> Loss:
    """The term's function with its options."""
    function, options = getattr(functional, term.loss), term.options()
    _require_task(term, dataset.task)
    if isinstance(term, HardTerm):
        if getattr(term, "balanced", False):
            options |= _balance(term, dataset)
        return lambda logits, targets: function(logits, targets, **_on(options, logits))
    if "target" in inspect.signature(function).parameters:
        return lambda logits, answer, *, targets, known: function(
            logits, answer, target=targets, mask=known.all(1), **options
        )
    return lambda logits, answer, *, targets, known: function(logits, answer, mask=known, **options)


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
