"""Heat maps of an exported model: which are drawn, on which scale, and where."""

import json

import numpy as np
import pytest
from onnx import TensorProto, helper
from PIL import Image

from medistill.runtime.overlay import LEAST, overlay
from tests.unit.runtime.conftest import AXES, IMAGE, LABELS, LOGITS, MEANS, graph_model
from tests.unit.runtime.test_predict_command import predict

MAPS = ("saliency_map", TensorProto.FLOAT, ["batch", 3, 2, 2])
UNLIKE = ("unlike", TensorProto.FLOAT, ["batch"])
POINT = {"kind": "sensitivity", "promised": 0.9, "thresholds": {"Effusion": 0.5, "Mass": 0.5, "Nodule": None}}


def explaining_model() -> bytes:
    """Logits 4 m - 2, 2 - 4 m and 0 of the mean brightness m; each label's map is the mean of the image's quarters."""
    nodes = [
        *MEANS,
        helper.make_node("MatMul", ["mean", "slope"], ["product"]),
        helper.make_node("Add", ["product", "offset"], ["logits"]),
        helper.make_node("AveragePool", ["float"], ["quarters"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Concat", ["quarters"] * 3, ["saliency_map"], axis=1),
        helper.make_node("Div", ["mean", "limit"], ["share"]),
        helper.make_node("Squeeze", ["share", "one"], ["unlike"]),
    ]
    constants = {
        "axes": AXES,
        "slope": np.float32([[4 / 255, -4 / 255, 0]]),
        "offset": np.float32([-2, 2, 0]),
        "limit": np.float32(100),
        "one": np.array([1]),
    }
    return graph_model(nodes, [IMAGE], [LOGITS, MAPS, UNLIKE], constants)


@pytest.fixture
def explaining(make_bundle):
    scale = {"Effusion": 255.0, "Mass": 510.0, "Nodule": 255.0}
    return make_bundle("explains", content=explaining_model(), operating_points=[POINT], map_scale=scale)


@pytest.fixture
def halves(tmp_path):
    """Two images of 8 px, left and right differ: one bright on the whole, and one dark."""
    paths = []
    for name, (left, right) in {"bright": (255, 128), "dark": (0, 64)}.items():
        pixels = np.full((8, 8), left, np.uint8)
        pixels[:, 4:] = right
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def test_each_called_label_has_a_picture_and_no_other(explaining, halves, tmp_path):
    done = predict(*halves, "--model", explaining, "--heatmaps", tmp_path / "maps")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["bright-Effusion.png", "dark-Mass.png"]
    note = Image.open(tmp_path / "maps" / "bright-Effusion.png").text["Description"]
    assert note.startswith("Effusion, probability 0.732, called at sensitivity 0.9, explains.")
    assert "not a medical device" in note


def test_images_of_one_name_do_not_replace_each_other(explaining, halves, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "bright.png").write_bytes(halves[0].read_bytes())
    images = [halves[0], tmp_path / "other" / "bright.png"]
    assert predict(*images, "--model", explaining, "--heatmaps", tmp_path / "maps").returncode == 0
    names = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert names == ["bright-Effusion-2.png", "bright-Effusion.png"]


def test_images_unlike_those_that_the_model_knows_are_said(explaining, halves):
    lines = predict(*halves, "--model", explaining).stdout.splitlines()
    assert f"{halves[0]}: unlike the images that the model knows" in lines
    assert f"{halves[1]}" in lines
    bright, dark = json.loads(predict(*halves, "--model", explaining, "--json").stdout)
    assert bright["unlike"] == {"score": pytest.approx(1.915), "marked": True}
    assert dark["unlike"] == {"score": pytest.approx(0.32), "marked": False}


@pytest.mark.parametrize("model", ["no maps", "no thresholds"])
def test_what_a_model_cannot_draw_is_one_line(make_bundle, grey, tmp_path, model):
    if model == "no maps":
        folder, words = make_bundle(operating_points=[POINT]), "gives no heat maps"
    else:
        folder = make_bundle(content=explaining_model(), map_scale=dict.fromkeys(LABELS, 1.0))
        words = "has no thresholds for sensitivity:0.9"
    done = predict(grey(9), "--model", folder, "--heatmaps", tmp_path / "maps")
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "maps").exists()


def test_without_evidence_a_picture_is_the_image_and_with_more_it_is_brighter():
    frame = np.full((1, 96, 96), 100, np.uint8)
    plain = np.asarray(overlay(frame, np.zeros((3, 3)), 1.0))
    assert plain.shape == (LEAST, LEAST, 3)
    assert (plain == 100).all()
    assert (np.asarray(overlay(frame, np.ones((3, 3)), 0.0)) == 100).all()  # no scale: nothing is known of it
    shades = [np.asarray(overlay(frame, np.full((3, 3), share), 2.0), float) for share in (0.0, 0.7, 1.4, 2.0, 9.0)]
    brightness = [shade.mean() for shade in shades[1:]]
    assert brightness == sorted(brightness)
    np.testing.assert_array_equal(shades[3], shades[4])  # beyond the scale
    # by hand: 35 % of the grey and 65 % of the last colour
    np.testing.assert_allclose(shades[3][0, 0], 0.35 * 100 + 0.65 * np.array([252, 235, 120]), atol=0.51)


def test_a_map_lies_where_its_cells_are():
    frame = np.zeros((3, 32, 32), np.uint8)
    values = np.zeros((4, 4))
    values[0, 3] = 1.0
    picture = np.asarray(overlay(frame, values, 1.0), float).sum(2)
    quarter = picture.shape[0] // 4
    assert picture[:quarter, -quarter:].mean() > 5 * picture[quarter * 2 :, : quarter * 2].mean()
    assert picture[-quarter:].max() == 0
