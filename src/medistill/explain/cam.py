"""The maps by which networks explain themselves: at the resolution of a layer, unnormalised.

Maps of one network can then be compared between images, and be shown on one scale; stretched to 0..1, a map without
evidence would look like one full of it.
"""

import contextlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from medistill.explain.methods import METHODS
from medistill.explain.ways import Layer, Way
from medistill.models.classifier import Classifier
from medistill.models.stages import stage_at

FloatArray = NDArray[np.float32]

SCORED_CHANNELS = 64
"""Channels that Score-CAM tries, those that vary most over the map: each costs a pass."""

_SCORED_AT_ONCE = 16


@torch.no_grad()
def grad_cam(model: Classifier, images: Tensor, labels: NDArray[np.integer]) -> tuple[FloatArray, FloatArray]:
    """Grad-CAM on the last map of one label per image, in closed form where the network's head has one.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017 (arXiv 1610.02391), equations 1 and 2.

    Args:
        model: it is put into evaluation mode; its parameters and their gradients do not change.
        images: float32 (N, C, H, W) in 0..1; one batch.
        labels: (N,), the index of the label to explain on each image.

    Returns:
        Maps, float32 (N, h, w), at the feature map's resolution, unnormalised and ≥ 0; and logits, float32 (N, L).

    Raises:
        IndexError: a label is not one of the L.
    """
    device = next(model.parameters()).device
    logits, features = model.eval()(images.to(device), with_map=True)
    maps = model.class_maps(features, torch.as_tensor(labels, device=device)[:, None])[:, 0]
    return maps.clamp(min=0).cpu().numpy(), logits.float().cpu().numpy()


def explain_by(
    model: Classifier, images: Tensor, labels: NDArray[np.integer], ways: Sequence[Way]
) -> tuple[dict[Way, FloatArray], FloatArray]:
    """Maps of one label per image, by several methods and layers at once.

    Args:
        model: it is put into evaluation mode; its parameters and their gradients do not change. A network without a
            stage at stride 16 has its last map in its place.
        images: float32 (N, C, H, W) in 0..1; one batch.
        labels: (N,), the index of the label to explain on each image.
        ways: methods and layers.

    Returns:
        Maps by way, float32 (N, h, w), at the layer's resolution, unnormalised and ≥ 0; and logits, float32 (N, L).

    Raises:
        IndexError: a label is not one of the L.
    """
    if set(ways) == {Way("grad_cam", "last")}:
        closed, answers = grad_cam(model, images, labels)
        return {ways[0]: closed}, answers
    inputs = model.eval().inputs(images.to(next(model.parameters()).device))
    logits, tapped = _forward(model, inputs, finer=any(way.layer == "stride_16" for way in ways))
    explained = logits[torch.arange(len(labels)), torch.as_tensor(labels)].sum()
    slopes = dict(zip(tapped, torch.autograd.grad(explained, list(tapped.values())), strict=True))
    activations, gradients = (
        {layer: model.channels_first(values).float() for layer, values in each.items()} for each in (tapped, slopes)
    )
    found = {}
    with torch.no_grad():
        for way in ways:
            layer = way.layer if way.layer in activations else "last"  # where it has no other
            if way.method == "score_cam":
                maps = score_cam(model, inputs, activations[layer], labels)
            else:
                maps = METHODS[way.method](activations[layer], gradients[layer])
            found[way] = maps.cpu().numpy()
    return found, logits.detach().float().cpu().numpy()


def has_layer(model: Classifier, layer: Layer) -> bool:
    """Whether a network has a layer; each has a last map."""
    return layer == "last" or stage_at(model, 16) is not None


def _forward(model: Classifier, inputs: Tensor, *, finer: bool) -> tuple[Tensor, dict[Layer, Tensor]]:
    """Logits (N, L), and the maps of the layers as the network has them, from which the logits have a graph."""
    tapped: dict[Layer, Tensor] = {}

    def tap(module: nn.Module, args: object, output: Tensor) -> Tensor | None:
        if not isinstance(output, Tensor) or output.dim() != 4:  # tokens
            return None
        torch.set_grad_enabled(True)  # until the end of the block below: nothing before this map is differentiated
        tapped["stride_16"] = output.detach().requires_grad_()
        return tapped["stride_16"].clone()  # on which the layers behind may work in place

    stage = stage_at(model, 16) if finer else None
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if stage is not None:
            stack.callback(stage.register_forward_hook(tap).remove)
        features = model.backbone.forward_features(inputs)
    with torch.enable_grad():
        tapped["last"] = features if features.requires_grad else features.detach().requires_grad_()
        logits = model.backbone.forward_head(tapped["last"].clone())
    return logits, tapped


def score_cam(
    model: Classifier, inputs: Tensor, activations: Tensor, labels: NDArray[np.integer], channels: int = SCORED_CHANNELS
) -> Tensor:
    """ReLU(Σ_k α_k A_k), α the softmax over channels of the logit that the image gets when A_k masks it.

    Source: Wang et al., "Score-CAM", CVPRW 2020 (arXiv 1910.01279), equations 3 to 5, as its authors' code has it: each
    mask is stretched to 0..1, and the softmax is taken of the logits.

    Args:
        model: in evaluation mode.
        inputs: (N, C, S, S), normalised images, as `Classifier.inputs` gives them.
        activations: (N, K, h, w).
        labels: (N,), the label to explain on each image.
        channels: so many are tried, those whose activations vary most; the others have no weight.

    Returns:
        float32 (N, h, w).
    """
    maps = []
    for image, own, label in zip(inputs, activations, labels, strict=True):
        chosen = own[own.flatten(1).var(1).topk(min(channels, len(own))).indices]
        masks = functional.interpolate(chosen[None], size=inputs.shape[2:], mode="bilinear", align_corners=False)[0]
        low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
        masks = (masks - low) / (high - low + 1e-8)
        scores = torch.cat(
            [
                model.classify(model.features_of(image * some[:, None]))[:, label]
                for some in torch.split(masks, _SCORED_AT_ONCE)
            ]
        )
        maps.append((scores.softmax(0)[:, None, None] * chosen).sum(0).relu())
    return torch.stack(maps)


def upsample(maps: FloatArray, size: int) -> FloatArray:
    """Bilinear interpolation of maps (N, h, w) to the frame: float32 (N, size, size); borders are continued flat."""
    resized = functional.interpolate(
        torch.from_numpy(maps)[:, None], size=(size, size), mode="bilinear", align_corners=False
    )
    return resized[:, 0].numpy()
