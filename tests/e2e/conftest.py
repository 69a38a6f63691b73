"""One clone of the repository, in a path with a space, in which the whole graph has run with tiny networks."""

import copy
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.params import SEVERAL

EXIT_REFUSED = 3


@dataclass(frozen=True)
class Project:
    """A clone and the means to type commands in it."""

    folder: Path

    def run(self, *command: str, expect: int | None = 0, timeout: int = 600) -> subprocess.CompletedProcess:
        """Run a command as a user of the activated environment would."""
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder / "src"),  # the clone's own code, whatever is installed
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }
        environment.pop("MLFLOW_TRACKING_URI", None)
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        if expect is not None:
            assert done.returncode == expect, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done

    @property
    def params(self) -> dict:
        """What params.yaml says."""
        return yaml.safe_load((self.folder / "params.yaml").read_text())

    def write_params(self, params: dict) -> None:
        """Write params.yaml."""
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def tiny(params: dict) -> dict:
    """The repository's params, with networks and images so small that the graph runs in a minute or two."""
    params["phantom"] |= {"images": 400, "size": 32}
    params["data"] |= {"image_size": 32, "workers": 1, "val_fraction": 0.4}  # labels must be eligible there too
    params["training"] |= {"epochs": 2, "batch_size": 16}
    params["teachers"] = {
        "densenet": {"arch": "test_resnet"},
        "efficientnet_lite2": {"arch": "test_efficientnet"},
    }
    params["students"] = {
        "eeea_net_c2": {"arch": "test_efficientnet"},
        "tf_efficientnet_lite0": {"arch": "test_resnet"},
    }
    params["run"] |= copy.deepcopy(SEVERAL)
    params["teach"]["views"] = 2
    params["evaluate"]["resamples"] = 200
    params["explain"] |= {"gallery": 3, "max_images": 10}
    params["stress"] = {"images": 10}
    params["export"] |= {"parity_images": 4, "latency_runs": 5}
    # Tiny networks learn nothing in two epochs; the gate's refusals have tests of their own.
    params["promote"] |= {"margin_teacher": 1.0, "max_ece": 1.0, "require_baseline": False}
    return params


def clone(root: Path, folder: Path) -> Project:
    """Clone the repository as git would give it to a user, add the working tree's changes, and commit them."""
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        if (root / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run([*git, "init", "--quiet"], cwd=folder, check=True)
    project = Project(folder)
    project.write_params(tiny(project.params))
    (folder / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    subprocess.run([*git, "add", "--all"], cwd=folder, check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "tiny"], cwd=folder, check=True)
    subprocess.run([*git, "update-index", "--skip-worktree", "dvc.lock"], cwd=folder, check=True)
    return project


@pytest.fixture(scope="session")
def project(root, tmp_path_factory) -> Project:
    """A clone in which `dvc repro`, `track` and `promote` have run."""
    project = clone(root, tmp_path_factory.mktemp("e2e") / "my project")
    project.run("dvc", "repro")
    project.run("python", "-m", "pipeline", "track")
    project.run("python", "-m", "pipeline", "promote")
    return project


@pytest.fixture
def fresh(root, tmp_path) -> Project:
    """A clone in which nothing has run."""
    return clone(root, tmp_path / "clone")
