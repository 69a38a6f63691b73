"""A disk fills at any point of any stage: one line, nothing half-written, and the same bits once there is room."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from finished_project import STUDENTS, TEACHER, inside
from PIL import Image

from medistill.audit.command import Request, check
from medistill.errors import UserError
from pipeline.presets import write_preset
from pipeline.stages import audit, distill, evaluate, explain, export, ingest, phantom, report, teach, train_teacher
from pipeline.stages import validate as validating

KD = STUDENTS[1]
STUDENT = "-".join(KD)
EVALUATED = ("evaluation.json", "evaluation", "roc", "metrics.json", "comparisons.csv")


@dataclass(frozen=True)
class Work:
    """A command or stage that writes.

    Attributes:
        do: runs it.
        outs: its outputs.
        kept: caches that are deleted before, so that it does all of its work.
    """

    do: Callable[[], Any]
    outs: list[str]
    kept: list[str] = field(default_factory=list)


def check_data() -> None:
    check(Request(Path("data/raw/phantom"), "chestxray14", Path("cache"), write_splits=Path("drawn")))


WORKS = {
    "preset": Work(lambda: write_preset("phantom", None, Path()), ["params.yaml"]),
    "phantom": Work(lambda: phantom.main([]), ["data/raw/phantom"]),
    "check": Work(check_data, ["drawn"], ["cache"]),
    "ingest": Work(lambda: ingest.main([]), ["data/processed"], [".cache"]),
    "audit": Work(lambda: audit.main([]), ["reports/validation/audit.json"]),
    "validate": Work(
        lambda: validating.main([]), [f"reports/validation/{n}" for n in ("validation.json", "data_docs")]
    ),
    "train": Work(
        lambda: train_teacher.main([TEACHER]), [f"models/teachers/{TEACHER}"], [".checkpoints", "reports/live"]
    ),
    "teach": Work(lambda: teach.main([TEACHER]), [f"data/knowledge/{TEACHER}"], [".checkpoints/teach"]),
    "distill": Work(lambda: distill.main(KD), [f"models/students/{STUDENT}"], [".checkpoints", "reports/live"]),
    "take": Work(lambda: distill.main(KD), [f"models/students/{STUDENT}"]),
    "evaluate": Work(lambda: evaluate.main([]), [f"reports/{name}" for name in EVALUATED]),
    "explain": Work(lambda: explain.main([]), ["reports/explain"]),
    "export": Work(lambda: export.main(KD), [f"exports/{STUDENT}"]),
    "report": Work(lambda: report.main([]), ["reports/gate.json", "reports/index.html"]),
}
SLOW = ("check", "audit", "validate", "export")
"""Works that take seconds."""


def contents(outs: list[str]) -> dict[str, Any]:
    """The bits of the outputs, except for files with times."""
    found: dict[str, Any] = {}
    for out in map(Path, outs):
        for file in sorted(out.rglob("*")) if out.is_dir() else [out]:
            if file.name == "history.csv":
                found[str(file)] = pd.read_csv(file).drop(columns="images_per_second").to_csv()
            elif file.is_file() and not {"latency.json", "metrics.json", "config.json", "data_docs"} & {*file.parts}:
                found[str(file)] = file.read_bytes()
    assert found
    return found


def remove(*names: str) -> None:
    for path in map(Path, names):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


class Disk:
    """A file system in memory with a project on it."""

    def __init__(self, folder: Path, finished: Path) -> None:
        self.folder = folder / "project"
        self._disk = folder
        shutil.copytree(finished, self.folder)

    def leave(self, kilobytes: int) -> None:
        """Resize the file system so that so many KB are free."""
        used = shutil.disk_usage(self._disk).used // 1024
        size = f"remount,size={used + kilobytes}k"
        subprocess.run(["mount", "-o", size, str(self._disk)], check=True)

    def fails(self, work: Work) -> bool:
        """Whether the work failed for want of room; then it must fail in one line and leave nothing over."""
        with inside(self.folder):
            before = sorted(Path().rglob(".*.tmp"))
            try:
                work.do()
                return False
            except UserError as error:
                message = str(error)
            except Exception as error:
                raise AssertionError(f"{type(error).__name__}: {error}") from error
            full = "cannot be written: No space left on device; make room and run it again"
            assert full in message or "the teacher's answers take" in message
            assert "\n" not in message
            assert sorted(Path().rglob(".*.tmp")) == before == []
            return True


@pytest.fixture
def disk(small_disk: Callable[[int], Path], finished: Path) -> Disk:
    return Disk(small_disk(100_000), finished)


def try_work(disk: Disk, work: Work, rooms: list[int]) -> None:
    """Do it with more and more room until it succeeds; the bits must be the same as with enough room at once."""
    with inside(disk.folder):
        remove(*work.outs, *work.kept)
        work.do()
        expected = contents(work.outs)
        remove(*work.outs, *work.kept)
    failures = 0
    for room in rooms:
        disk.leave(room)
        if not disk.fails(work):
            break
        failures += 1
    assert failures
    disk.leave(100_000)
    assert not disk.fails(work)
    with inside(disk.folder):
        assert contents(work.outs) == expected


@pytest.mark.parametrize("name", [name for name in WORKS if name not in SLOW])
def test_a_full_disk_is_one_line_and_the_same_bits_once_there_is_room(disk, name):
    try_work(disk, WORKS[name], [0, 16])


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKS)
def test_a_disk_that_fills_at_any_point_is_one_line_and_the_same_bits_once_there_is_room(disk, name):
    try_work(disk, WORKS[name], [0, *(4 * round(1.3**power) for power in range(40))])


def test_predictions_into_a_full_output_are_one_line(finished, tmp_path):
    Image.new("L", (32, 32), 99).save(tmp_path / "grey.png")
    command = [sys.executable, "-m", "medistill.cli", "predict", str(tmp_path / "grey.png"), "--json"]
    command += ["--model", str(finished / "exports" / STUDENT)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "error: standard output: No space left on device; make room and run it again\n",
    )
