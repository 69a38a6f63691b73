"""Test images that are shifted: what each model loses; and images of other kinds: whether students tell them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medistill.records.stress import FallDifference, Known, ModelStress
from medistill.report.content import Content


@dataclass(frozen=True)
class Row:
    """A student's fall minus another model's under a shift."""

    student: str
    other: str
    shift: str
    found: FallDifference


@dataclass(frozen=True)
class Stress:
    """Shifts and images of other kinds; `models` is None where nothing was measured.

    Attributes:
        models: by name.
        shifts: names of the shifts, and in words what they do.
        differences: of the distilled students, the shift with the largest loss first.
        known: of the students, by name.
        kinds: names of the kinds of other images, and what they are.
    """

    models: Mapping[str, ModelStress] | None
    shifts: Mapping[str, str]
    differences: Sequence[Row]
    known: Mapping[str, Known]
    kinds: Mapping[str, str]

    @property
    def first(self) -> ModelStress:
        """Any model: the images are the same for all."""
        assert self.models
        return next(iter(self.models.values()))


def build(content: Content) -> Stress:
    """The results of the stress stage, in the order of the page's models."""
    if not content.stress:
        return Stress(None, {}, [], {}, {})
    models = {m.name: content.stress[m.name] for m in content.models if m.name in content.stress}
    shifts = {shift: found.what for own in models.values() for shift, found in own.shifts.items()}
    differences = [
        Row(name, other, shift, found)
        for name, own in models.items()
        for shift, shifted in own.shifts.items()
        for other, found in shifted.against.items()
    ]
    differences.sort(key=lambda row: -(row.found.difference.estimate or 0))
    known = {name: own.known for name, own in models.items() if own.known is not None}
    kinds = {kind: found.what for own in known.values() for kind, found in own.kinds.items()}
    return Stress(models, shifts, differences, known, kinds)
