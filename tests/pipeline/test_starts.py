"""Where networks start: what cannot be had is refused before anything is trained."""

import pytest

from medistill.errors import UserError
from medistill.models.build import create_classifier
from medistill.models.settings import Network
from medistill.params import load_params
from pipeline.preflight import require_networks, require_run
from tests.params import with_several, written
from tests.saved import save_weights

pytestmark = pytest.mark.usefixtures("exported_once")


@pytest.fixture
def params():
    return with_several()


def required(params, dataset, folder):
    require_run(written(params, folder), dataset)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"arch": "nonsense", "pretrained": True}, "arch 'nonsense' is not known to timm"),
        ({"arch": "eeea_net_c2", "pretrained": True}, "there are no pretrained weights for eeea_net_c2"),
        ({"arch": "test_resnet", "weights": "model.safetensors"}, "init_from: .* has nothing in common with ResNet"),
        ({"arch": "test_resnet", "weights": "gone.safetensors"}, r"gone\.safetensors: no such file"),
        ({"arch": "test_vit", "weights": "model.safetensors"}, "tensor .* is missing; is it another architecture"),
    ],
)
def test_a_start_that_cannot_be_had_is_refused_before_anything_is_trained(
    params, tiny_dataset, tmp_path, start, message
):
    save_weights(tmp_path, create_classifier(Network(arch="test_resnet"), labels=["else"]), {})
    start = {key: str(tmp_path / value) if key == "weights" else value for key, value in start.items()}
    params["students"]["eeea_net_c2"] = {"arch": "test_efficientnet", "init_from": start}
    with pytest.raises(UserError, match=rf"students\.eeea_net_c2: .*{message}"):
        required(params, tiny_dataset, tmp_path)


@pytest.mark.parametrize(
    ("section", "network"),
    [
        ("students", {"arch": "test_resnet", "weights": "models/students/eeea_net_c2-kd-0/model.safetensors"}),
        ("students", {"arch": "test_resnet", "init_from": {"arch": "test_resnet", "weights": "models/../models/a"}}),
        ("teachers", {"onnx": "exports/eeea_net_c2-kd-0/model.onnx", "mean": [0.5] * 3, "std": [0.2] * 3}),
        ("teachers", {"answers": "models/answers.csv", "id": "image", "labels": {"Mass": "Mass"}}),
    ],
)
def test_no_model_starts_from_what_the_graph_writes(params, tiny_dataset, tmp_path, monkeypatch, section, network):
    monkeypatch.chdir(tmp_path)
    if "onnx" in network:
        network = network | {"labels": tiny_dataset.labels, "outputs": {"logits": "logits"}}
    name = {"students": "eeea_net_c2", "teachers": "efficientnet_lite2"}[section]
    params[section][name] = network
    with pytest.raises(UserError, match=rf"{section}\.{name}: .* is a model that the graph itself writes, and removes"):
        required(params, tiny_dataset, tmp_path)
    with pytest.raises(UserError, match="copy the file to another folder and name the copy"):
        require_networks(load_params(tmp_path / "params.yaml"))
