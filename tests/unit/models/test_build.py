"""Networks by name and arguments, and the initial bias of a new classifier."""

import time

import numpy as np
import pytest
import torch

import medistill.models.ofa  # noqa: F401
from medistill.errors import UserError
from medistill.models.build import create_classifier, start_at_prevalence
from medistill.models.classifier import Classifier, map_size
from medistill.models.settings import Network
from medistill.models.weights import load_model
from tests.saved import save_filled

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


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"features_only": True}, "features_only must not be set; a classifier has a head"),
        ({"checkpoint_path": "a.pth"}, "checkpoint_path must not be set; set weights: FILE beside arch"),
        ({"pretrained": True}, "pretrained must not be set; set pretrained: true beside arch"),
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
            "args of resnet10t: in_chans must not be set",
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
            "leave the prefix out, arch: resnet18.a1_in1k; its weights come with pretrained: true",
        ),
        ("hf_hub:timm/resnet18.a1_in1k", "leave the prefix out, arch: resnet18.a1_in1k; "),
        (
            "timm/resnet18",
            "leave the prefix out, arch: resnet18; its weights come with pretrained: true or from weights: FILE",
        ),
        ("timm:resnet18", "leave the prefix out, arch: resnet18; "),
        ("https://huggingface.co/timm/resnet18.a1_in1k", "leave the prefix out, arch: resnet18.a1_in1k; "),
        ("local-dir:/models/resnet18", "leave the prefix out, arch: resnet18; "),
        (
            "hf-hub:somebody/my-net",
            "is not known to timm: only timm's own networks can be built, by their name without a prefix, and with"
            " weights: FILE; see",
        ),
        ("timm/resnet19", "by their name without a prefix, and with weights: FILE; did you mean resnet"),
    ],
)
def test_names_of_a_hub_are_told_to_leave_the_prefix_out(arch, message):
    with pytest.raises(UserError) as refusal:
        create_classifier(Network(arch=arch), labels=["a"])
    assert str(refusal.value).startswith(f"params.yaml: arch {arch!r}")
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("arch", "args", "message"),
    [
        ("resnet18", {"layers": [100_000, 1, 1, 1]}, "resnet18 has more than 5,000 layers with these args"),
        ("convnext_atto", {"depths": [100_000] * 4}, "convnext_atto has more than 5,000 layers with these args"),
        ("swin_s3_tiny_224", {"depths": [100_000, 2, 2, 2]}, "has more than 5,000 layers with these args"),
        ("densenet121", {"growth_rate": 100_000}, "densenet121 has more than 5,000,000,000 weights with these args"),
        ("vgg11", {"mlp_ratio": 100_000}, "vgg11 has more than 5,000,000,000 weights with these args"),
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


@pytest.mark.parametrize(("arch", "size"), [("swin_s3_tiny_224", 96), ("visformer_tiny", 64)])
def test_networks_for_one_size_are_built_for_the_data_sets_and_come_back(tmp_path, arch, size):
    model = create_classifier(Network(arch=arch), labels=["a"], image_size=size).eval()
    assert model.config["args"] == {"img_size": size}
    assert map_size(model, size) == [size // 32, size // 32]
    save_filled(tmp_path, model)
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
