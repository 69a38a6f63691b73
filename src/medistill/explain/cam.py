"""Grad-CAM for measuring and showing: at the feature map's resolution, unnormalised.

Maps of one network can then be compared between images, and be shown on one scale; stretched to 0..1, a map without
evidence would look like one full of it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from medistill.models.classifier import Classifier

FloatArray = NDArray[np.float32]


@torch.no_grad()
def grad_cam(model: Classifier, images: torch.Tensor, labels: NDArray[np.integer]) -> tuple[FloatArray, FloatArray]:
    """Grad-CAM of one label per image: ReLU(Σ_k α_k A_k), α_k the mean of ∂logit/∂A_k over the map.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017 (arXiv 1610.02391), equations 1 and 2.

    Args:
        model: it is put into evaluation mode; its parameters and their gradients do not change.
        images: float32 (N, C, H, W) in 0..1; one batch.
        labels: (N,), the index of the label to explain on each image.

    Returns:
        Maps, float32 (N, h, w), at the feature map's resolution, unnormalised and ≥ 0; and logits, float32 (N, L).

    Raises:
        IndexError: a label is not one of the L.
    """
    device = next(model.parameters()).device
    logits, features = model.eval()(images.to(device), with_map=True)
    maps = model.class_maps(features, torch.as_tensor(labels, device=device)[:, None])[:, 0]
    return maps.clamp(min=0).cpu().numpy(), logits.float().cpu().numpy()


def upsample(maps: FloatArray, size: int) -> FloatArray:
    """Bilinear interpolation of maps (N, h, w) to the frame: float32 (N, size, size); borders are continued flat."""
    resized = functional.interpolate(
        torch.from_numpy(maps)[:, None], size=(size, size), mode="bilinear", align_corners=False
    )
    return resized[:, 0].numpy()
