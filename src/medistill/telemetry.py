"""Switching off the telemetry of all libraries that medistill uses.

A library reads its variable when it is imported, and the processes that it starts inherit the environment. A user who
has set a variable keeps it. DVC has none for its look-up of newer versions, which .dvc/config switches off; Great
Expectations no longer has anything to switch off. A test listens to the network while every command runs.
"""

import os

SWITCHES = {
    "DO_NOT_TRACK": "true",  # Prefect's client, which has no variable of its own; MLflow takes no other value
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # timm's weights come through it
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime gathers events in ~/.cache, under an id, and sends them
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
"""Environment variable -> the value by which a library keeps silent."""


def switch_off() -> None:
    """Switch every library's telemetry off that has not been imported yet."""
    for variable, silent in SWITCHES.items():
        os.environ.setdefault(variable, silent)
