"""No stage teaches with, starts from or evaluates a network that has seen the validation or test split."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.models.build import create_classifier
from medistill.models.settings import Network
from medistill.params import load_params
from pipeline.stages import distill, evaluate, explain, teach, train_teacher
from tests.saved import save_filled
from tests.seal import seal

pytestmark = pytest.mark.usefixtures("exported_once")


@pytest.fixture
def project(root: Path, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the tiny data set and the params of a teacher and a student that train in a second."""
    shutil.copytree(tiny_dataset.folder, tmp_path / "data" / "processed")
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["training"] |= {"epochs": 1, "batch_size": 16}
    params["teachers"] = {"big": {"arch": "resnet10t"}}
    params["students"] = {"small": {"arch": "resnet10t"}}
    params["recipes"]["kd"]["teachers"] = ["big"]
    params["run"] |= {"teachers": ["big"], "students": ["small"]}
    params["teach"]["views"] = 1
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def add_to_provenance(folder: Path, split: str) -> None:
    file = folder / provenance.FILE
    provenance.write_ids(file, provenance.read_ids(file) | provenance.ids_of(Dataset.open(), split))
    seal(folder / "config.json")


def give_weights(project: Path, section: str, name: str, file: Path) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text())
    params[section][name]["weights"] = str(file)
    (project / "params.yaml").write_text(yaml.safe_dump(params))


def test_a_teacher_that_has_seen_the_test_split_neither_teaches_nor_is_judged(project):
    train_teacher.main(["big"])
    folder = project / "models" / "teachers" / "big"
    teach.main(["big"])
    add_to_provenance(folder, "test")
    dataset = Dataset.open()
    test = dataset.split("test")
    counts = f"{test['group_id'].nunique()} groups and {test['sha256'].nunique()} images of the test split"
    for stage, arguments in ((teach, ["big"]), (evaluate, []), (explain, [])):
        with pytest.raises(UserError, match=f"big/train_ids.npz: the model was trained on {counts}"):
            stage.main(arguments)
    # the answers of before are still whole
    assert json.loads((project / "data/knowledge/big/knowledge.json").read_text())["teacher"] == "big"


def test_what_a_student_has_seen_includes_what_its_teacher_has(project):
    train_teacher.main(["big"])
    teacher = project / "models" / "teachers" / "big"
    elsewhere = provenance.TrainIds(np.array([1, 2], np.uint64), np.array([3], np.uint64))
    file = teacher / provenance.FILE
    provenance.write_ids(file, provenance.read_ids(file) | elsewhere)
    seal(teacher / "config.json")
    teach.main(["big"])
    (teacher / "model.safetensors").unlink()  # its answers are kept, so students do not need the teacher itself
    distill.main(["small", "kd", "0"])
    distill.main(["small", "baseline", "0"])
    own = provenance.ids_of(Dataset.open(), "train")
    students = project / "models" / "students"
    taught = provenance.read_ids(students / "small-kd-0" / provenance.FILE)
    alone = provenance.read_ids(students / "small-baseline-0" / provenance.FILE)
    assert set(taught.groups) == set(own.groups) | {1, 2}
    assert set(taught.images) == set(own.images) | {3}
    assert (set(alone.groups), set(alone.images)) == (set(own.groups), set(own.images))


def own_weights(project: Path) -> Path:
    """A user's network in a folder of its own."""
    torch.manual_seed(0)
    params = load_params()
    model = create_classifier(Network(arch="resnet10t"), labels=Dataset.open().labels)
    folder = project / "mine"
    folder.mkdir()
    save_filled(folder, model, name="mine", training=params.training.model_dump())
    return folder / "model.safetensors"


def test_weights_that_have_seen_the_validation_split_are_not_trained_on(project):
    file = own_weights(project)
    provenance.write_ids(file.parent / provenance.FILE, provenance.ids_of(Dataset.open(), "val"))
    give_weights(project, "teachers", "big", file)
    with pytest.raises(UserError, match=r"mine/train_ids\.npz: the model was trained on .* images of the val split"):
        train_teacher.main(["big"])
    assert not (project / "models").exists()


def test_weights_hand_on_what_they_have_seen(project):
    file = own_weights(project)
    seen = provenance.TrainIds(np.array([7], np.uint64), np.array([8], np.uint64))
    provenance.write_ids(file.parent / provenance.FILE, seen)
    give_weights(project, "teachers", "big", file)
    train_teacher.main(["big"])
    ids = provenance.read_ids(project / "models" / "teachers" / "big" / provenance.FILE)
    own = provenance.ids_of(Dataset.open(), "train")
    assert set(ids.groups) == set(own.groups) | {7}
    assert set(ids.images) == set(own.images) | {8}
