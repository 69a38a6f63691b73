"""Curves of the trainings that are at work, in a page that renews itself: reports/live/index.html.

No server and no tracker: each training writes its own small file, and whoever writes draws the page from all of them.
What is final is in the report and in MLflow.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from medistill.checksums import read_record, write_record
from medistill.errors import UserError
from medistill.files import atomic
from medistill.report import charts
from medistill.report.charts import Axis
from medistill.report.html import render_page

if TYPE_CHECKING:  # this page is drawn without torch, too
    from medistill.training.trainer import StepReport

FOLDER = Path("reports/live")
EVERY = 2.0
"""Seconds between two drawings."""
POINTS = 400
"""A loss curve has at most so many, an even number; then each two become their mean."""
SHOWN = 24
"""The page is drawn while networks train, so it has the latest trainings and not all that there ever were."""
RENEW = 3
"""Seconds after which a browser loads the page again while something is at work."""
WORKING = "at work"
SILENT = 120.0
"""After so many seconds without a word a training is taken for dead."""


class LiveCurves:
    """The curves of one training; give `step` to `train` as `on_step`, within the block."""

    def __init__(self, name: str, folder: Path = FOLDER) -> None:
        """Show the training `name`; what an interrupted one of the same name has shown is continued."""
        self._folder, self._file = folder, folder / f"{name}.json"
        self._state: dict[str, Any] = {"name": name, "width": 1, "loss": [], "val_macro_auroc": []}
        self._pending: list[float] = []
        self._drawn = self._started = time.monotonic()
        self._images = self._steps = 0
        self._silent = False

    def __enter__(self) -> "LiveCurves":
        """Nothing is written before the first step."""
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Say how the training ended."""
        if "step" in self._state:
            self._draw("done" if error is None else f"stopped: {str(error) or type(error).__name__}")

    def step(self, report: "StepReport") -> None:
        """Take what `fit` says after each step."""
        if "step" not in self._state:
            print(f"{self._state['name']}: training; its curves are in {self._folder / 'index.html'}", flush=True)
            self._continue(report["step"])
        state = self._state
        state["epoch"], state["step"], state["steps"] = report["epoch"], report["step"], report["steps"]
        state["learning_rate"] = report["learning_rate"]
        self._images += report["images"]
        self._steps += 1
        state["images_per_second"] = self._images / (seconds := max(time.monotonic() - self._started, 1e-9))
        state["seconds_left"] = (report["steps"] - report["step"]) * seconds / self._steps
        self._pending.append(report["loss"])
        if len(self._pending) >= state["width"]:
            state["loss"].append([report["step"], sum(self._pending) / len(self._pending)])
            self._pending = []
        if len(state["loss"]) == POINTS:
            pairs = zip(state["loss"][::2], state["loss"][1::2], strict=False)
            state["loss"] = [[later, (one + other) / 2] for (_, one), (later, other) in pairs]
            state["width"] *= 2
        state["val_macro_auroc"] = report["val_macro_auroc"]
        if time.monotonic() - self._drawn > EVERY:
            self._draw(WORKING)

    def end(self, history: pd.DataFrame) -> None:
        """Take the last epoch's validation from history.csv."""
        self._state["val_macro_auroc"] = history[["epoch", "val_macro_auroc"]].to_numpy().tolist()

    def _continue(self, first: int) -> None:
        """Take up the curve of an interrupted training up to the step before `first`."""
        before = _read(self._file)
        if first > 1 and before:
            self._state["width"] = before["width"]
            self._state["loss"] = [point for point in before["loss"] if point[0] < first]

    def _draw(self, status: str) -> None:
        try:
            write_record(self._file, self._state | {"status": status, "time": time.time()})
            with atomic(self._folder / "index.html") as temporary:
                temporary.write_text(page(self._folder), encoding="utf-8")
        except UserError as error:  # no page is worth a training
            if not self._silent:
                print(f"note: {error}; the training goes on", file=sys.stderr)
            self._silent = True
        self._drawn = time.monotonic()


def page(folder: Path) -> str:
    """The page of the latest trainings that have left a file in `folder`, the latest first."""
    files = sorted(filter(Path.is_file, folder.glob("*.json")), key=lambda file: -file.stat().st_mtime)[:SHOWN]
    states = sorted(filter(None, map(_read, files)), key=lambda state: -state["time"])
    working = any(_status(state) == WORKING for state in states)
    trainings = [_training(state) for state in states]
    return render_page("live", title="medistill: training", trainings=trainings, renew=RENEW if working else None)


@dataclass(frozen=True)
class _Training:
    """What the page shows of a training; `kind` is `good`, `bad` or empty."""

    name: str
    kind: str
    facts: list[str]
    charts: dict[str, Markup]


def _training(state: dict[str, Any]) -> _Training:
    status = _status(state)
    facts = [status, f"epoch {state['epoch']}", f"step {state['step']} of {state['steps']}"]
    facts.append(f"{state['images_per_second']:.0f} images/s")
    if status == WORKING:
        facts.append(f"about {state['seconds_left'] / 60:.0f} min left")
    drawn = {}
    lines = (("loss", "step", "Training loss"), ("val_macro_auroc", "epoch", "Validation macro AUROC"))
    for key, across, title in lines:
        points = [(float(x), float(y)) for x, y in state[key]]
        if len(points) > 1:
            line, x, y = charts.Series(title, points, 0), Axis(across, whole=True), Axis(title)
            drawn[title] = charts.line_chart([line], f"{title} by {across}", x, y, height=240)
    kind = "bad" if status.startswith(("stopped", "silent")) else "good" if status == "done" else ""
    return _Training(state["name"], kind, facts, drawn)


def _status(state: dict[str, Any]) -> str:
    silent = time.time() - state["time"]
    if state["status"] == WORKING and silent > SILENT:
        return f"silent for {silent / 60:.0f} min"
    return str(state["status"])


def _read(file: Path) -> dict[str, Any] | None:
    """What a training has written; None where there is nothing, or nothing that is whole."""
    try:
        return read_record(file)
    except UserError:
        return None
