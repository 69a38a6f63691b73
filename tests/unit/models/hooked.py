"""pytorch-grad-cam, the tests' oracle, which reads the feature map by hooks on a layer."""

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from medistill.models.classifier import Classifier


class Hooked(nn.Module):
    """A classifier whose last feature map passes an identity, `layer`."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.layer = nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier.classify(self.layer(self.classifier.features(images)))


class _Unscaled(GradCAM):
    """The library's Grad-CAM without its last steps: the ReLU, the stretching to 0..1 and the resizing to the input."""

    def compute_cam_per_layer(self, input_tensor, targets, eigen_smooth):
        (layer,) = self.target_layers
        (activations,) = self.activations_and_grads.activations
        (gradients,) = self.activations_and_grads.gradients
        cam = self.get_cam_image(input_tensor, layer, targets, activations.numpy(), gradients.numpy(), eigen_smooth)
        return [cam]

    def aggregate_multi_layers(self, cam_per_target_layer):
        (cam,) = cam_per_target_layer
        return cam


def library_maps(model: Classifier, images: torch.Tensor, labels: np.ndarray, *, scaled: bool = False) -> np.ndarray:
    """The library's Grad-CAM of one label per image, signed (N, h, w); `scaled`: as shown, (N, H, W) in 0..1."""
    hooked = Hooked(model)
    cam = (GradCAM if scaled else _Unscaled)(hooked, [hooked.layer])
    try:
        return cam(images, [ClassifierOutputTarget(int(label)) for label in labels])
    finally:
        cam.activations_and_grads.release()
        model.zero_grad()
