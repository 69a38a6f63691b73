"""Grad-CAM against its definition, written with autograd, and against pytorch-grad-cam's own normalised maps."""

import numpy as np
import pytest
import timm
import torch

from medistill.explain.cam import grad_cam, upsample
from medistill.models.classifier import Classifier
from tests.unit.models.hooked import library_maps

LABELS = np.array([2, 0, 1, 2, 2])


@pytest.fixture(scope="module", params=["resnet10t", "mobilenetv3_small_050"])
def model(request) -> Classifier:
    """Random weights; the second net has a hidden layer between pooling and logits, so that α depends on the image."""
    torch.manual_seed(0)
    backbone = timm.create_model(request.param, num_classes=3)
    return Classifier(backbone, {"mean": [0.5] * 3, "std": [0.25] * 3}).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(5, 1, 96, 96, generator=torch.Generator().manual_seed(1))


def oracle(model: Classifier, images: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    maps = []
    for image, label in zip(images, labels, strict=True):
        features = model.backbone.forward_features((image[None] - model.mean) / model.std)
        features = features.detach().requires_grad_()
        logit = model.backbone.forward_head(features)[0, label]
        (gradient,) = torch.autograd.grad(logit, features)
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        maps.append(torch.relu((weights * features).sum(1))[0].detach())
    return torch.stack(maps).numpy()


def test_maps_are_grad_cam(model, images):
    maps, logits = grad_cam(model, images, LABELS)
    expected = oracle(model, images, LABELS)
    assert maps.dtype == np.float32
    assert maps.shape == (5, 3, 3)
    assert expected.max() > 0
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-6 * expected.max())
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(images).numpy(), rtol=1e-4, atol=1e-6)


def test_batch_does_not_matter(model, images):
    together, _ = grad_cam(model, images, LABELS)
    alone = np.concatenate([grad_cam(model, images[k : k + 1], LABELS[k : k + 1])[0] for k in range(5)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6 * together.max())


def test_normalised_it_is_what_pytorch_grad_cam_shows(model, images):
    """Min-max normalised and bilinearly resized, the maps are those of the unchanged library, up to its 1e-7."""
    maps, _ = grad_cam(model, images, LABELS)
    shown = library_maps(model, images, LABELS, scaled=True)
    lively = maps.max(axis=(1, 2)) > 1e-3
    assert lively.any()
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    stretched = upsample((maps - low) / (high - low + 1e-7), 96)
    stretched -= stretched.min(axis=(1, 2), keepdims=True)
    stretched /= stretched.max(axis=(1, 2), keepdims=True) + 1e-7
    np.testing.assert_allclose(shown[lively], stretched[lively], atol=2e-3)


def test_model_is_left_as_it_was(model, images):
    frozen = next(model.backbone.parameters())
    frozen.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    grad_cam(model, images, LABELS)
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    frozen.requires_grad_(True)


def test_model_is_left_as_it_was_after_an_error(model, images):
    with pytest.raises(IndexError):
        grad_cam(model, images, np.array([0, 1, 2, 3, 0]))
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_upsample_is_bilinear():
    maps = np.array([[[0.0, 1.0], [2.0, 3.0]]], np.float32)
    # Cell centres at 1/4 and 3/4 of the frame; pixel centres at 1/8, 3/8, 5/8, 7/8; flat outside the cell centres.
    along = np.array([0, 0.25, 0.75, 1])
    np.testing.assert_allclose(upsample(maps, 4)[0], 2 * along[:, None] + along[None, :])
    assert upsample(maps, 4).dtype == np.float32
