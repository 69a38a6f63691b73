"""A network as it runs on a device: what only training needs, parallel branches and their batch norms, is merged."""

import copy

import torch
from timm.utils.model import reparameterize_model

from medistill.models.build import Classifier, count_macs, count_params

_MERGES = ("fuse", "reparameterize", "switch_to_deploy")
"""What timm's blocks call it to become fewer layers."""


def deployed(classifier: Classifier) -> Classifier:
    """The network that gives the same logits with fewer layers, in evaluation mode.

    MobileOne, RepVGG, FastViT, GhostNetV3, RepViT and their kin train several branches side by side, whose sum is one
    convolution once batch norms stand still (Ding et al., "RepVGG", CVPR 2021).

    Args:
        classifier: stays as it is; where there is nothing to merge it is the answer itself.
    """
    blocks = [module for module in classifier.backbone.modules() if module is not classifier.backbone]
    if not any(hasattr(block, merge) for block in blocks for merge in _MERGES):
        return classifier
    merged = copy.deepcopy(classifier).eval()
    reparameterize_model(merged.backbone, inplace=True)
    return merged


def costs(classifier: Classifier, size: int) -> dict[str, int]:
    """What a network costs where it runs, on one RGB image of `size` pixels.

    Returns:
        `params` and `macs`; where they are more in training, `params_in_training` and `macs_in_training` as well.
    """
    with torch.device("meta"):  # shapes are enough
        trained = copy.deepcopy(classifier).to("meta")
        running = deployed(trained)
    found = {"params": count_params(running), "macs": count_macs(running, size)}
    if running is not trained:
        found |= {"params_in_training": count_params(trained), "macs_in_training": count_macs(trained, size)}
    return found
