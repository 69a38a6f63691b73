"""Networks whose branches are merged for deployment: same logits, and the costs of the merged network."""

import inspect
import re
from pathlib import Path

import numpy as np
import onnx
import onnx.utils
import pytest
import timm.models
import torch
from timm.models._builder import build_model_with_cfg
from timm.models._registry import generate_default_cfgs, register_model
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from torch import nn

from medistill.export.bundle import export_model
from medistill.export.onnx import export_onnx
from medistill.export.parity import measure_parity
from medistill.export.settings import Export
from medistill.files import read_json
from medistill.models.build import create_classifier
from medistill.models.classifier import Classifier
from medistill.models.costs import costs, count_macs, count_params
from medistill.models.deploy import deployed
from medistill.models.settings import Network
from medistill.models.systems import NamedNetwork, measure
from medistill.models.weights import load_model
from medistill.runtime.bundle import read_bundle
from medistill.task import Calibration, Task
from medistill.training.outputs import write_outputs

LABELS = ["a", "b", "c"]
SIZE = 64

# File of timm/models: its smallest network with a final feature map, and whether merging saves multiply-accumulates;
# if it only folds batch norms, it saves parameters alone.
FAMILIES = {
    "byobnet": ("mobileone_s0", True),
    "byobnet (RepVGG)": ("repvgg_a0", True),
    "efficientvit_msra": ("efficientvit_m0", False),
    "fastvit": ("fastvit_t8", True),
    "ghostnet": ("ghostnetv3_050", True),
    "iformer": ("iformer_t", False),
    "lcnetv2": ("lcnetv2_small", True),
    "levit": ("levit_conv_128s", False),
    "nextvit": ("nextvit_small", False),
    "repghost": ("repghostnet_050", False),
    "repvit": ("repvit_m0_9", True),
    "shvit": ("shvit_s1", False),
    "tiny_vit": ("tiny_vit_5m_224", False),
}
NO_MAP = {"efficientvim"}
FAST = ("byobnet",)


def like_trained(arch: str) -> Classifier:
    """A network in which no batch norm is an identity, and activations stay in bounds."""
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
    assert expected.std(dim=0).min() > 1e-3  # nearly constant logits would agree with anything
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    found = costs(model, SIZE)
    assert found["params_in_training"] == count_params(model) > found["params"] == count_params(merged)
    assert found["macs_in_training"] == count_macs(model, SIZE)
    assert found["macs"] == count_macs(merged, SIZE)
    assert (found["macs"] < found["macs_in_training"]) is FAMILIES[name][1]


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
KNOWN = {"input_size": (3, 64, 64), "classifier": "head.fc", **IMAGENET}
default_cfgs = generate_default_cfgs({"tiny_repvgg.none": KNOWN})


@register_model
def tiny_repvgg(pretrained: bool = False, **kwargs) -> nn.Module:
    """Two blocks of RepVGG: 3x3 and 1x1 convolutions side by side, each before a batch norm; the second with a skip."""
    blocks = [ByoBlockCfg(type="rep", d=1, c=16, s=stride, gs=0, br=1.0) for stride in (2, 1)]
    layout = ByoModelCfg(blocks=tuple(blocks), stem_type="3x3", stem_chs=8, stem_pool="")
    return build_model_with_cfg(ByobNet, "tiny_repvgg", pretrained, model_cfg=layout, **kwargs)


class Forgetful(nn.Module):
    """A layer that merges wrongly."""

    factor = 1.0

    def forward(self, features):
        return features * self.factor

    def reparameterize(self) -> None:
        self.factor = 1.1


@register_model
def badly_merged(pretrained: bool = False, **kwargs) -> nn.Module:
    network = tiny_repvgg(pretrained, **kwargs)
    network.final_conv = Forgetful()
    return network


SETTINGS = Export(opset=18, parity_images=4, latency_runs=5, threads=1)


def student(arch, dataset, folder) -> Classifier:
    """Write a model's folder; returns the network."""
    model = like_trained(arch)
    model.config["labels"] = dataset.labels
    model.backbone.reset_classifier(len(dataset.labels))
    facts = {"name": "student", "role": "baseline", "fingerprint": "f00d", "network": {}}
    write_outputs(folder, model.eval(), dataset, None, facts, batch_size=16)
    return model


def test_parity_compares_with_the_trained_network_not_the_merged_one(tiny_dataset, tmp_path):
    student("badly_merged", tiny_dataset, tmp_path / "student")
    proofs = export_model(tmp_path / "student", tiny_dataset, tmp_path / "out", SETTINGS)
    assert proofs.parity.passed is False
    assert proofs.parity.max_abs_logit_difference > 10 * proofs.parity.limit


def test_records_count_the_merged_network_and_parity_uses_the_trained_one(tiny_dataset, tmp_path):
    model = student("tiny_repvgg", tiny_dataset, tmp_path / "student")
    config = read_json(tmp_path / "student" / "config.json")
    # The stem with its batch norm, two 3x3 convolutions with bias, the classifier; stem and first block have stride 2.
    assert config["params"] == 8 * 27 + 16 + (16 * 8 * 9 + 16) + (16 * 16 * 9 + 16) + (16 * 2 + 2)
    assert config["macs"] == 16 * 16 * 8 * 27 + 8 * 8 * (16 * 8 * 9 + 16 * 16 * 9) + 16 * 2
    assert config["params_in_training"] == config["params"] + (16 * 8 + 48) + (16 * 16 + 48 + 32)
    assert config["macs_in_training"] == config["macs"] + 8 * 8 * (16 * 8 + 16 * 16)
    assert {key: config[key] for key in ("params", "macs")} == read_json(tmp_path / "student" / "metrics.json")
    assert count_params(load_model(tmp_path / "student")) == config["params_in_training"]  # for heat maps

    proofs = export_model(tmp_path / "student", tiny_dataset, tmp_path / "out", SETTINGS)
    assert proofs.parity.passed
    graph = onnx.load(tmp_path / "out" / "model.onnx")
    assert counted_in(graph) == config["macs"]
    assert [node.op_type for node in graph.graph.node].count("Conv") == 3
    images = tiny_dataset.images(tiny_dataset.split("test"))
    calibration = read_bundle(tmp_path / "out").calibration
    assert measure_parity(model, tmp_path / "out" / "model.onnx", images, calibration=calibration).passed
    bundle = read_json(tmp_path / "out" / "bundle.json")
    assert (bundle["params"], bundle["macs"]) == (config["params"], config["macs"])
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"| Parameters | {config['params']:,} ({config['params_in_training']:,} in training, then merged) |" in card


def counted_in(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of one image's logits, without its maps, from the nodes of an ONNX file."""
    model = onnx.utils.Extractor(model).extract_model(["image"], ["logits"])
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True, strict_mode=True).graph
    shapes = {value.name: list(value.dims) for value in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    total = 0
    for node in graph.node:
        assert node.op_type not in ("ConvTranspose", "Einsum", "Loop", "If")
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        out, first, second = (shapes[name] for name in (node.output[0], *node.input[:2]))
        assert 0 not in [*out, *first, *second]  # 0 is an unknown size
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        total += np.prod(out) * (np.prod(second[1:]) if node.op_type == "Conv" else first[0 if transposed else -1])
    return int(total)


def written(model: Classifier, file: Path) -> onnx.ModelProto:
    about = {"name": "x", "task": "multilabel", "image_size": SIZE, "channels": 1, "fit": "pad", "fingerprint": "f00d"}
    export_onnx(Classifier(model.backbone, model.config | about).eval(), file, opset=18)
    return onnx.load(file)


@pytest.mark.slow
def test_the_exported_file_has_what_is_counted_and_answers_as_the_trained_network(family, tmp_path):
    _, model = family
    graph = written(deployed(model), tmp_path / "model.onnx")
    assert counted_in(graph) == costs(model, SIZE)["macs"]
    pixels = np.random.default_rng(0).integers(0, 256, (4, 1, SIZE, SIZE), np.uint8)
    parity = measure_parity(model, tmp_path / "model.onnx", pixels, calibration=Calibration(Task.MULTILABEL))
    assert parity.passed, parity


def test_a_plain_network_is_taken_as_it_is():
    model = create_classifier(Network(arch="test_efficientnet"), labels=LABELS).eval()
    assert deployed(model) is model
    assert costs(model, SIZE) == {"params": count_params(model), "macs": count_macs(model, SIZE)}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["eeea_net_c2", "tf_efficientnet_lite0", "swin_s3_tiny_224", "visformer_tiny"])
def test_plain_networks_are_counted_as_their_files(arch, tmp_path):
    model = create_classifier(Network(arch=arch), labels=LABELS, image_size=SIZE).eval()
    assert costs(model, SIZE)["macs"] == counted_in(written(model, tmp_path / "model.onnx"))


def test_attention_that_a_cpu_does_at_once_is_counted():
    model = create_classifier(Network(arch="fastvit_sa12"), labels=LABELS, image_size=SIZE).eval()
    with torch.device("meta"):
        shapes = create_classifier(Network(arch="fastvit_sa12"), labels=LABELS, image_size=SIZE).eval()
    assert costs(model, SIZE) == costs(shapes, SIZE)
    # attention of two blocks with 4 tokens of 512 channels: queries times keys, and weights times values
    assert count_macs(deployed(model), SIZE) - macs_without_attention(model) == 2 * 2 * 4 * 4 * 512


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
