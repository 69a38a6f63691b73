"""Risk by coverage: how many calls are wrong among those of which a model is surest."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from medistill.records.estimate import Estimate
from medistill.records.evaluation import Comparison
from medistill.report import charts
from medistill.report.charts import Axis
from medistill.report.content import Content
from medistill.report.sections.series import lines


@dataclass(frozen=True)
class Row:
    """A model: the area, and the share of wrong calls among all and among the surer half."""

    model: str
    area: Estimate
    all: float
    half: float


@dataclass(frozen=True)
class Abstention:
    """A chart and its key, both empty where there is no curve; models, and differences of their areas."""

    exclusive: bool
    chart: Markup
    legend: Markup
    models: Sequence[Row]
    differences: Sequence[Comparison]


def build(content: Content) -> Abstention:
    """The curves of all models that have one."""
    series = [line for line in lines(content, lambda model: model.evaluation.curves.risk_coverage) if line.points]
    if not series:
        return Abstention(content.exclusive, Markup(), Markup(), [], [])
    key = "aurc" if content.exclusive else "macro_aurc"
    models = []
    for model in content.models:
        risks = dict(model.evaluation.curves.risk_coverage)
        if risks:
            models.append(Row(model.name, model.figure("test", key), risks[1.0], risks[0.5]))
    x, y = Axis("coverage: share of images that are kept", (0, 1)), Axis("risk: share of wrong calls")
    return Abstention(
        exclusive=content.exclusive,
        chart=charts.line_chart(series, "Risk by coverage on test", x, y),
        legend=charts.legend(series),
        models=models,
        differences=[row for row in content.comparisons if (row.split, row.metric) == ("test", key)],
    )
