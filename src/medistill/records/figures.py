"""How figures are written in JSON and CSV files between stages."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import (
    BeforeValidator,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    model_serializer,
    model_validator,
)

from medistill.records.base import Content
from medistill.records.estimate import Estimate

Number = int | float
"""A number that stays what it was: a count is written without a point."""

Figures = dict[str, Number]
"""Numbers by the key of their figure; those with an interval have its bounds as `<key>_lower` and `<key>_upper`."""

_ESTIMATE = TypeAdapter(Estimate)


def _read(given: object) -> object:
    return _ESTIMATE.validate_python(given) if isinstance(given, Mapping) else given


def _read_or_none(given: object) -> object:
    return Estimate(None) if given is None else _read(given)


def _write(estimate: Estimate) -> dict[str, float | None] | None:
    return None if estimate.estimate is None else estimate.interval()


CountedEstimate = Annotated[Estimate, BeforeValidator(_read)]
"""An estimate as an object of `estimate`, `lower`, `upper` and `dropped`."""

Interval = Annotated[Estimate, BeforeValidator(_read_or_none), PlainSerializer(_write)]
"""An estimate as an object of `estimate`, `lower` and `upper`, or null where it is undefined."""


Measures = dict[str, CountedEstimate | float | None]
"""Figures by the keys that `evaluation.figures` gives them; a number or None where a figure has no interval."""


class WithFigures(Content):
    """Fields, and where they have `figures`, these one by one in the same JSON object, by their keys."""

    if TYPE_CHECKING:  # each record says itself at which place its figures stand
        figures: Measures

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, given: object) -> object:
        if not isinstance(given, dict) or "figures" in given:
            return given
        fixed = {key: value for key, value in given.items() if key in cls.model_fields}
        return fixed | {"figures": {key: value for key, value in given.items() if key not in fixed}}

    @model_serializer(mode="wrap")
    def _spread(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in handler(self).items():
            needed = value is not None or type(self).model_fields[key].is_required()
            found |= value if key == "figures" else {key: value} if needed else {}
        return found

    def figure(self, key: str) -> Estimate:
        """A figure; without bounds where it has no interval, and None where there is none."""
        value = self.figures.get(key)
        return value if isinstance(value, Estimate) else Estimate(value)
