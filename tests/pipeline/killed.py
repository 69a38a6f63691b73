"""`promote`, killed before one of its calls that write to MLflow or the file system, and run again.

`python killed.py ROOT` prints one line of JSON per call before which it was killed, with the state after the second
run. A kill before a call that only reads leaves what one before the next call that writes does. ROOT is a repository
whose graph has run, with an empty store. Each try has a copy of it at the same path, as MLflow stores paths.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow

from medistill.params import load_params
from pipeline.history import read_history
from pipeline.registry import promote
from pipeline.store import open_store
from pipeline.tracking import EXPERIMENT, track
from pipeline.versions import FILES, NAME

READS = ("get_", "search_", "list_", "load_", "download_")
"""How the names of MLflow's calls that write nothing begin."""


def in_a_process(work: Callable[[], None]) -> bool:
    """Whether `work` came to its end in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def deadly(calls: int) -> None:
    """Let the process be killed before its `calls`-th call that writes, of MLflow's client or to files."""
    left = [calls]

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapper

    for name in dir(mlflow.MlflowClient):
        call = getattr(mlflow.MlflowClient, name)
        if not name.startswith(("_", *READS)) and callable(call):
            setattr(mlflow.MlflowClient, name, counted(call))
    for module, name in ((os, "replace"), (os, "fsync"), (shutil, "copyfile")):
        setattr(module, name, counted(getattr(module, name)))


def state(root: Path) -> dict[str, Any]:
    """The contents of registry and store."""
    client = open_store(root)
    versions = client.search_model_versions(f"name = '{NAME}'")
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    logged = client.search_logged_models([experiment])
    folders = [Path(model.artifact_location.removeprefix("file://").replace("%20", " ")) for model in logged]
    return {
        "champion": client.get_model_version_by_alias(NAME, "champion").tags["model"],
        "versions": sorted(version.tags["model"] for version in versions),
        "logged": sorted(f"{model.name} {model.status}" for model in logged),
        "referred": sorted(v.source.removeprefix("models:/") for v in versions) == sorted(m.model_id for m in logged),
        "whole": all((folder / name).is_file() for folder in folders for name in FILES),
        "figures": all(any(m.key == "val_macro_auroc" for m in model.metrics or []) for model in logged),
        "runs": sorted(run.info.status for run in client.search_runs([experiment])),
        "history": [line.action for line in read_history(root)],
        "outcome": json.loads((root / "reports/promotion.json").read_text())["outcome"],
        "leftovers": sorted(path.name for path in root.rglob("*") if path.match(".*.tmp") or path.name == "version"),
    }


def tries(original: Path, root: Path, step: int) -> None:
    """Kill `promote` before every `step`-th call, each time in a copy of `original` at `root`."""
    for calls in range(1, 1000, step):
        if root.exists():
            shutil.rmtree(root)
        shutil.copytree(original, root, symlinks=True)
        os.chdir(root)
        params = load_params(root / "params.yaml")
        ended = in_a_process(lambda calls=calls, params=params: (deadly(calls), promote(params, root)))
        again = in_a_process(lambda params=params: promote(params, root))
        if not in_a_process(
            lambda calls=calls, again=again: print(json.dumps([calls, again, state(root)]), flush=True)
        ):
            print(json.dumps([calls, again, None]), flush=True)
        if ended:
            return


def main(original: Path) -> None:
    root, tracked = original.with_name("at work"), original.with_name("tracked")
    tries(original, root, step=10)  # models are not tracked yet, which takes a hundred more calls
    shutil.rmtree(root)
    shutil.copytree(original, root, symlinks=True)
    os.chdir(root)
    assert in_a_process(lambda: track(load_params(root / "params.yaml"), root))
    root.rename(tracked)
    tries(tracked, root, step=1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
