"""Losses as pure functions of logits.

All take logits of shape (N, L), compute in float32 whatever comes in, let no gradient reach the teacher, and return a
scalar: the mean over the entries (image, label) that `mask` keeps. With nothing kept the loss is 0, with gradient 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of `values` (N, L) where the boolean `mask` (N, L) is true; 0 where it is nowhere true."""
    if mask is None:
        return values.mean()
    # `where` and not a product: a masked entry may be NaN, and NaN * 0 is NaN.
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def binary_cross_entropy(student: Tensor, target: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Binary cross-entropy per label against 0/1 targets (N, L); NaN targets are unknown and left out.

    Args:
        student: logits (N, L).
        target: 1, 0, or NaN where unknown.
        mask: further entries to leave out, where false.
    """
    known = ~torch.isnan(target)
    mask = known if mask is None else known & mask
    target = torch.where(known, target, 0).float()
    loss = F.binary_cross_entropy_with_logits(student.float(), target, reduction="none")
    return masked_mean(loss, mask)


def sigmoid_kd(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """Kullback-Leibler divergence of the student's from the teacher's Bernoulli distribution, label by label.

    `T² · KL(σ(teacher/T) ‖ σ(student/T))`. It is 0 exactly where student and teacher agree, and, unlike a softmax over
    the labels, it sees a constant added to all logits of an image. T² keeps the gradient's size when T grows; the limit
    for large T is (student − teacher)²/8.

    Source: the per-label divergence of Yang et al., "Multi-Label Knowledge Distillation", ICCV 2023 (arXiv 2308.06453,
    MLD term), with Hinton's temperature. Here it is the mean over entries, there the sum over labels.

    Args:
        student: logits (N, L).
        teacher: logits (N, L).
        temperature: T > 0.
        mask: entries for which the teacher has an answer; no label is needed.

    Raises:
        ValueError: `temperature` is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, is {temperature}")
    if mask is not None:
        teacher = torch.where(mask, teacher, 0)  # an unknown answer may be NaN, which would reach the gradient
    student, teacher = student.float() / temperature, teacher.detach().float() / temperature
    p = torch.sigmoid(teacher)
    # In logits, KL = p·(t − s) + softplus(s) − softplus(t): no logarithm of a probability that may round to 0.
    divergence = p * (teacher - student) + F.softplus(student) - F.softplus(teacher)
    return temperature**2 * masked_mean(divergence, mask)
