"""Fixtures for tests of `pipeline`: a miniature repository whose graph has run."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import fake_graph
import finished_project
import pytest

from medistill.params import Params, load_params


@pytest.fixture(scope="session")
def finished_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository after `dvc repro`; its path has a space in it. Tests copy it."""
    root = fake_graph.build(tmp_path_factory.mktemp("a repository") / "root")
    fake_graph.repro(root)
    return root


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project in which all stages have really run. Tests copy it."""
    root = tmp_path_factory.mktemp("finished") / "project"
    finished_project.build(root)
    return root


@pytest.fixture(scope="session")
def exportable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The records of trial exports of untrained students, shared by all tests, as each takes seconds."""
    return tmp_path_factory.mktemp("exportable")


@pytest.fixture
def exported_once(exportable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the training stages use the trial exports of other tests."""
    monkeypatch.setattr("pipeline.preflight.EXPORTED", exportable)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow SQLite file with its schema, as creating one takes seconds."""
    from pipeline.store import open_store

    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_store(root).search_experiments()
    return root / "mlflow.db"


@pytest.fixture
def repository(finished_repository: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished repository with an empty MLflow store; it is the current folder."""
    for key in [key for key in os.environ if key.startswith(("MLFLOW_", "PREFECT_"))]:
        monkeypatch.delenv(key)
    root = fake_graph.copy(finished_repository, tmp_path / "a copy")
    shutil.copy(empty_store, root / "mlflow.db")
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def settings(repository: Path) -> Callable[[], Params]:
    """Reads the repository's params.yaml as it is now."""
    return lambda: load_params(repository / "params.yaml")
