"""Grad-CAM of a network: in closed form where its head is global average pooling and layers with a known derivative.

After global average pooling the gradient of a logit is the same in every cell of the feature map, the head's Jacobian
at the pooled vector divided by the number of cells. So one pass gives the maps of all labels, by plain multiplications,
without autograd. Heads of any other kind are differentiated by autograd.

Source: Selvaraju et al., "Grad-CAM", ICCV 2017 (arXiv 1610.02391), equations 1 and 2, here without the ReLU; behind
global average pooling it equals HiResCAM (Draelos & Carin, arXiv 2011.08891), and with a linear head the class
activation map of Zhou et al. 2016 divided by the number of cells.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import timm.layers
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from medistill.models.vector_layers import ACTIVATIONS, BatchNorm, Layer, LayerNorm, Linear, activation_of, through

if TYPE_CHECKING:
    from medistill.models.timm_facts import Backbone


@dataclass(frozen=True)
class PooledHead:
    """Global average pooling, layers with a known derivative, and the linear layer of the logits.

    It refers to the network's own modules, and so follows their weights.
    """

    hidden: tuple[Layer, ...]
    classifier: Linear

    def logits(self, pooled: Tensor) -> Tensor:
        """Logits (N, L) of the pooled vectors (N, K)."""
        return self.classifier(through(self.hidden, pooled)[0])

    def jacobian(self, pooled: Tensor, labels: Tensor | None = None) -> Tensor:
        """∂logit/∂pooled, float32 (N, M, K), at `pooled` (N, K); (1, M, K) where it is the same for every image.

        Args:
            pooled: the mean of the feature map over its cells.
            labels: int64 (N, M), those of each image; None: all, M = L.
        """
        _, pull_back = through(self.hidden, pooled)
        return pull_back(self.classifier.weight[None] if labels is None else self.classifier.weight[labels])

    def class_maps(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Signed Grad-CAM Σ_k α_lk A_k, float32 (N, M, h, w), of the feature map A (N, K, h, w); `labels` as above.

        It has a gradient, by `features` and the head's weights, where gradients are enabled.
        """
        features = _precise(features)
        cells = features.flatten(2)
        weights = self.jacobian(features.mean((2, 3)), labels) / cells.shape[2]
        return torch.unflatten(weights @ cells, 2, features.shape[2:])


def class_maps_by_autograd(logits: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """Signed Grad-CAM of any network: Σ_k α_lk A_k, α_lk the mean over the map of ∂logit_l/∂A_k.

    Only what follows the feature map is differentiated, once for each column of `labels`.

    Args:
        logits: (N, L), computed from `features`.
        features: the last feature map (N, K, h, w), with a graph from here to the logits.
        labels: int64 (N, M), M ≥ 1: the labels of each image that are explained.

    Returns:
        float32 (N, M, h, w); with a gradient of their own, a second derivative, where gradients are enabled.

    Raises:
        IndexError: a label is not one of the L.
    """
    rows = torch.arange(len(logits), device=logits.device)
    wanted = torch.is_grad_enabled()
    maps = []
    for chosen in labels.unbind(1):
        # The sum's gradient is each image's own where images do not see each other after the feature map. Batch norm
        # there lets them, in training: `require_own_maps` refuses such students.
        with torch.enable_grad():
            explained = logits[rows, chosen].sum()
        (gradient,) = torch.autograd.grad(explained, features, retain_graph=True, create_graph=wanted)
        maps.append((_precise(gradient).mean((2, 3), keepdim=True) * _precise(features)).sum(1))
    return torch.stack(maps, 1)


def _precise(values: Tensor) -> Tensor:
    """In float32 where autocast has made them shorter."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def read_head(backbone: "Backbone", *, channels_last: bool = False) -> PooledHead | None:
    """The closed form of `backbone.forward_head`, or None where it has none.

    What `forward_head` computes is traced, and each step must be one of those known here, by its very type: a step that
    is not, or one that sees more than the step before, leaves the network to autograd. So do dropout and batch norm in
    training.

    Args:
        backbone: a timm network, in training or evaluation mode; the answer holds for that mode.
        channels_last: its feature map is (N, h, w, K), not (N, K, h, w).
    """
    tail = _Tail(backbone)
    try:
        nodes = list(_Tracer().trace(tail).nodes)
    except Exception:  # any code may stand there, and a tracer has no numbers for its conditions
        return None
    form, layers = _MAP_LAST if channels_last else _MAP_FIRST, []
    for before, node in pairwise(nodes[:-1]):
        if node.all_input_nodes != [before]:
            return None
        if node.op == "call_module":
            step = _module_step(tail.get_submodule(node.target), form) if node.args == (before,) else None
        else:
            step = _call_step(node, form)
        if step is None:
            return None
        form = step[1]
        layers += step[0]
    if nodes[-1].args != (nodes[-2],) or form != _VECTOR or not layers or type(layers[-1]) is not Linear:
        return None
    return PooledHead(tuple(layers[:-1]), layers[-1])


class _Tail(nn.Module):
    """What of a network follows its feature map."""

    def __init__(self, backbone: "Backbone") -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, features: Tensor) -> Tensor:
        return self.backbone.forward_head(features)


class _Tracer(fx.Tracer):
    """Looks into modules that only call others; one with tensors of its own is a step, known by its type or not."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        tensors = any(True for _ in module.parameters(recurse=False)) or any(
            True for _ in module.buffers(recurse=False)
        )
        return tensors or type(module) in ACTIVATIONS or super().is_leaf_module(module, name)


# How the numbers are arranged: a map before pooling; then one vector per image, with or without the map's two axes.
_MAP_FIRST, _MAP_LAST = "(N, K, h, w)", "(N, h, w, K)"
_CELL_FIRST, _CELL_LAST, _VECTOR = "(N, K, 1, 1)", "(N, 1, 1, K)", "(N, K)"
_POOLED = {_CELL_FIRST, _CELL_LAST, _VECTOR}
_Step = tuple[list[Layer], str] | None
"""The layers of a step, and the arrangement after it; None for a step without a known derivative."""


def _module_step(module: nn.Module, form: str) -> _Step:
    kind = type(module)
    if module._forward_hooks or module._forward_pre_hooks:  # which may change anything
        return None
    if kind is nn.Identity or (kind is nn.Dropout and not (module.training and module.p)):
        return [], form
    if type(module) is nn.AdaptiveAvgPool2d and form == _MAP_FIRST and module.output_size in (1, (1, 1)):
        return [], _CELL_FIRST
    if form not in _POOLED:
        return None
    if type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1):
        return [], _VECTOR
    if kind in ACTIVATIONS:
        return [activation_of(module)], form
    layer = _layer(module, form)
    return (layer, form) if layer else None


def _layer(module: nn.Module, form: str) -> list[Layer] | None:
    """The layers of a module with tensors of its own."""
    kind, first = type(module), form == _CELL_FIRST
    if isinstance(module, nn.Linear) and kind in (nn.Linear, timm.layers.Linear) and not first:
        return [Linear(module)]
    if type(module) is nn.Conv2d and first and module.kernel_size == module.stride == (1, 1) and module.groups == 1:
        return [Linear(module)] if module.padding in (0, (0, 0)) else None
    if (
        isinstance(module, nn.LayerNorm)
        and kind in (nn.LayerNorm, timm.layers.LayerNorm)
        and not first
        and len(module.normalized_shape) == 1
    ):
        return [LayerNorm(module)]
    if type(module) is timm.layers.LayerNorm2d and first:
        return [LayerNorm(module)]
    if module.training or getattr(module, "running_mean", None) is None:
        return None  # but for batch norm none is left
    if (type(module) is nn.BatchNorm2d and first) or (type(module) is nn.BatchNorm1d and form == _VECTOR):
        return [BatchNorm(module)]
    if type(module) is timm.layers.BatchNormAct2d and first and type(module.drop) is nn.Identity:
        if type(module.act) is nn.Identity:
            return [BatchNorm(module)]
        return [BatchNorm(module), activation_of(module.act)] if type(module.act) in ACTIVATIONS else None
    return None


def _call_step(node: fx.Node, form: str) -> _Step:
    """A step that is no module of its own: a mean over the map, a flattening, dropout that is not active."""
    if node.target == "mean" and form in (_MAP_FIRST, _MAP_LAST):
        return _mean_step(form, *node.args[1:], **node.kwargs)
    given = (node.args[1:], dict(node.kwargs))
    if node.target in ("flatten", torch.flatten) and form in _POOLED:
        return ([], _VECTOR) if given in (((1,), {}), ((), {"start_dim": 1})) else None
    if node.target is F.dropout and node.kwargs.get("training") is False:
        return [], form
    return None


def _mean_step(form: str, dim: object = None, keepdim: object = False, **more: object) -> _Step:
    """A call of `Tensor.mean` with these arguments."""
    axes, cell = ((2, 3), _CELL_FIRST) if form == _MAP_FIRST else ((1, 2), _CELL_LAST)
    if more or not isinstance(dim, tuple | list) or tuple(axis % 4 for axis in dim) != axes:
        return None
    return [], cell if keepdim else _VECTOR
