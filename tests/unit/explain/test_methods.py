"""Every method on every layer against pytorch-grad-cam's own; planted evidence; what has no finer map."""

from typing import get_args

import numpy as np
import pytest
import timm
import torch
from pytorch_grad_cam.score_cam import ScoreCAM

from medistill.explain.cam import explain_by, grad_cam, score_cam
from medistill.explain.methods import METHODS
from medistill.explain.ways import Layer, Method, Way
from medistill.models import ofa, systems  # noqa: F401  (timm knows the networks of `ofa` then)
from medistill.models.classifier import Classifier
from medistill.models.stages import stage_at
from medistill.records import explain as records
from tests.unit.models.hooked import library_maps_of

LABELS = np.array([2, 0, 1])
THEIRS = {
    "grad_cam": "GradCAM",
    "grad_cam_pp": "GradCAMPlusPlus",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    "eigen_cam": "EigenCAM",
    "score_cam": "ScoreCAM",
}
NETWORKS = {
    "resnet10t": {},
    "mobilenetv3_small_050": {},
    "eeea_net_c2": {},
    "densenet121": {"growth_rate": 4},
    "convnext_atto": {"dims": (8, 16, 24, 32)},
    "swin_tiny_patch4_window7_224": {"img_size": 96, "window_size": 3, "embed_dim": 12, "num_heads": (1, 2, 3, 4)},
}
"""Layers that work in place, squeeze-excitation, concatenation, layer norm, and channels that come last."""


def network(arch: str, **args) -> Classifier:
    torch.manual_seed(0)
    backbone = timm.create_model(arch, num_classes=3, **args)
    model = Classifier(backbone, {"arch": arch, "mean": [0.5] * 3, "std": [0.25] * 3})
    model.train()
    with torch.no_grad():  # statistics of batch norm that are not 0 and 1, residual branches that are not 0
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
        for _ in range(10):
            model(torch.rand(8, 1, 96, 96))
    return model.eval()


@pytest.fixture(scope="module", params=NETWORKS)
def model(request) -> Classifier:
    return network(request.param, **NETWORKS[request.param])


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 1, 96, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def aligned(monkeypatch):
    """Score-CAM's authors enlarge a map by its cells' centres; the library by their corners."""
    monkeypatch.setattr(
        torch.nn,
        "UpsamplingBilinear2d",
        lambda size: torch.nn.Upsample(size=size, mode="bilinear", align_corners=False),
    )
    monkeypatch.setattr(ScoreCAM, "batch_size", 64, raising=False)


@pytest.mark.parametrize("layer", ["last", "stride_16"])
@pytest.mark.parametrize("method", [*METHODS])
def test_each_is_pytorch_grad_cams(model, images, method, layer):
    maps, logits = explain_by(model, images, LABELS, [Way(method, layer)])
    (ours,) = maps.values()
    stage = stage_at(model, 16) if layer == "stride_16" else None
    theirs = library_maps_of(THEIRS[method], model, model.inputs(images), LABELS, stage)
    assert ours.shape[1:] == ((6, 6) if layer == "stride_16" else (3, 3))
    if method == "eigen_cam":  # its sign is anybody's
        theirs = np.stack(
            [
                one if np.allclose(np.maximum(one, 0), own, atol=1e-4) else -one
                for one, own in zip(theirs, ours, strict=True)
            ]
        )
    theirs = np.maximum(theirs, 0)
    assert theirs.max() > 0
    layer_cam = explain_by(model, images, LABELS, [Way("layer_cam", layer)])[0][Way("layer_cam", layer)]
    terms = layer_cam.max() if method == "hires_cam" else 0  # its terms may cancel each other, see below
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * max(theirs.max(), terms))
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(images).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [network.arch for network in systems.NETWORKS])
def test_every_network_of_the_list_has_a_map_at_stride_16(arch):
    torch.manual_seed(0)
    backbone = timm.create_model(arch, num_classes=3).eval()
    model = Classifier(backbone, {"arch": arch, "mean": [0.5] * 3, "std": [0.25] * 3})
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    way = Way("layer_cam", "stride_16")
    ours = explain_by(model, images, np.array([1]), [way])[0][way]
    theirs = library_maps_of("LayerCAM", model, model.inputs(images), np.array([1]), stage_at(model, 16))
    assert ours.shape[1:] == (14, 14)
    np.testing.assert_allclose(ours, np.maximum(theirs, 0), atol=1e-4 * theirs.max())


@pytest.mark.parametrize("layer", ["last", "stride_16"])
def test_score_cam_of_all_channels_is_pytorch_grad_cams(aligned, images, layer):
    model = network("resnet10t", stem_width=8, channels=(8, 8, 16, 24))
    (ours,) = explain_by(model, images, LABELS, [Way("score_cam", layer)])[0].values()
    stage = stage_at(model, 16) if layer == "stride_16" else None
    theirs = np.maximum(library_maps_of("ScoreCAM", model, model.inputs(images), LABELS, stage), 0)
    assert theirs.max() > 0
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * theirs.max())


def test_score_cam_of_some_channels_has_those_that_vary_most(images):
    """The others have no weight, and those that are left share it."""
    model = network("resnet10t", stem_width=8, channels=(8, 8, 16, 24))
    inputs = model.inputs(images)
    with torch.no_grad():
        activations = model.features_of(inputs)
        some = score_cam(model, inputs, activations, LABELS, channels=5)
        for own, map_ in zip(activations, some, strict=True):
            chosen = own[np.argsort(-own.flatten(1).var(1).numpy())[:5].copy()]
            low, high = chosen.amin(0), chosen.amax(0)
            assert (map_ <= high.relu() + 1e-6).all()
            assert (map_ >= low.relu() - 1e-6).all()
        every = score_cam(model, inputs, activations, LABELS, channels=24)
        more = score_cam(model, inputs, activations, LABELS, channels=1000)
    torch.testing.assert_close(every, more)


def test_hires_cam_vanishes_before_a_layer_norm_over_channels(images):
    """Such a norm does not see the scale of a cell, so the gradient is at right angles to the cell's activations."""
    model, ways = (
        network("convnext_atto", dims=(8, 16, 24, 32)),
        [Way("hires_cam", "stride_16"), Way("layer_cam", "stride_16")],
    )
    hires, layer = explain_by(model, images, LABELS, ways)[0].values()
    assert hires.max() < 1e-3 * layer.max()


def test_all_at_once_are_those_one_by_one(model, images):
    ways = [Way(method, layer) for method in METHODS for layer in ("last", "stride_16")]
    together, _ = explain_by(model, images, LABELS, ways)
    assert list(together) == ways
    for way in ways:
        (alone,) = explain_by(model, images, LABELS, [way])[0].values()
        np.testing.assert_allclose(together[way], alone, rtol=1e-3, atol=1e-5 * alone.max())


def test_the_last_maps_grad_cam_is_the_closed_form(model, images):
    both = [Way("grad_cam", "last"), Way("hires_cam", "last")]
    maps, _ = explain_by(model, images, LABELS, both)
    closed, _ = grad_cam(model, images, LABELS)
    np.testing.assert_allclose(maps[both[0]], closed, atol=1e-5 * closed.max())


def test_the_model_is_left_as_it_was(model, images):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for labels in (LABELS, np.array([0, 1, 9])):
        try:
            explain_by(model, images, labels, [Way("hires_cam", "stride_16")])
        except IndexError:
            assert labels[2] == 9
    assert torch.is_grad_enabled()
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Two(torch.nn.Module):
    """A network of two stages: logit k is the sum of channel k of a map of 16 times the cells, in its left half."""

    feature_info = ({"reduction": 16, "module": "first"}, {"reduction": 32, "module": "second"})

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.AvgPool2d(16), torch.nn.AvgPool2d(2)
        self.left = torch.nn.Parameter(torch.tensor([1.0, 1.0, 0.0, 0.0]).repeat(4, 1))

    def forward_features(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(inputs) * self.left)

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return 4 * features.sum((2, 3))


def test_hires_cam_is_what_each_cell_adds_to_the_logit():
    """Its cells add up to a linear network's logit; Grad-CAM spreads the mean gradient over all cells."""
    model = Classifier(Two(), {"mean": [0.0] * 3, "std": [1.0] * 3}).eval()
    images = torch.rand(2, 3, 64, 64)
    ways = [Way("hires_cam", "stride_16"), Way("grad_cam", "stride_16")]
    maps, logits = explain_by(model, images, np.array([1, 2]), ways)
    hires, grad = maps.values()
    cells = images.unfold(2, 16, 16).unfold(3, 16, 16).mean((-2, -1)).numpy()[[0, 1], [1, 2]]
    np.testing.assert_allclose(hires, cells * [1, 1, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(hires.sum((1, 2)), logits[[0, 1], [1, 2]], rtol=1e-5)
    np.testing.assert_allclose(grad, cells / 2, rtol=1e-5)


def test_a_network_without_a_finer_map_has_its_last_one(images):
    model = network("resnet10t")
    model.backbone.feature_info = [{"reduction": 32, "module": "layer4"}]
    maps, _ = explain_by(model, images, LABELS, [Way("hires_cam", "stride_16"), Way("hires_cam", "last")])
    finer, last = maps.values()
    np.testing.assert_array_equal(finer, last)


def test_a_stage_is_found_only_where_a_later_one_is_coarser():
    model = network("resnet10t")
    assert stage_at(model, 16) is model.backbone.layer3
    assert stage_at(model, 32) is None
    assert stage_at(model, 64) is None
    del model.backbone.feature_info
    assert stage_at(model, 16) is None


def test_every_method_and_layer_has_a_name():
    assert set(get_args(Method)) == set(records.METHODS) == {*METHODS, "score_cam"} == set(THEIRS)
    assert set(get_args(Layer)) == set(records.LAYERS)
    assert str(Way("hires_cam", "stride_16")) == "HiResCAM on the stride-16 map"
