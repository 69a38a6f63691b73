"""What a map may be: a method on a layer."""

from dataclasses import dataclass
from typing import Literal

from medistill.records.explain import in_words

Method = Literal["grad_cam", "grad_cam_pp", "hires_cam", "layer_cam", "eigen_cam", "score_cam"]

Layer = Literal["last", "stride_16"]
"""The last feature map, which the network pools; or that of the stage before, where a cell is 16 pixels wide."""


@dataclass(frozen=True, order=True)
class Way:
    """A method on a layer."""

    method: Method
    layer: Layer

    def __str__(self) -> str:
        """In words."""
        return in_words(self.method, self.layer)
