"""DVC's graph as a Prefect flow: one task per stage, parallel where the graph allows, then `track` and `promote`.

DVC decides what has to run (Prefect's cache is off), Prefect runs it: order, retries, schedule, logs, one page per run.
Each stage is `dvc repro --single-item` in a process of its own: `Repo.reproduce` is not thread-safe.
"""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.client.schemas.schedules import CronSchedule
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field, ValidationError

from medistill.errors import UserError
from medistill.layout import Layout
from medistill.params import Params, load_params
from medistill.report.html import markdown
from medistill.text import printable
from pipeline.graph import Stage, read_graph
from pipeline.locks import exclusive
from pipeline.prefect_server import connected, scheduling
from pipeline.processes import end_group

UNCHANGED = re.compile(r"^Stage '.*' didn't change, skipping$")
RESTORED = re.compile(r"^Stage '.*' is cached - skipping run, checking out outputs$")
"""DVC's messages that it did not run a stage; there is no other way to learn it, so a test checks these two lines."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a stage: `unchanged`, `restored` (from DVC's cache) or `ran`; and the wall time in seconds."""

    status: str
    seconds: float


class StageFailed(Exception):
    """A stage ended with an error, ran into its timeout, or was stopped."""


class Runner:
    """Runs stages in processes of their own, `workers` at once, and those that need the accelerator one at a time."""

    def __init__(self, root: Path, workers: int) -> None:
        """Prepare to run stages of the repository at `root`."""
        self.root = root
        self._slots = threading.Semaphore(workers)
        self._accelerator = threading.Lock()
        self._guard = threading.Lock()
        self._live: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(self, stage: Stage, log: Callable[[str], Any]) -> Outcome:
        """Run one stage by DVC.

        Args:
            stage: what to run; its upstream stages must be up to date.
            log: gets every line that DVC and the stage write.

        Raises:
            StageFailed: names the stage and the reason; nothing that it started is left running.
        """
        if stage.resource == "accelerator":
            with self._accelerator, self._slots:
                return self._run(stage, log)
        with self._slots:
            return self._run(stage, log)

    def stop(self) -> None:
        """End every running stage, and start no more."""
        with self._guard:
            self._stopped = True
            live = list(self._live)
        for process in live:
            end_group(process)

    def _run(self, stage: Stage, log: Callable[[str], Any]) -> Outcome:
        start = time.monotonic()
        process = self._start(stage)
        output = process.stdout
        assert output is not None  # it is a pipe
        late = threading.Event()

        def expire() -> None:
            late.set()
            end_group(process)

        watchdog = threading.Timer(stage.timeout_seconds or 0, expire)
        watchdog.daemon = True
        lines = []
        try:
            if stage.timeout_seconds:
                watchdog.start()
            for raw in output:
                line = printable(raw.decode(errors="replace").rstrip(), keep="\t")
                lines.append(line)
                if line:
                    log(line)
            process.wait()
        finally:
            watchdog.cancel()
            end_group(process)  # children that a stage left behind
            output.close()
            with self._guard:
                self._live.discard(process)
        if self._stopped:
            raise StageFailed(f"{stage.name}: stopped")
        if late.is_set():
            raise StageFailed(f"{stage.name}: ended after {stage.timeout_seconds:g} s, its timeout")
        if process.returncode:
            raise StageFailed(f"{stage.name}: {failure(lines)}")
        return Outcome(status(lines), time.monotonic() - start)

    def _start(self, stage: Stage) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage.name]
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        environment = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}
        with self._guard:
            if self._stopped:
                raise StageFailed(f"{stage.name}: stopped")
            process = subprocess.Popen(
                command,
                cwd=self.root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._live.add(process)
        return process


def status(lines: list[str]) -> str:
    """`unchanged`, `restored` or `ran`, from what `dvc repro` of one stage wrote."""
    for pattern, name in ((UNCHANGED, "unchanged"), (RESTORED, "restored")):
        if any(pattern.match(line) for line in lines):
            return name
    return "ran"


def failure(lines: list[str]) -> str:
    """The line that best explains why a stage failed: the stage's own `error:`, else DVC's, else the last."""
    for start in ("error: ", "ERROR: "):
        for line in reversed(lines):
            if line.startswith(start):
                return line.removeprefix(start)
    return next((line for line in reversed(lines) if line), "it said nothing")


# Prefect declares its runners of one kind of future and the flow's of any.
@flow(name="retrain", task_runner=ThreadPoolTaskRunner(), log_prints=False)  # type: ignore[arg-type]
def retrain(workers: Annotated[int, Field(ge=1)] = 2) -> State:
    """Run every stage of dvc.yaml in the current folder, then track and promote.

    A failed stage holds up only the stages that depend on it. A refusal by the gate is a result: the flow completes and
    says so. The thread pool is unlimited, as a task that waits for its upstream keeps a thread; `Runner` limits the
    processes.

    Args:
        workers: stages at once.
    """
    root = Path.cwd()
    try:
        with exclusive(root, "retrain", wait=False):
            return _retrain(root, workers)
    except UserError as error:
        return Failed(message=printable(str(error)))


def _retrain(root: Path, workers: int) -> State:
    params = load_params(Layout(root).params)
    stages = read_graph(root)
    runner = Runner(root, workers)

    @task(name="stage", cache_policy=NO_CACHE)
    def run(stage: Stage) -> Outcome | State:
        try:
            return runner.run(stage, get_run_logger().info)
        except StageFailed as error:
            return Failed(message=str(error))  # if it were raised, a traceback would hide the reason

    futures: dict[str, PrefectFuture[Any]] = {}
    try:
        for stage in stages:
            futures[stage.name] = run.with_options(
                task_run_name=stage.name,
                retries=stage.retries,
                retry_delay_seconds=stage.retry_delay_seconds,
                tags=[stage.name.split("@")[0]],
            ).submit(stage, return_state=False, wait_for=[futures[name] for name in stage.upstream])
        wait(list(futures.values()))  # does not raise, so that all branches run
    finally:
        runner.stop()  # after an interruption; otherwise nothing is running any more
    done = {name: future.result() for name, future in futures.items() if future.state.is_completed()}
    failed = {name: future.state.message or "" for name, future in futures.items() if _ended_badly(future.state)}
    create_markdown_artifact(table(stages, done, failed), key="stages", description="What became of each stage")
    if len(done) < len(stages):
        return Failed(message=summary(stages, done, failed))
    tracked = _track.submit(params, root)
    promoted = _promote.submit(params, root, return_state=False, wait_for=[tracked])
    wait([tracked, promoted])
    for future in (tracked, promoted):
        if not future.state.is_completed():
            return Failed(message=future.state.message)
    return Completed(message=f"{summary(stages, done, failed)}; {tracked.result()}; {promoted.result()}")


@task(name="track", task_run_name="track", cache_policy=NO_CACHE)
def _track(params: Params, root: Path) -> str | State:
    from pipeline.tracking import track

    try:
        tracked = track(params, root)
    except UserError as error:
        return Failed(message=f"track: {printable(str(error))}")
    return f"track: {len(tracked.created)} created, {len(tracked.updated)} updated"


@task(name="promote", task_run_name="promote", cache_policy=NO_CACHE)
def _promote(params: Params, root: Path) -> str | State:
    from pipeline.registry import promote, promotion_lines

    try:
        lines = promotion_lines(promote(params, root))
    except UserError as error:
        return Failed(message=f"promote: {printable(str(error))}")
    for line in lines:
        get_run_logger().info(printable(line))
    return lines[-1]


def _ended_badly(state: State) -> bool:
    """Whether a task failed or crashed; a stage whose upstream failed is neither, but `NotReady`."""
    return state.is_failed() or state.is_crashed()


def table(stages: list[Stage], done: dict[str, Outcome], failed: dict[str, str]) -> str:
    """A Markdown table of the outcome of each stage."""
    rows = ["| stage | status | seconds |", "|---|---|---:|"]
    for stage in stages:
        outcome = done.get(stage.name)
        if outcome:
            rows.append(f"| {stage.name} | {outcome.status} | {outcome.seconds:.1f} |")
        else:
            rows.append(f"| {stage.name} | {'failed' if stage.name in failed else 'not run'} | |")
    reasons = [f"* {markdown(reason)}" for reason in failed.values()]
    return "\n".join(rows + (["", *reasons] if reasons else []))


def summary(stages: list[Stage], done: dict[str, Outcome], failed: dict[str, str]) -> str:
    """One line: how many stages ran, which failed and why, which were held up."""
    if len(done) == len(stages):
        counts = Counter(outcome.status for outcome in done.values())
        return f"{len(stages)} stages: " + ", ".join(f"{counts[name]} {name}" for name in sorted(counts))
    held_up = [stage.name for stage in stages if stage.name not in done and stage.name not in failed]
    text = f"failed: {'; '.join(failed.values())}"
    return f"{text} (not run: {', '.join(held_up)})" if held_up else text


def run_here(root: Path, workers: int) -> bool:
    """Run the flow in this process, which must have been started in `root`, and print how it ended.

    Returns:
        Whether every stage, tracking and the verdict were completed.

    Raises:
        UserError: dvc.yaml or params.yaml is at fault, or another run is running in this checkout.
    """
    # Said at once, before a server is started; the flow itself looks again.
    load_params(Layout(root).params)
    read_graph(root)
    with exclusive(root, "retrain", wait=False):
        pass
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: stages run in sessions of their own
    with connected():
        state = retrain(workers, return_state=True)
    print(state.message, file=sys.stdout if state.is_completed() else sys.stderr)
    return state.is_completed()


def serve(root: Path, cron: str, workers: int) -> None:
    """Run the flow on a schedule until Ctrl-C or SIGTERM; one run at a time.

    Without `PREFECT_API_URL` our server on 127.0.0.1:4200 is used, or started and ended with this process where there
    is none: the temporary server that single runs use does not schedule.

    Args:
        root: the repository's root, also the current folder.
        cron: five fields, in UTC.
        workers: stages at once.

    Raises:
        UserError: `cron` is not valid, dvc.yaml or params.yaml is at fault, or the server does not come up.
    """
    try:
        CronSchedule(cron=cron)
    except ValidationError:
        raise UserError(f"--cron {cron!r}: not a cron string; five fields, as in '0 2 * * *' (02:00 UTC)") from None
    load_params(Layout(root).params)
    read_graph(root)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the server ends too
    with scheduling(root):
        retrain.serve(
            name="scheduled",
            cron=cron,
            parameters={"workers": workers},
            limit=1,
            global_limit=1,
            pause_on_shutdown=False,
        )
