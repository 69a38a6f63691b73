"""Class activation maps from activations A (N, K, h, w) and the gradients G of the explained logits by them.

Each method is a row of `METHODS`. All are unnormalised, so that maps of one network can be compared between images.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from medistill.explain.ways import Method


def grad_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """ReLU(Σ_k α_k A_k), (N, h, w), α_k the mean of G_k over the map. Selvaraju et al., ICCV 2017, equations 1, 2."""
    return (gradients.mean((2, 3), keepdim=True) * activations).sum(1).relu()


def grad_cam_pp(activations: Tensor, gradients: Tensor) -> Tensor:
    """ReLU(Σ_k α_k A_k), (N, h, w), with α_k = Σ_ij a_ij ReLU(G_ij), a_ij = G² / (2 G² + Σ A · G³).

    Chattopadhay et al., "Grad-CAM++", WACV 2018, equations 10 and 19, where the logit passes an exponential, whose
    derivatives are powers of G times one common factor.
    """
    squares = gradients**2
    total = activations.sum((2, 3), keepdim=True)
    shares = squares / (2 * squares + total * gradients**3 + 1e-6)
    shares = torch.where(gradients != 0, shares, 0)
    return ((shares * gradients.relu()).sum((2, 3), keepdim=True) * activations).sum(1).relu()


def hires_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """ReLU(Σ_k G_k ∘ A_k), (N, h, w): each cell by its own gradient. Draelos & Carin, arXiv 2011.08891, equation 4.

    Where a layer norm over channels follows the map, as in ConvNeXt, the sum vanishes: scaling a cell changes nothing.
    """
    return (gradients * activations).sum(1).relu()


def layer_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """ReLU(Σ_k ReLU(G_k) ∘ A_k), (N, h, w). Jiang et al., "LayerCAM", IEEE TIP 2021, equations 5 and 6."""
    return (gradients.relu() * activations).sum(1).relu()


def eigen_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """ReLU of the first principal component of A over its cells, (N, h, w), the same for all labels.

    A component has no sign; here it grows with the mean activation. Muhammad & Yeasin, "Eigen-CAM", IJCNN 2020.
    """
    cells = activations.flatten(2).transpose(1, 2)  # (N, cells, K)
    cells = cells - cells.mean(1, keepdim=True)
    _, _, components = torch.linalg.svd(cells, full_matrices=False)
    projected = (cells @ components[:, 0, :, None])[..., 0]
    sign = torch.where((projected * cells.mean(2)).sum(1, keepdim=True) < 0, -1.0, 1.0)
    maps: Tensor = (projected * sign).relu().unflatten(1, activations.shape[2:])
    return maps


METHODS: dict[Method, Callable[[Tensor, Tensor], Tensor]] = {
    "grad_cam": grad_cam,
    "grad_cam_pp": grad_cam_pp,
    "hires_cam": hires_cam,
    "layer_cam": layer_cam,
    "eigen_cam": eigen_cam,
}
"""The methods that need one pass forward and one back; Score-CAM, which needs a pass per channel, is in `cam`."""
