"""Nothing that medistill uses reports home: the one place that says so to every library.

A library reads its variable when it is imported, and the processes that it starts inherit the environment. A user who
has set a variable keeps it.
"""

import os

SWITCHES = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
"""Environment variable -> the value by which a library keeps silent."""


def switch_off() -> None:
    """Switch every library's telemetry off that has not been imported yet."""
    for variable, silent in SWITCHES.items():
        os.environ.setdefault(variable, silent)
