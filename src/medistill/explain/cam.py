"""Grad-CAM by pytorch-grad-cam, kept at the feature map's resolution and unnormalised.

The library stretches every map to 0..1 (minimum to 0, maximum to 1), so that a map without evidence looks like one full
of it, and resizes it to the input. `MapGradCAM` takes the library's weights and weighted sum and leaves both steps out:
maps of one network can then be compared between images, and be shown on one scale.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torch.nn import functional

FloatArray = NDArray[np.float32]


class MapGradCAM(GradCAM):
    """`pytorch_grad_cam.GradCAM` of one layer without its min-max normalisation and resizing."""

    def compute_cam_per_layer(
        self, input_tensor: Tensor, targets: list[nn.Module], eigen_smooth: bool
    ) -> list[NDArray[np.float32]]:
        """ReLU of the weighted sum of the layer's channels, (N, h, w), as the list's only item."""
        (layer,) = self.target_layers
        (activations,) = self.activations_and_grads.activations
        (gradients,) = self.activations_and_grads.gradients
        cam = self.get_cam_image(input_tensor, layer, targets, activations.numpy(), gradients.numpy(), eigen_smooth)
        return [np.maximum(cam, 0)]

    def aggregate_multi_layers(self, cam_per_target_layer: list[NDArray[np.float32]]) -> FloatArray:
        """The only layer's maps, as they are."""
        (cam,) = cam_per_target_layer
        return np.float32(cam)


def grad_cam(model: nn.Module, images: Tensor, labels: NDArray[np.integer]) -> tuple[FloatArray, FloatArray]:
    """Grad-CAM of one label an image: ReLU(Σ_k α_k A_k), α_k the mean of ∂logit/∂A_k over the map.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017 (arXiv 1610.02391), equations 1 and 2.

    Args:
        model: a `Classifier`: logits (N, L), and `cam_layer()`, whose output is the last spatial feature map. It is put
            into evaluation mode; its parameters and their gradients stay as they are.
        images: float32 (N, C, H, W) in 0..1; one batch.
        labels: (N,), the index of the label to explain on each image.

    Returns:
        Maps, float32 (N, h, w), at the feature map's resolution, unnormalised and ≥ 0; and logits, float32 (N, L).
    """
    layer = model.cam_layer()
    with _graph_starts_at(model, layer):
        cam = MapGradCAM(model, [layer])
        try:
            maps = cam(images, [ClassifierOutputTarget(int(label)) for label in labels])
        finally:
            cam.activations_and_grads.release()
        logits = cam.outputs.detach().cpu().numpy()
    return maps, np.float32(logits)


@contextlib.contextmanager
def _graph_starts_at(model: nn.Module, layer: nn.Module) -> Iterator[None]:
    """Let autograd see only what follows `layer`: Grad-CAM needs no more, and the costly part comes before it."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Hooks run in the order of registration: this one comes before the library's, which therefore see the new leaf.
    handle = layer.register_forward_hook(lambda module, args, output: output.detach().requires_grad_())
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        handle.remove()
        for parameter in trained:
            parameter.requires_grad_(True)


def upsample(maps: FloatArray, size: int) -> FloatArray:
    """Bilinear interpolation of maps (N, h, w) to the frame: float32 (N, size, size); borders are continued flat."""
    resized = functional.interpolate(
        torch.from_numpy(maps)[:, None], size=(size, size), mode="bilinear", align_corners=False
    )
    return resized[:, 0].numpy()
