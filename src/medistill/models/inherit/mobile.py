"""The mobile family of timm: a stem, stages of blocks, a head."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from timm.models._efficientnet_blocks import SqueezeExcite
from torch import Tensor, nn

from medistill.models.inherit.copier import Copier, evenly, kind
from medistill.models.settings import Select

OPEN = 0.98
"""What a squeeze-excitation without a counterpart multiplies with: nearly 1, where its gate still has a gradient."""

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
            layers = dict(block.named_modules())
            parts = {part: names for part, names in _PARTS.get(kind(block), {}).items() if names[0] in layers}
            blocks.append(_Block(f"blocks.{number}.{place}", block, parts))
            stride *= blocks[-1].stride
        seen[stride] = seen.get(stride, -1) + 1
        stages.append(((stride, seen[stride]), blocks))
    return stages


@dataclass
class Mobile:
    """Copies one network of the mobile family into another."""

    copier: Copier
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
                if stream is not None:  # what reads channels of no counterpart stays random, and the block behind it
                    self._block(block, other, stream, out)
                stream = out
            elif block.has_skip and "project" in block.parts:
                self._start_as_identity(block)
                stream = None if place == 0 else stream  # the source has its own block between these channels
            else:
                stream = None
        return stream

    def _block(self, ours: _Block, theirs: _Block, read: Tensor, out: Tensor) -> None:
        if "start" in ours.parts:
            self._part("start", ours, theirs, read)
        if "project" not in ours.parts:
            self._part("expand", ours, theirs, out, read)
            return
        middle = read
        if "expand" in ours.parts:
            middle = self._middle(ours, theirs)
            self._part("expand", ours, theirs, middle, read)
        if "depthwise" in ours.parts:
            self._part("depthwise", ours, theirs, middle)
        self._gate(ours, theirs, middle)
        self._part("project", ours, theirs, out, middle)
        self.copier.copy(f"{ours.name}.layer_scale.gamma", f"{theirs.name}.layer_scale.gamma", out)

    def _part(self, part: str, ours: _Block, theirs: _Block, rows: Tensor, columns: Tensor | None = None) -> None:
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
            hard = "hard" in kind(ours.gate.gate).lower()
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
