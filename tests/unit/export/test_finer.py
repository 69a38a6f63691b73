"""model.explain.onnx in ONNX Runtime against autograd."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from medistill.errors import UserError
from medistill.explain.cam import explain_by
from medistill.export.finer import WAY, export_explained, measure_map_parity
from medistill.files import read_json
from medistill.models.build import create_classifier
from medistill.models.settings import Network
from medistill.runtime.bundle import read_bundle
from medistill.runtime.explainer import Explainer
from medistill.runtime.predictor import Predictor
from tests.unit.export.conftest import enliven


def test_an_export_explains_any_labels_of_any_number_of_images_as_autograd_does(exported, classifier, images):
    explainer = Explainer.of(read_bundle(exported))
    for count, asked in [(1, [[2]]), (1, [[0, 1, 2]]), (5, [[0, 1], [2, 0], [1, 1], [0, 2], [2, 1]])]:
        logits, maps = explainer.explain(images[:count], np.array(asked))
        assert maps.shape[:2] == (count, len(asked[0]))
        inputs = torch.from_numpy(images[:count]).float() / 255
        for column, labels in enumerate(np.array(asked).T):
            expected, answers = explain_by(classifier, inputs, labels, [WAY])
            np.testing.assert_allclose(maps[:, column], expected[WAY], rtol=0, atol=1e-4 * expected[WAY].max())
            np.testing.assert_allclose(logits, answers, rtol=0, atol=1e-4)
    np.testing.assert_allclose(logits, Predictor(exported).logits(images[:5]), rtol=0, atol=1e-4)


def test_the_bundle_names_the_file_and_parity_says_how_near_its_maps_are(exported, source):
    parity = read_json(exported / "parity.json")["maps"]
    assert parity["passed"] is True
    assert parity["images"] == 8
    assert 0 < parity["median_difference"] <= parity["largest_difference"]
    assert parity["median_difference"] <= 1e-4
    bundle = read_json(exported / "bundle.json")
    assert bundle["explain"]["file"] == "model.explain.onnx"
    assert bundle["files"]["model.explain.onnx"] == bundle["explain"]["sha256"]


def test_a_wrong_weight_behind_the_stage_fails(exported, classifier, images, tmp_path):
    model = onnx.load(exported / "model.explain.onnx")
    tensor = max(
        (one for one in model.graph.initializer if one.name.startswith("explained.tail")),
        key=lambda one: len(one.raw_data),
    )
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
    onnx.save(model, tmp_path / "model.onnx")
    assert measure_map_parity(classifier, exported / "model.explain.onnx", images).passed is True
    parity = measure_map_parity(classifier, tmp_path / "model.onnx", images)
    assert parity.passed is False
    assert parity.median_difference > 1e-3


def test_a_damaged_file_is_named(exported, tmp_path):
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.explain.onnx").write_bytes(b"other")
    with pytest.raises(UserError, match=r"model\.explain\.onnx: damaged.*copy or export it again"):
        Explainer.of(read_bundle(tmp_path))
    (tmp_path / "model.explain.onnx").unlink()
    with pytest.raises(UserError, match=r"model\.explain\.onnx: no such file; export the model again"):
        Explainer.of(read_bundle(tmp_path))


def test_another_network_is_no_explainer(exported):
    with pytest.raises(UserError, match="does not take image and label"):
        Explainer((exported / "model.onnx").read_bytes(), name="model.onnx")


def test_a_label_that_does_not_exist_is_one_line(exported, images):
    with pytest.raises(UserError) as caught:
        Explainer.of(read_bundle(exported)).explain(images[:1], np.array([[3]]))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["eeea_net_c2", "tf_efficientnet_lite0", "mobilenetv4_conv_small", "efficientnet_b0"])
@pytest.mark.parametrize("opset", [18, 21])
def test_maps_of_other_networks_are_those_of_autograd(arch, opset, dataset, images, tmp_path):
    torch.manual_seed(0)
    model = create_classifier(Network(arch=arch), labels=dataset.labels, image_size=64)
    frames = np.repeat(np.repeat(images, 2, axis=2), 2, axis=3)
    enliven(model, torch.from_numpy(frames) / 255)
    model.config |= {
        "name": arch,
        "task": "multilabel",
        "fit": "pad",
        "fingerprint": "",
        "image_size": 64,
        "channels": 1,
    }
    export_explained(model, tmp_path / "model.onnx", opset=opset)
    parity = measure_map_parity(model, tmp_path / "model.onnx", frames)
    assert parity.passed, json.dumps(parity.to_json())
    assert parity.median_difference <= 1e-5
