"""The section `phantom` of params.yaml."""

from typing import Literal

from pydantic import Field

from medistill.images.limits import LARGEST_SIZE
from medistill.settings import Seed, Settings

LICENSE = "Apache-2.0"
"""Of the images and labels that are drawn: this project's."""

MARK = ".phantom.json"
"""The file by which a folder is known as a phantom."""


class Phantom(Settings):
    """The built-in data set: procedurally drawn chest X-rays."""

    images: int = Field(default=1000, ge=20)
    size: int = Field(default=128, ge=32, le=LARGEST_SIZE)
    """Height and width in pixels."""
    seed: Seed = 0
    prevalence: Literal["balanced", "nih"] = "balanced"
    """How often each finding is there: about equally often, or as in ChestX-ray14."""
