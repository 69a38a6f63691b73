"""Net benefit: what calling labels is worth, by how much a false alarm costs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from markupsafe import Markup

from medistill.records.curves import Decision
from medistill.records.estimate import Estimate
from medistill.report import charts
from medistill.report.charts import Axis
from medistill.report.content import Content, Model
from medistill.report.sections.series import lines

COLUMNS = 5
"""Thresholds at which differences are written out, of all that are drawn."""


@dataclass(frozen=True)
class Decisions:
    """Charts, and differences from the best teacher.

    Attributes:
        chart: the mean over labels; empty where nothing was measured.
        labels: a chart for each label, by name.
        legend: of all charts.
        thresholds: of the differences.
        rows: of each student, its differences at the thresholds.
    """

    chart: Markup
    labels: dict[str, Markup]
    legend: Markup
    thresholds: list[float]
    rows: dict[str, list[Estimate]]


def build(content: Content) -> Decisions:
    """The curves of all models that have one."""
    able = [model for model in content.models if model.evaluation.curves.decisions]
    if not able:
        return Decisions(Markup(), {}, Markup(), [], {})
    everyone = able[0].evaluation.curves.decisions
    chosen = [k * (len(everyone) - 1) // (COLUMNS - 1) for k in range(COLUMNS)]
    macro, legend = _chart(content, everyone, "Net benefit on test, mean over labels", None)
    labels = {
        label: _chart(content, everyone, f"Net benefit of {label} on test", label)[0] for label in everyone[0].labels
    }
    taught = [model for model in able if any(at.difference.estimate is not None for at in _decisions(model))]
    rows = {model.name: [_decisions(model)[k].difference for k in chosen] for model in taught}
    return Decisions(macro, labels, legend, [everyone[k].threshold for k in chosen], rows)


def _decisions(model: Model) -> Sequence[Decision]:
    return model.evaluation.curves.decisions


def _chart(content: Content, everyone: Sequence[Decision], title: str, label: str | None) -> tuple[Markup, Markup]:
    """A chart and its key, of one label or of the mean. Calling all is cut off far below 0: nobody would do it."""

    def benefits(model: Model) -> list[tuple[float, float]]:
        decisions = _decisions(model)
        return [(at.threshold, at.benefit if label is None else at.labels[label]) for at in decisions]

    of_all = [(at.threshold, at.all if label is None else at.all_labels[label]) for at in everyone]
    series = lines(content, benefits)
    floor = -max([0.0, *(up for line in series for _, up in line.points)]) / 5
    of_all = list(takewhile(lambda point: point[1] >= floor, of_all))
    without = [
        charts.Series("every image is called", of_all, None),
        charts.Series("none is", [(at.threshold, 0.0) for at in everyone], None, dashed=True),
    ]
    drawn = [line for line in [*series, *without] if line.points]
    x, y = Axis("probability from which on a label is called"), Axis("net benefit")
    return charts.line_chart(drawn, title, x, y), charts.legend(drawn)
