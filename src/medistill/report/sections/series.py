"""One line per model in the charts of the report: a colour for each but for its seeds, dashed for baselines."""

from collections.abc import Callable, Sequence

from medistill.report import charts
from medistill.report.content import Content, Model


def lines(content: Content, points: Callable[[Model], Sequence[tuple[float, float]]]) -> list[charts.Series]:
    """A line through `points` of each model, in the order of the models."""
    kinds = list(dict.fromkeys(map(_kind, content.models)))
    return [
        charts.Series(
            f"{model.name} (teacher)" if model.role == "teacher" else model.name,
            points(model),
            kinds.index(_kind(model)) % charts.COLOURS,
            dashed=model.role == "baseline",
            dotted=kinds.index(_kind(model)) >= charts.COLOURS,
        )
        for model in content.models
    ]


def _kind(model: Model) -> tuple[str, str | None]:
    """The network and the recipe: what trainings from several seeds have in common."""
    return model.record.student or model.name, model.record.recipe
