"""Where a training starts: anew, at a checkpoint, or not at all because it was done before."""

import contextlib
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file
from scipy.special import expit

from medistill.data.dataset import Dataset
from medistill.distillation.frozen import import_teacher
from medistill.distillation.objective import RecipeObjective
from medistill.distillation.settings import Recipe, Teacher
from medistill.errors import UserError
from medistill.models.settings import Network
from medistill.params import load_params
from medistill.training import spec as specs
from medistill.training.run import train
from medistill.training.spec import TrainingSpec


@pytest.fixture
def spec(root):
    """The training of a small student by the repository's settings."""
    params = load_params(root / "params.yaml")
    network, training = Network(arch="test_resnet"), params.training.model_copy(update={"epochs": 2, "batch_size": 16})
    return TrainingSpec(name="a", network=network, training=training, augmentation=params.augmentation, views=2)


def trained(spec, **changes):
    """The same spec with other settings of its training."""
    return replace(spec, training=spec.training.model_copy(update=changes))


@pytest.mark.parametrize("whole", [True, False])
def test_a_backbone_without_a_classifier_starts_at_prevalence(spec, tiny_dataset, tmp_path, whole):
    state = timm.create_model("test_resnet", num_classes=len(tiny_dataset.labels)).state_dict()
    file = tmp_path / "w.safetensors"
    save_file({name: value for name, value in state.items() if whole or not name.startswith("fc.")}, file)
    still = replace(trained(spec, epochs=1, learning_rate=1e-12), network=Network(arch="test_resnet", weights=file))
    objective = lambda model: RecipeObjective(Recipe(), tiny_dataset)  # noqa: E731
    train(tmp_path / "model", still, tiny_dataset, objective, checkpoints=tmp_path / "checkpoints")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["initialisation"] == ("file (w.safetensors)" if whole else "backbone of file (w.safetensors)")
    predictions = pd.read_parquet(tmp_path / "model" / "predictions.parquet")
    answers = expit(predictions[[f"logit:{label}" for label in tiny_dataset.labels]].to_numpy()).mean(axis=0)
    prevalence = tiny_dataset.targets(tiny_dataset.split("train")).mean(axis=0)
    assert np.allclose(answers, prevalence, atol=0.02) != whole


@pytest.mark.parametrize("change", [None, "answers", "dataset", "weights", "seed", "view_seed", "unlabelled"])
def test_a_training_goes_on_only_where_all_that_decides_it_is_the_same(spec, tiny_dataset, tmp_path, change):
    weights = tmp_path / "w.safetensors"

    def first_step(dataset=tiny_dataset, stop_at=0, scale=1.0, answers=("a",), **more):
        state = timm.create_model("test_resnet", num_classes=len(dataset.labels)).state_dict()
        save_file({name: torch.full_like(value, scale) for name, value in state.items()}, weights)
        steps = []

        def on_step(report):
            steps.append(report["step"])
            if report["step"] == stop_at:
                raise KeyboardInterrupt

        here = replace(spec, network=Network(arch="test_resnet", weights=weights), **more)
        options = {"answers": answers, "checkpoints": tmp_path / "c", "on_step": on_step}
        with contextlib.suppress(KeyboardInterrupt):
            train(tmp_path / "m", here, dataset, lambda model: RecipeObjective(Recipe(), dataset), **options)
        return steps[0]

    per_epoch = len(tiny_dataset.split("train")) // 16
    assert first_step(stop_at=per_epoch + 1) == 1
    more = {
        None: {},
        "answers": {"answers": ["b"]},
        "dataset": {"dataset": replace(tiny_dataset, fingerprint="another")},
        "weights": {"scale": 2.0},
        "seed": {"seed": 1},
        "view_seed": {"view_seed": 1},
        "unlabelled": {"recipe": Recipe().model_copy(update={"unlabelled": True})},
    }[change]
    assert first_step(**more) == (per_epoch + 1 if change is None else 1)


def test_what_is_trained_already_is_not_trained_again(spec, tiny_dataset, tmp_path, capsys, monkeypatch):
    folder, kept = tmp_path / "m", tmp_path / "c" / "baseline" / "a"
    package = Path(shutil.copytree(specs.PACKAGE, tmp_path / "package", ignore=shutil.ignore_patterns("__pycache__")))
    monkeypatch.setattr(specs, "PACKAGE", package)

    def run(seed=0):
        steps = []
        options = {"checkpoints": tmp_path / "c", "on_step": steps.append}
        objective = lambda model: RecipeObjective(Recipe(), tiny_dataset)  # noqa: E731
        fitted = train(folder, replace(spec, seed=seed), tiny_dataset, objective, **options)
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
        f"a: already trained with these settings, data and code; to train again, delete {copy}\n"
    )
    assert (fitted.best_epoch, fitted.val_macro_auroc) == (trained.best_epoch, trained.val_macro_auroc)
    pd.testing.assert_frame_equal(fitted.history, trained.history, rtol=1e-5, check_dtype=False)

    def again(**more):
        _, steps, now = run(**more)
        assert steps == per_run
        (only,) = kept.iterdir()  # the outdated copy is gone
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
    (package / "distillation" / "functional.py").write_text("another")
    assert again() == files["model.safetensors"]


class Terminal(io.StringIO):
    """An output that claims to be a terminal."""

    def isatty(self):
        return True


def test_progress_has_rate_and_time_left_and_goes_on_where_a_training_was_killed(
    spec, tiny_dataset, tmp_path, monkeypatch
):
    spec = replace(trained(spec, epochs=3), views=None)
    per_epoch = len(tiny_dataset.split("train")) // 16
    images = 3 * per_epoch * 16

    def shown(stop_at):
        def on_step(report):
            if report["step"] == stop_at:
                raise KeyboardInterrupt

        options = {"checkpoints": tmp_path / "c", "on_step": on_step}
        monkeypatch.setattr("sys.stderr", terminal := Terminal())
        with contextlib.suppress(KeyboardInterrupt):
            train(tmp_path / "m", spec, tiny_dataset, lambda model: RecipeObjective(Recipe(), tiny_dataset), **options)
        return terminal.getvalue()

    shown(stop_at=per_epoch + 2)
    said = shown(stop_at=None)
    counts = [int(count) for count in re.findall(rf"(\d+)/{images} ", said)]
    assert counts[-1] == images
    assert next(count for count in counts if count) >= per_epoch * 16  # not from the start again
    last = said.strip().splitlines()[-1]
    assert re.search(r"\d+:\d+<\d+:\d+, +[\d.]+img/s, epoch 3/3, loss \d\.\d{3}", last), last


class Narrow(Dataset):
    """A data set without memory for more than 16 images at once."""

    def images(self, rows):
        if len(rows) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().images(rows)


def test_predictions_take_no_more_memory_than_validation(spec, tiny_dataset, tmp_path):
    narrow = Narrow(**vars(tiny_dataset))

    def train_by(batch_size, folder):
        """Train; validation and predictions read twice as many images at once."""
        here = trained(spec, epochs=1, batch_size=batch_size)
        train(folder, here, narrow, lambda model: RecipeObjective(Recipe(), narrow), checkpoints=tmp_path / "c")

    train_by(8, tmp_path / "m")
    assert len(pd.read_parquet(tmp_path / "m" / "predictions.parquet")) == 24
    with pytest.raises(UserError, match=r"out of memory; set training\.batch_size lower"):
        train_by(16, tmp_path / "n")
    frozen = Teacher(arch="test_resnet", weights=tmp_path / "m" / "model.safetensors", frozen=True)
    with pytest.raises(UserError, match=r"out of memory; set training\.batch_size lower or data\.image_size lower"):
        import_teacher(tmp_path / "f", "f", frozen, narrow, batch_size=32)
    import_teacher(tmp_path / "f", "f", frozen, narrow, batch_size=16)
