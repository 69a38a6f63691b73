"""The wiring: DVC stages, Prefect flow, MLflow tracking and registry around the library `medistill`."""
