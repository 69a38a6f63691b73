"""Teachers' answers are found by id and view, and refused if they are for other data or settings."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medistill.augmentation import Augmentation
from medistill.data.dataset import Dataset
from medistill.distillation import knowledge, teachers
from medistill.distillation.functional import binary_cross_entropy, sigmoid_kd
from medistill.distillation.knowledge import Knowledge, write_knowledge
from medistill.distillation.objective import RecipeObjective
from medistill.distillation.settings import Recipe, Teach
from medistill.distillation.teachers import LiveTeacher, ask
from medistill.errors import UserError
from medistill.models.build import create_classifier
from medistill.models.settings import Network
from medistill.training.batches import Batch
from medistill.views import render_views, view_parameters
from tests.seal import seal

AUGMENTATION = Augmentation(rotation=10, translation=0.1, scale=0.1, brightness=0.1, contrast=0.1, flip=False)


@pytest.fixture(scope="module")
def teacher(tiny_dataset):
    torch.manual_seed(3)
    model = create_classifier(Network(arch="resnet10t"), labels=tiny_dataset.labels)
    model.config |= {"name": "teacher", "model_sha256": "f"}
    return model.eval()


@pytest.fixture
def folder(tiny_dataset, teacher, tmp_path):
    write_knowledge(tmp_path, teacher, tiny_dataset, AUGMENTATION, Teach(views=3, view_seed=5, batch_size=7))
    return tmp_path


def test_answers_are_the_teachers_on_the_very_view(tiny_dataset, teacher, folder):
    knowledge = Knowledge.open(folder, tiny_dataset, AUGMENTATION, Teach(views=3, view_seed=5))
    rows = tiny_dataset.split("train").sample(9, random_state=0)  # in another order than that of the answers
    ids = rows["image_id"].tolist()
    for view in range(3):
        parameters = torch.from_numpy(view_parameters(ids, view, 5, AUGMENTATION))
        with torch.inference_mode():
            expected = teacher(render_views(torch.from_numpy(tiny_dataset.images(rows)), parameters)).numpy()
        np.testing.assert_allclose(knowledge.read("logits", ids, view), expected, rtol=2e-3, atol=2e-3)  # float16
    assert not np.allclose(knowledge.read("logits", ids, 0), knowledge.read("logits", ids[::-1], 0))


def test_answers_are_half_precision_and_stay_on_the_disk(tiny_dataset, folder):
    knowledge = Knowledge.open(folder, tiny_dataset, AUGMENTATION, Teach(views=3, view_seed=5))
    shape = (3, len(tiny_dataset.split("train")), len(tiny_dataset.labels))
    stored = np.load(folder / "logits.npy")
    assert (stored.dtype, stored.shape) == (np.float16, shape)
    assert knowledge.read("logits", tiny_dataset.split("train")["image_id"][:2].tolist(), 0).dtype == np.float32
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("which files are mapped is read from Linux's /proc")
    assert str(folder / "logits.npy") in maps.read_text()


def test_an_image_that_was_not_asked_about_is_an_error(tiny_dataset, folder):
    with pytest.raises(KeyError):
        Knowledge.open(folder, tiny_dataset, AUGMENTATION, Teach(views=3, view_seed=5)).read(
            "logits", ["unknown.png"], 0
        )


def test_damage_is_noticed(tiny_dataset, folder):
    with open(folder / "logits.npy", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(UserError, match=r"logits\.npy: damaged .*; run the teach stage again"):
        Knowledge.open(folder, tiny_dataset, AUGMENTATION, Teach(views=3, view_seed=5))


def test_the_same_numbers_about_other_labels_are_other_answers(tiny_dataset, teacher, folder, tmp_path):
    turned = copy.copy(teacher)
    turned.config = teacher.config | {"labels": teacher.config["labels"][::-1]}
    (tmp_path / "turned").mkdir()
    write_knowledge(tmp_path / "turned", turned, tiny_dataset, AUGMENTATION, Teach(views=3, view_seed=5, batch_size=7))
    asked = {"views": 3, "view_seed": 5}
    one, other = (Knowledge.open(f, tiny_dataset, AUGMENTATION, Teach(**asked)) for f in (folder, tmp_path / "turned"))
    assert (folder / "logits.npy").read_bytes() == (tmp_path / "turned" / "logits.npy").read_bytes()
    assert one.checksum != other.checksum
    file = folder / "knowledge.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"labels": turned.config["labels"]}))
    with pytest.raises(UserError, match=r"knowledge\.json: damaged .*; run the teach stage again"):
        Knowledge.open(folder, tiny_dataset, AUGMENTATION, Teach(**asked))


@pytest.mark.parametrize(
    ("key", "other"),
    [("augmentation", {"other": 1}), ("views", 7), ("view_seed", 77), ("dataset_fingerprint", "other")],
)
def test_answers_to_another_question_are_refused(tiny_dataset, folder, key, other):
    seal(folder / "knowledge.json", **{key: other})
    with pytest.raises(UserError, match=f"another {key}; run the teach stage again"):
        Knowledge.open(folder, tiny_dataset, AUGMENTATION, Teach(views=3, view_seed=5))


def test_maps_and_features_are_the_teachers_on_the_very_view(tiny_dataset, teacher, tmp_path):
    asked = {"views": 2, "view_seed": 5, "answers": ["attention", "cams", "features"]}
    write_knowledge(tmp_path, teacher, tiny_dataset, AUGMENTATION, Teach(**asked, batch_size=7))
    knowledge = Knowledge.open(tmp_path, tiny_dataset, AUGMENTATION, Teach(**asked))
    rows = tiny_dataset.split("train").sample(6, random_state=0)
    ids = rows["image_id"].tolist()
    parameters = torch.from_numpy(view_parameters(ids, 1, 5, AUGMENTATION))
    images = render_views(torch.from_numpy(tiny_dataset.images(rows)), parameters)
    with torch.no_grad():
        features = teacher.backbone.forward_features((images - teacher.mean) / teacher.std)
    np.testing.assert_allclose(knowledge.read("features", ids, 1), features.mean((2, 3)), rtol=2e-3, atol=2e-3)
    attention = features.pow(2).mean(1).sqrt()
    np.testing.assert_allclose(
        knowledge.read("attention", ids, 1), attention / attention.amax((1, 2), keepdim=True), atol=2e-3
    )
    assert knowledge.map_shape == list(features.shape[1:])
    # resnet10t ends in a mean over the map and a linear layer: its maps are Zhou's
    expected = torch.einsum("lk,nkhw->nlhw", teacher.backbone.fc.weight.detach(), features)
    expected /= expected.abs().amax((2, 3), keepdim=True)
    np.testing.assert_allclose(knowledge.read("cams", ids, 1), expected, atol=2e-3)
    assert knowledge.read("logits", ids, 1).shape == (6, 2)
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    with pytest.raises(UserError, match="another list of answers; run the teach stage again"):
        Knowledge.open(tmp_path, tiny_dataset, AUGMENTATION, Teach(views=2, view_seed=5))
    file = tmp_path / "cams.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"cams\.npy: damaged"):
        Knowledge.open(tmp_path, tiny_dataset, AUGMENTATION, Teach(**asked))


def test_labels_are_told_by_their_names(tiny_dataset, folder):
    same = Knowledge.open(folder, tiny_dataset, AUGMENTATION, Teach(views=3, view_seed=5))
    ids = tiny_dataset.split("train")["image_id"].tolist()[:6]
    one, other = tiny_dataset.labels
    student = Dataset(**(vars(tiny_dataset) | {"labels": ["new", other, one]}))
    answers = Knowledge.open(folder, student, AUGMENTATION, Teach(views=3, view_seed=5)).read("logits", ids, 2)
    assert np.isnan(answers[:, 0]).all()
    assert np.array_equal(answers[:, [2, 1]], same.read("logits", ids, 2))
    stranger = Dataset(**(vars(tiny_dataset) | {"labels": ["new", "newer"]}))
    with pytest.raises(UserError, match=f"knows none of the labels new, newer; it knows {one}, {other}"):
        Knowledge.open(folder, stranger, AUGMENTATION, Teach(views=3, view_seed=5))


def test_the_objective_weighs_its_terms_and_takes_the_mean_of_the_teachers(tiny_dataset, folder):
    first = Knowledge.open(folder, tiny_dataset, AUGMENTATION, Teach(views=3, view_seed=5))
    louder = {"logits": first._arrays["logits"] + np.float16(1)}
    second = replace(first, name="other", _arrays=louder)
    ids = tiny_dataset.split("train")["image_id"].tolist()[:6]
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[1.0, 0.0]] * 6)
    terms = [{"loss": "binary_cross_entropy", "weight": 0.3}, {"loss": "sigmoid_kd", "weight": 0.7, "temperature": 2}]
    recipe = Recipe(teachers=["first", "second"], terms=terms)
    terms = RecipeObjective(recipe, tiny_dataset, [first, second])(logits, Batch(ids, 1, targets))
    mean = torch.from_numpy((first.read("logits", ids, 1) + second.read("logits", ids, 1)) / 2)
    hard, soft = binary_cross_entropy(logits, targets), sigmoid_kd(logits, mean, temperature=2.0)
    assert terms["loss"].item() == pytest.approx((0.3 * hard + 0.7 * soft).item(), rel=1e-6)
    assert terms["sigmoid_kd"].item() == pytest.approx(soft.item(), rel=1e-6)


def test_live_answers_equal_cached_ones(tiny_dataset, teacher, tmp_path):
    asked = {"answers": ["attention", "cams", "features"]}
    write_knowledge(tmp_path, teacher, tiny_dataset, AUGMENTATION, Teach(views=2, view_seed=5, **asked))
    one, other = tiny_dataset.labels
    renamed = Dataset(**(vars(tiny_dataset) | {"labels": [other, "new", one]}))
    knowledge = Knowledge.open(tmp_path, renamed, AUGMENTATION, Teach(views=2, view_seed=5, **asked))
    live = LiveTeacher(teacher, renamed)
    rows = tiny_dataset.split("train").sample(6, random_state=0)
    ids = rows["image_id"].tolist()
    parameters = torch.from_numpy(view_parameters(ids, 1, 5, AUGMENTATION))
    images = render_views(torch.from_numpy(tiny_dataset.images(rows)), parameters)
    batch = Batch(ids, 1, torch.zeros(6, 3), images)
    needs = {"attention", "cams", "features"}
    said, written = live.answer(batch, needs), knowledge.answer(batch, needs)
    assert said.keys() == written.keys() == {"logits", *needs}
    for name in said:
        np.testing.assert_allclose(said[name], written[name], rtol=2e-3, atol=2e-3)
    assert not any(values.requires_grad for values in said.values())
    assert (live.map_shape, live.unknown) == (knowledge.map_shape, ["new"]) == (knowledge.map_shape, knowledge.unknown)
    with pytest.raises(UserError, match=f"teacher teacher: .* knows none of the labels x; it knows {one}, {other}"):
        LiveTeacher(teacher, Dataset(**(vars(tiny_dataset) | {"labels": ["x"]})))


@pytest.mark.parametrize("network", [{"input_size": 48}, {"input_size": 16, "channels": 1}])
def test_a_teacher_of_another_size_and_channels_sees_the_same_crop(tiny_dataset, tmp_path, network):
    torch.manual_seed(3)
    model = create_classifier(Network(arch="resnet10t", **network), labels=tiny_dataset.labels).eval()
    model.config |= {"name": "teacher", "model_sha256": "f"}
    size = network["input_size"]
    assert model.backbone.conv1[0].weight.shape[1] == network.get("channels", 3)
    write_knowledge(tmp_path, model, tiny_dataset, AUGMENTATION, Teach(views=2, view_seed=5))
    rows = tiny_dataset.split("train").head(6)
    ids = rows["image_id"].tolist()
    images = torch.from_numpy(tiny_dataset.images(rows))
    small = torch.nn.functional.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
    views = render_views(small, torch.from_numpy(view_parameters(ids, 1, 5, AUGMENTATION)))
    with torch.inference_mode():
        expected = model(views).numpy()
    answers = Knowledge.open(tmp_path, tiny_dataset, AUGMENTATION, Teach(views=2, view_seed=5)).read("logits", ids, 1)
    np.testing.assert_allclose(answers, expected, rtol=5e-3, atol=5e-3)  # rounding to float16 and to grey levels


def interrupt(monkeypatch, stop):
    """Interrupt a teacher after `stop` batches; returns a list that grows by the number of images of each batch."""
    asked = []

    def counting(teacher, images, needs):
        if len(asked) == stop:
            raise KeyboardInterrupt
        asked.append(len(images))
        return ask(teacher, images, needs)

    monkeypatch.setattr(teachers, "ask", counting)
    return asked


def test_an_interrupted_teacher_goes_on_where_it_was(tiny_dataset, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = create_classifier(Network(arch="resnet10t"), labels=tiny_dataset.labels)
    model.config |= {"name": "slow", "model_sha256": "f"}

    def write(name, stop=None, **options):
        asked = interrupt(monkeypatch, stop)
        (folder := tmp_path / name).mkdir(exist_ok=True)
        options = {"views": 2, "view_seed": 5, "batch_size": 8, "answers": ["features"]} | options
        write_knowledge(folder, model, tiny_dataset, AUGMENTATION, Teach(**options))
        return {file.name: file.read_bytes() for file in folder.iterdir()}, sum(asked)

    monkeypatch.setattr(knowledge, "EVERY", 0.0)
    whole, answers = write("whole")
    with pytest.raises(KeyboardInterrupt):
        write("part", stop=5)  # in the second view of the third batch
    resumed, rest = write("part")
    assert resumed == whole
    assert rest == answers - 2 * 2 * 8

    with pytest.raises(KeyboardInterrupt):
        write("other", stop=5)
    changed, asked_anew = write("other", view_seed=6, answers=[])  # other settings: nothing is resumed
    assert asked_anew == answers
    assert set(changed) == {"image_ids.npy", "logits.npy", "knowledge.json"}


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        ("nothing", 2),
        ("second part", 1),
        ("first part", 0),
        ("shape", 0),
        ("cut off", 1),
        ("record", 0),
        ("missing", 0),
    ],
)
def test_damaged_answers_of_an_interrupted_teacher_are_asked_for_anew(
    tiny_dataset, tmp_path, monkeypatch, capsys, damage, kept
):
    torch.manual_seed(0)
    model = create_classifier(Network(arch="resnet10t"), labels=tiny_dataset.labels)
    model.config |= {"name": "slow", "model_sha256": "f"}

    def write(folder, stop=None):
        asked = interrupt(monkeypatch, stop)
        write_knowledge(folder, model, tiny_dataset, AUGMENTATION, Teach(views=2, view_seed=5, batch_size=8))
        return {file.name: file.read_bytes() for file in folder.iterdir()}, sum(asked)

    monkeypatch.setattr(knowledge, "EVERY", 0.0)
    for name in ("whole", "part"):
        (tmp_path / name).mkdir()
    whole, answers = write(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "part", stop=5)  # in the second view of the third batch
    logits, progress = tmp_path / "part" / "logits.npy", tmp_path / "part" / "progress.json"
    array = np.load(logits, mmap_mode="r+")
    if damage.endswith("part"):
        array[1, 3 if damage == "first part" else 11, 0] += 1
        array.flush()
    elif damage == "shape":
        np.save(logits, array[:, :-1])
    elif damage == "cut off":
        logits.write_bytes(logits.read_bytes()[:-100])
    elif damage == "record":
        progress.write_text(progress.read_text().replace('"parts"', '"prats"'))
    elif damage == "missing":
        logits.unlink()
    capsys.readouterr()
    resumed, rest = write(tmp_path / "part")
    assert resumed == whole
    assert rest == answers - kept * 2 * 8
    said = capsys.readouterr().err
    assert ("are computed" in said) == (damage != "nothing")
    assert said.count("\n") == (damage != "nothing")


def test_a_disk_that_fills_after_the_check_is_one_line_and_no_signal(tiny_dataset, small_disk, monkeypatch):
    model = create_classifier(Network(arch="resnet10t"), labels=tiny_dataset.labels)
    model.config |= {"name": "large", "model_sha256": "f"}
    folder = small_disk(64)
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=10**9))  # as at the time of the check
    options = {"views": 4, "view_seed": 5, "answers": ["features"]}
    with pytest.raises(UserError, match=r"features\.npy cannot be written: No space left on device; make room and run"):
        write_knowledge(folder, model, tiny_dataset, AUGMENTATION, Teach(**options))
    assert not list(folder.iterdir())


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(tiny_dataset, tmp_path, monkeypatch):
    model = create_classifier(Network(arch="resnet10t"), labels=tiny_dataset.labels)
    model.config |= {"name": "large", "model_sha256": "f"}
    images = len(tiny_dataset.split("train"))
    free = 2 * 3 * images * 2 + 2 * 3 * images * 512  # bytes of the logits of two labels and the features, three views
    usage = shutil.disk_usage(tmp_path)
    for less, refused in ((0, False), (1, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, less=less: usage._replace(free=free - less))
        asked = Teach(views=3, view_seed=5, answers=["features"])
        (folder := tmp_path / str(less)).mkdir()
        if not refused:
            write_knowledge(folder, model, tiny_dataset, AUGMENTATION, asked)
            continue
        with pytest.raises(
            UserError, match=r"take .* GB \(logits .*, features .*\), .* free; lower teach\.views below"
        ):
            write_knowledge(folder, model, tiny_dataset, AUGMENTATION, asked)
        assert not list(folder.iterdir())


@pytest.mark.parametrize("value", [float("nan"), 1e6])  # the second overflows float16
def test_answers_that_are_not_finite_are_refused(tiny_dataset, tmp_path, value):
    torch.manual_seed(3)
    model = create_classifier(Network(arch="resnet10t"), labels=tiny_dataset.labels).eval()
    model.config |= {"name": "mute", "model_sha256": "f"}
    model.backbone.fc.bias.data[1] = value
    first = tiny_dataset.split("train")["image_id"].iloc[0]
    message = f"teacher mute: its logits for image {first} are not finite; train it again"
    with pytest.raises(UserError, match=message):
        write_knowledge(tmp_path, model, tiny_dataset, AUGMENTATION, Teach(views=1, view_seed=5))
    if np.isnan(value):
        batch = Batch([first], 0, torch.zeros(1, 2), torch.zeros(1, 1, 32, 32))
        with pytest.raises(UserError, match=message):
            LiveTeacher(model, tiny_dataset).answer(batch, set())
