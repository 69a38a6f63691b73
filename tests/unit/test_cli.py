"""The `medistill` command as a user sees it; `predict` has tests of its own beside the runtime's."""

import importlib.metadata
import json
import os
import pty
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import medistill

COMMAND = [sys.executable, "-m", "medistill.cli"]


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_the_installed_command_is_this_one():
    (entry,) = [e for e in importlib.metadata.entry_points(group="console_scripts") if e.name == "medistill"]
    assert entry.value == "medistill.cli:main"


def test_version():
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"medistill {medistill.__version__}\n", "")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_the_commands(flag):
    done = run(flag)
    assert done.returncode == 0
    assert "not a medical device" in done.stdout
    for command in ("phantom", "check", "models", "predict", "provenance", "compare", "evaluate"):
        assert f"  {command} " in done.stdout


@pytest.mark.parametrize("command", ["phantom", "check", "models", "predict", "provenance", "compare", "evaluate"])
def test_help_of_a_command_has_examples(command):
    done = run(command, "--help")
    assert done.returncode == 0
    assert f"  medistill {command} " in done.stdout.partition("Examples:")[2]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["teleport"], "teleport"),
        (["predict", "image.png"], "--model"),
        (["predict", "--model", "exports/x"], "IMAGE"),
        (["predict", "image.png", "--modle", "exports/x"], "--modle"),
        (["phantom"], "OUT"),
        (["phantom", "out", "--images", "0"], "--images"),
        (["phantom", "out", "--size", "many"], "--size"),
        (["phantom", "out", "--size", "100000"], "--size"),
        (["provenance", "list.csv", "--format", "mimic"], "--out"),
        (["provenance", "list.csv", "--out", "ids.npz"], "--format"),
        (["provenance", "list.csv", "--format", "csv", "--out", "ids.npz"], "known are chestxray14, chexpert"),
        (["provenance", "list.csv", "--format", "mimic", "--out", "ids.npz"], "list.csv: no such file"),
        (["compare", "a.csv"], "--truth"),
        (["compare", "--truth", "t.csv"], "FILE"),
        (["compare", "a.csv", "--truth", "t.csv", "--resamples", "7"], "--resamples"),
        (["compare", "a.csv", "--truth", "t.csv"], "t.csv: no such file"),
        (["evaluate", "exports/x"], "ROOT"),
        (["evaluate", "exports/x", "data", "--format", "csv"], "exports/x: no such folder"),
        (["models", "--size", "1000000000"], "--size"),
        (["models", "--labels", "1000000000"], "--labels"),
        (["phantom", "out", "--prevalence", "rare"], "--prevalence"),
        (["phantom", "out", "--seed", "-1"], "--seed"),
    ],
)
def test_a_mistyped_command_names_what_is_wrong(arguments, named, tmp_path):
    command = [*COMMAND, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert named in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_phantom_writes_what_was_asked_for(tmp_path):
    done = run("phantom", tmp_path / "new folder" / "set", "--images", 24, "--size", 48, "--prevalence", "nih")
    assert (done.returncode, done.stderr) == (0, "")
    assert "24 images of 48x48 px" in done.stdout
    folder = tmp_path / "new folder" / "set"
    images = sorted((folder / "images").iterdir())
    assert len(images) == 24
    for image in images:
        with Image.open(image) as picture:
            assert picture.size == (48, 48)
    rows = (folder / "Data_Entry_2017.csv").read_text().splitlines()[1:]
    assert sorted(row.split(",")[0] for row in rows) == [image.name for image in images]


def pixels(folder) -> np.ndarray:
    return np.stack([np.asarray(Image.open(image)) for image in sorted((folder / "images").iterdir())])


def test_the_seed_determines_the_images(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert run("phantom", tmp_path / name, "--images", 6, "--size", 32, "--seed", seed).returncode == 0
    np.testing.assert_array_equal(pixels(tmp_path / "a"), pixels(tmp_path / "b"))
    assert not np.array_equal(pixels(tmp_path / "a"), pixels(tmp_path / "c"))


def test_phantom_does_not_overwrite_a_users_folder(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    done = run("phantom", tmp_path, "--images", 6, "--size", 32)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}: ")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_compare_prints_figures_or_json(tmp_path):
    rows = "".join(f"i{k},{k % 3 == 0:d}\n" for k in range(60))
    (tmp_path / "truth.csv").write_text(f"id,Mass\n{rows}")
    rows = "".join(f"i{k};{0.1 + 0.01 * (k % 50)}\n" for k in range(60))
    (tmp_path / "mine.csv").write_text(f"id;Mass\n{rows}")
    given = ["compare", tmp_path / "mine.csv", "--truth", tmp_path / "truth.csv", "--resamples", "100"]
    shown = run(*given)
    assert shown.returncode == 0
    assert shown.stdout.startswith("60 images of 60 patients or groups, 1 of 1 label eligible\n")
    found = json.loads(run(*given, "--json").stdout)
    auroc = found["models"]["mine"]["macro_auroc"]["estimate"]
    assert f"{auroc:.3f} [" in shown.stdout
    assert run(*given, "--html", tmp_path / "page.html").stdout == shown.stdout
    page = (tmp_path / "page.html").read_text()
    assert f"{auroc:.3f}" in page
    assert "AUROC by label" in page
    assert "Differences" not in page  # there is but one model


def test_provenance_says_what_it_has_read(tmp_path):
    (tmp_path / "list.csv").write_text("subject_id,dicom_id,split\n7,a,train\n7,b,train\n8,c,validate\n9,d,test\n")
    given = ["provenance", tmp_path / "list.csv", "--format", "mimic", "--out"]
    done = run(*given, tmp_path / "ids.npz")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"{tmp_path / 'list.csv'}: 3 images of 2 patients; 1 image of its test split left out",
        f"wrote {tmp_path / 'ids.npz'}; it is read as train_ids.npz",
    ]
    done = run(*given, tmp_path / "train_ids.npz", "--json")
    assert json.loads(done.stdout) == {
        "list": str(tmp_path / "list.csv"),
        "format": "mimic_cxr",
        "images": 3,
        "patients": 2,
        "held_out": 1,
        "written": str(tmp_path / "train_ids.npz"),
    }
    again = run(*given, tmp_path / "ids.npz")
    assert (again.returncode, again.stdout) == (2, "")
    (line,) = again.stderr.splitlines()
    assert line == f"error: --out {tmp_path / 'ids.npz'}: exists already; remove it first, or name another file"


def test_phantom_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    done = run("phantom", tmp_path / "file" / "set", "--images", 6, "--size", 32)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path / 'file'}")


def test_phantom_shows_a_bar_on_a_terminal(tmp_path):
    reader, terminal = pty.openpty()
    command = [*COMMAND, "phantom", str(tmp_path / "set"), "--images", "30", "--size", "32"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=terminal)
    os.close(terminal)
    shown = b""
    while True:
        try:
            piece = os.read(reader, 1 << 16)
        except OSError:  # the terminal's other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(reader)
    assert process.wait(timeout=60) == 0
    assert b"30/30" in shown
    assert b"images/s" in shown
