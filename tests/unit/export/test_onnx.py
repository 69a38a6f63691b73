import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from medistill.errors import UserError
from medistill.export.onnx import export_onnx
from medistill.export.parity import measure_parity
from medistill.models.classifier import Classifier
from medistill.runtime.bundle import read_bundle
from medistill.runtime.session import open_session, run


@pytest.fixture(scope="module")
def graph(exported) -> onnx.ModelProto:
    return onnx.load(exported / "model.onnx")


def shape(value: onnx.ValueInfoProto) -> list:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_the_graph_takes_pixels_and_gives_logits_probabilities_and_maps(graph):
    (image,), (logits, probabilities, maps, largest) = graph.graph.input, graph.graph.output
    assert (image.name, shape(image)) == ("image", ["batch", 1, 32, 32])
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert (logits.name, shape(logits)) == ("logits", ["batch", 3])
    assert (probabilities.name, shape(probabilities)) == ("probabilities", ["batch", 3])
    assert (maps.name, shape(maps)) == ("saliency_map", ["batch", 3, 1, 1])
    assert (largest.name, shape(largest)) == ("saliency_max", ["batch", 3])
    assert {port.type.tensor_type.elem_type for port in graph.graph.output} == {onnx.TensorProto.FLOAT}
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 18)]


def test_the_file_describes_itself(graph, classifier):
    found = {entry.key: entry.value for entry in graph.metadata_props}
    assert found["name"] == "tiny-kd-0"
    assert found["task"] == "multilabel"
    assert json.loads(found["labels"]) == ["Effusion", "Nodule", "Épanchement | <b>"]
    assert (found["image_size"], found["channels"], found["fit"]) == ("32", "1", "pad")
    assert json.loads(found["mean"]) == classifier.config["mean"]
    assert json.loads(found["std"]) == classifier.config["std"]
    assert found["fingerprint"] == "f00d"
    assert "not a medical device" in found["disclaimer"]


def test_the_metadata_alone_is_enough_to_call_labels(exported, images, graph):
    found = {entry.key: json.loads(entry.value) for entry in graph.metadata_props if entry.value.startswith(("[", "n"))}
    bundle = read_bundle(exported)
    assert [found["slopes"], found["intercepts"]] == [bundle.calibration.slopes, bundle.calibration.intercepts]
    assert found["operating_points"] == [point.to_json() for point in bundle.points]
    session = onnxruntime.InferenceSession(exported / "model.onnx", providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(["logits", "probabilities"], {"image": images})
    expected = 1 / (1 + np.exp(-(logits * found["slopes"] + found["intercepts"])))
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)


def test_it_is_one_file_that_tells_nothing_of_this_machine(exported, root):
    content = (exported / "model.onnx").read_bytes()
    names = [path.name for path in exported.iterdir()]
    assert not [name for name in names if name.endswith(".data")]
    for trace in (str(root), sys.prefix, "forward(self", "classifier.py", "build.py", "stack_trace"):
        assert trace.encode() not in content


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_logits_are_those_of_the_network_on_independently_normalised_pixels(exported, classifier, images, batch):
    mean, std = (np.array(classifier.config[key]).reshape(1, 3, 1, 1) for key in ("mean", "std"))
    colour = np.repeat(images[:batch], 3, axis=1).astype(np.float64) / 255
    with torch.no_grad():
        expected = classifier.backbone(torch.from_numpy(((colour - mean) / std).astype(np.float32))).numpy()
    session = onnxruntime.InferenceSession(exported / "model.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images[:batch]})
    assert logits.dtype == np.float32
    assert logits.shape == (batch, 3)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)
    if batch > 1:
        assert expected.std(axis=0).min() > 0.1  # nearly constant logits would agree with anything


def test_colour_is_not_mixed_up_in_a_newer_operator_set(classifier, tmp_path):
    config = {**classifier.config, "channels": 3}
    pixels = np.random.default_rng(1).integers(0, 256, (2, 3, 32, 32), np.uint8)
    export_onnx(Classifier(classifier.backbone, config).eval(), tmp_path / "model.onnx", opset=20)
    assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == 20
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = classifier(torch.from_numpy(pixels) / 255).numpy()
    np.testing.assert_allclose(session.run(None, {"image": pixels})[0], expected, rtol=0, atol=1e-4)
    assert np.abs(session.run(None, {"image": pixels[:, ::-1]})[0] - expected).max() > 1e-2


def test_two_exports_are_the_same_bytes_silent_and_leave_the_network_alone(exported, classifier, tmp_path, capfd):
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    bundle = read_bundle(exported)
    export_onnx(classifier, tmp_path / "model.onnx", opset=18, calibration=bundle.calibration, points=bundle.points)
    assert (tmp_path / "model.onnx").read_bytes() == (exported / "model.onnx").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert capfd.readouterr() == ("", "")
    assert not classifier.training
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())


def test_the_newest_operator_set_gives_the_same_logits_or_is_refused(exported, classifier, images, tmp_path):
    newest = onnx.defs.onnx_opset_version()  # ONNX Runtime learns it later than onnx, so either may happen
    refusal = None
    try:
        export_onnx(classifier, tmp_path / "model.onnx", opset=newest)
    except UserError as error:
        refusal = str(error)
    if refusal:
        assert f"tiny-kd-0 in opset {newest} (params.yaml: export.opset)" in refusal
        assert list(tmp_path.iterdir()) == []
    else:
        assert onnx.load(tmp_path / "model.onnx").opset_import[0].version == newest
        logits = [
            onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": images})[0]
            for path in (tmp_path / "model.onnx", exported / "model.onnx")
        ]
        np.testing.assert_allclose(*logits, rtol=0, atol=1e-4)


class Eigenvalues(torch.nn.Module):
    """A backbone with an operation that ONNX does not have."""

    def forward_features(self, images):
        return torch.linalg.eig(images)[0].real

    def forward_head(self, features):
        return features.mean(2)


def test_an_operation_that_onnx_lacks_is_a_clear_error_with_the_exporters_reason(classifier, tmp_path, capsys):
    config = {**classifier.config, "arch": "eigenvalues"}
    with pytest.raises(UserError, match=r"^tiny-kd-0: torch cannot export eigenvalues to ONNX"):
        export_onnx(Classifier(Eigenvalues(), config).eval(), tmp_path / "model.onnx", opset=18)
    assert "eig" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


class Windows(torch.nn.Module):
    """A backbone with attention within windows, as in MaxViT and NesT: five axes instead of four."""

    def __init__(self, count=lambda images: images.shape[0]):
        super().__init__()
        self.fused_attn = True
        self.project = torch.nn.Conv2d(3, 6, 4, stride=4)
        self.count = count

    def forward_features(self, images):
        tokens = self.project(images).reshape(self.count(images), 2, 3, 4, 16).transpose(3, 4)
        if self.fused_attn:
            tokens = torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        else:
            tokens = (tokens @ tokens.transpose(-2, -1) / 2).softmax(dim=-1) @ tokens
        return tokens.reshape(images.shape[0], 24, 4, 4)

    def forward_head(self, features):
        return features.mean((2, 3))[:, :3]


@pytest.mark.parametrize(
    ("count", "batch_size"),
    # Python's len turns torch's symbolic size into a number, so the exporter writes a graph for two images.
    [(lambda images: images.shape[0], None), (len, 1)],
    ids=["any number", "one by one"],
)
def test_attention_within_windows_is_written_for_any_number_of_images_or_for_one(
    classifier, images, tmp_path, count, batch_size
):
    torch.manual_seed(0)
    backbone = Windows(count)
    model = Classifier(backbone, {**classifier.config, "mean": [0.5] * 3, "std": [0.5] * 3}).eval()
    assert export_onnx(model, tmp_path / "model.onnx", opset=18) == batch_size
    assert backbone.fused_attn
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert shape(graph.input[0]) == [batch_size or "batch", 1, 32, 32]
    with torch.no_grad():
        expected = model(torch.from_numpy(images) / 255).numpy()
    session = open_session((tmp_path / "model.onnx").read_bytes(), name="model.onnx")
    for batch in (1, 5):
        answers = run(session, images[:batch])
        np.testing.assert_allclose(answers, expected[:batch], rtol=0, atol=1e-5)
    assert measure_parity(model, tmp_path / "model.onnx", images).passed


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(source, exported, tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from medistill.export.onnx import export_onnx; from medistill.models.weights import load_model\n"
        "from medistill.runtime.bundle import read_bundle\n"
        "about = read_bundle(Path(sys.argv[3]))\n"
        "told = {'calibration': about.calibration, 'points': about.points}\n"
        "export_onnx(load_model(Path(sys.argv[1])), Path(sys.argv[2]), opset=18, **told)"
    )
    for seed in ("1", "2"):
        file = Path(tmp_path, f"{seed}.onnx")
        command = [sys.executable, "-c", code, str(source), str(file), str(exported)]
        done = subprocess.run(command, env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == ("", "")
        assert file.read_bytes() == (exported / "model.onnx").read_bytes()
