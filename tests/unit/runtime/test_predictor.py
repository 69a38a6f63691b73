import itertools
import math
from contextlib import nullcontext

import numpy as np
import pytest
from onnx import TensorProto, helper

from medistill.errors import UserError
from medistill.files import read_json, write_json
from medistill.runtime.predictor import Predictor
from medistill.runtime.session import open_session
from tests.unit.runtime.conftest import graph_model


def point(**changes) -> dict:
    """An operating point as bundle.json has it; `Mass` has no threshold."""
    thresholds = {"Effusion": 0.5, "Mass": None, "Nodule": 0.25}
    return {"kind": "sensitivity", "promised": 0.9, "thresholds": thresholds} | changes


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def by_hand(value: int) -> dict[str, float]:
    x = value / 255
    return {"Effusion": sigmoid(4 * x - 2), "Mass": sigmoid(-4 * x + 1), "Nodule": sigmoid(0.5)}


def test_probabilities_are_those_worked_out_by_hand(make_bundle, grey):
    (first, second) = Predictor(make_bundle()).predict([grey(51), grey(204)])
    assert list(first.probabilities) == ["Effusion", "Mass", "Nodule"]
    assert first.probabilities == pytest.approx(by_hand(51), abs=1e-6)
    assert second.probabilities == pytest.approx(by_hand(204), abs=1e-6)
    assert (first.error, second.error) == (None, None)


def test_one_class_of_several_is_a_softmax(make_bundle, grey):
    (answer,) = Predictor(make_bundle(task="multiclass")).predict([grey(102)])
    exponents = {"Effusion": math.exp(4 * 0.4 - 2), "Mass": math.exp(-4 * 0.4 + 1), "Nodule": math.exp(0.5)}
    expected = {label: value / sum(exponents.values()) for label, value in exponents.items()}
    assert answer.probabilities == pytest.approx(expected, abs=1e-6)
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("task", "expected"), [("multilabel", [1, 0, 0.5]), ("multiclass", [1, 0, 0])])
def test_huge_logits_do_not_overflow(make_bundle, grey, task, expected):
    folder = make_bundle(task=task, slope=[1e5, -1e5, 0.0], offset=[0.0, 0.0, 0.0])
    (answer,) = Predictor(folder).predict([grey(255)])
    assert list(answer.probabilities.values()) == expected


def test_logits_of_frames(make_bundle):
    frames = np.stack([np.full((1, 8, 8), value, np.uint8) for value in (0, 255)])
    logits = Predictor(make_bundle()).logits(frames)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, [[-2, 1, 0.5], [2, -3, 0.5]], atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_an_image_that_cannot_be_read_does_not_stop_the_others(make_bundle, grey, tmp_path, batch_size):
    text = tmp_path / "text.png"
    text.write_text("not an image")
    images = [grey(0), tmp_path / "absent.png", grey(100), text, grey(200), tmp_path]
    answers = list(Predictor(make_bundle()).predict(images, batch_size=batch_size))
    assert [answer.image for answer in answers] == images
    assert [answer.error is None for answer in answers] == [True, False, True, False, True, False]
    for answer, value in zip(answers[::2], (0, 100, 200), strict=True):
        assert answer.probabilities == pytest.approx(by_hand(value), abs=1e-6)
    assert [answer.probabilities for answer in answers[1::2]] == [None] * 3
    assert "no such file" in answers[1].error
    assert "not an image" in answers[3].error
    assert not any("\n" in answer.error for answer in answers[1::2])


def test_only_images_that_cannot_be_read(make_bundle, tmp_path):
    (answer,) = Predictor(make_bundle()).predict([tmp_path / "absent.png"])
    assert answer.error


def count_images(batch: int | str = "batch") -> bytes:
    """An ONNX file in which every logit is the number of images in the batch."""
    nodes = [
        helper.make_node("Shape", ["image"], ["size"], start=0, end=1),
        helper.make_node("Cast", ["size"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["size", "labels"], ["shape"], axis=0),
        helper.make_node("Expand", ["number", "shape"], ["logits"]),
    ]
    image, logits = ("image", TensorProto.UINT8, [batch, 1, 8, 8]), ("logits", TensorProto.FLOAT, [batch, 3])
    return graph_model(nodes, [image], [logits], {"labels": [3]})


@pytest.mark.parametrize(("batch_size", "batches"), [(1, [1] * 5), (2, [2, 2, 2, 2, 1]), (16, [5] * 5)])
def test_no_batch_is_larger_than_asked_for(make_bundle, grey, batch_size, batches):
    predictor = Predictor(make_bundle(content=count_images()))
    answers = list(predictor.predict([grey(value) for value in range(5)], batch_size=batch_size))
    assert [answer.probabilities["Mass"] for answer in answers] == pytest.approx([sigmoid(n) for n in batches])


def test_no_batch_needs_more_memory_than_is_allowed(make_bundle, grey, monkeypatch):
    monkeypatch.setattr("medistill.runtime.predictor.LARGEST_BATCH", 3 * 8 * 8 + 1)
    answers = list(Predictor(make_bundle(content=count_images())).predict([grey(value) for value in range(5)]))
    assert [answer.probabilities["Mass"] for answer in answers] == pytest.approx([sigmoid(n) for n in (3, 3, 3, 2, 2)])
    with pytest.raises(
        UserError, match=r"model\.onnx: takes 4 images of this size at a time, but there is memory for 3 only"
    ):
        Predictor(make_bundle("four", content=count_images(4)))


@pytest.mark.parametrize("batch", [1, 2, 4, 7])
def test_a_graph_of_a_fixed_batch_is_given_as_many_images(make_bundle, grey, tmp_path, batch):
    images = [grey(0), tmp_path / "absent.png", *(grey(value) for value in (50, 100, 150, 200))]
    predictor = Predictor(make_bundle(batch=batch))
    answers = list(predictor.predict(images))
    assert [answer.error is None for answer in answers] == [True, False, True, True, True, True]
    for answer, value in zip([answers[0], *answers[2:]], (0, 50, 100, 150, 200), strict=True):
        assert answer.probabilities == pytest.approx(by_hand(value), abs=1e-6)
    frames = np.stack([np.full((1, 8, 8), value, np.uint8) for value in (0, 255, 0)])
    np.testing.assert_allclose(predictor.logits(frames), [[-2, 1, 0.5], [2, -3, 0.5], [-2, 1, 0.5]], atol=1e-6)


def test_answers_come_while_the_list_of_images_is_still_being_read(make_bundle, grey):
    endless = itertools.repeat(grey(10))
    answers = itertools.islice(Predictor(make_bundle()).predict(endless, batch_size=2), 5)
    assert len(list(answers)) == 5


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no such folder"):
        Predictor(tmp_path / "nowhere")


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(UserError, match=r"bundle\.json is missing"):
        Predictor(tmp_path)


@pytest.mark.parametrize("version", [1, 3, "2", None])
def test_a_bundle_of_another_version(make_bundle, version):
    with pytest.raises(UserError, match=rf"bundle\.json: version {version}, but this medistill reads version 2"):
        Predictor(make_bundle(bundle_version=version))


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null"])
def test_a_bundle_that_is_not_one(make_bundle, content):
    folder = make_bundle()
    (folder / "bundle.json").write_text(content)
    with pytest.raises(UserError, match=r"bundle\.json: "):
        Predictor(folder)


@pytest.mark.parametrize("key", ["name", "task", "labels", "file", "sha256"])
def test_a_missing_key(make_bundle, key):
    with pytest.raises(UserError, match=rf"bundle\.json: key {key} is missing"):
        Predictor(make_bundle(**{key: None}))


@pytest.mark.parametrize("key", ["image_size", "channels", "fit"])
def test_a_missing_key_of_the_preprocessing(make_bundle, key):
    folder = make_bundle()
    bundle = read_json(folder / "bundle.json")
    del bundle["preprocessing"][key]
    write_json(folder / "bundle.json", bundle)
    with pytest.raises(UserError, match=rf"bundle\.json: key {key} is missing"):
        Predictor(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", 3),
        ("task", "regression"),
        ("labels", []),
        ("labels", "Mass"),
        ("labels", ["Mass", 2]),
        ("file", "../model.onnx"),
        ("file", "/etc/passwd"),
        ("file", ".."),
        ("file", ""),
        ("sha256", 5),
        ("image_size", "8"),
        ("image_size", 0),
        ("channels", 4),
        ("fit", "stretch"),
        *(
            ("operating_points", value)
            for value in (
                {},
                [3],
                [{"kind": "sensitivity"}],
                [point(kind="luck")],
                [point(promised=1)],
                [point(promised=True)],
                [point(promised="0.9")],
                [point(thresholds=[0.5])],
                [point(thresholds={"Effusion": "0.5", "Mass": 0.5, "Nodule": 0.5})],
                [point(thresholds={"Effusion": -0.5, "Mass": 0.5, "Nodule": 0.5})],
                [point(thresholds={"Effusion": True, "Mass": 0.5, "Nodule": 0.5})],
                [point()] * 17,
            )
        ),
        *(
            ("calibration", value)
            for value in (
                [1, 2],
                {"slopes": [1.0, 1.0, 1.0]},
                {"slopes": [1.0, 1.0, 0.0], "intercepts": [0.0, 0.0, 0.0]},
                {"slopes": [1.0, 1.0, "1"], "intercepts": [0.0, 0.0, 0.0]},
                {"slopes": [1.0, 1.0, 1.0], "intercepts": [0.0, 0.0, True]},
                {"slopes": [1.0, 1.0, 1.0], "intercepts": [0.0]},
                {"slopes": "123", "intercepts": "123"},
            )
        ),
    ],
)
def test_a_value_that_makes_no_sense(make_bundle, key, value):
    with pytest.raises(UserError, match=rf"bundle\.json: {key} has the invalid value"):
        Predictor(make_bundle(**{key: value}))


def test_thresholds_must_be_of_the_labels(make_bundle):
    with pytest.raises(UserError, match=r"bundle\.json: operating_points have thresholds of other labels"):
        Predictor(make_bundle(operating_points=[point(thresholds={"Effusion": 0.5})]))


def test_thresholds_are_there_to_be_used_and_an_older_bundle_has_none(make_bundle):
    (at,) = Predictor(make_bundle(operating_points=[point()])).bundle.points
    assert [at.calls("Effusion", value) for value in (0.49, 0.5, 1.0)] == [False, True, True]
    assert [at.calls("Mass", value) for value in (0.0, 1.0)] == [None, None]
    assert str(at) == "sensitivity 0.9"
    assert Predictor(make_bundle("old-kd-0")).bundle.points == ()


def test_probabilities_are_calibrated(make_bundle, grey):
    given = {"slopes": [0.5, 1.0, 2.0], "intercepts": [0.0, -1.0, 1.0]}
    calibrated = Predictor(make_bundle(calibration=given))
    calibration = calibrated.bundle.calibration
    assert (calibration.slopes, calibration.intercepts) == (given["slopes"], given["intercepts"])
    (answer,) = calibrated.predict([grey(255)])  # logits by hand: 2, -3, 0.5
    expected = [1 / (1 + math.exp(-z)) for z in (0.5 * 2, -3 - 1, 2 * 0.5 + 1)]
    assert list(answer.probabilities.values()) == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(calibrated.logits(np.full((1, 1, 8, 8), 255, np.uint8)), [[2, -3, 0.5]], atol=1e-6)
    with pytest.raises(UserError, match=r"bundle\.json: calibration has another number of labels"):
        Predictor(make_bundle("other-kd-0", calibration={"slopes": [1.0], "intercepts": [0.0]}))


def test_a_damaged_model(make_bundle):
    folder = make_bundle()
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.onnx: damaged, its SHA-256"):
        Predictor(folder)


def test_a_model_that_is_gone(make_bundle):
    folder = make_bundle()
    (folder / "model.onnx").unlink()
    with pytest.raises(UserError, match=r"model\.onnx: no such file; export the model again"):
        Predictor(folder)


def test_a_file_that_is_no_onnx(make_bundle):
    with pytest.raises(UserError, match=r"model\.onnx: not an ONNX file, or damaged \(.*\); export it again$"):
        Predictor(make_bundle(content=b"nothing of the kind"))


def test_an_operator_set_that_onnx_runtime_does_not_know():
    identity = helper.make_node("Identity", ["image"], ["logits"])
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("image", "logits")]
    graph = helper.make_graph([identity], "identity", ports[:1], ports[1:])
    for opset, known in ((18, True), (999, False)):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
        with nullcontext() if known else pytest.raises(UserError, match=r"^tiny: ONNX Runtime .* cannot open it"):
            open_session(model.SerializeToString(), name="tiny")


@pytest.mark.parametrize(
    ("keys", "port"),
    [
        ({"labels": ["Effusion", "Mass"]}, "logits"),
        ({"image_size": 16}, "image"),
        ({"channels": 3}, "image"),
    ],
)
def test_a_bundle_of_another_model(make_bundle, keys, port):
    with pytest.raises(UserError, match=rf"model\.onnx: {port} is .*, but bundle\.json needs"):
        Predictor(make_bundle(**keys))
