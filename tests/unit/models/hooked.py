"""pytorch-grad-cam, the tests' oracle, which reads the feature map by hooks on a layer."""

import numpy as np
import pytorch_grad_cam
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.base_cam import BaseCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from medistill.models.classifier import Classifier


class Hooked(nn.Module):
    """A classifier of images, whose last feature map passes an identity, `layer`."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.layer = nn.Identity()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier.classify(self.layer(self.classifier.features(images)))


class Prepared(Hooked):
    """The same of images that are prepared already, as the library masks what it is given."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.classifier.classify(self.layer(self.classifier.features_of(inputs)))


class _Unscaled(BaseCAM):
    """The library's methods without their last steps: ReLU, stretching to 0..1 and resizing to the input."""

    def compute_cam_per_layer(self, input_tensor, targets, eigen_smooth):
        (layer,) = self.target_layers
        (activations,) = self.activations_and_grads.activations
        (gradients,) = self.activations_and_grads.gradients or (torch.zeros(0),)
        cam = self.get_cam_image(input_tensor, layer, targets, activations.numpy(), gradients.numpy(), eigen_smooth)
        return [cam]

    def aggregate_multi_layers(self, cam_per_target_layer):
        (cam,) = cam_per_target_layer
        return cam


def library_maps(model: Classifier, images: torch.Tensor, labels: np.ndarray, *, scaled: bool = False) -> np.ndarray:
    """The library's Grad-CAM of one label per image, signed (N, h, w); `scaled`: as shown, (N, H, W) in 0..1."""
    hooked = Hooked(model)
    return _run(GradCAM if scaled else _unscaled("GradCAM"), hooked, hooked.layer, images, labels)


def library_maps_of(
    method: str, model: Classifier, inputs: torch.Tensor, labels: np.ndarray, layer: nn.Module | None
) -> np.ndarray:
    """A method of the library by its class, as `library_maps`, of prepared images, on a module or the last map."""
    hooked = Prepared(model)
    return _run(
        _unscaled(method), hooked, layer or hooked.layer, inputs, labels, model.channels_first if layer else None
    )


def _unscaled(method: str) -> type[BaseCAM]:
    return type(method, (_Unscaled, getattr(pytorch_grad_cam, method)), {})


def _run(method, hooked, layer, images, labels, reshape=None) -> np.ndarray:
    cam = method(hooked, [layer], reshape_transform=reshape)
    try:
        return cam(images, [ClassifierOutputTarget(int(label)) for label in labels])
    finally:
        cam.activations_and_grads.release()
        hooked.zero_grad()
