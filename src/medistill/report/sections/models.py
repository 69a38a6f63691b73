"""Quality, size and cost of every model, and quality against cost as a chart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from medistill.records.export import Latency
from medistill.report import charts
from medistill.report.content import Content, Model
from medistill.report.figures import Column, columns
from medistill.report.sections.labels import Eligible
from medistill.report.sections.series import lines


@dataclass(frozen=True)
class Models:
    """The table of models.

    Attributes:
        figures: its columns.
        best_teacher: on validation; None where no label is eligible there.
        eligible: labels in the macro means on test.
        latency: of any exported model, which says how it was measured; None if there is none.
        charts: test macro AUROC by latency and by MACs, by what they show; empty where no label is eligible.
        legend: of these.
        front: students than which no other is both faster and better.
    """

    models: Sequence[Model]
    figures: Sequence[Column]
    best_teacher: str | None
    eligible: Eligible
    latency: Latency | None
    charts: dict[str, Markup]
    legend: Markup
    front: Sequence[str]


def build(content: Content) -> Models:
    """The models of a run."""
    teachers = [model for model in content.models if model.role == "teacher" and "macro_auroc" in model.numbers.val]
    best = max(teachers, key=lambda model: model.numbers.val["macro_auroc"], default=None)
    drawn, y = {}, "test macro AUROC"
    timed, counted = _dots(content, _latency), _dots(content, _macs)
    if timed:
        title, x = "Test macro AUROC by latency", "milliseconds per image (log scale)"
        drawn[title] = charts.dot_chart(timed, title, x, y)
    if counted:
        title, x = "Test macro AUROC by arithmetic", "million MACs per image (log scale)"
        drawn[title] = charts.dot_chart(counted, title, x, y)
    return Models(
        models=content.models,
        figures=[column for column in columns(content.dataset.task) if not column.optional or _has(content, column)],
        best_teacher=best.name if best else None,
        eligible=Eligible.of(content, "test"),
        latency=next((model.latency for model in content.models if model.latency), None),
        charts=drawn,
        legend=charts.dot_legend(counted or timed),
        front=_front(timed),
    )


def _latency(model: Model) -> float | None:
    return model.latency.p50_ms if model.latency else None


def _macs(model: Model) -> float | None:
    return None if model.record.macs is None else model.record.macs / 1e6


def _front(dots: Sequence[charts.Dot]) -> list[str]:
    """Names of the dots that no other beats in one coordinate and equals at least in the other."""

    def is_beaten(dot: charts.Dot) -> bool:
        return any(one.x <= dot.x and one.y >= dot.y and (one.x, one.y) != (dot.x, dot.y) for one in dots)

    return [dot.name for dot in dots if not is_beaten(dot)]


def _has(content: Content, column: Column) -> bool:
    """Whether any model has the figure of a column."""
    return any(column.key in model.numbers.on(column.split) for model in content.models)


def _dots(content: Content, cost: Callable[[Model], float | None]) -> list[charts.Dot]:
    """One dot per model that has the figure and the cost."""
    dots = []
    for line, model in zip(lines(content, lambda _: []), content.models, strict=True):
        auroc, x = model.figure("test", "macro_auroc"), cost(model)
        if auroc.estimate is not None and x:
            bounds = (auroc.lower, auroc.upper)
            dots.append(charts.Dot(line.name, x, auroc.estimate, *bounds, line.colour or 0, line.dashed))
    return dots
