"""Losses of smoothed labels and of weighted entries, against torch's and by hand."""

import pytest
import torch
import torch.nn.functional as F

from medistill.distillation.functional import (
    asymmetric_bce,
    bckd,
    binary_cross_entropy,
    cross_entropy,
    dkd,
    focal_bce,
    logit_standardized_kd,
    mse_kd,
    sigmoid_kd,
    softmax_kd,
)

SMOOTHED = [
    (binary_cross_entropy, {}),
    (focal_bce, {"gamma": 1.5}),
    (asymmetric_bce, {}),
    (asymmetric_bce, {"clip": 0.0}),
]


@pytest.mark.parametrize(("loss", "options"), SMOOTHED)
def test_smoothing_is_the_loss_of_the_smoothed_target(logits, loss, options):
    """By hand: y ↦ y(1−s) + s/2 in a loss that is y · (loss of a present label) + (1 − y) · (loss of an absent one)."""
    student, target = logits[0], (logits[1] > 0).float()
    target[0, 0] = torch.nan
    smoothing, ratio = 0.3, torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0])
    total = 0.0
    for i, j in (~target.isnan()).nonzero().tolist():
        soft = target[i, j].item() * (1 - smoothing) + smoothing / 2
        present, absent = (
            loss(student[i, j].view(1, 1), torch.full((1, 1), y), positive_weight=ratio[j : j + 1], **options).item()
            for y in (1.0, 0.0)
        )
        total += (soft * present + (1 - soft) * absent) / (16 * 5 - 1)
    value = loss(student, target, smoothing=smoothing, positive_weight=ratio, **options)
    assert value.item() == pytest.approx(total, rel=1e-5)


def test_smoothed_binary_cross_entropy_is_torchs_of_soft_targets(logits):
    student, target = logits[0], (logits[1] > 0).float()
    ratio = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0])
    expected = F.binary_cross_entropy_with_logits(student, target * 0.9 + 0.05, pos_weight=ratio)
    value = binary_cross_entropy(student, target, smoothing=0.1, positive_weight=ratio)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 5.0, 0.2, 1.0, 2.0])])
def test_smoothed_cross_entropy_is_torchs(logits, weight):
    student, number = logits[0].clone().requires_grad_(), logits[1].argmax(1)
    target = F.one_hot(number, 5).float()
    target[3] = torch.nan
    known = torch.arange(16) != 3
    oracle = torch.nn.CrossEntropyLoss(weight=weight, label_smoothing=0.2)(student[known], number[known])
    value = cross_entropy(student, target, smoothing=0.2, class_weight=weight)
    assert value.item() == pytest.approx(oracle.item(), rel=1e-6)
    ours, theirs = (torch.autograd.grad(each, student)[0] for each in (value, oracle))
    assert torch.allclose(ours, theirs, atol=1e-7)


@pytest.mark.parametrize("loss", [binary_cross_entropy, focal_bce, asymmetric_bce, cross_entropy])
@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_is_a_share(logits, loss, smoothing):
    with pytest.raises(ValueError, match=r"smoothing must be in 0 … 1"):
        loss(logits[0], F.one_hot(logits[1].argmax(1), 5).float(), smoothing=smoothing)


WEIGHTED = [
    (binary_cross_entropy, {}, "label"),
    (focal_bce, {}, "label"),
    (asymmetric_bce, {}, "label"),
    (cross_entropy, {}, "image"),
    (cross_entropy, {"class_weight": torch.tensor([1.0, 5.0, 0.2, 1.0, 2.0])}, "image"),
    (sigmoid_kd, {"temperature": 2.0}, "label"),
    (mse_kd, {}, "label"),
    (mse_kd, {"space": "softmax"}, "label"),
    (bckd, {}, "label"),
    (softmax_kd, {}, "image"),
    (dkd, {}, "image"),
    (logit_standardized_kd, {}, "image"),
]


@pytest.mark.parametrize(("loss", "options", "by"), WEIGHTED)
def test_a_weighted_loss_is_the_mean_of_the_weighted_entries(logits, loss, options, by):
    """The derivative by an entry's weight is that entry's share of the loss, which is the same as without weights."""
    student, teacher = logits
    one_hot = F.one_hot(teacher.argmax(1), 5).float()
    more = dict(options)
    if loss is dkd:
        more["target"] = one_hot
    if loss in (cross_entropy, binary_cross_entropy, focal_bce, asymmetric_bce):
        teacher = one_hot
    generator = torch.Generator().manual_seed(2)
    shape = (16,) if by == "image" else (16, 5)
    mask = torch.rand((16,) if loss in (dkd, cross_entropy) else (16, 5), generator=generator) < 0.7
    weight = torch.rand(shape, generator=generator).requires_grad_()
    value = loss(student, teacher, weight=weight, mask=mask, **more)
    (share,) = torch.autograd.grad(value, weight)
    assert value.item() == pytest.approx((share * weight).sum().item(), rel=1e-5)
    plain = loss(student, teacher, mask=mask, **more)
    assert share.sum().item() == pytest.approx(plain.item(), rel=1e-5)
    assert loss(student, teacher, weight=torch.ones(shape), mask=mask, **more).item() == plain.item()
    with torch.no_grad():  # an entry alone: all others weigh 0
        alone = torch.zeros(shape)
        alone[1] = 1.0
        first = loss(student, teacher, weight=alone, mask=mask, **more)
    assert first.item() == pytest.approx(share[1].sum().item(), rel=1e-4, abs=1e-7)
    for wrong in (weight[:1], weight[..., None]):
        with pytest.raises(ValueError, match="weight must have the shape"):
            loss(student, teacher, weight=wrong.detach(), mask=mask, **more)
