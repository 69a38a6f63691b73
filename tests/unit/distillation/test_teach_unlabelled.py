"""Unlabelled images: teachers answer them, recipes that ask for them train on them, a baseline is as before."""

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from medistill.augmentation import Augmentation
from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.data.settings import Data
from medistill.distillation.knowledge import Knowledge
from medistill.distillation.settings import Recipe, Teach
from medistill.distillation.train import teach, train_by_recipe
from medistill.models.settings import Network
from medistill.phantom.write import write_phantom
from medistill.records.data import UNLABELLED
from medistill.training.settings import Training
from medistill.training.spec import TrainingSpec
from tests.trees_cxr import write_xray

KD = {"teachers": ["large"], "terms": [{"loss": "binary_cross_entropy"}, {"loss": "sigmoid_kd"}]}
ASKED = Teach(views=1)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """A phantom of 80 images, alone and with 20 unlabelled ones."""
    folder = tmp_path_factory.mktemp("unlabelled")
    write_phantom(folder / "phantom", images=80, size=32, seed=0, prevalence="balanced")
    for number in range(20):
        write_xray(folder / "extra" / str(number % 3) / f"{number}.png", number)
    found = {}
    for name, extra in (("alone", None), ("joined", folder / "extra")):
        data = Data(format="chestxray14", root=folder / "phantom", image_size=32, workers=1, unlabelled=extra)
        ingest(data, folder / name, folder / "cache")
        found[name] = Dataset.open(folder / name)
    return found


def train(folder, dataset, name, recipe, teachers=(), *, teaches=False):
    spec = TrainingSpec(
        name=name,
        teaches=teaches,
        network=Network(arch="resnet10t"),
        training=Training(epochs=1, batch_size=8, learning_rate=1e-3),
        augmentation=Augmentation(),
        recipe=recipe,
    ).with_views(ASKED)
    steps = []
    run = {"checkpoints": folder / "checkpoints", "on_step": lambda *given: steps.append(given)}
    train_by_recipe(folder / name, spec, dataset, list(teachers), **run)
    return len(steps)


def test_teachers_answer_the_folder_and_a_baseline_stays_as_it_is(datasets, tmp_path):
    joined = datasets["joined"]
    train_ids = joined.split("train")["image_id"].tolist()
    assert sum(name.startswith(UNLABELLED) for name in train_ids) == 20
    steps = {
        name: train(tmp_path / name, dataset, "large", Recipe(), teaches=True) for name, dataset in datasets.items()
    }
    assert steps["alone"] == steps["joined"] == (len(train_ids) - 20) // 8
    weights = {name: load_file(tmp_path / name / "large" / "model.safetensors") for name in datasets}
    assert weights["alone"].keys() == weights["joined"].keys()
    assert all(np.array_equal(weights["alone"][key], weights["joined"][key]) for key in weights["alone"])

    folder = tmp_path / "joined"
    teach(folder / "answers", folder / "large", joined, Augmentation(), ASKED, unfinished=folder / "unfinished")
    assert np.load(folder / "answers" / "image_ids.npy").tolist() == train_ids
    logits = np.load(folder / "answers" / "logits.npy")
    assert logits.shape[:2] == (1, len(train_ids))
    assert np.isfinite(logits).all()

    teachers = [Knowledge.open(folder / "answers", joined, Augmentation(), ASKED)]
    assert train(folder, joined, "kd", Recipe(**KD), teachers) == steps["joined"]
    assert train(folder, joined, "more", Recipe(**KD, unlabelled=True), teachers) == len(train_ids) // 8
    history = pd.read_csv(folder / "more" / "history.csv")
    assert np.isfinite(history.filter(like="train_").to_numpy()).all()
