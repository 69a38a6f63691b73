"""Files that a killed stage leaves beside its output are gone after its next run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from finished_project import STUDENTS, write_params

KD = STUDENTS[1]


def start(root: Path, folder: Path, *stage: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": f"{root}:{root / 'src'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *stage]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "out"),
    [
        (["pipeline.stages.phantom"], "data/raw/phantom"),
        (["medistill.cli", "phantom", "elsewhere/drawn", "--images", "2000"], "elsewhere/drawn"),
        (["pipeline.stages.validate"], "reports/validation/data_docs"),
        (["pipeline.stages.export", *KD], f"exports/{'-'.join(KD)}"),
    ],
)
def test_files_of_a_killed_stage_are_removed_by_the_next_run(root, finished, tmp_path, stage, out):
    project = shutil.copytree(finished, tmp_path / "project")
    write_params(project, phantom={"images": 2000})
    shutil.rmtree(project / out, ignore_errors=True)
    place = (project / out).parent
    place.mkdir(exist_ok=True)
    with start(root, project, *stage) as process:
        while not (left := list(place.glob(f".{Path(out).name}.*.tmp"))):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert left[0].exists()
    assert not (project / out).exists()
    write_params(project)
    with start(root, project, *[part.replace("2000", "20") for part in stage]) as process:
        error = process.stderr.read()
        assert process.wait() == 0, error
    assert (project / out).is_dir()
    assert not list(place.glob(".*"))
