"""Which network: arguments of the sections `teachers` and `students` of params.yaml."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from medistill.images.limits import LARGEST_SIZE
from medistill.settings import AnyPath, License, Settings

MOST_ARGUMENTS, LARGEST_ARGUMENT = 100, 100_000
"""Largest number in `args`, far above any network's: a network with a million layers would take hours to build."""


def _require_plain(args: dict[str, object]) -> dict[str, object]:
    """Refuse what config.json cannot hold as it is, and numbers of which networks without end are made."""
    values = 0
    for key, value in _within("", args):
        values += 1
        if isinstance(value, int | float) and not abs(value) <= LARGEST_ARGUMENT:  # NaN is in no order
            bound = f"outside of -{LARGEST_ARGUMENT:,} to {LARGEST_ARGUMENT:,}, the range for arguments of networks"
            raise ValueError(f"{key}: {value} is {bound if math.isfinite(value) else 'no number'}")
        if not isinstance(value, str | int | float | None):
            raise ValueError(f"{key}: must be text, a number, true, false, a list or a mapping")
    if values > MOST_ARGUMENTS:
        raise ValueError(f"has {values} values; no network takes more than {MOST_ARGUMENTS}")
    return args


def _within(key: str, value: object) -> Iterator[tuple[str, object]]:
    """Every value that is neither a list nor a mapping, with the key at which it is."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise ValueError(f"{key}: the key {name!r} is not text; put it into quotes")
            yield from _within(f"{key}.{name}".removeprefix("."), inner)
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from _within(f"{key}.{place}", inner)
    else:
        yield key, value


Arguments = Annotated[dict[str, Any], AfterValidator(_require_plain)]
"""What they mean, each network of timm says itself."""


Select = Literal["uniform", "importance"]
"""How the middle channels of a block are chosen: at even distances, or those that count most."""


class Origin(Settings):
    """A network that timm knows, and where its weights come from."""

    arch: str = Field(min_length=1, max_length=100)
    """Name for `timm.create_model`, among them `eeea_net_c2` and `ofa_595`."""
    args: Arguments = {}
    """Further arguments of `timm.create_model`."""
    pretrained: bool = False
    """ImageNet weights: from a registry package where one is installed, else timm downloads them."""
    weights: AnyPath | None = None
    """A safetensors file with the user's own weights: for these labels in this order; or, where the network is to be
    trained, without any tensor of the classifier, which then starts new. Of a start the classifier is not used."""
    license: License | None = Field(default=None, exclude=True)  # it changes no training, and no record of one
    """Of these weights. None: that of the package or of timm's download, or what `licenses.json` beside the file says;
    else it is unknown."""

    @model_validator(mode="after")
    def _license_of_weights(self) -> Self:
        if self.license is not None and not (self.pretrained or self.weights):
            raise ValueError("license is of weights: set it beside pretrained: true or weights: FILE")
        return self


class Start(Origin):
    """Another network of the same family that was trained, of whose weights a network starts with a part."""

    select: Select = "uniform"
    """Which channels of a block are taken."""

    @model_validator(mode="after")
    def _trained(self) -> "Start":
        if self.pretrained == (self.weights is not None):
            raise ValueError("set either pretrained: true or weights: FILE, of the network to start from")
        return self


class Network(Origin):
    """A teacher or a student: any network that timm knows."""

    init_from: Start | None = None
    """Start with a part of another network's weights (weight selection)."""
    input_size: int | None = Field(default=None, ge=16, le=LARGEST_SIZE)
    """Height and width that the network sees: frames are resized to it, in its ONNX file too. None: data.image_size."""
    channels: Literal[1, 3] = 3
    """Channels of the network's input; grey frames become colour, colour frames grey."""
    mean: list[Annotated[float, Field(ge=0, le=1)]] | None = Field(default=None, min_length=1)
    """Subtracted from intensities in 0..1, channel by channel. None: timm's values for the network."""
    std: list[Annotated[float, Field(gt=0, le=1)]] | None = Field(default=None, min_length=1)
    """What they are then divided by."""

    @model_validator(mode="after")
    def _one_origin(self) -> "Network":
        if self.pretrained + (self.weights is not None) + (self.init_from is not None) > 1:
            raise ValueError("set one of pretrained: true, weights: FILE and init_from, not several")
        for name in ("mean", "std"):
            if getattr(self, name) and len(getattr(self, name)) != self.channels:
                raise ValueError(f"{name} must have a number for each of {self.channels} channels")
        return self

    @property
    def untrained(self) -> Self:
        """The same network from random weights."""
        return self.model_copy(update={"pretrained": False, "weights": None, "init_from": None})

    @property
    def source(self) -> "Network | None":
        """The network that it starts from a part of."""
        if self.init_from is None:
            return None
        return Network.model_validate(self.init_from.model_dump(exclude={"select"}) | {"channels": self.channels})

    @property
    def file(self) -> Path | None:
        """The user's file that it starts from, whole or in part."""
        return self.init_from.weights if self.init_from else self.weights

    @property
    def own_weights(self) -> Path:
        """`weights`, where there are some."""
        if self.weights is None:
            raise ValueError(f"{self.arch} has no weights: FILE")
        return self.weights

    @property
    def is_frozen(self) -> bool:
        """Whether `weights` are used without training, with their own labels; only teachers may be."""
        return False
