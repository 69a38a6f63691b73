"""Losses against written-out definitions, and changes to which they must or must not react."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import pdist, squareform
from scipy.special import expit, softmax
from sklearn.metrics.pairwise import cosine_similarity as sklearn_cosine
from torch.distributions import Bernoulli, Categorical, kl_divergence

from medistill.distillation.functional import (
    asymmetric_bce,
    attention_transfer,
    bckd,
    binary_cross_entropy,
    cam_kd,
    cosine_similarity,
    cross_entropy,
    dist,
    dkd,
    explanation_kd,
    feature_mse,
    focal_bce,
    logit_standardized_kd,
    masked_mean,
    mse_kd,
    rkd,
    sigmoid_kd,
    softmax_kd,
)


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


def test_a_loss_without_known_labels_is_zero():
    student = torch.ones(3, 2, requires_grad=True)
    loss = binary_cross_entropy(student, torch.full((3, 2), float("nan")))
    loss.backward()
    assert loss.item() == 0
    assert (student.grad == 0).all()
    assert masked_mean(torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.bool)) == 0


@pytest.fixture
def labels():
    target = (torch.rand(16, 5, generator=torch.Generator().manual_seed(2)) < 0.3).float()
    target[0, 0] = target[3, 4] = float("nan")
    return target


def test_focal_bce_is_its_formula(logits, labels):
    p, y = expit(logits[0].double().numpy()), labels.numpy()
    for gamma in (0.0, 2.0, 0.5):
        expected = np.nanmean(-((1 - p) ** gamma) * y * np.log(p) - p**gamma * (1 - y) * np.log(1 - p))
        assert focal_bce(logits[0], labels, gamma=gamma).item() == pytest.approx(expected, rel=1e-5)
    assert focal_bce(logits[0], labels, gamma=0).item() == pytest.approx(
        binary_cross_entropy(logits[0], labels).item(), rel=1e-6
    )
    with pytest.raises(ValueError, match="gamma must not be negative"):
        focal_bce(logits[0], labels, gamma=-1)


def test_small_probabilities_keep_their_weight_for_small_gammas():
    p = expit(-9.0)
    loss = focal_bce(torch.tensor([[-9.0]]), torch.zeros(1, 1), gamma=0.5)
    assert loss.item() == pytest.approx(-np.sqrt(p) * np.log1p(-p), rel=1e-2)


@pytest.mark.parametrize("clip", [1e-9, 1e-7, 1e-3])
def test_a_small_clip_is_of_use_where_an_answer_is_sure(clip):
    sure = torch.tensor([[40.0, -2.0]], requires_grad=True)
    loss = asymmetric_bce(sure, torch.zeros(1, 2), clip=clip)
    loss.backward()
    q = expit(np.array([40.0, -2.0])) - clip
    assert loss.item() == pytest.approx(np.mean(-(q**4) * np.log(expit([-40.0, 2.0]) + clip)), rel=1e-5)
    assert torch.isfinite(sure.grad).all()


@pytest.mark.parametrize(("negative", "positive", "clip"), [(4, 1, 0.05), (2, 0, 0.0), (0, 0, 0.0), (0, 0, 0.3)])
def test_asymmetric_bce_is_its_formula(logits, labels, negative, positive, clip):
    p, y = expit(logits[0].double().numpy()), labels.numpy()
    q = np.maximum(p - clip, 0)
    expected = np.nanmean(-y * (1 - p) ** positive * np.log(p) - (1 - y) * q**negative * np.log(1 - q))
    options = {"gamma_negative": negative, "gamma_positive": positive, "clip": clip}
    assert asymmetric_bce(logits[0], labels, **options).item() == pytest.approx(expected, rel=1e-5)
    easy = torch.tensor([[-6.0]], requires_grad=True)  # a probability below the clip
    loss = asymmetric_bce(easy, torch.zeros(1, 1), gamma_negative=4, clip=0.05)
    loss.backward()
    assert (loss, easy.grad) == (0, 0)


def test_positive_weights_are_torchs(logits, labels):
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    known = ~torch.isnan(labels)
    every = F.binary_cross_entropy_with_logits(logits[0], labels.nan_to_num(), pos_weight=weight, reduction="none")
    expected = every[known].mean().item()
    assert binary_cross_entropy(logits[0], labels, positive_weight=weight).item() == pytest.approx(expected, rel=1e-6)
    assert focal_bce(logits[0], labels, gamma=0, positive_weight=weight).item() == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_is_torchs_and_leaves_unknown_images_out(logits):
    number = torch.arange(16) % 5
    target = F.one_hot(number, 5).float()
    target[3] = float("nan")
    target[7, 4] = float("nan")  # one unknown class is enough
    known = (torch.arange(16) != 3) & (torch.arange(16) != 7)
    for weight in (None, torch.tensor([1.0, 0.5, 2.0, 3.0, 0.1]), torch.full((5,), 0.01)):
        expected = F.cross_entropy(logits[0][known], number[known], weight=weight).item()
        assert cross_entropy(logits[0], target, class_weight=weight).item() == pytest.approx(expected, rel=1e-5)
    target[5] = 1
    with pytest.raises(ValueError, match="an image has none or several"):
        cross_entropy(logits[0], target)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_softmax_kd_is_the_divergence_of_categories(logits, temperature):
    p, q = (Categorical(logits=value.double() / temperature) for value in reversed(logits))
    expected = temperature**2 * kl_divergence(p, q).mean().item()
    assert softmax_kd(*logits, temperature=temperature).item() == pytest.approx(expected, rel=1e-5)


def test_softmax_kd_is_among_the_classes_that_the_teacher_knows(logits):
    student, teacher = logits
    mask = torch.ones(16, 5, dtype=torch.bool)
    mask[:, 2] = False
    mask[4] = torch.tensor([True, False, False, False, False])  # one class is no choice
    rows = torch.arange(16) != 4
    few = [value[rows][:, [0, 1, 3, 4]] for value in logits]
    assert softmax_kd(student, teacher, mask=mask).item() == pytest.approx(softmax_kd(*few).item(), rel=1e-6)


def test_mse_kd_in_three_spaces(logits):
    student, teacher = (value.double().numpy() / 2 for value in logits)
    for space, activation in (("sigmoid", expit), ("logits", lambda z: z), ("softmax", lambda z: softmax(z, axis=1))):
        expected = 4 * np.mean((activation(student) - activation(teacher)) ** 2)
        assert mse_kd(*logits, space=space, temperature=2.0).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="space must be sigmoid, logits or softmax, is 'tanh'"):
        mse_kd(*logits, space="tanh")


def test_bckd_is_its_formula(logits):
    z, p = logits[0].double(), torch.sigmoid(logits[1].double())
    q = torch.sigmoid(z)
    for beta in (1.0, 2.0):
        expected = ((p - q).abs() ** beta * -(p * q.log() + (1 - p) * (1 - q).log())).mean().item()
        assert bckd(*logits, beta=beta).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="beta must be at least 1"):
        bckd(*logits, beta=0.5)


def test_dkd_is_two_parts_of_the_divergence(logits):
    """KL(teacher ‖ student) = the class against the others + (1 − p of the class) · KL among the others."""
    student, teacher = logits
    target = F.one_hot(torch.arange(16) % 5, 5).float()
    for row in range(16):
        one = [value[row : row + 1] for value in (student, teacher)]
        here = target[row : row + 1]
        others = 1 - teacher[row].double().softmax(-1)[row % 5].item()
        both = dkd(*one, target=here, alpha=1, beta=others, temperature=1).item()
        assert both == pytest.approx(softmax_kd(*one, temperature=1).item(), rel=1e-4)
    rest = [value[:, 1:] for value in logits]  # all images are of class 0: the rest is a softmax over the others
    first = F.one_hot(torch.zeros(16, dtype=torch.long), 5).float()
    among = dkd(*logits, target=first, alpha=0, beta=2, temperature=3).item()
    assert among == pytest.approx(2 * softmax_kd(*rest, temperature=3).item(), rel=1e-4)


def test_logit_standardized_kd_is_softmax_kd_of_z_scores(logits):
    scores = [
        (z - z.mean(1, keepdims=True)) / z.std(1, ddof=1, keepdims=True) for z in (v.double().numpy() for v in logits)
    ]
    expected = softmax_kd(*map(torch.from_numpy, scores), temperature=2.0).item()
    assert logit_standardized_kd(*logits, temperature=2.0).item() == pytest.approx(expected, rel=1e-4)
    mask = torch.ones(16, 5, dtype=torch.bool)
    mask[:, 0] = False
    rest = logit_standardized_kd(*(value[:, 1:] for value in logits)).item()
    assert logit_standardized_kd(*logits, mask=mask).item() == pytest.approx(rest, rel=1e-5)


@pytest.mark.parametrize(("activation", "function"), [("softmax", lambda z: softmax(z, axis=1)), ("sigmoid", expit)])
def test_dist_is_of_correlations(logits, activation, function):
    p, q = (function(value.double().numpy() / 2) for value in logits)
    inter = np.mean([1 - np.corrcoef(p[row], q[row])[0, 1] for row in range(16)])
    intra = np.mean([1 - np.corrcoef(p[:, label], q[:, label])[0, 1] for label in range(5)])
    loss = dist(*logits, activation=activation, inter=2.0, intra=3.0, temperature=2.0)
    assert loss.item() == pytest.approx(4 * (2 * inter + 3 * intra), rel=1e-4)
    if activation == "sigmoid":
        mask = torch.rand(16, 5, generator=torch.Generator().manual_seed(5)) < 0.7
        mask[:, 1] = False
        kept = mask.numpy()
        intra = [1 - np.corrcoef(p[kept[:, k], k], q[kept[:, k], k])[0, 1] for k in (0, 2, 3, 4)]
        loss = dist(*logits, activation="sigmoid", inter=0, temperature=2.0, mask=mask)
        assert loss.item() == pytest.approx(4 * np.mean(intra), rel=1e-4)


@pytest.mark.parametrize("images", [12, 17, 64])
def test_dist_leaves_out_labels_with_a_constant_teacher(images):
    student, teacher = 3 * torch.randn(2, images, 5, generator=torch.Generator().manual_seed(0))
    rest = [value[:, [0, 1, 3, 4]] for value in (student, teacher)]
    expected = dist(*rest, activation="sigmoid", inter=0).item()
    for constant in torch.linspace(-12, 4, 65):  # for some of them the mean differs from the constant by rounding
        teacher[:, 2] = constant
        assert dist(student, teacher, activation="sigmoid", inter=0).item() == pytest.approx(expected, rel=1e-6)


def test_dist_keeps_rare_labels_and_pairs():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 32, 3, generator=generator) - torch.tensor([0.0, 9.0, 14.0])
    p, q = (expit(value.double().numpy()) for value in (student, teacher))
    by_label = [1 - np.corrcoef(p[:, label], q[:, label])[0, 1] for label in range(3)]
    loss = dist(student, teacher, activation="sigmoid", inter=0).item()
    assert loss == pytest.approx(np.mean(by_label), rel=1e-4)
    mask = torch.ones(32, 3, dtype=torch.bool)
    mask[2:, 1] = False
    by_label[1] = 1 - np.corrcoef(p[:2, 1], q[:2, 1])[0, 1]
    loss = dist(student, teacher, activation="sigmoid", inter=0, mask=mask).item()
    assert loss == pytest.approx(np.mean(by_label), rel=1e-4)


def test_dist_keeps_labels_that_nearly_all_images_have():
    student, teacher = torch.randn(2, 32, 1, generator=torch.Generator().manual_seed(0)) + 10
    p, q = (expit(value.double().numpy())[:, 0] for value in (student, teacher))
    loss = dist(student, teacher, activation="sigmoid", inter=0).item()
    assert loss == pytest.approx(1 - np.corrcoef(p, q)[0, 1], rel=1e-2)  # float32 is coarse so close to 1


def test_a_constant_student_costs_as_much_as_no_correlation_and_has_no_gradient(logits):
    def gradient(loss, student):
        student = student.clone().requires_grad_()
        value = loss(student, logits[1])
        value.backward()
        return value.item(), student.grad

    student, rest = logits[0].clone(), [0, 1, 3, 4]
    for constant in torch.linspace(-4, 4, 33):
        student[:, 2] = constant
        value, slope = gradient(lambda *pair: dist(*pair, activation="sigmoid", inter=0), student)
        others = dist(student[:, rest], logits[1][:, rest], activation="sigmoid", inter=0).item()
        assert value == pytest.approx((4 * others + 1) / 5, rel=1e-5)
        assert (slope[:, 2] == 0).all()
        assert 0 < slope.norm() < 1
    student = logits[0].clone()
    student[7] = 0.3
    value, slope = gradient(logit_standardized_kd, student)
    assert (slope[7] == 0).all()
    assert 0 < slope.norm() < 1
    blank = softmax_kd(
        torch.zeros(1, 5), (logits[1] - logits[1].mean(1, keepdim=True))[7:8] / logits[1][7].std(), temperature=2
    )
    others = logit_standardized_kd(*(each[torch.arange(16) != 7] for each in (student, logits[1])))
    assert value == pytest.approx((15 * others + blank).item() / 16, rel=1e-5)


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(4)
    return torch.randn(9, 6, generator=generator), torch.randn(9, 6, generator=generator)


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_rkd_is_of_distances_and_angles(features, shift):
    def huber(a, b):
        d = np.abs(a - b)
        return np.where(d < 1, d**2 / 2, d - 0.5).mean()

    def angles(x):
        out = np.zeros((len(x),) * 3)
        for i in range(len(x)):
            for j in range(len(x)):
                for k in range(len(x)):
                    a, b = x[j] - x[i], x[k] - x[i]
                    length = np.linalg.norm(a) * np.linalg.norm(b)
                    out[i, j, k] = a @ b / length if length else 0
        return out

    own, wide = features[0] + shift, torch.hstack([features[1], features[1][:, :2] ** 2])  # a teacher of any width
    own[3] = own[5] + 1e-3 * features[1][0]  # two vectors close to each other
    own[7], wide[2] = own[8], wide[4]  # equal vectors: the difference has no direction
    s, t = (value.double().numpy() for value in (own, wide))
    distances = [squareform(pdist(x)) / pdist(x)[pdist(x) > 0].mean() for x in (s, t)]
    assert rkd(own, wide, distance=1, angle=0).item() == pytest.approx(huber(*distances), rel=1e-5)
    expected = 25 * huber(*distances) + 50 * huber(angles(s), angles(t))
    assert rkd(own, wide, distance=25, angle=50).item() == pytest.approx(expected, rel=1e-4)
    own.requires_grad_()
    rkd(own, wide, distance=0).backward()
    slope, step = own.grad[0, 0].item(), 1e-2
    with torch.no_grad():
        moved = [own + sign * step * F.one_hot(torch.tensor(0), own.numel()).view_as(own) for sign in (1, -1)]
        high, low = (2 * huber(angles(each.double().numpy()), angles(t)) for each in moved)
    assert slope == pytest.approx((high - low) / (2 * step), rel=1e-2)


def test_features_are_compared_by_cosine_and_square(features):
    s, t = (value.double().numpy() for value in features)
    expected = 1 - np.diag(sklearn_cosine(s, t)).mean()
    assert cosine_similarity(*features).item() == pytest.approx(expected, rel=1e-5)
    assert feature_mse(*features).item() == pytest.approx(np.mean((s - t) ** 2), rel=1e-6)


def test_attention_transfer_compares_places_not_channels():
    generator = torch.Generator().manual_seed(6)
    student = torch.randn(3, 4, 5, 5, generator=generator)
    teacher = torch.randn(3, 8, 10, 10, generator=generator)
    expected = 0.0
    for image in range(3):
        a = (student[image].numpy() ** 2).mean(0).ravel()
        b = (teacher[image].numpy() ** 2).mean(0).reshape(5, 2, 5, 2).mean((1, 3)).ravel()
        expected += np.mean((a / np.linalg.norm(a) - b / np.linalg.norm(b)) ** 2) / 3
    assert attention_transfer(student, teacher).item() == pytest.approx(expected, rel=1e-5)
    shuffled = student[:, [2, 0, 3, 1]]
    assert attention_transfer(shuffled, teacher).item() == pytest.approx(expected, rel=1e-5)
    root = teacher.pow(2).mean(1, keepdim=True).sqrt()
    assert attention_transfer(student, root).item() == pytest.approx(expected, rel=1e-5)


def test_maps_of_labels_are_compared_by_direction():
    generator = torch.Generator().manual_seed(8)
    student, teacher = (torch.randn(4, 3, 5, 5, generator=generator) for _ in range(2))
    teacher[1, 2] = 0  # nothing to imitate
    teacher[2, 0] = -teacher[2, 0].abs()  # no evidence for the label
    signed, positive = [], []
    for image, label in np.ndindex(4, 3):
        a, b = (maps[image, label].double().numpy().ravel() for maps in (student, teacher))
        if b.any():
            signed.append(2 - 2 * a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        a, b = a.clip(0), b.clip(0)
        if b.any():
            positive.append(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert (len(signed), len(positive)) == (11, 10)
    assert cam_kd(student, teacher).item() == pytest.approx(np.mean(signed), rel=1e-5)
    assert explanation_kd(student, teacher).item() == pytest.approx(np.mean(positive), rel=1e-5)


@pytest.mark.parametrize("loss", [cam_kd, explanation_kd])
def test_however_small_a_map_is_its_direction_counts(loss):
    student, teacher = torch.randn(2, 4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    expected = loss(student, teacher).item()
    assert loss(1e-5 * student, teacher).item() == pytest.approx(expected, rel=1e-5)
    assert loss(student, 1e-5 * teacher).item() == pytest.approx(expected, rel=1e-5)


def test_a_map_is_resized_to_the_larger():
    ramp = torch.linspace(0, 1, 4).expand(1, 1, 4, 4)
    fine = F.interpolate(ramp, (8, 8), mode="bilinear")
    assert cam_kd(ramp, fine).item() == pytest.approx(0, abs=1e-6)
    assert cam_kd(fine, ramp).item() == pytest.approx(0, abs=1e-6)
    assert cam_kd(ramp, fine.flip(-1)).item() > 0.3


@pytest.mark.parametrize("loss", [cam_kd, explanation_kd])
def test_a_flat_map_of_the_student_has_a_finite_gradient(loss):
    teacher = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for size in (0.0, 1e-12, 1e-6, 1e-3):
        student = torch.full((2, 1, 4, 4), size)
        student[1] += torch.rand(4, 4, generator=torch.Generator().manual_seed(1))
        student.requires_grad_()
        value = loss(student, teacher)
        value.backward()
        assert torch.isfinite(student.grad).all()
        assert student.grad[0].abs().max() <= 1e7
        assert student.grad[1].abs().max() > 0
        if size < 1e-7:
            assert (student.grad[0] == 0).all()


@pytest.mark.parametrize(("loss", "options"), [(focal_bce, {"gamma": 0.5}), (asymmetric_bce, {"gamma_positive": 0.5})])
def test_sure_answers_have_a_gradient_for_small_gammas(loss, options):
    student = torch.tensor([[120.0, -120.0, 20.0, -20.0]], requires_grad=True)
    loss(student, torch.tensor([[1.0, 0.0, 1.0, 0.0]]), **options).backward()
    assert torch.isfinite(student.grad).all()


def test_positives_weigh_as_much_as_is_said_in_the_asymmetric_loss(logits):
    student, _ = logits
    target = (torch.rand(student.shape, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    entries = torch.stack(
        [
            torch.stack([asymmetric_bce(student[i : i + 1, k : k + 1], target[i : i + 1, k : k + 1]) for k in range(5)])
            for i in range(len(student))
        ]
    )
    expected = (torch.where(target == 1, weight, 1) * entries).mean()
    assert asymmetric_bce(student, target, positive_weight=weight).item() == pytest.approx(expected.item(), rel=1e-5)
