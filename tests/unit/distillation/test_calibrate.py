"""Calibrated teachers: fitted on validation alone, applied to logits alone."""

import numpy as np
import pytest
import torch

from medistill.augmentation import Augmentation
from medistill.data.dataset import LABEL_PREFIX, Dataset
from medistill.distillation.calibrate import CalibratedTeacher, calibration_of, uncalibrated
from medistill.distillation.combine import combine_answers
from medistill.distillation.knowledge import Knowledge
from medistill.distillation.objective import RecipeObjective
from medistill.distillation.settings import Recipe, Teach
from medistill.distillation.train import teach
from medistill.errors import UserError
from medistill.metrics import calibration
from medistill.models.build import create_classifier
from medistill.models.settings import Network
from medistill.training.batches import Batch
from medistill.training.outputs import write_outputs

AUGMENTATION, ASKED = Augmentation(), Teach(views=2)


@pytest.fixture(autouse=True)
def few_suffice(monkeypatch):
    """The tiny data set has some ten images on validation."""
    monkeypatch.setattr(calibration, "LEAST", 1)


@pytest.fixture
def model(tiny_dataset, tmp_path):
    """The folder of a network that was not trained, as a frozen teacher's."""
    torch.manual_seed(0)
    network = create_classifier(Network(arch="resnet10t"), labels=tiny_dataset.labels)
    with torch.no_grad():
        network.backbone.fc.weight.mul_(20)
    facts = {"role": "teacher", "name": "loud", "seed": 0, "teachers": [], "network": {}, "fingerprint": "f"}
    write_outputs(tmp_path / "model", network, tiny_dataset, None, facts, batch_size=16)
    return tmp_path / "model"


@pytest.fixture
def folder(tiny_dataset, model, tmp_path):
    """The folder of its answers."""
    teach(tmp_path / "answers", model, tiny_dataset, AUGMENTATION, ASKED, unfinished=tmp_path / "unfinished")
    return tmp_path / "answers"


def with_labels(dataset: Dataset, split: str, value: float) -> Dataset:
    """The data set with all labels of a split set to `value`, but the first image's."""
    manifest = dataset.manifest.copy()
    rows = manifest.index[manifest["split"] == split][1:]
    manifest.loc[rows, [LABEL_PREFIX + label for label in dataset.labels]] = value
    return Dataset(**(vars(dataset) | {"manifest": manifest}))


def test_a_calibration_depends_on_the_labels_of_validation_alone(tiny_dataset, model):
    found = calibration_of(model, tiny_dataset)
    rows = tiny_dataset.split("val")
    for place, label in enumerate(tiny_dataset.labels):
        known = tiny_dataset.targets(rows)[:, place]
        own = found.labels[label]
        assert (own.positives, own.negatives) == ((known == 1).sum(), (known == 0).sum())
        assert own.fitted
        assert own.slope != 1
    for split in ("train", "test"):
        assert calibration_of(model, with_labels(tiny_dataset, split, 1.0)) == found
    assert calibration_of(model, with_labels(tiny_dataset, "val", 1.0)) != found


def test_no_answer_about_validation_or_test_can_train_a_student(tiny_dataset, folder):
    knowledge = Knowledge.open(folder, tiny_dataset, AUGMENTATION, ASKED)
    assert np.load(folder / "image_ids.npy").tolist() == tiny_dataset.split("train")["image_id"].tolist()
    for split in ("val", "test"):
        for image_id in tiny_dataset.split(split)["image_id"]:
            with pytest.raises(KeyError):
                knowledge.read("logits", [image_id], 0)


def test_logits_are_calibrated_before_teachers_are_combined(tiny_dataset, model, folder):
    raw = Knowledge.open(folder, tiny_dataset, AUGMENTATION, ASKED)
    calm = CalibratedTeacher.open(raw, folder, tiny_dataset)
    found = calibration_of(model, tiny_dataset)
    ids = tiny_dataset.split("train")["image_id"].tolist()[:6]
    targets = torch.tensor([[1.0, 0.0]] * 6)
    batch = Batch(ids, 1, targets)
    slopes = torch.tensor([found.labels[label].slope for label in tiny_dataset.labels])
    intercepts = torch.tensor([found.labels[label].intercept for label in tiny_dataset.labels])
    said = torch.from_numpy(raw.read("logits", ids, 1))
    torch.testing.assert_close(calm.answer(batch, set())["logits"], slopes * said + intercepts)
    assert (calm.name, calm.map_shape, calm.unknown) == (raw.name, raw.map_shape, raw.unknown)

    terms = [{"loss": "sigmoid_kd"}]
    recipe = Recipe(teachers=["one", "two"], terms=terms, combine="entropy")
    logits = torch.zeros(6, 2)
    value = RecipeObjective(recipe, tiny_dataset, [calm, raw])(logits, batch)["loss"]
    combined, _ = combine_answers(torch.stack([slopes * said + intercepts, said]), targets, how="entropy")
    expected = torch.nn.functional.binary_cross_entropy(combined.sigmoid(), combined.sigmoid())
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, combined.sigmoid())
    assert value.item() == pytest.approx((entropy - expected).item(), rel=1e-4)


def test_answers_stay_as_they_are_and_a_calibrated_training_is_another_one(tiny_dataset, folder):
    raw = Knowledge.open(folder, tiny_dataset, AUGMENTATION, ASKED)
    calm = CalibratedTeacher.open(raw, folder, tiny_dataset)
    again = CalibratedTeacher.open(raw, folder, tiny_dataset)
    assert raw.checksum != calm.checksum == again.checksum
    file = folder / "calibration.json"
    file.write_text(file.read_text().replace("slope", "slopes", 1))
    with pytest.raises(UserError, match=r"calibration\.json: damaged .*; run the teach stage again"):
        CalibratedTeacher.open(raw, folder, tiny_dataset)


def test_a_label_that_the_teacher_does_not_know_stays_unknown(tiny_dataset, folder):
    one, other = tiny_dataset.labels
    wider = Dataset(**(vars(tiny_dataset) | {"labels": ["new", other, one]}))
    raw = Knowledge.open(folder, wider, AUGMENTATION, ASKED)
    calm = CalibratedTeacher.open(raw, folder, wider)
    batch = Batch(wider.split("train")["image_id"].tolist()[:3], 0, torch.zeros(3, 3))
    answers = calm.answer(batch, set())["logits"]
    assert answers[:, 0].isnan().all()
    assert answers[:, 1:].isfinite().all()
    same = CalibratedTeacher.open(Knowledge.open(folder, tiny_dataset, AUGMENTATION, ASKED), folder, tiny_dataset)
    torch.testing.assert_close(answers[:, [2, 1]], same.answer(batch, set())["logits"])


def test_labels_with_too_few_images_are_named(tiny_dataset, monkeypatch):
    assert uncalibrated(tiny_dataset) == []
    monkeypatch.setattr(calibration, "LEAST", 1_000)
    assert uncalibrated(tiny_dataset) == tiny_dataset.labels
