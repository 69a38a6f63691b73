import dataclasses

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.metrics import roc_auc_score

from medistill.export.onnx import export_onnx
from medistill.export.parity import measure_parity
from medistill.files import read_json
from medistill.models.classifier import Classifier
from medistill.stress.tap import forward_tapped
from medistill.stress.unlike import Unlike
from medistill.task import Calibration, Task

LIMITS = {"probabilities": 2.5e-5, "saliency_map": 1e-4, "saliency_max": 1e-4}


def changed(source, target, nodes, output="logits", **constants) -> None:
    """Copy an ONNX file; `nodes` make the new `output` from the old one, now called `right`, and from `constants`."""
    model = onnx.load(source)
    last = next(node for node in model.graph.node if output in node.output)
    last.output[0] = "right"
    for node in model.graph.node:
        node.input[:] = ["right" if name == output else name for name in node.input]
    values = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()]
    model.graph.initializer.extend(values)
    model.graph.node.extend(nodes)
    onnx.save(model, target)


def scaled(source, target, output: str, factor: float) -> None:
    """Copy an ONNX file; an output is `factor` times what it was."""
    changed(source, target, [helper.make_node("Mul", ["right", "factor"], [output])], output, factor=[factor])


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
    zero_maps = {"saliency_map": parity.outputs["saliency_map"].zero_maps}
    assert read_json(tmp_path / "parity.json") == {
        "images": 12,
        "max_abs_logit_difference": None,
        "largest_logit": None,
        "limit": 1e-4,
        "outputs": {
            name: {"difference": pytest.approx(0, abs=limit), "limit": limit, "zero_maps": zero_maps.get(name)}
            for name, limit in LIMITS.items()
        },
        "passed": False,
    }


@pytest.mark.parametrize("right_batch", [1, 7])
def test_both_batch_sizes_are_compared(exported, classifier, images, tmp_path, right_batch):
    drifting(exported / "model.onnx", tmp_path / "model.onnx", right_batch=right_batch)
    parity = measure_parity(classifier, tmp_path / "model.onnx", images)
    assert parity.max_abs_logit_difference == pytest.approx(0.06, abs=1e-4)  # 6 images too many, or too few
    assert parity.passed is False


def test_maps_are_those_of_autograd(classifier, tmp_path):
    """Grad-CAM as its definition says: the gradient's mean over the map, times the map, the sum's positive part."""
    large = np.random.default_rng(3).integers(0, 256, (3, 1, 96, 96), np.uint8)
    model = Classifier(classifier.backbone, {**classifier.config, "image_size": 96}).eval()
    export_onnx(model, tmp_path / "model.onnx", opset=18)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    maps, peaks = session.run(["saliency_map", "saliency_max"], {"image": large})
    features = model.features(torch.from_numpy(large).float() / 255).detach().requires_grad_()
    logits, expected = model.classify(features), []
    for label in range(3):
        (gradient,) = torch.autograd.grad(logits[:, label].sum(), features, retain_graph=True)
        expected.append((gradient.mean((2, 3), keepdim=True) * features).sum(1).relu().detach())
    expected = torch.stack(expected, 1).numpy()
    assert maps.shape == expected.shape == (3, 3, 3, 3)
    np.testing.assert_allclose(maps, expected, rtol=0, atol=1e-5 * expected.max())
    np.testing.assert_array_equal(peaks, maps.max((2, 3)))
    parity = measure_parity(model, tmp_path / "model.onnx", large)
    assert parity.outputs["saliency_map"].zero_maps == (expected.max((2, 3)) == 0).sum()
    # A quarter of what logits may differ by is what a sigmoid makes of it.
    limits = LIMITS | {"probabilities": pytest.approx(max(1e-5, 0.25 * parity.limit))}
    assert {name: one.limit for name, one in parity.outputs.items()} == limits
    assert all(one.passed for one in parity.outputs.values())


@pytest.mark.parametrize(
    ("output", "factor"), [("saliency_map", 1.001), ("saliency_max", 0.999), ("probabilities", 1.001)]
)
def test_an_output_that_is_off_fails_alone(exported, classifier, images, tmp_path, output, factor):
    scaled(exported / "model.onnx", tmp_path / "model.onnx", output, factor)
    parity = measure_parity(classifier, tmp_path / "model.onnx", images)
    assert parity.max_abs_logit_difference <= parity.limit
    assert not parity.passed
    wrong = {name: one.difference for name, one in parity.outputs.items() if not one.passed}
    assert output in wrong
    assert set(wrong) <= {output, "saliency_max"}  # the maxima are those of the map
    if output != "probabilities":
        with torch.no_grad():
            signed = classifier.class_maps(classifier.features(torch.from_numpy(images).float() / 255)).numpy()
        shares = signed.max((0, 2, 3)).clip(0) / np.abs(signed).max((0, 2, 3))
        assert wrong[output] == pytest.approx(0.001 * shares.max(), rel=0.01)


def test_a_logit_that_changes_the_order_of_images_fails_by_its_auroc(exported, classifier, images, tmp_path):
    targets = np.zeros((12, 3))
    targets[:6] = 1
    targets[0, 1] = np.nan
    parity = measure_parity(classifier, exported / "model.onnx", images, targets=targets)
    assert (parity.outputs["auroc"].difference, parity.passed) == (0.0, True)
    assert parity.outputs["auroc"].limit == pytest.approx(2 / 36)
    scaled(exported / "model.onnx", tmp_path / "model.onnx", "logits", -1)
    turned = measure_parity(classifier, tmp_path / "model.onnx", images, targets=targets)
    with torch.no_grad():
        logits = classifier(torch.from_numpy(images).float() / 255).numpy()
    known = ~np.isnan(targets)
    areas = [roc_auc_score(targets[known[:, k], k], logits[known[:, k], k]) for k in range(3)]
    limits = [2 / 36, 2 / 30, 2 / 36]
    worst = max(range(3), key=lambda k: abs(1 - 2 * areas[k]) / limits[k])
    assert turned.outputs["auroc"].difference == pytest.approx(abs(1 - 2 * areas[worst]))
    assert turned.outputs["auroc"].limit == pytest.approx(limits[worst])


@pytest.mark.parametrize("output", ["probabilities", "saliency_map", "saliency_max"])
def test_numbers_that_are_not_finite_fail_in_any_output(exported, classifier, images, tmp_path, output):
    scaled(exported / "model.onnx", tmp_path / "model.onnx", output, np.nan)
    parity = measure_parity(classifier, tmp_path / "model.onnx", images)
    assert (parity.outputs[output].difference, parity.passed) == (None, False)


def test_an_output_that_is_not_there_fails(exported, classifier, images, tmp_path):
    model = onnx.load(exported / "model.onnx")
    del model.graph.output[1:]
    onnx.save(model, tmp_path / "model.onnx")
    parity = measure_parity(classifier, tmp_path / "model.onnx", images)
    assert {name for name, one in parity.outputs.items() if not one.passed} == LIMITS.keys()
    assert not parity.passed


def test_probabilities_are_held_against_the_calibration_in_float64(classifier, images, tmp_path):
    calibration = Calibration(Task.MULTILABEL, [0.5, 2.0, 1.0], [0.3, -1.0, 0.0])
    export_onnx(classifier, tmp_path / "model.onnx", opset=18, calibration=calibration)
    assert measure_parity(classifier, tmp_path / "model.onnx", images, calibration=calibration).passed
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
    assert parity.outputs["unlike"].difference < 1e-4
    other = dataclasses.replace(unlike, scales=unlike.scales * np.float32(1.01), side=unlike.side * np.float32(1.01))
    wrong = measure_parity(classifier, tmp_path / "model.onnx", images, unlike=other)
    assert [name for name, one in wrong.outputs.items() if not one.passed] == ["unlike"]
