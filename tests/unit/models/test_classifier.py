"""Normalisation, channels and the feature map of a classifier."""

import re

import pytest
import torch

from medistill.errors import UserError
from medistill.models.build import create_classifier
from medistill.models.classifier import has_batch_norm_behind_map, map_shape, map_size
from medistill.models.settings import Network


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
    images = torch.rand(3, 3, 64, 64)
    with torch.inference_mode():
        normalised = (images - model.mean) / model.std
        logits, features = model(images, with_map=True)
        assert torch.allclose(model(images), model.backbone(normalised), atol=1e-6)
        assert torch.equal(model(images), logits)
        assert torch.equal(features, model.backbone.forward_features(normalised).permute(0, 3, 1, 2))
    assert features.shape == (3, 128, 2, 2)


def test_a_size_that_no_memory_holds_is_no_fault_of_the_network():
    network = Network(arch="test_resnet").model_copy(update={"input_size": 2_000_000})  # bypasses the setting's limit
    model = create_classifier(network, labels=["a"])
    with pytest.raises(UserError, match=r"^out of memory with one image of 2000000 px; lower input_size$"):
        map_shape(model, 64)


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
    ("arch", "size", "message"),
    [
        ("test_vit", 160, r"test_vit: its features have the shape \[1, \d+, 64\] instead of a map"),
        ("swin_tiny_patch4_window7_224", 96, "does not take images of 96 px.* set input_size: 224 beside arch$"),
    ],
)
def test_networks_without_a_feature_map_are_refused(arch, size, message):
    model = create_classifier(Network(arch=arch), labels=["a"])
    with pytest.raises(UserError, match=message):
        map_size(model, size)


@pytest.mark.parametrize(
    "arch", ["mobilenetv3_small_050", "mobilenetv4_conv_small_035", "efficientvit_b0", "test_resnet", "eeea_net_c2"]
)
def test_whether_images_see_each_other_behind_the_feature_map(arch):
    torch.manual_seed(0)
    model = create_classifier(Network(arch=arch), labels=["a", "b"]).train()
    logits, features = model(torch.rand(4, 3, 64, 64), with_map=True)
    (gradient,) = torch.autograd.grad(logits[0, 0], features)
    others = gradient[1:].abs().max() > 1e-6 * gradient.abs().max()
    assert has_batch_norm_behind_map(model, 64) == others
    assert model.training
