"""Quality, size and cost of every model, and quality against cost as a chart."""

from collections.abc import Sequence
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
        chart, legend: test macro AUROC by MACs; empty where no label is eligible.
    """

    models: Sequence[Model]
    figures: Sequence[Column]
    best_teacher: str | None
    eligible: Eligible
    latency: Latency | None
    chart: Markup
    legend: Markup


def build(content: Content) -> Models:
    """The models of a run."""
    teachers = [model for model in content.models if model.role == "teacher" and "macro_auroc" in model.numbers.val]
    best = max(teachers, key=lambda model: model.numbers.val["macro_auroc"], default=None)
    dots = _dots(content)
    axes = ("million MACs per image (log scale)", "test macro AUROC")
    return Models(
        models=content.models,
        figures=columns(content.dataset.task),
        best_teacher=best.name if best else None,
        eligible=Eligible.of(content, "test"),
        latency=next((model.latency for model in content.models if model.latency), None),
        chart=charts.dot_chart(dots, "Test macro AUROC by MACs", *axes) if dots else Markup(),
        legend=charts.dot_legend(dots),
    )


def _dots(content: Content) -> list[charts.Dot]:
    """One dot per model that has the figure."""
    dots = []
    for line, model in zip(lines(content, lambda _: []), content.models, strict=True):
        auroc = model.figure("test", "macro_auroc")
        if auroc.estimate is not None and model.record.macs is not None:
            macs = model.record.macs / 1e6
            bounds = (auroc.lower, auroc.upper)
            dots.append(charts.Dot(line.name, macs, auroc.estimate, *bounds, line.colour, line.dashed))
    return dots
