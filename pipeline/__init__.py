"""The wiring: DVC stages, Prefect flow, MLflow tracking and registry around the library `medistill`."""

import medistill  # noqa: F401  (switches telemetry off before anything here imports MLflow, Prefect or DVC)
