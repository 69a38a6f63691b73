"""Where the models look, against boxes, chance and the centre."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medistill.metrics.intervals import Estimate
from medistill.report.content import Content
from medistill.report.numbers import estimate


@dataclass(frozen=True)
class Measured:
    """What the explain stage says of one model; None and empty where it says nothing."""

    map_size: str
    boxes: int | None
    pointing_game: Estimate
    chance: float | None
    over_chance: Estimate
    centre_prior: float | None
    over_centre: Estimate
    agreement: list[tuple[str, Estimate]]
    conclusion: str

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> "Measured":
        """From a model's entry in reports/explain/metrics.json."""
        agreement = entry.get("agreement_teacher") or {}
        return cls(
            map_size="×".join(map(str, entry.get("map_size") or [])),
            boxes=entry.get("boxes"),
            pointing_game=estimate(entry.get("pointing_game")),
            chance=entry.get("chance"),
            over_chance=estimate(entry.get("difference_chance")),
            centre_prior=entry.get("centre_prior"),
            over_centre=estimate(entry.get("difference_centre")),
            agreement=[(teacher, estimate(figure)) for teacher, figure in agreement.items()],
            conclusion=entry.get("conclusion", ""),
        )


@dataclass(frozen=True)
class Localisation:
    """By model, None where the explain stage left it out; no `models` at all where nothing was measured."""

    models: dict[str, Measured | None] | None


def build(content: Content) -> Localisation:
    """What the explain stage has measured."""
    if content.explain is None:
        return Localisation(None)
    entries = {model.name: content.explain.get(model.name) for model in content.models}
    return Localisation({name: Measured.of(entry) if entry else None for name, entry in entries.items()})
