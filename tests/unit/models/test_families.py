"""One network of each family of timm is built from its name, trained, explained and exported.

The networks are the smallest of their families, or made smaller by timm's own arguments.
"""

import numpy as np
import pytest
import torch
from torch.nn import functional

from medistill.errors import UserError
from medistill.explain.cam import grad_cam
from medistill.export.onnx import export_onnx
from medistill.export.parity import measure_parity
from medistill.models.build import create_classifier
from medistill.models.classifier import map_size
from medistill.models.settings import Network

LABELS = ["a", "b", "c"]
SIZE = 64

# Family: (arch, timm's arguments, channels of its last map).
FAMILIES = {
    "vgg": ("vgg11_bn", {"mlp_ratio": 0.01}, 512),
    "swin": ("swin_s3_tiny_224", {"embed_dim": 32, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]}, 256),
    "densenet": ("densenet121", {"growth_rate": 8, "block_config": [2, 2, 2, 2]}, 32),
    "visformer": ("visformer_tiny", {"embed_dim": 64, "depth": [1, 1, 1], "num_heads": 2}, 128),
    "efficientnet": ("test_efficientnet", {}, 256),
    "mobilenetv3": ("mobilenetv3_small_050", {}, 288),
    "mobilenetv4": ("mobilenetv4_conv_small_035", {}, 336),
    "resnet": ("test_resnet", {}, 96),
    "convnext": ("test_convnext", {}, 64),
    "regnet": ("regnetx_002", {}, 368),
    "ghostnet": ("ghostnet_050", {}, 480),
    "mambaout": ("test_mambaout", {}, 64),
    "eeea_net_c2": ("eeea_net_c2", {}, 960),
    "ofa_595": ("ofa_595", {}, 1152),
}
# swin has its channels last; the others are left to the long tests.
FAST = ("swin",)


@pytest.mark.parametrize("family", [pytest.param(f, marks=[] if f in FAST else pytest.mark.slow) for f in FAMILIES])
def test_a_network_of_each_family_is_trained_explained_and_exported(family, tmp_path):
    arch, args, channels = FAMILIES[family]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 1, SIZE, SIZE), np.uint8)
    images = torch.from_numpy(pixels) / 255
    targets = torch.from_numpy(rng.integers(0, 2, (8, len(LABELS)))).float()
    torch.manual_seed(0)
    model = create_classifier(Network(arch=arch, args=args), labels=LABELS, image_size=SIZE)
    side = map_size(model, SIZE)[0]

    losses = train(model, images, targets)
    assert losses[-1] < losses[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

    model.eval()
    asked = np.arange(8) % len(LABELS)
    maps, logits = grad_cam(model, images, asked)
    expected = grad_cam_by_definition(model, images, asked, channels)
    assert maps.shape == (8, side, side)
    assert expected.max() > 0
    np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-5 * expected.max())
    assert logits.std(axis=0).min() > 1e-3  # nearly constant logits would agree with anything

    model.config |= {"name": family, "task": "multilabel", "image_size": SIZE, "channels": 1, "fit": "pad"}
    model.config |= {"fingerprint": "f00d"}
    export_onnx(model, tmp_path / "model.onnx", opset=18)
    parity = measure_parity(model, tmp_path / "model.onnx", pixels)
    assert parity.passed, parity


def train(model, images, targets, steps: int = 5) -> list[float]:
    """Losses of a few steps on one batch, enough to fill the statistics of batch norms."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.5
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(model(images), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def grad_cam_by_definition(model, images, labels, channels: int) -> np.ndarray:
    """ReLU(Σ_k mean(∂logit/∂A_k) · A_k) on the backbone's own features, with channels on either axis."""
    features = model.backbone.forward_features((images - model.mean) / model.std).detach().requires_grad_()
    axis = list(features.shape).index(channels)
    logits = model.backbone.forward_head(features)
    (gradient,) = torch.autograd.grad(logits[range(len(labels)), labels].sum(), features)
    area = tuple({1, 2, 3} - {axis})
    return torch.relu((gradient.mean(area, keepdim=True) * features).sum(axis)).detach().numpy()


@pytest.mark.parametrize("arch", ["test_vit", "test_vit_relpos"])
def test_vision_transformers_are_refused_for_they_have_tokens_and_no_map(arch):
    model = create_classifier(Network(arch=arch), labels=LABELS, image_size=SIZE)
    with pytest.raises(UserError, match=rf"^{arch}: its features have the shape \[1, \d+, \d+\] instead of a map"):
        map_size(model, SIZE)
