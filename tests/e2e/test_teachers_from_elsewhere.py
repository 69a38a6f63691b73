"""A vision transformer, an ONNX file and a table of answers teach in the whole graph."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import logit

from medistill.data.dataset import Dataset
from medistill.models.classifier import resize
from medistill.views import render_plain
from tests.onnx_files import SIZE, is_one_file, write_linear

THEIRS = ["Mass", "Something else", "Effusion"]
WEIGHT = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
HARD, SOFT = {"loss": "binary_cross_entropy"}, {"loss": "sigmoid_kd"}


@pytest.fixture
def taught(fresh):
    """A clone in which students were taught by all three."""
    fresh.run("dvc", "repro", "ingest")
    ids = Dataset.open(fresh.folder / "data/processed").manifest["image_id"].tolist()
    write_linear(fresh.folder / "theirs/a.onnx", WEIGHT, channels=3, external="a.onnx.data")
    said = np.random.default_rng(1).uniform(0.05, 0.95, len(ids) // 2)
    pd.DataFrame({"id": ids[::2][: len(said)], "mass": said}).to_csv(fresh.folder / "theirs/said.csv", index=False)
    params = fresh.params
    params["teachers"] = {
        "vit": {"arch": "test_vit"},
        "theirs": {
            "onnx": "theirs/a.onnx",
            "labels": THEIRS,
            "input_size": SIZE,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
            "outputs": {"logits": "y", "features": "pooled"},
        },
        "published": {"answers": "theirs/said.csv", "id": "id", "labels": {"Mass": "mass"}},
    }
    params["students"] = {"small": {"arch": "test_efficientnet", "input_size": 40, "channels": 1}}
    params["teach"] |= {"answers": ["attention", "features"]}
    params["recipes"] = {
        "baseline": {"views": "fresh"},
        "both": {"teachers": ["vit", "theirs"], "terms": [HARD, SOFT, {"loss": "rkd"}]},
        "live": {"teachers": ["theirs", "published"], "views": "live", "terms": [HARD, SOFT]},
    }
    params["run"] = {
        **{"teachers": ["vit", "theirs", "published"], "assistants": [], "students": ["small"]},
        **{"recipes": ["baseline", "both", "live"], "seeds": [0]},
    }
    fresh.write_params(params)
    fresh.run("dvc", "repro")
    return fresh


def read(taught, path):
    return json.loads((taught.folder / path).read_text())


@pytest.mark.slow
def test_they_teach_and_the_pages_say_what_they_lack(taught):
    folder = taught.folder
    assert is_one_file(folder / "models/teachers/theirs/model.onnx")
    for recipe, terms in (("both", ["sigmoid_kd", "rkd"]), ("live", ["sigmoid_kd"])):
        history = pd.read_csv(folder / f"models/students/small-{recipe}-0/history.csv")
        assert (history[[f"train_{term}" for term in terms]] > 0).all(axis=None)
        assert read(taught, f"exports/small-{recipe}-0/parity.json")["passed"]

    # the cached answers are arithmetic's, and the table's
    dataset = Dataset.open(folder / "data/processed")
    test = dataset.split("test")
    predictions = pd.read_parquet(folder / "models/teachers/theirs/predictions.parquet").set_index("image_id")
    images = render_plain(torch.from_numpy(dataset.images(test)))
    means = (resize(images, SIZE).mean((2, 3)).expand(-1, 3).numpy() - 0.5) / 0.25  # grey becomes colour
    found = predictions.loc[test["image_id"], ["logit:Mass", "logit:Effusion"]]
    np.testing.assert_allclose(found, (means @ WEIGHT)[:, [0, 2]], atol=2e-2)
    said = pd.read_csv(folder / "theirs/said.csv").set_index("id")["mass"]
    stored = np.load(folder / "data/knowledge/published/logits.npy")[0]
    ids = np.load(folder / "data/knowledge/published/image_ids.npy")
    np.testing.assert_allclose(stored[:, 0], logit(said.reindex(ids)), atol=4e-3)
    assert np.isnan(stored).any()

    metrics = read(taught, "reports/metrics.json")
    assert list(metrics) == [
        "vit",
        "theirs",
        "published",
        *(f"small-{name}-0" for name in ("baseline", "both", "live")),
    ]
    assert "macro_auroc" in metrics["vit"]["test"]
    assert "params" not in metrics["published"]
    assert read(taught, "reports/evaluation/published.json")["test"]["per_label"]["Mass"]["auroc"]["estimate"] is None
    assert not {"vit", "theirs", "published"} & set(read(taught, "reports/explain/metrics.json"))
    gallery, page = ((folder / f"reports/{name}index.html").read_text() for name in ("explain/", ""))
    assert "vit is left out: it has no feature map." in gallery
    assert "published has no figures" in page
    assert len(read(taught, "reports/gate.json")) > 0

    assert "Running stage" not in taught.run("dvc", "repro").stdout
    taught.run("python", "-m", "pipeline", "track")
