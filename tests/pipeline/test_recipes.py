"""A run that would fail later is refused before its first network is trained."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml

from medistill.config import Network, load_params
from medistill.distillation.knowledge import write_knowledge
from medistill.errors import UserError
from medistill.files import write_json
from medistill.models.zoo import create_classifier, save_model
from pipeline.recipes import require_run, require_trained, train_by_recipe
from pipeline.stages import distill


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
        (
            lambda p: p["students"]["eeea_net_c2"].update(arch="eeea_netc2"),
            r"^params\.yaml: students\.eeea_net_c2: arch 'eeea_netc2' is not known to timm",
        ),
        (
            lambda p: p["students"]["tf_efficientnet_lite0"].update(channels=1),
            r"^params\.yaml: students\.tf_efficientnet_lite0: the weights of .* are for 3 channels; leave channels out",
        ),
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
        (
            lambda p: p["students"]["eeea_net_c2"].update(weights="nowhere.safetensors"),
            r"^params\.yaml: students\.eeea_net_c2: nowhere\.safetensors: no such file",
        ),
        (
            lambda p: p["students"]["eeea_net_c2"].update(pretrained=True),
            "there are no pretrained weights for eeea_net_c2",
        ),
        (
            lambda p: p["teachers"]["densenet"].update(terms=[{"loss": "cross_entropy"}]),
            r"teachers\.densenet: cross_entropy is for exclusive classes",
        ),
        (
            lambda p: p["students"]["tf_efficientnet_lite0"].update(arch="mobilenetv3_small_050"),
            r"students\.tf_efficientnet_lite0: the weights of mobilenetv3_small_050 could not be downloaded",
        ),
    ],
)
def test_what_would_fail_in_a_later_stage_is_named(params, tiny_dataset, tmp_path, monkeypatch, change, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as a machine without a network sets it
    change(params)
    with pytest.raises(UserError, match=message):
        required(params, tiny_dataset, tmp_path)


def test_a_frozen_teacher_is_held_against_the_classes(params, tiny_dataset, tmp_path):
    classes = replace(tiny_dataset, task="multiclass")
    known = tiny_dataset.labels[:-1]
    model = create_classifier(Network(arch="test_resnet"), labels=known)
    save_model(tmp_path, model, {})
    frozen = {"arch": "test_resnet", "weights": str(tmp_path / "model.safetensors"), "frozen": True, "labels": known}
    params["teachers"]["efficientnet_lite2"] = frozen
    params["recipes"]["kd"]["terms"] = [{"loss": "cross_entropy"}, {"loss": "softmax_kd"}]
    with pytest.raises(UserError, match=f"does not know the class {tiny_dataset.labels[-1]}; where classes are excl"):
        required(params, classes, tmp_path)
    del frozen["labels"]
    with pytest.raises(UserError, match=r"fc\.weight has shape"):
        required(params, classes, tmp_path)


def test_a_loss_that_cannot_see_an_offset_is_named_even_where_it_is_wanted(params, tiny_dataset, tmp_path, capsys):
    params["recipes"]["kd"]["terms"] += [
        {"loss": "softmax_kd", "allow_offset_blind": True},
        {"loss": "mse_kd", "allow_offset_blind": True},  # in the space of the sigmoid it sees all
    ]
    required(params, tiny_dataset, tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("recipes.kd: softmax_kd with allow_offset_blind cannot see a constant")


def test_answers_of_a_teacher_that_has_changed_since_are_refused(params, tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params["teach"] = {"views": 1, "view_seed": 0}
    params["teachers"]["efficientnet_lite2"] = {"arch": "test_resnet"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    read = load_params(tmp_path / "params.yaml")
    model = create_classifier(Network(arch="test_resnet"), labels=tiny_dataset.labels)
    model.config |= {"name": "efficientnet_lite2", "fingerprint": "before"}
    model.config["dataset_fingerprint"] = tiny_dataset.fingerprint
    answers, folder = tmp_path / "data/knowledge/efficientnet_lite2", tmp_path / "models/teachers/efficientnet_lite2"
    answers.mkdir(parents=True)
    folder.mkdir(parents=True)
    write_knowledge(answers, model, tiny_dataset, read.augmentation, views=1, view_seed=0)
    save_model(folder, model, model.config | {"fingerprint": "after"})
    student, facts = read.students["eeea_net_c2"], {"role": "student", "name": "s"}
    with pytest.raises(UserError, match=r"knowledge/efficientnet_lite2: teacher efficientnet_lite2 has changed since"):
        train_by_recipe(tmp_path / "out", student, read.recipes["kd"], tiny_dataset, read, facts=facts, seed=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("there", "what"),
    [
        ({}, None),
        ({"dataset_fingerprint": "another"}, "data"),
        ({"arch": "resnet18"}, "arch"),
        ({"labels": ["b", "a"]}, "labels"),
        ({"weights_sha256": "0" * 64}, "weights"),
    ],
)
def test_a_teacher_of_other_settings_neither_answers_nor_teaches(
    params, tiny_dataset, tmp_path, monkeypatch, there, what
):
    monkeypatch.chdir(tmp_path)
    params["teachers"]["efficientnet_lite2"] = {"arch": "test_resnet"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    read = load_params(tmp_path / "params.yaml")
    config = {"dataset_fingerprint": tiny_dataset.fingerprint, "arch": "test_resnet", "labels": tiny_dataset.labels}
    folder = tmp_path / "models/teachers/efficientnet_lite2"
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config | {"weights_sha256": None} | there)
    if what is None:
        assert require_trained(read, "efficientnet_lite2", tiny_dataset) == config | {"weights_sha256": None}
        return
    with pytest.raises(UserError, match=rf"teachers/efficientnet_lite2: is of other {what} than now; run the train_t"):
        require_trained(read, "efficientnet_lite2", tiny_dataset)


def test_a_frozen_teacher_that_was_trained_on_other_pixels_is_refused(params, tiny_dataset, tmp_path):
    model = create_classifier(Network(arch="test_resnet"), labels=tiny_dataset.labels)
    save_model(tmp_path, model, model.config | {"image_size": 48})
    frozen = {"arch": "test_resnet", "weights": str(tmp_path / "model.safetensors"), "frozen": True}
    params["teachers"]["efficientnet_lite2"] = frozen
    with pytest.raises(UserError, match=r"teachers\.efficientnet_lite2: .* trained with input_size 48, not 32; set"):
        required(params, tiny_dataset, tmp_path)


def test_what_is_odd_is_said(params, tiny_dataset, tmp_path, capsys):
    labels = [tiny_dataset.labels[0], "Pleural Effusion"]
    save_model(tmp_path, create_classifier(Network(arch="test_resnet"), labels=labels), {})
    frozen = {"arch": "test_resnet", "weights": str(tmp_path / "model.safetensors"), "frozen": True, "labels": labels}
    params["teachers"]["efficientnet_lite2"] = frozen
    params["recipes"]["kd"]["unlabelled"] = True
    params["training"]["batch_size"] = 100_000
    required(params, tiny_dataset, tmp_path)
    images = len(tiny_dataset.split("train"))
    assert capsys.readouterr().err.splitlines() == [
        f"teachers.efficientnet_lite2: it teaches {labels[0]} alone;"
        " its own Pleural Effusion are no labels of the data set",
        "recipes.kd: unlabelled changes nothing, as every training image has a label",
        f"training.batch_size: there are only {images} training images, an epoch is one step",
    ]
    manifest = tiny_dataset.manifest.copy()
    first = manifest.index[manifest["split"] == "train"][0]
    manifest.loc[first, [f"label:{label}" for label in tiny_dataset.labels]] = np.nan
    required(params, replace(tiny_dataset, manifest=manifest), tmp_path)
    assert "unlabelled" not in capsys.readouterr().err


def test_a_mistake_beside_finished_teachers_is_named_before_a_student_trains(
    params, tiny_dataset, tmp_path, monkeypatch
):
    shutil.copytree(tiny_dataset.folder, tmp_path / "data" / "processed")
    params["students"]["typo"] = {"arch": "resnet10"}
    params["run"]["students"].append("typo")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"students\.typo: arch 'resnet10' is not known to timm"):
        distill.main(["eeea_net_c2", "baseline", "0"])
