"""Teachers from outside: what ONNX files and tables of answers have in common when they become models of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import logit

from medistill.checksums import checksums
from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.distillation.settings import OnnxTeacher, TableTeacher
from medistill.errors import UserError
from medistill.files import atomic, sha256
from medistill.layout import ModelFolder
from medistill.records.models import ModelRecord, TrainingMetrics
from medistill.training.outputs import facts_of, predicted_rows, tabulate
from medistill.training.spec import fingerprint

EPSILON = 1e-7
"""Probabilities are kept so far from 0 and 1 before they become logits, which then lie within ±16.2. Float32 knows no
probability nearer to 1 (its last step there is 6e-8), and float16, in which answers are kept, has steps of 1/64 at
16, and no number for the logit of a probability of exactly 0 or 1 that a loss could compare."""


def logits_of(probabilities: NDArray[np.floating], *, exclusive: bool) -> NDArray[np.float32]:
    """Logits of probabilities, clipped to `EPSILON` from 0 and 1: of each label, or of exclusive classes.

    Args:
        probabilities: (N, L), 0..1; a value out of it by rounding is clipped.
        exclusive: classes whose softmax the probabilities are: their logarithms, which the softmax takes back.

    Returns:
        (N, L).

    Example:
        >>> logits_of(np.array([[0.5, 1.0]]), exclusive=False).round(2).tolist()
        [[0.0, 16.1200008392334]]
    """
    clipped = np.clip(probabilities.astype(np.float64), EPSILON, 1 if exclusive else 1 - EPSILON)
    found: NDArray[np.float64] = np.log(clipped) if exclusive else logit(clipped)
    return found.astype(np.float32)


def are_no_probabilities(values: NDArray[np.floating]) -> NDArray[np.bool]:
    """Which numbers lie outside of 0..1, by more than rounding."""
    outside: NDArray[np.bool] = (values < -1e-4) | (values > 1 + 1e-4)
    return outside


def require_probabilities(values: NDArray[np.floating], where: str, instead: str) -> None:
    """Refuse numbers (N, L) that are no probabilities.

    Raises:
        UserError: one lies outside of 0..1, by more than rounding; `where` says whose they are, `instead` what to set.
    """
    bad = values[are_no_probabilities(values)]
    if len(bad):
        raise UserError(f"{where}: {bad[0]:g} is no probability; {instead}")


@dataclass(frozen=True, kw_only=True)
class Outside:
    """What a teacher from outside is, for its folder.

    Attributes:
        name: of the model.
        network: its settings.
        labels: in the order of its logits.
        params: how many numbers it has; None if that is not known.
        versions: of the libraries that read it.
        stored: file of its folder and its content.
    """

    name: str
    network: OnnxTeacher | TableTeacher
    labels: list[str]
    params: int | None
    versions: Mapping[str, str]
    stored: tuple[str, bytes]


def write_folder(
    folder: Path,
    outside: Outside,
    dataset: Dataset,
    logits: NDArray[np.float32],
    seen: list[provenance.TrainIds],
) -> None:
    """Write the folder of a teacher from outside, atomically: as of a trained model, but without history and map.

    Args:
        folder: replaced as a whole.
        outside: the teacher.
        dataset: whose val and test images it has answered.
        logits: (N, L), of these images in the order of the manifest, L its labels; NaN where it has no answer.
        seen: hashes of what it was trained on.
    """
    network = outside.network
    facts: dict[str, object] = {
        **{"role": "teacher", "name": outside.name, "network": network.model_dump(mode="json")},
        **{"weights_sha256": sha256(network.file), "labels": outside.labels, "versions": dict(outside.versions)},
        "arch": "onnx" if isinstance(network, OnnxTeacher) else "table of answers",
        **{"args": {}, "initialisation": f"file ({network.file.name})"},
        "input_size": network.input_size if isinstance(network, OnnxTeacher) else None,
        "mean": network.mean if isinstance(network, OnnxTeacher) else [],
        "std": network.std if isinstance(network, OnnxTeacher) else [],
        **{"params": outside.params, "macs": None, "map_size": None},
        **facts_of(dataset),
        "measured": bool(np.isfinite(logits).all()),
    }
    facts["fingerprint"] = fingerprint({key: str(value) for key, value in facts.items()})
    with atomic(folder) as temporary:
        temporary.mkdir()
        files = ModelFolder(temporary)
        name, content = outside.stored
        (temporary / name).write_bytes(content)
        TrainingMetrics(params=outside.params, macs=None).write(files.metrics)
        tabulate(predicted_rows(dataset), outside.labels, logits, dataset).to_parquet(files.predictions, index=False)
        provenance.write_ids(files.train_ids, provenance.union(seen))
        written = checksums(temporary.iterdir(), temporary)
        record = ModelRecord.model_validate({**facts, "model_sha256": written[name], "files": written})
        record.write(files.config)
