"""From a recipe to the loss of a batch."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from medistill.data.dataset import Dataset
from medistill.distillation import functional
from medistill.distillation.answers import answerable
from medistill.distillation.combine import combine_answers
from medistill.distillation.settings import Recipe
from medistill.distillation.teachers import Teacher
from medistill.distillation.terms import HARD_LOSS, AnyTerm, DistillationTerm, HardTerm, Term
from medistill.distillation.weighting import balance, group_weights, trust
from medistill.errors import UserError
from medistill.task import Task
from medistill.training.batches import Batch

SMALL_BATCH = 16
"""Batch size below which relations between images are unreliable."""
MOST_EXPLAINED = 3
"""Labels of an image for explanation_kd: each costs the whole batch a pass back through a head without closed form."""


@dataclass(frozen=True)
class NetworkFacts:
    """Facts about a network that decide whether it can learn or teach by a recipe.

    Attributes:
        name: for messages.
        map_shape: K, h, w of its feature map; K alone where it has no map but pooled features; of a teacher empty
            where it has neither, of a student where nothing is known.
        mixes_images: batch norm follows its feature map.
        unknown: labels of the data set that it does not know.
    """

    name: str
    map_shape: Sequence[int] = ()
    mixes_images: bool = False
    unknown: Sequence[str] = ()


def traits_of(term: Term) -> functional.Traits:
    """The traits of a term's loss with its options."""
    (traits,) = [
        traits
        for name, options, traits in functional.TRAITS
        if name == term.loss and all(getattr(term, key) == value for key, value in options.items())
    ]
    return traits


def require_task(term: Term, task: Task, at: str) -> None:
    """Refuse a loss for exclusive classes where labels are not, and the other way round.

    Args:
        term: of a recipe.
        task: of the data set.
        at: key of the term, for the message.

    Raises:
        UserError: the term does not fit; the message names an alternative.
    """
    exclusive = traits_of(term).exclusive
    if not task.exclusive and exclusive and not term.blind_on_purpose:
        raise UserError(
            f"{at}: {term.loss} is for exclusive classes, but the labels of this data set are not exclusive; use"
            f" {term.instead}"
        )
    if not task.exclusive and isinstance(term, DistillationTerm) and term.weighs_trust and term.trusts == "images":
        raise UserError(
            f"{at}: trust weighs whole images in {term.loss}, but the labels of this data set are not exclusive; use"
            " sigmoid_kd, mse_kd or bckd"
        )
    if task.exclusive and isinstance(term, HardTerm) and not exclusive:
        raise UserError(f"{at}: {term.loss} is for labels that are not exclusive; take cross_entropy")


def oddities(term: Term, task: Task, batch_size: int) -> Iterator[str]:
    """Notes on a term that its user may not expect, for batches of `batch_size` images."""
    traits = traits_of(term)
    if not task.exclusive and traits.exclusive:
        yield (
            f"{term.loss} with allow_offset_blind cannot see a constant added to all logits of an image: rankings by"
            " label, and with them AUROC, may get worse without a higher loss"
        )
    if not task.exclusive and term.compares_labels:
        yield (
            f"{term.loss} compares the labels of an image with each other, which are not exclusive; inter: 0 would"
            " leave only the comparison of images by label"
        )
    if not traits.batch_size and batch_size < SMALL_BATCH:
        yield f"{term.loss} compares the images of a batch, but a batch has only {batch_size}"


def require_fit(
    recipe: Recipe, task: Task, student: NetworkFacts, teachers: Sequence[NetworkFacts], at: str = "recipes"
) -> None:
    """Refuse a recipe that does not fit the task, its student or its teachers, before anything is trained.

    Args:
        recipe: its terms.
        task: of the data set.
        student: the network that learns by it.
        teachers: those of the recipe, in its order.
        at: key of the recipe, for messages.

    Raises:
        UserError: a loss is for the other task; it compares maps or features, and a network has none; it compares maps,
            and a feature map is 1×1; it compares class activation maps of a student with batch norm after its feature
            map, where the gradient of one image's logit depends on other images (teachers answer in evaluation mode); a
            teacher lacks one of exclusive classes, so that its logits of the others define no softmax over all; or a
            label is not taught: no teacher knows it, and there is no loss from the labels.
    """
    for key, part in recipe.named_parts(at).items():
        _require_terms(part.terms, task, student, teachers, key)
    for teacher in teachers if task.exclusive else ():
        if teacher.unknown:
            raise UserError(
                f"{at}: {teacher.name} does not know the class {teacher.unknown[0]}; where classes are exclusive a"
                " teacher must know them all"
            )
    key, last = list(recipe.named_parts(at).items())[-1]
    if not last.teachers or any(isinstance(term, HardTerm) for term in last.terms):
        return
    for label in teachers[0].unknown:
        if all(label in teacher.unknown for teacher in teachers):
            raise UserError(
                f"{key}: no term trains the label {label}: no teacher knows it, and none is a loss from the labels;"
                " add one, such as binary_cross_entropy"
            )


def _require_terms(
    terms: Sequence[Term], task: Task, student: NetworkFacts, teachers: Sequence[NetworkFacts], at: str
) -> None:
    """Refuse terms that do not fit the task, or compare what a network does not have."""
    for term in terms:
        require_task(term, task, at)
        for network in (student, *teachers):
            unknown = network is student and not network.map_shape
            if not unknown and not answerable([term.needs], network.map_shape):
                what = "compares features" if term.needs == "features" else "compares maps"
                lacks = "gives none" if term.needs == "features" else "has no feature map"
                raise UserError(f"{at}: {term.loss} {what}, but {network.name} {lacks}; take a loss of logits")
            if term.needs in ("attention", "cams") and tuple(network.map_shape[1:]) == (1, 1):
                raise UserError(
                    f"{at}: {term.loss} compares maps, but that of {network.name} is 1x1 at this size; raise its"
                    " input_size, or data.image_size"
                )
        if term.needs == "cams" and student.mixes_images:
            raise UserError(
                f"{at}: {term.loss} needs class activation maps, but {student.name} has batch norm behind its feature"
                " map, which mixes the images of a batch in training; take attention_transfer, or another arch"
            )


@dataclass(frozen=True)
class Said:
    """The outputs of a student and its teachers for a batch.

    Attributes:
        logits: the student's, (N, L).
        batch: with the student's feature map.
        answers: each teacher's, see `Teacher.answer`.
        combined: the teachers' logits as one, (N, L).
        known: boolean (N, L), where a teacher knows the label.
    """

    logits: Tensor
    batch: Batch
    answers: Sequence[dict[str, Tensor]]
    combined: Tensor
    known: Tensor


class RecipeObjective(nn.Module):
    """The loss of a recipe, or of one of its stages: the sum of its terms, each times its weight."""

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        teachers: Sequence[Teacher] = (),
        *,
        stage: int = 0,
        map_shape: Sequence[int] = (),
        mixes_images: bool = False,
    ) -> None:
        """Prepare the loss of `recipe`.

        Args:
            recipe: its terms; without any, the usual loss of the data set's task.
            dataset: its task, and the training labels that balanced terms count.
            teachers: those of the recipe, in its order.
            stage: of a recipe with stages, from 0.
            map_shape: K, h, w of the student's feature map, for terms that compare features or maps.
            mixes_images: batch norm follows the student's feature map.

        Raises:
            UserError: as `require_fit`.
        """
        super().__init__()
        known = [
            NetworkFacts(f"teacher {name}", teacher.map_shape, unknown=teacher.unknown)
            for name, teacher in zip(recipe.teachers, teachers, strict=True)
        ]
        require_fit(recipe, dataset.task, NetworkFacts("the student", map_shape, mixes_images), known)
        part = recipe.parts[stage]
        terms: list[AnyTerm] = part.terms or [HARD_LOSS[dataset.task]]
        self._terms = dict(zip(_names(terms), terms, strict=True))
        self._options = {name: _options(term, dataset) for name, term in self._terms.items()}
        self._groups = {
            name: group_weights(dataset, term.group_weights)
            for name, term in self._terms.items()
            if isinstance(term, HardTerm) and term.group_weights
        }
        self._teachers = list(teachers) if part.teachers else []
        self._needs = part.needs
        self._combine, self._exclusive = recipe.combine, dataset.task.exclusive
        self.projections = nn.ModuleDict(
            {
                name: nn.ModuleList(nn.Linear(map_shape[0], teacher.map_shape[0]) for teacher in teachers)
                for name, term in self._terms.items()
                if isinstance(term, DistillationTerm) and term.projected
            }
        )

    def forward(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`loss`, and the value of each term by name, before its weight, for logits (N, L)."""
        answers = [teacher.answer(batch, self._needs) for teacher in self._teachers]
        combined, known = logits, torch.zeros_like(logits, dtype=torch.bool)
        if answers:
            stacked = torch.stack([answer["logits"] for answer in answers])
            combined, known = combine_answers(stacked, batch.targets, how=self._combine, exclusive=self._exclusive)
        said = Said(logits, batch, answers, combined, known)
        values = {name: self._value(name, term, said) for name, term in self._terms.items()}
        loss = sum(term.weight * values[name] for name, term in self._terms.items())
        assert isinstance(loss, Tensor)  # there is a term
        return {"loss": loss} | values

    def _value(self, name: str, term: AnyTerm, said: Said) -> Tensor:
        options = self._options[name] = _on(self._options[name], said.logits)  # moved to the device once
        loss: Callable[..., Tensor] = partial(getattr(functional, term.loss), **options)
        if isinstance(term, HardTerm):
            return loss(said.logits, said.batch.targets, **self._group_weights(name, term, said))
        if term.needs == "attention":
            assert said.batch.features is not None  # networks that learn by a recipe give them
            return _mean(loss(said.batch.features, answer["attention"][:, None]) for answer in said.answers)
        if term.needs == "features":
            assert said.batch.features is not None
            pooled = said.batch.pool(said.batch.features)
            own: Iterable[Tensor] = repeat(pooled)
            if term.projected:
                layers = self.projections[name]
                assert isinstance(layers, nn.ModuleList)
                own = [project(pooled) for project in layers]
            return _mean(loss(ours, answer["features"]) for ours, answer in zip(own, said.answers, strict=False))
        if term.needs == "cams":
            explained = _explained(said.batch.targets, said.combined, said.known, likeliest=term.explains_likeliest)
            return _of_maps(loss, said, explained)
        if term.weighs_trust:
            weight = trust(said.combined, said.batch.targets, exclusive=self._exclusive)
            loss = partial(loss, weight=weight if term.trusts == "labels" else weight[:, 0])
        if term.takes_targets:
            return loss(said.logits, said.combined, target=said.batch.targets, mask=said.known.all(1))
        return loss(said.logits, said.combined, mask=said.known)

    def _group_weights(self, name: str, term: HardTerm, said: Said) -> dict[str, Tensor]:
        """The weight of each image of the batch for a loss of images, or of each of its labels."""
        if name not in self._groups:
            return {}
        # an image without labels has no weight, nor a loss
        weights = [self._groups[name].get(image, 1.0) for image in said.batch.image_ids]
        weight = torch.tensor(weights, device=said.logits.device)
        return {"weight": weight if traits_of(term).mask == "image" else weight[:, None].expand_as(said.logits)}


def _names(terms: Sequence[Term]) -> list[str]:
    """Each term's name, with a number where a recipe has it twice."""
    seen: Counter[str] = Counter()
    names = []
    for term in terms:
        seen[term.loss] += 1
        names.append(term.loss if seen[term.loss] == 1 else f"{term.loss}_{seen[term.loss]}")
    return names


def _options(term: AnyTerm, dataset: Dataset) -> dict[str, JsonValue | Tensor]:
    """Keyword arguments of the term's function, weights from the training labels among them."""
    return term.options() | (balance(term, dataset) if isinstance(term, HardTerm) and term.balanced else {})


def _mean(values: Iterable[Tensor]) -> Tensor:
    """Mean over teachers."""
    return torch.stack(list(values)).mean()


def _explained(targets: Tensor, answer: Tensor, known: Tensor, *, likeliest: bool) -> Tensor:
    """Labels whose maps are compared, boolean (N, L): those of the image.

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


def _of_maps(loss: Callable[..., Tensor], said: Said, explained: Tensor) -> Tensor:
    """A loss of class activation maps, the mean over all (teacher, image, label) that there are.

    Teachers' maps are compared one by one, each in its own size, and not resized to a common one.
    """
    # Each image's explained labels come first, so that M is the most labels of one image, not of the batch. M is at
    # least 1, even if no image keeps it: all processes that train together must reach the loss.
    order = torch.argsort(~explained, dim=1, stable=True)[:, : max(1, int(explained.sum(1).max()))]
    explained = explained.gather(1, order)
    assert said.batch.class_maps is not None
    maps = said.batch.class_maps(order)
    total: Tensor | int = 0
    count: Tensor | int = 0
    for answer in said.answers:
        cams = answer["cams"].gather(1, order[:, :, None, None].expand(-1, -1, *answer["cams"].shape[2:]))
        kept = explained & ~torch.isnan(cams[:, :, 0, 0])
        known = functional.sum_over_processes(kept.sum())
        total, count = total + known * loss(maps, cams, mask=kept), count + known
    assert isinstance(count, Tensor)  # there is a teacher
    return total / count.clamp(min=1)


def _on(options: dict[str, JsonValue | Tensor], logits: Tensor) -> dict[str, JsonValue | Tensor]:
    """Options with their tensors on the logits' device."""
    return {key: value.to(logits.device) if isinstance(value, Tensor) else value for key, value in options.items()}
