"""Where the models look, against boxes, chance and the centre."""

from dataclasses import dataclass, field

from medistill.records.explain import ModelMaps
from medistill.records.gallery import Gallery
from medistill.report.content import Content
from medistill.report.pictures import stops


@dataclass(frozen=True)
class Localisation:
    """Where the models look.

    Attributes:
        models: by name, None if the explain stage left it out; None if nothing was measured.
        left_out: why, by name.
        gallery: the findings that are shown; None if nothing was measured.
        stops: colours of the legend.
    """

    models: dict[str, ModelMaps | None] | None
    left_out: dict[str, str] = field(default_factory=dict)
    gallery: Gallery | None = None
    stops: list[str] = field(default_factory=list)


def build(content: Content) -> Localisation:
    """The results of the explain stage."""
    if content.explain is None:
        return Localisation(None)
    models = {model.name: content.explain.get(model.name) for model in content.models}
    reasons = {model.name: model.record.why_unexplained(content.dataset.labels) for model in content.models}
    return Localisation(models, {name: reason for name, reason in reasons.items() if reason}, content.gallery, stops())
