"""MLflow shows all outputs of DVC once, and none that is out of date."""

import hashlib
import json
import math
import os
import random
import re
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
from waiting import free_port

from medistill.errors import UserError
from medistill.layout import Layout
from medistill.params import Params, load_params
from medistill.records.models import ModelRecord
from pipeline.graph import read_graph, read_lock
from pipeline.registry import promote
from pipeline.store import open_store
from pipeline.tracking import EXPERIMENT, _project, project, track
from tests.seal import seal

MODELS = ["big", "small-baseline-0", "small-kd-0"]


def runs(root: Path) -> dict[str, list]:
    """All runs by name, as MLflow's own client sees them."""
    client = open_store(root)
    found: dict[str, list] = {}
    for run in client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id]):
        found.setdefault(run.info.run_name, []).append(run)
    return found


def test_track_shows_every_model_with_params_figures_curves_and_provenance(
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
    tags = {"role": "distilled", "student": "small", "recipe": "kd", "seed": "0", "initialisation": "random"}
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
    layout, lock = Layout(repository), read_lock(repository)
    file = layout.student("small-kd-0").config
    hostile = {"arch": "net\x1b[2J", "initialisation": "weights \u202e.safetensors", "args": {"a": "\x9b"}}
    seal(file, **hostile)
    shown = _project(layout, lock, "distill@small-kd-0", ModelRecord.read(file), None, None, "set")
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
    moved = repository.rename(repository.with_name("moved"))  # as this process still has the lost file open
    shutil.copy(empty_store, moved / "mlflow.db")

    assert sorted(track(load_params(moved / "params.yaml"), moved).created) == MODELS
    assert {name: (found[0].data.params, found[0].data.metrics) for name, found in runs(moved).items()} == before


def test_a_store_that_was_made_elsewhere_is_refused(repository: Path, settings: Callable[[], Params]) -> None:
    """Its artifacts have absolute paths, so a moved or copied checkout would write into the old one."""
    track(settings(), repository)
    moved = repository.rename(repository.with_name("moved"))

    with pytest.raises(UserError, match=r"delete mlflow.db and mlruns"):
        track(load_params(moved / "params.yaml"), moved)


def test_shows_all_after_a_cache_hit(repository: Path, settings: Callable[[], Params]) -> None:
    """When DVC restores outputs no stage runs, so the figures must come from the files."""
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
    assert math.isnan(metrics["val_macro_auprc"])  # shown before, and no longer measured


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


def same_time(path: Path, content: bytes) -> None:
    """Write other bytes, but keep size and time, by which DVC notices changes."""
    before = path.stat()
    assert len(content) == before.st_size
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def flipped(path: Path) -> bytes:
    """The bytes of a file with one bit of the middle byte flipped."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    return bytes(content)


def test_a_changed_byte_that_dvc_does_not_see_is_named_in_every_file_that_is_believed(
    repository: Path, settings: Callable[[], Params]
) -> None:
    files = [path for folder in ("models", "exports", "reports") for path in (repository / folder).rglob("*.*")]
    files = [path for path in files if path.is_file() and not path.name.startswith(".")]
    assert len(files) > 20
    project(settings(), repository)  # DVC remembers the size and the time of each

    for path in files:
        whole = path.read_bytes()
        same_time(path, flipped(path))
        name = path.relative_to(repository)
        with pytest.raises(UserError, match=rf"^{name}: differs from dvc.lock, although .*; delete .*`dvc repro`$"):
            project(settings(), repository)
        same_time(path, whole)
    project(settings(), repository)


def test_a_damaged_file_that_was_committed_to_dvc_is_named(repository: Path, settings: Callable[[], Params]) -> None:
    """`dvc commit` writes any content into dvc.lock, but the record's checksum does not match."""
    config = repository / "models/students/small-kd-0/config.json"
    content = json.loads(config.read_text())
    del content["dataset_fingerprint"]
    config.chmod(0o644)
    config.write_text(json.dumps(content))
    fake_graph.run(repository, "dvc", "commit", "--force")

    for read in (lambda: track(settings(), repository), lambda: promote(settings(), repository, dry_run=True)):
        with pytest.raises(UserError, match=rf"^{config}: damaged or changed: .*; train the model again \(dvc repro"):
            read()


def test_no_figure_is_shown_from_a_file_whose_checksum_does_not_match_its_record(
    repository: Path, settings: Callable[[], Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file that is read is changed as if `dvc commit` had accepted it: DVC finds nothing."""
    monkeypatch.setattr("pipeline.tracking.check_up_to_date", lambda root, stages: None)
    files = [path for folder in ("models", "exports", "reports") for path in (repository / folder).rglob("*.*")]
    files = [path for path in files if path.is_file() and not path.name.startswith(".")]
    for path in [*files, repository / "data/processed/dataset.json"]:
        whole = path.read_bytes()
        same_time(path, flipped(path))
        with pytest.raises(UserError, match=rf"^{path}: (damaged or changed|not valid JSON)[^\n]*; .*dvc repro"):
            project(settings(), repository)
        same_time(path, whole)
    assert [item.model for item in project(settings(), repository)] == MODELS


def test_a_changed_object_in_dvcs_cache_is_named_and_what_is_said_mends_it(
    repository: Path, settings: Callable[[], Params]
) -> None:
    network = repository / "exports/small-kd-0/model.onnx"
    whole = network.read_bytes()
    md5 = hashlib.md5(whole).hexdigest()
    lost = repository / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    same_time(lost, flipped(lost))
    shutil.rmtree(repository / "exports")
    fake_graph.run(repository, "dvc", "checkout")
    assert "didn't change" in fake_graph.repro(repository)
    assert network.read_bytes() != whole  # another network, which DVC calls up to date

    folder, cached = "exports/small-kd-0", lost.relative_to(repository)
    with pytest.raises(UserError, match=rf"^{folder}/model.onnx: .*; delete {folder} and {cached}, then run `dvc r"):
        track(settings(), repository)

    shutil.rmtree(repository / folder)
    lost.unlink()
    fake_graph.repro(repository)
    assert network.read_bytes() == whole
    assert sorted(track(settings(), repository).created) == MODELS


def test_an_export_that_dvc_does_not_know_is_refused(repository: Path, settings: Callable[[], Params]) -> None:
    lock = repository / "dvc.lock"
    stages = yaml.safe_load(lock.read_text())
    del stages["stages"]["export@small-kd-0"]
    lock.write_text(yaml.safe_dump(stages))

    with pytest.raises(UserError, match=r"^exports/small-kd-0: it is not in dvc.lock; run `dvc repro export@small"):
        project(settings(), repository)


LOCKS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a conflict": (
        lambda b: b.replace(b"stages:", b"<<<<<<< HEAD\nstages:", 1),
        "line 2: an unresolved git conflict; r",
    ),
    "empty": (lambda b: b"", "must be a mapping; .*delete it and run `dvc repro`"),
    "a list": (lambda b: b"[1]", "must be a mapping; "),
    "zeros": (lambda b: bytes(99), "not YAML "),
    "cut": (lambda b: b[: b.rindex(b"size:") + 2], "not YAML "),  # cut within a key
    "not UTF-8": (lambda b: b[:20] + b"\xff" + b[21:], "byte 20 is not UTF-8; "),
    "a month 13": (lambda b: b"schema: 2001-13-01", "not YAML "),
    "no stages": (lambda b: b"schema: '2.0'\nstages:\n", "stages: must be a mapping; "),
    "a stage of nothing": (lambda b: b"schema: '2.0'\nstages: {ingest: }\n", "stages: ingest: must be a mapping; "),
    "another version": (lambda b: b.replace(b"'2.0'", b"'9.0'"), "schema: Input should be '2.0'; "),
    "outs by another name": (lambda b: b.replace(b"outs:", b"oust:"), "dvc.lock.* validation failed"),
    "an md5 that is a number": (lambda b: re.sub(rb"md5: \w+\.dir", b"md5: 5", b), "md5: must be text; "),
}


@pytest.mark.parametrize(("change", "message"), LOCKS.values(), ids=LOCKS)
def test_a_damaged_lock_file_is_named_and_what_to_do(
    finished_repository: Path, tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    root = fake_graph.copy(finished_repository, tmp_path / "a copy")
    (root / "dvc.lock").write_bytes(change((root / "dvc.lock").read_bytes()))

    for read in (lambda: project(load_params(root / "params.yaml"), root), lambda: read_graph(root)):
        with pytest.raises(UserError, match=rf"^{root}/dvc.lock: .*{message}") as said:
            read()
        assert "`dvc repro`" in str(said.value)


def test_no_cut_and_no_changed_byte_of_the_lock_file_is_a_traceback_or_another_figure(
    finished_repository: Path, tmp_path: Path
) -> None:
    root = fake_graph.copy(finished_repository, tmp_path / "a copy")
    params = load_params(root / "params.yaml")
    lock = root / "dvc.lock"
    whole = lock.read_bytes()
    before = {item.model: item.metrics for item in project(params, root)}
    shuffled, refused = random.Random(0), 0

    for _ in range(24):
        place = shuffled.randrange(len(whole))
        bit = 1 << shuffled.randrange(8)
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :]):
            lock.write_bytes(damaged)
            try:
                after = {item.model: item.metrics for item in project(params, root)}
            except UserError:
                refused += 1
            else:
                assert after == before
    assert refused > 24


def lose_everything(mlruns: Path) -> None:
    shutil.rmtree(mlruns)


def lose_a_file(mlruns: Path) -> None:
    next(mlruns.rglob("small-kd-0.json")).unlink()


def change_a_file(mlruns: Path) -> None:
    (card,) = (path for path in mlruns.rglob("export/MODEL_CARD.md") if "kd" in path.read_text())
    card.write_bytes(card.read_bytes().replace(b"kd", b"KD"))


@pytest.mark.parametrize(
    ("lose", "again"),
    [(lose_everything, MODELS), (lose_a_file, ["small-kd-0"]), (change_a_file, ["small-kd-0"])],
    ids=["all", "one", "other bytes"],
)
def test_files_that_are_gone_from_mlruns_are_missed_and_logged_again(
    repository: Path, settings: Callable[[], Params], lose: Callable[[Path], None], again: list[str]
) -> None:
    def stored() -> dict[str, bytes]:
        files = (repository / "mlruns").rglob("*.*")
        return {str(path): path.read_bytes() for path in files if path.is_file()}

    first = track(settings(), repository)
    before = stored()
    lose(repository / "mlruns")
    assert stored() != before

    second = track(settings(), repository)

    assert (second.created, sorted(second.updated), second.runs) == ([], again, first.runs)
    assert stored() == before
    assert track(settings(), repository).updated == []


def test_a_checkout_that_is_read_only_is_one_line(finished_repository: Path, small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(50_000)
    root = fake_graph.copy(finished_repository, disk / "a copy")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

    with pytest.raises(UserError, match=rf"^{root}/.dvc/tmp/\S+: Read-only file system; make it writable, or work in"):
        project(load_params(root / "params.yaml"), root)


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
    port = free_port()
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
