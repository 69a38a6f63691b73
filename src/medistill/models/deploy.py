"""A network as it is deployed: parallel branches and batch norms, which only training needs, are merged."""

import copy

from timm.utils.model import reparameterize_model

from medistill.models.classifier import Classifier

_MERGES = ("fuse", "reparameterize", "switch_to_deploy")
"""The methods by which timm's blocks merge their layers."""


def deployed(classifier: Classifier) -> Classifier:
    """The network that gives the same logits with fewer layers, in evaluation mode.

    MobileOne, RepVGG, FastViT, GhostNetV3, RepViT and similar networks train parallel branches, whose sum is one
    convolution once batch norms are fixed (Ding et al., "RepVGG", CVPR 2021).

    Args:
        classifier: not changed; returned itself if there is nothing to merge.
    """
    blocks = [module for module in classifier.backbone.modules() if module is not classifier.backbone]
    if not any(hasattr(block, merge) for block in blocks for merge in _MERGES):
        return classifier
    merged = copy.deepcopy(classifier).eval()
    reparameterize_model(merged.backbone, inplace=True)
    return merged
