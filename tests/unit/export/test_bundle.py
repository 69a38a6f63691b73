import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.evaluation.operating import POINTS, Known, threshold
from medistill.export.bundle import export_model
from medistill.export.settings import Export
from medistill.files import read_json, write_json
from medistill.images.decode import decode
from medistill.metrics.calibration import fit_calibration
from medistill.models.weights import load_model
from medistill.records.export import Latency, Parity
from medistill.runtime.bundle import read_bundle
from medistill.runtime.predictor import Predictor
from medistill.task import Task
from tests.seal import digests, seal

FILES = [
    *("MODEL_CARD.md", "bundle.json", "latency.json", "model.explain.onnx", "model.onnx", "model_card.xml"),
    *("parity.json", "train_ids.npz"),
]


def test_the_folder_is_complete(exported):
    assert sorted(path.name for path in exported.iterdir()) == FILES
    assert read_json(exported / "parity.json")["passed"] is True
    assert read_json(exported / "parity.json")["images"] == 8
    assert read_json(exported / "latency.json")["runs"] == 5
    assert list(exported.parent.iterdir()) == [exported]


def test_the_bundle_tells_a_device_what_it_must_know(exported, source):
    bundle, config = read_json(exported / "bundle.json"), read_json(source / "config.json")
    assert bundle["bundle_version"] == 2
    assert bundle["name"] == "tiny-kd-0"
    assert bundle["task"] == "multilabel"
    assert bundle["labels"] == config["labels"]
    assert bundle["preprocessing"] == {
        "image_size": 32,
        "channels": 1,
        "fit": "pad",
        "mean": config["mean"],
        "std": config["std"],
    }
    assert bundle["file"] == "model.onnx"
    assert bundle["sha256"] == hashlib.sha256((exported / "model.onnx").read_bytes()).hexdigest()
    assert (bundle["params"], bundle["macs"]) == (config["params"], config["macs"])
    assert bundle["batch_size"] is None  # any number of images at once
    for key in ("student", "recipe", "seed", "teachers", "combine", "terms", "initialisation", "fingerprint"):
        assert bundle["training"][key] == config[key]
    assert "not a medical device" in bundle["disclaimer"]


def test_the_bundle_has_the_thresholds_that_validation_gives(exported, source, dataset):
    rows = dataset.split("val")
    logits = pd.read_parquet(source / "predictions.parquet").set_index("image_id").loc[rows["image_id"]]
    points = read_json(exported / "bundle.json")["operating_points"]
    assert [(point["kind"], point["promised"]) for point in points] == list(POINTS)
    card = (exported / "MODEL_CARD.md").read_text(encoding="utf-8")
    promised = set()
    for point in points:
        for k, label in enumerate(dataset.labels):
            chances = 1 / (1 + np.exp(-logits[f"logit:{label}"].to_numpy(np.float64)))
            known = Known("val", dataset.targets(rows)[:, k] == 1, chances, rows["group_id"].to_numpy())
            expected = threshold(known, point["kind"], point["promised"])
            assert point["thresholds"][label] == (None if expected is None else pytest.approx(expected))
            promised.add(expected is None)
            if expected is not None:
                assert f" {expected:.4f} |" in card
    assert promised == {True, False}  # six patients promise 0.8 and not 0.95


def test_the_bundle_has_the_calibration_that_validation_gives(source, dataset, settings, tmp_path, monkeypatch):
    monkeypatch.setattr("medistill.evaluation.answers.MIN_IMAGES", 2)  # validation has twelve images
    rows = dataset.split("val")
    logits = pd.read_parquet(source / "predictions.parquet").set_index("image_id").loc[rows["image_id"]]
    given = logits[[f"logit:{label}" for label in dataset.labels]].to_numpy(np.float64)
    expected = fit_calibration(dataset.targets(rows), given, dataset.task, least=2)
    export_model(source, dataset, tmp_path / "export", settings)
    found = read_bundle(tmp_path / "export").calibration
    assert found.slopes == pytest.approx(expected.slopes)
    assert found.intercepts == pytest.approx(expected.intercepts)
    assert expected.slopes != [1, 1, 1]


def test_what_it_was_trained_on_and_how_it_ranked_on_test_travel_with_it(source, dataset, settings, tmp_path):
    random = np.random.default_rng(1)
    test = dataset.manifest.sample(60, replace=True, random_state=0).reset_index(drop=True)
    test = test.assign(
        split="test", image_id=[f"test{k}" for k in range(60)], group_id=[f"other{k}" for k in range(60)]
    )
    for label in dataset.labels[:2]:
        test[f"label:{label}"] = np.float32(random.integers(0, 2, 60))
    test[f"label:{dataset.labels[2]}"] = np.float32(0)  # not eligible
    manifest = pd.concat([dataset.manifest, test], ignore_index=True)
    model = shutil.copytree(source, tmp_path / source.name)
    logits = {f"logit:{label}": np.float32(random.normal(size=len(manifest))) for label in dataset.labels}
    manifest[["image_id", "split"]].assign(**logits).to_parquet(model / "predictions.parquet")
    seal(model / "config.json")
    export_model(model, dataclasses.replace(dataset, manifest=manifest), tmp_path / "out", settings)
    assert (tmp_path / "out" / "train_ids.npz").read_bytes() == (source / "train_ids.npz").read_bytes()
    expected = {
        label: roc_auc_score(test[f"label:{label}"], logits[f"logit:{label}"][-60:]) for label in dataset.labels[:2]
    }
    assert read_json(tmp_path / "out" / "bundle.json")["test_auroc"] == pytest.approx(expected, abs=1e-12)


def test_the_card_tells_a_person(exported):
    card = (exported / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "\n---\n# tiny-kd-0\n" in card
    assert "Research use only, not a medical device" in card
    for fact in (
        "| Task | multilabel, each label on its own |",
        "test_efficientnet",
        "| random |",
        "0.9 sigmoid_kd (temperature 2.0); distilled from densenet",
        "tiny",
        "`da7a`",
    ):
        assert fact in card
    assert "trained on 12 images of 6 patients" in card
    assert "| val_macro_auroc | 0.7124 |" in card.replace("\\", "")
    assert "train_seconds" not in card
    assert "3. Épanchement \\| \\<b\\>\n" in card
    assert "diagnos" not in card.lower()
    assert "one image at a time" not in card


def test_the_card_of_exclusive_classes_names_the_task_and_shows_accuracy(source, dataset, settings, tmp_path):
    truth = np.random.default_rng(0).integers(0, 3, len(dataset.manifest))
    manifest = dataset.manifest.assign(
        **{f"label:{label}": np.float32(truth == k) for k, label in enumerate(dataset.labels)}
    )
    exclusive = dataclasses.replace(dataset, task=Task.MULTICLASS, manifest=manifest)
    model = shutil.copytree(source, tmp_path / source.name)
    predicted = (truth + (np.arange(len(truth)) % 4 == 0)) % 3  # one in four is wrong
    logits = {f"logit:{label}": np.float32(predicted == k) for k, label in enumerate(dataset.labels)}
    manifest[["image_id", "split"]].assign(**logits).to_parquet(model / "predictions.parquet")
    seal(model / "config.json", task="multiclass")
    export_model(model, exclusive, tmp_path / "out", settings)
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "A single-label image classifier" in card
    assert "| Task | multiclass, one of several classes |" in card
    assert "| val_accuracy | 0.7500 |" in card
    val = (manifest["split"] == "val").to_numpy()
    expected = balanced_accuracy_score(truth[val], predicted[val])
    assert f"| val_balanced_accuracy | {expected:.4f} |" in card
    assert "its probabilities sum to 1" in card
    assert read_json(tmp_path / "out" / "bundle.json")["task"] == "multiclass"
    images = dataset.images(dataset.split("val"))
    with torch.no_grad():
        expected = load_model(model)(torch.from_numpy(images) / 255).numpy()
    np.testing.assert_allclose(Predictor(tmp_path / "out").logits(images), expected, atol=1e-4)


def test_a_changed_bundle_is_refused(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "changed")
    content = read_json(folder / "bundle.json")
    labels = content["labels"]
    write_json(folder / "bundle.json", content | {"labels": labels[::-1]})
    with pytest.raises(UserError, match=r"bundle\.json: damaged or changed: .*; copy or export it again"):
        Predictor(folder)
    del content["record_sha256"]  # bundles of older versions have no checksum and must still predict
    write_json(folder / "bundle.json", content)
    assert Predictor(folder).bundle.labels == tuple(labels)


def test_a_second_export_is_the_same_but_for_the_time_it_took(exported, source, dataset, settings, tmp_path):
    proofs = export_model(source, dataset, tmp_path / "again", settings)
    for name in set(FILES) - {"latency.json"}:
        assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes(), name
    assert proofs.parity == Parity.read(exported / "parity.json", "")
    assert proofs.latency == Latency.read(tmp_path / "again" / "latency.json")


def test_a_failure_leaves_the_older_export_as_it_was(exported, source, dataset, tmp_path):
    shutil.copytree(exported, tmp_path / "tiny-kd-0")
    broken = Export(opset=99, parity_images=8, latency_runs=5, threads=1)
    with pytest.raises(UserError, match=r"export\.opset"):
        export_model(source, dataset, tmp_path / "tiny-kd-0", broken)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny-kd-0"]
    for name in FILES:
        assert (tmp_path / "tiny-kd-0" / name).read_bytes() == (exported / name).read_bytes()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task", "multiclass"),
        ("image_size", 64),
        ("channels", 3),
        ("fit", "crop"),
        ("labels", ["Effusion", "Nodule", "Mass"]),
    ],
)
def test_data_that_the_model_was_not_trained_for_are_refused(source, dataset, settings, tmp_path, key, value):
    with pytest.raises(UserError, match=rf"config\.json: trained with {key} .*, but .*processed.* has "):
        export_model(source, dataclasses.replace(dataset, **{key: value}), tmp_path / "out", settings)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_model_is_named(dataset, settings, tmp_path):
    with pytest.raises(UserError, match=r"nobody: no such model"):
        export_model(tmp_path / "nobody", dataset, tmp_path / "out", settings)


def test_an_empty_validation_split_is_named(source, dataset, settings, tmp_path):
    manifest = dataset.manifest[dataset.manifest["split"] != "val"]
    with pytest.raises(UserError, match="val split is empty"):
        export_model(source, dataclasses.replace(dataset, manifest=manifest), tmp_path / "out", settings)


def predict(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "medistill.cli", "predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def assert_predicts_as_torch(folder, source, images) -> None:
    """The command and torch agree on the same files, and the answers differ from file to file."""
    done = predict(*images, "--model", folder, "--json")
    assert done.returncode == 0, done.stderr
    model = load_model(source)
    answers = json.loads(done.stdout)
    assert [answer["image"] for answer in answers] == [str(image) for image in images]
    for image, answer in zip(images, answers, strict=True):
        config = model.config
        pixels = decode(image, size=config["image_size"], channels=config["channels"], fit=config["fit"])
        with torch.no_grad():
            expected = torch.sigmoid(model(torch.from_numpy(pixels)[None] / 255))[0]
        assert list(answer["probabilities"]) == config["labels"]
        np.testing.assert_allclose(list(answer["probabilities"].values()), expected, rtol=0, atol=1e-5)
    assert len({tuple(answer["probabilities"].values()) for answer in answers}) == len(images)


def test_the_command_predicts_as_torch_on_drawn_images(exported, source, tmp_path):
    rng = np.random.default_rng(2)
    files = []
    for number, size in enumerate([(32, 32), (50, 80), (200, 120)]):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(rng.integers(0, 256, (4, 4), np.uint8)).resize(size).save(files[-1])
    assert_predicts_as_torch(exported, source, files)


def test_the_command_predicts_as_torch_on_real_x_rays(exported, source, real_data):
    folder = real_data / "nih1000_256" / "images"
    assert_predicts_as_torch(exported, source, sorted(folder.glob("*.png"))[:3])


@pytest.mark.slow
def test_a_student_of_one_image_at_a_time_says_so_and_answers_any_number(save_network, dataset, settings, tmp_path):
    """Its convolutions are mixed for each image, so the exported graph has a fixed number of images."""
    source = save_network(tmp_path / "conditional-kd-0", "efficientnet_cc_b0_4e")
    proofs = export_model(source, dataset, tmp_path / "out", settings)
    assert proofs.parity.passed
    assert read_json(tmp_path / "out" / "bundle.json")["batch_size"] == 1
    assert "\nThe file takes one image at a time.\n" in (tmp_path / "out" / "MODEL_CARD.md").read_text(encoding="utf-8")
    images = dataset.images(dataset.split("val"))
    with torch.no_grad():
        expected = load_model(source)(torch.from_numpy(images) / 255).numpy()
    np.testing.assert_allclose(Predictor(tmp_path / "out").logits(images), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["eeea_net_c2", "tf_efficientnet_lite0", "ofa_595"])
def test_students_of_the_graph_export(arch, save_network, dataset, tmp_path):
    size = 64
    settings = Export(opset=18, parity_images=500, latency_runs=5, threads=1)
    shards = np.load(dataset.folder / "images-00000.npy").repeat(2, axis=2).repeat(2, axis=3)
    shutil.copytree(dataset.folder, tmp_path / "processed")
    np.save(tmp_path / "processed" / "images-00000.npy", shards)
    dataset.manifest.assign(sha256=digests(shards)).to_parquet(tmp_path / "processed" / "manifest.parquet")
    seal(tmp_path / "processed" / "dataset.json", image_size=size)
    source = save_network(tmp_path / "students" / f"{arch}-kd-0", arch, size)
    proofs = export_model(source, Dataset.open(tmp_path / "processed"), tmp_path / "exports" / source.name, settings)
    assert proofs.parity.passed
    assert proofs.parity.images == 12  # the whole split, as it has fewer than asked for
    params = read_json(source / "config.json")["params"]
    # Four bytes a parameter and little else: batch norms are folded away.
    assert proofs.latency.onnx_mb == pytest.approx(4e-6 * params, rel=0.05)
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for number, file in enumerate(files):
        Image.fromarray(shards[number, 0]).save(file)
    assert_predicts_as_torch(tmp_path / "exports" / source.name, source, files)
    assert re.search(rf"Parameters \| {params:,}", (tmp_path / "exports" / source.name / "MODEL_CARD.md").read_text())
