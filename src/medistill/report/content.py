"""The content of the report: the records of a finished run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medistill.gate.rules import Verdict
from medistill.records.audit import Validation
from medistill.records.data import DatasetInfo
from medistill.records.estimate import Estimate
from medistill.records.evaluation import Comparison, Evaluation, ModelNumbers
from medistill.records.explain import ModelMaps
from medistill.records.export import Latency
from medistill.records.gallery import Gallery
from medistill.records.licenses import Ancestor
from medistill.records.models import ModelRecord, Role
from medistill.records.stress import ModelStress


@dataclass(frozen=True)
class Model:
    """The records of one teacher or student.

    Attributes:
        record: its config.json.
        numbers: its entry in metrics.json.
        evaluation: its file in reports/evaluation/.
        roc: points (fpr, tpr) of the macro-average on test; empty where no label is eligible.
        history: rows of history.csv as text; empty if there is none.
        latency: its latency.json; None for a teacher, or if it was not exported.
        onnx_mb: size of model.onnx in 10^6 bytes, or None.
        ancestors: what it descends from, with the licence of each; None where that was not recorded.
    """

    record: ModelRecord
    numbers: ModelNumbers
    evaluation: Evaluation
    roc: Sequence[tuple[float, float]]
    history: Sequence[Mapping[str, str]]
    latency: Latency | None
    onnx_mb: float | None
    ancestors: Sequence[Ancestor] | None

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.record.name

    @property
    def teachers(self) -> list[str]:
        """Names of its teachers."""
        return self.record.teachers

    @property
    def role(self) -> Role:
        """Its role in the run."""
        return self.record.role

    def figure(self, split: str, key: str) -> Estimate:
        """A figure of metrics.json on a split."""
        return self.numbers.figure(split, key)


@dataclass(frozen=True)
class Content:
    """The records of a run.

    Attributes:
        dataset: dataset.json.
        quarantine: (path, reason) of entries that were left out.
        validation: validation.json.
        models: teachers, then students.
        comparisons: rows of comparisons.csv.
        explain: reports/explain/metrics.json by model, or None.
        gallery: reports/explain/gallery.json, or None.
        stress: reports/stress/metrics.json by model, or None.
        verdicts: the gate's.
        ranking: names of those that passed, best first.
    """

    dataset: DatasetInfo
    quarantine: Sequence[tuple[str, str]]
    validation: Validation
    models: Sequence[Model]
    comparisons: Sequence[Comparison]
    explain: Mapping[str, ModelMaps] | None
    gallery: Gallery | None
    stress: Mapping[str, ModelStress] | None
    verdicts: Sequence[Verdict]
    ranking: Sequence[str]

    @property
    def exclusive(self) -> bool:
        """Whether the labels are exclusive classes."""
        return self.dataset.task.exclusive
