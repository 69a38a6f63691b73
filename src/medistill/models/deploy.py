"""A network as it runs on a device: what only training needs, parallel branches and their batch norms, is merged."""

import copy

from timm.utils.model import reparameterize_model

from medistill.models.classifier import Classifier

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
