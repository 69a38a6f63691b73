"""A stage that is launched as two processes trains the network that it trains as one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from medistill.data.dataset import Dataset


@pytest.fixture
def project(root: Path, tiny_dataset: Dataset, tmp_path: Path) -> Path:
    shutil.copytree(tiny_dataset.folder, tmp_path / "data" / "processed")
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["training"] |= {"epochs": 1, "batch_size": 6}
    params["teachers"] = {"big": {"arch": "test_convnext"}}  # layer norm: no image sees another
    params["recipes"] = {"baseline": {}}
    params["run"] |= {"teachers": ["big"], "recipes": ["baseline"]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


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
    assert said[1] == said[0]
    assert said[0].count("best after") == 1
    for name, value in trained[0].items():
        assert torch.allclose(value, trained[1][name], atol=2e-4), name
    assert any(not torch.equal(value, trained[1][name]) for name, value in trained[0].items())  # other sums
