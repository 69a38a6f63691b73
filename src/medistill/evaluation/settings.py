"""The section `evaluate` of params.yaml."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from medistill.settings import Seed, Settings

Threshold = Annotated[float, Field(gt=0, lt=1)]
"""A probability at which somebody acts."""


class Evaluate(Settings):
    """Statistics of the evaluation."""

    resamples: int = Field(default=2000, ge=100, le=100_000)
    """Bootstrap resamples over groups."""
    seed: Seed = 0
    study: Literal["none", "max", "mean"] = "none"
    """The unit of evaluation: `none`: images; `max`, `mean`: studies, by the highest or mean probability of their
    images, for data with labels per study, such as CheXpert and MIMIC-CXR."""
    net_benefit: tuple[Threshold, Threshold] | None = None
    """The lowest and the highest probability from which on somebody would act on a label: net benefit is measured
    between them. An answer to this is the user's, so that there is no default."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.net_benefit is not None and not self.net_benefit[0] < self.net_benefit[1]:
            raise ValueError(f"net_benefit: the second probability must be above the first, not {self.net_benefit}")
        return self
