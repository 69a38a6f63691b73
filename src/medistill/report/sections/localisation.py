"""Where the models look, against boxes, chance and the centre."""

from dataclasses import dataclass, field

from medistill.records.explain import ModelMaps
from medistill.report.content import Content


@dataclass(frozen=True)
class Localisation:
    """Where the models look.

    Attributes:
        models: by name, None if the explain stage left it out; None if nothing was measured.
        left_out: why, by name.
    """

    models: dict[str, ModelMaps | None] | None
    left_out: dict[str, str] = field(default_factory=dict)


def build(content: Content) -> Localisation:
    """The results of the explain stage."""
    if content.explain is None:
        return Localisation(None)
    models = {model.name: content.explain.get(model.name) for model in content.models}
    reasons = {model.name: model.record.why_unexplained(content.dataset.labels) for model in content.models}
    return Localisation(models, {name: reason for name, reason in reasons.items() if reason})
