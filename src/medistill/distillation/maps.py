"""Class activation maps with their graph: what a student's are compared with a teacher's by."""

import torch
from torch import Tensor


def class_maps(logits: Tensor, features: Tensor, labels: Tensor, *, create_graph: bool) -> Tensor:
    """Signed Grad-CAM of some labels of each image: Σ_k α_lk A_k, α_lk the mean over the map of ∂logit_l/∂A_k.

    Only what follows the feature map is differentiated, once for each column of `labels`. Where that is a mean over the
    map and a linear layer, it is the class activation map of Zhou et al. 2016, divided by the number of places.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017 (arXiv 1610.02391), equation 1 and 2 without the ReLU.

    Args:
        logits: (N, L), computed from `features`.
        features: the last feature map (N, K, h, w), with a graph from here to the logits.
        labels: int64 (N, M), M ≥ 1: the labels of each image that are explained.
        create_graph: whether the maps shall have a gradient: the student's, while it learns.

    Returns:
        float32 (N, M, h, w).
    """
    maps = []
    for chosen in labels.split(1, dim=1):
        # The sum's gradient is each image's own where images do not see each other after the feature map. Batch norm
        # there lets them, in training: `require_own_maps` refuses such students.
        (gradient,) = torch.autograd.grad(
            logits.gather(1, chosen).sum(), features, retain_graph=True, create_graph=create_graph
        )
        maps.append((gradient.float().mean((2, 3), keepdim=True) * features.float()).sum(1))
    return torch.stack(maps, 1)
