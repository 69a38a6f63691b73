"""Building a classifier, and where a new one starts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
import timm
import torch
from torch import nn

import medistill.models.ofa  # noqa: F401  (registers eeea_net_c2 and ofa_595)
from medistill.errors import UserError, is_out_of_memory
from medistill.models.classifier import Classifier
from medistill.models.inherit import inherit
from medistill.models.limits import bounded
from medistill.models.settings import Arguments, Network
from medistill.models.timm_facts import pretrained_cfg, reason_of, require_known, with_args
from medistill.models.weights import WEIGHT_PACKAGES, load_backbone, load_own, load_package, require_pretrained
from medistill.records.models import Config

if TYPE_CHECKING:
    from medistill.models.timm_facts import Backbone

_NO_ARGS = {
    "in_chans": "set channels: 1 beside arch",
    "num_classes": "it is given by the number of labels",
    "pretrained": "set pretrained: true beside arch",
    "checkpoint_path": "set weights: FILE beside arch",
    "features_only": "a classifier has a head",
}
"""Arguments of timm that are refused, and what to set instead."""


def create_classifier(network: Network, *, labels: list[str], image_size: int | None = None) -> Classifier:
    """Build a network with one logit per label and the initialisation that `network` asks for.

    The result's `config` has `arch`, `args`, `initialisation`, `input_size`, `mean`, `std` and `labels`.

    Args:
        network: what to build.
        labels: in the order of the logits.
        image_size: height and width of the frames in pixels, for networks that are built for one size (position
            embeddings, windows) and have no `input_size`; None: timm's default size.

    Raises:
        UserError: timm does not know the architecture, its arguments or how to build it for this size, or weights are
            missing, do not fit or were trained on other labels.
    """
    backbone, args = _build(network, len(labels), image_size)
    initialisation, new_head = "random", network.pretrained
    normalised = backbone.pretrained_cfg
    inherited = None
    if network.pretrained:
        initialisation = _load_pretrained(backbone, network.arch)
    elif network.weights:
        initialisation, new_head = load_own(backbone, network, labels)
    elif network.init_from and network.source:
        source, initialisation = _load_start(network.source, image_size)
        inherited = inherit(backbone, source, network.init_from.select).record
        normalised, new_head = source.pretrained_cfg, True  # its first layers expect what the source's were given
    config: Config = {
        "arch": network.arch,
        "args": args,
        "initialisation": initialisation,
        "inherited": inherited,
        "input_size": network.input_size,
        "labels": labels,
        "mean": network.mean or _of_channels(normalised["mean"], network.channels),
        "std": network.std or _of_channels(normalised["std"], network.channels),
    }
    return Classifier(backbone, config, new_head=new_head)


def _load_start(network: Network, image_size: int | None) -> tuple["Backbone", str]:
    """The network that another one starts from, with its weights, and where these came from."""
    source, _ = _build(network, 1, image_size)
    if network.weights:
        load_backbone(source, network.weights)
        return source, f"selected from {network.arch} (file {network.weights.name})"
    return source, f"selected from {network.arch}, {_load_pretrained(source, network.arch)}"


def _load_pretrained(backbone: "Backbone", arch: str) -> str:
    """Where ImageNet weights came from; those of a package are loaded here, all others were by timm."""
    if package := WEIGHT_PACKAGES.get(arch):
        return load_package(backbone, arch, package)
    return f"pretrained ({backbone.pretrained_cfg['tag'] or 'timm'})"


def _build(network: Network, outputs: int, image_size: int | None) -> tuple["Backbone", Arguments]:
    """A network as timm builds it, with the arguments that it was built with; weights of timm's are loaded."""
    arch = network.arch
    require_known(arch)
    for key, instead in _NO_ARGS.items():
        if key in network.args:
            raise UserError(f"params.yaml: args of {arch}: {key} must not be set; {instead}")
    package = WEIGHT_PACKAGES.get(arch) if network.pretrained else None
    args = network.args if network.channels == 3 else {"in_chans": network.channels} | network.args
    image_size = network.input_size or image_size
    try:
        known = pretrained_cfg(arch)
        if network.pretrained:
            require_pretrained(network)
        if image_size is not None and known.fixed_input_size and image_size != known.input_size[-1]:
            args = {"img_size": image_size} | args
        with bounded(arch):
            built = timm.create_model(
                arch, pretrained=network.pretrained and package is None, num_classes=outputs, **args
            )
    except UserError:
        raise
    except OSError as error:  # a hub's, or the network's
        raise UserError(
            f"params.yaml: the weights of {arch} could not be downloaded: {reason_of(error)}; set weights: FILE beside "
            "arch, or pretrained: false, or copy Hugging Face's cache from a machine that has them"
        ) from None
    except Exception as error:  # timm's code with a user's arguments: all of them may come
        reason = "out of memory" if is_out_of_memory(error) else reason_of(error)
        raise UserError(f"params.yaml: timm cannot build {arch}{with_args(args)}: {reason}") from None
    return cast("Backbone", built), args


def _of_channels(values: Sequence[float], channels: int) -> list[float]:
    """timm's mean or deviation of three channels for as many; for one, the mean of the three."""
    return list(values) if len(values) == channels else [sum(values) / len(values)] * channels


def start_at_prevalence(model: Classifier, prevalence: np.ndarray, *, exclusive: bool = False) -> None:
    """Let a new classifier answer every image with each label's prevalence, nearly independent of the backbone.

    timm scales a new classifier by its outputs: with few labels its weights are so large that the first epochs only
    undo them, and a pretrained backbone suffers meanwhile. Bias after Lin et al., "Focal Loss for Dense Object
    Detection", ICCV 2017, section 4.1.

    Args:
        model: every layer of its classifier with an output and a bias for each label is set (timm averages several).
        prevalence: (L,), in 0..1; kept away from both ends.
        exclusive: one label per image, for a softmax over the logits; otherwise a sigmoid of each.
    """
    prior = torch.from_numpy(np.clip(prevalence, 1e-3, 1 - 1e-3))
    bias = prior.log() if exclusive else prior.logit()
    heads = model.backbone.get_classifier()
    for head in heads if isinstance(heads, tuple) else (heads,):
        for layer in head.modules():
            # A classifier is linear, a 1x1 convolution, or either behind layers of its own.
            if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None and len(layer.bias) == len(bias):
                with torch.no_grad():
                    nn.init.normal_(layer.weight, std=0.01)
                    layer.bias.copy_(bias)
