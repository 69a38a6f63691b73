"""What teachers can be asked for besides logits: one row per kind. It needs no torch until it is computed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from medistill.models.classifier import Classifier


@dataclass(frozen=True)
class AnswerKind:
    """One thing that teachers can be asked for.

    Attributes:
        by_label: whether its second axis is that of labels.
        of: computes it, from a network and its logits (N, L) and feature map (N, K, h, w) for N images.
    """

    by_label: bool
    of: Callable[["Classifier", "Tensor", "Tensor"], "Tensor"]


def _largest_one(maps: "Tensor") -> "Tensor":
    """Maps (…, h, w) with a largest magnitude of 1, as only their direction counts."""
    return maps / maps.abs().amax((-2, -1), keepdim=True).clamp(min=1e-30)


def _attention(network: "Classifier", logits: "Tensor", features: "Tensor") -> "Tensor":
    """Where features are strong, (N, h, w): the root of the mean squared channel."""
    return _largest_one(features.float().pow(2).mean(1).sqrt())


def _cams(network: "Classifier", logits: "Tensor", features: "Tensor") -> "Tensor":
    """Signed class activation maps, (N, L, h, w)."""
    return _largest_one(network.class_maps(features))


ANSWERS = {
    "logits": AnswerKind(by_label=True, of=lambda network, logits, features: logits),
    "attention": AnswerKind(by_label=False, of=_attention),
    "cams": AnswerKind(by_label=True, of=_cams),
    "features": AnswerKind(by_label=False, of=lambda network, logits, features: features.float().mean((2, 3))),
}
"""All that teachers can be asked for: `logits` (N, L), `attention` (N, h, w), `cams` (N, L, h, w) and pooled `features`
(N, K); all but the logits only if `teach.answers` names them."""

EXTRAS = tuple(name for name in ANSWERS if name != "logits")
"""Kinds of answers besides logits, which `teach.answers` may name."""


def in_order(kinds: Iterable[str]) -> list[str]:
    """The kinds besides logits in the order of `ANSWERS`, each once.

    Raises:
        ValueError: one is unknown.
    """
    asked = set(kinds)
    for kind in kinds:
        if kind not in EXTRAS:
            raise ValueError(f"{kind!r} is unknown; known are {', '.join(EXTRAS)}")
    return [kind for kind in EXTRAS if kind in asked]
