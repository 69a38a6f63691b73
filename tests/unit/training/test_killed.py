"""A training that is killed, at a step and in the middle of writing its state, ends as if it had not been."""

import os
import signal
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import os
import signal
import sys
from pathlib import Path
import torch
from medistill.augmentation import Augmentation
from medistill.distillation.settings import Recipe
from medistill.models.settings import Network
from medistill.training.settings import Training
from medistill.data.dataset import Dataset
from medistill.distillation.teachers import LiveTeacher
from medistill.distillation.objective import RecipeObjective
from medistill.models.build import create_classifier
from medistill.training.checkpoint import Checkpoint
from medistill.training.spec import TrainingSpec
from medistill.training.trainer import Trainer

folder, out, moment = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
dataset = Dataset.open(folder)


def network(arch):
    return Network(arch=arch, args={"drop_rate": 0.2})


def built(arch, seed):
    torch.manual_seed(seed)
    return create_classifier(network(arch), labels=dataset.labels)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def at_step(report):
    if moment == f"step {report['step']}":
        die()


save, saves = torch.save, []


def half_saved(state, file):
    saves.append(file)
    save(state, file)
    if moment == f"save {len(saves)}":
        file.truncate(file.tell() // 2)
        die()


torch.save = half_saved
teacher = built("test_resnet", 1)
teacher.config["name"] = "teacher"
terms = [{"loss": "binary_cross_entropy"}, {"loss": "sigmoid_kd"}, {"loss": "feature_mse"}]
recipe = Recipe(teachers=["teacher"], views="live", terms=terms)
model = built("resnet10t", 0)
objective = RecipeObjective(recipe, dataset, [LiveTeacher(teacher, dataset)], map_shape=(512, 1, 1))
training = Training(
    epochs=4, batch_size=8, learning_rate=0.002, weight_decay=0.01, warmup=0.1, clip_norm=1, precision="no", ema=0.9
)
still = Augmentation(rotation=5, translation=0.02, scale=0.05, brightness=0.05, contrast=0.1, flip=False)
spec = TrainingSpec(name="a", network=network("resnet10t"), training=training, augmentation=still, recipe=recipe)
Trainer(model, objective, dataset, spec, Checkpoint(out, "x"), on_step=at_step).fit()
save({"model": model.backbone.state_dict(), "objective": objective.state_dict()}, out / "end.pt")
"""


def train(dataset, folder, moment="never"):
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", SCRIPT, str(dataset.folder), str(folder), moment]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == (0 if moment == "never" else -signal.SIGKILL), done.stderr[-2000:]


@pytest.mark.slow
def test_killed_three_times_it_ends_with_the_same_weights(tiny_dataset, tmp_path):
    train(tiny_dataset, tmp_path / "whole")
    for moment in ("step 6", "save 2", "step 16", "never"):  # 5 steps per epoch; saves are counted from the restart
        train(tiny_dataset, tmp_path / "killed", moment)
    whole, killed = (torch.load(tmp_path / name / "end.pt", weights_only=True) for name in ("whole", "killed"))
    for part, state in whole.items():
        for name, value in state.items():
            assert torch.equal(value, killed[part][name]), f"{part} {name}"
