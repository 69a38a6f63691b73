"""The finer heat map without autograd: HiResCAM where a cell is 16 pixels wide, by ordinary operators.

The gradient of a logit by the map of stride 16 is a vector-Jacobian product of all that follows that map. Here it is
written out for the blocks of which timm builds the mobile networks, so that it can stand in an ONNX file: each layer
gives its output and its *pull-back*, the function that takes gradients by its output to gradients by its input.

Source: the maps are those of `explain/methods.py`, Draelos & Carin, "HiResCAM" (arXiv 2011.08891), equation 4.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import timm.layers
import timm.models._efficientnet_blocks as blocks
import torch
import torch.nn.functional as F
from timm.layers.padding import get_same_padding
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import Tensor, nn

from medistill.models.classifier import Classifier
from medistill.models.stages import stage_at
from medistill.models.vector_layers import ACTIVATIONS, Layer, Linear, activation_of, through

PullBack = Callable[[Tensor], Tensor]
"""Gradients (N, M, K, h, w) by a layer's input, of gradients (N, M, K', h', w') by its output, for M labels of each of
N images; h = w = 1 where a gradient is the same in every cell."""


_FAMILIES: tuple[type[nn.Module], ...] = (EfficientNet, MobileNetV3)
"""The classes of timm that compute stem, stages of the blocks below, and a head."""


class UnknownLayerError(Exception):
    """A layer has no pull-back here; the message is its name."""


class _Convolution(nn.Module):
    """A convolution with fixed scale and shift of its channels, which batch norm has in evaluation mode, folded in."""

    weight: Tensor
    bias: Tensor

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.same = type(convolution) is timm.layers.Conv2dSame
        self.stride, self.dilation, self.groups = convolution.stride, convolution.dilation, convolution.groups
        self.padding = [0, 0] if isinstance(convolution.padding, str) else list(convolution.padding)
        weight, bias = convolution.weight.detach(), convolution.bias
        self.register_buffer("weight", weight)
        self.register_buffer("bias", weight.new_zeros(len(weight)) if bias is None else bias.detach())

    def fold(self, scale: Tensor, shift: Tensor) -> None:
        """Let the output be multiplied and shifted by channel."""
        self.weight, self.bias = self.weight * scale.view(-1, 1, 1, 1), self.bias * scale + shift

    def forward(self, x: Tensor) -> tuple[Tensor, PullBack]:
        size, kernel = _sizes(x), self.weight.shape[2:]
        before = list(self.padding)
        if self.same:
            total = [get_same_padding(size[i], kernel[i], self.stride[i], self.dilation[i]) for i in range(2)]
            before = [pad // 2 for pad in total]
            x = F.pad(x, (before[1], total[1] - before[1], before[0], total[0] - before[0]))
        padding = (0, 0) if self.same else tuple(before)
        y = F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

        def pull_back(gradients: Tensor) -> Tensor:
            return self._pull_back(gradients, size, _sizes(y), before)

        return y, pull_back

    def _pull_back(self, gradients: Tensor, size: list[int], out: list[int], before: list[int]) -> Tensor:
        """The transposed convolution, as a plain one by the turned kernel: runtimes have plain ones fastest.

        Args:
            gradients: (N, M, K', *out) or (N, M, K', 1, 1).
            size, out: height and width of input and output.
            before: rows and columns of padding above and on the left.
        """
        count, labels = gradients.shape[:2]
        kernel = self.weight.shape[2:]
        if (*kernel, *self.stride) == (1, 1, 1, 1):
            pads = [0, 0, 0, 0]
            flat = gradients.reshape(-1, len(self.weight), *_sizes(gradients))
        else:
            flat = gradients.expand(-1, -1, -1, *out).reshape(-1, len(self.weight), *out)
            flat = _spread(_spread(flat, 2, self.stride[0]), 3, self.stride[1])
            reach = [self.dilation[i] * (kernel[i] - 1) for i in range(2)]
            first = [reach[i] - before[i] for i in range(2)]
            last = [size[i] + reach[i] - first[i] - _sizes(flat)[i] for i in range(2)]
            pads = [first[1], last[1], first[0], last[0]]
        if pads[0] == pads[1] >= 0 and pads[2] == pads[3] >= 0:
            padding = (pads[2], pads[0])
        else:
            flat, padding = F.pad(flat, pads), (0, 0)
        pulled = F.conv2d(flat, self._turned(), None, 1, padding, self.dilation, self.groups)
        return pulled.reshape(count, labels, self.groups * self.weight.shape[1], *_sizes(pulled))

    def _turned(self) -> Tensor:
        """The weight with input and output exchanged within each group, and each kernel turned by 180 degrees."""
        rows, columns, *kernel = self.weight.shape
        grouped = self.weight.view(self.groups, rows // self.groups, columns, *kernel)
        turned = grouped.transpose(1, 2).reshape(self.groups * columns, rows // self.groups, *kernel)
        return turned if kernel == [1, 1] else turned.flip(2, 3)


def _sizes(maps: Tensor) -> list[int]:
    """Height and width: constants of the graph, whatever the exporter makes of a shape."""
    return [int(size) for size in maps.shape[-2:]]


def _spread(values: Tensor, axis: int, step: int) -> Tensor:
    """`values` with step - 1 zeros behind each along an axis."""
    if step == 1:
        return values
    return torch.stack([values, *[torch.zeros_like(values)] * (step - 1)], axis + 1).flatten(axis, axis + 1)


class _Affine(nn.Module):
    """Scale and shift of channels, where no convolution stands before it."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.view(-1, 1, 1))
        self.register_buffer("shift", shift.view(-1, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, PullBack]:
        return x * self.scale + self.shift, lambda gradients: gradients * self.scale


class _Pointwise(nn.Module):
    """An activation."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.activation = activation_of(module)
        self.keeps_slope = type(module) in (nn.ReLU, nn.ReLU6)
        """Whether the slope is also that at the output: if that is kept, runtimes merge it with a convolution."""

    def forward(self, x: Tensor) -> tuple[Tensor, PullBack]:
        y = self.activation(x)
        kept = y if self.keeps_slope else x
        return y, lambda gradients: self.activation.pull_back(gradients, kept)


class _Gate(nn.Module):
    """Squeeze-and-excitation: each channel times a number between 0 and 1, which depends on all channels' means."""

    def __init__(self, module: nn.Module, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.module, self.layers = module, layers

    def forward(self, x: Tensor) -> tuple[Tensor, PullBack]:
        vectors, to_mean = through(self.layers, x.mean((2, 3)))
        gates = vectors[:, :, None, None]

        def pull_back(gradients: Tensor) -> Tensor:
            by_mean = to_mean(
                (gradients * x[:, None]).sum((3, 4))
            )  # the product rule: by the gate, and below by the map
            return gradients * gates[:, None] + by_mean[:, :, :, None, None] / math.prod(_sizes(x))

        return x * gates, pull_back


class _Chain(nn.Module):
    """Layers one after another; with `skip` their input is added to their output."""

    def __init__(self, layers: Sequence[nn.Module], *, skip: bool = False) -> None:
        super().__init__()
        self.layers, self.skip = nn.ModuleList(layers), skip

    def forward(self, x: Tensor) -> tuple[Tensor, PullBack]:
        y, pull_backs = x, []
        for layer in self.layers:
            y, pull_back = layer(y)
            pull_backs.append(pull_back)

        def pull_all_back(gradients: Tensor) -> Tensor:
            pulled = gradients
            for pull_back in reversed(pull_backs):
                pulled = pull_back(pulled)
            return pulled + gradients if self.skip else pulled

        return (y + x if self.skip else y), pull_all_back


_STEPS: dict[type[nn.Module], tuple[str, ...]] = {
    blocks.ConvBnAct: ("conv", "bn1", "aa"),
    blocks.DepthwiseSeparableConv: ("conv_s2d", "bn_s2d", "conv_dw", "bn1", "aa", "se", "conv_pw", "bn2"),
    blocks.InvertedResidual: (
        *("conv_s2d", "bn_s2d", "conv_pw", "bn1", "conv_dw", "bn2", "aa", "se", "conv_pwl", "bn3"),
    ),
    blocks.EdgeResidual: ("conv_exp", "bn1", "aa", "se", "conv_pwl", "bn2"),
    blocks.UniversalInvertedResidual: (*("dw_start", "pw_exp", "dw_mid", "se", "pw_proj", "dw_end", "layer_scale"),),
    timm.layers.ConvNormAct: ("conv", "bn", "aa"),
}
"""What each block of timm computes, in order, by the names of its modules."""


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """The steps of a block that has some in this network."""
    for name in _STEPS[type(module)]:
        step = getattr(module, name, None)
        if step is not None:
            yield step


def _read(module: nn.Module) -> list[nn.Module]:
    """The layers of a module with their pull-backs.

    Raises:
        UnknownLayerError: one has none here.
    """
    kind = type(module)
    if kind is nn.Identity:
        return []
    if kind in (nn.Conv2d, timm.layers.Conv2dSame):
        assert isinstance(module, nn.Conv2d)
        if isinstance(module.padding, str) or module.padding_mode != "zeros":
            raise UnknownLayerError("a convolution with another padding than zeros")
        return [_Convolution(module)]
    if kind in (nn.BatchNorm2d, timm.layers.BatchNormAct2d):
        assert isinstance(module, nn.BatchNorm2d)
        return [
            _fixed_norm(module),
            *_join([getattr(module, name) for name in ("drop", "act") if hasattr(module, name)]),
        ]
    if isinstance(module, timm.layers.LayerScale2d):
        gamma: Tensor = module.gamma.detach()
        return [_Affine(gamma, torch.zeros_like(gamma))]
    if kind in ACTIVATIONS:
        return [_Pointwise(module)]
    if kind is blocks.SqueezeExcite:
        return [_gate(module)]
    if kind is nn.Sequential:
        return _join(list(module.children()))
    if kind in _STEPS:
        layers = _join(list(_parts(module)))
        return [_Chain(layers, skip=True)] if getattr(module, "has_skip", False) else layers
    raise UnknownLayerError(kind.__name__)


def _join(modules: Sequence[nn.Module]) -> list[nn.Module]:
    """The layers of modules one after another; scale and shift go into a convolution before them."""
    layers: list[nn.Module] = []
    for layer in (layer for module in modules for layer in _read(module)):
        if isinstance(layer, _Affine) and layers and isinstance(layers[-1], _Convolution):
            layers[-1].fold(layer.scale.flatten(), layer.shift.flatten())
        else:
            layers.append(layer)
    return layers


def _fixed_norm(norm: nn.BatchNorm2d) -> _Affine:
    """Batch norm by its running statistics."""
    if norm.running_mean is None or norm.running_var is None:
        raise UnknownLayerError("batch norm without running statistics")
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach()
    shift = -norm.running_mean * scale
    return _Affine(scale, shift if norm.bias is None else shift + norm.bias.detach())


def _gate(module: nn.Module) -> _Gate:
    """timm's squeeze-and-excitation of the mobile networks."""
    layers: list[Layer] = []
    for step in (module.get_submodule(name) for name in ("conv_reduce", "act1", "conv_expand", "gate")):
        if type(step) is nn.Conv2d:
            layers.append(Linear(step))
        elif type(step) in ACTIVATIONS:
            layers.append(activation_of(step))
        else:
            raise UnknownLayerError(type(step).__name__)
    return _Gate(module, layers)


def can_explain(model: Classifier) -> str | None:
    """None if `Explained` can be built of a network; else why not, as the end of "no finer map: …"."""
    arch = model.config["arch"]
    if type(model.backbone) not in _FAMILIES:
        return f"{arch} is none of the mobile networks that timm builds as EfficientNet or MobileNetV3"
    if model.input_size not in (None, model.config.get("image_size", model.input_size)):
        return f"{arch} sees images at another size than that of the frames"  # an antialiased resize, which is no layer
    if stage_at(model, 16) is None:
        return f"{arch} has no stage whose cells are 16 pixels wide before the last one"
    if model.eval().closed_head() is None:
        return f"{arch} has a head that is not pooling, linear layers and activations"
    try:
        _tail(model)
    except UnknownLayerError as error:
        return f"{arch} has a layer without a written-out derivative behind that stage: {error}"
    return None


def _tail(model: Classifier) -> tuple[list[nn.Module], _Chain]:
    """What a network computes up to its map of stride 16, and the layers from there to its last map."""
    backbone, stage = model.backbone, stage_at(model, 16)
    stages = list(backbone.get_submodule("blocks").children())
    end = next((i for i, own in enumerate(stages, 1) if own is stage), None)
    if end is None:
        raise UnknownLayerError("a stage that ends within a stage")
    behind = [backbone.get_submodule(name) for name in ("conv_head", "bn2") if isinstance(backbone, EfficientNet)]
    before = [backbone.get_submodule(name) for name in ("conv_stem", "bn1")]
    return before + stages[:end], _Chain(_join([*stages[end:], *behind]))


class Explained(nn.Module):
    """A network that gives HiResCAM of asked labels at stride 16 with its logits, in one pass and without autograd."""

    def __init__(self, model: Classifier) -> None:
        """Take the network's present weights.

        Args:
            model: one that `can_explain` has nothing against; it is put into evaluation mode.

        Raises:
            ValueError: there is no such map of it; the message is `can_explain`'s.
        """
        super().__init__()
        reason, head = can_explain(model), model.closed_head()
        if reason is not None or head is None:
            raise ValueError(reason)
        trunk, self.tail = _tail(model)
        self.model, self.trunk, self.head = model, nn.Sequential(*trunk), head

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and maps.

        Args:
            images: float (N, C, H, W) in 0..1, as `Classifier.forward` takes them.
            labels: int64 (N, M), the M labels that are explained of each image.

        Returns:
            Logits, float32 (N, L); and maps, float32 (N, M, h, w), unnormalised and ≥ 0.
        """
        activations = self.trunk(self.model.inputs(images))
        last, pull_back = self.tail(activations)
        pooled = last.mean((2, 3))
        by_pooled = self.head.jacobian(pooled, labels)
        # The mean over cells spreads a gradient evenly over them.
        gradients = pull_back(by_pooled[:, :, :, None, None] / math.prod(_sizes(last)))
        return self.head.logits(pooled), (gradients * activations[:, None]).sum(2).relu()
