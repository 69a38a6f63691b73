"""One answer from many teachers."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Combine = Literal["mean", "entropy", "confidence"]


def combine_answers(
    answers: Tensor, targets: Tensor, *, how: Combine = "mean", exclusive: bool = False
) -> tuple[Tensor, Tensor]:
    """Weighted mean of teachers' logits, for each image and label over the teachers that know the label.

    Weights are those of `teacher_weights`. The papers they are from weigh each teacher's loss with them; here it is the
    teachers' logits, so that a student has one teacher to learn from, by any loss, and many cost no more than one.

    Args:
        answers: logits (T, N, L), NaN where a teacher does not know a label.
        targets: (N, L): 1, 0, or NaN where unknown.
        how: how teachers are weighted.
        exclusive: labels are exclusive classes: a teacher has one weight for an image.

    Returns:
        Logits (N, L), 0 where no teacher knows the label; and where one does, boolean (N, L).
    """
    known = ~torch.isnan(answers)
    weights = teacher_weights(answers, targets, how=how, exclusive=exclusive)
    return (weights * torch.where(known, answers.float(), 0)).sum(0), known.any(0)


def teacher_weights(answers: Tensor, targets: Tensor, *, how: Combine, exclusive: bool) -> Tensor:
    """Weight of each teacher per image and label: float32 (T, N, L), with sum 1 over the teachers that know the label.

    `mean`: uniform. `entropy`: higher for confident teachers, `(1 − H_k / Σ H) / (K − 1)` of K teachers. `confidence`:
    higher for teachers close to the label, `(1 − softmax_k(CE_k)) / (K − 1)`; as `entropy` where the label is unknown.
    If only one teacher knows a label, its weight is 1.

    Source: Kwon et al., "Adaptive Knowledge Distillation Based on Entropy", ICASSP 2020, whose weights are divided by
    their sum here; Zhang et al., "Confidence-Aware Multi-Teacher Knowledge Distillation" (CA-MKD), ICASSP 2022 (arXiv
    2201.00007), equation 3, for each image; the form for each label is ours.

    Args and `exclusive`: as for `combine_answers`.
    """
    known = ~torch.isnan(answers)
    answers = torch.where(known, answers.float(), 0)
    count = known.sum(0)
    doubt = torch.ones_like(answers) if how == "mean" else _entropy(answers, known, exclusive)
    total = torch.where(known, doubt, 0).sum(0)
    tiny = torch.finfo(total.dtype).tiny  # if all entropies are 0, weights are uniform
    share = torch.where(total > tiny, doubt / total.clamp(min=tiny), 1 / count.clamp(min=1))
    if how == "confidence":
        labelled = ~torch.isnan(targets)
        if exclusive:
            labelled = labelled.all(1, keepdim=True).expand_as(targets)
        error = _error(answers, known, torch.where(labelled, targets, 0).float(), exclusive)
        share = torch.where(labelled, torch.where(known, error, -torch.inf).softmax(0).nan_to_num(), share)
    weights = (1 - share) / (count - 1).clamp(min=1)
    return torch.where(known, torch.where(count > 1, weights, 1), 0)


def _entropy(answers: Tensor, known: Tensor, exclusive: bool) -> Tensor:
    """Entropy of each answer in nats, (T, N, L)."""
    if exclusive:
        logs = torch.where(known, answers, -1e9).log_softmax(2)
        return -(logs.exp() * logs).sum(2, keepdim=True).expand_as(answers)
    size = answers.abs()  # of a sure yes as of a sure no: 1 − p would round to 0
    return F.softplus(-size) + size * torch.sigmoid(-size)


def _error(answers: Tensor, known: Tensor, targets: Tensor, exclusive: bool) -> Tensor:
    """Cross-entropy of each answer against the labels, (T, N, L)."""
    if exclusive:
        logs = torch.where(known, answers, -1e9).log_softmax(2)
        return -(logs * targets).sum(2, keepdim=True).expand_as(answers)
    return F.binary_cross_entropy_with_logits(answers, targets.expand_as(answers), reduction="none")
