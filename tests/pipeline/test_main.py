"""`python -m pipeline`: help, exit codes, one line for a mistake."""

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import fake_graph
import pytest
import yaml

COMMANDS = ["preset", "check", "track", "ui", "promote", "history", "rollback", "retrain", "prefect", "serve"]


def test_help_is_fast_and_has_examples(tmp_path: Path) -> None:
    times = []
    for _ in range(3):
        start = time.monotonic()
        shown = fake_graph.pipeline(tmp_path, "--help")
        times.append(time.monotonic() - start)

    assert shown.returncode == 0
    assert all(re.search(rf"^  {command} ", shown.stdout, re.MULTILINE) for command in COMMANDS)
    assert "python -m pipeline promote --dry-run" in shown.stdout
    assert min(times) < 1.5


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, pipeline.__main__; "
        "print([m for m in ('mlflow', 'prefect', 'dvc', 'torch', 'pandas', 'onnx', 'pydantic') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=fake_graph.environment(), capture_output=True, text=True)

    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(tmp_path: Path, command: str) -> None:
    shown = fake_graph.pipeline(tmp_path, command, "--help")

    assert shown.returncode == 0
    assert f"python -m pipeline {command}" in shown.stdout.split("\n", 1)[1]


@pytest.mark.parametrize(("key", "folder"), [("splits", "splits"), ("unlabelled", "data/unlabelled")])
def test_a_key_that_dvc_needs_is_named_where_it_is_missing(tmp_path: Path, root: Path, key: str, folder: str) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text())
    del params["data"][key]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))

    done = fake_graph.pipeline(tmp_path, "check")

    assert done.returncode == 2
    message = f"params.yaml: data.{key} is missing, and dvc.yaml needs it; add `{key}: {folder}`"
    assert done.stderr.splitlines() == [f"error: {message}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check"], "params.yaml: no such file; run this in the repository's root"),
        (["track"], "params.yaml: no such file; run this in the repository's root"),
        (["promote"], "params.yaml: no such file; run this in the repository's root"),
        (["retrain"], "params.yaml: no such file; run this in the repository's root"),
        (["serve", "--cron", "0 25 * * *"], "--cron '0 25 * * *': not a cron string"),
        (["serve", "--cron", "nightly"], "--cron 'nightly': not a cron string"),
        (["rollback"], "not a DVC repository"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = fake_graph.pipeline(tmp_path, *arguments)

    assert done.returncode == 2
    assert re.fullmatch(r"error: .*\n", done.stderr), done.stderr
    assert message in done.stderr


def test_track_before_anything_has_run_says_what_to_run(tmp_path: Path) -> None:
    root = fake_graph.build(tmp_path / "root")

    done = fake_graph.pipeline(root, "track")

    assert done.returncode == 2
    assert re.fullmatch(r"error: .*dvc.lock: no such file; run `dvc repro` .*\n", done.stderr)
    assert not (root / "mlflow.db").exists()


def test_history_without_promotions_says_what_to_run(tmp_path: Path) -> None:
    assert json.loads(fake_graph.pipeline(tmp_path, "history", "--json").stdout) == {"history": [], "looks": 0}
    assert "nothing has been promoted" in fake_graph.pipeline(tmp_path, "history").stdout


def test_promote_refuses_with_exit_code_3_and_a_line_a_reason(repository: Path) -> None:
    fake_graph.set_params(repository, "promote", max_params=999, max_ece=0.01)

    done = fake_graph.pipeline(repository, "promote")

    assert done.returncode == 3
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert lines.count("max_params: the number of parameters is 1,000, above the limit of 999") == 2
    assert sum(line.startswith("max_ece: ") for line in lines) == 2
    assert lines[-1] == "refused: no student passed every rule; champion: none"
    history = fake_graph.pipeline(repository, "history")
    assert re.search(r"refused +no champion\n +refused  small-baseline-0: max_params: ", history.stdout)


@pytest.mark.slow
def test_a_conflict_in_the_lock_file_is_one_line_of_every_command(repository: Path) -> None:
    lock = repository / "dvc.lock"
    lock.write_text(lock.read_text().replace("stages:", "<<<<<<< HEAD\nstages:", 1))
    line = rf"{lock}: line 2: an unresolved git conflict; resolve it, or .*\n"

    for arguments in (["track"], ["promote"], ["promote", "--dry-run"], ["retrain"]):
        done = fake_graph.pipeline(repository, *arguments)
        assert done.returncode == 2
        assert re.fullmatch(f"error: {line}", done.stderr), done.stderr
    with socket.socket() as taken:  # so that the command does not go on to serve
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = fake_graph.pipeline(repository, "ui", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert re.fullmatch(f"warning: MLflow is not up to date: {line}error: port .* is taken; .*\n", done.stderr)


@pytest.mark.slow
def test_what_cannot_be_read_is_one_line_of_every_command_that_reads_it(repository: Path) -> None:
    (repository / "registry").mkdir()
    (repository / "registry/history.jsonl").write_bytes(b"[1]\n")
    for arguments in (["history"], ["history", "--json"], ["promote", "--dry-run"], ["promote"]):
        done = fake_graph.pipeline(repository, *arguments)
        assert done.returncode == 2
        assert re.fullmatch(r"error: .*history.jsonl: line 1: .*; mend or remove that line\n", done.stderr)

    (repository / "mlflow.db").write_bytes(b"garbage" * 1000)
    for arguments in (["track"], ["ui"], ["promote", "--dry-run"], ["rollback"]):
        done = fake_graph.pipeline(repository, *arguments)
        assert done.returncode == 2
        assert re.fullmatch(r"error: MLflow at .*: file is not a database; delete mlflow.db .*\n", done.stderr)


@pytest.mark.slow
def test_from_an_empty_store_to_a_rollback(repository: Path) -> None:
    """The schema is created on first use, and programs can read every command's output."""
    (repository / "mlflow.db").unlink()

    dry = fake_graph.pipeline(repository, "promote", "--dry-run", "--json")
    assert (dry.returncode, json.loads(dry.stdout)["outcome"]) == (0, "promoted")
    assert not (repository / "mlflow.db").exists()
    assert "3 created, 0 updated, 0 unchanged" in fake_graph.pipeline(repository, "track").stdout
    promoted = json.loads(fake_graph.pipeline(repository, "promote", "--json").stdout)
    assert promoted["champion"]["model"] == "small-kd-0"
    fake_graph.set_numbers(repository, **{"small-baseline-0": {"val": 0.9}})
    fake_graph.repro(repository)
    assert "promoted: small-baseline-0" in fake_graph.pipeline(repository, "promote").stdout
    back = json.loads(fake_graph.pipeline(repository, "rollback", "--json").stdout)
    assert (back["champion"]["model"], back["withdrawn"]["model"]) == ("small-kd-0", "small-baseline-0")
    history = json.loads(fake_graph.pipeline(repository, "history", "--json").stdout)
    assert [line["action"] for line in history["history"]] == ["promoted", "promoted", "rolled_back"]
    assert history["looks"] == 2


@pytest.mark.slow
def test_two_first_uses_at_once_do_not_break_the_store(repository: Path) -> None:
    (repository / "mlflow.db").unlink()
    command = [sys.executable, "-m", "pipeline", "track"]
    options = {"cwd": repository, "env": fake_graph.environment(), "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **options) for _ in range(2)]
    said = sorted(process.communicate(timeout=300)[0].split(" in ")[0] for process in both)

    assert [process.returncode for process in both] == [0, 0]
    assert said == ["0 created, 0 updated, 3 unchanged", "3 created, 0 updated, 0 unchanged"]
