"""A network with its own size, channels and normalisation, and its last feature map."""

import contextlib
import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medistill.errors import UserError, is_out_of_memory
from medistill.models.heads import PooledHead, class_maps_by_autograd, read_head
from medistill.models.timm_facts import pretrained_cfg, reason_of, with_args
from medistill.records.models import Config

if TYPE_CHECKING:
    from medistill.models.timm_facts import Backbone

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601), as where `ingest` makes frames grey."""


class Classifier(nn.Module):
    """A timm network with its own size, channels and normalisation: images in 0..1 in, logits out.

    So networks of all kinds take the same frames, and give their last feature map and Grad-CAM in one form, with
    channels first for any order in the backbone.
    """

    mean: Tensor
    std: Tensor
    luma: Tensor

    def __init__(self, backbone: "Backbone", config: Config, *, new_head: bool = False) -> None:
        """Wrap `backbone`; `config` needs at least `mean` and `std`.

        Args:
            config: `input_size` in it, unless it is None, is the height and width that the backbone sees.
            new_head: the backbone is pretrained, its classifier is not.
        """
        super().__init__()
        self.backbone = backbone
        self.config: Config = config
        self.new_head = new_head
        # Swin and its kin; networks that do not say have channels first.
        self._channels_come_last = getattr(backbone, "output_fmt", None) == "NHWC"
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("luma", torch.tensor(LUMA).view(1, 3, 1, 1), persistent=False)
        self._closed: dict[bool, PooledHead | None] = {}  # by whether it trains

    @property
    def input_size(self) -> int | None:
        """Height and width that the backbone sees; None: those of its images."""
        return self.config.get("input_size")

    def forward(self, images: Tensor, *, with_map: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (N, L) of float images (N, C, H, W) in 0..1; one channel is read as grey.

        Args:
            images: of any size that the backbone takes, or that `input_size` brings to it.
            with_map: give the last feature map (N, K, h, w) as well.
        """
        features = self.features(images)
        logits = self.classify(features)
        return (logits, features) if with_map else logits

    def features(self, images: Tensor) -> Tensor:
        """The last feature map (N, K, h, w) of images as `forward` takes them."""
        return self.features_of(self.inputs(images))

    def inputs(self, images: Tensor) -> Tensor:
        """What the backbone sees of images as `forward` takes them: at its size, in its channels, normalised."""
        return normalise(resize(images, self.input_size), self.mean, self.std, self.luma)

    def features_of(self, inputs: Tensor) -> Tensor:
        """The last feature map (N, K, h, w) of `inputs`."""
        return self.channels_first(self.backbone.forward_features(inputs))

    def channels_first(self, features: Tensor) -> Tensor:
        """A map of the backbone as (N, K, h, w)."""
        return features.permute(0, 3, 1, 2) if self._channels_come_last else features

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, L) of a feature map (N, K, h, w)."""
        return self.backbone.forward_head(features.permute(0, 2, 3, 1) if self._channels_come_last else features)

    def pooled(self, features: Tensor) -> Tensor:
        """Pooled features, float32 (N, K): the mean of a map over its cells; else what the network's own head pools."""
        if _is_map(features):
            return pooled_map(features)
        return self.backbone.forward_head(_float(features), pre_logits=True)

    def class_maps(self, features: Tensor, labels: Tensor | None = None, *, logits: Tensor | None = None) -> Tensor:
        """Signed Grad-CAM, Grad-CAM without its ReLU, in closed form where the network's head has one.

        Args:
            features: the last feature map (N, K, h, w).
            labels: int64 (N, M), those explained of each image; None: all, M = L.
            logits: (N, L), computed from `features`, which have a graph up to there; None: they are computed if
                needed.

        Returns:
            float32 (N, M, h, w), at the map's resolution and unnormalised; with a gradient where gradients are enabled.

        Raises:
            IndexError: a label is not one of the L.
        """
        head = self.closed_head()
        if head is not None:
            return head.class_maps(features, labels)
        if logits is None:
            features = features if features.requires_grad else features.detach().requires_grad_()
            with torch.enable_grad():
                logits = self.classify(features)
        if labels is None:
            labels = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
        return class_maps_by_autograd(logits, features, labels)

    def closed_head(self) -> PooledHead | None:
        """The head in closed form, or None if it has none; active dropout and batch norm have none in training."""
        if self.training not in self._closed:
            self._closed[self.training] = read_head(self.backbone, channels_last=self._channels_come_last)
        return self._closed[self.training]


def normalise(images: Tensor, mean: Tensor, std: Tensor, luma: Tensor) -> Tensor:
    """Float images (N, 1 or 3, H, W) in 0..1 as a network expects them: in its channels, minus mean, over deviation.

    Args:
        images: of one channel or three.
        mean, std: (1, C, 1, 1), C the channels of the network.
        luma: (1, 3, 1, 1), `LUMA` on the device of the images.
    """
    if mean.shape[1] == 1 and images.shape[1] == 3:
        images = (images * luma).sum(1, keepdim=True)
    # Broadcasting one channel against the three of mean and std makes the grey image a colour image.
    return (images - mean) / std


def resize(images: Tensor, size: int | None) -> Tensor:
    """Float images (N, C, H, W) at `size` x `size`, bilinear, antialiased when shrinking; None: not resized."""
    if size is None or images.shape[-1] == size:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def pooled_map(features: Tensor) -> Tensor:
    """The mean of a feature map (N, K, h, w) over its cells, float32 (N, K)."""
    return features.float().mean((2, 3))


def map_size(model: Classifier, size: int) -> list[int]:
    """Height and width of the last feature map for images of `size` pixels; see `map_shape`."""
    return map_shape(model, size)[1:]


def map_shape(model: Classifier, size: int) -> list[int]:
    """Channels, height and width of the last feature map for images of `size` pixels.

    Raises:
        UserError: the network does not take this size, or its features are not a map (N, K, h, w).
    """
    features = _last_features(model, size)
    if not _is_map(features):
        shape = list(features.shape) if isinstance(features, Tensor) else []
        found = f"have the shape {shape}" if shape else "are several tensors"
        raise UserError(
            f"{model.config['arch']}: its features {found} instead of a map (N, K, h, w) for explanations; use another"
            " arch, or let it teach: teachers need no map"
        )
    return list(features.shape[1:])


def feature_shape(model: Classifier, size: int) -> list[int]:
    """The last features for images of `size` pixels: channels, height and width of the map, or K pooled ones.

    Vision transformers and their kin have tokens instead of a map; what they give besides logits is `pooled`.

    Returns:
        [K, h, w], or [K] of a network without a map.

    Raises:
        UserError: the network does not take this size, or it gives no pooled features (N, K) either.
    """
    features = _last_features(model, size)
    if _is_map(features):
        return list(features.shape[1:])
    try:
        with _evaluated(model), torch.no_grad():
            pooled = model.pooled(features)
            shape = list(pooled.shape)
    except Exception as error:  # timm's code
        raise UserError(f"{model.config['arch']}: its features cannot be pooled: {reason_of(error)}") from None
    if len(shape) != 2:
        raise UserError(f"{model.config['arch']}: its pooled features have the shape {shape} instead of (N, K)")
    return shape[1:]


def _is_map(features: Tensor) -> bool:
    """Whether features are a map (N, K, h, w).

    Images are square, and so are their maps: this also tells a map whose channels come last.
    """
    return isinstance(features, Tensor) and features.dim() == 4 and features.shape[2] == features.shape[3]


def _float(features: Any) -> Any:
    """Features in float32; those of some networks are several tensors."""
    return features.float() if isinstance(features, Tensor) else [part.float() for part in features]


def _last_features(model: Classifier, size: int) -> Tensor:
    """The last features of a blank image of `size` pixels.

    Raises:
        UserError: the network does not take this size.
    """
    arch = model.config["arch"]
    try:
        with _evaluated(model), torch.no_grad():
            _, features = model(_blank(model, size), with_map=True)
    except Exception as error:  # timm's code with a user's arguments and size: all of them may come
        seen = model.input_size or size
        if is_out_of_memory(error):
            raise UserError(f"out of memory with one image of {seen} px; lower input_size") from None
        hint, args = _size_hint(model, seen), with_args(model.config.get("args"))
        raise UserError(f"{arch} does not take images of {seen} px{args}: {reason_of(error)}{hint}") from None
    return cast(Tensor, features)


def has_batch_norm_behind_map(model: Classifier, size: int) -> bool:
    """Whether batch norm follows the feature map, which in training mixes the images of a batch.

    Args:
        model: of any device, `meta` too; it does not learn from this.
        size: of the images, in pixels.
    """
    with _evaluated(model), torch.no_grad():
        features = model.features(_blank(model, size))
        passed: list[nn.Module] = []
        norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        handles = [norm.register_forward_hook(lambda module, args, output: passed.append(module)) for norm in norms]
        try:
            model.classify(features)
        finally:
            for handle in handles:
                handle.remove()
    return bool(passed)


def _size_hint(model: Classifier, size: int) -> str:
    """The sizes that a network takes, if it does not take `size`, as the end of a sentence."""
    known = pretrained_cfg(model.config["arch"])
    own, lower = known.input_size[-1], size // 32 * 32
    if known.fixed_input_size:
        return f"; it is made for {own} px: set input_size: {own} beside arch" if own != size else ""
    shapes = copy.deepcopy(model).to("meta").eval()
    if not _takes(shapes, own):  # the reason is not the size
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


@contextlib.contextmanager
def _evaluated(model: Classifier) -> Iterator[None]:
    """Evaluation mode within the block: nothing is learnt."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _blank(model: Classifier, size: int) -> Tensor:
    """An image of `size` pixels where the model is."""
    return torch.zeros(1, 3, size, size, device=next(model.parameters()).device)
