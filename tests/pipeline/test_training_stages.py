"""The training stages, run as a user types them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from medistill.data.dataset import Dataset
from medistill.errors import UserError
from pipeline.stages import distill, teach, train_teacher
from tests.params import with_several

pytestmark = pytest.mark.usefixtures("exported_once")


@pytest.fixture
def project(root: Path, tiny_dataset: Dataset, tmp_path: Path) -> Path:
    shutil.copytree(tiny_dataset.folder, tmp_path / "data" / "processed")
    params = with_several()
    params["training"] |= {"epochs": 1, "batch_size": 6}
    params["teachers"] = {"big": {"arch": "test_convnext"}}  # layer norm: images do not depend on each other
    params["recipes"] = {"baseline": {}}
    params["run"] |= {"teachers": ["big"], "recipes": ["baseline"]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


@pytest.mark.slow
def test_two_processes_share_the_batches_and_one_of_them_writes(project, root):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}:{root / 'src'}"}
    environment.pop("ACCELERATE_USE_CPU", None)
    trained, said = [], []
    for launch in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]):
        command = [sys.executable, *launch, "-m", "pipeline.stages.train_teacher", "big"]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-2000:]
        folder = project / "models" / "teachers" / "big"
        trained.append(load_file(folder / "model.safetensors"))
        said.append(done.stdout)
        shutil.rmtree(folder)
        shutil.rmtree(project / ".checkpoints")  # or the second training would reuse the first
    assert said[1] == said[0]
    assert said[0].count("best after") == 1
    for name, value in trained[0].items():
        assert torch.allclose(value, trained[1][name], atol=2e-4), name
    assert any(not torch.equal(value, trained[1][name]) for name, value in trained[0].items())  # other rounding


@pytest.mark.parametrize(
    ("stage", "arguments", "message"),
    [
        (train_teacher, ["bigg"], "run.teachers has no 'bigg'; known are big"),
        (train_teacher, ["efficientnet_lite2"], "run.teachers has no 'efficientnet_lite2'; known are big"),
        (teach, ["bigg"], "run.teachers has no 'bigg'; known are big"),
        (teach, ["big"], "models/teachers/big/train_ids.npz: no such file"),
        (
            distill,
            ["small", "baseline", "0"],
            "run.students has no 'small'; known are eeea_net_c2, tf_efficientnet_lite0",
        ),
        (distill, ["eeea_net_c2", "kd", "0"], "run.recipes has no 'kd'; known are baseline"),
        (distill, ["eeea_net_c2", "baseline", "4294967296"], "seed 4294967296: must be between 0 and 2147483647"),
    ],
)
def test_a_name_that_the_run_does_not_have_is_refused(project, monkeypatch, stage, arguments, message):
    monkeypatch.chdir(project)
    with pytest.raises(UserError, match=message):
        stage.main(arguments)


def test_a_teacher_learns_by_the_losses_it_is_given(project, monkeypatch):
    monkeypatch.chdir(project)
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["teachers"]["big"]["terms"] = [
        {"loss": "focal_bce", "weight": 2, "balanced": True},
        {"loss": "binary_cross_entropy", "weight": 0.5},
    ]
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    train_teacher.main(["big"])
    (row,) = pd.read_csv(project / "models/teachers/big/history.csv").to_dict("records")
    total = 2 * row["train_focal_bce"] + 0.5 * row["train_binary_cross_entropy"]
    assert row["train_loss"] == pytest.approx(total, rel=1e-4)
    assert row["train_focal_bce"] > 0


def test_what_a_killed_teach_has_left_is_removed(project, monkeypatch):
    monkeypatch.chdir(project)
    train_teacher.main(["big"])
    left, other = (project / "data" / "knowledge" / name for name in (".big.0a1b2c3d.tmp", ".bigger.0a1b2c3d.tmp"))
    for folder in (left, other):
        folder.mkdir(parents=True)
        (folder / "logits.npy").write_bytes(b"half")
    teach.main(["big"])
    assert sorted(path.name for path in left.parent.iterdir()) == [".bigger.0a1b2c3d.tmp", "big"]


@pytest.mark.slow
def test_with_several_processes_one_answers_and_one_imports_a_frozen_teacher(project, root, monkeypatch):
    monkeypatch.chdir(project)
    train_teacher.main(["big"])
    shutil.copytree(project / "models/teachers/big", project / "weights")
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["teachers"]["big"] |= {"weights": "weights/model.safetensors", "frozen": True}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{root}:{root / 'src'}"}
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    for stage in ("train_teacher", "teach"):
        command = [sys.executable, *launch, "-m", f"pipeline.stages.{stage}", "big"]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-2000:]
    assert load_file(project / "models/teachers/big/model.safetensors").keys()
    assert sorted(path.name for path in (project / "data/knowledge").iterdir()) == ["big"]
