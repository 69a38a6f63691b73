"""Learning curves: validation macro AUROC and training loss by epoch."""

from dataclasses import dataclass
from functools import partial

from markupsafe import Markup

from medistill.report import charts
from medistill.report.charts import Axis
from medistill.report.content import Content, Model
from medistill.report.sections.series import lines

COLUMNS = {"val_macro_auroc": "Validation macro AUROC", "train_loss": "Training loss"}
"""Columns of history.csv that are drawn."""


@dataclass(frozen=True)
class Learning:
    """Charts by title, and their common key."""

    charts: dict[str, Markup]
    legend: Markup


def build(content: Content) -> Learning:
    """The curves of all models that were trained here."""
    drawn, legend = {}, Markup()
    for column, title in COLUMNS.items():
        series = [line for line in lines(content, partial(_curve, column)) if line.points]
        if series:
            x, y = Axis("epoch", whole=True), Axis(title)
            drawn[title] = charts.line_chart(series, f"{title} by epoch", x, y)
            legend = legend or charts.legend(series)
    return Learning(drawn, legend)


def _curve(column: str, model: Model) -> list[tuple[float, float]]:
    """(epoch, value) of one column of the history, without gaps."""
    points = ((_parse(row.get("epoch")), _parse(row.get(column))) for row in model.history)
    return [(epoch, value) for epoch, value in points if epoch is not None and value is not None]


def _parse(text: str | None) -> float | None:
    """A number of a CSV cell; None where it is empty or NaN."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if value == value else None
