"""Where the models look, against boxes, chance and the centre."""

from dataclasses import dataclass

from medistill.records.explain import ModelMaps
from medistill.report.content import Content


@dataclass(frozen=True)
class Localisation:
    """By model, None if the explain stage left it out; no `models` at all if nothing was measured."""

    models: dict[str, ModelMaps | None] | None


def build(content: Content) -> Localisation:
    """The results of the explain stage."""
    if content.explain is None:
        return Localisation(None)
    return Localisation({model.name: content.explain.get(model.name) for model in content.models})
