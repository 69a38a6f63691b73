import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from medistill.data.provenance import NOTHING, write_ids
from medistill.errors import UserError
from medistill.files import read_json
from medistill.layout import ModelFolder, StressFolder
from medistill.models.build import create_classifier
from medistill.models.costs import count_macs, count_params
from medistill.models.settings import Network
from medistill.records.base import Sealed
from medistill.records.models import TrainingMetrics
from medistill.runtime.predictor import Predictor
from medistill.stress.tap import forward_tapped
from medistill.stress.unlike import Unlike
from pipeline.stages.export import main
from tests.filled import dataset_info
from tests.saved import save_filled
from tests.seal import digests, seal

NAME = "eeea_net_c2-kd-0"


@pytest.fixture(scope="module")
def project(root, tmp_path_factory) -> Path:
    """A folder as the graph leaves it before `export`: params.yaml, data and one student, a small network."""
    project = tmp_path_factory.mktemp("a project")
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["export"] = {"opset": 18, "parity_images": 3, "latency_runs": 5, "threads": 1}
    (project / "params.yaml").write_text(yaml.safe_dump(params))

    shape = {"task": "multilabel", "labels": ["Mass", "Nodule"], "image_size": 32, "channels": 1, "fit": "pad"}
    data = project / "data" / "processed"
    data.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 1, 32, 32), np.uint8)
    np.save(data / "images-00000.npy", pixels)
    numbers = range(len(pixels))
    manifest = {"image_id": map(str, numbers), "shard": 0, "row": numbers, "group_id": map(str, numbers)}
    manifest["sha256"] = digests(pixels)
    table = pd.DataFrame({**manifest, "split": ["train"] * 2 + ["val"] * 4})
    truth = {f"label:{label}": np.float32([0, 1] * 3) for label in shape["labels"]}
    table.assign(**truth).to_parquet(data / "manifest.parquet")
    seal(data / "dataset.json", dataset_info(name="noise", **shape))

    torch.manual_seed(0)
    model = create_classifier(Network(arch="test_efficientnet"), labels=shape["labels"]).eval()
    facts = {"name": NAME, "role": "distilled", "student": "eeea_net_c2", "recipe": "kd", "seed": 0}
    facts |= {
        "teachers": ["big"],
        "combine": "mean",
        "terms": [{"loss": "sigmoid_kd", "weight": 0.9}],
        "dataset_fingerprint": "da7a",
        "fingerprint": "f00d",
        "versions": {},
    }
    folder = project / "models" / "students" / NAME
    folder.mkdir(parents=True)
    write_ids(ModelFolder(folder).train_ids, NOTHING)
    counts = {"params": count_params(model), "macs": count_macs(model, 32)}
    TrainingMetrics(**counts, val_macro_auroc=0.5).write(ModelFolder(folder).metrics)
    logits = {f"logit:{label}": np.float32(range(6)) for label in shape["labels"]}
    table[["image_id", "split"]].assign(**logits).to_parquet(ModelFolder(folder).predictions)
    save_filled(folder, model, **shape, **facts, **counts)

    stress = StressFolder(project / "reports" / "stress")
    stress.folder.mkdir(parents=True)
    with torch.no_grad():
        frames = torch.from_numpy(pixels).float() / 255
        features, mirrored = (forward_tapped(model, each)[2].numpy() for each in (frames, frames.flip(3)))
    Unlike.fit(features[:2], mirrored[:2], features[2:], np.arange(4)).write(stress.unlike(NAME), {})
    Sealed().write(stress.record, [stress.unlike(NAME)])
    return project


def test_a_student_becomes_a_folder_that_predicts(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert main(["eeea_net_c2", "kd", "0"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    (line,) = out.splitlines()
    assert line.startswith(f"{NAME}: parity passed on 3 images")
    folder = project / "exports" / NAME
    assert list(folder.parent.iterdir()) == [folder]
    assert {path.name for path in folder.iterdir()} == {
        *(
            "model.onnx",
            "model.explain.onnx",
            "bundle.json",
            "parity.json",
            "latency.json",
            "MODEL_CARD.md",
            "model_card.xml",
            "train_ids.npz",
        ),
    }
    assert read_json(folder / "parity.json")["passed"] is True
    assert read_json(folder / "latency.json")["runs"] == 5
    assert Predictor(folder).logits(np.zeros((2, 1, 32, 32), np.uint8)).shape == (2, 2)


def test_a_failed_parity_is_a_result_that_is_written_and_printed(project, tmp_path, monkeypatch, capsys):
    shutil.copytree(project, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    file = Path("models/students", NAME, "model.safetensors")
    weights = load_file(file)
    weights["classifier.bias"].fill_(float("nan"))  # a network that diverged in training
    save_file(weights, file)
    seal(file.with_name("config.json"))
    assert main(["eeea_net_c2", "kd", "0"]) == 0
    assert "parity FAILED on 3 images (largest logit difference not finite" in capsys.readouterr().out
    parity = read_json(Path("exports", NAME, "parity.json"))
    assert (parity["passed"], parity["max_abs_logit_difference"]) == (False, None)


def test_damaged_numbers_of_the_stage_stress_are_named(project, tmp_path, monkeypatch):
    shutil.copytree(project, tmp_path / "project", ignore=shutil.ignore_patterns("exports"))
    monkeypatch.chdir(tmp_path / "project")
    file = Path("reports/stress", f"{NAME}.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(UserError, match=rf"{NAME}\.safetensors: damaged or changed.*dvc repro --force stress"):
        main(["eeea_net_c2", "kd", "0"])
    assert not Path("exports").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eeea_net_c2", "baseline", "0"], r"models/students/eeea_net_c2-baseline-0: no such model"),
        (
            ["eeea_net_c2", "kd", "7"],
            r"params\.yaml: run does not train eeea_net_c2-kd-7; it trains eeea_net_c2-baseline-0, ",
        ),
        (["../../elsewhere", "kd", "0"], r"params\.yaml: run does not train"),
    ],
)
def test_a_student_that_is_not_there_is_named(project, monkeypatch, arguments, message):
    monkeypatch.chdir(project)
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_the_stage_names_a_missing_model_in_one_line(project, root, tmp_path):
    shutil.copy(project / "params.yaml", tmp_path)
    command = [sys.executable, "-m", "pipeline.stages.export", "eeea_net_c2", "kd", "0"]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root}/src"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: data/processed/dataset.json: no such file; run the ingest stage again (dvc ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "exports").exists()
