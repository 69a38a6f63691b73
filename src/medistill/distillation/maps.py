"""Class activation maps with their graph: what a student's are compared with a teacher's by."""

from collections.abc import Sequence

import torch
from torch import Tensor


def class_maps(logits: Tensor, features: Tensor, labels: Sequence[int], *, create_graph: bool) -> Tensor:
    """Signed Grad-CAM of some labels: Σ_k α_lk A_k, α_lk the mean over the map of ∂logit_l/∂A_k.

    Only what follows the feature map is differentiated, so that it costs little. Where that is a mean over the map and
    a linear layer, it is the class activation map of Zhou et al. 2016, divided by the number of places.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017 (arXiv 1610.02391), equation 1 and 2 without the ReLU.

    Args:
        logits: (N, L), computed from `features`.
        features: the last feature map (N, K, h, w), with a graph from here to the logits.
        labels: indices of the labels that are explained.
        create_graph: whether the maps shall have a gradient: the student's, while it learns.

    Returns:
        float32 (N, len(labels), h, w).
    """
    maps = []
    for label in labels:
        # images do not see each other after the feature map, so the sum's gradient is each image's own
        (gradient,) = torch.autograd.grad(
            logits[:, label].sum(), features, retain_graph=True, create_graph=create_graph
        )
        maps.append((gradient.float().mean((2, 3), keepdim=True) * features.float()).sum(1))
    if not maps:
        return features.new_zeros((len(features), 0, *features.shape[2:]), dtype=torch.float32)
    return torch.stack(maps, 1)
