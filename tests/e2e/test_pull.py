"""A team with a DVC remote: clone and pull, and everything is there without training."""

import shutil
import subprocess

from mlflow import MlflowClient


def test_clone_and_pull_bring_back_the_whole_view(project, tmp_path):
    remote = tmp_path / "remote"
    project.run("dvc", "remote", "add", "--force", "--default", "--local", "shared", str(remote))
    project.run("dvc", "push")
    subprocess.run(["git", "clone", "--quiet", project.folder, tmp_path / "clone"], check=True)
    shutil.copy2(project.folder / "dvc.lock", tmp_path / "clone")  # as a team commits it
    clone = type(project)(tmp_path / "clone")
    clone.run("dvc", "remote", "add", "--default", "--local", "shared", str(remote))
    clone.run("dvc", "pull")
    assert "Running stage" not in clone.run("dvc", "repro").stdout
    assert "6 created, 0 updated, 0 unchanged" in clone.run("python", "-m", "pipeline", "track").stdout
    assert "0 created, 0 updated, 6 unchanged" in clone.run("python", "-m", "pipeline", "track").stdout

    client = MlflowClient(f"sqlite:///{clone.folder / 'mlflow.db'}")
    here = {name: (clone.folder / name).read_bytes() for name in ("reports/metrics.json", "reports/index.html")}
    there = {name: (project.folder / name).read_bytes() for name in here}
    assert here == there
    runs = client.search_runs([client.get_experiment_by_name("medistill").experiment_id])
    assert {run.data.tags["role"] for run in runs} >= {"teacher"}
    assert all("test_macro_auroc" in run.data.metrics for run in runs)
