"""Networks whose branches are merged before they run: same logits, and the costs of what runs."""

import inspect
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm.models
import torch
from torch import nn

from medistill.config import Network
from medistill.export.onnx import export_onnx
from medistill.export.parity import measure_parity
from medistill.models.deploy import costs, deployed
from medistill.models.systems import NamedNetwork, measure
from medistill.models.zoo import Classifier, count_macs, count_params, create_classifier

LABELS = ["a", "b", "c"]
SIZE = 64

# File of timm/models: its smallest network that ends in a map, and whether merging saves multiply-accumulates: where
# only batch norms are folded it saves parameters alone.
FAMILIES = {
    "byobnet": ("mobileone_s0", True),
    "byobnet (RepVGG)": ("repvgg_a0", True),
    "efficientvit_msra": ("efficientvit_m0", False),
    "fastvit": ("fastvit_t8", True),
    "ghostnet": ("ghostnetv3_050", True),
    "iformer": ("iformer_t", True),
    "lcnetv2": ("lcnetv2_small", True),
    "levit": ("levit_conv_128s", False),
    "nextvit": ("nextvit_small", False),
    "repghost": ("repghostnet_050", False),
    "repvit": ("repvit_m0_9", True),
    "shvit": ("shvit_s1", False),
    "tiny_vit": ("tiny_vit_5m_224", False),
}
NO_MAP = {"efficientvim"}
FAST = ("byobnet", "repvit")


def like_trained(arch: str) -> Classifier:
    """A network whose every batch norm does something, and whose activations stay in bounds."""
    torch.manual_seed(0)
    model = create_classifier(Network(arch=arch), labels=LABELS, image_size=SIZE).train()
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                norm.momentum = 1.0
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.1)
        model(torch.rand(8, 3, SIZE, SIZE))
    return model.eval()


@pytest.fixture(scope="module", params=[pytest.param(f, marks=[] if f in FAST else pytest.mark.slow) for f in FAMILIES])
def family(request) -> tuple[str, Classifier]:
    return request.param, like_trained(FAMILIES[request.param][0])


def test_merged_networks_give_the_same_logits_for_less(family):
    name, model = family
    before = {key: value.clone() for key, value in model.state_dict().items()}
    merged, images = deployed(model), torch.rand(4, 3, SIZE, SIZE)
    with torch.no_grad():
        expected, found = model(images), merged(images)
    assert expected.std(dim=0).min() > 1e-3  # logits that hardly differ would agree with anything
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    found = costs(model, SIZE)
    assert found["params_in_training"] == count_params(model) > found["params"] == count_params(merged)
    assert found["macs_in_training"] == count_macs(model, SIZE)
    assert found["macs"] == count_macs(merged, SIZE)
    assert (found["macs"] < found["macs_in_training"]) is FAMILIES[name][1]


def counted_in(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of one image, from the nodes of an ONNX file."""
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True, strict_mode=True).graph
    shapes = {value.name: list(value.dims) for value in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            total += np.prod(shapes[node.output[0]]) * np.prod(shapes[node.input[1]][1:])
        elif node.op_type in ("Gemm", "MatMul"):
            first = shapes[node.input[0]]
            transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
            total += np.prod(shapes[node.output[0]]) * first[0 if transposed else -1]
        assert node.op_type not in ("ConvTranspose", "Einsum", "Loop", "If")
    return int(total)


def written(model: Classifier, file: Path) -> onnx.ModelProto:
    about = {"name": "x", "task": "multilabel", "image_size": SIZE, "channels": 1, "fit": "pad", "fingerprint": "f00d"}
    export_onnx(Classifier(model.backbone, model.config | about).eval(), file, opset=18)
    return onnx.load(file)


@pytest.mark.slow
def test_the_exported_file_has_what_is_counted_and_answers_as_the_trained_network(family, tmp_path):
    name, model = family
    graph = written(deployed(model), tmp_path / "model.onnx")
    assert counted_in(graph) == costs(model, SIZE)["macs"]
    pixels = np.random.default_rng(0).integers(0, 256, (4, 1, SIZE, SIZE), np.uint8)
    parity = measure_parity(model, tmp_path / "model.onnx", pixels)
    assert parity["passed"], parity


@pytest.mark.parametrize("arch", ["test_efficientnet", pytest.param("swin_s3_tiny_224", marks=pytest.mark.slow)])
def test_a_plain_network_is_taken_as_it_is_and_counted_as_its_file(arch, tmp_path):
    model = create_classifier(Network(arch=arch), labels=LABELS, image_size=SIZE).eval()
    assert deployed(model) is model
    found = costs(model, SIZE)
    assert found == {"params": count_params(model), "macs": counted_in(written(model, tmp_path / "model.onnx"))}


def test_attention_that_a_cpu_does_at_once_is_counted():
    model = create_classifier(Network(arch="fastvit_sa12"), labels=LABELS, image_size=SIZE).eval()
    with torch.device("meta"):
        shapes = create_classifier(Network(arch="fastvit_sa12"), labels=LABELS, image_size=SIZE).eval()
    assert costs(model, SIZE) == costs(shapes, SIZE)
    # the attention of two blocks of 4 tokens, each of 512 channels: queries by keys, and those by values
    assert costs(model, SIZE)["macs"] - macs_without_attention(model) == 2 * 2 * 4 * 4 * 512


def macs_without_attention(model: Classifier) -> int:
    """Multiply-accumulates of the merged network's convolutions and linear layers, by hooks on each."""
    merged, total = deployed(model), 0

    def add(layer, inputs, output):
        nonlocal total
        total += output.numel() * layer.weight[0].numel()

    for layer in merged.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(add)
    with torch.no_grad():
        merged(torch.zeros(1, 3, SIZE, SIZE))
    return total


def test_the_published_figures_of_mobileone_are_those_of_the_merged_network():
    """Vasu et al., "MobileOne", CVPR 2023: S0 has 2.1 M parameters and 275 M multiply-accumulates at 224 px."""
    network = NamedNetwork("MobileOne-S0", "mobileone_s0", ((None, "student"),))
    measured = measure(network, labels=1000, size=224)
    assert measured["params"] / 1e6 == pytest.approx(2.1, abs=0.05)
    assert measured["macs"] / 1e6 == pytest.approx(275, abs=1)


def test_every_family_of_timm_that_merges_is_tested():
    folder = Path(inspect.getfile(timm.models)).parent
    merging = re.compile(r"^    def (fuse|reparameterize|switch_to_deploy)\(self\)", re.MULTILINE)
    found = {file.stem for file in folder.glob("*.py") if merging.search(file.read_text(encoding="utf-8"))}
    assert found == {name.split(" ")[0] for name in FAMILIES} | NO_MAP
