"""Reliability: how often a label is present where a model gives it so and so much probability."""

from dataclasses import dataclass

from markupsafe import Markup

from medistill.report import charts
from medistill.report.charts import Axis
from medistill.report.content import Content
from medistill.report.sections.series import lines

OPEN = 6
"""Charts that are not folded."""


@dataclass(frozen=True)
class Reliability:
    """Charts by model.

    Attributes:
        shown, folded: the first ones, and the others.
        legend: of all.
        bins: of each chart.
        outside: by model, how many bins have a rate outside of the band, and how many bins there are.
    """

    shown: dict[str, Markup]
    folded: dict[str, Markup]
    legend: Markup
    bins: int
    outside: dict[str, tuple[int, int]]


def build(content: Content) -> Reliability:
    """A chart of each model that has bins."""
    drawn, outside = {}, {}
    keys: dict[str, charts.Series] = {}
    for line, model in zip(lines(content, lambda _: []), content.models, strict=True):
        curves = model.evaluation.curves
        bins = curves.reliability
        if not bins:
            continue
        answered = [(one.probability, one.rate) for one in bins]
        series = [charts.Series("as the model answers", answered, 0, marked=True)]
        if curves.recalibrated != [(round(x, 6), round(y, 6)) for x, y in answered]:
            series.append(
                charts.Series("once calibrated on validation", curves.recalibrated, 1, dashed=True, marked=True)
            )
        keys |= {one.name: one for one in series}
        band = [(one.probability, one.lower, one.upper) for one in bins]
        x, y = Axis("mean probability", (0, 1)), Axis("share with the label", (0, 1))
        title = f"Reliability of {model.name} on test"
        drawn[line.name] = charts.line_chart(series, title, x, y, 424, "each probability is right", band)
        outside[model.name] = (sum(not one.lower <= one.rate <= one.upper for one in bins), len(bins))
    names = list(drawn)
    return Reliability(
        shown={name: drawn[name] for name in names[:OPEN]},
        folded={name: drawn[name] for name in names[OPEN:]},
        legend=charts.legend(list(keys.values())),
        bins=max((count for _, count in outside.values()), default=0),
        outside=outside,
    )
