"""Exports that are not as they declare: each is one line that names the file, or an error of one image."""

import hashlib
import math
import os
import random
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from medistill.errors import UserError
from medistill.files import read_json, write_json
from medistill.images.limits import LARGEST_SIZE
from medistill.runtime.bundle import LARGEST_BUNDLE
from medistill.runtime.predictor import LARGEST_MODEL, Predictor
from tests.unit.runtime.conftest import AXES, IMAGE, LABELS, LOGITS, MEANS, graph_model, linear_model

ADD = helper.make_node("Add", ["mean", "offset"], ["logits"])


def image(kind: int = TensorProto.UINT8, *shape: int | str) -> tuple:
    return ("image", kind, list(shape or IMAGE[2]))


def logits(kind: int = TensorProto.FLOAT, *shape: int | str) -> tuple:
    return ("logits", kind, list(shape or LOGITS[2]))


def means(*, nodes: list | None = None, inputs: tuple = (IMAGE,), outputs: tuple = (LOGITS,), **model) -> bytes:
    """An ONNX file; by default all its logits are the mean of the pixels."""
    constants = {"axes": AXES, "offset": np.zeros((1, 3), np.float32)}
    return graph_model(MEANS + (nodes or [ADD]), list(inputs), list(outputs), constants, **model)


def cast(kind: int) -> bytes:
    return means(
        nodes=[
            helper.make_node("Add", ["mean", "offset"], ["sum"]),
            helper.make_node("Cast", ["sum"], ["logits"], to=kind),
        ],
        outputs=(logits(kind),),
    )


def huge_constant(side: int) -> bytes:
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["constant"]),
        helper.make_node("ReduceMax", ["constant"], ["zero"], keepdims=0),
        helper.make_node("Add", ["mean", "zero"], ["sum"]),
        helper.make_node("Add", ["sum", "offset"], ["logits"]),
    ]
    constants = {"axes": AXES, "offset": np.zeros((1, 3), np.float32), "shape": np.array([side, side])}
    return graph_model(MEANS + nodes, [IMAGE], [LOGITS], constants)


def recursive() -> bytes:
    own = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "F", ["x"], ["y"], [helper.make_node("F", ["x"], ["y"], domain="own")], own)
    nodes = [
        helper.make_node("Add", ["mean", "offset"], ["sum"]),
        helper.make_node("F", ["sum"], ["logits"], domain="own"),
    ]
    return means(nodes=nodes, functions=[function], opset_imports=own)


def reshaped(*shape: int) -> bytes:
    """A graph that declares three logits per image but gives six in this shape, which only shows when it runs."""
    nodes = [
        helper.make_node("Add", ["mean", "offset"], ["sum"]),
        helper.make_node("ReduceSum", ["mean"], ["brightness"], keepdims=0),  # 0 for a black image
        helper.make_node("Cast", ["brightness"], ["nothing"], to=TensorProto.INT64),
        helper.make_node("Add", ["nothing", "to"], ["shape"]),
        helper.make_node("Reshape", ["sum", "shape"], ["logits"]),
    ]
    constants = {"axes": AXES, "offset": np.zeros((1, 6), np.float32), "to": np.array(shape)}
    return graph_model(MEANS + nodes, [IMAGE], [LOGITS], constants)


def without_channels() -> bytes:
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["float"], ["largest"], keepdims=0),
        helper.make_node("Add", ["largest", "offset"], ["logits"]),
    ]
    port = ("image", TensorProto.UINT8, ["batch", 8, 8])
    return graph_model(nodes, [port], [LOGITS], {"offset": np.zeros((1, 3), np.float32)})


MODELS = {
    "float input": (lambda: means(inputs=(image(TensorProto.FLOAT),)), r"image is tensor\(float\) \[1, 8, 8\], but"),
    "wrong rank of the input": (
        without_channels,
        r"image is tensor\(uint8\) \[8, 8\], but bundle\.json needs tensor\(uint8\) \[1, 8, 8\]",
    ),
    "an input more": (
        lambda: means(inputs=(IMAGE, ("age\x1b[31m", TensorProto.FLOAT, [1]))),
        r"has inputs other than image: age",
    ),
    "no such input": (
        lambda: linear_model([1.0] * 3, [0.0] * 3, size=8, batch="b").replace(b"image", b"imagf"),
        r"image is missing, but bundle\.json needs",
    ),
    "names that are no text": (
        lambda: linear_model([1.0] * 3, [0.0] * 3, size=8, batch="batch").replace(b"batch", b"bat\xa3h"),
        r"cannot open it \(.*decode",
    ),
    "no such output": (
        lambda: means(
            nodes=[helper.make_node("Add", ["mean", "offset"], ["answer"])],
            outputs=(("answer", TensorProto.FLOAT, ["batch", 3]),),
        ),
        r"logits is missing, but",
    ),
    "wrong rank of the output": (
        lambda: means(outputs=(logits(TensorProto.FLOAT, "batch", 3, 1, 1),)),
        r"logits is .* but|cannot open it",
    ),
    "text as output": (lambda: cast(TensorProto.STRING), r"logits is tensor\(string\) \[3\], but"),
    "double as output": (lambda: cast(TensorProto.DOUBLE), r"logits is tensor\(double\) \[3\], but"),
    "a batch of nothing": (lambda: means(inputs=(image(TensorProto.UINT8, 0, 1, 8, 8),)), r"cannot run it \("),
    "a batch of very many": (
        lambda: linear_model([1.0] * 3, [0.0] * 3, size=8, batch=10**9),
        r"takes 1,000,000,000 images of this size at a time",
    ),
    "a huge constant": (lambda: huge_constant(2**20), r"cannot (run|open) it \("),
    "a constant of more bytes than can be counted": (lambda: huge_constant(2**31), r"cannot (run|open) it \("),
    "an operator set to come": (
        lambda: means(opset_imports=[helper.make_opsetid("", 999)]),
        r"cannot open it \(.*opset",
    ),
    "an IR version to come": (lambda: means(ir_version=99), r"cannot open it \(.*IR version"),
    "operators of somebody's own": (
        lambda: means(
            nodes=[helper.make_node("Zap", ["mean"], ["logits"], domain="own")],
            opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("own", 1)],
        ),
        r"cannot open it \(.*own:Zap",
    ),
    "a function that calls itself": (recursive, r"cannot open it \(Model local function definitions must not be"),
    "rows that are not the images'": (
        lambda: reshaped(2, 3),
        r"its logits of 1 image have the shape \[2, 3\], not one row per image",
    ),
    "columns that are not the labels'": (lambda: reshaped(1, 6), r"gives 6 logits per image for 3 labels"),
    "not a matrix": (lambda: reshaped(1, 3, 2), r"logits is tensor\(float\) \[\], but bundle\.json needs"),
    "a node that fails": (lambda: reshaped(7, 3), r"cannot run it \(.*cannot be reshaped"),
    "cut off": (lambda: means()[:-40], r"not an ONNX file, or damaged|cannot open it"),
    "empty": (lambda: b"\x0a\x00", r"cannot open it"),
    "ONNX Runtime's own format": (lambda: b"\x18\0\0\0ORTM" + bytes(64), r"not an ONNX file, or damaged"),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_graph_that_is_no_classifier_of_these_images_is_one_line(make_bundle, grey, kind, capfd):
    make, message = MODELS[kind]
    folder = make_bundle(content=make())
    with pytest.raises(UserError, match=rf"^{folder}/model\.onnx: .*{message}") as caught:
        list(Predictor(folder).predict([grey(0)]))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert capfd.readouterr() == ("", "")  # ONNX Runtime prints nothing


def test_a_graph_with_outputs_more_is_read(make_bundle, grey):
    folder = make_bundle(content=means(outputs=(LOGITS, ("mean", TensorProto.FLOAT, ["batch", 1]))))
    (answer,) = Predictor(folder).predict([grey(0)])
    assert answer.probabilities == dict.fromkeys(LABELS, 0.5)


def test_numbers_in_another_file_are_not_read_wherever_one_stands(make_bundle, grey, tmp_path, monkeypatch):
    offset = np.array([[1, 2, 3]], np.float32)
    tensor = TensorProto(name="offset", data_type=TensorProto.FLOAT, dims=[1, 3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="secret.bin")
    ports = [[helper.make_tensor_value_info(*port)] for port in (IMAGE, LOGITS)]
    graph = helper.make_graph([*MEANS, ADD], "graph", *ports, [numpy_helper.from_array(AXES, "axes"), tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    folder = make_bundle(content=model.SerializeToString())
    for place in (tmp_path, folder):
        (place / "secret.bin").write_bytes(offset.tobytes())
        monkeypatch.chdir(place)
        with pytest.raises(UserError, match=r"model\.onnx: stores weights in another file \(external data\)"):
            Predictor(folder)


@pytest.mark.parametrize(("value", "shown"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_a_logit_that_is_no_number_is_an_error_of_its_image(make_bundle, grey, value, shown, task):
    """For black images only: 0 · infinity is NaN."""
    nodes = [
        helper.make_node("Equal", ["mean", "zero"], ["is_black"]),
        helper.make_node("Where", ["is_black", "bad", "offset"], ["logits"]),
    ]
    constants = {
        **{"axes": AXES, "zero": np.zeros((1, 1), np.float32), "offset": np.zeros((1, 3), np.float32)},
        "bad": np.array([[0, value, 1]], np.float32),
    }
    folder = make_bundle(content=graph_model(MEANS + nodes, [IMAGE], [LOGITS], constants), task=task)
    first, second, third = Predictor(folder).predict([grey(7), grey(0), grey(8)])
    assert (second.probabilities, second.error) == (None, f"the model's logit for Mass is {shown}")
    expected = 0.5 if task == "multilabel" else 1 / 3
    for answer in (first, third):
        assert answer.error is None
        assert list(answer.probabilities.values()) == pytest.approx([expected] * 3)


def _replace_by(kind: str, path: Path) -> None:
    path.unlink()
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "endless device":
            path.symlink_to("/dev/zero")
        case "socket":
            listener = socket.socket(socket.AF_UNIX)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(path.parent)  # a socket's path must be short
                listener.bind(path.name)
            listener.close()


@pytest.mark.skipif(sys.platform != "linux", reason="pipes and devices are Linux's")
@pytest.mark.parametrize("kind", ["pipe", "folder", "endless device", "socket"])
@pytest.mark.parametrize("file", ["bundle.json", "model.onnx"])
def test_what_is_no_file_is_not_read(make_bundle, kind, file):
    folder = make_bundle()
    _replace_by(kind, folder / file)
    with pytest.raises(UserError, match=rf"^{folder / file}: not a regular file"):
        Predictor(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="pipes and devices are Linux's")
@pytest.mark.parametrize("kind", ["pipe", "folder", "endless device", "socket"])
def test_an_image_that_is_no_file_is_an_error_of_its_own(make_bundle, grey, kind):
    strange = grey(3, "strange.png")
    _replace_by(kind, strange)
    first, second = Predictor(make_bundle()).predict([strange, grey(0)])
    assert (first.error, second.error) == ("not a file", None)


@pytest.mark.parametrize(("file", "limit"), [("bundle.json", LARGEST_BUNDLE), ("model.onnx", LARGEST_MODEL)])
def test_what_is_too_large_is_not_read(make_bundle, file, limit):
    folder = make_bundle()
    os.truncate(folder / file, limit + 1)  # a sparse file, which takes no room
    with pytest.raises(UserError, match=rf"^{folder / file}: has {limit + 1:,} bytes; more than {limit:,} are not"):
        Predictor(folder)


BUNDLES = {
    "nested deeply": ('{"name": ' + "[" * 100_000 + "]" * 100_000 + "}", r"not valid JSON \(nested too deeply\)"),
    "an endless number": ('{"bundle_version": 1' + "0" * 5000 + "}", r"not valid JSON|version 10000"),
    "a number beyond all": ('{"bundle_version": 1e999}', r"version inf, but this medistill reads"),
    "true for one": ('{"bundle_version": true}', r"version True, but this medistill reads"),
    "a key twice": ('{"bundle_version": 2, "name": "a", "name": "b"}', r"the key 'name' is there twice"),
    "no number": ('{"bundle_version": 2, "name": NaN}', r"NaN is not a number in JSON"),
    "other bytes": (b"\xff\xfe{\x00}\x00", r"not valid JSON"),
    "Latin-1": ('{"name": "Röntgen"}'.encode("latin-1"), r"not valid JSON"),
}


@pytest.mark.parametrize("kind", BUNDLES)
def test_a_bundle_that_is_no_json_of_ours_is_one_line(make_bundle, kind):
    content, message = BUNDLES[kind]
    folder = make_bundle()
    (folder / "bundle.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=rf"^{folder}/bundle\.json: .*{message}") as caught:
        Predictor(folder)
    assert len(str(caught.value)) < 500


def test_a_byte_order_mark_before_the_bundle_does_no_harm(make_bundle):
    folder = make_bundle()
    path = folder / "bundle.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert Predictor(folder).bundle.labels == tuple(LABELS)


@pytest.mark.parametrize(
    "labels",
    [
        *(["Mass", ""], ["Mass", " \t"], ["Mass", "Nodule", "Mass"], ["Mass\x1b[2J"], ["Mass\nNodule"], ["Mass\x00"]),
        *(["\u202essaM"], ["Mass\u2028"], ["Mass\x9b31m"], ["Mass\ud800"], ["Mass\u200f"], ["Mass\r"]),
    ],
)
def test_labels_that_are_no_names_or_not_told_apart_are_refused(make_bundle, labels):
    with pytest.raises(UserError, match=r"bundle\.json: labels has the invalid value"):
        Predictor(make_bundle(labels=labels))


@pytest.mark.parametrize("labels", [["Röntgen 胸部", "ذات الرئة", "Pleural\u00a0effusion"]])
def test_labels_of_every_language_are_names(make_bundle, labels):
    assert Predictor(make_bundle(labels=labels)).bundle.labels == tuple(labels)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("name", "model\x00"), ("name", ""), ("name", "\x1b]0;title\x07"), ("file", "model\x00.onnx"), ("file", ".")),
        *(("image_size", 10**5), ("image_size", 10**9), ("image_size", 10**4000), ("image_size", LARGEST_SIZE + 1)),
        *(("image_size", 8.0), ("image_size", True), ("image_size", -8), ("channels", True), ("labels", ["x"] * 10**5)),
        *(("task", ["multilabel"]), ("fit", {}), ("name", ["x"]), ("file", ["model.onnx"])),
    ],
)
def test_a_value_that_makes_no_sense_is_said_in_few_words(make_bundle, key, value):
    with pytest.raises(UserError, match=rf"bundle\.json: {key} has the invalid value") as caught:
        Predictor(make_bundle(**{key: value}))
    assert len(str(caught.value)) < 500


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, taken out or put in."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        place = rng.randrange(len(content))
        match rng.randrange(4):
            case 0:
                content[place] ^= 1 << rng.randrange(8)
            case 1:
                content[place] = rng.randrange(256)
            case 2:
                del content[place : place + rng.randrange(1, 5)]
            case _:
                content[place:place] = rng.randbytes(rng.randrange(1, 4))
    return bytes(content)


@pytest.mark.parametrize("file", ["bundle.json", "model.onnx"])
def test_whatever_is_damaged_predicts_or_is_one_line(make_bundle, grey, file, capfd):
    folder, images = make_bundle(), [grey(3), grey(200)]
    path, whole = folder / file, (folder / file).read_bytes()
    bundle = read_json(folder / "bundle.json")
    rng, refused, predicted = random.Random(16), [], 0
    for _ in range(400):
        content = damaged(whole, rng)
        path.write_bytes(content)
        if file == "model.onnx":  # with a matching checksum, so that the damage must be found in the graph itself
            write_json(folder / "bundle.json", {**bundle, "sha256": hashlib.sha256(content).hexdigest()})
        try:
            predictor = Predictor(folder)
            answers = list(predictor.predict(images))
        except UserError as error:
            refused.append(str(error))
            continue
        assert [answer.image for answer in answers] == images
        for answer in answers:
            if answer.error is None:
                assert tuple(answer.probabilities) == predictor.bundle.labels
                assert all(0 <= value <= 1 for value in answer.probabilities.values())
        predicted += 1
    assert predicted > 10
    assert len(refused) > 20
    assert all(line.startswith(str(folder)) and len(line) < 1000 for line in refused)
    assert capfd.readouterr() == ("", "")
