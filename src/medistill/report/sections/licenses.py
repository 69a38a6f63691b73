"""What the students of the run descend from, and under which licences."""

from collections.abc import Sequence
from dataclasses import dataclass

from medistill.report.content import Content


@dataclass(frozen=True)
class Row:
    """One ancestor.

    Attributes:
        what: data or weights.
        license: of it, or `unknown`.
        known: whether it is known.
        ways: how students descend from it, each path once.
        students: how many of the run do.
    """

    what: str
    license: str
    known: bool
    ways: Sequence[str]
    students: int


@dataclass(frozen=True)
class Licenses:
    """The ancestors of all students; None where no student has a record of them."""

    rows: Sequence[Row] | None
    students: int


def build(content: Content) -> Licenses:
    """The ancestors of a run's students."""
    students = [model for model in content.models if model.role != "teacher"]
    found: dict[tuple[str, str | None], list[str]] = {}
    for model in students:
        for ancestor in model.ancestors or []:
            found.setdefault((ancestor.what, ancestor.license), []).append(ancestor.way)
    rows = [
        Row(
            what=what,
            license=license or "unknown",
            known=license is not None,
            ways=list(dict.fromkeys(ways)),
            students=len(ways),
        )
        for (what, license), ways in found.items()
    ]
    return Licenses(rows if any(model.ancestors is not None for model in students) else None, len(students))
