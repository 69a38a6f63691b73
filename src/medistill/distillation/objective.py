"""From a recipe to the loss of a batch."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from medistill.data.dataset import Dataset, count_labels
from medistill.distillation import functional
from medistill.distillation.combine import combine_answers
from medistill.distillation.settings import Recipe
from medistill.distillation.teachers import Teacher
from medistill.distillation.terms import HARD_LOSS, HardTerm, Term
from medistill.errors import UserError
from medistill.task import Task
from medistill.training.trainer import Batch

MOST_EXPLAINED = 3
"""Labels of an image for explanation_kd: each costs the whole batch a pass back through a head without closed form."""
Answers = list[dict[str, Tensor]]
"""Of each teacher for a batch, see `Teacher.answer`."""


class RecipeObjective(nn.Module):
    """The loss of a recipe: the sum of its terms, each times its weight."""

    def __init__(
        self, recipe: Recipe, dataset: Dataset, teachers: Sequence[Teacher] = (), *, map_shape: Sequence[int] = ()
    ) -> None:
        """Prepare the loss of `recipe`.

        Args:
            recipe: its terms; without any, the usual loss of the data set's task.
            dataset: its task, and the training labels that balanced terms count.
            teachers: those of the recipe, in its order.
            map_shape: K, h, w of the student's feature map, for terms that compare features or maps.

        Raises:
            UserError: a term does not fit the data set's task, or compares maps that have one place only; or a teacher
                does not know one of exclusive classes.
        """
        super().__init__()
        terms = recipe.terms or [HARD_LOSS[dataset.task]]
        taught_by = zip(recipe.teachers, (teacher.map_shape for teacher in teachers), strict=False)
        shapes = {"the student": map_shape} | {f"teacher {name}": shape for name, shape in taught_by}
        for term in terms:
            require_task(term, dataset.task)
            require_places(term, shapes)
        if dataset.task.exclusive:
            for name, teacher in zip(recipe.teachers, teachers, strict=True):
                require_all_classes(name, teacher.unknown)
        self._terms = dict(zip(_names(terms), terms, strict=True))
        self._options = {name: _options(term, dataset) for name, term in self._terms.items()}
        self._with_target = {
            name for name, term in self._terms.items() if "target" in inspect.signature(_function(term)).parameters
        }
        self._teachers = list(teachers)
        self._needs = {term.needs for term in terms} - {"logits"}
        self._combine, self._exclusive = recipe.combine, dataset.task.exclusive
        self.projections = nn.ModuleDict(
            {
                name: nn.ModuleList(nn.Linear(map_shape[0], teacher.map_shape[0]) for teacher in teachers)
                for name, term in self._terms.items()
                if term.projected
            }
        )

    def forward(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`loss`, and the value of each term by name, before its weight, for logits (N, L)."""
        answers = [teacher.answer(batch, self._needs) for teacher in self._teachers]
        combined, known = logits, None
        if answers:
            stacked = torch.stack([answer["logits"] for answer in answers])
            combined, known = combine_answers(stacked, batch.targets, how=self._combine, exclusive=self._exclusive)
        values = {
            name: self._value(name, term, logits, batch, answers, combined, known) for name, term in self._terms.items()
        }
        return {"loss": sum(term.weight * values[name] for name, term in self._terms.items())} | values

    def _value(
        self, name: str, term: Term, logits: Tensor, batch: Batch, answers: Answers, combined: Tensor, known: Tensor
    ) -> Tensor:
        options = self._options[name] = _on(self._options[name], logits)  # moved to the device once
        function = _function(term)
        if isinstance(term, HardTerm):
            return function(logits, batch.targets, **options)
        if term.needs == "attention":
            return _mean(function(batch.features, answer["attention"][:, None]) for answer in answers)
        if term.needs == "features":
            pooled = batch.features.float().mean((2, 3))
            own = [project(pooled) for project in self.projections[name]] if term.projected else [pooled] * len(answers)
            return _mean(function(*pair, **options) for pair in zip(own, (a["features"] for a in answers), strict=True))
        if term.needs == "cams":
            explained = _explained(batch.targets, combined, known, likeliest=term.loss == "explanation_kd")
            return _of_maps(function, answers, batch, explained)
        if name in self._with_target:
            return function(logits, combined, target=batch.targets, mask=known.all(1), **options)
        return function(logits, combined, mask=known, **options)


def _function(term: Term) -> Callable[..., Tensor]:
    """The loss that a term is named after."""
    return getattr(functional, term.loss)


def _names(terms: Sequence[Term]) -> list[str]:
    """Each term's name, with a number where a recipe has it twice."""
    seen: Counter[str] = Counter()
    names = []
    for term in terms:
        seen[term.loss] += 1
        names.append(term.loss if seen[term.loss] == 1 else f"{term.loss}_{seen[term.loss]}")
    return names


def _options(term: Term, dataset: Dataset) -> dict:
    """Keyword arguments of the term's function, weights from the training labels among them."""
    return term.options() | (_balance(term, dataset) if getattr(term, "balanced", False) else {})


def _mean(values: Iterable[Tensor]) -> Tensor:
    """Over teachers."""
    return torch.stack(list(values)).mean()


def _explained(targets: Tensor, answer: Tensor, known: Tensor, *, likeliest: bool) -> Tensor:
    """Whose maps are compared, boolean (N, L): the labels of an image.

    With `likeliest` also the one that the teachers find likeliest, and of all these at most `MOST_EXPLAINED`.
    """
    explained = (targets == 1) & known
    if likeliest:
        answer = torch.where(known, answer, -torch.inf)
        top = answer.argmax(1, keepdim=True)
        explained = explained | (torch.zeros_like(known).scatter(1, top, True) & known)
        among = torch.where(explained, answer, -torch.inf).topk(min(MOST_EXPLAINED, answer.shape[1]), dim=1).indices
        explained = explained & torch.zeros_like(known).scatter(1, among, True)
    return explained


def _of_maps(function: Callable[..., Tensor], answers: Answers, batch: Batch, explained: Tensor) -> Tensor:
    """A loss of class activation maps, the mean over all (teacher, image, label) that there are.

    Each teacher's are compared as they are: of many sizes the largest would be another grid for the others.
    """
    # Each image's explained labels first: as many maps as one image has labels, not as the batch has. At least one,
    # which no image keeps: processes that train together must all come to the loss.
    order = torch.argsort(~explained, dim=1, stable=True)[:, : max(1, int(explained.sum(1).max()))]
    explained = explained.gather(1, order)
    maps = batch.class_maps(order)
    total, count = 0, 0
    for answer in answers:
        cams = answer["cams"].gather(1, order[:, :, None, None].expand(-1, -1, *answer["cams"].shape[2:]))
        kept = explained & ~torch.isnan(cams[:, :, 0, 0])
        known = functional.sum_over_processes(kept.sum())
        total, count = total + known * function(maps, cams, mask=kept), count + known
    return total / count.clamp(min=1)


_INSTEAD = {
    "cross_entropy": "binary_cross_entropy",
    "softmax_kd": "sigmoid_kd",
    "mse_kd": "space: sigmoid",
    "dist": "activation: sigmoid with inter: 0",
}


def traits_of(term: Term) -> functional.Traits:
    """What the loss of a term does and does not see."""
    (traits,) = [
        traits
        for name, options, traits in functional.TRAITS
        if name == term.loss and all(getattr(term, key) == value for key, value in options.items())
    ]
    return traits


def require_task(term: Term, task: Task, recipe: str = "recipes") -> None:
    """Refuse a loss for exclusive classes where labels are not, and the other way round.

    Args:
        term: of a recipe.
        task: of the data set.
        recipe: where the term stands, for the message.

    Raises:
        UserError: says what to take instead.
    """
    traits = traits_of(term)
    if not task.exclusive and traits.exclusive and not getattr(term, "allow_offset_blind", False):
        blind = "allow_offset_blind" in type(term).model_fields
        raise UserError(
            f"{recipe}: {term.loss} is for exclusive classes, and the labels of this data set are not; "
            f"take {_INSTEAD.get(term.loss, 'sigmoid_kd')}" + (", or set allow_offset_blind: true" if blind else "")
        )
    if task.exclusive and isinstance(term, HardTerm) and not traits.exclusive:
        raise UserError(f"{recipe}: {term.loss} is for labels that are not exclusive; take cross_entropy")


def require_places(term: Term, shapes: Mapping[str, Sequence[int]], recipe: str = "recipes") -> None:
    """Refuse to compare where networks look where there is but one place to look at.

    Args:
        term: of a recipe.
        shapes: K, h, w of each network's feature map, by what the network is called.
        recipe: where the term stands, for the message.

    Raises:
        UserError: names the network.
    """
    for whose, shape in shapes.items():
        if term.needs in ("attention", "cams") and tuple(shape[1:]) == (1, 1):
            raise UserError(
                f"{recipe}: {term.loss} compares maps, but that of {whose} is 1x1 at this size; raise its input_size,"
                " or data.image_size"
            )


def require_own_maps(term: Term, student: str, recipe: str = "recipes") -> None:
    """Refuse class activation maps of a student with batch norm behind its feature map.

    In training its images see each other there, and the gradient of one's logit is no map of that image alone. A
    teacher that answers is in evaluation mode, where they do not.

    Args:
        term: of a recipe.
        student: a network of that kind, for the message.
        recipe: where the term stands, for the message.

    Raises:
        UserError: the term compares such maps.
    """
    if term.needs == "cams":
        raise UserError(
            f"{recipe}: {term.loss} needs class activation maps, but {student} has batch norm behind its feature map,"
            " which mixes the images of a batch in training; take attention_transfer, or another arch"
        )


def require_all_labels(recipe: Recipe, unknown: Sequence[Sequence[str]], name: str = "recipes") -> None:
    """Refuse a recipe by which a label is not taught at all: no loss from the labels, and no teacher that knows it.

    Args:
        recipe: its terms.
        unknown: labels of the data set that each of its teachers does not know.
        name: where the recipe stands, for the message.

    Raises:
        UserError: names the first such label.
    """
    if any(isinstance(term, HardTerm) for term in recipe.terms) or not unknown:
        return
    untaught = [label for label in unknown[0] if all(label in lacking for lacking in unknown)]
    if untaught:
        raise UserError(
            f"{name}: nobody teaches the label {untaught[0]}: no teacher knows it, and no term is a loss from the"
            " labels; add one, such as binary_cross_entropy"
        )


def require_all_classes(teacher: str, unknown: Sequence[str], recipe: str = "recipes") -> None:
    """Refuse a teacher that lacks a class: what it says of the others has no level of its own under a softmax.

    Args:
        teacher: its name.
        unknown: labels of the data set that it does not know.
        recipe: where the teacher stands, for the message.

    Raises:
        UserError: there is one.
    """
    if unknown:
        raise UserError(
            f"{recipe}: teacher {teacher} does not know the class {unknown[0]}; where classes are exclusive a teacher"
            " must know them all"
        )


def _balance(term: Term, dataset: Dataset) -> dict[str, Tensor]:
    """Weights from the training labels; a label without positives or negatives weighs 1."""
    targets = dataset.targets(dataset.split("train"))
    positive, negative = count_labels(targets)
    if term.loss == "cross_entropy":
        weight = positive.sum() / np.maximum(positive, 1) / len(positive)
        return {"class_weight": torch.from_numpy(np.where(positive > 0, weight, 1).astype(np.float32))}
    weight = np.where((positive > 0) & (negative > 0), negative / np.maximum(positive, 1), 1)
    return {"positive_weight": torch.from_numpy(weight.astype(np.float32))}


def _on(options: dict, logits: Tensor) -> dict:
    """Options with their tensors on the logits' device."""
    return {key: value.to(logits.device) if isinstance(value, Tensor) else value for key, value in options.items()}
