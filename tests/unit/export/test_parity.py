import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from medistill.export.parity import measure_parity
from medistill.files import read_json


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
    assert read_json(tmp_path / "parity.json") == {
        "images": 12,
        "max_abs_logit_difference": None,
        "largest_logit": None,
        "limit": 1e-4,
        "passed": False,
    }


@pytest.mark.parametrize("right_batch", [1, 12])
def test_both_batch_sizes_are_compared(exported, classifier, images, tmp_path, right_batch):
    drifting(exported / "model.onnx", tmp_path / "model.onnx", right_batch=right_batch)
    parity = measure_parity(classifier, tmp_path / "model.onnx", images)
    assert parity.max_abs_logit_difference == pytest.approx(0.11, abs=1e-4)  # 11 images too many, or too few
    assert parity.passed is False
