"""Where a training starts."""

import contextlib
import io
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file
from scipy.special import expit

from medistill.data.dataset import Dataset
from medistill.distillation.objective import RecipeObjective
from medistill.distillation.settings import Recipe, Teacher
from medistill.errors import UserError
from medistill.params import load_params
from medistill.training.run import adopt, train
from medistill.training.settings import TrainedNetwork

FACTS = {"role": "student", "name": "a", "teachers": []}


@pytest.mark.parametrize("whole", [True, False])
def test_a_backbone_without_a_classifier_starts_at_prevalence(root, tiny_dataset, tmp_path, whole):
    torch.manual_seed(0)  # other weights may happen to answer the prevalence
    state = timm.create_model("test_resnet", num_classes=len(tiny_dataset.labels)).state_dict()
    file = tmp_path / "w.safetensors"
    save_file({name: value for name, value in state.items() if whole or not name.startswith("fc.")}, file)
    params = load_params(root / "params.yaml")
    still = params.training.model_copy(update={"epochs": 1, "learning_rate": 1e-12})
    train(
        tmp_path / "model",
        TrainedNetwork(arch="test_resnet", weights=file),
        tiny_dataset,
        lambda model: RecipeObjective(Recipe(), tiny_dataset),
        params.model_copy(update={"training": still}),
        facts=FACTS,
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


@pytest.mark.parametrize("change", [None, "knowledge", "dataset", "weights", "seed", "view_seed", "unlabelled"])
def test_a_training_goes_on_only_where_all_that_decides_it_is_the_same(root, tiny_dataset, tmp_path, change):
    params = load_params(root / "params.yaml")
    params = params.model_copy(update={"training": params.training.model_copy(update={"epochs": 2, "batch_size": 16})})
    weights = tmp_path / "w.safetensors"

    def first_step(dataset=tiny_dataset, stop_at=0, scale=1.0, **more):
        state = timm.create_model("test_resnet", num_classes=len(dataset.labels)).state_dict()
        save_file({name: torch.full_like(value, scale) for name, value in state.items()}, weights)
        steps = []

        def on_step(report):
            steps.append(report["step"])
            if report["step"] == stop_at:
                raise KeyboardInterrupt

        options = {"seed": 0, "view_seed": 0, "views": 2, "knowledge": ["a"], "facts": FACTS, "on_step": on_step} | more
        network = TrainedNetwork(arch="test_resnet", weights=weights)
        objective = lambda model: RecipeObjective(Recipe(), dataset)  # noqa: E731
        with contextlib.suppress(KeyboardInterrupt):
            train(tmp_path / "m", network, dataset, objective, params, checkpoints=tmp_path / "c", **options)
        return steps[0]

    per_epoch = len(tiny_dataset.split("train")) // 16
    assert first_step(stop_at=per_epoch + 1) == 1
    more = {
        None: {},
        "knowledge": {"knowledge": ["b"]},
        "dataset": {"dataset": replace(tiny_dataset, fingerprint="another")},
        "weights": {"scale": 2.0},
        "seed": {"seed": 1},
        "view_seed": {"view_seed": 1},
        "unlabelled": {"unlabelled": True},
    }[change]
    assert first_step(**more) == (per_epoch + 1 if change is None else 1)


def test_what_is_trained_already_is_not_trained_again(root, tiny_dataset, tmp_path, capsys):
    params = load_params(root / "params.yaml")
    params = params.model_copy(update={"training": params.training.model_copy(update={"epochs": 2, "batch_size": 16})})
    folder, code, kept = tmp_path / "m", tmp_path / "stage.py", tmp_path / "c" / "student" / "a"
    code.write_text("one")

    def run(seed=0):
        steps = []
        options = {"facts": FACTS, "view_seed": 0, "views": 2, "code": [code], "checkpoints": tmp_path / "c"}
        network, objective = TrainedNetwork(arch="test_resnet"), lambda model: RecipeObjective(Recipe(), tiny_dataset)
        fitted = train(folder, network, tiny_dataset, objective, params, seed=seed, on_step=steps.append, **options)
        return fitted, len(steps), {file.name: file.read_bytes() for file in folder.iterdir()}

    per_run = 2 * (len(tiny_dataset.split("train")) // 16)
    trained, steps, files = run()
    assert steps == per_run
    (copy,) = kept.iterdir()
    shutil.rmtree(folder)  # as DVC does before it runs a stage
    capsys.readouterr()
    fitted, steps, same = run()
    assert (steps, same) == (0, files)
    assert capsys.readouterr().out == (
        f"a: trained before, by these settings, data and code; to do it again delete {copy}\n"
    )
    assert (fitted.best_epoch, fitted.val_macro_auroc) == (trained.best_epoch, trained.val_macro_auroc)
    pd.testing.assert_frame_equal(fitted.history, trained.history, rtol=1e-5, check_dtype=False)

    def again(**more):
        _, steps, now = run(**more)
        assert steps == per_run
        (only,) = kept.iterdir()  # what is stale is gone
        assert {file.name: file.read_bytes() for file in (only / "model").iterdir()} == now
        return now["model.safetensors"]

    assert again(seed=1) != files["model.safetensors"]
    assert again() == files["model.safetensors"]
    content = bytearray(files["model.safetensors"])
    content[-1] ^= 1
    (copy / "model" / "model.safetensors").write_bytes(content)
    assert again() == files["model.safetensors"]
    for name in files:
        (copy / "model" / name).unlink()
        assert again() == files["model.safetensors"], name
    code.write_text("another")
    assert again() == files["model.safetensors"]


class Terminal(io.StringIO):
    """What a person would see."""

    def isatty(self):
        return True


def test_progress_has_rate_and_time_left_and_goes_on_where_a_training_was_killed(
    root, tiny_dataset, tmp_path, monkeypatch
):
    params = load_params(root / "params.yaml")
    params = params.model_copy(update={"training": params.training.model_copy(update={"epochs": 3, "batch_size": 16})})
    per_epoch = len(tiny_dataset.split("train")) // 16
    images = 3 * per_epoch * 16

    def shown(stop_at):
        def on_step(report):
            if report["step"] == stop_at:
                raise KeyboardInterrupt

        options = {"facts": FACTS, "seed": 0, "view_seed": 0, "views": None, "checkpoints": tmp_path / "c"}
        objective = lambda model: RecipeObjective(Recipe(), tiny_dataset)  # noqa: E731
        monkeypatch.setattr("sys.stderr", terminal := Terminal())
        with contextlib.suppress(KeyboardInterrupt):
            network = TrainedNetwork(arch="test_resnet")
            train(tmp_path / "m", network, tiny_dataset, objective, params, on_step=on_step, **options)
        return terminal.getvalue()

    shown(stop_at=per_epoch + 2)
    said = shown(stop_at=None)
    counts = [int(count) for count in re.findall(rf"(\d+)/{images} ", said)]
    assert counts[-1] == images
    assert next(count for count in counts if count) >= per_epoch * 16  # not once more from the start
    last = said.strip().splitlines()[-1]
    assert re.search(r"\d+:\d+<\d+:\d+, +[\d.]+img/s, epoch 3/3, loss \d\.\d{3}", last), last


class Narrow(Dataset):
    """Memory does not suffice for more than 16 images at once."""

    def images(self, rows):
        if len(rows) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().images(rows)


def test_what_could_be_validated_can_be_written(root, tiny_dataset, tmp_path):
    params = load_params(root / "params.yaml")
    options = {"facts": FACTS, "seed": 0, "view_seed": 0, "views": 2, "checkpoints": tmp_path / "c"}
    narrow, network = Narrow(**vars(tiny_dataset)), TrainedNetwork(arch="test_resnet")

    def train_by(batch_size, folder):
        """Validation and predictions are of twice as many images at once."""
        training = params.training.model_copy(update={"epochs": 1, "batch_size": batch_size})
        objective = lambda model: RecipeObjective(Recipe(), narrow)  # noqa: E731
        train(folder, network, narrow, objective, params.model_copy(update={"training": training}), **options)

    train_by(8, tmp_path / "m")
    assert len(pd.read_parquet(tmp_path / "m" / "predictions.parquet")) == 24
    with pytest.raises(UserError, match=r"memory has run out; set training\.batch_size lower"):
        train_by(16, tmp_path / "n")
    frozen = Teacher(arch="test_resnet", weights=tmp_path / "m" / "model.safetensors", frozen=True)
    with pytest.raises(
        UserError, match=r"memory has run out; set training\.batch_size lower or data\.image_size lower"
    ):
        adopt(tmp_path / "f", frozen, narrow, facts=FACTS, batch_size=32)
    adopt(tmp_path / "f", frozen, narrow, facts=FACTS, batch_size=16)
