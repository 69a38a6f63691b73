"""One line per model in the charts of the report: a colour per network, dashed for baselines."""

from collections.abc import Callable, Sequence

from medistill.report import charts
from medistill.report.content import Content, Model


def lines(content: Content, points: Callable[[Model], Sequence[tuple[float, float]]]) -> list[charts.Series]:
    """A line through `points` of each model, in the order of the models."""
    families = list(dict.fromkeys(model.family for model in content.models))
    return [
        charts.Series(
            f"{model.name} (teacher)" if model.role == "teacher" else model.name,
            points(model),
            families.index(model.family) % charts.COLOURS,
            dashed=model.role == "baseline",
        )
        for model in content.models
    ]
