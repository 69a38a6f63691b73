"""Once-for-all networks: published counts, blocks against their description."""

import pytest
import timm
import torch
from torch import nn

import medistill.models.ofa  # noqa: F401
from medistill.models.costs import count_macs, count_params


@pytest.mark.parametrize(
    ("name", "classes", "params"),
    [
        ("eeea_net_c2", 14, 4_732_838),
        ("eeea_net_c2", 1000, 5_995_904),
        ("ofa_595", 14, 7_620_446),
        ("ofa_595", 1000, 9_135_928),
    ],
)
def test_published_parameter_counts(name, classes, params):
    assert count_params(timm.create_model(name, num_classes=classes)) == params


@pytest.mark.parametrize(("name", "giga"), [("eeea_net_c2", 0.290), ("ofa_595", 0.511)])
def test_published_multiply_accumulates(name, giga):
    assert count_macs(timm.create_model(name, num_classes=14), 224) / 1e9 == pytest.approx(giga, abs=0.0005)


@pytest.mark.parametrize("name", ["eeea_net_c2", "ofa_595"])
def test_behaves_as_any_timm_model(name):
    model = timm.create_model(name, num_classes=14, in_chans=1).eval()
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 14)
    assert model.pretrained_cfg["input_size"] == (3, 224, 224)
    assert model.pretrained_cfg["classifier"] == "classifier"
    pooled = timm.create_model(name, num_classes=0).eval()
    assert pooled(torch.zeros(2, 3, 64, 64)).shape == (2, model.head_hidden_size)
    model.reset_classifier(3)
    assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 3)
    assert model.get_classifier().out_features == 3
    features = timm.create_model(name, features_only=True)
    maps = features(torch.zeros(1, 3, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (channels, 64 // reduction, 64 // reduction)
        for channels, reduction in zip(features.feature_info.channels(), features.feature_info.reduction(), strict=True)
    ]
    assert features.feature_info.reduction() == [2, 4, 8, 16, 32]


def _literal_ofa_block(channels_in, channels_out, kernel, stride, middle, activation, squeeze):
    """Once-for-All's MBConv block, written out from its description, not from timm."""
    act = {"relu": nn.ReLU, "hs": nn.Hardswish}[activation]
    layers = [nn.Conv2d(channels_in, middle, 1, bias=False), nn.BatchNorm2d(middle), act()]
    layers += [nn.Conv2d(middle, middle, kernel, stride, kernel // 2, groups=middle, bias=False)]
    layers += [nn.BatchNorm2d(middle), act()]
    if squeeze:
        reduced = max(8, int(middle / 4 + 4) // 8 * 8)
        layers.append(_Squeeze(middle, reduced if reduced >= 0.9 * middle / 4 else reduced + 8))
    return nn.Sequential(*layers, nn.Conv2d(middle, channels_out, 1, bias=False), nn.BatchNorm2d(channels_out))


class _Squeeze(nn.Module):
    def __init__(self, channels, reduced):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, reduced, 1), nn.Conv2d(reduced, channels, 1)

    def forward(self, x):
        gate = self.expand(torch.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * torch.clamp(gate + 3, 0, 6) / 6


@pytest.mark.parametrize(
    ("stage", "block", "shape"),
    [
        (1, 1, (24, 24, 5, 1, 96, "relu", False)),
        (2, 0, (24, 40, 7, 2, 96, "relu", True)),
        (5, 3, (160, 160, 7, 1, 480, "hs", True)),
    ],
)
def test_eeea_blocks_against_their_literal_description(stage, block, shape):
    torch.manual_seed(0)
    ours = timm.create_model("eeea_net_c2").blocks[stage][block].eval()
    nn.init.uniform_(ours.bn3.weight)  # 0 at the start of residual blocks
    literal = _literal_ofa_block(*shape).eval()
    for theirs, mine in zip(literal.state_dict().values(), ours.state_dict().values(), strict=True):
        theirs.copy_(mine)
    x = torch.randn(2, shape[0], 12, 12)
    with torch.no_grad():
        expected = literal(x) + (x if shape[0] == shape[1] and shape[3] == 1 else 0)
        assert torch.allclose(ours(x), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["eeea_net_c2", "ofa_595"])
def test_residual_blocks_start_as_the_identity(name):
    torch.manual_seed(0)
    model = timm.create_model(name).train()
    blocks = [block for stage in model.blocks[1:-1] for block in stage if block.has_skip]
    assert len(blocks) == {"eeea_net_c2": 13, "ofa_595": 14}[name]
    for block in blocks:
        x = torch.randn(4, block.conv_pw.in_channels, 8, 8)
        assert torch.equal(block(x), x)
