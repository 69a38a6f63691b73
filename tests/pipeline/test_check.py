"""`medistill check` as a user runs it: its findings, its files and its exit codes."""

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
from typer.testing import CliRunner

from medistill.audit.command import parse_options
from medistill.cli import app
from medistill.errors import UserError
from medistill.phantom.write import write_phantom


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
    command = [sys.executable, "-m", "medistill.cli", "check", str(root), "--format", format]
    command += ["--workers", "1", *arguments]  # each further process takes a second to start
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180)


def lists(root: Path) -> tuple[list[str], list[str]]:
    return tuple((root / name).read_text().split() for name in ("train_val_list.txt", "test_list.txt"))


def test_a_clean_data_set(root, tmp_path):
    done = run(root, tmp_path, "--workers", "2")
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


def test_copies_in_two_splits_are_found(root, tmp_path):
    train, test = lists(root)
    images = root / "images"
    shutil.copy(images / train[0], images / test[0])  # the same pixels
    pixels = np.asarray(Image.open(images / train[5]).convert("L")).astype(float)
    Image.fromarray(np.clip(pixels * 0.9 + 6, 0, 255).astype(np.uint8)).save(images / test[9])  # a near-duplicate
    done = run(root, tmp_path, "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    (error,) = [finding for finding in report["findings"] if finding["severity"] == "error"]
    assert error["check"] == "identical_pixels"
    assert error["message"].startswith("2 images in 1 set are identical pixel for pixel and in two splits")
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
    assert done.returncode == 1
    assert "  left out: 8 of 150 entries (--json lists all)\n" in done.stdout
    assert f"    8 such as images/{names[0]}: the file is empty\n" in done.stdout
    report = json.loads(run(root, tmp_path, "--json").stdout)
    assert [entry["path"] for entry in report["quarantined"]] == [f"images/{name}" for name in names]
    assert report["images"] == 142


def test_splits_are_written_and_ingest_reads_them(root, tmp_path):
    done = run(root, tmp_path, "--split", "patient", "--write-splits", "splits", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["written"] == [str(Path("splits") / "sides.csv")]
    splits = pd.read_csv(tmp_path / "splits" / "sides.csv", dtype=str)
    table = pd.read_csv(root / "Data_Entry_2017.csv", dtype={"Patient ID": str})
    assert set(splits["group_id"]) == set(table["Patient ID"].str.lstrip("0"))
    again = json.loads(run(root, tmp_path, "--json").stdout)  # reads ./splits instead of the official lists
    assert again["split"] == "patient"
    split_of = splits.set_index("group_id")["split"]
    images = table["Patient ID"].str.lstrip("0").map(split_of).value_counts()
    assert {split: part["images"] for split, part in again["splits"].items()} == images.to_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "dicomdir"], "--format: 'dicomdir' is unknown; known are chestxray14"),
        (["--set", "lists"], "--set lists: must be KEY=VALUE"),
        (["--set", "lists=mine"], "--set: lists: input should be 'official' or 'chexnet'"),
        (["--set", "colour=1"], "--set: key colour is unknown"),
        (["--split", "random"], "--split: input should be 'official' or 'patient'"),
        (["--set", "lists=chexnet", "--set", "lists.a=1"], "--set lists.a=1: lists already has a value"),
        (["--write-splits", "my data/test_list.txt/x"], "--write-splits my data/test_list.txt/x: my data/test_list"),
        (["--cache", "my data/test_list.txt"], "--cache my data/test_list.txt: my data/test_list.txt is not a folder"),
    ],
)
def test_mistakes_are_one_line(root, tmp_path, monkeypatch, arguments, message):
    """In this process, to save time: test_front_door.py has the exit codes of errors."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["check", str(root), "--format", "chestxray14", *arguments])
    assert isinstance(done.exception, UserError)
    assert str(done.exception).startswith(message)
    assert "\n" not in str(done.exception)
    assert done.output == ""


def test_a_data_set_of_damaged_images_says_so(root, tmp_path):
    for file in (root / "images").iterdir():
        file.write_bytes(b"<html>")
    done = run(root, tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "none of the 150 entries is usable; the first: images/" in done.stderr
    assert "quarantine.csv" in done.stderr


def test_splits_that_are_written_keep_copies_together_and_are_what_is_audited(root, tmp_path):
    train, test = lists(root)
    for one, other in zip(train[:4], test[:4], strict=True):
        shutil.copy(root / "images" / one, root / "images" / other)
    drawn = json.loads(run(root, tmp_path, "--write-splits", "mine", "--json").stdout)
    assert [Path(file).name for file in drawn["written"]] == ["groups.csv", "sides.csv"]
    assert [finding for finding in drawn["findings"] if finding["severity"] == "error"] == []
    assert "splits are drawn anew; the official split is not used" in drawn["notes"]
    splits = pd.read_csv(tmp_path / "mine" / "sides.csv", dtype=str).set_index("group_id")["split"]
    groups = pd.read_csv(tmp_path / "mine" / "groups.csv", dtype=str).set_index("path")["group_id"]
    for one, other in zip(train[:4], test[:4], strict=True):
        assert groups[f"images/{one}"] == groups[f"images/{other}"]
    done = run(root, tmp_path, "--splits", "mine", "--json")
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert (again["splits"], again["groups"]) == (drawn["splits"], drawn["groups"])
    assert len(splits) == again["groups"]


def test_splits_that_are_fixed_stay_wherever_new_ones_are_written(root, tmp_path):
    (tmp_path / "hand").mkdir()
    patients = pd.read_csv(root / "Data_Entry_2017.csv", dtype=str)["Patient ID"].str.lstrip("0").unique()
    fixed = dict(zip(patients[:12], ["val", "test"] * 6, strict=True))
    lines = "".join(f"{patient},{split}\n" for patient, split in fixed.items())
    (tmp_path / "hand" / "sides.csv").write_text("group_id,split\n" + lines + "nobody,test\n")
    report = json.loads(run(root, tmp_path, "--splits", "hand", "--write-splits", "new", "--json").stdout)
    splits = pd.read_csv(tmp_path / "new" / "sides.csv", dtype=str).set_index("group_id")["split"]
    assert splits[list(fixed)].to_dict() == fixed
    unknown = "hand/sides.csv: 1 of 13 names in column 'group_id' are not in the data set: nobody"
    assert unknown in report["notes"]
    refused = run(root, tmp_path, "--splits", "hand", "--write-splits", "new")
    assert refused.returncode == 2
    assert "new/sides.csv: exists already; to keep its splits use --splits new" in refused.stderr
    (tmp_path / "hand" / "sides.csv").write_text("group_id,split\nnobody,test\n")
    done = run(root, tmp_path, "--splits", "hand")
    assert (done.returncode, done.stdout) == (2, "")
    assert "1 of 1 names in column 'group_id' are not in the data set: nobody" in done.stderr


def test_copies_that_an_official_split_tears_apart_are_an_error(root, tmp_path):
    train, test = lists(root)
    pixels = np.asarray(Image.open(root / "images" / train[3]))
    turned = Image.fromarray(pixels).rotate(12, Image.Resampling.BILINEAR)
    turned.save(root / "images" / test[3])
    report = json.loads(run(root, tmp_path, "--find-groups", "--json").stdout)
    (error,) = [finding for finding in report["findings"] if finding["check"] == "groups"]
    assert error["severity"] == "error"
    named = [example for example in error["examples"] if train[3] in example]
    assert named
    assert f"{test[3]} (test)" in named[0]


def test_missing_patient_ids_are_noted(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(24):
        file = tmp_path / "root" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32), np.uint8)).save(file)
    done = run(tmp_path / "root", tmp_path, format="folder")
    assert done.returncode == 0, done.stderr
    assert "  note: no patient ids: each image is its own group" in done.stdout
    assert "  note: split by patient: " in done.stdout


def test_values_of_set_are_yaml_except_for_a_bare_bar():
    options = parse_options(["separator=|", "labels=[a, b]", "u.x=ones", "u.y=zeros", "empty="])
    assert options == {"separator": "|", "labels": ["a", "b"], "u": {"x": "ones", "y": "zeros"}, "empty": ""}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("lists=!!int x", "--set lists=!!int x: 'x' is no int"),
        ("lists=2020-13-01", "--set lists=2020-13-01: YAML reads 2020-13-01 as a timestamp; write text in quotes"),
        ("lists=&a [*a]", "--set lists=&a [*a]: a contains itself"),
        ("lists=[", "--set lists=[: expected the node content"),
        ("lists=" + "[" * 5000, f"--set lists={'[' * 73}…: nested more than 20 levels deep"),
    ],
)
def test_a_value_that_yaml_does_not_have_is_one_line(setting, message):
    with pytest.raises(UserError) as refusal:
        parse_options([setting])
    assert str(refusal.value).startswith(message)


def test_a_folder_that_is_no_data_set_is_one_line(tmp_path):
    done = run(tmp_path / "nowhere", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "nowhere: no such folder" in done.stderr
