"""What teachers can be asked for besides logits: one row per kind. It needs no torch until it is computed."""

from collections.abc import Callable, Iterable, Sequence
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
        sizes: how many sizes the `map_shape` of a teacher must have to give it: 3 of a map, 1 of pooled features.
        of: computes it, from a network and its logits (N, L) and last features for N images.
    """

    by_label: bool
    sizes: int
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
    "logits": AnswerKind(by_label=True, sizes=0, of=lambda network, logits, features: logits),
    "attention": AnswerKind(by_label=False, sizes=3, of=_attention),
    "cams": AnswerKind(by_label=True, sizes=3, of=_cams),
    "features": AnswerKind(by_label=False, sizes=1, of=lambda network, logits, features: network.pooled(features)),
}
"""All that teachers can be asked for: `logits` (N, L), `attention` (N, h, w), `cams` (N, L, h, w) and pooled `features`
(N, K); all but the logits only if `teach.answers` names them and the teacher has them."""

EXTRAS = tuple(name for name in ANSWERS if name != "logits")
"""Kinds of answers besides logits, which `teach.answers` may name."""


def answerable(kinds: Iterable[str], map_shape: Sequence[int]) -> list[str]:
    """Those of `kinds` that a teacher can answer: without a feature map no maps, without features logits alone.

    Args:
        kinds: keys of `ANSWERS`.
        map_shape: K, h, w of its feature map; K alone where it has no map but pooled features; else empty.
    """
    return [kind for kind in kinds if len(map_shape) >= ANSWERS[kind].sizes]


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
