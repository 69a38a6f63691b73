"""HiResCAM at stride 16 by written-out pull-backs against autograd, in float64: differences are not rounding."""

import numpy as np
import pytest
import torch
from torch import nn

from medistill.explain.cam import explain_by
from medistill.explain.ways import Way
from medistill.export.vjp import Explained, can_explain
from medistill.models.build import create_classifier
from medistill.models.classifier import Classifier
from medistill.models.settings import Network

LABELS = ["a", "b", "c"]
WAY = Way("hires_cam", "stride_16")

# Behind the stage: depthwise kernels of 3 to 7, hard-swish, ReLU, ReLU6, SiLU, gates of hard-sigmoid and sigmoid,
# "same" padding of both parities, fused and universal blocks, blocks without expansion, heads on both sides of pooling.
FAST = [("eeea_net_c2", 64, True), ("tf_efficientnet_lite0", 80, True), ("mobilenetv4_conv_small_035", 64, False)]
ARCHS = [
    *("eeea_net_c2", "ofa_595", "mobilenetv1_100", "mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv3_large_100"),
    *(
        "tf_mobilenetv3_small_minimal_100",
        "tf_mobilenetv3_large_075",
        "mobilenetv4_conv_small",
        "mobilenetv4_conv_medium",
    ),
    *("efficientnet_b0", "tf_efficientnet_b0", "tf_efficientnetv2_b0", "efficientnet_es", "tf_efficientnet_lite0"),
    *("mnasnet_100", "semnasnet_075", "mnasnet_small", "spnasnet_100", "fbnetc_100", "fbnetv3_b", "tinynet_e"),
    *("lcnet_050", "mobilenet_edgetpu_100"),
]
SLOW = [(arch, 64, True) for arch in ARCHS] + [(arch, 80, False) for arch in ARCHS if "tf_" in arch]
CASES = [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW if case not in FAST)]


def build(arch: str, size: int, *, trained: bool) -> Classifier:
    """A network in float64: as it starts, or with statistics, scales and shifts in its batch norms."""
    torch.manual_seed(0)
    model = create_classifier(Network(arch=arch), labels=LABELS, image_size=size).double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and trained:
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.normal_(1, 0.3)
                module.bias.normal_(0, 0.1)
    return model.eval()


@pytest.mark.parametrize(("arch", "size", "trained"), CASES)
def test_maps_are_those_of_autograd(arch, size, trained):
    model = build(arch, size, trained=trained)
    assert can_explain(model) is None
    images = torch.rand(3, 1, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    asked = torch.tensor([[2, 0], [1, 1], [0, 2]])
    explained = Explained(model).eval()
    with torch.no_grad():
        logits, maps = explained(images, asked)
        alone = explained(images[:1], asked[:1, 1:])[1]
    assert maps.shape == (3, 2, size // 16, size // 16)
    for column in range(2):
        expected, answers = explain_by(model, images, asked[:, column].numpy(), [WAY])
        assert expected[WAY].max() > 0
        np.testing.assert_allclose(maps[:, column], expected[WAY], rtol=0, atol=1e-6 * expected[WAY].max())
        np.testing.assert_allclose(logits, answers, rtol=0, atol=1e-6 * np.abs(answers).max())
    np.testing.assert_allclose(alone[0, 0], maps[0, 1], rtol=0, atol=1e-9 * maps.max())


@pytest.mark.parametrize(
    ("arch", "why"),
    [
        ("resnet10t", "none of the mobile networks"),
        ("mobilenetv4_hybrid_medium", "derivative behind that stage: MobileAttention"),
        ("mixnet_s", "derivative behind that stage: MixedConv2d"),
        ("test_efficientnet_gn", "derivative behind that stage: GroupNormAct"),
        ("mobilenetv4_conv_blur_medium", "derivative behind that stage: BlurPool2d"),
    ],
)
def test_other_networks_are_refused_with_the_layer(arch, why):
    with torch.device("meta"):
        model = create_classifier(Network(arch=arch), labels=LABELS, image_size=64)
    assert why in can_explain(model)
    with pytest.raises(ValueError, match=why):
        Explained(model)


def test_a_network_whose_map_stays_at_stride_16_is_refused():
    model = create_classifier(
        Network(arch="tf_efficientnet_lite0", args={"output_stride": 16}), labels=LABELS, image_size=64
    )
    assert "no stage whose cells are 16 pixels wide" in can_explain(model)
