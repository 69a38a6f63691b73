"""Thresholds: what validation promises of them, and what test shows."""

from collections.abc import Sequence
from dataclasses import dataclass

from medistill.records.evaluation import OperatingPoint
from medistill.report.content import Content


@dataclass(frozen=True)
class Table:
    """One promise: a row of points by label, a point for each model."""

    kind: str
    promised: float
    rows: dict[str, list[OperatingPoint]]

    @property
    def other(self) -> str:
        """What is paid for it."""
        return "specificity" if self.kind == "sensitivity" else "sensitivity"

    @property
    def least(self) -> int:
        """Fewest patients that can promise it."""
        return round(1 / (1 - self.promised)) - 1


@dataclass(frozen=True)
class Operating:
    """Tables, the first of them open; `models` are the columns."""

    models: Sequence[str]
    tables: Sequence[Table]


def build(content: Content) -> Operating:
    """The points of every model; all have the same ones."""
    labels = content.dataset.labels
    points = content.models[0].evaluation.operating[labels[0]]
    tables = [
        Table(
            point.kind,
            point.promised,
            {label: [model.evaluation.operating[label][k] for model in content.models] for label in labels},
        )
        for k, point in enumerate(points)
    ]
    return Operating([model.name for model in content.models], tables)
