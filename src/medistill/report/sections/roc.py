"""Macro-average ROC curves on test."""

from dataclasses import dataclass

from markupsafe import Markup

from medistill.report import charts
from medistill.report.charts import Axis
from medistill.report.content import Content
from medistill.report.sections.series import lines


@dataclass(frozen=True)
class Roc:
    """A chart and its key; both empty where no label is eligible."""

    chart: Markup
    legend: Markup


def build(content: Content) -> Roc:
    """The curves of all models that have one."""
    series = [line for line in lines(content, lambda model: model.roc) if line.points]
    if not series:
        return Roc(Markup(), Markup())
    x, y = Axis("false positive rate", (0, 1)), Axis("true positive rate", (0, 1))
    chart = charts.line_chart(series, "Macro-average ROC on test", x, y, height=424, diagonal=True)
    return Roc(chart, charts.legend(series))
