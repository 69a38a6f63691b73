"""Copying chosen parts of one network's tensors into another's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from medistill.records.models import InheritedRecord

if TYPE_CHECKING:
    from medistill.models.timm_facts import Backbone

OF_HEADS = "relative_position_bias_table"
"""A tensor whose second axis is heads, which it has and does not read."""


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


def kind(network: nn.Module) -> str:
    """The name of its class."""
    return type(network).__name__


def evenly(count: int, of: int) -> Tensor:
    """Indices of `count` of `of` channels at even distances; with more than there are, each again and again."""
    return torch.arange(count) * of // count


@dataclass
class Copier:
    """Copies chosen parts of the source's tensors into the target's, and keeps the account."""

    target: "Backbone"
    source: "Backbone"
    tensors: dict[str, str] = field(default_factory=dict)
    identities: list[str] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Keep the tensors of both by name: parameters and buffers, which are written in place."""
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
            if times.max() > 1 and not name.endswith(OF_HEADS):
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
