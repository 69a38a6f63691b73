"""Grad-CAM of a network: in closed form where its head is global average pooling and layers with a known derivative.

After global average pooling the gradient of a logit is the same in every cell of the feature map, the head's Jacobian
at the pooled vector divided by the number of cells. So one pass gives the maps of all labels, by plain multiplications,
without autograd. Heads of any other kind are differentiated by autograd.

Source: Selvaraju et al., "Grad-CAM", ICCV 2017 (arXiv 1610.02391), equations 1 and 2, here without the ReLU; behind
global average pooling it equals HiResCAM (Draelos & Carin, arXiv 2011.08891), and with a linear head the class
activation map of Zhou et al. 2016 divided by the number of cells.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import timm.layers
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

if TYPE_CHECKING:
    from medistill.models.timm_facts import Backbone


class _Layer(Protocol):
    """A layer behind the pooling."""

    def __call__(self, vectors: Tensor) -> Tensor:
        """Its output (N, K') for `vectors` (N, K)."""
        ...

    def pull_back(self, gradients: Tensor, vectors: Tensor) -> Tensor:
        """Gradients (N or 1, M, K) by its input, of M gradients (N or 1, M, K') by its output at `vectors` (N, K)."""
        ...


@dataclass(frozen=True)
class _Linear:
    """A linear layer, or a 1×1 convolution of a map of one cell."""

    module: nn.Linear | nn.Conv2d

    @property
    def weight(self) -> Tensor:
        """(K', K)."""
        return self.module.weight.flatten(1)

    def __call__(self, vectors: Tensor) -> Tensor:
        return F.linear(vectors, self.weight, self.module.bias)

    def pull_back(self, gradients: Tensor, vectors: Tensor) -> Tensor:
        return gradients @ self.weight


@dataclass(frozen=True)
class _BatchNorm:
    """Batch norm by its running statistics."""

    module: nn.BatchNorm1d | nn.BatchNorm2d

    def __call__(self, vectors: Tensor) -> Tensor:
        norm = self.module
        return F.batch_norm(vectors, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)

    def pull_back(self, gradients: Tensor, vectors: Tensor) -> Tensor:
        variance = self.module.running_var
        assert variance is not None  # `_layer` sees that there is one
        scale = (variance + self.module.eps).rsqrt()
        return gradients * (scale if self.module.weight is None else scale * self.module.weight)


@dataclass(frozen=True)
class _LayerNorm:
    """Layer norm over the channels."""

    module: nn.LayerNorm

    def __call__(self, vectors: Tensor) -> Tensor:
        return F.layer_norm(vectors, vectors.shape[1:], self.module.weight, self.module.bias, self.module.eps)

    def pull_back(self, gradients: Tensor, vectors: Tensor) -> Tensor:
        if self.module.weight is not None:
            gradients = gradients * self.module.weight
        scale = (vectors.var(1, correction=0, keepdim=True) + self.module.eps).rsqrt()
        normalised = ((vectors - vectors.mean(1, keepdim=True)) * scale)[:, None]
        along = normalised * (gradients * normalised).mean(2, keepdim=True)
        return (gradients - gradients.mean(2, keepdim=True) - along) * scale[:, None]


@dataclass(frozen=True)
class _Activation:
    """A function of each number."""

    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]

    def __call__(self, vectors: Tensor) -> Tensor:
        return self.function(vectors)

    def pull_back(self, gradients: Tensor, vectors: Tensor) -> Tensor:
        return gradients * self.slope(vectors)[:, None]


@dataclass(frozen=True)
class PooledHead:
    """Global average pooling, layers with a known derivative, and the linear layer of the logits.

    It refers to the network's own modules, and so follows their weights.
    """

    hidden: tuple[_Layer, ...]
    classifier: _Linear

    def jacobian(self, pooled: Tensor, labels: Tensor | None = None) -> Tensor:
        """∂logit/∂pooled, float32 (N, M, K), at `pooled` (N, K); (1, M, K) where it is the same for every image.

        Args:
            pooled: the mean of the feature map over its cells.
            labels: int64 (N, M), those of each image; None: all, M = L.
        """
        inputs = []
        for layer in self.hidden:
            inputs.append(pooled)
            pooled = layer(pooled)
        gradients = self.classifier.weight[None] if labels is None else self.classifier.weight[labels]
        for layer, vectors in zip(reversed(self.hidden), reversed(inputs), strict=True):
            gradients = layer.pull_back(gradients, vectors)
        return gradients

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
    if nodes[-1].args != (nodes[-2],) or form != _VECTOR or not layers or type(layers[-1]) is not _Linear:
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
        return tensors or type(module) in _ACTIVATIONS or super().is_leaf_module(module, name)


# How the numbers are arranged: a map before pooling; then one vector per image, with or without the map's two axes.
_MAP_FIRST, _MAP_LAST = "(N, K, h, w)", "(N, h, w, K)"
_CELL_FIRST, _CELL_LAST, _VECTOR = "(N, K, 1, 1)", "(N, 1, 1, K)", "(N, K)"
_POOLED = {_CELL_FIRST, _CELL_LAST, _VECTOR}
_Step = tuple[list[_Layer], str] | None
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
    if kind in _ACTIVATIONS:
        return [_activation(module)], form
    layer = _layer(module, form)
    return (layer, form) if layer else None


def _layer(module: nn.Module, form: str) -> list[_Layer] | None:
    """The layers of a module with tensors of its own."""
    kind, first = type(module), form == _CELL_FIRST
    if isinstance(module, nn.Linear) and kind in (nn.Linear, timm.layers.Linear) and not first:
        return [_Linear(module)]
    if type(module) is nn.Conv2d and first and module.kernel_size == module.stride == (1, 1) and module.groups == 1:
        return [_Linear(module)] if module.padding in (0, (0, 0)) else None
    if (
        isinstance(module, nn.LayerNorm)
        and kind in (nn.LayerNorm, timm.layers.LayerNorm)
        and not first
        and len(module.normalized_shape) == 1
    ):
        return [_LayerNorm(module)]
    if type(module) is timm.layers.LayerNorm2d and first:
        return [_LayerNorm(module)]
    if module.training or getattr(module, "running_mean", None) is None:
        return None  # but for batch norm none is left
    if (type(module) is nn.BatchNorm2d and first) or (type(module) is nn.BatchNorm1d and form == _VECTOR):
        return [_BatchNorm(module)]
    if type(module) is timm.layers.BatchNormAct2d and first and type(module.drop) is nn.Identity:
        if type(module.act) is nn.Identity:
            return [_BatchNorm(module)]
        return [_BatchNorm(module), _activation(module.act)] if type(module.act) in _ACTIVATIONS else None
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


def _relu_slope(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


def _relu6_slope(x: Tensor) -> Tensor:
    return ((x > 0) & (x < 6)).to(x.dtype)


def _hardswish_slope(x: Tensor) -> Tensor:
    return torch.where(x < -3, 0, torch.where(x <= 3, x / 3 + 0.5, 1))


def _silu_slope(x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return gate * (1 + x * (1 - gate))


def _gelu_slope(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2))) + x * torch.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    scale = math.sqrt(2 / math.pi)
    bend = torch.tanh(scale * (x + 0.044715 * x**3))
    return 0.5 * (1 + bend) + 0.5 * x * (1 - bend * bend) * scale * (1 + 3 * 0.044715 * x * x)


def _tanh_slope(x: Tensor) -> Tensor:
    return 1 - torch.tanh(x) ** 2


_GELU = _Activation(F.gelu, _gelu_slope)
_GELU_TANH = _Activation(lambda x: F.gelu(x, approximate="tanh"), _gelu_tanh_slope)
_TANH = _Activation(torch.tanh, _tanh_slope)
_ACTIVATIONS = {
    nn.ReLU: _Activation(F.relu, _relu_slope),
    nn.ReLU6: _Activation(F.relu6, _relu6_slope),
    nn.Hardswish: _Activation(F.hardswish, _hardswish_slope),
    nn.SiLU: _Activation(F.silu, _silu_slope),
    nn.GELU: _GELU,
    timm.layers.activations.GELU: _GELU,
    timm.layers.activations.GELUTanh: _GELU_TANH,
    nn.Tanh: _TANH,
    timm.layers.activations.Tanh: _TANH,
}


def _activation(module: nn.Module) -> _Activation:
    if type(module) is nn.GELU and module.approximate == "tanh":
        return _GELU_TANH
    return _ACTIVATIONS[type(module)]
