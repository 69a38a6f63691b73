"""The stages of a network: where its maps have a given stride."""

from torch import nn

from medistill.models.classifier import Classifier


def stage_at(model: Classifier, stride: int) -> nn.Module | None:
    """The last stage whose map has a cell for each `stride` pixels, if a later one's is coarser; None if there is none.

    timm says where its networks' stages end (`feature_info`); of networks that do not say, none is known.
    """
    known = getattr(model.backbone, "feature_info", None)
    if not known:
        return None
    stages = [(int(stage["reduction"]), str(stage["module"])) for stage in known]
    ends = [name for reduction, name in stages if reduction == stride]
    if not ends or stages[-1][0] <= stride:
        return None
    try:
        return model.backbone.get_submodule(ends[-1])
    except AttributeError:  # some name a tensor within a module
        return None
