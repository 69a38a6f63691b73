"""Columns of the report's table of models: figures of `evaluation.figures`, and their differences."""

from collections.abc import Iterator
from dataclasses import dataclass

from medistill.evaluation.figures import FIGURES, LEAD, Figure, figures_of
from medistill.task import Task

SPLITS = {"val": "validation", "test": "test"}
"""How pages name the splits that are measured."""


@dataclass(frozen=True)
class Column:
    """A column of the table of models.

    Attributes:
        split: `val` or `test`.
        key: of the figure in metrics.json.
        title: head of the column.
        interval: whether it has one.
        signed: whether it is a difference.
        beside: key and title of a figure that stands below it; None: none does.
        optional: whether only some runs have it.
    """

    split: str
    key: str
    title: str
    interval: bool = True
    signed: bool = False
    beside: tuple[str, str] | None = None
    optional: bool = False


def columns(task: Task) -> list[Column]:
    """The columns for models of a task; differences follow the figure that they are of."""
    return [column for figure in figures_of(task) if figure.summary for column in _columns(figure)]


def _columns(figure: Figure) -> Iterator[Column]:
    below = next(((other.key, other.title) for other in FIGURES if other.name == figure.beside), None)
    for split in figure.columns:
        title = f"{SPLITS[split].capitalize()} {figure.title}"
        yield Column(split, figure.key, title, interval=figure.resampled, beside=below, optional=bool(figure.needs))
    if figure.name == LEAD:
        yield Column("test", "difference_baseline", f"Test {figure.title} − baseline", signed=True)
        yield Column("test", "difference_teacher", f"Test {figure.title} − best teacher", signed=True)
