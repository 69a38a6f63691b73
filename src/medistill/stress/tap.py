"""What `unlike` measures, in torch: the features of an image from the network's own forward pass, and their score."""

import contextlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from medistill.models.classifier import Classifier
from medistill.models.stages import stage_at
from medistill.stress.unlike import STRIDE, Unlike


def quarters(features: Tensor) -> Tensor:
    """The mean of a map (N, K, h, w) over each of its quarters: float32 (N, 4K), the four of a channel side by side.

    It is `torch.nn.functional.adaptive_avg_pool2d(features, 2)`, whose halves of an odd number of cells share the
    middle one, as one matrix product: the graph of any size of map is the same.
    """
    height, width = features.shape[2:]
    means = torch.from_numpy(np.kron(_halves(height), _halves(width)).T).to(features.device)
    return (features.float().flatten(2) @ means).flatten(1)


def _halves(cells: int) -> NDArray[np.float32]:
    """What takes the mean of the first and the last half of so many cells: float32 (2, cells)."""
    half = (cells + 1) // 2
    ones = np.ones(half, np.float32) / half
    return np.stack([np.pad(ones, (0, cells - half)), np.pad(ones, (cells - half, 0))])


def forward_tapped(model: Classifier, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, L), the last feature map (N, K, h, w), and features (N, D) as `Unlike` takes them, of one pass.

    Args:
        model: in evaluation mode.
        images: as the model's `forward` takes them.
    """
    tapped: list[Tensor] = []

    def tap(module: nn.Module, args: object, output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4:  # others are tokens
            tapped.append(quarters(model.channels_first(output)))  # at once: later layers may work in place

    stage = stage_at(model, STRIDE)
    with contextlib.ExitStack() as stack:
        if stage is not None:
            stack.callback(stage.register_forward_hook(tap).remove)
        logits, last = model(images, with_map=True)
    if tapped:
        return logits, last, tapped[-1]
    is_map = isinstance(last, Tensor) and last.dim() == 4
    return logits, last, quarters(last) if is_map else model.pooled(last)


class UnlikeScore(nn.Module):
    """The score of features: `Unlike.scores` in float32, for a graph."""

    mean: Tensor
    components: Tensor
    scales: Tensor
    side: Tensor

    def __init__(self, unlike: Unlike) -> None:
        """Take over the numbers of a fitted `Unlike`."""
        super().__init__()
        for name in ("mean", "components", "scales", "side"):
            self.register_buffer(name, torch.from_numpy(getattr(unlike, name)))

    def forward(self, features: Tensor) -> Tensor:
        """The score (N,) of features (N, D), which `forward_tapped` gives; above 1.0 an image is marked."""
        centred = features - self.mean
        along = centred @ self.components.T
        rest = centred - along @ self.components
        distances = along.square() @ self.scales[:-1] + rest.square() @ self.scales[-1:].expand(len(self.mean))
        return torch.maximum(distances, centred @ self.side)
