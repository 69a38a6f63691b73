"""`medistill predict`, as a user sees it."""

import json
import math
import os
import subprocess
import sys

import pytest

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
        make_bundle("newer", bundle_version=2): "bundle.json: version 2, but this medistill reads version 1",
    }
    for folder, message in cases.items():
        done = predict(grey(0), "--model", folder, "--json")
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: {folder}")
        assert message in line


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
    """Processor time of a command, the least of five runs: what it costs without what else the machine does."""
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
