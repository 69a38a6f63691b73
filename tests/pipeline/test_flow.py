"""The flow runs DVC's own graph: in order, in parallel, as far as possible, and leaves nothing behind."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_graph
import pytest
import yaml
from waiting import free_port, until

from medistill.errors import UserError
from pipeline.flow import Outcome, Runner, StageFailed, failure, status, summary, table
from pipeline.graph import Stage, examine, read_graph
from pipeline.locks import exclusive


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A repository in which nothing has run."""
    return fake_graph.build(tmp_path / "a copy")


def write_graph(root: Path, **stages: dict) -> Path:
    """Write a DVC repository with these stages alone."""
    root.mkdir(exist_ok=True)
    fake_graph.run(root, "dvc", "init", "--quiet", "--no-scm")
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    return root


def python(code: str) -> str:
    return f'python -c "{code}"'


# The graph


def test_the_graph_is_dvcs_own_upstream_first(finished_repository: Path) -> None:
    stages = {stage.name: stage for stage in read_graph(finished_repository)}

    models = {"train_teacher@big", "distill@small-baseline-0", "distill@small-kd-0"}
    exports = {"export@small-baseline-0", "export@small-kd-0"}
    assert set(stages) == {"ingest", "evaluate", "explain"} | models | exports
    assert set(stages["evaluate"].upstream) == {"ingest"} | models
    assert stages["export@small-kd-0"].upstream == ("distill@small-kd-0",)
    assert stages["ingest"].upstream == ()
    order = list(stages)
    assert all(order.index(up) < order.index(stage.name) for stage in stages.values() for up in stage.upstream)
    teacher = stages["train_teacher@big"]
    assert (teacher.retries, teacher.timeout_seconds, teacher.resource) == (1, 60, "accelerator")


def test_the_graph_of_this_repository_can_be_read(root: Path) -> None:
    stages = {stage.name: stage for stage in read_graph(root)}

    assert {"phantom", "ingest", "validate", "evaluate", "report"} <= set(stages)
    assert stages["ingest"].upstream == ("phantom",)
    trained = [stage for name, stage in stages.items() if name.startswith(("train_teacher@", "distill@"))]
    assert trained
    assert all(stage.resource == "accelerator" and stage.timeout_seconds for stage in trained)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"retry": 1}, r"dvc.yaml: a: meta has 'retry'; known are retries"),
        ({"timeout_seconds": "1h"}, r"meta.timeout_seconds must be a number of at least 0, not '1h'"),
        ({"resource": "gpu"}, r"meta.resource must be accelerator, not 'gpu'"),
    ],
)
def test_a_bad_hint_is_named(tmp_path: Path, meta: dict, message: str) -> None:
    write_graph(tmp_path, a={"cmd": "true", "meta": meta})

    with pytest.raises(UserError, match=message):
        read_graph(tmp_path)


def test_a_broken_graph_is_named(tmp_path: Path) -> None:
    write_graph(tmp_path, a={"cmd": "true", "outs": ["x"]}, b={"cmd": "true", "outs": ["x"]})

    with pytest.raises(UserError, match=r"dvc.yaml: .*x"):
        read_graph(tmp_path)
    with pytest.raises(UserError, match="not a DVC repository"):
        read_graph(Path("/"))


def break_(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(content)


def folder_in_place_of(name: str) -> Callable[[Path], object]:
    return lambda root: ((root / name).unlink(), (root / name).mkdir())


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a conflict in dvc.yaml": (break_("dvc.yaml", b"<<<<<<< HEAD\nstages: {}\n"), "dvc.yaml: .*corrupted"),
    "dvc.yaml not UTF-8": (break_("dvc.yaml", b"\xff\xfe\0"), "dvc.yaml: .*not valid utf-8"),
    "dvc.yaml a list": (break_("dvc.yaml", b"[1]"), "dvc.yaml: .*validation failed"),
    "no dvc.yaml": (lambda root: (root / "dvc.yaml").unlink(), "dvc.yaml: no stages"),
    "DVC's settings garbage": (break_(".dvc/config", b"[core\nx"), "DVC cannot open it: config file error"),
    "DVC's settings not UTF-8": (break_(".dvc/config", b"\xff[core]"), "DVC cannot open it: config file error"),
    "a setting that DVC does not know": (break_(".dvc/config", b"[core]\n  x = 1\n"), "extra keys not allowed"),
    "DVC's settings a folder": (folder_in_place_of(".dvc/config"), "DVC cannot open it: .*Is a directory"),
    ".dvcignore not UTF-8": (break_(".dvcignore", b"\xff"), "DVC cannot open it: 'utf-8' codec"),
    "no git": (lambda root: shutil.rmtree(root / ".git"), "is not a git repository"),
    "no .dvc": (lambda root: shutil.rmtree(root / ".dvc"), "not a DVC repository; run this in the repository's root"),
}


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN)
def test_what_dvc_cannot_read_is_one_line(
    finished_repository: Path, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    root = fake_graph.copy(finished_repository, tmp_path / "a copy")
    damage(root)

    with pytest.raises(UserError, match=message) as said:
        read_graph(root)
    assert "\n" not in str(said.value)


def test_a_cache_that_is_gone_does_not_matter_as_long_as_the_files_are_there(repository: Path) -> None:
    names = [stage.name for stage in read_graph(repository)]
    shutil.rmtree(repository / ".dvc/cache")

    assert examine(repository, names) == ({}, [])


def test_only_data_makes_a_stage_out_of_date(repository: Path) -> None:
    names = [stage.name for stage in read_graph(repository)]
    assert examine(repository, names) == ({}, [])
    (repository / "make.py").write_text("# edited\n")
    fake_graph.set_params(repository, "evaluate", seed=99)
    assert examine(repository, names) == ({}, [])
    (repository / "models/students/small-kd-0/history.csv").write_text("epoch\n")
    assert examine(repository, names)[0] == {
        "distill@small-kd-0": ["models/students/small-kd-0 (modified)"],
        "evaluate": ["models/students (modified)"],
        "explain": ["models/students (modified)"],
        "export@small-kd-0": ["models/students/small-kd-0 (modified)"],
    }


# One stage


def run_one(root: Path, **changes: object) -> tuple[Outcome, list[str]]:
    lines: list[str] = []
    stage = Stage(name="a", desc="", upstream=(), **changes)
    return Runner(root, workers=1).run(stage, lines.append), lines


def test_the_outcome_of_a_stage_is_read_from_dvc(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("1")
    write_graph(tmp_path, a={"cmd": "cp in out", "deps": ["in"], "outs": ["out"]})

    assert run_one(tmp_path)[0].status == "ran"
    assert run_one(tmp_path)[0].status == "unchanged"
    (tmp_path / "in").write_text("2")
    assert run_one(tmp_path)[0].status == "ran"
    (tmp_path / "in").write_text("1")
    assert run_one(tmp_path)[0].status == "restored"
    assert (tmp_path / "out").read_text() == "1"


def test_a_stages_own_output_about_skipping_is_not_read_as_dvcs() -> None:
    assert status(["Running stage 'a':", "record didn't change, skipping", "file is cached - skipping run"]) == "ran"


def test_a_failure_has_the_stages_own_reason(tmp_path: Path) -> None:
    code = "import sys; sys.exit('error: data.csv: column Age is missing')"
    write_graph(tmp_path, a={"cmd": python(code)})

    with pytest.raises(StageFailed, match=r"^a: data.csv: column Age is missing$"):
        run_one(tmp_path)


def test_a_stages_output_is_escaped_for_terminals_and_pages(tmp_path: Path) -> None:
    write_graph(tmp_path, a={"cmd": r"printf 'tab\there\nerror: \033[2J\302\233 <b> [x](http://x)\n'; exit 2"})
    lines: list[str] = []
    with pytest.raises(StageFailed, match=r"^a: \\x1b\[2J\\x9b <b> \[x\]\(http://x\)$") as caught:
        Runner(tmp_path, workers=1).run(Stage("a", "", ()), lines.append)
    assert "tab\there" in lines
    assert all(line.replace("\t", "").isprintable() for line in lines)
    shown = table([Stage("a", "", ())], {}, {"a": str(caught.value)})
    (reason,) = [line for line in shown.splitlines() if line.startswith("*")]
    assert reason == r"* a: \\x1b\[2J\\x9b \<b\> \[x\](http://x)"


def test_a_failure_without_a_message_has_dvcs_reason() -> None:
    lines = ["Running stage 'a':", "Traceback …", "ERROR: failed to reproduce 'a': exited with 1", ""]
    assert failure(lines) == "failed to reproduce 'a': exited with 1"
    assert failure(["Killed", ""]) == "Killed"
    assert failure([]) == "it said nothing"


def alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    return False


HANG = "import subprocess; p = subprocess.Popen(['sleep', '600']); open('pid', 'w').write(str(p.pid)); p.wait()"
DEAF = "trap '' TERM; sleep 600 & echo $! > pid; wait; sleep 600"


@pytest.mark.slow
@pytest.mark.parametrize("command", [python(HANG), DEAF], ids=["child", "ignores SIGTERM"])
def test_a_hanging_stage_ends_at_its_timeout_with_all_its_children(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_graph(tmp_path, a={"cmd": command})
    end = "pipeline.flow.end_group"
    from pipeline.processes import end_group

    monkeypatch.setattr(end, lambda process: end_group(process, patience=1.0))
    start = time.monotonic()

    with pytest.raises(StageFailed, match=r"^a: ended after 8 s, its timeout$"):
        run_one(tmp_path, timeout_seconds=8)

    assert 8 <= time.monotonic() - start < 30
    child = int((tmp_path / "pid").read_text())
    assert until(lambda: not alive(child), 5)
    fake_graph.run(tmp_path, "dvc", "status")  # no lock is left behind


def test_stop_ends_what_runs_and_starts_nothing_more(tmp_path: Path) -> None:
    write_graph(tmp_path, a={"cmd": python(HANG)})
    runner, errors = Runner(tmp_path, workers=1), []

    def run() -> None:
        try:
            runner.run(Stage("a", "", ()), lambda line: None)
        except StageFailed as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    assert until((tmp_path / "pid").exists, 60)
    assert until(lambda: (tmp_path / "pid").read_text(), 60)
    runner.stop()
    thread.join(30)
    run()

    assert errors == ["a: stopped", "a: stopped"]
    assert until(lambda: not alive(int((tmp_path / "pid").read_text())), 5)


@pytest.mark.slow
@pytest.mark.parametrize(("resource", "together"), [(None, True), ("accelerator", False)])
def test_the_accelerator_is_used_by_one_stage_at_a_time(tmp_path: Path, resource: str | None, together: bool) -> None:
    """Each stage writes its time span; two workers overlap unless both need the accelerator."""
    code = "import sys, time; t = time.time(); time.sleep(4); open('{0}', 'w').write(repr((t, time.time())))"
    write_graph(tmp_path, **{name: {"cmd": python(code.format(name)), "outs": [name]} for name in "ab"})
    runner = Runner(tmp_path, workers=2)
    stages = [Stage(name, "", (), resource=resource) for name in "ab"]
    threads = [threading.Thread(target=runner.run, args=(stage, lambda line: None)) for stage in stages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    (start_a, end_a), (start_b, end_b) = (
        json.loads((tmp_path / n).read_text().replace("(", "[").replace(")", "]")) for n in "ab"
    )
    assert (max(start_a, start_b) < min(end_a, end_b)) is together


# The flow's messages


def test_the_table_and_the_summary_name_what_failed_and_what_was_held_up() -> None:
    stages = [Stage("a", "", ()), Stage("b", "", ("a",)), Stage("c", "", ())]
    done, failed = {"c": Outcome("ran", 1.25)}, {"a": "a: the disk is full"}

    assert table(stages, done, failed).splitlines() == [
        "| stage | status | seconds |",
        "|---|---|---:|",
        "| a | failed | |",
        "| b | not run | |",
        "| c | ran | 1.2 |",
        "",
        "* a: the disk is full",
    ]
    assert summary(stages, done, failed) == "failed: a: the disk is full (not run: b)"
    assert summary(stages[2:], done, {}) == "1 stages: 1 ran"


def test_a_lock_is_held_once_and_never_left_behind(finished_repository: Path) -> None:
    with (
        exclusive(finished_repository, "retrain", wait=False),
        pytest.raises(UserError, match=f"another retrain \\(process {os.getpid()}\\) is running in this checkout"),
        exclusive(finished_repository, "retrain", wait=False),
    ):
        pass
    with exclusive(finished_repository, "retrain", wait=False):
        pass


# With a real Prefect server


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Prefect server for the tests; yields environment variables with its address."""
    home = tmp_path_factory.mktemp("prefect")
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    extra = {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_API_URL": url}
    environment = {**fake_graph.environment(), **extra}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        command, env=environment, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        assert until(lambda: answers(f"{url}/health"), 120)
        yield environment
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as response:
        return response.status == 200
    return False


def ask(environment: dict[str, str], path: str, body: dict | None = None) -> list[dict]:
    """Call the server's REST API."""
    request = urllib.request.Request(
        environment["PREFECT_API_URL"] + path, json.dumps(body or {}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def retrain(root: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "retrain", *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=400)


def task_states(environment: dict[str, str]) -> dict[str, str]:
    """Name → state of the tasks of the latest flow run."""
    latest = ask(environment, "/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]
    found = ask(environment, "/task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [latest["id"]]}}})
    return {run["name"]: run["state"]["name"] for run in found}


@pytest.mark.slow
def test_the_flow_runs_tracks_promotes_and_then_finds_nothing_to_do(fresh: Path, tmp_path: Path) -> None:
    """With the temporary server, as a new user would."""
    environment = {**fake_graph.environment(), "PREFECT_HOME": str(tmp_path / "prefect")}

    first = retrain(fresh, environment)

    assert first.returncode == 0, first.stderr
    assert "8 stages: 8 ran; track: 3 created, 0 updated; promoted: small-kd-0" in first.stdout
    assert json.loads((fresh / "reports/promotion.json").read_text())["outcome"] == "promoted"
    second = retrain(fresh, environment, "--workers", "4")
    assert second.returncode == 0, second.stderr
    assert "8 stages: 8 unchanged; track: 0 created, 0 updated; unchanged: small-kd-0" in second.stdout


@pytest.mark.slow
def test_a_refusal_is_a_result(finished_repository: Path, tmp_path: Path, prefect_server: dict[str, str]) -> None:
    root = fake_graph.copy(finished_repository, tmp_path / "root")
    fake_graph.set_params(root, "promote", max_params=1)

    done = retrain(root, prefect_server)

    assert done.returncode == 0, done.stderr
    assert "refused: no student passed every rule" in done.stdout


@pytest.mark.slow
def test_a_failure_holds_up_only_what_depends_on_it(fresh: Path, prefect_server: dict[str, str]) -> None:
    fake_graph.set_numbers(fresh, **{"small-kd-0": {"fail": "no space left on device"}})

    done = retrain(fresh, prefect_server)

    assert done.returncode == 1
    reason = "failed: distill@small-kd-0: no space left on device (not run: export@small-kd-0, evaluate, explain)"
    assert reason in done.stderr.splitlines()
    assert task_states(prefect_server) == {
        "ingest": "Completed",
        "train_teacher@big": "Completed",
        "distill@small-baseline-0": "Completed",
        "export@small-baseline-0": "Completed",
        "distill@small-kd-0": "Failed",
        "export@small-kd-0": "NotReady",
        "evaluate": "NotReady",
        "explain": "NotReady",
    }
    assert (fresh / "exports/small-baseline-0/model.onnx").is_file()
    artifact = ask(prefect_server, "/artifacts/filter", {"sort": "CREATED_DESC", "limit": 1})[0]
    assert "| distill@small-kd-0 | failed | |" in artifact["data"]


@pytest.mark.slow
def test_a_hanging_stage_is_ended_tried_again_and_named(fresh: Path, prefect_server: dict[str, str]) -> None:
    fake_graph.set_numbers(fresh, big={"hang": "pid"})
    graph = fresh / "dvc.yaml"
    graph.write_text(graph.read_text().replace("timeout_seconds: 60", "timeout_seconds: 10"))

    done = retrain(fresh, prefect_server)

    assert done.returncode == 1
    assert "failed: train_teacher@big: ended after 10 s, its timeout" in done.stderr
    assert "Retry 1/1" in done.stderr
    assert not alive(int((fresh / "pid").read_text()))
    assert task_states(prefect_server)["export@small-kd-0"] == "Completed"


@pytest.mark.slow
def test_an_interruption_leaves_no_process_behind_and_a_second_run_is_told_to_wait(
    fresh: Path, prefect_server: dict[str, str]
) -> None:
    fake_graph.set_numbers(fresh, big={"hang": "pid"})
    command = [sys.executable, "-m", "pipeline", "retrain"]
    process = subprocess.Popen(
        command, cwd=fresh, env=prefect_server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert until(lambda: (fresh / "pid").exists() and (fresh / "pid").read_text(), 120)
        second = retrain(fresh, prefect_server)
        assert second.returncode == 2
        assert re.fullmatch(r"error: another retrain \(process \d+\) is running in this checkout; .*\n", second.stderr)
        process.terminate()
        assert process.wait(60) != 0
    finally:
        process.kill()
    assert until(lambda: not alive(int((fresh / "pid").read_text())), 10)


@pytest.mark.slow
def test_the_deployment_runs_from_a_work_pool(
    finished_repository: Path, tmp_path: Path, prefect_server: dict[str, str]
) -> None:
    """The repository's prefect.yaml, deployed from a checkout with the code in it, and run by a worker."""
    root = fake_graph.copy(finished_repository, tmp_path / "a copy")
    shutil.copy(fake_graph.REPOSITORY / "prefect.yaml", root)
    shutil.copytree(fake_graph.REPOSITORY / "pipeline", root / "pipeline")
    environment = {key: value for key, value in prefect_server.items() if key != "PYTHONPATH"}

    def prefect(*arguments: str) -> str:
        command = [sys.executable, "-m", "prefect", *arguments]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    prefect("work-pool", "create", "local", "--type", "process")
    prefect("--no-prompt", "deploy", "--all")
    deployment = ask(environment, "/deployments/filter")[0]
    assert (deployment["name"], deployment["schedules"][0]["schedule"]["cron"]) == ("nightly", "0 2 * * *")
    assert deployment["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    run = ask(environment, f"/deployments/{deployment['id']}/create_flow_run")
    prefect("worker", "start", "--pool", "local", "--run-once")

    def state() -> str:
        found = ask(environment, "/flow_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})[0]["state"]
        return f"{found['name']}: {found['message']}"

    assert until(lambda: not state().startswith(("Scheduled", "Late", "Pending", "Running")), 200), state()
    assert state().startswith("Completed: 8 stages: 8 unchanged; track: 3 created"), state()


@pytest.mark.slow
def test_serve_schedules_until_it_is_ended(fresh: Path, prefect_server: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pipeline", "serve", "--cron", "30 3 * * *"]
    shutil.copytree(fake_graph.REPOSITORY / "pipeline", fresh / "pipeline")
    process = subprocess.Popen(command, cwd=fresh, env=prefect_server, stdout=subprocess.DEVNULL)
    try:

        def scheduled() -> list[dict]:
            return [item for item in ask(prefect_server, "/deployments/filter") if item["name"] == "scheduled"]

        assert until(scheduled, 60)
        assert [item["schedule"]["cron"] for item in scheduled()[0]["schedules"]] == ["30 3 * * *"]
        planned = {"deployments": {"name": {"any_": ["scheduled"]}}, "sort": "EXPECTED_START_TIME_ASC"}
        # With SQLAlchemy 2.1 the server's scheduler fails: it accepts the schedule but never plans a run.
        assert until(lambda: ask(prefect_server, "/flow_runs/filter", planned), 90), "the server plans no runs"
        assert "T03:30:00" in ask(prefect_server, "/flow_runs/filter", planned)[0]["expected_start_time"]
        process.terminate()
        process.wait(60)
    finally:
        process.kill()
