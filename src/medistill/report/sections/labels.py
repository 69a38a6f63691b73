"""AUROC and AUPRC of each label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medistill.metrics.intervals import Estimate
from medistill.report.content import Content
from medistill.report.numbers import estimate

WHERE = {"val": "validation", "test": "test"}


@dataclass(frozen=True)
class Eligible:
    """Which labels the macro means on a split hold, and why others are left out."""

    where: str
    labels: Sequence[str]
    skipped: Mapping[str, str]

    @classmethod
    def of(cls, content: Content, split: str) -> "Eligible":
        """The same for all models."""
        figures = content.models[0].evaluation[split]
        return cls(WHERE[split], figures["labels"], figures["skipped"])


@dataclass(frozen=True)
class Row:
    """One label: how many images and groups have it, and a figure per model."""

    label: str
    eligible: bool
    positives: int
    positive_groups: int
    prevalence: float | None
    figures: list[Estimate]


@dataclass(frozen=True)
class Labels:
    """Tables on test and validation; `models` are the columns."""

    models: list[str]
    auroc: list[Row]
    auprc: list[Row]
    auroc_val: list[Row]
    eligible: Eligible
    eligible_val: Eligible


def build(content: Content) -> Labels:
    """The figures of each label."""
    return Labels(
        models=[model.name for model in content.models],
        auroc=_rows(content, "test", "auroc"),
        auprc=_rows(content, "test", "auprc"),
        auroc_val=_rows(content, "val", "auroc"),
        eligible=Eligible.of(content, "test"),
        eligible_val=Eligible.of(content, "val"),
    )


def _rows(content: Content, split: str, metric: str) -> list[Row]:
    rows = []
    for label in content.dataset.labels:
        entries = [model.evaluation[split]["per_label"][label] for model in content.models]
        facts = {key: entries[0][key] for key in ("eligible", "positives", "positive_groups", "prevalence")}
        rows.append(Row(label, **facts, figures=[estimate(entry[metric]) for entry in entries]))
    return rows
