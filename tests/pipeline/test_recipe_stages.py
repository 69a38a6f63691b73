"""Stages of a recipe in params.yaml: what the documentation shows, and checks that name the stage."""

import re
from dataclasses import replace

import numpy as np
import pytest
import yaml

from medistill.errors import UserError
from pipeline.preflight import require_run
from tests.params import with_several, written

pytestmark = pytest.mark.usefixtures("exported_once")


@pytest.fixture
def params():
    """params.yaml with tiny networks, and a recipe of two stages."""
    read = with_several()
    read["teachers"] = {"densenet": {"arch": "test_resnet"}, "efficientnet_lite2": {"arch": "test_efficientnet"}}
    read["students"] = {"small": {"arch": "test_resnet", "input_size": 64}}
    read["run"] |= {"students": ["small"], "recipes": ["baseline", "kd"], "seeds": [0]}
    read["training"]["epochs"] = 3
    read["teach"]["answers"] = ["features", "attention"]
    stages = [
        {"terms": [{"loss": "feature_mse"}], "epochs": 1, "unlabelled": True},
        {"terms": [{"loss": "binary_cross_entropy"}, {"loss": "sigmoid_kd"}]},
    ]
    read["recipes"] = {"baseline": {}, "kd": {"teachers": ["densenet", "efficientnet_lite2"], "stages": stages}}
    return read


def test_what_the_documentation_shows_is_valid(root, params, tmp_path):
    text = (root / "docs" / "distillation.md").read_text(encoding="utf-8")
    (example,) = (block for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "stages:" in block)
    shown = yaml.safe_load(example)
    params["teach"] |= shown["teach"]
    params["recipes"] = shown["recipes"]
    params["run"]["recipes"] = list(shown["recipes"])
    params["training"]["epochs"] = 24
    recipe = written(params, tmp_path).recipes["two_stages"]
    assert recipe.epochs_of_parts(24) == [8, 16]
    params["training"]["epochs"] = 8
    with pytest.raises(
        UserError, match=r"recipes\.two_stages, for students\.small: stages: they have 8 epochs, which le"
    ):
        written(params, tmp_path)


@pytest.mark.parametrize(
    ("stage", "term", "message"),
    [
        (1, {"loss": "softmax_kd"}, r"recipes\.kd\.stages\.1: softmax_kd is for exclusive classes"),
        (0, {"loss": "attention_transfer"}, r"recipes\.kd\.stages\.0: attention_transfer compares maps, but that of "),
        (
            1,
            {"loss": "focal_bce", "group_weights": "source"},
            r"recipes\.kd: group_weights: the training images have no",
        ),
    ],
)
def test_what_would_fail_later_is_named_with_its_stage(params, tiny_dataset, tmp_path, stage, term, message):
    params["recipes"]["kd"]["stages"][stage]["terms"].append(term)
    with pytest.raises(UserError, match=f"^params\\.yaml: {message}"):
        require_run(written(params, tmp_path), tiny_dataset)


def test_oddities_are_noted_with_their_stage(params, tiny_dataset, tmp_path, capsys):
    params["training"]["batch_size"] = 8
    params["recipes"]["kd"]["stages"][0]["terms"].append({"loss": "rkd"})
    require_run(written(params, tmp_path), tiny_dataset)
    said = [line for line in capsys.readouterr().err.splitlines() if "recipes" in line]
    assert [line.partition(": ")[0] for line in said] == ["recipes.kd.stages.0"] * 2
    assert "unlabelled changes nothing, as every training image has a label" in said[0]
    assert "rkd compares the images of a batch, but a batch has only 8" in said[1]

    # with images without labels there is nothing odd, as the steps are a baseline's
    manifest, labels = tiny_dataset.manifest.copy(), [f"label:{label}" for label in tiny_dataset.labels]
    manifest.loc[manifest["image_id"].isin(tiny_dataset.split("train")["image_id"].iloc[:3]), labels] = np.nan
    require_run(written(params, tmp_path), replace(tiny_dataset, manifest=manifest))
    assert "unlabelled" not in capsys.readouterr().err
