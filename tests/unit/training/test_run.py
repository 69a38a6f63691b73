"""Where a training starts."""

import json

import numpy as np
import pandas as pd
import pytest
import timm
from safetensors.torch import save_file
from scipy.special import expit

from medistill.config import Network, Recipe, load_params
from medistill.distillation.objective import RecipeObjective
from medistill.training.run import train


@pytest.mark.parametrize("whole", [True, False])
def test_a_backbone_without_a_classifier_starts_at_prevalence(root, tiny_dataset, tmp_path, whole):
    state = timm.create_model("test_resnet", num_classes=len(tiny_dataset.labels)).state_dict()
    file = tmp_path / "w.safetensors"
    save_file({name: value for name, value in state.items() if whole or not name.startswith("fc.")}, file)
    params = load_params(root / "params.yaml")
    still = params.training.model_copy(update={"epochs": 1, "learning_rate": 1e-12})
    train(
        tmp_path / "model",
        Network(arch="test_resnet", weights=file),
        tiny_dataset,
        lambda model: RecipeObjective(Recipe(), tiny_dataset),
        params.model_copy(update={"training": still}),
        facts={"role": "student", "name": "a", "teachers": []},
        seed=0,
        view_seed=0,
        views=None,
        checkpoints=tmp_path / "checkpoints",
    )
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["initialisation"] == ("file (w.safetensors)" if whole else "backbone of file (w.safetensors)")
    predictions = pd.read_parquet(tmp_path / "model" / "predictions.parquet")
    answers = expit(predictions[[f"logit:{label}" for label in tiny_dataset.labels]].to_numpy()).mean(axis=0)
    prevalence = tiny_dataset.targets(tiny_dataset.split("train")).mean(axis=0)
    assert np.allclose(answers, prevalence, atol=0.02) != whole
