"""Weights of teachers: they depend on the answers and on unknown labels, and sum to one."""

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from scipy.stats import entropy

from medistill.distillation.combine import combine_answers, teacher_weights

T, N, L = 3, 7, 4
UNKNOWN = float("nan")


@pytest.fixture
def answers():
    return 3 * torch.randn(T, N, L, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets():
    targets = (torch.rand(N, L, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    targets[2, 1] = UNKNOWN
    return targets


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("how", ["mean", "entropy", "confidence"])
def test_weights_sum_to_one_over_those_that_know(answers, targets, how, exclusive):
    if exclusive:
        targets = torch.eye(L)[torch.arange(N) % L]
    answers[0, :, 3] = UNKNOWN  # one teacher does not know this label
    answers[:2, :, 2] = UNKNOWN  # only one teacher knows this one
    answers[:, :, 0] = UNKNOWN  # no teacher knows this one
    weights = teacher_weights(answers, targets, how=how, exclusive=exclusive)
    assert torch.isfinite(weights).all()
    assert (weights >= 0).all()
    assert (weights[torch.isnan(answers)] == 0).all()
    total = weights.sum(0)
    assert (total[:, 0] == 0).all()
    assert torch.allclose(total[:, 1:], torch.ones(N, L - 1))
    assert (weights[2, :, 2] == 1).all()
    combined, known = combine_answers(answers, targets, how=how, exclusive=exclusive)
    assert known.tolist() == [[False, True, True, True]] * N
    assert (combined[:, 0] == 0).all()
    assert torch.equal(combined[:, 2], answers[2, :, 2])


@pytest.mark.parametrize("how", ["mean", "entropy", "confidence"])
def test_one_teacher_is_that_teacher(answers, targets, how):
    combined, known = combine_answers(answers[:1], targets, how=how)
    assert torch.equal(combined, answers[0])
    assert known.all()


def test_the_mean_is_the_mean(answers, targets):
    assert torch.allclose(combine_answers(answers, targets)[0], answers.mean(0), atol=1e-6)


def test_confident_teachers_weigh_more(answers, targets):
    p = expit(answers.double().numpy())
    doubt = entropy(np.stack([p, 1 - p]), axis=0)
    expected = (1 - doubt / doubt.sum(0)) / (T - 1)
    weights = teacher_weights(answers, targets, how="entropy", exclusive=False)
    np.testing.assert_allclose(weights, expected, rtol=1e-4)
    doubt = entropy(softmax(answers.double().numpy(), axis=2), axis=2)[:, :, None]
    expected = np.broadcast_to((1 - doubt / doubt.sum(0)) / (T - 1), (T, N, L))
    weights = teacher_weights(answers, targets, how="entropy", exclusive=True)
    np.testing.assert_allclose(weights, expected, rtol=1e-4)


def test_teachers_close_to_the_label_weigh_more(answers, targets):
    p, y = expit(answers.double().numpy()), targets.double().numpy()
    error = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    expected = (1 - softmax(error, axis=0)) / (T - 1)
    weights = teacher_weights(answers, targets, how="confidence", exclusive=False).numpy()
    labelled = ~np.isnan(y)
    np.testing.assert_allclose(weights[:, labelled], expected[:, labelled], rtol=1e-4, atol=1e-6)
    fallback = teacher_weights(answers, targets, how="entropy", exclusive=False).numpy()
    assert (weights[:, ~labelled] == fallback[:, ~labelled]).all()
    one_hot = torch.eye(L)[torch.arange(N) % L]
    error = -np.log(softmax(answers.double().numpy(), axis=2))[:, np.arange(N), np.arange(N) % L]
    expected = (1 - softmax(error, axis=0)) / (T - 1)
    weights = teacher_weights(answers, one_hot, how="confidence", exclusive=True)
    np.testing.assert_allclose(weights, np.broadcast_to(expected[:, :, None], (T, N, L)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("logit", [5.0, 12.0, 16.0, 18.0, 30.0, 40.0, 80.0])
def test_a_sure_no_is_as_sure_as_a_sure_yes(logit):
    answers = torch.tensor([[[logit]], [[-logit]]])
    weights = teacher_weights(answers, torch.full((1, 1), UNKNOWN), how="entropy", exclusive=False)
    assert weights.flatten().tolist() == [0.5, 0.5]
    less = torch.tensor([[[logit]], [[1 - logit]]])  # the second is e times as likely to be wrong
    weights = teacher_weights(less, torch.full((1, 1), UNKNOWN), how="entropy", exclusive=False)
    doubt = [
        entropy([p, -np.expm1(np.log(p))]) if p > 1e-15 else p * (1 - np.log(p)) for p in expit([-logit, 1 - logit])
    ]
    np.testing.assert_allclose(weights.flatten(), 1 - np.array(doubt) / sum(doubt), rtol=1e-5)


@pytest.mark.parametrize("how", ["entropy", "confidence"])
def test_of_exclusive_classes_the_unknown_ones_take_no_part(answers, how):
    answers[0, :, 3] = UNKNOWN
    one_hot = torch.eye(L)[torch.arange(N) % 3]
    weights = teacher_weights(answers, one_hot, how=how, exclusive=True)
    p = [softmax(row.double().numpy(), axis=1) for row in (answers[0, :, :3], *answers[1:])]
    if how == "entropy":
        doubt = np.stack([entropy(each, axis=1) for each in p])
        share = doubt / doubt.sum(0)
    else:
        share = softmax([-np.log(each[np.arange(N), np.arange(N) % 3]) for each in p], axis=0)
    np.testing.assert_allclose(weights[:, :, 0], (1 - share) / (T - 1), rtol=1e-4, atol=1e-6)
    part = one_hot.clone()
    part[2, 3] = UNKNOWN  # one unknown class is enough
    unknown = teacher_weights(answers, part, how=how, exclusive=True)[:, 2]
    assert torch.equal(unknown, teacher_weights(answers, part, how="entropy", exclusive=True)[:, 2])


def test_equally_confident_teachers_have_equal_weights(targets):
    sure = torch.stack([torch.full((N, L), 200.0), torch.full((N, L), -200.0)])
    assert torch.allclose(combine_answers(sure, targets, how="entropy")[0], torch.zeros(N, L))


@pytest.mark.parametrize("how", ["entropy", "confidence"])
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("logit", [20.0, 30.0, 40.0, 80.0, 100.0])
def test_however_sure_they_are_their_weights_sum_to_one(logit, exclusive, how):
    unknown = torch.full((1, 2), UNKNOWN)
    answers = torch.tensor([[[logit, 0.0]], [[logit + 1, 0.0]]])
    weights = teacher_weights(answers, unknown, how=how, exclusive=exclusive)
    assert torch.allclose(weights.sum(0), torch.ones(1, 2))
    assert logit <= combine_answers(answers, unknown, how=how, exclusive=exclusive)[0][0, 0] <= logit + 1
