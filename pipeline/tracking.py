"""MLflow as a projection of DVC's outputs: one run per trained model, complete after a cache hit or `dvc pull`.

Nothing is logged while stages run. `track` reads their outputs and brings MLflow to the same state:

* A run stands for one trained model: DVC stage, md5 of its output, parameters. Training it anew makes a new run.
* The figures of that model are refreshed in place when an evaluation, export or explanation changes, so a
  registered version keeps pointing at the run that shows its current figures. MLflow keeps the earlier values of a
  metric; a figure that the new evaluation lacks becomes NaN, since MLflow cannot take a metric back.
* Runs of the present graph have the tag `current: true`.
"""

import csv
import dataclasses
import filecmp
import hashlib
import json
import math
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat, TypeGuard

from medistill.checksums import what_to_run
from medistill.errors import UserError
from medistill.files import sha256
from medistill.gate.facts import read_metrics
from medistill.layout import HERE, Layout, ReportsFolder
from medistill.params import Params
from medistill.records.base import Sealed, read_each
from medistill.records.data import DatasetInfo
from medistill.records.evaluation import ModelNumbers
from medistill.records.explain import ModelMaps
from medistill.records.export import Latency, Parity
from medistill.records.licenses import read_recorded
from medistill.records.models import ModelRecord, TrainingMetrics
from medistill.text import printable
from pipeline.graph import Ran, examine, read_lock
from pipeline.locks import exclusive
from pipeline.processes import server
from pipeline.store import REBUILT, is_users, local_folder, open_store, shown_uri, store_errors, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "medistill"
FIGURES = "figures_md5"
"""Tag with the md5 of everything a run shows; written last, so a run that was cut short is completed next time."""
STAGE, OUT = "dvc.stage", "dvc.out_md5"
CURVES = "curves/"
"""Prefix of the metrics that have one value per epoch, apart from the final figures of the same name."""
BATCH = 1000
"""MLflow's limit of metrics in one call."""


@dataclasses.dataclass(frozen=True)
class Projection:
    """The data that MLflow shows of one model.

    Attributes:
        model: its name, also the run's.
        params: settings it was trained with, from dvc.lock and its config.json.
        metrics: final figures by name.
        curves: (name, epoch, value) of history.csv.
        tags: role, student, recipe, seed, task, licences, provenance.
        artifacts: (file, folder in the run).
        dataset: name and fingerprint.
    """

    model: str
    params: dict[str, str]
    metrics: dict[str, float]
    curves: list[tuple[str, int, float]]
    tags: dict[str, str]
    artifacts: list[tuple[Path, str]]
    dataset: tuple[str, str]

    @property
    def digest(self) -> str:
        """Md5 of everything it shows: while it is the same, the run need not be updated."""
        digest = hashlib.md5(usedforsecurity=False)
        shown = [self.params, self.metrics, self.curves, self.tags, self.dataset]
        digest.update(json.dumps(shown, sort_keys=True).encode())
        for path, folder in self.artifacts:
            digest.update(f"{folder}/{path.name}:".encode() + path.read_bytes())
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Tracked:
    """The changes made by `track`: names of models, and the run of each."""

    created: list[str]
    updated: list[str]
    unchanged: list[str]
    runs: dict[str, str]


def track(params: Params, root: Path) -> Tracked:
    """Bring MLflow to the state of DVC's outputs; a second call changes nothing.

    Args:
        params: the settings; their roster says which models there are.
        root: the repository's root.

    Raises:
        UserError: a stage has not run or is out of date, or MLflow cannot be reached; the message says what to run.
    """
    from tqdm import tqdm

    projections = project(params, root)
    with exclusive(root, "mlflow", wait=True), store_errors(root):
        client = open_store(root)
        experiment = _experiment(client, root)
        runs: list[Run] = pages(lambda token: client.search_runs([experiment], page_token=token))
        created, updated, unchanged, ids = [], [], [], {}
        for item in tqdm(projections, desc="track", unit="model", disable=None, leave=False):
            run = next((run for run in runs if _is_of(run, item)), None)
            if run is None:
                run = client.create_run(experiment, run_name=item.model, tags=item.tags)
                created.append(item.model)
            elif run.data.tags.get(FIGURES) != item.digest or not _has_files(client, run, item):
                updated.append(item.model)
            else:
                unchanged.append(item.model)
            ids[item.model] = run.info.run_id
            if item.model not in unchanged:
                _log(client, run, item)
        for run in runs:
            if run.info.run_id not in ids.values() and run.data.tags.get("current") == "true":
                client.set_tag(run.info.run_id, "current", "false")
        for item in projections:
            client.set_tag(ids[item.model], "current", "true")
    return Tracked(created, updated, unchanged, ids)


def project(params: Params, root: Path) -> list[Projection]:
    """Read the data that MLflow shows of every teacher and student of the run; MLflow itself is not needed.

    Raises:
        UserError: a model or the evaluation is missing, damaged or out of date; the message names the stage to run.
    """
    lock, layout = read_lock(root), Layout(root)
    run = params.run
    stages = {name: f"train_teacher@{teacher}" for teacher in run.teachers for name in params.members(teacher)}
    stages |= {name: f"train_assistant@{teacher}" for teacher in run.assistants for name in params.members(teacher)}
    stages |= {model.name: f"distill@{model.name}" for model in params.student_models()}
    for name, stage in stages.items():
        if stage not in lock or not layout.model(name).config.is_file():
            folder = HERE.model(name).folder
            raise UserError(f"{folder}: not there; run `dvc repro {stage}`, or `dvc pull` if a remote has it")
    if "evaluate" not in lock or not layout.reports.metrics.is_file():
        raise UserError(f"{HERE.reports.metrics}: not there; run `dvc repro evaluate`")
    exports = {f"export@{model.name}": model.name for model in params.student_models()}
    for stage, name in exports.items():
        if stage not in lock and layout.export(name).folder.exists():
            raise UserError(f"{HERE.export(name).folder}: it is not in dvc.lock; run `dvc repro {stage}`")
    check_up_to_date(
        root,
        [
            *dict.fromkeys(stages.values()),
            *(stage for stage in ("licenses", "evaluate", "explain", *exports) if stage in lock),
        ],
    )
    # dvc.lock proves nothing about files that `dvc commit` has recorded
    records = {name: ModelRecord.read_whole(layout.model(name).config) for name in stages}
    for name, record in records.items():
        _require_weights(params, root, stages[name], record)
    metrics, explained = read_metrics(layout.reports), {}
    if "explain" in lock:
        maps = layout.reports.explain
        Sealed.read_whole(maps.record)
        explained = read_each(maps.metrics, ModelMaps, what_to_run(maps.record))
    dataset = printable(DatasetInfo.read(layout.processed.record).name)
    return [
        _project(layout, lock, stage, records[name], metrics.get(name), explained.get(name), dataset)
        for name, stage in stages.items()
    ]


def _require_weights(params: Params, root: Path, stage: str, record: ModelRecord) -> None:
    """Refuse a model whose initial weights, a user's file outside of DVC's graph, have changed since its training.

    Raises:
        UserError: names the file, and the command that trains the model again.
    """
    network = params.students[record.student] if record.student else params.teacher_models()[record.name]
    if network.file and sha256(root / network.file) != record.weights_sha256:
        raise UserError(
            f"{network.file}: changed since {record.name} was trained from it; run `dvc repro --force {stage}`"
        )


def check_up_to_date(root: Path, stages: list[str]) -> None:
    """Refuse figures that were measured on other models than those on disk, and files that differ from dvc.lock.

    Raises:
        UserError: names the first stage that is out of date, or the first file, and what to do.
    """
    stale, altered = examine(root, stages)
    for stage, changed in stale.items():
        raise UserError(f"stage {stage} is out of date ({', '.join(changed)}); run `dvc repro`")
    for item in altered:
        raise UserError(
            f"{item.file}: differs from dvc.lock, although DVC does not notice; "
            f"delete {' and '.join([item.out, *item.objects])}, then run `dvc repro`"
        )


def _experiment(client: "MlflowClient", root: Path) -> str:
    """Id of the experiment, created on first use; artifacts lie in mlruns unless a server decides."""
    location = None if is_users() else Layout(root.resolve()).mlflow_files.as_uri()
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        return client.create_experiment(EXPERIMENT, location)
    if location is not None and found.artifact_location != location:
        raise UserError(
            f"{Layout(root).mlflow_database} keeps its files in {found.artifact_location}: this folder was moved or "
            f"copied; {REBUILT}"
        )
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return found.experiment_id


def pages(search: Callable[[str | None], Any]) -> list[Any]:
    """All results of a search of MLflow's client, which returns them page by page."""
    page = search(None)
    found = list(page)
    while page.token:
        page = search(page.token)
        found += page
    return found


def _is_of(run: "Run", item: Projection) -> bool:
    """Whether `run` stands for this model; parameters that an earlier version did not log are ignored."""
    tags, params = run.data.tags, run.data.params
    same = all(tags.get(key) == item.tags[key] for key in (STAGE, OUT))
    return same and all(params.get(key, value) == value for key, value in item.params.items())


def _has_files(client: "MlflowClient", run: "Run", item: Projection) -> bool:
    """Whether the run's files are complete: compared byte for byte on this machine, else by name and size."""
    stored = local_folder(run.info.artifact_uri)
    if stored is not None:
        copies = [(path, stored / folder / path.name) for path, folder in item.artifacts]
        return all(copy.is_file() and filecmp.cmp(path, copy, shallow=False) for path, copy in copies)
    folders = {folder for _, folder in item.artifacts}
    sizes = {file.path: file.file_size for folder in folders for file in client.list_artifacts(run.info.run_id, folder)}
    return all(sizes.get(f"{folder}/{path.name}") == path.stat().st_size for path, folder in item.artifacts)


def _log(client: "MlflowClient", run: "Run", item: Projection) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    run_id, now = run.info.run_id, int(time.time() * 1000)
    gone = {key for key in run.data.metrics if not key.startswith(CURVES)} - set(item.metrics)
    figures = [Metric(key, value, now, 0) for key, value in item.metrics.items()]
    figures += [Metric(key, math.nan, now, 0) for key in gone]
    if not any(key.startswith(CURVES) for key in run.data.metrics):  # they belong to the model and never change
        figures += [Metric(CURVES + name, value, now, epoch) for name, epoch, value in item.curves]
    params = [Param(key, value) for key, value in item.params.items() if key not in run.data.params]
    client.log_batch(run_id, params=params, tags=[RunTag(key, value) for key, value in item.tags.items()])
    for start in range(0, len(figures), BATCH):
        client.log_batch(run_id, metrics=figures[start : start + BATCH])
    if run.inputs is None or not run.inputs.dataset_inputs:
        name, fingerprint = item.dataset
        # MLflow stores 36 characters of a digest; the whole fingerprint is a tag.
        data = Dataset(name, fingerprint[:36], "local", json.dumps({"uri": str(HERE.processed.folder)}))
        client.log_inputs(run_id, [DatasetInput(data, [InputTag("mlflow.data.context", "training")])])
    for path, folder in item.artifacts:
        client.log_artifact(run_id, str(path), folder)
    client.set_terminated(run_id)
    client.set_tag(run_id, FIGURES, item.digest)


def _project(
    layout: Layout,
    lock: dict[str, Ran],
    stage: str,
    record: ModelRecord,
    figures: ModelNumbers | None,
    explained: ModelMaps | None,
    dataset: str,
) -> Projection:
    name, model, export = record.name, layout.model(record.name), layout.export(record.name)
    # the training's own best validation AUROC gives way to evaluate's
    metrics: dict[str, object] = {**TrainingMetrics.read(model.metrics, what_to_run(model.config)).to_json()}
    if figures is not None:
        metrics |= {f"{split}_{key}": value for split in ("val", "test") for key, value in figures.on(split).items()}
    metrics |= {"params": record.params, "macs": record.macs}
    if explained is not None:
        metrics |= {f"explain_{key}": value for key, value in explained.numbers().items()}
    if f"export@{name}" in lock:
        Sealed.read_whole(export.bundle)
        latency = Latency.read(export.latency)
        parity = Parity.read(export.parity, what_to_run(export.bundle))
        metrics |= {"latency_p50_ms": latency.p50_ms, "latency_p95_ms": latency.p95_ms, "onnx_mb": latency.onnx_mb}
        metrics["parity_max_abs_logit_difference"] = parity.max_abs_logit_difference
    matrix = {"student": record.student, "recipe": record.recipe, "seed": record.seed}
    tags = {
        "role": record.role,
        **{key: str(value) for key, value in matrix.items() if value is not None},
        "task": record.task,
        "arch": record.arch,
        "initialisation": record.initialisation,
        **_licenses(layout.reports, name),
        "dataset": dataset,
        "dataset_fingerprint": record.dataset_fingerprint,
        STAGE: stage,
        OUT: _out_md5(lock[stage], stage, HERE.model(name).folder),
    }
    files = [
        *((file, "model") for file in (model.config, model.metrics, model.history)),
        *((file, "evaluation") for file in (layout.reports.evaluation(name), layout.reports.roc(name))),
        (layout.reports.licenses(name), "licenses"),
        *((file, "export") for file in (export.card, export.applied_card, export.bundle)),
        *((file, "export") for file in (export.parity, export.latency)),
    ]
    return Projection(
        model=name,
        params=_settings(record, lock[stage].params.get("params.yaml", {})),
        metrics={key: float(value) for key, value in metrics.items() if _is_number(value)},
        curves=_curves(model.history),
        tags={key: printable(value) for key, value in tags.items()},
        artifacts=[(path, where) for path, where in files if path.is_file()],
        dataset=(dataset, record.dataset_fingerprint),
    )


def _licenses(reports: ReportsFolder, model: str) -> dict[str, str]:
    """The tag with the licences of a model's ancestors, each once; the artifact has the ancestors, too."""
    ancestors = read_recorded(reports, model)
    return {} if ancestors is None else {"licenses": ", ".join(sorted({ancestor.shown for ancestor in ancestors}))}


def _out_md5(ran: Ran, stage: str, folder: Path) -> str:
    """Of the folder, or of the one of all seeds that it is in."""
    outs = {out.path: out.md5 for out in ran.outs}
    found = outs.get(folder.as_posix()) or outs.get(folder.parent.as_posix())
    if found is None:
        raise UserError(f"dvc.lock: {stage}: no md5 of {folder}; run `dvc repro --force {stage}`")
    return found


def _settings(record: ModelRecord, recorded: Mapping[str, object]) -> dict[str, str]:
    """The parameters of a run: what dvc.lock recorded when the model was trained, not what params.yaml says today."""
    sections = {key: value for key, value in recorded.items() if isinstance(value, Mapping)}
    network = next((value for key, value in sections.items() if key.startswith(("teachers.", "students."))), {})
    recipe = next((value for key, value in sections.items() if key.startswith("recipes.")), {})
    facts: tuple[str, ...] = ("arch", "args", "initialisation", "image_size", "channels", "fit")
    facts += ("student", "recipe", "seed", "teachers", "combine", "terms", "stages")
    settings = {
        **sections.get("training", {}),
        **network.get("training", {}),
        **{f"augmentation.{key}": value for key, value in sections.get("augmentation", {}).items()},
        **sections.get("teach", {}),
        **{key: value for key, value in recipe.items() if key != "views"},
        **{key: value for key, value in record.to_json().items() if key in facts},
    }
    return {key: printable(value) if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}


def _curves(path: Path) -> list[tuple[str, int, float]]:
    """The content of history.csv, which a frozen teacher does not have."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [
            (name, int(float(row["epoch"])), float(value))
            for row in csv.DictReader(file)
            for name, value in row.items()
            if name != "epoch" and _is_number(value)
        ]


def _is_number(value: Any) -> TypeGuard[SupportsFloat | str]:
    if isinstance(value, bool):
        return False
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def serve_ui(root: Path, port: int) -> None:
    """Serve the MLflow UI of `root` on 127.0.0.1 until Ctrl-C or SIGTERM; its processes end with it.

    Raises:
        UserError: the port is taken, or the server does not come up.
    """
    uri = tracking_uri(root)
    if uri.startswith(("http://", "https://")):
        print(f"MLflow runs at {shown_uri(root)} (MLFLOW_TRACKING_URI)")
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise UserError(f"port {port} is taken; choose another with --port") from None
    address = f"http://127.0.0.1:{port}"
    # By default MLflow takes any host that begins as a private address does, `10.evil.example` among them.
    hosts = [f"127.0.0.1:{port}", f"localhost:{port}"]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--allowed-hosts", ",".join(hosts)]
    command += ["--cors-allowed-origins", ",".join(f"http://{host}" for host in hosts)]
    command += ["--x-frame-options", "SAMEORIGIN", "--workers", "1"]
    # A database's address may hold a password, and a command line is visible to everybody on the machine.
    environment = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_REGISTRY_STORE_URI": uri}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with server(command, f"{address}/health", root, environment=environment) as process:
            print(f"MLflow: {address} (Ctrl-C ends it)", flush=True)
            process.wait()
        raise UserError(f"the MLflow server on port {port} ended with code {process.returncode}")
    except KeyboardInterrupt:
        print("MLflow ended")
