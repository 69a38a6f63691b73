"""Networks of one class of timm, whose layers have the same names: the first layers of each stage."""

import re

import torch
from torch import Tensor, nn

from medistill.models.inherit.copier import OF_HEADS, Copier, evenly, kind
from medistill.models.timm_facts import classifier_keys

_FAMILIES = {
    "ResNet": ("bn3", "bn2"),
    "SwinTransformer": ("attn.proj", "mlp.fc2"),
    "ConvNeXt": (),  # a block begins near the identity, by its layer scale
    "DenseNet": (),  # its layers add channels, which those behind them then read from random weights
}
"""Of these classes of timm, and the layers that are set to 0 in a residual block that the source lacks."""


def copy_by_name(copier: Copier) -> None:
    """Copy one network into another of its class, nothing if it is of no such class or has blocks of another kind."""
    target, source = copier.target, copier.source
    if kind(target) not in _FAMILIES or kind(source) != kind(target) or _blocks(target) != _blocks(source):
        return
    classifier = classifier_keys(target)
    axes = _DenseAxes(target, source) if kind(target) == "DenseNet" else _Axes(target, source)
    for name, ours in copier.ours.items():
        if name in copier.theirs and name not in classifier:
            theirs = copier.theirs[name]
            if ours.ndim == 0:
                copier.copy(name, name)
            elif (rows := axes.rows(name, ours, theirs)) is not None:
                columns = axes.columns(name, ours, theirs) if ours.ndim > 1 else None
                copier.copy(name, name, rows, columns)
    lacking = {name.rsplit(".", 1)[0] for name in copier.ours.keys() - copier.theirs.keys()}
    for name in sorted(lacking):
        for end in _FAMILIES[kind(target)]:
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
    return {kind(module) for name, module in network.named_modules() if name[-1:].isdigit() and any(module.children())}


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
        if name.endswith(OF_HEADS):
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
