"""Weight selection: a network starts from a part of another one that was trained.

Xu et al., "Initializing Models with Larger Ones", ICLR 2024, arXiv 2311.18823. Layers are taken from the beginning of
each stage, channels at even distances, and the same channels wherever they are produced or read: the residual stream of
a stage is chosen once, the middle channels of a block once per block. What both networks have alike is copied bit for
bit, so that a network that starts from itself is itself.

A tensor without a counterpart keeps the random weights that the target came with, except where these would drown what
was copied: a residual block that the source lacks starts as the identity, and a squeeze-excitation that the source
lacks starts open.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from timm.models._efficientnet_blocks import SqueezeExcite
from torch import Tensor, nn

from medistill.errors import UserError
from medistill.models.settings import Select
from medistill.records.models import InheritedRecord

if TYPE_CHECKING:
    from medistill.models.timm_facts import Backbone

OPEN = 0.98
"""What a squeeze-excitation without a counterpart multiplies with: nearly 1, where its gate still has a gradient."""


@dataclass(frozen=True)
class Inherited:
    """What a network has of another one.

    Attributes:
        tensors: name of each tensor that was taken, with the name of the tensor in the source.
        taken: number of parameters in these.
        of: number of parameters of the network.
        identities: names of residual blocks that the source lacks.
        opened: names of squeeze-excitations that the source lacks.
    """

    tensors: Mapping[str, str]
    taken: int
    of: int
    identities: Sequence[str] = ()
    opened: Sequence[str] = ()

    @property
    def record(self) -> InheritedRecord:
        """As config.json has it."""
        return InheritedRecord(
            tensors=len(self.tensors),
            params=self.taken,
            share=round(self.taken / self.of, 4),
            identities=list(self.identities),
            opened=list(self.opened),
        )


def inherit(target: nn.Module, source: nn.Module, select: Select = "uniform") -> Inherited:
    """Start `target` from a part of the weights of `source`, in place; its classifier stays as it is.

    Args:
        target: a network of timm.
        source: a network of the same family: both of the mobile family (EfficientNet, MobileNet, MNASNet, FBNet,
            EEEA-Net-C2, OFA-595), or both DenseNets, ResNets, ConvNeXts or Swin transformers.
        select: how the middle channels of the mobile family's blocks are chosen.

    Raises:
        UserError: the networks share no tensor.
    """
    copier = _Copier(target, source)
    if is_mobile(target) and is_mobile(source):
        _Mobile(copier, select).copy()
    else:
        _copy_by_name(copier)
    if not copier.tensors:
        raise UserError(f"init_from: {_kind(target)} has nothing in common with {_kind(source)}")
    return copier.done()


def _kind(network: nn.Module) -> str:
    return type(network).__name__


def evenly(count: int, of: int) -> Tensor:
    """Indices of `count` of `of` channels at even distances; with more than there are, each again and again."""
    return torch.arange(count) * of // count


@dataclass
class _Copier:
    """Copies chosen parts of the source's tensors into the target's, and keeps the account."""

    target: nn.Module
    source: nn.Module
    tensors: dict[str, str] = field(default_factory=dict)
    identities: list[str] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ours, self.theirs = self.target.state_dict(), self.source.state_dict()

    def copy(self, name: str, theirs: str, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
        """Copy a tensor, if both networks have it.

        Args:
            name, theirs: of the tensor in the target and in the source.
            rows: for each index of the target's first axis, that of the source's; None: as they are.
            columns: the same for the second axis. A channel that was repeated is divided among its copies.
        """
        if name not in self.ours or theirs not in self.theirs:
            return
        into, value = self.ours[name], self.theirs[theirs]
        if rows is not None:
            value = value[rows]
        if columns is not None:
            value = value[:, columns]
            times = torch.bincount(columns)[columns]
            if times.max() > 1 and not name.endswith(_OF_HEADS):
                value = value / times.view(1, -1, *[1] * (value.ndim - 2)).to(value)
        value = resize_kernel(value, into.shape[2:])
        if value.shape != into.shape:
            return
        with torch.no_grad():
            into.copy_(value)
        self.tensors[name] = theirs

    def copy_all(self, module: str, theirs: str, rows: Tensor | None, columns: Tensor | None = None) -> None:
        """Copy all tensors of a layer: of a matrix or convolution both axes, of vectors the first."""
        for name, value in self.ours.items():
            if name.startswith(f"{module}."):
                matrix = value.ndim > 1
                rest = name.removeprefix(module)
                chosen = rows if value.ndim else None
                self.copy(name, theirs + rest, chosen, columns if matrix else None)

    def rows(self, name: str, theirs: str | None = None) -> Tensor:
        """Of the first axis of a tensor, which of the source's indices the target takes; `theirs`: its name there."""
        return evenly(len(self.ours[name]), len(self.theirs[theirs or name]))

    def done(self) -> Inherited:
        """The account."""
        own = dict(self.target.named_parameters())
        taken = sum(own[name].numel() for name in self.tensors if name in own)
        of = sum(value.numel() for value in own.values())
        return Inherited(self.tensors, taken, of, self.identities, self.opened)


def resize_kernel(weight: Tensor, size: Sequence[int]) -> Tensor:
    """A kernel in the centre of a larger one of zeros, or the centre of a larger one: (O, I, *size)."""
    for axis, wanted in enumerate(size, start=2):
        there = weight.shape[axis]
        if there > wanted:
            weight = weight.narrow(axis, (there - wanted) // 2, wanted)
        elif there < wanted:
            shape = list(weight.shape)
            shape[axis] = wanted
            padded = weight.new_zeros(shape)
            padded.narrow(axis, (wanted - there) // 2, there).copy_(weight)
            weight = padded
    return weight


# The mobile family: stem, stages of blocks, head.

_PARTS = {
    "ConvBnAct": {"expand": ("conv", "bn1")},
    "DepthwiseSeparableConv": {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")},
    "InvertedResidual": {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")},
    "EdgeResidual": {"expand": ("conv_exp", "bn1"), "project": ("conv_pwl", "bn2")},
    "UniversalInvertedResidual": {
        "start": ("dw_start.conv", "dw_start.bn"),
        "expand": ("pw_exp.conv", "pw_exp.bn"),
        "depthwise": ("dw_mid.conv", "dw_mid.bn"),
        "project": ("pw_proj.conv", "pw_proj.bn"),
    },
}
"""Of timm's blocks by their class: the convolution and the batch norm of each part."""


def is_mobile(network: nn.Module) -> bool:
    """Whether a network is of timm's EfficientNet and MobileNet classes."""
    return all(hasattr(network, name) for name in ("conv_stem", "bn1", "blocks", "conv_head"))


@dataclass(frozen=True)
class _Block:
    """A block: its name, the module, and the names of its parts."""

    name: str
    module: nn.Module
    parts: Mapping[str, tuple[str, str]]

    def weight(self, part: str) -> Tensor:
        """Of a part's convolution, (O, I, k, k)."""
        return self.module.get_parameter(f"{self.parts[part][0]}.weight")

    def norm(self, part: str) -> nn.BatchNorm2d:
        """The batch norm of a part."""
        return cast(nn.BatchNorm2d, self.module.get_submodule(self.parts[part][1]))

    @property
    def has_skip(self) -> bool:
        """Whether the block adds its input to what it makes of it."""
        return bool(getattr(self.module, "has_skip", False))

    @property
    def gate(self) -> SqueezeExcite | None:
        """The squeeze-excitation, where there is one."""
        gate = getattr(self.module, "se", None)
        return gate if isinstance(gate, SqueezeExcite) else None

    @property
    def out(self) -> int:
        """Channels that the block produces."""
        return len(self.weight("project" if "project" in self.parts else "expand"))

    @property
    def stride(self) -> int:
        """By how much it shrinks the map."""
        return math.prod(conv.stride[0] for conv in self.module.modules() if isinstance(conv, nn.Conv2d))


def _stages(network: nn.Module) -> list[tuple[tuple[int, int], list[_Block]]]:
    """The stages of a network: each with the stride of its map and its number among those of that stride."""
    stride, stages, seen = 2, [], dict[int, int]()
    for number, stage in enumerate(network.get_submodule("blocks").children()):
        blocks = []
        for place, block in enumerate(stage.children()):
            parts = {
                part: names
                for part, names in _PARTS.get(_kind(block), {}).items()
                if any(name == names[0] for name, _ in block.named_modules())
            }
            blocks.append(_Block(f"blocks.{number}.{place}", block, parts))
            stride *= blocks[-1].stride
        seen[stride] = seen.get(stride, -1) + 1
        stages.append(((stride, seen[stride]), blocks))
    return stages


@dataclass
class _Mobile:
    """Copies one network of the mobile family into another."""

    copier: _Copier
    select: Select

    def copy(self) -> None:
        """Stem, stages, head."""
        copier = self.copier
        stream: Tensor | None = copier.rows("bn1.weight")
        copier.copy_all("conv_stem", "conv_stem", stream)
        copier.copy_all("bn1", "bn1", stream)
        before = -1  # the source's stage that the stream comes from, here its stem
        theirs = _stages(copier.source)
        keys = [key for key, _ in theirs]
        for key, blocks in _stages(copier.target):
            if key not in keys:
                stream = None
                continue
            place = keys.index(key)
            stream = self._stage(blocks, theirs[place][1], stream if place == before + 1 else None)
            before = place
        self._head(stream if before == len(keys) - 1 else None)

    def _stage(self, ours: list[_Block], theirs: list[_Block], stream: Tensor | None) -> Tensor | None:
        """Copy the blocks of a stage, the first ones of the source; returns the stream behind it."""
        for place, block in enumerate(ours):
            other = theirs[place] if place < len(theirs) else None
            # A stage's first block may have a skip where the source's changes the width: it is copied all the same.
            alike = other is not None and (place == 0 or other.has_skip == block.has_skip)
            if other is not None and alike and other.parts.keys() == block.parts.keys():
                out = evenly(block.out, other.out)
                self._block(block, other, stream, out)
                stream = out
            elif block.has_skip and "project" in block.parts:
                self._start_as_identity(block)
                stream = None if place == 0 else stream  # the source has its own block between these channels
            else:
                stream = None
        return stream

    def _block(self, ours: _Block, theirs: _Block, read: Tensor | None, out: Tensor) -> None:
        if "start" in ours.parts:
            self._part("start", ours, theirs, read, None)
        if "project" not in ours.parts:
            if read is not None:
                self._part("expand", ours, theirs, out, read)
            return
        middle = read
        if "expand" in ours.parts:
            middle = self._middle(ours, theirs)
            if read is None:
                return
            self._part("expand", ours, theirs, middle, read)
        if middle is None:
            return
        if "depthwise" in ours.parts:
            self._part("depthwise", ours, theirs, middle, None)
        self._gate(ours, theirs, middle)
        self._part("project", ours, theirs, out, middle)
        self.copier.copy(f"{ours.name}.layer_scale.gamma", f"{theirs.name}.layer_scale.gamma", out)

    def _part(self, part: str, ours: _Block, theirs: _Block, rows: Tensor | None, columns: Tensor | None) -> None:
        if rows is None:
            return
        (conv, norm), (their_conv, their_norm) = ours.parts[part], theirs.parts[part]
        self.copier.copy_all(f"{ours.name}.{conv}", f"{theirs.name}.{their_conv}", rows, columns)
        self.copier.copy_all(f"{ours.name}.{norm}", f"{theirs.name}.{their_norm}", rows)

    def _middle(self, ours: _Block, theirs: _Block) -> Tensor:
        """Which of the source's middle channels the block gets."""
        count, of = len(ours.weight("expand")), len(theirs.weight("expand"))
        if self.select == "uniform" or count >= of:
            return evenly(count, of)
        last = "depthwise" if "depthwise" in theirs.parts else "expand"
        column = theirs.weight("project").flatten(2).norm(dim=(0, 2))
        importance: Tensor = theirs.norm(last).weight.abs() * column
        return importance.topk(count).indices.sort().values

    def _gate(self, ours: _Block, theirs: _Block, middle: Tensor) -> None:
        """Copy the squeeze-excitation, or open one that the source lacks."""
        if ours.gate is None:
            return
        name, other = f"{ours.name}.se", f"{theirs.name}.se"
        if theirs.gate is None:
            hard = "hard" in _kind(ours.gate.gate).lower()
            bias = 6 * OPEN - 3 if hard else math.log(OPEN / (1 - OPEN))
            nn.init.zeros_(ours.gate.conv_expand.weight)
            nn.init.constant_(ours.module.get_parameter("se.conv_expand.bias"), bias)
            self.copier.opened.append(name)
            return
        squeezed = self.copier.rows(f"{name}.conv_reduce.weight", f"{other}.conv_reduce.weight")
        self.copier.copy_all(f"{name}.conv_reduce", f"{other}.conv_reduce", squeezed, middle)
        self.copier.copy_all(f"{name}.conv_expand", f"{other}.conv_expand", middle, squeezed)

    def _start_as_identity(self, block: _Block) -> None:
        nn.init.zeros_(block.norm("project").weight)
        nn.init.zeros_(block.norm("project").bias)
        self.copier.identities.append(block.name)

    def _head(self, stream: Tensor | None) -> None:
        """The head's convolution with its norm; in MobileNetV3 it stands behind pooling and has no norm."""
        if stream is None:
            return
        copier = self.copier
        rows = copier.rows("conv_head.weight")
        copier.copy_all("conv_head", "conv_head", rows, stream)
        for norm in ("bn2", "norm_head"):
            copier.copy_all(norm, norm, rows)


# Networks of one class of timm, whose layers have the same names: those of the first layers of each stage.

_OF_HEADS = "relative_position_bias_table"
"""A tensor whose second axis is heads, which it has and does not read."""

_FAMILIES = {
    "ResNet": ("bn3", "bn2"),
    "SwinTransformer": ("attn.proj", "mlp.fc2"),
    "ConvNeXt": (),  # a block begins near the identity, by its layer scale
    "DenseNet": (),  # its layers add channels, which those behind them then read from random weights
}
"""Of these classes of timm, and the layers that are set to 0 in a residual block that the source lacks."""


def _copy_by_name(copier: _Copier) -> None:
    target, source = copier.target, copier.source
    if _kind(target) not in _FAMILIES or _kind(source) != _kind(target) or _blocks(target) != _blocks(source):
        return
    classifier = set(map(id, nn.ModuleList(_classifiers(target)).parameters()))
    trained = {name for name, value in target.named_parameters() if id(value) not in classifier}
    trained |= {name for name, _ in target.named_buffers() if re.search(r"(running_\w+|num_batches_tracked)$", name)}
    axes = _DenseAxes(target, source) if _kind(target) == "DenseNet" else _Axes(target, source)
    for name in copier.ours:
        if name in trained and name in copier.theirs:
            ours, theirs = copier.ours[name], copier.theirs[name]
            if ours.ndim == 0:
                copier.copy(name, name)
            elif (rows := axes.rows(name, ours, theirs)) is not None:
                columns = axes.columns(name, ours, theirs) if ours.ndim > 1 else None
                copier.copy(name, name, rows, columns)
    lacking = {name.rsplit(".", 1)[0] for name in copier.ours.keys() - copier.theirs.keys()}
    for name in sorted(lacking):
        for end in _FAMILIES[_kind(target)]:
            if name.endswith(f".{end}") and not _is_shortened(name, lacking):
                for value in target.get_submodule(name).parameters():
                    nn.init.zeros_(value)
                block = name.removesuffix(f".{end}")
                copier.identities += [block] if block not in copier.identities else []


def _is_shortened(name: str, lacking: set[str]) -> bool:
    """Whether a norm is followed by another one in its block."""
    return name.endswith(".bn2") and f"{name.removesuffix('2')}3" in lacking


def _blocks(network: nn.Module) -> set[str]:
    """Classes of the modules that are one of several, and have parts."""
    return {_kind(module) for name, module in network.named_modules() if name[-1:].isdigit() and any(module.children())}


def _classifiers(network: nn.Module) -> tuple[nn.Module, ...]:
    found = cast("Backbone", network).get_classifier()
    return found if isinstance(found, tuple) else (found,)


class _Axes:
    """For each axis of a tensor, which of the source's channels the target takes.

    Even distances are consistent without further ado: two axes of one width become the same channels, and an axis that
    is several of them one after the other (queries, keys and values; four neighbours) is chosen in each alike. Only the
    heads of an attention are chosen as wholes.
    """

    def __init__(self, target: nn.Module, source: nn.Module) -> None:
        self.heads: dict[str, tuple[int, int]] = {}
        for name, module in target.named_modules():
            heads, of = getattr(module, "num_heads", None), getattr(_find(source, name), "num_heads", None)
            if isinstance(heads, int) and isinstance(of, int):
                self.heads[name] = heads, of

    def rows(self, name: str, ours: Tensor, theirs: Tensor) -> Tensor | None:
        """Of the first axis; None: the tensor cannot be taken."""
        module, _, layer = name.rpartition(".")[0].rpartition(".")
        if name.endswith(_OF_HEADS):
            return torch.arange(len(ours)) if len(ours) == len(theirs) else None
        if module in self.heads and layer == "qkv":
            each = self._of_heads(module, len(ours) // 3, len(theirs) // 3)
            return torch.cat([each + part * (len(theirs) // 3) for part in range(3)])
        return evenly(len(ours), len(theirs))

    def columns(self, name: str, ours: Tensor, theirs: Tensor) -> Tensor:
        """Of the second axis."""
        module, _, layer = name.rpartition(".")[0].rpartition(".")
        if module in self.heads and layer == "proj":
            return self._of_heads(module, ours.shape[1], theirs.shape[1])
        return evenly(ours.shape[1], theirs.shape[1])

    def _of_heads(self, module: str, ours: int, theirs: int) -> Tensor:
        heads, of = self.heads[module]
        inside = evenly(ours // heads, theirs // of)
        return (evenly(heads, of)[:, None] * (theirs // of) + inside).flatten()


def _find(network: nn.Module, name: str) -> nn.Module | None:
    try:
        return network.get_submodule(name)
    except AttributeError:
        return None


class _DenseAxes(_Axes):
    """DenseNet: a layer reads the block's input and what all layers before it have added, one after the other."""

    def __init__(self, target: nn.Module, source: nn.Module) -> None:
        super().__init__(target, source)
        self.inputs: dict[str, Tensor] = {}
        count = len(source.get_parameter("features.norm0.weight"))
        stream = evenly(len(target.get_parameter("features.norm0.weight")), count)
        number = 1
        while (block := _find(target, f"features.denseblock{number}")) is not None:
            other = source.get_submodule(f"features.denseblock{number}")
            layers, others = list(block.children()), list(other.children())
            grown, of = (len(block[0].get_parameter("conv2.weight")) for block in (layers, others))
            for place in range(min(len(layers), len(others))):
                self.inputs[f"features.denseblock{number}.denselayer{place + 1}"] = stream
                stream = torch.cat([stream, count + place * of + evenly(grown, of)])
            self.inputs[f"features.transition{number}"] = stream
            self.inputs["features.norm5"] = stream
            if (transition := _find(target, f"features.transition{number}")) is not None:
                count = len(source.get_parameter(f"features.transition{number}.conv.weight"))
                stream = evenly(len(transition.get_parameter("conv.weight")), count)
            number += 1

    def _read(self, name: str) -> Tensor | None:
        """The input of the layer that a tensor belongs to, where it reads what was joined."""
        if name.startswith("features.norm5."):
            return self.inputs["features.norm5"]
        found = re.match(r"(.*(?:denselayer|transition)\d+)\.(norm1?|conv1?)\.\w+$", name)
        return self.inputs.get(found[1]) if found else None

    def rows(self, name: str, ours: Tensor, theirs: Tensor) -> Tensor | None:
        """Of the first axis; None: the tensor cannot be taken, as it reads layers that the source lacks."""
        read = self._read(name)
        if read is None:
            return evenly(len(ours), len(theirs))
        if len(read) != (len(ours) if ours.ndim == 1 else ours.shape[1]):
            return None
        return read if ours.ndim == 1 else evenly(len(ours), len(theirs))

    def columns(self, name: str, ours: Tensor, theirs: Tensor) -> Tensor:
        """Of the second axis."""
        read = self._read(name)
        return evenly(ours.shape[1], theirs.shape[1]) if read is None else read
