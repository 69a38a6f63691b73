"""What a calibration that validation fits makes of each model's probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass

from medistill.evaluation.figures import figures_of
from medistill.records.estimate import Estimate
from medistill.report.content import Content, Model
from medistill.report.figures import SPLITS

SHOWN = ("brier", "log_loss", "calibration_slope", "calibration_intercept")
"""Figures that are shown before and after."""


@dataclass(frozen=True)
class Row:
    """A model, or a label of one: how its logits are changed, and pairs of figures before and after.

    Attributes:
        name: of the model or label.
        slopes: the least and the greatest.
        intercepts: the same.
        pairs: before and after of each figure.
    """

    name: str
    slopes: tuple[float, float]
    intercepts: tuple[float, float]
    pairs: list[tuple[Estimate, Estimate]]


@dataclass(frozen=True)
class Table:
    """Rows on one split; the first table is open."""

    title: str
    rows: list[Row]


@dataclass(frozen=True)
class Calibrations:
    """Tables, the first of them open; `figures` are the titles of the pairs."""

    figures: Sequence[str]
    tables: Sequence[Table]


def build(content: Content) -> Calibrations:
    """Every model on test and on validation, then each model's labels on test."""
    titles = {figure.name: figure.title for figure in figures_of(content.dataset.task)}
    tables = [
        Table(f"Means over labels on {SPLITS[split]}", [_of_model(model, split) for model in content.models])
        for split in ("test", "val")
    ]
    tables += [Table(f"{model.name}: labels on test", _of_labels(model)) for model in content.models]
    return Calibrations([titles[name] for name in SHOWN], tables)


def _of_model(model: Model, split: str) -> Row:
    before, found = model.evaluation.on(split), model.evaluation.calibration
    after = {"val": found.val, "test": found.test}[split]
    slopes, intercepts = found.slopes.values(), found.intercepts.values()
    pairs = [(before.figure(f"macro_{name}"), after.figure(f"macro_{name}")) for name in SHOWN]
    return Row(model.name, (min(slopes), max(slopes)), (min(intercepts), max(intercepts)), pairs)


def _of_labels(model: Model) -> list[Row]:
    found, rows = model.evaluation.calibration, []
    for label, before in model.evaluation.test.per_label.items():
        after = found.test.per_label[label]
        slope, intercept = found.slopes[label], found.intercepts[label]
        pairs = [(before.figure(name), after.figure(name)) for name in SHOWN]
        rows.append(Row(label, (slope, slope), (intercept, intercept), pairs))
    return rows
