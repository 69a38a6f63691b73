"""Losses as pure functions.

All compute in float32 for any input dtype, let no gradient reach the teacher, and return a scalar: the mean over the
entries (image, label) or images that `mask` keeps. If it keeps none the loss is 0, with gradient 0. Values of student
and teacher where `mask` is false are ignored, NaN included. Shapes must be exactly as documented: shapes that torch
would broadcast (a mask (L,), a teacher (N, 1)) are refused with a `ValueError`.

`TRAITS` lists the invariances of each loss. A softmax over labels, for example, is invariant to a constant added to all
logits of an image; where labels are not exclusive, that constant changes the ranking of images.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

_ABSENT = -1e9  # logit of a class that the teacher does not know; not -inf, which times 0 is NaN
_EPS = 1e-8
_FLAT = 1e-7  # length below which a map or a vector counts as 0: its direction is a rounding error
_CONSTANT = 1e-6  # spread, as a share of the largest value, below which values count as equal: it is rounding


class Traits(NamedTuple):
    """The invariances and requirements of a loss.

    Attributes:
        inputs: `targets` and `logits` are (N, L), `features` (N, D), `maps` (N, K, h, w), `label_maps` (N, L, h, w).
        zero_at_equality: it is 0 if the student's answer equals the teacher's.
        image_offset: a constant added to all of the student's outputs for an image does not change it.
        label_offset: a constant added to a label (feature, channel) in all images does not change it.
        scale: a positive factor of all of the student's outputs does not change it.
        batch_size: the mean over the halves of a batch is the batch's, if as many entries are known in both and nothing
            is balanced; False: it compares images with each other.
        exclusive: for exclusive classes only.
        to_teacher: a gradient reaches the teacher.
        any_width: student and teacher may differ in their second axis.
        mask: what can be left out, an `image` (N,) or a `label` of an image (N, L).
    """

    inputs: Literal["targets", "logits", "features", "maps", "label_maps"]
    zero_at_equality: bool = False
    image_offset: bool = False
    label_offset: bool = False
    scale: bool = False
    batch_size: bool = False
    exclusive: bool = False
    to_teacher: bool = False
    any_width: bool = False
    mask: Literal["image", "label"] = "label"


TRAITS: list[tuple[str, dict[str, object], Traits]] = []
"""Name, options and traits of each loss; a test holds every loss to its row."""

Loss = TypeVar("Loss", bound=Callable[..., Tensor])


def _has(traits: Traits, **options: object) -> Callable[[Loss], Loss]:
    """Say what the loss below, with these options, does and does not see."""

    def enter(loss: Loss) -> Loss:
        TRAITS.append((loss.__name__, options, traits))
        return loss

    return enter


def masked_mean(values: Tensor, mask: Tensor | None, weight: Tensor | None = None) -> Tensor:
    """Mean of `values` where the boolean `mask`, of the same shape, is true; 0 where it is nowhere true.

    With `weight`, of the same shape, the mean of `weight * values`: what weighs less also counts less in the mean, and
    is not made up for by the others.

    If several processes train together, each has a part of the batch: the sum is divided by the average number of kept
    entries per process, so that the mean of their gradients is the gradient of the whole batch.

    Example:
        >>> masked_mean(torch.tensor([1.0, 3.0, torch.nan]), torch.tensor([True, True, False])).item()
        2.0
    """
    if mask is None:
        mask = torch.ones_like(values, dtype=torch.bool)
    _require_shape("mask", mask, values.shape)
    if weight is not None:
        _require_shape("weight", weight, values.shape)
        values = weight * values
    # `where` and not a product: a masked entry may be NaN, and NaN * 0 is NaN.
    return _over_all(torch.where(mask, values, 0).sum(), mask.sum().float(), at_least=1)


def _over_all(total: Tensor, count: Tensor, *, at_least: float) -> Tensor:
    """`total` over `count`, each of which is spread over several processes: see `masked_mean`."""
    return _processes() * total / sum_over_processes(count).clamp(min=at_least)


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of `value`, which has no gradient, over the processes that train together."""
    if _processes() > 1:
        torch.distributed.all_reduce(value)
    return value


def _processes() -> int:
    """Number of processes that train together."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if together else 1


# Hard losses: logits against labels.


@_has(Traits("targets", batch_size=True))
def binary_cross_entropy(
    student: Tensor,
    target: Tensor,
    *,
    smoothing: float = 0.0,
    positive_weight: Tensor | None = None,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy per label against 0/1 targets; NaN targets are unknown and left out.

    With label smoothing s, of Szegedy et al. (CVPR 2016, arXiv 1512.00567, section 7) for two classes, a target y is
    y · (1 − s) + s/2.

    Args:
        student: logits (N, L).
        target: (N, L): 1, 0, or NaN where unknown.
        smoothing: s, in 0 … 1.
        positive_weight: (L,), factor of the positive targets' loss.
        weight: (N, L), factor of each entry's loss.
        mask: boolean (N, L), further entries to leave out, where false.

    Example:
        >>> student, target = torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, torch.nan]])
        >>> round(binary_cross_entropy(student, target).item(), 3)  # of the label that is known
        0.127
    """
    student, target, mask = _known(student, target, mask)

    def loss(target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(student, target, pos_weight=positive_weight, reduction="none")

    return masked_mean(_smoothed(loss, target, smoothing), mask, weight)


@_has(Traits("targets", batch_size=True))
def focal_bce(
    student: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    smoothing: float = 0.0,
    positive_weight: Tensor | None = None,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Focal binary cross-entropy: `−(1 − p)^γ y ln p − p^γ (1 − y) ln(1 − p)`, p = σ(student).

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 4, without α.

    Args:
        student: logits (N, L).
        target: (N, L): 1, 0, or NaN where unknown.
        gamma: γ ≥ 0; 0 is `binary_cross_entropy`.
        smoothing: of the labels, as in `binary_cross_entropy`.
        positive_weight: (L,), factor of the positive targets' loss.
        weight: (N, L), factor of each entry's loss.
        mask: boolean (N, L), further entries to leave out, where false.

    Raises:
        ValueError: `gamma` is negative.

    Example:
        >>> student, target = torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 1.0]])
        >>> [round(focal_bce(student, target, gamma=gamma).item(), 3) for gamma in (0.0, 2.0)]
        [0.72, 0.352]
    """
    _require(gamma >= 0, f"gamma must not be negative, is {gamma}")
    student, target, mask = _known(student, target, mask)

    def loss(target: Tensor) -> Tensor:
        wrong = torch.sigmoid(torch.where(target > 0.5, -student, student))  # the probability of the other answer
        entropy = F.binary_cross_entropy_with_logits(student, target, pos_weight=positive_weight, reduction="none")
        return _power(wrong, gamma) * entropy

    return masked_mean(_smoothed(loss, target, smoothing), mask, weight)


@_has(Traits("targets", batch_size=True))
def asymmetric_bce(
    student: Tensor,
    target: Tensor,
    *,
    gamma_negative: float = 4.0,
    gamma_positive: float = 1.0,
    clip: float = 0.05,
    smoothing: float = 0.0,
    positive_weight: Tensor | None = None,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Asymmetric loss: `−(1 − p)^γ₊ y ln p − q^γ₋ (1 − y) ln(1 − q)`, p = σ(student), q = max(p − clip, 0).

    Easy negatives, most of a rare label's images, cost nothing. The mean over entries, where the paper has the sum.

    Source: Ben-Baruch et al., "Asymmetric Loss For Multi-Label Classification", ICCV 2021 (arXiv 2009.14119), eqs. 4-7.
    The gradient is that of the formula. The authors' code takes the factors in front of the logarithms for constants
    instead, and trains with γ₊ 0.

    Args:
        student: logits (N, L).
        target: (N, L): 1, 0, or NaN where unknown.
        gamma_negative: γ₋ ≥ 0.
        gamma_positive: γ₊ ≥ 0.
        clip: in 0 … 1, the probability below which a negative is easy.
        smoothing: of the labels, as in `binary_cross_entropy`.
        positive_weight: (L,), factor of the positive targets' loss.
        weight: (N, L), factor of each entry's loss.
        mask: boolean (N, L), further entries to leave out, where false.

    Raises:
        ValueError: an option is out of range.

    Example:
        >>> easy, hard = torch.tensor([[-3.0]]), torch.tensor([[1.0]])
        >>> [round(asymmetric_bce(logit, torch.zeros(1, 1)).item(), 3) for logit in (easy, hard)]
        [0.0, 0.246]
    """
    _require(min(gamma_negative, gamma_positive) >= 0, "gamma_negative and gamma_positive must not be negative")
    _require(0 <= clip < 1, f"clip must be in 0 … 1, is {clip}")
    student, target, mask = _known(student, target, mask)
    p = torch.sigmoid(student)
    positive = -_power(torch.sigmoid(-student), gamma_positive) * F.logsigmoid(student)
    if positive_weight is not None:
        positive = positive_weight * positive
    q = (p - clip).clamp(min=0)
    # 1 − q from 1 − p, which stays above 0 for longer than p below 1; without a clip it must be a logarithm at once
    log_rest = (torch.sigmoid(-student) + clip).clamp(max=1).log() if clip else F.logsigmoid(-student)
    negative = -_power(q, gamma_negative) * log_rest
    loss = _smoothed(lambda target: torch.where(target > 0.5, positive, negative), target, smoothing)
    return masked_mean(loss, mask, weight)


@_has(Traits("targets", image_offset=True, batch_size=True, exclusive=True, mask="image"))
def cross_entropy(
    student: Tensor,
    target: Tensor,
    *,
    smoothing: float = 0.0,
    class_weight: Tensor | None = None,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of exclusive classes; images with a NaN target are unknown and left out.

    Args:
        student: logits (N, L).
        target: (N, L): 1 for the class, 0 for the others, or NaN.
        smoothing: s, in 0 … 1: a target y is y · (1 − s) + s/L (Szegedy et al., CVPR 2016, arXiv 1512.00567, section
            7); with weights of classes as torch does, each class's part by its own weight.
        class_weight: (L,), the weight of each class's images, by whose sum the loss is divided, as torch does.
        weight: (N,), factor of each image's loss.
        mask: boolean (N,), further images to leave out, where false.

    Raises:
        ValueError: an image has not just one class; not checked on a GPU, as that would wait for the device.

    Example:
        >>> student, target = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[1.0, 0.0, 0.0]])
        >>> round(cross_entropy(student, target).item(), 3)
        0.17
    """
    _require(0 <= smoothing < 1, f"smoothing must be in 0 … 1, is {smoothing}")
    known, number = _classes(student, target, mask)
    student = torch.where(known[:, None], student.float(), 0)
    by_class = None if class_weight is None else class_weight.float()
    loss = F.cross_entropy(student, number, weight=by_class, label_smoothing=smoothing, reduction="none")
    if by_class is None:
        return masked_mean(loss, known, weight)
    if weight is not None:
        _require_shape("weight", weight, known.shape)
        loss = weight * loss
    total = torch.where(known, by_class[number], 0).sum()
    return _over_all(torch.where(known, loss, 0).sum(), total, at_least=_EPS)


# Distillation: logits against a teacher's logits.


@_has(Traits("logits", zero_at_equality=True, batch_size=True))
def sigmoid_kd(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Kullback-Leibler divergence of the student's from the teacher's Bernoulli distribution, label by label.

    `T² · KL(σ(teacher/T) ‖ σ(student/T))`. It is 0 exactly where student and teacher agree, and, unlike a softmax over
    the labels, it changes with a constant added to all logits of an image. T² keeps the gradient's size when T grows;
    the limit for large T is (student − teacher)²/8. (Beyond T = 100 float32 has few digits of the value, not of the
    gradient.)

    Source: the per-label divergence of Yang et al., "Multi-Label Knowledge Distillation", ICCV 2023 (arXiv 2308.06453,
    MLD term), with Hinton's temperature. Here it is the mean over entries, there the sum over labels.

    Args:
        student: logits (N, L).
        teacher: logits (N, L).
        temperature: T > 0.
        weight: (N, L), factor of each entry's loss, such as `weighting.trust`.
        mask: boolean (N, L), entries for which the teacher has an answer; no label is needed.

    Raises:
        ValueError: `temperature` is not positive.

    Example:
        >>> teacher = torch.tensor([[2.0, -1.0]])
        >>> [round(sigmoid_kd(teacher + offset, teacher).item(), 3) for offset in (0.0, 1.0)]
        [0.0, 0.076]
    """
    _require_positive(temperature)
    student, teacher = _answers(student, teacher, mask)
    student, teacher = student / temperature, teacher / temperature
    p = torch.sigmoid(teacher)
    # In logits, KL = p·(t − s) + softplus(s) − softplus(t): no logarithm of a probability that may round to 0.
    divergence = p * (teacher - student) + F.softplus(student) - F.softplus(teacher)
    return temperature**2 * masked_mean(divergence, mask, weight)


@_has(Traits("logits", zero_at_equality=True, image_offset=True, batch_size=True, exclusive=True))
def softmax_kd(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 4.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """`T² · KL(softmax(teacher/T) ‖ softmax(student/T))`, for exclusive classes: the mean over images.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015 (arXiv 1503.02531), section 2.

    Args:
        student: logits (N, L).
        teacher: logits (N, L).
        temperature: T > 0.
        weight: (N,), factor of each image's loss, such as `weighting.trust`.
        mask: boolean (N, L), classes for which the teacher has an answer: the softmax is over these. Images with fewer
            than two are left out.

    Raises:
        ValueError: `temperature` is not positive.

    Example:
        >>> student, teacher = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[3.0, 0.0, -1.0]])
        >>> [round(softmax_kd(student + offset, teacher).item(), 3) for offset in (0.0, 5.0)]  # which it cannot see
        [0.814, 0.814]
    """
    _require_positive(temperature)
    student, teacher = _answers(student, teacher, mask)
    return _softmax_divergence(student, teacher, temperature, mask, weight)


@_has(Traits("logits", zero_at_equality=True, image_offset=True, batch_size=True, exclusive=True), space="softmax")
@_has(Traits("logits", zero_at_equality=True, batch_size=True), space="logits")
@_has(Traits("logits", zero_at_equality=True, batch_size=True), space="sigmoid")
def mse_kd(
    student: Tensor,
    teacher: Tensor,
    *,
    space: Literal["sigmoid", "logits", "softmax"] = "sigmoid",
    temperature: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """`T² · (a(student/T) − a(teacher/T))²`, the mean over entries; a is the sigmoid, nothing, or a softmax.

    Args:
        student: logits (N, L).
        teacher: logits (N, L).
        space: where they are compared. `softmax` is blind to a constant added to all logits of an image.
        temperature: T > 0; in the space of logits it has no effect.
        weight: (N, L), factor of each entry's loss, such as `weighting.trust`.
        mask: boolean (N, L), entries for which the teacher has an answer; a softmax is over these.

    Raises:
        ValueError: `temperature` is not positive, or `space` is unknown.

    Example:
        >>> student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]])
        >>> [round(mse_kd(student, teacher, space=space).item(), 3) for space in ("sigmoid", "logits", "softmax")]
        [0.025, 2.0, 0.049]
    """
    _require_positive(temperature)
    _require(space in ("sigmoid", "logits", "softmax"), f"space must be sigmoid, logits or softmax, is {space!r}")
    student, teacher = _answers(student, teacher, mask)
    student, teacher = student / temperature, teacher / temperature
    if space == "sigmoid":
        student, teacher = torch.sigmoid(student), torch.sigmoid(teacher)
    elif space == "softmax":
        student, teacher = _among(student, mask).softmax(-1), _among(teacher, mask).softmax(-1)
    return temperature**2 * masked_mean((student - teacher) ** 2, mask, weight)


@_has(Traits("logits", zero_at_equality=True, batch_size=True))
def bckd(
    student: Tensor, teacher: Tensor, *, beta: float = 1.0, weight: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """`|p − q|^β · BCE(q, p)`, p and q the teacher's and the student's sigmoid: the mean over entries.

    It is small where the two agree, so that the many easy negatives of rare labels do not dominate.

    Source: Yang et al., "Bridging Cross-task Protocol Inconsistency for Distillation in Dense Object Detection", ICCV
    2023 (arXiv 2308.14286), equation 8; there the sum over labels.

    Args:
        student: logits (N, L).
        teacher: logits (N, L).
        beta: β ≥ 1; below 1 the gradient is unbounded.
        weight: (N, L), factor of each entry's loss, such as `weighting.trust`.
        mask: boolean (N, L), entries for which the teacher has an answer.

    Raises:
        ValueError: `beta` is less than 1.

    Example:
        >>> student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]])
        >>> round(bckd(student, teacher).item(), 3)
        0.04
    """
    _require(beta >= 1, f"beta must be at least 1, is {beta}")
    student, teacher = _answers(student, teacher, mask)
    p = torch.sigmoid(teacher)
    loss = F.binary_cross_entropy_with_logits(student, p, reduction="none")
    return masked_mean((p - torch.sigmoid(student)).abs() ** beta * loss, mask, weight)


@_has(Traits("logits", zero_at_equality=True, image_offset=True, batch_size=True, exclusive=True, mask="image"))
def dkd(
    student: Tensor,
    teacher: Tensor,
    *,
    target: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Decoupled distillation of exclusive classes: α · (class or not) + β · (which of the others), times T².

    Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022 (arXiv 2203.08679), equation 7, without the
    authors' warm-up of its weight over the first epochs. With two labels the second term is 0, so that it is useless
    for labels that are not exclusive.

    Args:
        student: logits (N, L).
        teacher: logits (N, L).
        target: (N, L): 1 for the class, 0 for the others, or NaN where unknown; such images are left out.
        alpha: weight of the divergence between the probabilities of the class.
        beta: weight of the divergence among the other classes.
        temperature: T > 0.
        weight: (N,), factor of each image's loss, such as `weighting.trust`.
        mask: boolean (N,), images for which the teacher has an answer.

    Raises:
        ValueError: `temperature` is not positive, or, but for on a GPU, an image has not just one class.

    Example:
        >>> student, teacher = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[3.0, 0.0, -1.0]])
        >>> target = torch.tensor([[1.0, 0.0, 0.0]])
        >>> [round(dkd(student, teacher, target=target, beta=beta).item(), 3) for beta in (0.0, 8.0)]
        [0.758, 1.75]
    """
    _require_positive(temperature)
    known, number = _classes(student, target, mask)
    student, teacher = _answers(student, teacher, known, by=1)
    student, teacher = student / temperature, teacher / temperature
    of_class = F.one_hot(number, student.shape[1]).bool()
    # the class against all others as one: the logit of its probability
    logits = [
        (values.gather(1, number[:, None]) - values.masked_fill(of_class, _ABSENT).logsumexp(1, keepdim=True))[:, 0]
        for values in (student, teacher)
    ]
    p = torch.sigmoid(logits[1])
    whether = p * (logits[1] - logits[0]) + F.softplus(logits[0]) - F.softplus(logits[1])
    which = _divergence(student, teacher, ~of_class)
    return temperature**2 * masked_mean(alpha * whether + beta * which, known, weight)


@_has(Traits("logits", zero_at_equality=True, image_offset=True, scale=True, batch_size=True, exclusive=True))
def logit_standardized_kd(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 2.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """`softmax_kd` of logits from which each image's mean was taken, over their standard deviation.

    The student need not have the teacher's range of logits.

    Source: Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024 (arXiv 2403.01427), algorithm 1.

    Args:
        student: logits (N, L) of exclusive classes.
        teacher: logits (N, L).
        temperature: T > 0.
        weight: (N,), factor of each image's loss, such as `weighting.trust`.
        mask: boolean (N, L), classes for which the teacher has an answer. Images with fewer than two are left out.

    Raises:
        ValueError: `temperature` is not positive.

    Example:
        >>> teacher = torch.tensor([[3.0, 0.0, -1.0]])
        >>> logit_standardized_kd(2 * teacher + 5, teacher).item() < 1e-6  # the range of the logits does not count
        True
    """
    _require_positive(temperature)
    student, teacher = _answers(student, teacher, mask)
    student, teacher = _standardized(student, mask), _standardized(teacher, mask)
    return _softmax_divergence(student, teacher, temperature, mask, weight)


@_has(Traits("logits", zero_at_equality=True), activation="sigmoid")
@_has(Traits("logits", zero_at_equality=True, image_offset=True, exclusive=True), activation="softmax")
def dist(
    student: Tensor,
    teacher: Tensor,
    *,
    activation: Literal["softmax", "sigmoid"] = "softmax",
    inter: float = 1.0,
    intra: float = 1.0,
    temperature: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """`T² · (inter · (1 − ρ over an image's labels) + intra · (1 − ρ over a label's images))`, ρ Pearson's.

    Only relations are compared, as a small student may be unable to match a large teacher's probabilities. With
    `sigmoid` and `inter` 0 it is a loss of multi-label data that ranks each label's images as the teacher does; it
    needs batches in which teachers' answers differ. Relations of fewer than two entries, or on which the
    teacher is constant, are left out.

    Source: Huang et al., "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022 (arXiv 2205.10536), equations
    8-10, there with a softmax. If the student's row is constant, its correlation is undefined: it costs 1, without
    gradient.

    Args:
        student: logits (N, L).
        teacher: logits (N, L).
        activation: the function from logits to probabilities.
        inter: weight of the relation within an image.
        intra: weight of the relation within a label.
        temperature: T > 0.
        mask: boolean (N, L), entries for which the teacher has an answer.

    Raises:
        ValueError: `temperature` is not positive, or `activation` is unknown.

    Example:
        >>> student = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
        >>> teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -2.0]])
        >>> round(dist(student, teacher, activation="sigmoid", inter=0.0).item(), 3)
        0.758
    """
    _require_positive(temperature)
    _require(activation in ("softmax", "sigmoid"), f"activation must be softmax or sigmoid, is {activation!r}")
    student, teacher = _answers(student, teacher, mask)
    student, teacher = student / temperature, teacher / temperature
    if activation == "softmax":
        student, teacher = _among(student, mask).softmax(-1), _among(teacher, mask).softmax(-1)
    else:
        student, teacher = torch.sigmoid(student), torch.sigmoid(teacher)
    kept = torch.ones_like(student, dtype=torch.bool) if mask is None else mask
    loss = inter * _unrelated(student, teacher, kept) + intra * _unrelated(student.T, teacher.T, kept.T)
    return temperature**2 * loss


# Distillation: features and maps.


@_has(Traits("maps", zero_at_equality=True, scale=True, batch_size=True, any_width=True, mask="image"))
def attention_transfer(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Squared difference of attention maps, ignoring channels: the mean over images and places.

    Attention is the mean of the squared channels, of length 1 over an image's places; so a teacher's map may have
    a single channel, the root of that mean.

    Source: Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017 (arXiv 1612.03928), equation 2 with
    p = 2.

    Args:
        student: feature maps (N, K, h, w).
        teacher: feature maps (N, K', h', w'); of two sizes the larger mean of squares is pooled to the smaller. (The
            authors' code pools features first, which a teacher's cached attention does not allow.)
        mask: boolean (N,), images to keep.

    Example:
        >>> student, teacher = torch.zeros(1, 8, 4, 4), torch.zeros(1, 2, 4, 4)
        >>> student[:, :, 0, 0], teacher[:, :, 0, 0] = 1.0, 5.0
        >>> attention_transfer(student, teacher).item()  # both are strong in the same place
        0.0
    """
    student, teacher = _answers(student, teacher, mask, by=1, alike=1)
    height, width = (min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True))
    attention = [
        F.normalize(F.adaptive_avg_pool2d(maps.pow(2).mean(1), (height, width)).flatten(1), dim=1)
        for maps in (student, teacher)
    ]
    return masked_mean((attention[0] - attention[1]).pow(2).mean(1), mask)


@_has(Traits("features", zero_at_equality=True, label_offset=True, scale=True, any_width=True, mask="image"))
def rkd(
    student: Tensor, teacher: Tensor, *, distance: float = 1.0, angle: float = 2.0, mask: Tensor | None = None
) -> Tensor:
    """Relations between the images of a batch: distances over their mean, and angles, by Huber's loss.

    The mean over pairs and triples; so it depends on which images share a batch.

    Source: Park et al., "Relational Knowledge Distillation", CVPR 2019 (arXiv 1904.05068), equations 5-9.

    Args:
        student: features (N, D).
        teacher: features (N, D').
        distance: weight of the distances.
        angle: weight of the angles; they take N³ numbers of memory.
        mask: boolean (N,), images to keep.

    Example:
        >>> student = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> round(rkd(3 * student, student).item(), 3)  # the same triangle
        0.0
        >>> round(rkd(student * torch.tensor([2.0, 1.0]), student).item(), 3)
        0.026
    """
    student, teacher = _answers(student, teacher, mask, by=1, alike=1)
    if mask is not None:
        student, teacher = student[mask], teacher[mask]
    if len(student) < 2:
        return 0 * student.sum()
    loss = distance * F.smooth_l1_loss(_distances(student), _distances(teacher))
    if angle:
        loss = loss + angle * F.smooth_l1_loss(_angles(student), _angles(teacher))
    return loss


@_has(Traits("features", zero_at_equality=True, scale=True, batch_size=True, mask="image"))
def cosine_similarity(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """1 − cosine of the features, the mean over images.

    Args:
        student: features (N, D), those of another width after a projection.
        teacher: features (N, D).
        mask: boolean (N,), images to keep.

    Example:
        >>> student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
        >>> round(cosine_similarity(student, teacher).item(), 3)
        0.293
    """
    student, teacher = _answers(student, teacher, mask, by=1)
    return masked_mean(1 - (_direction(student) * _direction(teacher)).sum(1), mask)


@_has(Traits("features", zero_at_equality=True, batch_size=True, mask="image"))
def feature_mse(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Squared difference of the features, the mean over images and features.

    Source: Romero et al., "FitNets", ICLR 2015 (arXiv 1412.6550), equation 3, on pooled features.

    Args:
        student: features (N, D), those of another width after a projection.
        teacher: features (N, D).
        mask: boolean (N,), images to keep.

    Example:
        >>> feature_mse(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 3.0]])).item()
        4.5
    """
    student, teacher = _answers(student, teacher, mask, by=1)
    return masked_mean((student - teacher).pow(2).mean(1), mask)


@_has(Traits("label_maps", zero_at_equality=True, scale=True, batch_size=True))
def cam_kd(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Squared distance of class activation maps of length 1, the mean over (image, label).

    Maps are signed: evidence against a label counts like evidence for it. The smaller map is resized to the larger.

    Source: "Class Activation Map based Knowledge Distillation for multi-label" (arXiv 2303.08360); it takes the labels
    that an image has.

    Args:
        student: maps (N, L, h, w).
        teacher: maps (N, L, h', w').
        mask: boolean (N, L), maps to compare: as a rule labels that are present. A teacher's map that is 0 everywhere
            is left out, as it has no direction.

    Example:
        >>> teacher = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
        >>> student = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]])
        >>> [round(cam_kd(maps, teacher).item(), 3) for maps in (3 * teacher, student, -teacher)]
        [0.0, 2.0, 4.0]
    """
    student, teacher, kept = _maps(student, teacher, mask)
    squared = (_direction(student) - _direction(teacher)).pow(2).sum(2)
    return masked_mean(squared, kept)


@_has(Traits("label_maps", zero_at_equality=True, scale=True, batch_size=True))
def explanation_kd(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """1 − cosine of two explanations, the mean over (image, label); evidence against a label is left out (ReLU).

    Source: Parchami-Araghi et al., "Good Teachers Explain: Explanation-Enhanced Knowledge Distillation", ECCV 2024
    (arXiv 2402.03119), equation 2, there for one class per image, and with maps enlarged to the image, by which smooth
    they differ somewhat less.

    Args:
        student: maps (N, L, h, w), Grad-CAM as a rule, with their graph.
        teacher: maps (N, L, h', w'). The smaller map is resized to the larger.
        mask: boolean (N, L), maps to compare. A teacher's map without positive evidence is left out.

    Example:
        >>> teacher = torch.tensor([[[[1.0, 0.0], [0.0, -1.0]]]])
        >>> student = torch.tensor([[[[1.0, 1.0], [0.0, -9.0]]]])
        >>> round(explanation_kd(student, teacher).item(), 3)
        0.293
    """
    student, teacher, kept = _maps(student.relu(), teacher.relu(), mask)
    return masked_mean(1 - (_direction(student) * _direction(teacher)).sum(2), kept)


# What the losses share.


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def _require_positive(temperature: float) -> None:
    _require(temperature > 0, f"temperature must be positive, is {temperature}")


def _smoothed(loss: Callable[[Tensor], Tensor], target: Tensor, smoothing: float) -> Tensor:
    """`loss` of 0/1 targets y as of y · (1 − s) + s/2: every binary loss here is linear in its target."""
    _require(0 <= smoothing < 1, f"smoothing must be in 0 … 1, is {smoothing}")
    if not smoothing:
        return loss(target)
    return (1 - smoothing / 2) * loss(target) + smoothing / 2 * loss(1 - target)


def _power(probability: Tensor, gamma: float) -> Tensor:
    """`probability`^γ, whose gradient is finite at 0 for γ below 1 as well."""
    return probability.clamp(min=_EPS if 0 < gamma < 1 else 0) ** gamma


def _require_shape(name: str, values: Tensor, shape: torch.Size) -> None:
    _require(values.shape == shape, f"{name} must have the shape {tuple(shape)}, has {tuple(values.shape)}")


def _known(student: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and targets in float32, 0 where they are unknown or masked, and the boolean mask of the other entries."""
    _require_shape("target", target, student.shape)
    known = ~torch.isnan(target)
    if mask is not None:
        _require_shape("mask", mask, target.shape)
        known = known & mask
    return torch.where(known, student.float(), 0), torch.where(known, target, 0).float(), known


def _classes(student: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """For one-hot targets (N, L): images that are known and kept, boolean (N,), and the index of their class (N,)."""
    _require_shape("target", target, student.shape)
    known = ~torch.isnan(target).any(1)
    one = (target == 1).sum(1) == 1
    if not target.is_cuda:
        _require(bool((one | ~known).all()), "classes are exclusive, but an image has none or several")
    if mask is not None:
        _require_shape("mask", mask, known.shape)
        known = known & mask
    return known, torch.where(known[:, None], target, 0).argmax(1)


def _answers(
    student: Tensor, teacher: Tensor, mask: Tensor | None, *, by: int = 2, alike: int | None = None
) -> tuple[Tensor, Tensor]:
    """Both in float32, the teacher's without gradient, and 0 where masked, since a NaN would reach the gradient.

    Args:
        student: (N, …).
        teacher: of the same shape in the first `alike` dimensions, or in all.
        mask: boolean, of the first `by` dimensions.
    """
    ours, theirs = student.shape[:alike], teacher.shape[:alike]
    _require(ours == theirs, f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} have different shapes")
    student, teacher = student.float(), teacher.detach().float()
    if mask is None:
        return student, teacher
    _require_shape("mask", mask, student.shape[:by])
    kept = mask.view(*mask.shape, *[1] * (student.ndim - mask.ndim))
    return torch.where(kept, student, 0), torch.where(kept, teacher, 0)


def _among(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Logits whose softmax is over the classes that `mask` keeps."""
    return logits if mask is None else torch.where(mask, logits, _ABSENT)


def _divergence(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """KL(softmax(teacher) ‖ softmax(student)) of each image among the classes that `mask` keeps: (N,)."""
    teacher = _among(teacher, mask).log_softmax(1)
    return (teacher.exp() * (teacher - _among(student, mask).log_softmax(1))).sum(1)


def _softmax_divergence(
    student: Tensor, teacher: Tensor, temperature: float, mask: Tensor | None, weight: Tensor | None
) -> Tensor:
    divergence = _divergence(student / temperature, teacher / temperature, mask)
    return temperature**2 * masked_mean(divergence, None if mask is None else mask.sum(1) > 1, weight)


def _centred(values: Tensor, kept: Tensor) -> Tensor:
    """Values less the mean over their row's entries that are kept; 0 where they are not."""
    mean = torch.where(kept, values, 0).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)
    return torch.where(kept, values - mean, 0)


def _spread(values: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Values less their row's mean, of length 1 in each row, and which rows have such a direction, boolean (N, 1).

    Constant rows (up to rounding) become 0 with zero gradient; their true gradient is unbounded.
    """
    centred = _centred(values, kept)
    size = torch.where(kept, values.detach(), 0).abs().amax(1, keepdim=True)
    differs = centred.abs().amax(1, keepdim=True) > _CONSTANT * size
    # the division by the size before the root: of small probabilities the squares would be lost
    centred = torch.where(differs, centred / torch.where(differs, size, 1), 0)
    return centred / torch.where(differs, centred, 1).norm(dim=1, keepdim=True), differs


def _standardized(logits: Tensor, mask: Tensor | None) -> Tensor:
    kept = torch.ones_like(logits, dtype=torch.bool) if mask is None else mask
    return _spread(logits, kept)[0] * (kept.sum(1, keepdim=True) - 1).clamp(min=1).sqrt()


def _unrelated(student: Tensor, teacher: Tensor, kept: Tensor) -> Tensor:
    """Mean over rows of 1 − Pearson's correlation of the entries that are kept."""
    (student, _), (teacher, differs) = _spread(student, kept), _spread(teacher, kept)
    return masked_mean(1 - (student * teacher).sum(1), (kept.sum(1) > 1) & differs[:, 0])


def _distances(features: Tensor) -> Tensor:
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    apart = distances > 0
    # not `masked_mean`: each process only compares images of its own part of the batch
    return distances / (distances.sum() / apart.sum().clamp(min=1)).clamp(min=_EPS)


def _angles(features: Tensor) -> Tensor:
    """Cosine of the angle at each image between each two others, 0 if two of the three are the same: (N, N, N).

    From the products of the features with each other: the differences would be N² vectors. These products cancel for
    similar images, so they are computed in float64 on devices that have it.
    """
    with torch.autocast(features.device.type, enabled=False):  # autocast would multiply in half precision
        exact = features if features.is_mps else features.double()
        exact = exact - exact.mean(0)
        products = exact @ exact.T
        square = products.diagonal()
        towards = products[None] - products[:, :, None] - products[:, None, :] + square[:, None, None]
        squared = square[:, None] + square[None] - 2 * products
        apart = squared > 1e-12 * squared.mean()
        inverse = torch.where(apart, torch.where(apart, squared, 1).rsqrt(), 0)
        return (towards * inverse[:, :, None] * inverse[:, None, :]).to(features.dtype)


def _direction(vectors: Tensor) -> Tensor:
    """Vectors (…, P) scaled to length 1; zero vectors stay 0 with zero gradient; their true one is unbounded."""
    length = vectors.norm(dim=-1, keepdim=True)
    flat = length < _FLAT
    return torch.where(flat, 0, vectors / torch.where(flat, 1, length))


def _maps(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Maps resized to one size, (N, L, h·w) each, and which of them are compared, boolean (N, L)."""
    student, teacher = _answers(student, teacher, mask, alike=2)
    size = [max(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    student, teacher = (
        F.interpolate(maps, size, mode="bilinear").flatten(2) if list(maps.shape[2:]) != size else maps.flatten(2)
        for maps in (student, teacher)
    )
    shown = teacher.norm(dim=2) >= _FLAT
    return student, teacher, shown if mask is None else shown & mask
