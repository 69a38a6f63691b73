"""Assistants, frozen teachers, live teachers and images without labels go through the whole graph."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from medistill.models.build import create_classifier
from medistill.models.settings import Network
from tests.saved import save_weights

THEIRS = ["Mass", "Something else", "Effusion"]


def write_weights(folder, seed):
    torch.manual_seed(seed)
    model = create_classifier(Network(arch="test_resnet"), labels=THEIRS)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder, model, {"labels": THEIRS})


@pytest.fixture
def taught(fresh):
    """A clone in which students were taught in all ways."""
    write_weights(fresh.folder / "weights", seed=0)
    params = fresh.params
    params["phantom"]["images"] = 560  # some labels have enough positives on validation to calibrate teachers by
    params["teachers"] |= {
        "friend": {
            "arch": "test_resnet",
            "weights": "weights/model.safetensors",
            "frozen": True,
            "labels": THEIRS,
            "input_size": 48,
        },
        "assistant": {"arch": "test_efficientnet", "recipe": "kd", "seeds": [3, 4]},
    }
    params["teachers"]["densenet"]["input_size"] = 48  # map losses refuse maps of one cell
    params["students"] = {"small": {"arch": "test_efficientnet", "input_size": 40, "channels": 1}}
    hard, soft = {"loss": "binary_cross_entropy"}, {"loss": "sigmoid_kd"}
    params["teach"]["answers"] = ["features", "attention", "cams"]
    params["recipes"] = {
        "baseline": {"views": "fresh"},
        "kd": {"teachers": ["densenet"], "terms": [hard, soft]},
        "assisted": {"teachers": ["assistant", "densenet"], "terms": [hard, soft, {"loss": "feature_mse"}]},
        "friendly": {
            "teachers": ["friend", "densenet"],
            "calibrate": True,
            "terms": [hard, soft, {"loss": "cam_kd"}],
        },
        "live": {
            "teachers": ["densenet", "friend"],
            "views": "live",
            "unlabelled": True,
            "terms": [hard, soft, {"loss": "attention_transfer"}],
        },
        "staged": {
            "teachers": ["densenet", "friend"],
            "stages": [
                {"terms": [{"loss": "cosine_similarity"}, {"loss": "rkd"}], "epochs": 1, "unlabelled": True},
                {"terms": [hard | {"group_weights": "sex", "smoothing": 0.1}, soft | {"trust": True}]},
            ],
        },
    }
    params["run"] = {
        "teachers": ["densenet", "friend"],
        "assistants": ["assistant"],
        "students": ["small"],
        "recipes": ["baseline", "assisted", "friendly", "live", "staged"],
        "seeds": [0],
    }
    fresh.write_params(params)
    fresh.run("dvc", "repro")
    return fresh


@pytest.mark.slow
def test_every_way_to_teach_goes_through_the_whole_graph(taught):
    folder = taught.folder

    def read(path):
        return json.loads((folder / path).read_text())

    metrics = read("reports/metrics.json")
    students = [f"small-{recipe}-0" for recipe in ("baseline", "assisted", "friendly", "live", "staged")]
    assert list(metrics) == ["densenet", "friend", "assistant.3", "assistant.4", *students]

    # both assistants were taught, then answered; their students' records name them
    assistants = [read(f"models/teachers/assistant/{seed}/config.json") for seed in (3, 4)]
    assert [(one["role"], one["teachers"], one["seed"]) for one in assistants] == [
        ("teacher", ["densenet"], seed) for seed in (3, 4)
    ]
    assert len({one["model_sha256"] for one in assistants}) == 2
    for seed, one in zip((3, 4), assistants, strict=True):
        answers = read(f"data/assistants/assistant/{seed}/knowledge.json")
        assert (answers["teacher"], answers["teacher_sha256"]) == (f"assistant.{seed}", one["model_sha256"])
    assert not (folder / "data/knowledge/assistant").exists()
    named = read("models/students/small-assisted-0/config.json")["teachers"]
    assert named == ["assistant.3", "assistant.4", "densenet"]
    seen = [np.load(folder / f"models/{name}/train_ids.npz") for name in ("teachers/friend", "students/small-live-0")]
    assert (len(seen[0]["images"]), len(seen[1]["images"]) > 0) == (0, True)

    # the friend has figures for the labels that it shares with the data set, and no mean
    manifest = pd.read_parquet(folder / "data/processed/manifest.parquet").set_index("image_id")
    predictions = pd.read_parquet(folder / "models/teachers/friend/predictions.parquet")
    assert {name for name in predictions if name.startswith("logit:")} == {"logit:Mass", "logit:Effusion"}
    test = predictions[predictions["split"] == "test"].set_index("image_id")
    described = read("reports/evaluation/friend.json")["test"]
    for label in ("Mass", "Effusion"):
        expected = roc_auc_score(manifest.loc[test.index, f"label:{label}"], test[f"logit:{label}"])
        assert described["per_label"][label]["auroc"]["estimate"] == pytest.approx(expected, abs=1e-12)
    assert described["per_label"]["Nodule"]["auroc"]["estimate"] is None
    assert "macro_auroc" not in metrics["friend"]["test"]
    assert "friend" not in read("reports/explain/metrics.json")
    assert {"assistant.3", "assistant.4"} <= set(read("reports/explain/metrics.json"))

    # each term of each recipe took effect
    for recipe, term in (("assisted", "feature_mse"), ("friendly", "cam_kd"), ("live", "attention_transfer")):
        history = pd.read_csv(folder / f"models/students/small-{recipe}-0/history.csv")
        assert (history[f"train_{term}"] > 0).all()
        assert history["train_sigmoid_kd"].iloc[-1] < history["train_sigmoid_kd"].iloc[0]
        assert read(f"exports/small-{recipe}-0/parity.json")["passed"]

    # features were taught before the classifier, in the steps of the baseline
    staged, baseline = (
        pd.read_csv(folder / f"models/students/small-{recipe}-0/history.csv") for recipe in ("staged", "baseline")
    )
    assert staged["stage"].tolist() == [1, *[2] * (len(staged) - 1)]
    assert staged["step"].tolist() == baseline["step"].tolist()
    for column in ("train_sigmoid_kd", "val_macro_auroc"):
        assert (staged[column].isna() == (staged["stage"] == 1)).all()
    assert staged["train_cosine_similarity"].notna().tolist() == (staged["stage"] == 1).tolist()
    card = (folder / "exports/small-staged-0/MODEL_CARD.md").read_text()
    assert "1 rkd (distance 1.0, angle 2.0), then 1 binary_cross_entropy (smoothing 0.1" in card

    shown = (folder / "reports/live/index.html").read_text()
    assert all(f"<h2>{name}</h2>" in shown for name in metrics if name != "friend")  # the friend was not trained
    assert "at work" not in shown

    again = taught.run("dvc", "repro").stdout
    assert "Running stage" not in again
    taught.run("python", "-m", "pipeline", "track")
    taught.run("python", "-m", "pipeline", "promote", "--dry-run", expect=None)
    write_weights(folder / "weights", seed=1)
    refused = taught.run("python", "-m", "pipeline", "track", expect=2).stderr
    assert "weights/model.safetensors: changed since friend was trained from it" in refused
    assert "dvc repro --force train_teacher@friend" in refused
