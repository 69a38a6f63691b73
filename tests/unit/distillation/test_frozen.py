"""An imported teacher: its own labels, its own input size and normalisation, and its provenance."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from medistill.data import provenance
from medistill.distillation.frozen import import_teacher
from medistill.distillation.settings import Teacher
from medistill.errors import UserError
from medistill.models.build import create_classifier
from medistill.training.validation import predict
from tests.saved import save_weights
from tests.seal import seal


def teacher(folder, **more):
    return Teacher(arch="resnet10t", weights=folder / "model.safetensors", frozen=True, **more)


@pytest.fixture
def weights(tiny_dataset, tmp_path):
    """Weights of a network for the data set's second label and another one, with a config.json but no provenance."""
    torch.manual_seed(0)
    labels = ["Else", tiny_dataset.labels[1]]
    model = create_classifier(teacher(tmp_path).model_copy(update={"weights": None}), labels=labels)
    (tmp_path / "w").mkdir()
    save_weights(tmp_path / "w", model, {"labels": labels, "input_size": 16, "image_size": 64, "mean": [0.1, 0.2, 0.3]})
    model.config["input_size"] = 16
    model.mean.copy_(torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1))
    return tmp_path / "w", labels, model


def test_it_answers_for_the_labels_that_both_have(tiny_dataset, weights, tmp_path):
    folder, labels, model = weights
    network = teacher(folder, input_size=16, mean=[0.1, 0.2, 0.3])
    import_teacher(tmp_path / "out", "friend", network, tiny_dataset)  # config.json beside the weights has the labels
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["labels"], config["name"], config["input_size"]) == (labels, "friend", 16)
    predictions = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    shared = tiny_dataset.labels[1]
    assert [name for name in predictions if name.startswith("logit:")] == [f"logit:{shared}"]
    rows = pd.concat([tiny_dataset.split("val"), tiny_dataset.split("test")])
    np.testing.assert_allclose(predictions[f"logit:{shared}"], predict(model, tiny_dataset, rows)[:, 1], atol=1e-5)
    assert not (tmp_path / "out" / "history.csv").exists()
    seen = provenance.read_ids(tmp_path / "out" / provenance.FILE)
    assert [len(ids) for ids in seen] == [0, 0]  # its training data are unknown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": [0.1, 0.2, 0.3]}, "trained with input_size 16, not 32; set input_size: 16 beside arch"),
        ({"input_size": 16}, r"trained with mean \[0.1, 0.2, 0.3\], not .*; set mean: \[0.1, 0.2, 0.3\] beside arch"),
        ({"labels": ["Else", "Other"]}, "labels: the teacher knows none of the labels Left, Right"),
        (
            {"labels": ["Right", "Else"], "input_size": 16},
            "the same labels in another order: label 1 is Else there, but must be Right",
        ),
    ],
)
def test_what_would_be_answered_wrongly_is_refused(tiny_dataset, weights, tmp_path, options, message):
    network = teacher(weights[0], **options)
    with pytest.raises(UserError, match=message):
        import_teacher(tmp_path / "out", "friend", network, tiny_dataset)
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_has_seen_the_test_split_is_refused(tiny_dataset, weights, tmp_path):
    folder = tmp_path / "seen"
    shutil.copytree(weights[0], folder)
    provenance.write_ids(folder / provenance.FILE, provenance.ids_of(tiny_dataset, "test"))
    with pytest.raises(UserError, match=r"the model was trained on .* of the test split"):
        import_teacher(tmp_path / "out", "friend", teacher(folder, input_size=16), tiny_dataset)


def test_changed_labels_make_it_another_teacher(tiny_dataset, weights, tmp_path):
    folder, labels, _ = weights
    network = teacher(folder, input_size=16, mean=[0.1, 0.2, 0.3])
    prints = set()
    for theirs in (labels, labels[::-1]):
        seal(folder / "config.json", labels=theirs)
        import_teacher(tmp_path / "out", "friend", network, tiny_dataset)
        prints.add(json.loads((tmp_path / "out" / "config.json").read_text())["fingerprint"])
    assert len(prints) == 2
