"""`medistill check` as a user runs it: what it finds, what it writes, and how it ends."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medistill.data.phantom import write_phantom


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 drawn X-rays."""
    folder = tmp_path_factory.mktemp("check") / "phantom"
    write_phantom(folder, images=150, size=64, seed=0, prevalence="balanced")
    return folder


@pytest.fixture
def root(phantom: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(phantom, tmp_path / "my data"))


def run(root: Path, tmp_path: Path, *arguments: str, format: str = "chestxray14") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "medistill.cli", "check", str(root), "--format", format, *arguments]
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180)


def lists(root: Path) -> tuple[list[str], list[str]]:
    return tuple((root / name).read_text().split() for name in ("train_val_list.txt", "test_list.txt"))


def test_a_clean_data_set(root, tmp_path):
    done = run(root, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    table = pd.read_csv(root / "Data_Entry_2017.csv")
    groups = table["Patient ID"].nunique()
    assert lines[0] == f"my data (chestxray14): 150 images of {groups} groups, 14 labels, multilabel"
    _, test = lists(root)
    assert f"test {len(test)} (" in lines[1]
    assert "split official" in lines[1]
    hernia = table["Finding Labels"].str.contains("Hernia").sum()
    assert f"Hernia {hernia}" in lines[2]
    assert "nothing left out of 150 entries" in done.stdout
    assert lines[-1].startswith("0 errors, ")
    assert (tmp_path / "cache" / "medistill").is_dir()  # decoded images, for the next time
    assert set(os.listdir(tmp_path)) == {"my data", "cache"}


def test_copies_on_two_sides_are_found(root, tmp_path):
    train, test = lists(root)
    images = root / "images"
    shutil.copy(images / train[0], images / test[0])  # the same pixels
    pixels = np.asarray(Image.open(images / train[5]).convert("L")).astype(float)
    Image.fromarray(np.clip(pixels * 0.9 + 6, 0, 255).astype(np.uint8)).save(images / test[9])  # nearly so
    done = run(root, tmp_path, "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    (error,) = [finding for finding in report["findings"] if finding["severity"] == "error"]
    assert error["check"] == "identical_pixels"
    assert error["message"].startswith("2 images in 1 sets are identical pixel for pixel and on two sides")
    (example,) = error["examples"]
    assert train[0] in example
    assert f"{test[0]} (test)" in example
    pairs = {frozenset((pair["image_id"], pair["other"])) for pair in report["near_duplicates"]}
    assert frozenset((train[5], test[9])) in pairs


def test_what_is_left_out_is_listed(root, tmp_path):
    names = sorted(file.name for file in (root / "images").iterdir())[:8]
    for name in names:
        (root / "images" / name).write_bytes(b"")
    done = run(root, tmp_path)
    assert "left out: 8 of 150 entries" in done.stdout
    assert f"    images/{names[0]}: the file is empty" in done.stdout
    assert "    and 3 more (--json lists all)" in done.stdout
    report = json.loads(run(root, tmp_path, "--json").stdout)
    assert [entry["path"] for entry in report["quarantined"]] == [f"images/{name}" for name in names]
    assert report["images"] == 142


def test_sides_are_written_and_ingest_reads_them(root, tmp_path):
    done = run(root, tmp_path, "--split", "patient", "--write-splits", "splits", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["written"] == [str(Path("splits") / "sides.csv")]
    sides = pd.read_csv(tmp_path / "splits" / "sides.csv", dtype=str)
    table = pd.read_csv(root / "Data_Entry_2017.csv", dtype={"Patient ID": str})
    assert set(sides["group_id"]) == set(table["Patient ID"].str.lstrip("0"))
    again = json.loads(run(root, tmp_path, "--json").stdout)  # takes ./splits, and so no longer the official lists
    assert again["split"] == "patient"
    side_of = sides.set_index("group_id")["split"]
    images = table["Patient ID"].str.lstrip("0").map(side_of).value_counts()
    assert {side: part["images"] for side, part in again["sides"].items()} == images.to_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "dicomdir"], "--format: 'dicomdir' is unknown; known are chestxray14"),
        (["--set", "lists"], "--set lists: must be KEY=VALUE"),
        (["--set", "lists=mine"], "--set: lists: input should be 'official' or 'chexnet'"),
        (["--set", "colour=1"], "--set: key colour is unknown"),
        (["--split", "random"], "--split: input should be 'official' or 'patient'"),
    ],
)
def test_mistakes_are_one_line(root, tmp_path, arguments, message):
    done = run(root, tmp_path, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {message}")


def test_a_folder_that_is_no_data_set_is_one_line(tmp_path):
    done = run(tmp_path / "nowhere", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "nowhere: no such folder" in done.stderr
