"""The section `augmentation` of params.yaml, apart from `views.py`, which needs torch."""

from pydantic import Field

from medistill.settings import Settings


class Augmentation(Settings):
    """Ranges of the random view; a view is a pure function of image id, view number and seed."""

    rotation: float = Field(default=7.0, ge=0, le=180)
    """Degrees to either side."""
    translation: float = Field(default=0.05, ge=0, lt=1)
    """Share of the frame to either side."""
    scale: float = Field(default=0.1, ge=0, lt=1)
    """0.1: zoom between 0.9 and 1.1."""
    brightness: float = Field(default=0.05, ge=0, lt=1)
    """Added to intensities in 0..1, to either side."""
    contrast: float = Field(default=0.1, ge=0, lt=1)
    """0.2: factor between 0.8 and 1.2."""
    flip: bool = False
    """Mirror left and right; wrong for labels that depend on the side of the heart."""
