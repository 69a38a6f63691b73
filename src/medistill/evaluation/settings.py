"""The section `evaluate` of params.yaml."""

from typing import Literal

from pydantic import Field

from medistill.settings import Seed, Settings


class Evaluate(Settings):
    """Statistics of the evaluation."""

    resamples: int = Field(default=2000, ge=100, le=100_000)
    """Bootstrap resamples over groups."""
    seed: Seed = 0
    study: Literal["none", "max", "mean"] = "none"
    """The unit of evaluation: `none`: images; `max`, `mean`: studies, by the highest or mean probability of their
    images, for data with labels per study, such as CheXpert and MIMIC-CXR."""
