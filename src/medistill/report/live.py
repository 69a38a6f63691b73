"""Curves of the trainings that are at work, in a page that renews itself: reports/live/index.html.

It needs no server and no tracker: each training writes its own small file and draws the page from all of them.
Final figures are in the report and in MLflow.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import pandas as pd
from markupsafe import Markup

from medistill.errors import UserError
from medistill.files import atomic
from medistill.records.live import LiveTraining, Point
from medistill.report import charts
from medistill.report.charts import Axis
from medistill.report.html import render_page

if TYPE_CHECKING:  # this page is drawn without torch, too
    from medistill.training.trainer import StepReport

FOLDER = Path("reports/live")
EVERY = 2.0
"""Seconds between two drawings."""
POINTS = 400
"""Most points of a loss curve, an even number; beyond it each two become their mean."""
SHOWN = 24
"""The page is drawn while networks train, so it only has the latest trainings."""
RENEW = 3
"""Seconds after which a browser loads the page again while something is at work."""
WORKING = "at work"
SILENT = 120.0
"""After so many seconds without an update a training counts as dead."""


class LiveCurves:
    """The curves of one training; give `step` to `train` as `on_step`, within the block."""

    def __init__(self, name: str, folder: Path = FOLDER) -> None:
        """Show the training `name`; what an interrupted one of the same name has shown is continued."""
        self._name, self._folder, self._file = name, folder, folder / f"{name}.json"
        self._width = 1
        self._loss: list[Point] = []
        self._validation: list[Point] = []
        self._latest: StepReport | None = None
        self._pending: list[float] = []
        self._drawn = self._started = time.monotonic()
        self._images = self._steps = 0
        self._silent = False

    def __enter__(self) -> "LiveCurves":
        """Nothing is written before the first step."""
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Say how the training ended."""
        if self._latest is not None:
            self._draw(self._latest, "done" if error is None else f"stopped: {str(error) or type(error).__name__}")

    def step(self, report: "StepReport") -> None:
        """Take what `fit` says after each step."""
        if self._latest is None:
            print(f"{self._name}: training; its curves are in {self._folder / 'index.html'}", flush=True)
            self._continue(report["step"])
        self._latest = report
        self._images += report["images"]
        self._steps += 1
        self._pending.append(report["loss"])
        if len(self._pending) >= self._width:
            self._loss.append((report["step"], sum(self._pending) / len(self._pending)))
            self._pending = []
        if len(self._loss) == POINTS:
            pairs = zip(self._loss[::2], self._loss[1::2], strict=False)
            self._loss = [(later, (one + other) / 2) for (_, one), (later, other) in pairs]
            self._width *= 2
        self._validation = [(epoch, auroc) for epoch, auroc in report["val_macro_auroc"]]
        if time.monotonic() - self._drawn > EVERY:
            self._draw(report, WORKING)

    def end(self, history: pd.DataFrame) -> None:
        """Take the last epoch's validation from history.csv."""
        self._validation = [
            (epoch, auroc) for epoch, auroc in history[["epoch", "val_macro_auroc"]].dropna().to_numpy().tolist()
        ]

    def _continue(self, first: int) -> None:
        """Take up the curve of an interrupted training up to the step before `first`."""
        before = _read(self._file)
        if first > 1 and before:
            self._width = before.width
            self._loss = [point for point in before.loss if point[0] < first]

    def _draw(self, latest: "StepReport", status: str) -> None:
        seconds = max(time.monotonic() - self._started, 1e-9)
        state = LiveTraining(
            name=self._name,
            width=self._width,
            loss=self._loss,
            val_macro_auroc=self._validation,
            epoch=latest["epoch"],
            step=latest["step"],
            steps=latest["steps"],
            learning_rate=latest["learning_rate"],
            images_per_second=self._images / seconds,
            seconds_left=(latest["steps"] - latest["step"]) * seconds / self._steps,
            status=status,
            time=time.time(),
        )
        try:
            state.write(self._file)
            with atomic(self._folder / "index.html") as temporary:
                temporary.write_text(page(self._folder), encoding="utf-8")
        except UserError as error:  # errors in drawing the page must not stop a training
            if not self._silent:
                print(f"note: {error}; the training continues", file=sys.stderr)
            self._silent = True
        self._drawn = time.monotonic()


def page(folder: Path) -> str:
    """The page of the latest trainings that have left a file in `folder`, the latest first."""
    files = sorted(filter(Path.is_file, folder.glob("*.json")), key=lambda file: -file.stat().st_mtime)[:SHOWN]
    states = sorted(filter(None, map(_read, files)), key=lambda state: -state.time)
    working = any(_status(state) == WORKING for state in states)
    trainings = [_training(state) for state in states]
    return render_page("live", title="medistill: training", trainings=trainings, renew=RENEW if working else None)


@dataclass(frozen=True)
class _Training:
    """The state of a training on the page; `kind` is `good`, `bad` or empty."""

    name: str
    kind: str
    facts: list[str]
    charts: dict[str, Markup]


def _training(state: LiveTraining) -> _Training:
    status = _status(state)
    facts = [status, f"epoch {state.epoch}", f"step {state.step} of {state.steps}"]
    facts.append(f"{state.images_per_second:.0f} images/s")
    if status == WORKING:
        facts.append(f"about {state.seconds_left / 60:.0f} min left")
    drawn = {}
    lines = ((state.loss, "step", "Training loss"), (state.val_macro_auroc, "epoch", "Validation macro AUROC"))
    for points, across, title in lines:
        if len(points) > 1:
            line, x, y = charts.Series(title, points, 0), Axis(across, whole=True), Axis(title)
            drawn[title] = charts.line_chart([line], f"{title} by {across}", x, y, height=240)
    kind = "bad" if status.startswith(("stopped", "no progress")) else "good" if status == "done" else ""
    return _Training(state.name, kind, facts, drawn)


def _status(state: LiveTraining) -> str:
    silent = time.time() - state.time
    if state.status == WORKING and silent > SILENT:
        return f"no progress for {silent / 60:.0f} min"
    return state.status


def _read(file: Path) -> LiveTraining | None:
    """What a training has written; None where there is nothing, or nothing that is whole."""
    try:
        return LiveTraining.read(file)
    except UserError:
        return None
