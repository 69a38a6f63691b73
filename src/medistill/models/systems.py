"""The networks of systems A and B by name, and the usual compact ones to set beside them.

System A is arXiv 2305.06244, system B arXiv 2508.15251. Any other network of timm teaches
as well, and learns as well if it ends in a feature map; these are the ones of the two papers, and usual ones to compare
with.
"""

from dataclasses import dataclass
from typing import TypedDict

import torch

from medistill.models.build import create_classifier
from medistill.models.classifier import map_size
from medistill.models.costs import costs
from medistill.models.inherit.mobile import is_mobile
from medistill.models.settings import Network
from medistill.models.weights import WEIGHT_PACKAGES, imagenet_license, imagenet_weights


@dataclass(frozen=True)
class NamedNetwork:
    """A network by its name in the literature, and by timm's."""

    name: str
    arch: str
    roles: tuple[tuple[str | None, str], ...]
    """(system, role): system A, B or None for neither; teacher or student."""


class RoleIn(TypedDict):
    """What a network is in system A or B, or in neither (None)."""

    system: str | None
    role: str


class Measured(TypedDict):
    """A network's names and roles, what it costs at one size, and the best start that can be had, with its licence."""

    name: str
    arch: str
    roles: list[RoleIn]
    params: int
    macs: int
    map_size: list[int]
    start_offline: str
    license_offline: str | None
    start_download: str
    license_download: str | None


NETWORKS = (
    NamedNetwork("DenseNet161", "densenet161", (("A", "teacher"),)),
    NamedNetwork("OFA-595", "ofa_595", (("A", "teacher"), ("B", "student"))),
    NamedNetwork("EEEA-Net-C2", "eeea_net_c2", (("A", "student"), ("A", "teacher"))),  # it also teaches itself
    NamedNetwork("Visformer-S", "visformer_small", (("A", "teacher"), ("B", "teacher"))),
    NamedNetwork("AutoFormerV2-T", "swin_s3_tiny_224", (("A", "teacher"), ("B", "teacher"))),
    # Which of the two system B means is not known.
    NamedNetwork("VGG19", "vgg19", (("B", "teacher"),)),
    NamedNetwork("VGG19-BN", "vgg19_bn", (("B", "teacher"),)),
    NamedNetwork("DenseNet121", "densenet121", ((None, "teacher"),)),
    NamedNetwork("EfficientNet-Lite2", "tf_efficientnet_lite2", ((None, "teacher"),)),
    NamedNetwork("EfficientNet-Lite0", "tf_efficientnet_lite0", ((None, "student"),)),
    NamedNetwork("EfficientNet-B0", "efficientnet_b0", ((None, "student"),)),
    NamedNetwork("MobileNetV3 small", "mobilenetv3_small_100", ((None, "student"),)),
    NamedNetwork("MobileNetV3 large", "mobilenetv3_large_100", ((None, "student"),)),
    NamedNetwork("MobileNetV4 conv small", "mobilenetv4_conv_small", ((None, "student"),)),
)


def measure(network: NamedNetwork, *, labels: int, size: int) -> Measured:
    """What a network costs with so many labels on RGB images of `size` pixels, counted and not looked up.

    Returns:
        `name`, `arch`, `roles` (a list of `system`, `role`), `params`, `macs` (both of the network as it runs on a
        device), `map_size` (height, width of the last feature map), `start_offline` and `start_download`: the best
        start, without a download but for packages, and with one; `license_offline` and `license_download`: of these
        weights, None where there are none or their licence is unknown.

    Raises:
        UserError: the network does not take this size.
    """
    # Shapes without numbers: nothing is allocated or multiplied, and all networks together take seconds.
    with torch.device("meta"):
        model = create_classifier(Network(arch=network.arch), labels=[""] * labels, image_size=size)
        height_width = map_size(model, size)  # first, for it refuses sizes
        found = costs(model, size)
        has_own, mobile = imagenet_weights(network.arch) is not None, is_mobile(model.backbone)
        packaged = network.arch in WEIGHT_PACKAGES
        offline = network.arch if packaged else "tf_efficientnet_lite2" if mobile else None
        download = network.arch if has_own else "mobilenetv3_large_100" if mobile else None
        return {
            "name": network.name,
            "arch": network.arch,
            "roles": [{"system": system, "role": role} for system, role in network.roles],
            "params": found["params"],
            "macs": found["macs"],
            "map_size": height_width,
            "start_offline": _start(network.arch, offline),
            "license_offline": offline and imagenet_license(offline),
            "start_download": _start(network.arch, download),
            "license_download": download and imagenet_license(download),
        }


def _start(arch: str, source: str | None) -> str:
    """How `arch` starts from the ImageNet weights of `source`: by its own, by a part of another network's, or not."""
    if source is None:
        return "random"
    return f"{'pretrained: true' if source == arch else f'init_from {source}'} ({imagenet_weights(source)})"


def models_table(measured: list[Measured]) -> str:
    """The result of `measure` for several networks as a table for people."""
    rows = [
        ("network", "arch", "roles", "parameters", "MACs", "map", "start without a download", "start with a download")
    ]
    rows += [
        (
            entry["name"],
            entry["arch"],
            ", ".join(" ".join(filter(None, (role["system"], role["role"]))) for role in entry["roles"]),
            f"{entry['params']:,}",
            f"{entry['macs'] / 1e9:.3f} G",
            "x".join(map(str, entry["map_size"])),
            "; ".join(filter(None, (entry["start_offline"], entry["license_offline"]))),
            "; ".join(filter(None, (entry["start_download"], entry["license_download"]))),
        )
        for entry in measured
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numbers = {3, 4}
    return "\n".join(
        "  ".join(f"{cell:{'>' if i in numbers else '<'}{widths[i]}}" for i, cell in enumerate(row)).rstrip()
        for row in rows
    )
