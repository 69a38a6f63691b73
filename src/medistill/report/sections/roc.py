"""Macro-average ROC and precision–recall curves on test."""

from dataclasses import dataclass

from markupsafe import Markup

from medistill.report import charts
from medistill.report.charts import Axis
from medistill.report.content import Content
from medistill.report.sections.series import lines


@dataclass(frozen=True)
class Roc:
    """Charts by title, and their key; both empty where no label is eligible."""

    charts: dict[str, Markup]
    legend: Markup


def build(content: Content) -> Roc:
    """The curves of all models that have one."""
    roc = [line for line in lines(content, lambda model: model.roc) if line.points]
    precision = [line for line in lines(content, lambda model: model.evaluation.curves.precision_recall) if line.points]
    if not roc:
        return Roc({}, Markup())
    x, y = Axis("false positive rate", (0, 1)), Axis("true positive rate", (0, 1))
    title = "Mean true positive rate at equal false positive rates"
    drawn = {title: charts.line_chart(roc, f"Macro-average ROC on test: {title}", x, y, height=424, diagonal="chance")}
    if precision:
        x, y = Axis("recall (sensitivity)", (0, 1)), Axis("precision (PPV)", (0, 1))
        title = "Mean precision at equal recall"
        drawn[title] = charts.line_chart(precision, f"Precision–recall on test: {title}", x, y, height=424)
    return Roc(drawn, charts.legend(roc))
