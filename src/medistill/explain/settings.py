"""The section `explain` of params.yaml."""

from pydantic import Field

from medistill.settings import Settings


class Explain(Settings):
    """Grad-CAM and localisation."""

    gallery: int = Field(default=12, ge=1)
    """Images shown in the gallery."""
    max_images: int = Field(default=1000, ge=1)
    """Most images with boxes that are measured."""
