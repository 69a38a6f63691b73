"""Weight selection: a network starts from a part of another one that was trained.

Xu et al., "Initializing Models with Larger Ones", ICLR 2024, arXiv 2311.18823. Layers are taken from the beginning of
each stage, channels at even distances, and the same channels wherever they are produced or read: the residual stream of
a stage is chosen once, the middle channels of a block once per block. What both networks have alike is copied bit for
bit, so that a network that starts from itself is itself.

A tensor without a counterpart keeps the random weights that the target came with, except where these would drown what
was copied: a residual block that the source lacks starts as the identity, and a squeeze-excitation that the source
lacks starts open.
"""

from typing import TYPE_CHECKING

from medistill.errors import UserError
from medistill.models.inherit.by_name import copy_by_name
from medistill.models.inherit.copier import Copier, Inherited, kind
from medistill.models.inherit.mobile import Mobile, is_mobile
from medistill.models.settings import Select

if TYPE_CHECKING:
    from medistill.models.timm_facts import Backbone


def inherit(target: "Backbone", source: "Backbone", select: Select = "uniform") -> Inherited:
    """Start `target` from a part of the weights of `source`, in place; its classifier stays as it is.

    Args:
        target: a network of timm.
        source: a network of the same family: both of the mobile family (EfficientNet, MobileNet, MNASNet, FBNet,
            EEEA-Net-C2, OFA-595), or both DenseNets, ResNets, ConvNeXts or Swin transformers.
        select: how the middle channels of the mobile family's blocks are chosen.

    Raises:
        UserError: the networks share no tensor.
    """
    copier = Copier(target, source)
    if is_mobile(target) and is_mobile(source):
        Mobile(copier, select).copy()
    else:
        copy_by_name(copier)
    if not copier.tensors:
        raise UserError(f"init_from: {kind(target)} has nothing in common with {kind(source)}")
    return copier.done()
