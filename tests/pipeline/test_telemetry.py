"""Each switch of `medistill.telemetry` works by itself in the installed versions of the libraries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medistill.telemetry import SWITCHES

pytestmark = pytest.mark.slow

PREFECT = "from prefect._internal.analytics.enabled import is_telemetry_enabled as f; print(f())"
MLFLOW = "from mlflow.telemetry.utils import is_telemetry_disabled as f; print(not f())"
HUB = "from huggingface_hub import constants; print(not constants.HF_HUB_DISABLE_TELEMETRY)"
REPORTS = [
    ("DO_NOT_TRACK", PREFECT),
    ("DO_NOT_TRACK", MLFLOW),
    ("DO_NOT_TRACK", HUB),
    ("DVC_NO_ANALYTICS", "from dvc.analytics import is_enabled; print(is_enabled())"),
    ("HF_HUB_DISABLE_TELEMETRY", HUB),
    ("MLFLOW_DISABLE_TELEMETRY", MLFLOW),
    (
        "ORT_DISABLE_TELEMETRY",  # ONNX Runtime makes the id under which it reports with the first session
        "import onnx.helper as h, onnxruntime, pathlib; x, y = (h.make_tensor_value_info(n, 1, [1]) for n in 'xy');"
        "g = h.make_graph([h.make_node('Identity', ['x'], ['y'])], 'g', [x], [y]);"
        "m = h.make_model(g, opset_imports=[h.make_opsetid('', 18)], ir_version=10).SerializeToString();"
        "onnxruntime.InferenceSession(m); print((pathlib.Path.home() / '.cache/Microsoft').exists())",
    ),
    (
        "PREFECT_SERVER_ANALYTICS_ENABLED",
        "from prefect.settings import get_current_settings as s; print(s().server.analytics_enabled)",
    ),
]
"""A switch, and code that asks its library whether it would report."""


@pytest.mark.parametrize(("switch", "asks"), REPORTS, ids=[f"{switch}-{i}" for i, (switch, _) in enumerate(REPORTS)])
def test_a_switch_alone_keeps_its_library_silent(tmp_path: Path, switch: str, asks: str) -> None:
    """Without the environment variables of continuous integration and of pytest, which silence several libraries."""
    plain = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def says(environment: dict[str, str]) -> str:
        command = [sys.executable, "-c", asks]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert says(plain | {switch: SWITCHES[switch]}) == "False"
    assert says(plain) == "True"


def test_no_switch_is_without_effect() -> None:
    assert {switch for switch, _ in REPORTS} == set(SWITCHES)


def test_dvcs_look_up_of_newer_versions_is_off_in_this_repository(root: Path) -> None:
    """There is no variable for it."""
    code = "from dvc.updater import Updater; print(Updater('.dvc/tmp').is_enabled())"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
