"""The section `explain` of params.yaml."""

from pydantic import Field

from medistill.explain.ways import Layer, Method, Way
from medistill.settings import Settings


class Explain(Settings):
    """Maps of where the networks look, and how well these meet boxes or masks."""

    methods: list[Method] = Field(default=["grad_cam", "hires_cam", "layer_cam"], min_length=1)
    """Methods that are tried on validation images with boxes or masks; the best of them is shown. Of several, the
    first is shown where there are too few such images to choose by."""
    layers: list[Layer] = Field(default=["last", "stride_16"], min_length=1)
    """Maps that each method is tried on, likewise."""
    gallery: int = Field(default=12, ge=1)
    """Images shown in the gallery."""
    max_images: int = Field(default=1000, ge=1)
    """Most images with boxes or masks that are measured, and most that choose."""

    images: int = Field(default=64, ge=1)
    """Images of which pixels are removed, one finding each, spread over the labels: twelve times for each model."""

    @property
    def ways(self) -> list[Way]:
        """Every method on every layer, in their order."""
        return [Way(method, layer) for method in self.methods for layer in self.layers]

    @property
    def undecided(self) -> bool:
        """Whether there is more than one way."""
        return len(self.ways) > 1
