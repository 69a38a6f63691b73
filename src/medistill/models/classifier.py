"""A network with its own size, channels and normalisation, and its last feature map."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medistill.errors import UserError, is_out_of_memory
from medistill.models.timm_facts import pretrained_cfg, reason_of, with_args

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601), as where `ingest` makes frames grey."""


class Classifier(nn.Module):
    """A timm network with its own size, channels and normalisation: images in 0..1 in, logits out.

    So networks of all kinds are asked about the very same frames. The feature map passes an identity, `feature_map`,
    with channels first whatever the backbone's own order is: explanations have one place to look at in every network.
    """

    def __init__(self, backbone: nn.Module, config: dict[str, Any], *, new_head: bool = False) -> None:
        """Wrap `backbone`; `config` is the content of config.json and needs at least `mean` and `std`.

        Args:
            config: `input_size` in it, unless it is None, is the height and width that the backbone sees.
            new_head: the backbone has learnt something already, its classifier has not.
        """
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.new_head = new_head
        self.feature_map = nn.Identity()
        # Swin and its kin; networks that do not say have channels first.
        self._channels_come_last = getattr(backbone, "output_fmt", None) == "NHWC"
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("luma", torch.tensor(LUMA).view(1, 3, 1, 1), persistent=False)

    @property
    def input_size(self) -> int | None:
        """Height and width that the backbone sees; None: those of the images it is given."""
        return self.config.get("input_size")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, L) of float images (N, C, H, W) in 0..1; one channel is read as grey."""
        images = resize(images, self.input_size)
        if self.mean.shape[1] == 1 and images.shape[1] == 3:
            images = (images * self.luma).sum(1, keepdim=True)
        # Broadcasting one channel against the three of mean and std makes the grey image a colour image.
        features = self.backbone.forward_features((images - self.mean) / self.std)
        if self._channels_come_last:
            features = self.feature_map(features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        else:
            features = self.feature_map(features)
        return self.backbone.forward_head(features)

    def cam_layer(self) -> nn.Module:
        """The module whose output is the last spatial feature map, (N, K, h, w)."""
        return self.feature_map


def resize(images: Tensor, size: int | None) -> Tensor:
    """Float images (N, C, H, W) at `size` x `size`, bilinear, without aliasing where they shrink; None: as they are."""
    if size is None or images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def map_size(model: Classifier, size: int) -> list[int]:
    """Height and width of the last feature map for images of `size` pixels; see `map_shape`."""
    return map_shape(model, size)[1:]


def map_shape(model: Classifier, size: int) -> list[int]:
    """Channels, height and width of the last feature map for images of `size` pixels.

    Raises:
        UserError: the network does not take this size, or its features are not a map (N, K, h, w).
    """
    arch = model.config["arch"]
    try:
        ((_, features),) = _passed(model, size, [model.cam_layer()])
    except Exception as error:  # timm's code with a user's arguments and size: all of them may come
        seen = model.input_size or size
        if is_out_of_memory(error):
            raise UserError(f"memory runs out with one image of {seen} px; set input_size lower") from None
        hint, args = _size_hint(model, seen), with_args(model.config.get("args"))
        raise UserError(f"{arch} does not take images of {seen} px{args}: {reason_of(error)}{hint}") from None
    shape = list(features.shape) if isinstance(features, Tensor) else []
    # Images are square, and so are their maps: this also tells a map whose channels come last.
    if len(shape) != 4 or shape[2] != shape[3]:
        found = f"have the shape {shape}" if shape else "are several tensors"
        raise UserError(f"{arch}: its features {found}, not a map (N, K, h, w) to explain with; take another arch")
    return shape[1:]


def has_batch_norm_behind_map(model: Classifier, size: int) -> bool:
    """Whether batch norm follows the feature map: in training the images of a batch then see each other behind it.

    Args:
        model: of any device, `meta` too; it does not learn from this.
        size: of the images, in pixels.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    last, _ = _passed(model, size, [model.cam_layer(), *norms])[-1]
    return last is not model.cam_layer()


def _size_hint(model: Classifier, size: int) -> str:
    """Which sizes a network takes that does not take `size`, as the end of a sentence."""
    known = pretrained_cfg(model.config["arch"])
    own, lower = known.input_size[-1], size // 32 * 32
    if known.fixed_input_size:
        return f"; it is made for {own} px: set input_size: {own} beside arch" if own != size else ""
    shapes = copy.deepcopy(model).to("meta").eval()
    if not _takes(shapes, own):  # then it is no matter of size
        return ""
    others = {own, *range(max(32, lower - 256), lower + 288, 32)}
    smaller = next((other for other in sorted(others, reverse=True) if other < size and _takes(shapes, other)), None)
    larger = next((other for other in sorted(others) if other > size and _takes(shapes, other)), None)
    return (
        f"; it takes {' or '.join(str(other) for other in (smaller, larger) if other)} px: set input_size beside arch"
    )


def _takes(shapes: Classifier, size: int) -> bool:
    shapes.config = shapes.config | {"input_size": size}
    try:
        with torch.no_grad():
            shapes(torch.zeros(1, 3, size, size, device="meta"))
    except Exception:
        return False
    return True


def _passed(model: Classifier, size: int, layers: Sequence[nn.Module]) -> list[tuple[nn.Module, Any]]:
    """Those of `layers` that an image of `size` pixels passes, in order, with what they give; nothing is learnt."""
    passed: list[tuple[nn.Module, Any]] = []
    handles = [
        layer.register_forward_hook(lambda module, args, output: passed.append((module, output))) for layer in layers
    ]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, size, size, device=next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    return passed
