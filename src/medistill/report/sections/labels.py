"""Figures of each label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medistill.evaluation.figures import figures_of
from medistill.records.estimate import Estimate
from medistill.records.evaluation import Within
from medistill.report.content import Content
from medistill.report.figures import SPLITS


@dataclass(frozen=True)
class Eligible:
    """The labels in the macro means on a split, and why others are left out."""

    where: str
    labels: Sequence[str]
    skipped: Mapping[str, str]

    @classmethod
    def of(cls, content: Content, split: str) -> "Eligible":
        """The same for all models."""
        figures = content.models[0].evaluation.on(split)
        return cls(SPLITS[split], figures.labels, figures.skipped)


@dataclass(frozen=True)
class Row:
    """One label: how many images and groups have it, and a figure per model."""

    label: str
    eligible: bool
    positives: int
    positive_groups: int
    prevalence: float | None
    figures: list[Estimate]


@dataclass(frozen=True)
class Table:
    """One figure of each label on one split; `eligible` if it is the first table of its split."""

    title: str
    rows: list[Row]
    eligible: Eligible | None


@dataclass(frozen=True)
class Labels:
    """Tables, the first of them open.

    Attributes:
        models: the columns.
        tables: the figures.
        within: what strata are told apart by, and the labels in means within them; None where there are none.
        classes: names of exclusive classes.
        confusions: of each model on test, numbers of images by class (rows) and answer; none of labels.
    """

    models: list[str]
    tables: list[Table]
    within: Within | None
    classes: list[str]
    confusions: dict[str, list[list[int]]]


def build(content: Content) -> Labels:
    """The figures of each label: all on test, then those that are shown on validation."""
    tables = []
    for split in ("test", "val"):
        shown = [figure for figure in figures_of(content.dataset.task) if figure.of_labels and split in figure.tables]
        measured = next(iter(content.models[0].evaluation.on(split).per_label.values())).figures
        shown = [figure for figure in shown if figure.name in measured]
        for figure in shown:
            eligible = Eligible.of(content, split) if figure is shown[0] else None
            title = figure.title[0].upper() + figure.title[1:]
            tables.append(Table(f"{title} on {SPLITS[split]}", _rows(content, split, figure.name), eligible))
    test = {model.name: model.evaluation.test for model in content.models}
    return Labels(
        models=list(test),
        tables=tables,
        within=content.models[0].evaluation.test.within,
        classes=content.dataset.labels,
        confusions={name: found.confusion for name, found in test.items() if found.confusion},
    )


def _rows(content: Content, split: str, metric: str) -> list[Row]:
    rows = []
    for label in content.dataset.labels:
        entries = [model.evaluation.on(split).per_label[label] for model in content.models]
        first = entries[0]  # what is said of the label itself is the same for all models
        figures = [entry.figure(metric) for entry in entries]
        rows.append(Row(label, first.eligible, first.positives, first.positive_groups, first.prevalence, figures))
    return rows
