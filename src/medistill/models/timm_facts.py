"""timm's knowledge of an architecture, and its errors as one line."""

import difflib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

import timm
from timm.models import PretrainedCfg, get_pretrained_cfg

from medistill.errors import UserError
from medistill.text import shortened

if TYPE_CHECKING:
    from torch import Tensor, nn

    class BuiltCfg(TypedDict):
        """What a network of timm says of itself, as far as it is used here."""

        tag: str | None
        mean: tuple[float, ...]
        std: tuple[float, ...]
        classifier: str | tuple[str, ...]

    class Backbone(nn.Module):
        """What all networks of timm have, for which it has no type."""

        pretrained_cfg: BuiltCfg
        num_classes: int

        def forward_features(self, images: Tensor) -> Tensor: ...  # noqa: D102  (as timm says)
        def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor: ...  # noqa: D102
        def get_classifier(self) -> nn.Module | tuple[nn.Module, ...]: ...  # noqa: D102


def require_known(arch: str) -> None:
    """Refuse names that timm does not know, and those by which hubs and timm's own loaders know a network."""
    if timm.is_model(arch):
        return
    bare = re.split("[:/]", arch)[-1]
    if bare != arch and timm.is_model(bare):
        raise UserError(
            f"params.yaml: arch {arch!r}: leave the prefix out, arch: {bare}; its weights come with pretrained: true"
            " or from weights: FILE beside it"
        )
    near = difflib.get_close_matches(bare, timm.list_models(), n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else "; see timm.list_models()"
    if bare != arch:
        hint = f": only timm's own networks can be built, by their name without a prefix, and with weights: FILE{hint}"
    raise UserError(f"params.yaml: arch {arch!r} is not known to timm{hint}")


def pretrained_cfg(arch: str) -> PretrainedCfg:
    """What timm knows of an architecture's weights and image size; its defaults if it has none."""
    return get_pretrained_cfg(arch) or PretrainedCfg()


_SPDX = {name.lower(): name for name in ("Apache-2.0", "BSD-3-Clause", "CC-BY-4.0", "CC-BY-NC-4.0", "MIT")}
"""Identifiers of SPDX, which timm writes in small letters."""


def license_of(arch: str) -> str | None:
    """Licence of an architecture's pretrained weights as timm states it; None: unknown, or there are none."""
    known = pretrained_cfg(arch)
    if not known.has_weights or known.license in (None, "unknown"):
        return None
    return _SPDX.get(known.license, known.license)


def reason_of(error: Exception) -> str:
    """The message of another library's exception, in one line."""
    return shortened(" ".join(str(error).split()), 200) or f"{type(error).__name__}, without a reason"


def with_args(args: Mapping[str, object] | None) -> str:
    """The arguments of a network, to be put behind its name in a sentence; nothing where there are none."""
    return f" with args {shortened(str(args), 200)}" if args else ""


def classifier_keys(backbone: "Backbone") -> set[str]:
    """Names of the classifier's tensors in the state of a network."""
    names = backbone.pretrained_cfg["classifier"]
    names = (names,) if isinstance(names, str) else names
    return {key for key in backbone.state_dict() if key.startswith(tuple(f"{name}." for name in names))}
