"""Losses against definitions written out, and against what they must and must not see."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Bernoulli, kl_divergence

from medistill.distillation.functional import binary_cross_entropy, masked_mean, sigmoid_kd


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    return tuple(3 * torch.randn(16, 5, generator=generator) for _ in range(2))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_sigmoid_kd_is_the_divergence_of_bernoulli_distributions(logits, temperature):
    student, teacher = (value.double() for value in logits)
    p, q = Bernoulli(logits=teacher / temperature), Bernoulli(logits=student / temperature)
    expected = temperature**2 * kl_divergence(p, q).mean()
    assert sigmoid_kd(*logits, temperature=temperature).item() == pytest.approx(expected.item(), rel=1e-5)


def test_sigmoid_kd_has_the_gradient_of_soft_cross_entropy(logits):
    student, teacher = logits[0].requires_grad_(), logits[1].requires_grad_()
    (gradient,) = torch.autograd.grad(sigmoid_kd(student, teacher), student)
    expected = (torch.sigmoid(student) - torch.sigmoid(teacher)) / student.numel()
    assert torch.allclose(gradient, expected, atol=1e-7)
    assert torch.autograd.grad(sigmoid_kd(student, teacher), teacher, allow_unused=True) == (None,)


def test_sigmoid_kd_is_zero_at_equality_only(logits):
    student, teacher = logits
    assert sigmoid_kd(teacher, teacher).item() == pytest.approx(0, abs=1e-7)
    offset = torch.randn(16, 1)  # a constant added to all labels of an image, which a softmax over labels cannot see
    assert F.kl_div(F.log_softmax(teacher + offset, -1), F.softmax(teacher, -1), reduction="batchmean").abs() < 1e-5
    assert sigmoid_kd(teacher + offset, teacher) > 0.01
    assert sigmoid_kd(student, teacher) > 0.1


def test_sigmoid_kd_tends_to_the_squared_difference(logits):
    student, teacher = logits
    limit = ((student - teacher) ** 2 / 8).mean().item()
    assert sigmoid_kd(student, teacher, temperature=100.0).item() == pytest.approx(limit, rel=1e-2)


def test_sigmoid_kd_is_a_mean_over_known_entries(logits):
    student, teacher = logits
    mask = torch.rand(16, 5, generator=torch.Generator().manual_seed(1)) < 0.5
    kept = [sigmoid_kd(student[i, j].view(1, 1), teacher[i, j].view(1, 1)).item() for i, j in mask.nonzero().tolist()]
    unknown = torch.where(mask, teacher, float("nan"))
    assert sigmoid_kd(student, unknown, mask=mask).item() == pytest.approx(np.mean(kept), rel=1e-5)
    twice = torch.cat([student, student]), torch.cat([teacher, teacher])
    assert sigmoid_kd(*twice).item() == pytest.approx(sigmoid_kd(student, teacher).item(), rel=1e-6)


def test_gradient_is_clean_where_masked():
    student = torch.zeros(2, 2, requires_grad=True)
    teacher = torch.tensor([[1.0, float("nan")], [float("nan"), 2.0]])
    sigmoid_kd(student, teacher, mask=~torch.isnan(teacher)).backward()
    assert torch.isfinite(student.grad).all()
    assert (student.grad == 0).sum() == 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_large_logits_stay_finite(dtype):
    student = torch.tensor([[-40.0, 40.0]], dtype=dtype, requires_grad=True)
    loss = sigmoid_kd(student, -student) + binary_cross_entropy(student, torch.tensor([[1.0, 0.0]]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(80, rel=1e-3)
    loss.backward()
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_must_be_positive(logits, temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        sigmoid_kd(*logits, temperature=temperature)


def test_binary_cross_entropy_leaves_unknown_labels_out():
    student = torch.tensor([[0.3, -1.2], [2.0, 0.7]], requires_grad=True)
    target = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
    known = [(0.3, 1.0), (2.0, 0.0), (0.7, 1.0)]
    by_hand = np.mean([np.log1p(np.exp(-z)) if y else np.log1p(np.exp(z)) for z, y in known])
    loss = binary_cross_entropy(student, target)
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)
    loss.backward()
    assert student.grad[0, 1] == 0
    assert binary_cross_entropy(student, target, mask=target != 1).item() == pytest.approx(np.log1p(np.exp(2.0)))


def test_nothing_known_costs_nothing():
    student = torch.ones(3, 2, requires_grad=True)
    loss = binary_cross_entropy(student, torch.full((3, 2), float("nan")))
    loss.backward()
    assert loss.item() == 0
    assert (student.grad == 0).all()
    assert masked_mean(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool)) == 0
