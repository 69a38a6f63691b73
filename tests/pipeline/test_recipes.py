"""A run that would fail later is refused before the first training."""

import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from timm.models._builder import build_model_with_cfg
from timm.models._registry import generate_default_cfgs, register_model
from torch import nn

from medistill.checksums import read_record, write_record
from medistill.data import provenance
from medistill.distillation.knowledge import write_knowledge
from medistill.distillation.objective import RecipeObjective
from medistill.errors import UserError
from medistill.metrics import calibration
from medistill.models.build import create_classifier
from medistill.models.settings import Network
from medistill.models.weights import load_model
from medistill.params import StudentModel, load_params
from medistill.task import Task
from medistill.views import read_frames, render_views, view_parameters
from pipeline import trainings
from pipeline.preflight import require_networks, require_run
from pipeline.stages import distill
from pipeline.trainings import require_trained, student_spec, teacher_spec
from tests.filled import model_record
from tests.params import with_several, written
from tests.saved import save_filled, save_weights

pytestmark = pytest.mark.usefixtures("exported_once")


@pytest.fixture
def params(root):
    return with_several()


def required(params, dataset, folder):
    require_run(written(params, folder), dataset)


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
            lambda p: p["students"].update(eeea_net_c2={"arch": "vit_tiny_patch16_224"}),
            r"students\.eeea_net_c2: vit_tiny_patch16_224: its features .* instead of a map",
        ),
        (
            lambda p: (
                p["teachers"].update(efficientnet_lite2={"arch": "test_vit"}),
                p["students"]["eeea_net_c2"].update(input_size=64),
                p["recipes"]["kd"]["terms"].append({"loss": "attention_transfer"}),
                p["teach"].update(answers=["attention"]),
            ),
            "recipes.kd: attention_transfer compares maps, but teacher efficientnet_lite2 has no feature map; take a"
            " loss of logits",
        ),
        (
            lambda p: p["recipes"]["kd"]["terms"].append({"loss": "softmax_kd"}),
            "recipes.kd: softmax_kd is for exclusive classes, but the labels of this data set are not",
        ),
        (
            lambda p: p["recipes"]["kd"]["terms"].append({"loss": "focal_bce", "group_weights": "source"}),
            r"^params\.yaml: recipes\.kd: group_weights: the training images have no source; known here: sex, view$",
        ),
        (
            lambda p: p["teachers"]["densenet"].update(terms=[{"loss": "focal_bce", "group_weights": "source"}]),
            r"^params\.yaml: teachers\.densenet: group_weights: the training images have no source",
        ),
        (
            lambda p: (p["recipes"]["kd"]["terms"].append({"loss": "cam_kd"}), p["teach"].update(answers=["cams"])),
            "recipes.kd: cam_kd compares maps, but that of eeea_net_c2 is 1x1 at this size; raise its input_size",
        ),
        (
            lambda p: (
                p["recipes"]["kd"]["terms"].append({"loss": "cam_kd"}),
                p["teach"].update(answers=["cams"]),
                p["students"].update(eeea_net_c2={"arch": "mobilenetv4_conv_small", "input_size": 64}),
                p["teachers"]["efficientnet_lite2"].update(input_size=64),
            ),
            "recipes.kd: cam_kd needs class activation maps, but eeea_net_c2 has batch norm behind its feature map",
        ),
        (
            lambda p: p["students"]["eeea_net_c2"].update(arch="test_resnet", args={"block": "foo"}),
            r"^params\.yaml: students\.eeea_net_c2: timm cannot build test_resnet with args",
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
            lambda p: p["teachers"]["efficientnet_lite2"].update(arch="mobilenetv3_small_050"),
            r"teachers\.efficientnet_lite2: the weights of mobilenetv3_small_050 could not be downloaded",
        ),
    ],
)
def test_what_would_fail_in_a_later_stage_is_named(params, tiny_dataset, tmp_path, monkeypatch, change, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as a machine without a network sets it
    change(params)
    with pytest.raises(UserError, match=message):
        required(params, tiny_dataset, tmp_path)


def test_a_frozen_teacher_is_held_against_the_classes(params, tiny_dataset, tmp_path):
    classes = replace(tiny_dataset, task=Task.MULTICLASS)
    known = tiny_dataset.labels[:-1]
    model = create_classifier(Network(arch="test_resnet"), labels=known)
    save_weights(tmp_path, model, {})
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
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "recipes" in line)
    assert line.startswith("recipes.kd: softmax_kd with allow_offset_blind cannot see a constant")


def test_labels_that_a_calibration_leaves_alone_are_named(params, tiny_dataset, tmp_path, monkeypatch, capsys):
    params["recipes"]["kd"]["calibrate"] = True
    with pytest.raises(UserError, match=r"recipes\.kd: calibrate: true would change nothing, as validation has fewer"):
        required(params, tiny_dataset, tmp_path)
    known = tiny_dataset.targets(tiny_dataset.split("val"))
    least = [int(min((known[:, label] == value).sum() for value in (0, 1))) for label in range(2)]
    assert least[0] != least[1]
    monkeypatch.setattr(calibration, "LEAST", max(least))
    required(params, tiny_dataset, tmp_path)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "calibrate" in line)
    kept = tiny_dataset.labels[int(np.argmin(least))]
    assert line.startswith(f"recipes.kd: calibrate: teachers' logits of {kept} stay as they are")


def test_an_evaluation_that_the_data_do_not_allow_is_refused_before_training(params, tiny_dataset, tmp_path):
    params["evaluate"]["ordered"] = ["Left", "Right"]
    with pytest.raises(UserError, match=r"evaluate\.ordered: only exclusive classes have an order; leave it out$"):
        required(params, tiny_dataset, tmp_path)


def test_answers_of_a_teacher_that_has_changed_since_are_refused(params, tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params["teach"] = {"views": 1, "view_seed": 0}
    params["teachers"]["efficientnet_lite2"] = {"arch": "test_resnet"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    read = load_params(tmp_path / "params.yaml")
    model = create_classifier(Network(arch="test_resnet"), labels=tiny_dataset.labels)
    settings = read.teachers["efficientnet_lite2"].model_dump(mode="json")
    facts = {"name": "efficientnet_lite2", "network": settings, "training": read.training.model_dump()}
    facts |= {"dataset_fingerprint": tiny_dataset.fingerprint, "augmentation": read.augmentation.model_dump()}
    answers, folder = tmp_path / "data/knowledge/efficientnet_lite2", tmp_path / "models/teachers/efficientnet_lite2"
    answers.mkdir(parents=True)
    folder.mkdir(parents=True)
    save_filled(folder, model, **facts)
    write_knowledge(answers, load_model(folder), tiny_dataset, read.augmentation, read.teach)
    # As if trained again on another machine: the same settings, but slightly different weights.
    with torch.no_grad():
        next(model.parameters()).add_(1e-6)
    save_filled(folder, model, **facts)
    spec = student_spec(read, StudentModel(student="eeea_net_c2", recipe="kd", seed=0))
    with pytest.raises(UserError, match=r"knowledge/efficientnet_lite2: teacher efficientnet_lite2 has changed since"):
        trainings.train(tmp_path / "out", spec, tiny_dataset, read)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("there", "what"),
    [
        ({}, None),
        ({"dataset_fingerprint": "another"}, "data"),
        ({"labels": ["b", "a"]}, "labels"),
        ({"weights_sha256": "0" * 64}, "weights"),
        ({"network": {"arch": "test_resnet", "input_size": 48}}, "settings in teachers.efficientnet_lite2"),
        ({"training": {"epochs": 1}}, "settings in training"),
        ({"augmentation": None}, "settings in augmentation"),
    ],
)
def test_a_teacher_of_other_settings_neither_answers_nor_teaches(
    params, tiny_dataset, tmp_path, monkeypatch, there, what
):
    monkeypatch.chdir(tmp_path)
    params["teachers"]["efficientnet_lite2"] = {"arch": "test_resnet"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    read = load_params(tmp_path / "params.yaml")
    config = {
        "dataset_fingerprint": tiny_dataset.fingerprint,
        "labels": tiny_dataset.labels,
        "weights_sha256": None,
        "network": read.teachers["efficientnet_lite2"].model_dump(mode="json"),
        "training": read.training.model_dump(),
        "augmentation": read.augmentation.model_dump(),
    }
    folder = tmp_path / "models/teachers/efficientnet_lite2"
    folder.mkdir(parents=True)
    record = model_record(**config | there)
    record.write(folder / "config.json")
    if what is None:
        assert require_trained(read, "efficientnet_lite2", tiny_dataset) == record
        return
    with pytest.raises(
        UserError, match=rf"teachers/efficientnet_lite2: was trained with other {what}; run the train_t"
    ):
        require_trained(read, "efficientnet_lite2", tiny_dataset)


def test_a_frozen_teacher_that_was_trained_on_other_pixels_is_refused(params, tiny_dataset, tmp_path):
    model = create_classifier(Network(arch="test_resnet"), labels=tiny_dataset.labels)
    save_filled(tmp_path, model, image_size=48)
    frozen = {"arch": "test_resnet", "weights": str(tmp_path / "model.safetensors"), "frozen": True}
    params["teachers"]["efficientnet_lite2"] = frozen
    with pytest.raises(UserError, match=r"teachers\.efficientnet_lite2: .* trained with input_size 48, not 32; set"):
        required(params, tiny_dataset, tmp_path)


def test_a_label_without_a_teacher_or_a_loss_is_named(params, tiny_dataset, tmp_path):
    known = tiny_dataset.labels[:-1]
    save_weights(tmp_path, create_classifier(Network(arch="test_resnet"), labels=known), {})
    frozen = {"arch": "test_resnet", "weights": str(tmp_path / "model.safetensors"), "frozen": True, "labels": known}
    params["teachers"]["efficientnet_lite2"] = frozen
    params["recipes"]["kd"]["terms"] = [{"loss": "sigmoid_kd"}]
    with pytest.raises(UserError, match=f"recipes.kd: no term trains the label {tiny_dataset.labels[-1]}: no teacher"):
        required(params, tiny_dataset, tmp_path)
    params["recipes"]["kd"]["terms"].append({"loss": "focal_bce"})
    required(params, tiny_dataset, tmp_path)
    params["recipes"]["kd"] |= {"teachers": ["efficientnet_lite2", "densenet"], "terms": [{"loss": "sigmoid_kd"}]}
    required(params, tiny_dataset, tmp_path)


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ({"arch": "tf_efficientnet_b0"}, "says that it is of tf_efficientnet_b0; set arch: tf_efficientnet_b0"),
        ({"args": {"global_pool": "max"}}, r"trained with args \{'global_pool': 'max'\}, not \{\}; set args"),
        ({"task": "multiclass"}, "was trained for a multiclass task, and this data set's is multilabel"),
        ({"arch": "test_resnet.r160_in1k", "args": {}, "task": "multilabel"}, None),
    ],
)
def test_a_frozen_teacher_is_built_as_it_was_trained(params, tiny_dataset, tmp_path, beside, message):
    save_weights(tmp_path, create_classifier(Network(arch="test_resnet"), labels=tiny_dataset.labels), beside)
    frozen = {"arch": "test_resnet", "weights": str(tmp_path / "model.safetensors"), "frozen": True}
    params["teachers"]["efficientnet_lite2"] = frozen
    if message is None:
        required(params, tiny_dataset, tmp_path)
        return
    with pytest.raises(UserError, match=message):
        required(params, tiny_dataset, tmp_path)


def test_unusual_settings_are_noted(params, tiny_dataset, tmp_path, capsys):
    labels = [tiny_dataset.labels[0], "Pleural Effusion"]
    save_weights(tmp_path, create_classifier(Network(arch="test_resnet"), labels=labels), {})
    frozen = {"arch": "test_resnet", "weights": str(tmp_path / "model.safetensors"), "frozen": True, "labels": labels}
    params["teachers"]["efficientnet_lite2"] = frozen
    params["recipes"]["kd"]["unlabelled"] = True
    params["recipes"]["kd"]["terms"].append({"loss": "dist", "activation": "sigmoid"})
    params["training"]["batch_size"] = 100_000
    params["students"]["eeea_net_c2"]["training"] = {"precision": "bf16"}
    required(params, tiny_dataset, tmp_path)
    images = len(tiny_dataset.split("train"))
    assert capsys.readouterr().err.splitlines() == [
        f"teachers.efficientnet_lite2: it teaches only {labels[0]};"
        " its labels Pleural Effusion are not in the data set",
        "recipes.kd: unlabelled changes nothing, as every training image has a label",
        "recipes.kd: dist compares the labels of an image with each other, which are not exclusive; inter: 0 would"
        " leave only the comparison of images by label",
        "teachers.densenet, teachers.efficientnet_lite2, students.eeea_net_c2, students.tf_efficientnet_lite0: the"
        " feature map is 1x1, so heat maps would be constant; raise input_size or data.image_size",
        *(
            []
            if torch.cuda.is_available()
            else ['training.precision: bf16 is slower than "no" on most CPUs, and there is no GPU']
        ),
        f"training.batch_size: there are only {images} training images, so an epoch is one step",
    ]
    manifest = tiny_dataset.manifest.copy()
    first = manifest.index[manifest["split"] == "train"][0]
    manifest.loc[first, [f"label:{label}" for label in tiny_dataset.labels]] = np.nan
    params["training"]["batch_size"] = 1 + images // 2
    params["students"]["eeea_net_c2"]["training"] = {"batch_size": images // 4}  # the smallest batch counts
    required(params, replace(tiny_dataset, manifest=manifest), tmp_path)
    assert "unlabelled changes nothing" not in (said := capsys.readouterr().err)
    assert f"recipes.kd: unlabelled: an epoch has 4 steps, a baseline's {(images - 1) // (images // 4)}; a part" in said
    assert f"recipes.kd: dist compares the images of a batch, but a batch has only {images // 4}" in said
    assert "training.batch_size" not in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: None, None),
        (
            lambda p: p["teachers"]["densenet"].update(arch="nope"),
            r"^params\.yaml: teachers\.densenet: arch 'nope' is not",
        ),
        (
            lambda p: p["students"]["eeea_net_c2"].update(weights="gone.safetensors"),
            r"^params\.yaml: students\.eeea_net_c2: gone\.safetensors: no such file$",
        ),
        (
            lambda p: p["students"]["eeea_net_c2"].update(pretrained=True),
            r"^params\.yaml: students\.eeea_net_c2: there are no pretrained weights for eeea_net_c2",
        ),
        (
            lambda p: p["students"].update(eeea_net_c2={"arch": "vit_tiny_patch16_224"}),
            r"^params\.yaml: students\.eeea_net_c2: vit_tiny_patch16_224: its features",
        ),
        pytest.param(
            lambda p: p["students"]["eeea_net_c2"].update(training={"precision": "fp16"}),
            r"^params\.yaml: students\.eeea_net_c2: training\.precision: fp16 needs a GPU; set bf16 or \"no\"$",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_networks_are_checked_before_there_are_data(params, tmp_path, change, message):
    params["data"]["image_size"] = 32  # as in the tests with data, so that both use the same trial exports
    change(params)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with nullcontext() if message is None else pytest.raises(UserError, match=message):
        require_networks(load_params(tmp_path / "params.yaml"))


class Eigen(nn.Module):
    """A network with a map, and with an operation that ONNX does not have."""

    def __init__(self, num_classes: int = 2, in_chans: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.project = nn.Conv2d(in_chans, num_classes, 4, stride=4)

    def forward_features(self, images):
        return torch.linalg.eig(self.project(images))[0].real[..., None].expand(-1, -1, -1, images.shape[-1] // 4)

    def forward_head(self, features):
        return features.mean((2, 3))


default_cfgs = generate_default_cfgs({"eigen.none": {"mean": [0.5] * 3, "std": [0.5] * 3, "classifier": "project"}})


@register_model
def eigen(pretrained: bool = False, **kwargs: int) -> nn.Module:
    return build_model_with_cfg(Eigen, "eigen", pretrained, **kwargs)


@pytest.mark.parametrize("data", [False, True], ids=["before there are data", "before the first training"])
def test_a_student_that_cannot_be_exported_is_refused_and_a_teacher_is_not(
    params, tiny_dataset, tmp_path, capsys, monkeypatch, data
):
    tiny = {"arch": "test_resnet"}
    params["data"]["image_size"] = 32
    params["teachers"] |= {"densenet": {"arch": "eigen"}, "efficientnet_lite2": tiny}
    params["students"]["eeea_net_c2"] = tiny

    def check(student):
        params["students"]["tf_efficientnet_lite0"] = student
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        read = load_params(tmp_path / "params.yaml")
        require_run(read, tiny_dataset) if data else require_networks(read)

    check(tiny)
    capsys.readouterr()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    params["teachers"]["densenet"] = {"arch": "mobilenetv3_small_050", "pretrained": True}  # must not be downloaded
    message = r"^params\.yaml: students\.tf_efficientnet_lite0: torch cannot export eigen to ONNX \(.+\); use another"
    with pytest.raises(UserError, match=message):
        check({"arch": "eigen"})
    (line,) = capsys.readouterr().err.splitlines()  # the exporter itself must print nothing
    assert line.startswith("exporting eigen untrained, to check that this is possible (once,")


def test_a_student_that_takes_one_image_at_a_time_is_named(params, tmp_path, monkeypatch, exportable, capsys):
    tiny = {"arch": "test_resnet"}
    params["data"]["image_size"] = 32
    params["teachers"] |= {"densenet": tiny, "efficientnet_lite2": tiny}
    params["students"] |= {"eeea_net_c2": tiny, "tf_efficientnet_lite0": tiny}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    require_networks(load_params(tmp_path / "params.yaml"))
    known = Path(shutil.copytree(exportable, tmp_path / "known"))
    monkeypatch.setattr("pipeline.preflight.EXPORTED", known)
    for record in known.iterdir():
        content = read_record(record)
        if content["arch"] == tiny["arch"]:  # as recorded for a network that exports only with a batch size of 1
            write_record(record, content | {"batch_size": 1})
    capsys.readouterr()
    require_networks(load_params(tmp_path / "params.yaml"))
    said = "students.{}: its exported file takes one image at a time, not several\n"
    assert capsys.readouterr().err == said.format("eeea_net_c2") + said.format("tf_efficientnet_lite0")


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


@pytest.mark.parametrize(("views", "size", "epochs"), [("cached", 16, [0, 1, 2, 0]), ("live", 32, [0, 1, 2, 3])])
def test_a_student_sees_what_its_teachers_answered(params, tiny_dataset, tmp_path, monkeypatch, views, size, epochs):
    """The teachers' view seed and number of views; with live teachers also their frames; and images without a label if
    the recipe wants them."""
    manifest = tiny_dataset.manifest.copy()
    bare = manifest.index[manifest["split"] == "train"][::3]
    manifest.loc[bare, [f"label:{label}" for label in tiny_dataset.labels]] = np.nan
    dataset = replace(tiny_dataset, manifest=manifest)
    params["teach"] = {"views": 3, "view_seed": 5}
    params["training"] |= {"epochs": 4, "batch_size": 6}
    params["teachers"] = {"t": {"arch": "test_resnet"}}
    params["students"] = {"s": {"arch": "test_resnet", "input_size": 16}}
    terms = [{"loss": "binary_cross_entropy"}, {"loss": "sigmoid_kd"}]
    params["recipes"] = {
        "baseline": {"views": "fresh"},
        "kd": {"teachers": ["t"], "terms": terms, "views": views, "unlabelled": True},
    }
    params["run"] |= {"teachers": ["t"], "students": ["s"], "recipes": ["baseline", "kd"]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    read = load_params()
    teacher, answers = tmp_path / "models/teachers/t", tmp_path / "data/knowledge/t"
    trainings.train(teacher, teacher_spec(read, "t"), dataset, read)
    answers.mkdir(parents=True)
    write_knowledge(answers, load_model(teacher), dataset, read.augmentation, read.teach)
    provenance.write_ids(answers / provenance.FILE, provenance.ids_of(dataset, "train"))

    seen = []

    class Watched(RecipeObjective):
        def forward(self, logits, batch):
            seen.append(batch)
            return super().forward(logits, batch)

    monkeypatch.setattr("medistill.distillation.train.RecipeObjective", Watched)
    spec = student_spec(read, StudentModel(student="s", recipe="kd", seed=0))
    trainings.train(tmp_path / "out", spec, dataset, read)
    rows = dataset.split("train").set_index("image_id", drop=False)
    per_epoch = len(rows) // 6
    assert [batch.view for batch in seen] == [view for view in epochs for _ in range(per_epoch)]
    assert set(manifest.loc[bare, "image_id"]) <= {image_id for batch in seen for image_id in batch.image_ids}
    for batch in seen:
        frames = read_frames(dataset, rows.loc[batch.image_ids], size)
        drawn = view_parameters(batch.image_ids, batch.view, 5, read.augmentation)
        assert torch.equal(batch.images, render_views(frames, torch.from_numpy(drawn)))
        assert batch.images.shape[-1] == size
