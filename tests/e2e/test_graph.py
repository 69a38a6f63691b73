"""The whole graph from outside, as a user sees it."""

import csv
import io
import json
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from PIL import Image
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from medistill.files import read_json

STUDENTS = [f"{s}-{r}-0" for s in ("eeea_net_c2", "tf_efficientnet_lite0") for r in ("baseline", "kd")]
TEACHERS = ["densenet", "efficientnet_lite2"]
STAGES = {
    "phantom",
    "ingest",
    "audit",
    "validate",
    *(f"train_teacher@{name}" for name in TEACHERS),
    *(f"teach@{name}" for name in TEACHERS),
    *(f"distill@{name}" for name in STUDENTS),
    "licenses",
    "evaluate",
    "explain",
    "stress",
    *(f"export@{name}" for name in STUDENTS),
    "report",
}


def test_every_file_is_at_its_path(project):
    expected = [
        "data/raw/phantom/Data_Entry_2017.csv",
        *(f"data/processed/{name}" for name in ("manifest.parquet", "boxes.parquet", "images-00000.npy")),
        *(f"data/processed/{name}" for name in ("dataset.json", "quarantine.csv")),
        "reports/validation/audit.json",
        "reports/validation/validation.json",
        "reports/validation/data_docs/index.html",
        *(f"data/knowledge/{name}/logits.npy" for name in TEACHERS),
        "reports/metrics.json",
        "reports/comparisons.csv",
        "reports/explain/metrics.json",
        "reports/explain/index.html",
        "reports/stress/metrics.json",
        "reports/gate.json",
        "reports/index.html",
        "reports/tripod-ai.md",
        "reports/promotion.json",
        "registry/history.jsonl",
    ]
    model_files = (
        "model.safetensors",
        "config.json",
        "train_ids.npz",
        "history.csv",
        "metrics.json",
        "predictions.parquet",
    )
    for model in [*(f"teachers/{name}" for name in TEACHERS), *(f"students/{name}" for name in STUDENTS)]:
        expected += [f"models/{model}/{file}" for file in model_files]
        expected.append(f"reports/evaluation/{Path(model).name}.json")
        expected.append(f"reports/licenses/{Path(model).name}.json")
    for model in STUDENTS:
        for file in (
            "model.onnx",
            "bundle.json",
            "parity.json",
            "latency.json",
            "MODEL_CARD.md",
            "model_card.xml",
            "train_ids.npz",
        ):
            expected.append(f"exports/{model}/{file}")
    assert [name for name in expected if not (project.folder / name).is_file()] == []


def test_a_second_repro_does_nothing(project):
    start = time.perf_counter()
    done = project.run("dvc", "repro")
    assert time.perf_counter() - start < 30  # only to notice a rerun; benchmarks measure the time
    assert "Running stage" not in done.stdout
    assert project.run("git", "status", "--short").stdout == ""


def test_a_training_with_the_same_inputs_is_reused(project):
    """DVC runs all students when any teacher has changed; each stage finds out whether its student is affected."""
    weights = project.folder / "models/students/eeea_net_c2-baseline-0/model.safetensors"
    before = weights.read_bytes()
    said = project.run("dvc", "repro", "--single-item", "--force", "distill@eeea_net_c2-baseline-0").stdout
    assert "eeea_net_c2-baseline-0: already trained with these settings, data and code" in said
    assert "training; its curves" not in said
    assert weights.read_bytes() == before
    assert "Running stage" not in project.run("dvc", "repro").stdout


def test_dag_has_every_stage(project):
    listed = project.run("dvc", "stage", "list", "--name-only").stdout.split()
    assert set(listed) == STAGES
    dag = project.run("dvc", "dag", "--dot").stdout
    assert all(f'"{stage}"' in dag for stage in STAGES)


def test_metrics_show_has_the_macro_auroc_of_every_model(project):
    shown = json.loads(project.run("dvc", "metrics", "show", "--json").stdout)
    (metrics,) = (file["data"] for file in shown[""]["data"].values())
    assert set(metrics) == {*TEACHERS, *STUDENTS}
    manifest = pd.read_parquet(project.folder / "data/processed/manifest.parquet").set_index("image_id")
    for model in metrics:
        room = "teachers" if model in TEACHERS else "students"
        predictions = pd.read_parquet(project.folder / "models" / room / model / "predictions.parquet")
        rows = predictions[predictions["split"] == "test"]
        labels = json.loads((project.folder / f"reports/evaluation/{model}.json").read_text())["test"]["labels"]
        truth = manifest.loc[rows["image_id"], [f"label:{label}" for label in labels]]
        expected = roc_auc_score(truth.to_numpy(), rows[[f"logit:{label}" for label in labels]].to_numpy())
        assert metrics[model]["test"]["macro_auroc"] == pytest.approx(expected, abs=1e-9)


def test_plots_show_real_roc_data(project):
    done = project.run("dvc", "plots", "show", "--json")
    plots = json.loads(done.stdout)
    points = json.dumps(plots)
    assert plots
    assert all(model in points for model in (*TEACHERS, *STUDENTS))
    for model in STUDENTS:
        with open(project.folder / f"reports/roc/{model}.csv", newline="") as file:
            curve = [(float(row["fpr"]), float(row["tpr"])) for row in csv.DictReader(file)]
        fpr, tpr = np.array(curve).T
        assert (fpr[0], fpr[-1], tpr[-1]) == (0, 1, 1)
        assert (np.diff(fpr) >= 0).all()
        assert (np.diff(tpr) >= 0).all()


def test_params_diff_names_exactly_the_changed_key(project):
    before = project.params
    changed = project.params
    changed["recipes"]["kd"]["terms"][1]["weight"] = 0.9
    project.write_params(changed)
    try:
        diff = json.loads(project.run("dvc", "params", "diff", "--json").stdout)
        status = json.loads(project.run("dvc", "status", "--json").stdout)
    finally:
        project.write_params(before)
    assert set(diff["params.yaml"]) == {"recipes.kd.terms"}
    assert diff["params.yaml"]["recipes.kd.terms"]["new"] == str(changed["recipes"]["kd"]["terms"])
    stale = {stage for stage in status if "params.yaml" in json.dumps(status[stage])}
    # Both kd students, and the fan-in stages that show recipes; neither baselines nor teachers.
    assert {stage for stage in stale if stage.startswith("distill")} == {
        f"distill@{name}" for name in STUDENTS if "kd" in name
    }
    assert not any(stage.startswith(("train_teacher", "teach", "ingest")) for stage in stale)


def test_a_distilled_student_and_its_baseline_differ_by_the_teacher_only(project):
    for student in ("eeea_net_c2", "tf_efficientnet_lite0"):
        configs = [
            json.loads((project.folder / f"models/students/{student}-{recipe}-0/config.json").read_text())
            for recipe in ("baseline", "kd")
        ]
        same = [
            {key: c[key] for key in ("arch", "args", "training", "initialisation", "seed", "params")} for c in configs
        ]
        assert same[0] == same[1]
        assert [c["teachers"] for c in configs] == [[], ["efficientnet_lite2"]]


def test_predict_answers_as_the_trained_student(project):
    image = next((project.folder / "data/raw/phantom/images").glob("*.png"))
    command = ["medistill", "predict", str(image), "--model", "exports/eeea_net_c2-kd-0", "--json"]
    (answer,) = json.loads(project.run(*command).stdout)
    script = """
import sys, torch, json
import numpy as np
from PIL import Image
from scipy.special import expit
from medistill.models.weights import load_model
pixels = torch.from_numpy(np.asarray(Image.open(sys.argv[1])).copy()).view(1, 1, 32, 32).float() / 255
with torch.inference_mode():
    print(json.dumps(load_model("models/students/eeea_net_c2-kd-0")(pixels)[0].tolist()))
"""
    logits = json.loads(project.run("python", "-c", script, str(image)).stdout)
    fitted = read_json(project.folder / "exports/eeea_net_c2-kd-0/bundle.json")["calibration"]
    expected = expit(np.array(logits) * fitted["slopes"] + fitted["intercepts"])
    assert list(answer["probabilities"].values()) == pytest.approx(expected, abs=1e-4)
    assert answer["unlike"]["score"] >= 0
    (drawn,) = json.loads(project.run(*command, "--heatmaps", "drawn maps").stdout)
    called = {f"{image.stem}-{label}.png" for label, called in drawn["called"].items() if called}
    assert {path.name for path in (project.folder / "drawn maps").iterdir()} == called
    with Image.open(image) as opened:
        assert opened.size == (32, 32)


def test_pages_need_no_network(project):
    for page in ("reports/index.html", "reports/explain/index.html"):
        text = (project.folder / page).read_text()
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text
        assert "not a medical device" in text.lower()


def test_promoted_student_is_the_one_the_report_ranks_first(project):
    promotion = json.loads((project.folder / "reports/promotion.json").read_text())
    metrics = json.loads((project.folder / "reports/metrics.json").read_text())
    best = max(metrics[model]["val"]["macro_auroc"] for model in STUDENTS)
    assert metrics[promotion["champion"]["model"]]["val"]["macro_auroc"] >= best - 0.002
    history = (project.folder / "registry/history.jsonl").read_text().splitlines()
    assert len(history) == 1
    again = project.run("python", "-m", "pipeline", "promote")
    assert again.returncode == 0
    assert len((project.folder / "registry/history.jsonl").read_text().splitlines()) == 1


def test_comparisons_are_complete(project):
    table = pd.read_csv(io.StringIO((project.folder / "reports/comparisons.csv").read_text()))
    macro = table[(table["metric"] == "macro_auroc") & (table["split"] == "test")]
    pairs = {(row.model, row.reference, row.relation) for row in macro.itertuples()}
    for student in ("eeea_net_c2", "tf_efficientnet_lite0"):
        assert (f"{student}-kd-0", f"{student}-baseline-0", "baseline") in pairs
    assert {(model, teacher, "teacher") for model in STUDENTS for teacher in TEACHERS} <= pairs


def test_clone_and_pull_bring_back_the_whole_view(project, tmp_path):
    """With a DVC remote a team has everything without training."""
    remote = tmp_path / "remote"
    project.run("dvc", "remote", "add", "--force", "--default", "--local", "shared", str(remote))
    project.run("dvc", "push")
    subprocess.run(["git", "clone", "--quiet", project.folder, tmp_path / "clone"], check=True)
    shutil.copy2(project.folder / "dvc.lock", tmp_path / "clone")  # as a team commits it
    clone = type(project)(tmp_path / "clone")
    clone.run("dvc", "remote", "add", "--default", "--local", "shared", str(remote))
    clone.run("dvc", "pull")
    assert "Running stage" not in clone.run("dvc", "repro").stdout
    assert "6 created, 0 updated, 0 unchanged" in clone.run("python", "-m", "pipeline", "track").stdout
    assert "0 created, 0 updated, 6 unchanged" in clone.run("python", "-m", "pipeline", "track").stdout

    client = MlflowClient(f"sqlite:///{clone.folder / 'mlflow.db'}")
    here = {name: (clone.folder / name).read_bytes() for name in ("reports/metrics.json", "reports/index.html")}
    there = {name: (project.folder / name).read_bytes() for name in here}
    assert here == there
    runs = client.search_runs([client.get_experiment_by_name("medistill").experiment_id])
    assert {run.data.tags["role"] for run in runs} >= {"teacher"}
    assert all("test_macro_auroc" in run.data.metrics for run in runs)
