"""The whole graph on exclusive classes, as a user sees it: tiles in LC25000's layout."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from trees_tiles import write_lc25000

CLASSES = ["lung_aca", "lung_n", "lung_scc"]
STUDENTS = [f"{s}-{r}-0" for s in ("eeea_net_c2", "tf_efficientnet_lite0") for r in ("baseline", "kd")]
TEACHERS = ["densenet", "efficientnet_lite2"]


@pytest.fixture
def tiles(fresh):
    """A clone in which the whole graph has run on tiles of the lung and has been tracked."""
    write_lc25000(fresh.folder / "data/raw/tiles", halves=("lung_image_sets",), sources=60, copies=2)
    params = fresh.params
    params["data"] |= {"format": "lc25000", "root": "data/raw/tiles", "options": {}, "split": "patient"}
    params["data"] |= {"val_fraction": 0.3, "test_fraction": 0.3, "channels": 3}
    params["recipes"]["kd"]["terms"] = [{"loss": "cross_entropy", "weight": 0.5}, {"loss": "softmax_kd", "weight": 0.5}]
    fresh.write_params(params)
    fresh.run("dvc", "repro")
    fresh.run("python", "-m", "pipeline", "track")
    return fresh


@pytest.mark.slow
def test_tiles_go_through_the_whole_graph(tiles):
    folder = tiles.folder
    assert json.loads((folder / "data/processed/dataset.json").read_text())["task"] == "multiclass"
    metrics = json.loads((folder / "reports/metrics.json").read_text())
    assert set(metrics) == {*TEACHERS, *STUDENTS}
    manifest = pd.read_parquet(folder / "data/processed/manifest.parquet").set_index("image_id")
    for model, entry in metrics.items():
        room = "teachers" if model in TEACHERS else "students"
        predictions = pd.read_parquet(folder / "models" / room / model / "predictions.parquet")
        for split in ("val", "test"):
            rows = predictions[predictions["split"] == split]
            truth = manifest.loc[rows["image_id"], [f"label:{label}" for label in CLASSES]].to_numpy().argmax(axis=1)
            chances = softmax(rows[[f"logit:{label}" for label in CLASSES]].to_numpy(np.float64), axis=1)
            expected = {
                "macro_auroc": roc_auc_score(truth, chances, multi_class="ovr"),
                "accuracy": accuracy_score(truth, chances.argmax(axis=1)),
                "balanced_accuracy": balanced_accuracy_score(truth, chances.argmax(axis=1)),
            }
            assert {key: entry[split][key] for key in expected} == pytest.approx(expected, abs=1e-9)
            assert entry[split]["eligible_labels"] == 3

    for model in STUDENTS:
        config = json.loads((folder / f"models/students/{model}/config.json").read_text())
        terms = [term["loss"] for term in config["terms"]]
        assert terms == (["cross_entropy", "softmax_kd"] if "-kd-" in model else [])
        card = (folder / f"exports/{model}/MODEL_CARD.md").read_text()
        assert f"| val_accuracy | {metrics[model]['val']['accuracy']:.4f} |" in card
        assert json.loads((folder / f"exports/{model}/parity.json").read_text())["passed"]

    page = (folder / "reports/index.html").read_text()
    assert "3 classes, one per image (multiclass)" in page
    assert "Test accuracy" in page
    gallery = (folder / "reports/explain/index.html").read_text()
    assert "<h3>Called <span" in gallery

    tracked = tiles.run("python", "-c", TRACKED).stdout
    assert json.loads(tracked) == {model: metrics[model]["test"]["accuracy"] for model in metrics}

    promotion = json.loads(tiles.run("python", "-m", "pipeline", "promote", "--dry-run", "--json").stdout)
    best = max(metrics[model]["val"]["macro_auroc"] for model in STUDENTS)
    assert metrics[promotion["champion"]["model"]]["val"]["macro_auroc"] >= best - 0.002
    assert not (folder / "registry/history.jsonl").exists()

    image = next((folder / "data/raw/tiles/lung_image_sets/lung_n").glob("*.jpeg"))
    command = ["medistill", "predict", str(image), "--model", "exports/eeea_net_c2-kd-0"]
    (answer,) = json.loads(tiles.run(*command, "--json").stdout)
    assert list(answer["probabilities"]) == CLASSES
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-12)
    fitted = json.loads((folder / "exports/eeea_net_c2-kd-0/bundle.json").read_text())["calibration"]
    logits = json.loads(tiles.run("python", "-c", AS_TRAINED, str(image)).stdout)
    expected = softmax(np.array(logits) * fitted["slopes"] + fitted["intercepts"])
    assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-4)
    shown = re.findall(r"^  (\S+) +(0\.\d+|1\.000)$", tiles.run(*command).stdout, re.MULTILINE)
    assert [label for label, _ in shown] == sorted(CLASSES, key=lambda label: -answer["probabilities"][label])


TRACKED = """
import json
from mlflow import MlflowClient
client = MlflowClient("sqlite:///mlflow.db")
runs = client.search_runs([client.get_experiment_by_name("medistill").experiment_id])
assert {run.data.tags["task"] for run in runs} == {"multiclass"}
print(json.dumps({run.info.run_name: run.data.metrics["test_accuracy"] for run in runs}))
"""

AS_TRAINED = """
import json, sys
import numpy as np
import torch
from PIL import Image
from medistill.models.weights import load_model
pixels = torch.from_numpy(np.asarray(Image.open(sys.argv[1])).copy()).permute(2, 0, 1)[None].float() / 255
with torch.inference_mode():
    print(json.dumps(load_model("models/students/eeea_net_c2-kd-0")(pixels)[0].tolist()))
"""
