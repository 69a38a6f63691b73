"""Teachers in ONNX files answer as arithmetic does, on the very views; what does not fit is one line."""

import json
import os
import shutil

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from onnx import TensorProto
from scipy.special import expit, log_softmax

from medistill.augmentation import Augmentation
from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.distillation.knowledge import Knowledge
from medistill.distillation.onnx_teacher import OnnxModel, import_onnx, load_onnx, read_onnx
from medistill.distillation.outside import EPSILON, logits_of
from medistill.distillation.settings import OnnxTeacher, Teach
from medistill.distillation.teachers import LiveTeacher
from medistill.distillation.train import teach
from medistill.errors import UserError
from medistill.files import sha256
from medistill.models.classifier import resize
from medistill.records.models import ModelRecord
from medistill.task import Task
from medistill.training.batches import Batch
from medistill.views import render_plain, render_views, view_parameters
from tests.onnx_files import SIZE, is_one_file, write_linear

AUGMENTATION = Augmentation(rotation=5, translation=0.05, scale=0.05, brightness=0.1, contrast=0.1, flip=False)
LABELS = ["Else", "Right", "Left"]  # in another order than the data set's, and one that it does not have
WEIGHT = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
PLAIN = {"labels": LABELS, "input_size": SIZE, "mean": [0, 0, 0], "std": [1, 1, 1], "outputs": {"logits": "y"}}


def teacher(file, **more) -> OnnxTeacher:
    return OnnxTeacher(**(PLAIN | {"onnx": file} | more))


@pytest.fixture
def file(tmp_path):
    write_linear(tmp_path / "theirs" / "a.onnx", WEIGHT, channels=3)
    return tmp_path / "theirs" / "a.onnx"


def expected_logits(images: torch.Tensor, mean, std) -> np.ndarray:
    """Means over the pixels of grey images (N, 1, H, W) at `SIZE`, normalised, times the weights."""
    means = resize(images, SIZE).mean((2, 3)).numpy()
    return (means - np.array(mean)) / np.array(std) @ WEIGHT


def test_it_answers_the_very_views_with_its_own_normalisation(tiny_dataset, file, tmp_path):
    network = teacher(file, mean=[0.5, 0.4, 0.3], std=[0.25, 0.5, 1], outputs={"logits": "y", "features": "pooled"})
    import_onnx(tmp_path / "m", "friend", network, tiny_dataset, batch_size=7)
    asked = Teach(views=2, answers=["attention", "features"], batch_size=11)
    teach(tmp_path / "k", tmp_path / "m", tiny_dataset, AUGMENTATION, asked, unfinished=tmp_path / "u")
    shutil.rmtree(file.parent)  # the model's folder needs it no more
    knowledge = Knowledge.open(tmp_path / "k", tiny_dataset, AUGMENTATION, asked)
    assert (knowledge.name, knowledge.map_shape, knowledge.unknown) == ("friend", [3], [])
    rows = tiny_dataset.split("train").iloc[::3]
    ids = rows["image_id"].tolist()
    parameters = torch.from_numpy(view_parameters(ids, 1, asked.view_seed, AUGMENTATION))
    images = render_views(resize(torch.from_numpy(tiny_dataset.images(rows)).float(), SIZE).round().byte(), parameters)
    expected = expected_logits(images, network.mean, network.std)[:, [2, 1]]
    np.testing.assert_allclose(knowledge.read("logits", ids, 1), expected, rtol=2e-3, atol=2e-3)
    assert not np.allclose(knowledge.read("logits", ids, 0), expected, atol=1e-2)
    assert knowledge.read("features", ids, 1).shape == (len(ids), 3)
    batch = Batch(ids, 1, torch.zeros(len(ids), 2), images)
    live = LiveTeacher.open(tmp_path / "m", tiny_dataset).answer(batch, {"features"})
    np.testing.assert_allclose(live["logits"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(live["features"], knowledge.read("features", ids, 1), rtol=2e-3, atol=2e-3)


def test_its_folder_says_what_it_is(tiny_dataset, file, tmp_path):
    import_onnx(tmp_path / "m", "friend", teacher(file), tiny_dataset)
    record = ModelRecord.read_whole(tmp_path / "m" / "config.json")
    assert (record.arch, record.initialisation, record.labels) == ("onnx", "file (a.onnx)", LABELS)
    assert (record.params, record.macs, record.map_size, record.measured) == (9, None, None, True)
    assert record.weights_sha256 == sha256(file)
    predictions = pd.read_parquet(tmp_path / "m" / "predictions.parquet")
    rows = pd.concat([tiny_dataset.split("val"), tiny_dataset.split("test")])
    expected = expected_logits(render_plain(torch.from_numpy(tiny_dataset.images(rows))), [0, 0, 0], [1, 1, 1])
    np.testing.assert_allclose(predictions[["logit:Left", "logit:Right"]], expected[:, [2, 1]], atol=5e-3)
    assert [len(ids) for ids in provenance.read_ids(tmp_path / "m" / provenance.FILE)] == [0, 0]


def test_another_normalisation_makes_it_another_teacher(tiny_dataset, file, tmp_path):
    prints = set()
    for mean in (0, 0.5):
        import_onnx(tmp_path / "m", "friend", teacher(file, mean=[mean] * 3), tiny_dataset)
        prints.add(json.loads((tmp_path / "m" / "config.json").read_text())["fingerprint"])
    assert len(prints) == 2


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_any_layout_type_and_number_of_images_at_a_time(tmp_path, kind, layout, batch):
    write_linear(tmp_path / "a.onnx", WEIGHT[:1], layout=layout, kind=kind, batch=batch)
    network = teacher(tmp_path / "a.onnx", channels=1, mean=[0.25], std=[0.5], layout=layout)
    content, _ = read_onnx(network.onnx)
    model = OnnxModel(content, network, image_size=32, exclusive=False, where=network.onnx)
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    grey = (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1).mean((1, 2)).numpy()
    found = model.ask(images, set())["logits"].numpy()
    np.testing.assert_allclose(found, (grey[:, None] - 0.25) / 0.5 @ WEIGHT[:1], atol=2e-3)
    assert model.input_size == SIZE


def test_outputs_that_nobody_needs_are_passed_over(tiny_dataset, file, tmp_path):
    import_onnx(tmp_path / "m", "friend", teacher(file, labels=["Left", None, None]), tiny_dataset)
    record = ModelRecord.read_whole(tmp_path / "m" / "config.json")
    assert record.labels == ["Left"]
    assert [name for name in pd.read_parquet(tmp_path / "m" / "predictions.parquet") if ":" in name] == ["logit:Left"]


@pytest.mark.parametrize(("end", "exclusive"), [("Sigmoid", False), ("Softmax", True)])
def test_probabilities_become_the_logits_that_they_were_made_of(tmp_path, end, exclusive):
    write_linear(tmp_path / "a.onnx", WEIGHT[:1] * 10, end=end)
    network = teacher(tmp_path / "a.onnx", channels=1, mean=[0], std=[1], outputs={"probabilities": "y"})
    content, _ = read_onnx(network.onnx)
    model = OnnxModel(content, network, image_size=SIZE, exclusive=exclusive, where=network.onnx)
    images = torch.rand(4, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    logits = images.mean((1, 2, 3)).numpy()[:, None] @ WEIGHT[:1] * 10
    found = model.ask(images, set())["logits"].numpy()
    np.testing.assert_allclose(found, log_softmax(logits, axis=1) if exclusive else logits, rtol=1e-4, atol=1e-4)


def test_a_probability_of_0_or_1_stays_a_number_that_float16_holds():
    sure = logits_of(np.array([[0.0, 1.0, 1 - 1e-9]]), exclusive=False)
    assert np.isfinite(sure.astype(np.float16)).all()
    np.testing.assert_allclose(expit(sure.astype(np.float64)), [[EPSILON, 1 - EPSILON, 1 - EPSILON]], rtol=1e-5)
    classes = logits_of(np.array([[0.0, 1.0]]), exclusive=True)
    np.testing.assert_allclose(classes, [[np.log(EPSILON), 0]])


def test_weights_in_another_file_of_its_folder_are_taken_along(tiny_dataset, tmp_path, file):
    write_linear(tmp_path / "b" / "a.onnx", WEIGHT, channels=3, external="a.onnx.data")
    assert not is_one_file(tmp_path / "b" / "a.onnx")
    for name, where in (("one", file), ("two", tmp_path / "b" / "a.onnx")):
        import_onnx(tmp_path / name, "friend", teacher(where), tiny_dataset)
    shutil.rmtree(tmp_path / "b")
    assert is_one_file(tmp_path / "two" / "model.onnx")
    one, two = (pd.read_parquet(tmp_path / name / "predictions.parquet") for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two)


@pytest.mark.parametrize("location", ["../stolen.data", "/etc/passwd", "link/stolen.data", "link.data"])
def test_weights_outside_of_its_folder_are_refused(tmp_path, location):
    folder = tmp_path / "b"
    write_linear(folder / "a.onnx", WEIGHT, external="x.data")
    (tmp_path / "stolen.data").write_bytes((folder / "x.data").read_bytes())
    (folder / "link").symlink_to(tmp_path)
    (folder / "link.data").symlink_to(tmp_path / "stolen.data")
    content = (folder / "a.onnx").read_bytes()
    model = onnx.load_model_from_string(content)
    model.graph.initializer[0].external_data[0].value = location
    (folder / "a.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"a\.onnx: stores weights in '.*', outside of its folder; save it as one file"):
        read_onnx(folder / "a.onnx")


def test_weights_that_are_missing_or_too_short_are_refused(tmp_path):
    write_linear(tmp_path / "a.onnx", WEIGHT, external="a.data")
    os.truncate(tmp_path / "a.data", 8)
    with pytest.raises(UserError, match=r"a\.onnx: its weights in 'a\.data' cannot be read"):
        read_onnx(tmp_path / "a.onnx")
    (tmp_path / "a.data").unlink()
    with pytest.raises(UserError, match=r"stores weights in 'a\.data', which is not beside it; copy it there"):
        read_onnx(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("written", "settings", "message"),
    [
        ({"inputs": 2}, {}, r"has 2 inputs \(x, other\); a teacher takes images"),
        ({"size": 24}, {}, r"its input x has the shape \[n, 3, 24, 24\], but input_size, channels and layout give"),
        ({"channels": 1}, {}, r"has the shape \[n, 1, 16, 16\], .* give \[N, 3, 16, 16\]; set them as the file needs"),
        ({"layout": "nhwc"}, {}, r"has the shape \[n, 16, 16, 3\], but input_size, channels and layout give"),
        ({}, {"outputs": {"logits": "logits"}}, "has no output logits; it has pooled, y"),
        ({}, {"outputs": {"logits": "y", "features": "f"}}, "has no output f; it has pooled, y"),
        (
            {},
            {"labels": ["Left", "Right"]},
            r"its output y of 2 images is float32 \[2, 3\], not floating-point \[2, 2\]",
        ),
        ({"end": "Shape"}, {}, r"its output y of 2 images is int64 \[2\], not floating-point \[2, 3\]"),
        ({"opset": 999}, {}, r"ONNX Runtime .* cannot open it \(.*opset.*\); export it for an opset"),
        ({"domain": "com.example"}, {}, r"cannot open it \(.*com\.example.*\); .* without operators of your own"),
        ({}, {"labels": ["a", "b", "c"]}, "labels: the teacher knows none of the labels Left, Right; it knows a, b, c"),
        ({"kind": TensorProto.INT32}, {}, r"its input x is tensor\(int32\), not floating point"),
    ],
)
def test_what_does_not_fit_is_one_line(tiny_dataset, tmp_path, written, settings, message):
    weight = WEIGHT[: written.get("channels", 3)]
    write_linear(tmp_path / "a.onnx", weight, **({"channels": 3} | written))
    with pytest.raises(UserError, match=message) as refused:
        load_onnx(teacher(tmp_path / "a.onnx", **settings), tiny_dataset)
    assert "\n" not in str(refused.value)
    with pytest.raises(UserError):
        import_onnx(tmp_path / "m", "friend", teacher(tmp_path / "a.onnx", **settings), tiny_dataset)
    assert not (tmp_path / "m").exists()


def test_a_size_that_only_running_it_shows_to_be_wrong_is_one_line(tiny_dataset, tmp_path):
    """The sizes of its input are free, but a layer behind it wants others."""
    write_linear(tmp_path / "a.onnx", WEIGHT[:2], channels="c", size="s")
    with pytest.raises(UserError, match=r"a\.onnx: cannot be run on images \[2, 3, 16, 16\]: .*MatMul"):
        load_onnx(teacher(tmp_path / "a.onnx"), tiny_dataset)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no model", b"\x00" * 100])
def test_a_file_that_is_no_onnx_file_is_one_line(tmp_path, content):
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.onnx: not an ONNX file"):
        read_onnx(tmp_path / "a.onnx")
    with pytest.raises(UserError, match=r"b\.onnx: no such file"):
        read_onnx(tmp_path / "b.onnx")


def test_logits_that_are_called_probabilities_are_refused(tiny_dataset, tmp_path):
    write_linear(tmp_path / "a.onnx", np.full((3, 3), 5), channels=3)
    network = teacher(tmp_path / "a.onnx", outputs={"probabilities": "y"})
    with pytest.raises(UserError, match=r"output y: .* is no probability; set outputs: \{logits: y\}"):
        import_onnx(tmp_path / "m", "friend", network, tiny_dataset)


def test_answers_that_are_no_numbers_are_refused_with_the_image(tiny_dataset, tmp_path):
    write_linear(tmp_path / "a.onnx", np.array([[1, 1, 1]]), end="Log")  # of a black image −inf, of a negative NaN
    network = teacher(tmp_path / "a.onnx", channels=1, mean=[0.9], std=[1])
    first = tiny_dataset.split("val")["image_id"].iloc[0]
    with pytest.raises(UserError, match=rf"its answer to image {first} is not finite; look at mean and std"):
        import_onnx(tmp_path / "m", "friend", network, tiny_dataset)


def test_a_teacher_that_has_seen_the_test_split_is_refused(tiny_dataset, file, tmp_path):
    provenance.write_ids(file.parent / provenance.FILE, provenance.ids_of(tiny_dataset, "test"))
    with pytest.raises(UserError, match=r"the model was trained on .* of the test split"):
        import_onnx(tmp_path / "m", "friend", teacher(file), tiny_dataset)
    provenance.write_ids(file.parent / provenance.FILE, provenance.ids_of(tiny_dataset, "train"))
    import_onnx(tmp_path / "m", "friend", teacher(file), tiny_dataset)
    assert len(provenance.read_ids(tmp_path / "m" / provenance.FILE).images) > 0


def test_classes_are_read_from_probabilities_by_their_logarithms(tiny_dataset, tmp_path):
    classes = Dataset(**(vars(tiny_dataset) | {"task": Task.MULTICLASS}))
    write_linear(tmp_path / "a.onnx", WEIGHT, channels=3, end="Softmax")
    network = teacher(tmp_path / "a.onnx", outputs={"probabilities": "y"})
    model = load_onnx(network, classes)
    images = torch.rand(3, 3, SIZE, SIZE)
    logits = images.mean((2, 3)).numpy() @ WEIGHT
    np.testing.assert_allclose(model.ask(images, set())["logits"], log_softmax(logits, axis=1), atol=1e-5)
