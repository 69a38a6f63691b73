"""MLflow shows what DVC made: everything, once, and nothing that is out of date."""

import hashlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import fake_graph
import pytest
import yaml

from medistill.config import Params, load_params
from medistill.errors import UserError
from pipeline.tracking import EXPERIMENT, _project, open_store, project, read_lock, track

MODELS = ["big", "small-baseline-0", "small-kd-0"]


def runs(root: Path) -> dict[str, list]:
    """All runs by name, as MLflow's own client sees them."""
    client = open_store(root)
    found: dict[str, list] = {}
    for run in client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id]):
        found.setdefault(run.info.run_name, []).append(run)
    return found


def test_shows_every_model_with_params_figures_curves_and_provenance(
    repository: Path, settings: Callable[[], Params]
) -> None:
    tracked = track(settings(), repository)

    assert sorted(tracked.created) == MODELS
    found = runs(repository)
    assert sorted(found) == MODELS
    assert all(len(of_model) == 1 for of_model in found.values())
    run = found["small-kd-0"][0]
    assert run.info.status == "FINISHED"
    params = yaml.safe_load((repository / "params.yaml").read_text())
    expected = {"arch": "tiny", "recipe": "kd", "teachers": '["big"]'}
    expected["terms"] = '[{"loss": "sigmoid_kd", "temperature": 2.0}]'
    expected |= {"epochs": "2", "batch_size": str(params["training"]["batch_size"]), "args": '{"width": 2}'}
    expected |= {"views": str(params["teach"]["views"]), "augmentation.flip": "false"}
    assert expected.items() <= run.data.params.items()
    figures = {
        "val_macro_auroc": 0.83,
        "val_macro_auroc_lower": 0.78,
        "val_macro_auroc_upper": 0.88,
        "test_macro_auroc": 0.81,
        "test_difference_baseline": 0.03,
        "test_difference_baseline_lower": 0.01,
        "test_difference_baseline_upper": 0.05,
        "val_macro_ece": 0.05,
        "params": 1000,
        "macs": 10_000,
        "latency_p50_ms": 1.5,
        "latency_p95_ms": 2.5,
        "best_epoch": 2,
        "explain_pointing_game": 0.5,
        "explain_pointing_game_lower": 0.4,
        "explain_chance": 0.1,
        "parity_max_abs_logit_difference": 1e-6,
    }
    assert {key: run.data.metrics[key] for key in figures} == pytest.approx(figures)
    lock = yaml.safe_load((repository / "dvc.lock").read_text())["stages"]["distill@small-kd-0"]
    tags = {"role": "student", "student": "small", "recipe": "kd", "seed": "0", "initialisation": "random"}
    tags |= {"dvc.stage": "distill@small-kd-0", "dvc.out_md5": lock["outs"][0]["md5"], "current": "true"}
    tags |= {"dataset": "fake", "dataset_fingerprint": "f" * 64, "task": "multilabel"}
    assert tags.items() <= run.data.tags.items()
    assert [(item.dataset.name, item.dataset.digest) for item in run.inputs.dataset_inputs] == [("fake", "f" * 36)]
    client = open_store(repository)
    curve = client.get_metric_history(run.info.run_id, "curves/val_macro_auroc")
    assert sorted((point.step, point.value) for point in curve) == [(1, 0.6), (2, 0.83)]
    folders = ("model", "evaluation", "export")
    stored = {item.path for folder in folders for item in client.list_artifacts(run.info.run_id, folder)}
    assert {"model/config.json", "evaluation/small-kd-0.json", "export/MODEL_CARD.md"} <= stored
    assert Path(run.info.artifact_uri.removeprefix("file://").replace("%20", " ")).is_relative_to(repository / "mlruns")
    assert found["big"][0].data.tags["role"] == "teacher"
    assert "recipe" not in found["big"][0].data.tags


def test_what_a_terminal_would_obey_is_escaped_in_params_and_tags(repository: Path) -> None:
    folder, lock = Path("models/students/small-kd-0"), read_lock(repository)
    config = json.loads((repository / folder / "config.json").read_text())
    config |= {"arch": "net\x1b[2J", "initialisation": "weights \u202e.safetensors", "args": {"a": "\x9b"}}
    (repository / folder / "config.json").write_text(json.dumps(config))
    shown = _project(repository, lock, "distill@small-kd-0", folder, {}, {}, "set")
    assert (shown.params["arch"], shown.tags["arch"]) == (r"net\x1b[2J", r"net\x1b[2J")
    assert shown.params["initialisation"] == shown.tags["initialisation"] == r"weights \u202e.safetensors"
    assert shown.params["args"] == r'{"a": "\u009b"}'


def test_a_second_call_changes_nothing(repository: Path, settings: Callable[[], Params]) -> None:
    first = track(settings(), repository)
    before = {name: found[0].to_dictionary() for name, found in runs(repository).items()}

    second = track(settings(), repository)

    assert (second.created, second.updated) == ([], [])
    assert sorted(second.unchanged) == MODELS
    assert second.runs == first.runs
    assert {name: found[0].to_dictionary() for name, found in runs(repository).items()} == before


def test_a_lost_store_is_rebuilt_whole(repository: Path, settings: Callable[[], Params], empty_store: Path) -> None:
    track(settings(), repository)
    before = {name: (found[0].data.params, found[0].data.metrics) for name, found in runs(repository).items()}
    (repository / "mlflow.db").unlink()
    shutil.rmtree(repository / "mlruns")
    moved = repository.rename(repository.with_name("moved"))  # this process still has the lost file open at its address
    shutil.copy(empty_store, moved / "mlflow.db")

    assert sorted(track(load_params(moved / "params.yaml"), moved).created) == MODELS
    assert {name: (found[0].data.params, found[0].data.metrics) for name, found in runs(moved).items()} == before


def test_a_store_that_was_made_elsewhere_is_refused(repository: Path, settings: Callable[[], Params]) -> None:
    """Its artifacts have absolute addresses, so a moved or copied checkout would write into the old one."""
    track(settings(), repository)
    moved = repository.rename(repository.with_name("moved"))

    with pytest.raises(UserError, match=r"delete mlflow.db and mlruns"):
        track(load_params(moved / "params.yaml"), moved)


def test_shows_all_after_a_cache_hit(repository: Path, settings: Callable[[], Params]) -> None:
    """Nothing runs when DVC restores; the figures must come from the files."""
    for folder in ("models", "exports", "reports", "data"):
        shutil.rmtree(repository / folder)
    fake_graph.run(repository, "dvc", "checkout", "--force")
    fake_graph.repro(repository)

    assert sorted(track(settings(), repository).created) == MODELS


def test_a_new_evaluation_refreshes_the_run_of_the_same_model(repository: Path, settings: Callable[[], Params]) -> None:
    before = track(settings(), repository)
    script = repository / "make.py"
    script.write_text(script.read_text().replace('"macro_auprc": 0.4', '"macro_f1": 0.6'))
    fake_graph.run(repository, "dvc", "repro", "--force", "--single-item", "evaluate")

    after = track(settings(), repository)

    assert (after.created, sorted(after.updated)) == ([], MODELS)
    assert after.runs == before.runs
    metrics = runs(repository)["small-kd-0"][0].data.metrics
    assert metrics["val_macro_f1"] == 0.6
    assert math.isnan(metrics["val_macro_auprc"])  # it was shown, and is measured no more


def test_a_model_trained_anew_is_a_new_run_and_the_old_one_is_no_longer_current(
    repository: Path, settings: Callable[[], Params]
) -> None:
    track(settings(), repository)
    fake_graph.set_numbers(repository, **{"small-kd-0": {"val": 0.84}})
    fake_graph.repro(repository)

    assert track(settings(), repository).created == ["small-kd-0"]
    shown = {run.data.metrics["val_macro_auroc"]: run.data.tags["current"] for run in runs(repository)["small-kd-0"]}
    assert shown == {0.83: "false", 0.84: "true"}


def test_a_run_that_was_cut_short_is_completed(repository: Path, settings: Callable[[], Params]) -> None:
    tracked = track(settings(), repository)
    open_store(repository).delete_tag(tracked.runs["big"], "figures_md5")

    again = track(settings(), repository)

    assert (again.created, again.updated, again.runs) == ([], ["big"], tracked.runs)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: shutil.rmtree(root / "models/students/small-kd-0"), "dvc repro distill@small-kd-0"),
        (lambda root: shutil.rmtree(root / "models/teachers/big"), "dvc repro train_teacher@big"),
        (lambda root: (root / "reports/metrics.json").unlink(), "dvc repro evaluate"),
        (lambda root: (root / "reports/metrics.json").write_text("{}"), "stage evaluate is out of date"),
        (lambda root: (root / "exports/small-kd-0/model.onnx").write_bytes(b""), "stage export@small-kd-0 is out of"),
        (lambda root: (root / "dvc.lock").unlink(), "dvc repro"),
    ],
)
def test_what_is_missing_or_out_of_date_is_named(
    repository: Path, settings: Callable[[], Params], damage: Callable[[Path], object], message: str
) -> None:
    damage(repository)

    with pytest.raises(UserError, match=message):
        project(settings(), repository)


def test_figures_of_another_model_are_refused(repository: Path, settings: Callable[[], Params]) -> None:
    """A student that was trained after the evaluation must not be shown with its predecessor's figures."""
    fake_graph.set_numbers(repository, **{"small-kd-0": {"val": 0.99}})
    fake_graph.repro(repository, "distill@small-kd-0")

    with pytest.raises(UserError, match=r"evaluate is out of date \(models/students \(modified\)\)"):
        project(settings(), repository)


def test_edited_settings_do_not_change_what_a_trained_model_is_said_to_be(
    repository: Path, settings: Callable[[], Params]
) -> None:
    fake_graph.set_params(repository, "training", batch_size=7)

    shown = {item.model: item.params["batch_size"] for item in project(settings(), repository)}

    recorded = yaml.safe_load((repository / "dvc.lock").read_text())["stages"]["distill@small-kd-0"]["params"]
    assert shown["small-kd-0"] == str(recorded["params.yaml"]["training"]["batch_size"]) != "7"


def test_the_digest_follows_every_file_that_is_shown(repository: Path, settings: Callable[[], Params]) -> None:
    item = next(item for item in project(settings(), repository) if item.model == "small-kd-0")
    before = item.digest
    for path, _ in item.artifacts:
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        assert item.digest != before
        path.write_bytes(content)
    assert item.digest == before
    assert len(hashlib.md5().hexdigest()) == len(before)


@pytest.mark.slow
def test_the_ui_answers_and_leaves_no_process_behind(repository: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "pipeline", "ui", "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=repository, env=fake_graph.environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        lines = [process.stdout.readline() for _ in range(2)]
        assert "3 created" in lines[0]
        assert f"http://127.0.0.1:{port}" in lines[1]
        body = json.dumps({"experiment_ids": ["1"], "max_results": 10}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            shown = {run["info"]["run_name"] for run in json.load(response)["runs"]}
        assert shown == set(MODELS)
        taken = fake_graph.pipeline(repository, "ui", "--port", str(port))
        assert (taken.returncode, taken.stderr) == (2, f"error: port {port} is taken; choose another with --port\n")
        process.terminate()
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    time.sleep(0.2)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
