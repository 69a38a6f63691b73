"""A run that would fail later is refused before its first network is trained."""

import pytest
import yaml

from medistill.config import load_params
from medistill.errors import UserError
from pipeline.recipes import require_run


@pytest.fixture
def params(root):
    return yaml.safe_load((root / "params.yaml").read_text())


def required(params, dataset, folder):
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    require_run(load_params(folder / "params.yaml"), dataset)


def test_the_repositorys_run_passes(params, tiny_dataset, tmp_path):
    required(params, tiny_dataset, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["students"]["eeea_net_c2"].update(arch="eeea_netc2"), "arch 'eeea_netc2' is not known to timm"),
        (
            lambda p: p["teachers"].update(densenet={"arch": "vit_tiny_patch16_224"}),
            "vit_tiny_patch16_224: its features",
        ),
        (
            lambda p: p["recipes"]["kd"]["terms"].append({"loss": "softmax_kd"}),
            "recipes.kd: softmax_kd is for exclusive classes, and the labels of this data set are not",
        ),
        (
            lambda p: (p["recipes"]["kd"]["terms"].append({"loss": "cam_kd"}), p["teach"].update(cams=True)),
            "recipes.kd: cam_kd compares maps, but that of eeea_net_c2 is 1x1 at this size; raise its input_size",
        ),
    ],
)
def test_what_would_fail_in_a_later_stage_is_named(params, tiny_dataset, tmp_path, change, message):
    change(params)
    with pytest.raises(UserError, match=message):
        required(params, tiny_dataset, tmp_path)
