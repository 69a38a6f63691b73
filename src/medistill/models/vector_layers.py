"""Layers of one vector per image, each with its derivative: those behind the pooling, and those of gates."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import timm.layers
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Layer(Protocol):
    """A layer of vectors."""

    def __call__(self, vectors: Tensor) -> Tensor:
        """Its output (N, K') for `vectors` (N, K)."""
        ...

    def pull_back(self, gradients: Tensor, vectors: Tensor) -> Tensor:
        """Gradients (N or 1, M, K) by its input, of M gradients (N or 1, M, K') by its output at `vectors` (N, K)."""
        ...


def through(layers: Sequence[Layer], vectors: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The output of layers one after another, and what pulls gradients by it back to the input: see `Layer`."""
    inputs = []
    for layer in layers:
        inputs.append(vectors)
        vectors = layer(vectors)

    def pull_back(gradients: Tensor) -> Tensor:
        for layer, own in zip(reversed(layers), reversed(inputs), strict=True):
            gradients = layer.pull_back(gradients, own)
        return gradients

    return vectors, pull_back


@dataclass(frozen=True)
class Linear:
    """A linear layer, or a 1×1 convolution of a map of one cell."""

    module: nn.Linear | nn.Conv2d

    @property
    def weight(self) -> Tensor:
        """(K', K)."""
        return self.module.weight.flatten(1)

    def __call__(self, vectors: Tensor) -> Tensor:
        """The output: see `Layer`."""
        return F.linear(vectors, self.weight, self.module.bias)

    def pull_back(self, gradients: Tensor, vectors: Tensor) -> Tensor:
        """The gradients: see `Layer`."""
        return gradients @ self.weight


@dataclass(frozen=True)
class BatchNorm:
    """Batch norm by its running statistics."""

    module: nn.BatchNorm1d | nn.BatchNorm2d

    def __call__(self, vectors: Tensor) -> Tensor:
        """The output: see `Layer`."""
        norm = self.module
        return F.batch_norm(vectors, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)

    def pull_back(self, gradients: Tensor, vectors: Tensor) -> Tensor:
        """The gradients: see `Layer`."""
        variance = self.module.running_var
        assert variance is not None  # `models/heads.py` sees that there is one
        scale = (variance + self.module.eps).rsqrt()
        return gradients * (scale if self.module.weight is None else scale * self.module.weight)


@dataclass(frozen=True)
class LayerNorm:
    """Layer norm over the channels."""

    module: nn.LayerNorm

    def __call__(self, vectors: Tensor) -> Tensor:
        """The output: see `Layer`."""
        return F.layer_norm(vectors, vectors.shape[1:], self.module.weight, self.module.bias, self.module.eps)

    def pull_back(self, gradients: Tensor, vectors: Tensor) -> Tensor:
        """The gradients: see `Layer`."""
        if self.module.weight is not None:
            gradients = gradients * self.module.weight
        scale = (vectors.var(1, correction=0, keepdim=True) + self.module.eps).rsqrt()
        normalised = ((vectors - vectors.mean(1, keepdim=True)) * scale)[:, None]
        along = normalised * (gradients * normalised).mean(2, keepdim=True)
        return (gradients - gradients.mean(2, keepdim=True) - along) * scale[:, None]


@dataclass(frozen=True)
class Activation:
    """A function of each number; of maps, too: `vectors` (N, K, h, w) and their gradients (N, M, K, h, w)."""

    function: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]

    def __call__(self, vectors: Tensor) -> Tensor:
        """The output: see `Layer`."""
        return self.function(vectors)

    def pull_back(self, gradients: Tensor, vectors: Tensor) -> Tensor:
        """The gradients: see `Layer`."""
        return gradients * self.slope(vectors)[:, None]


def _relu_slope(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


def _relu6_slope(x: Tensor) -> Tensor:
    return ((x > 0) & (x < 6)).to(x.dtype)


def _hardswish_slope(x: Tensor) -> Tensor:
    # By products of numbers, which runtimes do several times as fast as a choice between two.
    return F.hardsigmoid(x) + x * _hardsigmoid_slope(x)


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


def _sigmoid_slope(x: Tensor) -> Tensor:
    gate = torch.sigmoid(x)
    return gate * (1 - gate)


def _hardsigmoid_slope(x: Tensor) -> Tensor:
    return (x.abs() < 3).to(x.dtype) / 6


_GELU = Activation(F.gelu, _gelu_slope)
_GELU_TANH = Activation(lambda x: F.gelu(x, approximate="tanh"), _gelu_tanh_slope)
_TANH = Activation(torch.tanh, _tanh_slope)
_SIGMOID = Activation(torch.sigmoid, _sigmoid_slope)
ACTIVATIONS = {
    nn.ReLU: Activation(F.relu, _relu_slope),
    nn.ReLU6: Activation(F.relu6, _relu6_slope),
    nn.Hardswish: Activation(F.hardswish, _hardswish_slope),
    nn.SiLU: Activation(F.silu, _silu_slope),
    nn.GELU: _GELU,
    timm.layers.activations.GELU: _GELU,
    timm.layers.activations.GELUTanh: _GELU_TANH,
    nn.Sigmoid: _SIGMOID,
    timm.layers.activations.Sigmoid: _SIGMOID,
    nn.Hardsigmoid: Activation(F.hardsigmoid, _hardsigmoid_slope),
    nn.Tanh: _TANH,
    timm.layers.activations.Tanh: _TANH,
}
"""By type of module. `nn.GELU` is ambiguous: `activation_of` has its approximation."""


def activation_of(module: nn.Module) -> Activation:
    """The function and slope of a module whose type is one of `ACTIVATIONS`."""
    if type(module) is nn.GELU and module.approximate == "tanh":
        return _GELU_TANH
    return ACTIVATIONS[type(module)]
