"""Stage `stress` from outside: against what other stages measured on the same images."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from safetensors.numpy import load_file
from sklearn.metrics import roc_auc_score

from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.layout import Layout
from medistill.stress.answered import askable, some
from medistill.stress.run import best_teacher
from pipeline.stages import report, stress
from tests.filled import model_record
from tests.pipeline.evaluated_project import write_project
from tests.seal import seal

STUDENTS = ("small-baseline-0", "small-kd-0")
SHIFTS = {"brighter", "darker", "noise", "jpeg", "blur", "collimation", "rotation", "inversion"}


def read(folder: Path, name: str) -> dict:
    return json.loads((folder / "reports" / name).read_text(encoding="utf-8"))


def test_unchanged_images_have_the_figures_of_the_evaluation(finished):
    measured, metrics = read(finished, "metrics.json"), read(finished, "stress/metrics.json")
    assert set(metrics) == {"big", *STUDENTS}
    test = pd.read_parquet(finished / "data/processed/manifest.parquet").query("split == 'test'")
    for name, own in metrics.items():
        assert own["images"] == len(test)  # params.stress.images is more
        assert own["labels"]
        assert own["auroc"]["estimate"] == pytest.approx(measured[name]["test"]["macro_auroc"], abs=1e-6)
        assert set(own["shifts"]) == SHIFTS
        folder = finished / "models" / ("teachers" if name == "big" else "students") / name
        logits = pd.read_parquet(folder / "predictions.parquet").set_index("image_id").loc[test["image_id"]]
        for label in own["labels"]:
            expected = roc_auc_score(test[f"label:{label}"], logits[f"logit:{label}"])
            assert own["shifts"]["noise"]["labels"][label]["plain"]["estimate"] == pytest.approx(expected, abs=1e-6)


def test_a_distilled_student_is_compared_with_teacher_and_baseline(finished):
    metrics = read(finished, "stress/metrics.json")
    for shift in SHIFTS:
        own, teacher, baseline = (metrics[name]["shifts"][shift] for name in ("small-kd-0", "big", "small-baseline-0"))
        plain = metrics["small-kd-0"]["auroc"]["estimate"]
        assert own["fall"]["estimate"] == pytest.approx(plain - own["auroc"]["estimate"], abs=1e-9)
        for name, relation, other in (("big", "teacher", teacher), ("small-baseline-0", "baseline", baseline)):
            found = own["against"][name]
            assert found["relation"] == relation
            expected = own["fall"]["estimate"] - other["fall"]["estimate"]
            assert found["difference"]["estimate"] == pytest.approx(expected, abs=1e-9)
        assert (teacher["against"], baseline["against"]) == ({}, {})


def test_students_keep_what_they_tell_other_images_by(finished):
    metrics = read(finished, "stress/metrics.json")
    assert metrics["big"]["known"] is None
    for name in STUDENTS:
        known, file = metrics[name]["known"], load_file(finished / f"reports/stress/{name}.safetensors")
        assert file["components"].shape == (known["components"], known["features"])
        assert 0 < known["usual"] < 1  # 1 is the threshold, the largest of few patients
        assert known["kinds"]["static"]["images"] == 50
        assert {"inversion", "mirrored", "turned", "static", "tile", "photograph"} == set(known["kinds"])
        assert known["kinds"]["inversion"]["marked"] == metrics[name]["shifts"]["inversion"]["marked"]


def test_the_report_shows_shifts_and_kinds(finished):
    page = (finished / "reports/index.html").read_text(encoding="utf-8")
    section = page.split('id="stress"')[1].split("</section>")[0]
    for words in (*SHIFTS, "mirrored", "photograph", "marked falsely", "p, Holm", "JPEG at quality 15"):
        assert words in section
    figure = read(finished, "stress/metrics.json")["small-kd-0"]["shifts"]["blur"]["auroc"]["estimate"]
    assert f"{figure:.3f}" in section


def test_folders_of_the_user_are_kinds_of_their_own(finished, tmp_path, monkeypatch):
    root = tmp_path / "p"
    shutil.copytree(finished, root)
    (root / "white").mkdir()
    for k in range(12):
        Image.new("L", (40, 40), 255).save(root / "white" / f"{k}.png")
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["run"]["recipes"] = ["baseline"]
    params["stress"] = {"images": 12, "others": {"white": "white"}}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(root)
    stress.main([])
    metrics = read(root, "stress/metrics.json")
    assert set(metrics) == {"big", "small-baseline-0"}
    own = metrics["small-baseline-0"]
    assert own["images"] <= 12
    assert own["known"]["kinds"]["white"]["images"] == 12
    assert own["known"]["kinds"]["white"]["auroc"]["estimate"] in (0, 1)  # all twelve are the same image
    assert sorted(path.name for path in (root / "reports/stress").iterdir()) == [
        "metrics.json",
        "small-baseline-0.safetensors",
        "stress.json",
    ]
    params["stress"]["others"] = {"tile": "white"}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(UserError, match=r"^stress\.others\.tile: a kind of this name is always there; give the folder"):
        stress.main([])
    file = root / "reports/stress/small-baseline-0.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"small-baseline-0\.safetensors: .*run the stress stage again"):
        report.main([])


def test_patients_are_taken_whole_up_to_a_number_of_images():
    sizes = [1, 5, 2, 7, 3, 1, 4]
    rows = pd.DataFrame({"group_id": np.repeat([f"p{k}" for k in range(7)], sizes)})
    seen = set()
    for most in range(1, 24):
        taken = some(rows, most)["group_id"].value_counts()
        assert all(taken[group] == sizes[int(group[1:])] for group in taken.index)
        assert taken.sum() <= most or len(taken) == 1
        assert seen <= set(taken.index)  # more images are those of fewer, and others
        seen = set(taken.index)
    assert len(some(rows, 23)) == 23


def test_teachers_that_cannot_be_asked_are_left_out(tiny_dataset, tmp_path):
    layout, nothing = Layout(tmp_path), np.array([], np.uint64)
    about = {"table": ["Left", "Right"], "other": ["Left"], "able": ["Right", "Left", "More"]}
    for name, labels in about.items():
        files = layout.model(name)
        files.folder.mkdir(parents=True)
        np.savez(files.train_ids, groups=nothing, images=nothing)
        if name != "table":
            files.weights.write_bytes(b"")
        seal(files.config, model_record(name=name, labels=labels))
    folders = {name: layout.model(name) for name in about}
    found, left_out = askable(folders, tiny_dataset, teachers=list(about))
    assert list(found) == ["able"]
    assert left_out == {"table": "it cannot be asked about new images", "other": "it does not know Right"}


def test_the_best_teacher_is_that_of_validation(tmp_path, monkeypatch):
    params = write_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    dataset, layout = Dataset.open(), Layout()
    rows = dataset.manifest.query("split == 'val'")
    areas = {}
    for name in params.run.teachers:
        table = pd.read_parquet(layout.model(name).predictions).set_index("image_id").loc[rows["image_id"]]
        known = {label: rows[f"label:{label}"].notna().to_numpy() for label in dataset.labels if label != "Hernia"}
        areas[name] = np.mean(
            [
                roc_auc_score(rows[f"label:{label}"][k], table[f"logit:{label}"].to_numpy()[k])
                for label, k in known.items()
            ]
        )
    folders = {name: layout.model(name) for name in areas}
    best = max(areas, key=areas.get)
    assert best_teacher(dataset, folders, list(areas)) == best
    assert best_teacher(dataset, folders, [name for name in areas if name != best]) == min(areas, key=areas.get)
    assert best_teacher(dataset, folders, []) is None
