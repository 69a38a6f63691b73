"""The stages `phantom` and `ingest` as DVC runs them: a process in a folder with params.yaml."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A folder with params.yaml and a phantom of 60 images of 32 px, drawn by the stage; its path has a space."""
    folder = tmp_path / "a project"
    folder.mkdir()
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["phantom"] |= {"images": 60, "size": 32}
    params["data"] |= {"image_size": 32, "workers": 1}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    drawn = stage(root, folder, "phantom")
    assert drawn.returncode == 0, drawn.stderr
    return folder


def stage(root: Path, folder: Path, name: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root}/src", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", f"pipeline.stages.{name}"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def ingest(root: Path, project: Path) -> Callable[[], subprocess.CompletedProcess[str]]:
    return lambda: stage(root, project, "ingest")


def set_data(project: Path, **changed: object) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["data"] |= changed
    (project / "params.yaml").write_text(yaml.safe_dump(params))


def test_the_phantom_is_ingested(project, ingest):
    done = ingest()
    assert done.returncode == 0, done.stderr
    summary = json.loads((project / "data/processed/dataset.json").read_text())
    assert summary["name"] == "phantom"
    assert summary["source"] == {"format": "chestxray14", "split": "official"}
    assert sum(split["images"] for split in summary["counts"].values()) == 60
    assert summary["quarantined"] == 0
    assert summary["boxes"] > 0
    assert done.stdout.startswith("phantom: images (groups): train ")
    assert done.stderr == ""  # no bar where there is no terminal


def test_data_that_moved_are_the_same_data(project, ingest):
    assert ingest().returncode == 0
    before = {file.name: file.read_bytes() for file in (project / "data/processed").iterdir()}
    moved = project / "elsewhere" / "phantom"
    moved.parent.mkdir()
    (project / "data/raw/phantom").rename(moved)
    set_data(project, root=str(moved), max_quarantined=0.2, workers=1)
    assert ingest().returncode == 0
    assert {file.name: file.read_bytes() for file in (project / "data/processed").iterdir()} == before


def test_a_single_bad_image_is_left_out_and_said(project, ingest):
    set_data(project, max_quarantined=0.05)
    bad = min((project / "data/raw/phantom/images").iterdir())
    bad.write_text("not an image")
    done = ingest()
    assert done.returncode == 0
    assert done.stderr == f"1 of 60 left out; see {Path('data/processed/quarantine.csv')}\n"
    assert (project / "data/processed/quarantine.csv").read_text() == (
        f'path,reason\nimages/{bad.name},"not an image, or in a format that is not read"\n'
    )


def drop_column(project: Path) -> None:
    table = project / "data/raw/phantom/Data_Entry_2017.csv"
    table.write_text(table.read_text().replace("Patient ID", "Patient"))


def unknown_label(project: Path) -> None:
    table = project / "data/raw/phantom/Data_Entry_2017.csv"
    lines = table.read_text().splitlines()
    lines[5] = ",".join([lines[5].split(",")[0], "Cough", *lines[5].split(",")[2:]])
    table.write_text("\n".join(lines))


def tear_a_patient_apart(project: Path) -> None:
    folder = project / "data/raw/phantom"
    names = (folder / "test_list.txt").read_text().split()
    patients = [name.split("_")[0] for name in names]
    torn = next(name for name, patient in zip(names, patients, strict=True) if patients.count(patient) > 1)
    (folder / "test_list.txt").write_text("\n".join(name for name in names if name != torn))
    with (folder / "train_val_list.txt").open("a") as stream:
        stream.write(f"\n{torn}\n")


def empty_the_test_list(project: Path) -> None:
    folder = project / "data/raw/phantom"
    with (folder / "train_val_list.txt").open("a") as stream:
        stream.write("\n" + (folder / "test_list.txt").read_text())
    (folder / "test_list.txt").write_text("")


def spoil_many(project: Path) -> None:
    for file in sorted((project / "data/raw/phantom/images").iterdir())[:5]:
        file.write_bytes(b"")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (drop_column, "Data_Entry_2017.csv: column 'Patient ID' is missing"),
        (unknown_label, "Data_Entry_2017.csv: line 6 ("),
        (tear_a_patient_apart, " is in two splits, train and test"),
        (empty_the_test_list, "no image in the split test"),
        (spoil_many, "5 of 60 entries cannot be used, more than data.max_quarantined (0.01) allows"),
        (lambda project: set_data(project, root="nowhere"), "nowhere: no such folder; set data.root"),
        (lambda project: set_data(project, format="dicom"), "params.yaml: data.format: "),
        (lambda project: set_data(project, colour=True), "params.yaml: key data.colour is unknown"),
        (lambda project: (project / "params.yaml").unlink(), "params.yaml: no such file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(project, ingest, break_it, message):
    break_it(project)
    done = ingest()
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
    assert not (project / "data/processed").exists()


def test_the_phantom_stage_does_not_replace_what_is_no_phantom(root, project):
    folder = project / "data/raw/phantom"
    for file in sorted(folder.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (folder / "mine.txt").write_text("precious")
    done = stage(root, project, "phantom")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert (folder / "mine.txt").read_text() == "precious"
