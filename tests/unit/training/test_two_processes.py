"""Two processes that share each batch train the network that one process trains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medistill.data.dataset import Dataset

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
import torch
from medistill.augmentation import Augmentation
from medistill.distillation.settings import Recipe
from medistill.models.settings import Network
from medistill.training.settings import Training
from medistill.data.dataset import Dataset
from medistill.distillation.objective import RecipeObjective
from medistill.models.build import create_classifier
from medistill.training.checkpoint import Checkpoint
from medistill.training.spec import TrainingSpec
from medistill.training.trainer import Trainer

torch.use_deterministic_algorithms(True)
folder, out, arch = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
dataset = Dataset.open(folder)
manifest = dataset.manifest
rng = np.random.default_rng(0)
for label in dataset.labels:  # unknown labels fall unevenly on the two processes
    known = (rng.random(len(manifest)) < 0.7) | (manifest["split"] != "train")
    manifest[f"label:{label}"] = manifest[f"label:{label}"].where(known)


class Answers:
    map_shape, unknown = (3, 2, 2), ()

    def answer(self, batch, needs):
        said = [[len(i) % 3 - 1, np.nan if i[-5] in "13" else int(i[-5]) / 5] for i in batch.image_ids]
        features = [[int(i[4]), int(i[-5]), 1] for i in batch.image_ids]
        maps = torch.tensor([[[[float(i[4]), 1], [2, 3]]] * 2 for i in batch.image_ids])
        return {
            "logits": torch.tensor(said).float(),
            "features": torch.tensor(features).float(),
            "cams": torch.where(torch.tensor(said)[:, :, None, None].isnan(), torch.nan, maps),
        }


torch.manual_seed(0)
network = Network(arch=arch)
model = create_classifier(network, labels=dataset.labels)
terms = [{"loss": "binary_cross_entropy", "weight": 0.5, "balanced": True}, {"loss": "sigmoid_kd", "weight": 2}]
terms.append({"loss": "feature_mse"})  # its projection is outside of the network that is kept equal
terms.append({"loss": "cam_kd"})  # on one process there may be no label to explain
training = Training(
    epochs=2, batch_size=5, learning_rate=0.002, weight_decay=0.01, warmup=0.1, clip_norm=1, precision="no"
)
still = Augmentation(rotation=5, translation=0.02, scale=0.05, brightness=0.05, contrast=0.1, flip=False)
recipe = Recipe(teachers=["a"], terms=terms)
if sys.argv[4:] == ["stages"]:  # the first of which does not teach the classifier
    first = {"terms": [{"loss": "feature_mse"}], "epochs": 1, "unlabelled": True}
    recipe = Recipe(teachers=["a"], stages=[first, {"terms": terms, "epochs": 1}])
shape = (model.backbone.num_features, 2, 2)
stages = range(len(recipe.parts))
objective = [RecipeObjective(recipe, dataset, [Answers()], stage=stage, map_shape=shape) for stage in stages]
spec = TrainingSpec(name="a", network=network, training=training, augmentation=still, recipe=recipe, views=2)
result = Trainer(model, objective, dataset, spec, Checkpoint(out, "x")).fit()
rank = int(__import__("os").environ.get("RANK", 0))
(out / f"val-{rank}.txt").write_text(str(result.history["val_macro_auroc"].tolist()))
if rank == 0:
    weights = model.backbone.state_dict() | objective[0].state_dict() | objective[-1].state_dict()
    torch.save({"weights": weights, "loss": result.history["train_loss"].tolist()}, out / "end.pt")
"""


def run(script: str, folder: Path, *arguments: Path | str, processes: int = 2) -> None:
    """Run a script in so many processes, on the CPU."""
    file = folder / "script.py"
    file.write_text(script)
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launch, *map(str, (file, *arguments))]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]


def train(dataset: Dataset, folder: Path, processes: int, *options: str) -> dict:
    folder.mkdir()
    run(SCRIPT, folder, dataset.folder, folder, *options, processes=processes)
    return torch.load(folder / "end.pt", weights_only=True)


@pytest.mark.parametrize("options", [(), pytest.param(("stages",), marks=pytest.mark.slow)], ids=["", "stages"])
def test_two_processes_train_what_one_does(tiny_dataset, tmp_path, options):
    # layer norm: images do not depend on each other
    one, two = (train(tiny_dataset, tmp_path / str(count), count, "test_convnext", *options) for count in (1, 2))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    for name, value in one["weights"].items():
        assert torch.allclose(value, two["weights"][name], atol=2e-4), name


@pytest.mark.slow
def test_processes_agree_on_validation_whatever_their_batch_norm_says(tiny_dataset, tmp_path):
    train(tiny_dataset, tmp_path / "two", 2, "resnet10t")
    first, second = ((tmp_path / "two" / f"val-{rank}.txt").read_text() for rank in (0, 1))
    assert first == second


LOSSES = """
import sys
import torch
import torch.nn.functional as F
from torch import distributed
from medistill.distillation.functional import cross_entropy, rkd

distributed.init_process_group("gloo")
rank = distributed.get_rank()
generator = torch.Generator().manual_seed(0)
logits, number = torch.randn(7, 3, generator=generator), torch.tensor([0, 1, 2, 0, 0, 1, 2])
features, answers = (torch.randn(3, 4, generator=generator) for _ in range(2))
weight = torch.tensor([1.0, 5.0, 0.2])
mine = cross_entropy(logits[rank::2], F.one_hot(number[rank::2], 3).float(), class_weight=weight)
distributed.all_reduce(mine)
whole = F.cross_entropy(logits, number, weight=weight)
assert torch.allclose(mine / 2, whole), (mine / 2, whole)
own = rkd(features[rank::2], answers[rank::2]).item()  # two images here, one there
distributed.destroy_process_group()
alone = rkd(features[rank::2], answers[rank::2]).item()
assert own == alone, (own, alone)
"""


def test_weights_are_summed_over_processes_and_relations_stay_within_one(tmp_path):
    run(LOSSES, tmp_path)


BROKEN = """
import sys
from pathlib import Path
import torch
from torch import distributed
from medistill.augmentation import Augmentation
from medistill.models.settings import Network
from medistill.training.settings import Training
from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.models.build import create_classifier
from medistill.training.checkpoint import Checkpoint
from medistill.training.spec import TrainingSpec
from medistill.training.trainer import Trainer

folder, out = Path(sys.argv[1]), Path(sys.argv[2])
dataset = Dataset.open(folder)
training = Training(
    epochs=1, batch_size=4, learning_rate=0.002, weight_decay=0.01, warmup=0.1, clip_norm=1, precision="no"
)
still = Augmentation(rotation=0, translation=0, scale=0, brightness=0, contrast=0, flip=False)


def objective(logits, batch):
    (out / f"drawn-{distributed.get_rank()}.txt").write_text(str(torch.rand(3)))
    return {"loss": logits.mean() * (float("nan") if distributed.get_rank() else 1)}


try:
    network = Network(arch="resnet10t")
    model = create_classifier(network, labels=dataset.labels)
    spec = TrainingSpec(name="a", network=network, training=training, augmentation=still, views=1)
    Trainer(model, objective, dataset, spec, Checkpoint(out, "x")).fit()
except UserError as error:
    (out / f"said-{distributed.get_rank()}.txt").write_text(str(error))
"""


@pytest.mark.slow
def test_of_two_processes_the_one_whose_loss_is_not_finite_names_images(tiny_dataset, tmp_path):
    run(BROKEN, tmp_path, tiny_dataset.folder, tmp_path)
    first, second = ((tmp_path / f"said-{rank}.txt").read_text() for rank in (0, 1))
    assert first == "the loss of another process is not finite in epoch 1, step 1; see its message"
    assert "for the sum (loss nan)" in second
    assert second.count(".png") == 2
    drawn = {(tmp_path / f"drawn-{rank}.txt").read_text() for rank in (0, 1)}
    assert len(drawn) == 2  # each process has its own dropout
