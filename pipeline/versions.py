"""Versions of the registered model: each an exported student, found by the bytes of its ONNX file.

A version is made in three steps: a logged model with the file's checksum as a tag, its files, the version that refers
to it. If a process is killed between two steps, the next one finds the tag and completes the version.
"""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medistill.files import sha256
from medistill.layout import HERE, ExportFolder, Layout
from medistill.records.gate import Release
from pipeline.store import local_folder
from pipeline.tracking import CURVES, pages

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

NAME = "medistill"
"""The registered model; its versions are students."""
SHA = "onnx_sha256"
"""Tag that identifies a version: the checksum of the exported file, independent of figures and time."""
FILES = ("MLmodel", HERE.export("any").onnx.name, "requirements.txt", "python_env.yaml", "conda.yaml")
"""What MLflow needs to load a version."""


def versions(client: "MlflowClient") -> dict[str, str]:
    """Version by sha256 of its ONNX file."""
    return {version.tags[SHA]: str(version.version) for version in _all_versions(client) if SHA in version.tags}


def _all_versions(client: "MlflowClient") -> list["ModelVersion"]:
    return pages(lambda token: client.search_model_versions(f"name = '{NAME}'", page_token=token))


def forgotten(client: "MlflowClient", run: str) -> list[str]:
    """Logged models to which no version refers, `name (id)` each, in the experiment of a run.

    A killed `promote` left them, and they are never completed if their model has been retrained since.
    """
    experiment = client.get_run(run).info.experiment_id
    referred = {_logged_of(version) for version in _all_versions(client)}
    logged = pages(lambda token: client.search_logged_models([experiment], page_token=token))
    left = (model for model in logged if SHA in model.tags and model.model_id not in referred)
    return sorted(f"{model.name} ({model.model_id})" for model in left)


def _logged_of(version: "ModelVersion") -> str:
    """Id of the logged model to which a version refers."""
    assert version.source is not None  # it was given when the version was made
    return version.source.removeprefix("models:/")


def register(client: "MlflowClient", root: Path, model: Release, run: str) -> str:
    """Version of `model`; created if there is none, with the ONNX file logged in the model's run."""
    from mlflow.exceptions import MlflowException

    sha = model.onnx_sha256
    assert sha is not None  # the gate refuses a student that was not exported
    known = versions(client).get(sha)
    if known is not None:
        return known
    model_id = _logged(client, model, sha, run)
    if not _is_whole(client, model_id, sha):
        _log_files(client, root, model_id, Layout(root).export(model.model), run)
    _complete(client, model_id, run)
    try:
        client.create_registered_model(NAME, description="Students that passed the gate. Not a medical device.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {
        "model": model.model,
        SHA: sha,
        "dataset_fingerprint": model.dataset_fingerprint,
        **({} if model.val_macro_auroc is None else {"val_macro_auroc": repr(model.val_macro_auroc)}),
    }
    version = client.create_model_version(NAME, f"models:/{model_id}", run_id=run, tags=tags)
    return str(version.version)


def mend(client: "MlflowClient", root: Path, model: Release) -> bool:
    """Log the files of a version again if they are missing or differ, from any export that holds the same bytes.

    Returns:
        Whether the version's files are complete now.
    """
    from mlflow.exceptions import MlflowException

    assert model.version is not None  # it is in the registry,
    assert model.onnx_sha256 is not None  # so it was exported
    version = client.get_model_version(NAME, model.version)
    model_id = _logged_of(version)
    try:
        if _is_whole(client, model_id, model.onnx_sha256):
            return True
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False  # the logged model itself has been deleted
    for export in Layout(root).exports():
        if sha256(export.onnx) == model.onnx_sha256:
            _log_files(client, root, model_id, export, version.run_id)
            return True
    return False


def _logged(client: "MlflowClient", model: Release, sha: str, run: str) -> str:
    """Id of the logged model with the file's checksum, which a killed process may have left; else of a new one."""
    run_of = client.get_run(run)
    experiment = run_of.info.experiment_id
    left = client.search_logged_models([experiment], f"tags.{SHA} = '{sha}'", max_results=1)
    if left:
        return left[0].model_id
    made = client.create_logged_model(
        experiment, model.model, source_run_id=run, tags={SHA: sha}, params=run_of.data.params
    )
    return made.model_id


def _log_files(client: "MlflowClient", root: Path, model_id: str, export: ExportFolder, run: str | None) -> None:
    """Put the files of an export into a logged model, as MLflow loads them; the network's bytes are the export's."""
    import mlflow
    import onnx
    import onnxruntime
    from mlflow.models import Model as MlflowModel

    network = onnx.load(export.onnx)
    extra = [export.bundle, export.card]
    described = MlflowModel(
        artifact_path=client.get_logged_model(model_id).artifact_location,
        run_id=run,
        model_uuid=model_id,
        model_id=model_id,
    )
    stored = Layout(root).version_files
    shutil.rmtree(stored, ignore_errors=True)
    try:
        mlflow.onnx.save_model(
            network,
            stored,
            mlflow_model=described,
            signature=_signature(network),
            pip_requirements=[f"onnx=={onnx.__version__}", f"onnxruntime=={onnxruntime.__version__}"],
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,  # one file, as it goes to the device
            extra_files=[str(path) for path in extra if path.is_file()],
        )
        shutil.copyfile(export.onnx, ExportFolder(stored).onnx)  # MLflow wrote it anew
        client.log_model_artifacts(model_id, str(stored))
    finally:
        shutil.rmtree(stored, ignore_errors=True)


def _complete(client: "MlflowClient", model_id: str, run: str) -> None:
    """Mark a logged model as ready, show the run's figures with it, and let the run refer to it."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric

    if client.get_logged_model(model_id).status != LoggedModelStatus.READY:
        client.finalize_logged_model(model_id, LoggedModelStatus.READY)
    run_of, now = client.get_run(run), int(time.time() * 1000)
    outputs = run_of.outputs.model_outputs if run_of.outputs else []
    if model_id in (output.model_id for output in outputs):
        return
    figures = {key: value for key, value in run_of.data.metrics.items() if not key.startswith(CURVES)}
    metrics = [Metric(key, value, now, 0, model_id=model_id, run_id=run) for key, value in figures.items()]
    client.log_batch(run, metrics=metrics)
    client.log_outputs(run, [LoggedModelOutput(model_id, step=0)])


def _is_whole(client: "MlflowClient", model_id: str, onnx_sha256: str) -> bool:
    """Whether a logged model's files are complete; compared byte for byte on this machine."""
    stored = local_folder(client.get_logged_model(model_id).artifact_location)
    if stored is not None:
        return all((stored / name).is_file() for name in FILES) and sha256(ExportFolder(stored).onnx) == onnx_sha256
    return set(FILES) <= {item.path for item in client.list_logged_model_artifacts(model_id)}


def _signature(network: Any) -> Any:
    """MLflow's signature from the ONNX graph's own inputs and outputs."""
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    def specs(values: Any) -> list[ColSpec | TensorSpec]:
        return [
            TensorSpec(
                onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type),
                tuple(d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim),
                value.name,
            )
            for value in values
        ]

    return ModelSignature(Schema(specs(network.graph.input)), Schema(specs(network.graph.output)))
