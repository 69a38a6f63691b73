import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from medistill.export.onnx import export_onnx
from medistill.export.parity import measure_parity
from medistill.files import read_json
from medistill.stress.tap import forward_tapped
from medistill.stress.unlike import Unlike
from medistill.task import Calibration, Task


def changed(source, target, nodes, **constants) -> None:
    """Copy an ONNX file; `nodes` make the new `logits` from the old ones, now called `right`, and from `constants`."""
    model = onnx.load(source)
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[0] = "right"
    values = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()]
    model.graph.initializer.extend(values)
    model.graph.node.extend(nodes)
    onnx.save(model, target)


def shifted(source, target, shift: float) -> None:
    """Copy an ONNX file; the second logit is off by `shift`."""
    changed(source, target, [helper.make_node("Add", ["right", "shift"], ["logits"])], shift=[0, shift, 0])


def drifting(source, target, *, right_batch: int) -> None:
    """Copy an ONNX file; logits are off by 0.01 times the difference of the batch size and `right_batch`."""
    nodes = [
        helper.make_node("Shape", ["image"], ["n"], start=0, end=1),
        helper.make_node("Cast", ["n"], ["n_float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["n_float", "right_batch"], ["excess"]),
        helper.make_node("Mul", ["excess", "step"], ["drift"]),
        helper.make_node("Add", ["right", "drift"], ["logits"]),
    ]
    changed(source, target, nodes, step=[0.01], right_batch=[right_batch])


def test_the_true_export_passes_with_the_difference_that_was_measured(exported, classifier, images):
    parity = measure_parity(classifier, exported / "model.onnx", images)
    session = onnxruntime.InferenceSession(exported / "model.onnx", providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = classifier(torch.from_numpy(images).float() / 255).numpy()
    answers = [session.run(None, {"image": images})[0]]
    answers.append(np.concatenate([session.run(None, {"image": images[i : i + 1]})[0] for i in range(len(images))]))
    assert parity.max_abs_logit_difference == pytest.approx(max(np.abs(a - expected).max() for a in answers), abs=1e-6)
    largest = np.abs(expected).max()
    assert parity.max_abs_logit_difference <= 1e-6 * largest
    assert parity.images == 12
    assert parity.largest_logit == pytest.approx(largest)
    assert parity.limit == pytest.approx(max(1e-4, 1e-5 * largest))
    assert parity.passed is True


@pytest.mark.parametrize(("shift", "passed"), [(5e-5, True), (-5e-4, False), (0.5, False)])
def test_a_shifted_logit_is_measured(exported, classifier, images, tmp_path, shift, passed):
    shifted(exported / "model.onnx", tmp_path / "model.onnx", shift)
    parity = measure_parity(classifier, tmp_path / "model.onnx", images)
    assert parity.max_abs_logit_difference == pytest.approx(abs(shift), abs=1e-5)
    assert parity.passed is passed


def test_one_corrupted_weight_fails(exported, classifier, images, tmp_path):
    model = onnx.load(exported / "model.onnx")
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == first.input[1])
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] += 1
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "model.onnx")
    parity = measure_parity(classifier, tmp_path / "model.onnx", images)
    assert parity.passed is False
    assert parity.max_abs_logit_difference > 1e-3


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_fail_and_can_be_written_down(exported, classifier, images, tmp_path, value):
    shifted(exported / "model.onnx", tmp_path / "model.onnx", value)
    parity = measure_parity(classifier, tmp_path / "model.onnx", images)
    parity.write(tmp_path / "parity.json")
    written = read_json(tmp_path / "parity.json")
    assert {key: written[key] for key in written if key.startswith(("images", "max_abs_l", "lar", "lim", "pas"))} == {
        "images": 12,
        "max_abs_logit_difference": None,
        "largest_logit": None,
        "limit": 1e-4,
        "passed": False,
    }


@pytest.mark.parametrize("right_batch", [1, 12])
def test_all_batch_sizes_are_compared(exported, classifier, images, tmp_path, right_batch):
    drifting(exported / "model.onnx", tmp_path / "model.onnx", right_batch=right_batch)
    parity = measure_parity(classifier, tmp_path / "model.onnx", images)
    assert parity.max_abs_logit_difference == pytest.approx(0.11, abs=1e-4)  # 11 images too many, or too few
    assert parity.passed is False


def scaled(source, target, output: str, factor: float) -> None:
    """Copy an ONNX file; one output is multiplied by `factor`."""
    model = onnx.load(source)
    for node in model.graph.node:
        node.input[:] = ["right" if name == output else name for name in node.input]
        node.output[:] = ["right" if name == output else name for name in node.output]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(factor), "factor"))
    model.graph.node.append(helper.make_node("Mul", ["right", "factor"], [output]))
    onnx.save(model, target)


@pytest.mark.parametrize("output", ["probabilities", "saliency_map", "saliency_max"])
@pytest.mark.parametrize(("factor", "passed"), [(1.0, True), (1.001, False), (np.nan, False)])
def test_an_output_that_is_off_fails_though_logits_are_right(
    exported, classifier, images, tmp_path, output, factor, passed
):
    scaled(exported / "model.onnx", tmp_path / "model.onnx", output, factor)
    parity = measure_parity(classifier, tmp_path / "model.onnx", images)
    assert parity.passed is passed
    assert parity.max_abs_logit_difference <= parity.limit
    found = parity.max_abs_probability_difference
    with torch.no_grad():
        features = classifier.features(torch.from_numpy(images).float() / 255)
        expected = classifier.class_maps(features).relu().flatten(2)
        probabilities = classifier(torch.from_numpy(images).float() / 255).sigmoid()
    assert parity.has_maps
    assert parity.empty_maps == int((expected.amax(2) == 0).sum())
    if output == "probabilities":
        assert parity.max_relative_map_difference < 1e-5
        off = float(probabilities.max()) * (factor - 1)
        assert found == (None if np.isnan(factor) else pytest.approx(off, abs=5e-6))
    else:
        assert found < 5e-6
        off = parity.max_relative_map_difference
        assert off == (None if np.isnan(factor) else pytest.approx(factor - 1, abs=1e-5))


def test_probabilities_are_held_against_the_calibration_in_float64(classifier, images, tmp_path):
    calibration = Calibration(Task.MULTILABEL, [0.5, 2.0, 1.0], [0.3, -1.0, 0.0])
    export_onnx(classifier, tmp_path / "model.onnx", opset=18, calibration=calibration)
    assert measure_parity(classifier, tmp_path / "model.onnx", images, calibration).passed
    assert not measure_parity(classifier, tmp_path / "model.onnx", images).passed


def test_a_score_of_unlike_is_that_of_numpy_and_a_wrong_one_fails(classifier, images, tmp_path):
    with torch.no_grad():
        pixels = torch.from_numpy(images).float() / 255
        features, mirrored = (forward_tapped(classifier, each)[2].numpy() for each in (pixels, pixels.flip(3)))
    unlike = Unlike.fit(features[:8], mirrored[:8], features[8:], np.arange(4))
    export_onnx(classifier, tmp_path / "model.onnx", opset=18, unlike=unlike)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    outputs = [port.name for port in session.get_outputs()]
    assert outputs == ["logits", "probabilities", "saliency_map", "saliency_max", "unlike"]
    (scores,) = session.run(["unlike"], {"image": images})
    np.testing.assert_allclose(scores, unlike.scores(features), rtol=1e-4)
    parity = measure_parity(classifier, tmp_path / "model.onnx", images, unlike=unlike)
    assert parity.passed
    assert parity.max_relative_unlike_difference < 1e-4
    other = dataclasses.replace(unlike, scales=unlike.scales * np.float32(1.01), side=unlike.side * np.float32(1.01))
    assert not measure_parity(classifier, tmp_path / "model.onnx", images, unlike=other).passed
