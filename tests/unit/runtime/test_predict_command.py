"""`medistill predict`, as a user sees it."""

import json
import math
import os
import subprocess
import sys
import time

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tests.unit.runtime.conftest import AXES, IMAGE, LOGITS, MEANS, graph_model

COMMAND = [sys.executable, "-m", "medistill.cli", "predict"]


def predict(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*COMMAND, *map(os.fsencode, map(str, arguments))], capture_output=True, text=True, check=False
    )


def test_the_most_probable_label_comes_first(make_bundle, grey):
    bright, dark = grey(255, "bright.png"), grey(0, "dark.png")
    done = predict(bright, dark, "--model", make_bundle())
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert head == "linear-kd-0: Research use only, not a medical device"
    # Logits by hand: 2, -3, 0.5 for white and -2, 1, 0.5 for black.
    assert [line.split() for line in lines] == [
        [str(bright)],
        ["Effusion", "0.881"],
        ["Nodule", "0.622"],
        ["Mass", "0.047"],
        [str(dark)],
        ["Mass", "0.731"],
        ["Nodule", "0.622"],
        ["Effusion", "0.119"],
    ]


def test_probabilities_of_exclusive_classes_sum_to_one(make_bundle, grey):
    image, folder = grey(255), make_bundle(task="multiclass")
    (answer,) = json.loads(predict(image, "--model", folder, "--json").stdout)
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-12)
    shown = [line.split() for line in predict(image, "--model", folder).stdout.splitlines()[2:]]
    # Logits by hand: 2, -3, 0.5.
    total = math.exp(2) + math.exp(-3) + math.exp(0.5)
    by_hand = [(label, math.exp(logit) / total) for label, logit in (("Effusion", 2), ("Nodule", 0.5), ("Mass", -3))]
    assert shown == [[label, f"{value:.3f}"] for label, value in by_hand]


POINTS = [
    {"kind": "sensitivity", "promised": 0.9, "thresholds": {"Effusion": 0.9, "Mass": 0.01, "Nodule": None}},
    {"kind": "specificity", "promised": 0.9, "thresholds": {"Effusion": 0.5, "Mass": 0.99, "Nodule": 0.6}},
]


def test_what_is_called_is_marked(make_bundle, grey):
    image, folder = grey(255), make_bundle(operating_points=POINTS)
    done = predict(image, "--model", folder, "--at", "sensitivity:0.9")
    assert (done.returncode, done.stderr) == (0, "")
    _, said, _, *lines = done.stdout.splitlines()
    assert said == "*: called; in the mean over patients like those of validation, sensitivity 0.9; ?: no threshold"
    # By hand 0.881, 0.622 and 0.047.
    assert [line.split() for line in lines] == [["Effusion", "0.881"], ["Nodule", "0.622", "?"], ["Mass", "0.047", "*"]]
    (answer,) = json.loads(predict(image, "--model", folder, "--at", "specificity:0.90", "--json").stdout)
    assert answer["at"] == {"kind": "specificity", "promised": 0.9}
    assert answer["called"] == {"Effusion": True, "Mass": False, "Nodule": True}


@pytest.mark.parametrize("asked", ["sensitivity:0.8", "sensitivity", "0.9", "sensitivity:high", "luck:0.9"])
def test_a_promise_that_the_model_does_not_make(make_bundle, grey, asked):
    done = predict(grey(255), "--model", make_bundle(operating_points=POINTS), "--at", asked)
    said = f"linear-kd-0 has no thresholds for {asked}; it has sensitivity:0.9, specificity:0.9"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {said}\n")
    older = predict(grey(255), "--model", make_bundle("older-kd-0"), "--at", asked)
    assert older.stderr == f"error: older-kd-0 has no thresholds for {asked}; export the model again\n"


def test_a_program_reads_json(make_bundle, grey):
    image = grey(255)
    done = predict(image, "--model", make_bundle(), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    (answer,) = json.loads(done.stdout)
    probabilities = answer.pop("probabilities")
    assert answer == {
        "image": str(image),
        "model": "linear-kd-0",
        "disclaimer": "Research use only, not a medical device",
    }
    assert list(probabilities) == ["Effusion", "Mass", "Nodule"]
    expected = [1 / (1 + math.exp(-logit)) for logit in (2, -3, 0.5)]
    assert list(probabilities.values()) == pytest.approx(expected, abs=1e-6)


def test_a_bad_image_is_one_line_and_the_others_are_predicted(make_bundle, grey, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    images = [grey(1), tmp_path / "text.png", tmp_path / "absent.png", grey(2)]
    folder = make_bundle()
    done = predict(*images, "--model", folder)
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert first.startswith(f"error: {images[1]}: ")
    assert second.startswith(f"error: {images[2]}: ")
    assert [line for line in done.stdout.splitlines() if line.endswith(".png")] == [str(images[0]), str(images[3])]

    done = predict(*images, "--model", folder, "--json")
    assert done.returncode == 2
    answers = json.loads(done.stdout)
    assert [sorted(answer) for answer in answers] == [
        ["disclaimer", "image", "model", "probabilities"],
        ["disclaimer", "error", "image", "model"],
        ["disclaimer", "error", "image", "model"],
        ["disclaimer", "image", "model", "probabilities"],
    ]
    assert "no such file" in answers[2]["error"]


def test_a_model_that_cannot_be_used_is_one_line(make_bundle, grey, tmp_path):
    damaged = make_bundle("damaged")
    (damaged / "model.onnx").write_bytes(b"")
    cases = {
        tmp_path / "nowhere": "no such folder",
        tmp_path: "bundle.json is missing",
        damaged: "model.onnx: damaged",
        make_bundle("newer", bundle_version=3): "bundle.json: version 3, but this medistill reads version 2",
    }
    for folder, message in cases.items():
        done = predict(grey(0), "--model", folder, "--json")
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: {folder}")
        assert message in line


HOSTILE = "a\x1b[31m\n\u202e\x9b2J.png"
ESCAPED = r"a\x1b[31m\n\u202e\x9b2J.png"


def test_a_terminal_obeys_no_file_name(make_bundle, grey, tmp_path):
    image, text, folder = grey(255, HOSTILE), tmp_path / f"no{HOSTILE}", make_bundle()
    text.write_text("no image")
    done = predict(image, text, "--model", folder)
    assert done.returncode == 2
    assert done.stdout.splitlines()[1].endswith(f"/{ESCAPED}")
    assert done.stderr == f"error: {tmp_path}/no{ESCAPED}: not an image, or in a format that is not read\n"
    printed = predict(image, text, "--model", folder, "--json").stdout
    assert printed.replace("\n", "").isprintable()
    assert [answer["image"] for answer in json.loads(printed)] == [str(image), str(text)]


def no_number_for_black() -> bytes:
    """A model whose logits are the logarithm of the pixels' mean: minus infinity for black pixels."""
    nodes = [helper.make_node("Log", ["mean"], ["log"]), helper.make_node("Add", ["log", "offset"], ["logits"])]
    return graph_model(MEANS + nodes, [IMAGE], [LOGITS], {"axes": AXES, "offset": np.zeros((1, 3), np.float32)})


def test_json_has_no_number_that_json_does_not_know(make_bundle, grey):
    images = [grey(1), grey(0), grey(3)]
    done = predict(*images, "--model", make_bundle(content=no_number_for_black()), "--json")
    assert done.returncode == 2
    assert done.stderr == f"error: {images[1]}: the model's logit for Effusion is -inf\n"

    def refuse(constant):
        raise AssertionError(constant)

    first, second, third = json.loads(done.stdout, parse_constant=refuse)
    assert first["probabilities"]["Mass"] == pytest.approx(1 / 2)
    assert second["error"] == "the model's logit for Effusion is -inf"
    assert third["probabilities"]["Mass"] == pytest.approx(3 / 4)


def endless() -> bytes:
    """A model with a loop that ends after 2^62 rounds."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["x", "x"], ["twice"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("twice", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("Add", ["mean", "offset"], ["start"]),
        helper.make_node("Loop", ["rounds", "true", "start"], ["logits"], body=body),
    ]
    constants = {
        "axes": AXES,
        "offset": np.zeros((1, 3), np.float32),
        "rounds": np.array(2**62),
        "true": np.array(True),
    }
    return graph_model(MEANS + nodes, [IMAGE], [LOGITS], constants)


def endless_to_open() -> bytes:
    """A model with products of large constant matrices, which ONNX Runtime computes when it opens the file."""
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["matrix0"])]
    nodes += [helper.make_node("MatMul", [f"matrix{i}"] * 2, [f"matrix{i + 1}"]) for i in range(40)]
    nodes += [
        helper.make_node("ReduceMax", ["matrix40"], ["largest"], keepdims=0),
        helper.make_node("Add", ["mean", "largest"], ["sum"]),
        helper.make_node("Add", ["sum", "offset"], ["logits"]),
    ]
    constants = {"axes": AXES, "offset": np.zeros((1, 3), np.float32), "shape": np.array([4000, 4000])}
    return graph_model(MEANS + nodes, [IMAGE], [LOGITS], constants)


RELEASE = tuple(map(int, onnxruntime.__version__.split(".")[:2]))


can_be_left = pytest.mark.skipif(RELEASE < (1, 31), reason="ONNX Runtime cannot be left while it opens a file")


@pytest.mark.parametrize(
    ("make", "form"), [(endless, []), (endless, ["--json"]), pytest.param(endless_to_open, [], marks=can_be_left)]
)
def test_a_model_that_never_answers_is_given_up(make_bundle, grey, make, form):
    folder = make_bundle(content=make())
    done = predict(grey(0), "--model", folder, "--timeout", 1, *form)
    assert done.returncode == 2
    line = f"error: {folder}: no answer within 1 s; if the machine is just slow, raise --timeout\n"
    assert done.stderr == line
    assert "png" not in done.stdout
    assert not form or done.stdout == ""


def test_many_images_may_take_longer_than_the_limit_of_one(make_bundle, grey):
    image = grey(3)
    started = time.monotonic()
    done = predict(*[image] * 3000, "--model", make_bundle(), "--timeout", 1)
    assert done.returncode == 0
    assert time.monotonic() - started > 1


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e9", "soon"])
def test_a_timeout_that_is_no_positive_number_is_refused(make_bundle, grey, seconds):
    done = predict(grey(0), "--model", make_bundle(), "--timeout", seconds)
    assert done.returncode == 2
    assert "--timeout" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux")
def test_a_file_name_that_is_not_text(make_bundle, grey):
    image = grey(255, os.fsdecode(b"caf\xe9.png"))
    folder = make_bundle()
    assert "caf\\udce9.png" in predict(image, "--model", folder).stdout
    (answer,) = json.loads(predict(image, "--model", folder, "--json").stdout)
    assert os.fsencode(answer["image"]) == os.fsencode(image)


def test_a_reader_that_leaves_early_is_no_traceback(make_bundle, grey):
    images = [str(grey(7))] * 3000
    process = subprocess.Popen(
        [*COMMAND, *images, "--model", make_bundle()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=60) != 0


def test_nothing_heavy_is_imported(make_bundle, grey):
    code = (
        "import sys\n"
        "from medistill.cli import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0, stop.code\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    command = [sys.executable, "-c", code, "predict", str(grey(9)), "--model", str(make_bundle())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert {"medistill", "numpy", "onnxruntime", "PIL"} <= loaded
    heavy = {"torch", "torchvision", "timm", "pandas", "pyarrow", "sklearn", "scipy", "matplotlib", "onnx", "yaml"}
    assert not loaded & heavy


def seconds(*command: str) -> float:
    """Processor time of a command, the minimum of five runs, to exclude the machine's other load."""
    least = math.inf
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, *command], capture_output=True, check=True)
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        least = min(least, spent)
    return least


def test_it_costs_little_more_than_the_libraries_it_needs(make_bundle, grey):
    libraries = seconds("-c", "import typer.main, numpy, PIL.Image, onnxruntime")
    assert (
        seconds("-m", "medistill.cli", "predict", str(grey(9)), "--model", str(make_bundle())) < 1.5 * libraries + 0.2
    )
