"""Grad-CAM in closed form against pytorch-grad-cam and autograd, for all families of networks; heads without one.

All is in float64, so that differences are not rounding.
"""

import copy

import numpy as np
import pytest
import timm.layers
import torch
from torch import nn

from medistill.explain.cam import grad_cam
from medistill.models.build import create_classifier
from medistill.models.classifier import Classifier
from medistill.models.heads import class_maps_by_autograd, read_head
from medistill.models.settings import Network
from medistill.models.systems import NETWORKS
from tests.unit.models.hooked import library_maps
from tests.unit.models.test_families import FAMILIES

LABELS = ["a", "b", "c"]
SIZE = 64
SWIN, VISFORMER, VGG, DENSENET = (FAMILIES[name][1] for name in ("swin", "visformer", "vgg", "densenet"))

# The families of the other tests, and the networks of presets and papers, made smaller by timm's arguments if possible.
NETS = {arch: args for arch, args, _ in FAMILIES.values()} | {
    "densenet161": DENSENET,
    "vgg19": VGG,
    "vgg19_bn": VGG,
    "visformer_small": VISFORMER,
    "resnet10t": {},
    "resnet50": {"layers": [1, 1, 1, 1]},
    "efficientnet_b0": {},
    "tf_efficientnet_lite0": {},
    "tf_efficientnet_lite2": {},
    "mobilenetv3_small_100": {},
    "mobilenetv3_large_100": {},
    "mobilenetv4_conv_small": {},
    "efficientvit_b0": {},
    "fastvit_t8": {},
    "mobileone_s0": {},
    "repvit_m0_9": {},
}
BY_AUTOGRAD = {
    "vgg11_bn": "its head multiplies the map before it pools",
    "vgg19": "its head multiplies the map before it pools",
    "vgg19_bn": "its head multiplies the map before it pools",
    "efficientvit_b0": "its head multiplies the map before it pools",
    "repvit_m0_9": "it averages two classifiers",
}
BATCH_NORM_BEHIND_POOLING = {"mobilenetv4_conv_small_035", "mobilenetv4_conv_small"}
DROPOUT = {"ghostnet_050", "ofa_595"}
SLOW = NETS.keys() - {"swin_s3_tiny_224", "mobilenetv4_conv_small_035", "test_convnext", "test_mambaout"}


def build(arch: str, args: dict) -> Classifier:
    """A network in float64 whose logits differ from image to image, with statistics in its batch norms."""
    torch.manual_seed(0)
    model = create_classifier(Network(arch=arch, args=args), labels=LABELS, image_size=SIZE).double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
    return model.eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Images of one channel."""
    return torch.rand(4, 1, SIZE, SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_the_networks_of_the_papers_are_all_among_these():
    assert {network.arch for network in NETWORKS} | {arch for arch, _, _ in FAMILIES.values()} <= NETS.keys()


@pytest.mark.parametrize("arch", [pytest.param(a, marks=[pytest.mark.slow] if a in SLOW else []) for a in NETS])
def test_maps_are_those_of_pytorch_grad_cam(arch, images):
    model = build(arch, NETS[arch])
    assert (model.closed_head() is None) == (arch in BY_AUTOGRAD)
    asked = np.array([2, 0, 1, 2])
    with torch.no_grad():
        features = model.features(images)
        maps = model.class_maps(features)
        chosen = model.class_maps(features, torch.from_numpy(asked)[:, None])
    assert maps.shape == (4, 3, *features.shape[2:])
    assert torch.allclose(chosen[:, 0], maps[range(4), asked], rtol=1e-9, atol=0)
    expected = library_maps(model, images, asked)
    assert expected.std() > 0
    np.testing.assert_allclose(chosen[:, 0], expected, rtol=1e-5, atol=1e-9 * np.abs(expected).max())
    shown, logits = grad_cam(model, images, asked)
    np.testing.assert_allclose(shown, expected.clip(0), rtol=1e-5, atol=1e-9 * np.abs(expected).max())
    np.testing.assert_allclose(logits, model(images).detach(), rtol=1e-6)

    features.requires_grad_()
    signed = class_maps_by_autograd(model.classify(features), features, torch.arange(3).expand(4, -1)).detach()
    assert torch.allclose(maps, signed, rtol=1e-9, atol=1e-12 * signed.abs().max())

    in_training = arch in BY_AUTOGRAD or arch in BATCH_NORM_BEHIND_POOLING or arch in DROPOUT
    assert (model.train().closed_head() is None) == in_training
    assert (model.eval().closed_head() is None) == (arch in BY_AUTOGRAD)


@pytest.mark.parametrize("arch", ["test_convnext", "test_mambaout", "test_resnet", "mobilenetv3_small_050"])
def test_a_students_maps_have_the_same_gradient_as_by_autograd(arch, images):
    model = build(arch, NETS[arch]).train()
    assert model.closed_head()
    asked = torch.tensor([[0, 2], [1, 0], [2, 1], [0, 1]])
    target = torch.rand(4, 2, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gradients = []
    for closed in (True, False):
        logits, features = model(images, with_map=True)
        maps = model.class_maps(features, asked, logits=logits)
        if not closed:
            maps = class_maps_by_autograd(logits, features, asked)
        maps = maps / maps.flatten(2).norm(dim=2)[..., None, None]
        loss = (maps - target).square().sum()
        gradients.append(torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True))
    assert sum(gradient.abs().sum() > 0 for gradient in gradients[0]) > 10
    largest = max(gradient.abs().max() for gradient in gradients[1])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9 * largest.item())


class Head(nn.Module):
    """A backbone whose feature map is a convolution, with a head to be chosen."""

    def __init__(self, *head: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 8, 8, 8)
        self.head = nn.Sequential(*head)

    def forward_features(self, images):
        return self.stem(images)

    def forward_head(self, features):
        return self.head(features)


def classifier(backbone: nn.Module) -> Classifier:
    return Classifier(backbone, {"mean": [0.5], "std": [0.25]}).double().eval()


def varied(layer: nn.Module) -> nn.Module:
    """Give a normalisation layer weights and statistics that are no identity."""
    with torch.no_grad():
        for name, value in layer.state_dict().items():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5) if name.endswith(("var", "weight")) else value.normal_()
    return layer


POOL, FLAT = nn.AdaptiveAvgPool2d(1), nn.Flatten(1)
CLOSED = {
    "linear": [POOL, FLAT, nn.Linear(8, 3)],
    "1x1 convolution": [POOL, nn.Conv2d(8, 3, 1), FLAT],
    "without bias": [POOL, nn.Conv2d(8, 5, 1, bias=False), nn.Flatten(), nn.Tanh(), nn.Linear(5, 3, bias=False)],
    "layer norm": [POOL, FLAT, varied(nn.LayerNorm(8)), nn.Linear(8, 3)],
    "layer norm that has no weights": [POOL, FLAT, nn.LayerNorm(8, elementwise_affine=False), nn.Linear(8, 3)],
    "layer norm of a cell": [POOL, varied(timm.layers.LayerNorm2d(8)), FLAT, nn.Linear(8, 3)],
    "batch norm": [POOL, varied(nn.BatchNorm2d(8)), FLAT, nn.Linear(8, 3)],
    "batch norm of vectors": [POOL, FLAT, nn.Linear(8, 5), varied(nn.BatchNorm1d(5)), nn.Linear(5, 3)],
    "batch norm that has no weights": [POOL, FLAT, nn.BatchNorm1d(8, affine=False), nn.Linear(8, 3)],
    "batch norm with an activation": [POOL, varied(timm.layers.BatchNormAct2d(8)), FLAT, nn.Linear(8, 3)],
    "batch norm with none": [POOL, varied(timm.layers.BatchNormAct2d(8, apply_act=False)), FLAT, nn.Linear(8, 3)],
    "dropout in evaluation": [nn.Dropout(0.5), POOL, nn.Identity(), FLAT, nn.Dropout(0.5), nn.Linear(8, 3)],
    "timm's pooling": [timm.layers.SelectAdaptivePool2d(pool_type="fast", flatten=True), nn.Linear(8, 3)],
    "timm's GELU": [POOL, FLAT, nn.Linear(8, 32), timm.layers.activations.GELU(), nn.Linear(32, 3)],
    "timm's tanh": [POOL, FLAT, nn.Linear(8, 32), timm.layers.activations.Tanh(), nn.Linear(32, 3)],
} | {
    repr(act): [POOL, FLAT, nn.Linear(8, 32), act, nn.Linear(32, 3)]
    for act in (
        *(nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardswish(), nn.SiLU(), nn.GELU(), nn.Tanh()),
        *(nn.GELU(approximate="tanh"), timm.layers.activations.GELUTanh()),
    )
}


class Doubling(nn.ReLU):
    """A subclass of ReLU that computes something else."""

    def forward(self, x):
        return 2 * super().forward(x)


class Sum(nn.Module):
    """A pooling that is not a mean."""

    def forward(self, features):
        return features.mean((2, 3)) + features.amax((2, 3))


class Mean(nn.Module):
    """A mean with arguments to be chosen."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__()
        self.how = args, kwargs

    def forward(self, features):
        return features.mean(*self.how[0], **self.how[1])


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda module, args, output: 3 * output.tanh())
    return layer


OTHERS = {
    "max pooling": [nn.AdaptiveMaxPool2d(1), FLAT, nn.Linear(8, 3)],
    **{
        pool: [timm.layers.SelectAdaptivePool2d(pool_type=pool, flatten=True), nn.Linear(8 * (1 + ("cat" in pool)), 3)]
        for pool in ("max", "avgmax", "catavgmax", "fastmax", "fastavgmax", "fastcatavgmax")
    },
    "pooling to four cells": [nn.AdaptiveAvgPool2d(2), FLAT, nn.Linear(32, 3)],
    "no pooling": [FLAT, nn.Linear(8 * 64, 3)],
    "an activation before pooling": [nn.ReLU(), POOL, FLAT, nn.Linear(8, 3)],
    "a convolution before pooling": [nn.Conv2d(8, 8, 1), POOL, FLAT, nn.Linear(8, 3)],
    "a convolution of 3x3": [POOL, nn.Conv2d(8, 3, 3, padding=1), FLAT],
    "a convolution in groups": [POOL, nn.Conv2d(8, 8, 1, groups=2), FLAT, nn.Linear(8, 3)],
    "a subclass": [POOL, FLAT, nn.Linear(8, 32), Doubling(), nn.Linear(32, 3)],
    "an unknown activation": [POOL, FLAT, nn.Linear(8, 5), nn.Softplus(), nn.Linear(5, 3)],
    "an activation last": [POOL, FLAT, nn.Linear(8, 3), nn.Tanh()],
    "group norm": [POOL, FLAT, varied(nn.GroupNorm(2, 8)), nn.Linear(8, 3)],
    "batch norm by the batch": [POOL, FLAT, nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 3)],
    "a hook": [POOL, FLAT, hooked(nn.Linear(8, 3))],
    "two poolings": [Sum(), nn.Linear(8, 3)],
    "a mean over other axes": [Mean((1, 2)), nn.Linear(8, 3)],
    "a mean over one axis": [Mean(3), FLAT, nn.Linear(64, 3)],
}


@pytest.mark.parametrize("kind", [*CLOSED, *OTHERS])
def test_a_head_has_a_closed_form_or_is_left_to_autograd(kind, images):
    model = classifier(Head(*copy.deepcopy((CLOSED | OTHERS)[kind])))
    with torch.no_grad():  # the heads were made before the seed was set
        for name, weight in model.backbone.head.named_parameters():
            generator = torch.Generator().manual_seed(len(name))
            weight.copy_(torch.rand(weight.shape, generator=generator, dtype=torch.float64) - 0.25)
    assert (model.closed_head() is not None) == (kind in CLOSED)
    asked = np.array([2, 0, 1, 2])
    with torch.no_grad():
        maps = model.class_maps(model.features(images), torch.from_numpy(asked)[:, None])[:, 0]
    expected = library_maps(model, images, asked)
    assert expected.std() > 0
    np.testing.assert_allclose(maps, expected, rtol=1e-5, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("axes", [(2, 3), (-2, -1), [2, 3]])
@pytest.mark.parametrize("keep", [True, False])
def test_pooling_may_be_a_plain_mean(axes, keep):
    assert read_head(Head(Mean(axes, keepdim=keep), *([FLAT] if keep else []), nn.Linear(8, 3)).eval())
    assert not read_head(Head(Mean(axes, keepdim=keep), FLAT, nn.Linear(8, 3)).eval(), channels_last=True)
    assert not read_head(Head(Mean(axes, keepdim=keep, dtype=torch.float16), FLAT, nn.Linear(8, 3)).eval())


def test_channels_that_come_last_are_pooled_over_their_own_axes():
    backbone = Head(Mean((1, 2)), nn.LayerNorm(8), nn.Linear(8, 3)).eval()
    assert read_head(backbone, channels_last=True)
    assert not read_head(backbone)
    assert read_head(Head(Mean((1, 2), keepdim=True), nn.Linear(8, 3), FLAT).eval(), channels_last=True)


def test_the_closed_form_follows_the_weights(images):
    model = classifier(Head(*CLOSED["linear"]))
    with torch.no_grad():
        features = model.features(images)
        before = model.class_maps(features)
        for parameter in model.backbone.head.parameters():
            parameter.mul_(2)
        assert torch.allclose(model.class_maps(features), 2 * before)


def test_a_copy_has_a_closed_form_of_its_own(images):
    model = classifier(Head(*copy.deepcopy(CLOSED["linear"])))
    with torch.no_grad():
        features = model.features(images)
        before = model.class_maps(features)
        other = copy.deepcopy(model)
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(other.class_maps(features), before)


@pytest.mark.parametrize("kind", ["linear", "no pooling"])
def test_labels_that_do_not_exist_are_refused(kind, images):
    model = classifier(Head(*copy.deepcopy((CLOSED | OTHERS)[kind])))
    with pytest.raises(IndexError):
        grad_cam(model, images, np.array([0, 1, 2, 3]))
