"""Subgroups of the test images: gaps of each model, and what distillation changed of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medistill.records.evaluation import GapChange, Softened, Subgroup
from medistill.report.content import Content


@dataclass(frozen=True)
class Row:
    """One group: what it is, the same for all models, and what each of them shows."""

    about: Subgroup
    models: Sequence[Subgroup]


@dataclass(frozen=True)
class Change:
    """A student's gap minus a baseline's."""

    student: str
    baseline: str
    about: Subgroup
    change: GapChange


@dataclass(frozen=True)
class Subgroups:
    """The groups, empty where the data set says nothing of its images; `models` are the columns."""

    models: Sequence[str]
    rows: Sequence[Row]
    changes: Sequence[Change]
    softened: Mapping[str, Sequence[Softened]]
    """By teacher."""


def build(content: Content) -> Subgroups:
    """The groups of the test split; all models have the same ones."""
    lists = [model.evaluation.subgroups for model in content.models]
    rows = [Row(same[0], same) for same in zip(*lists, strict=True)]
    changes = [
        Change(model.name, baseline, group, change)
        for model in content.models
        for group in model.evaluation.subgroups
        for baseline, change in group.changes.items()
    ]
    softened = {model.name: model.evaluation.softened for model in content.models if model.evaluation.softened}
    return Subgroups([model.name for model in content.models], rows, changes, softened)
