"""Stage `explain` from outside: a made-up data set, tiny networks saved as trained ones are, and what it writes."""

import html
import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.explain.selection import boxed_findings
from medistill.models.build import create_classifier
from medistill.models.classifier import map_size
from medistill.models.settings import Network
from medistill.models.weights import load_model
from medistill.records.explain import in_words
from medistill.records.gallery import Gallery
from medistill.records.models import TrainingMetrics
from medistill.training.outputs import predictions
from pipeline.stages.explain import main
from tests.filled import dataset_info
from tests.saved import save_filled
from tests.seal import digests, seal

LABELS = ["Mass", "<script>Nodule"]
TEACHERS = ("wide", "other")
STUDENTS = ("small-baseline-0", "small-kd-0")
NETWORK = Network(arch="resnet10t", args={"stem_width": 8, "channels": [8, 8, 8, 16]})


def write_project(folder, root, *, size: int, boxes: bool, task: str = "multilabel", val: int = 16) -> None:
    """params.yaml, data/processed (48 images of 24 patients) and four networks with random weights."""
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    network = {"arch": NETWORK.arch, "args": NETWORK.args}
    params |= {"teachers": dict.fromkeys(TEACHERS, network), "students": {"small": network}}
    params["recipes"] = {"baseline": {}, "kd": {"teachers": ["wide"], "terms": [{"loss": "sigmoid_kd"}]}}
    params["run"] |= {"teachers": [*TEACHERS], "students": ["small"], "recipes": ["baseline", "kd"]}
    params["explain"] = {"gallery": 6, "max_images": 20, "images": 5}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")

    processed = folder / "data" / "processed"
    processed.mkdir(parents=True)
    rng = np.random.default_rng(0)
    ids = [f"i{k:02d}" for k in range(48)]
    pixels = rng.integers(0, 256, (48, 1, size, size), dtype=np.uint8)
    np.save(processed / "images-00000.npy", pixels)
    manifest = pd.DataFrame(
        {
            "image_id": ids,
            "shard": np.int32(0),
            "row": np.arange(48, dtype=np.int32),
            "group_id": [f"p{k // 2}" for k in range(48)],
            "patient_id": [f"p{k // 2}" for k in range(48)],
            "sha256": digests(pixels),
            "split": ["train"] * (24 - val) + ["val"] * val + ["test"] * 24,
            "sex": ["F", None] * 24,
            "age": [50.0, np.nan] * 24,
            "view": ["PA", None] * 24,
            "label:Mass": np.float32([1, 1, 0, 0] * 12),
            "label:<script>Nodule": np.float32([0, 1, 1, 0] * 12),
        }
    )
    if task == "multiclass":
        manifest[f"label:{LABELS[1]}"] = 1 - manifest[f"label:{LABELS[0]}"]
    manifest.to_parquet(processed / "manifest.parquet")
    rows = [
        (image_id, label, 0.25, 0.25, 0.5, 0.5)
        for image_id, *present in manifest[["image_id", *(f"label:{label}" for label in LABELS)]].itertuples(
            index=False
        )
        for label, value in zip(LABELS, present, strict=True)
        if value and boxes
    ]
    pd.DataFrame(rows, columns=["image_id", "label", "x", "y", "w", "h"]).to_parquet(processed / "boxes.parquet")
    facts = {"task": task, "labels": LABELS, "image_size": size, "channels": 1, "fit": "pad"}
    seal(processed / "dataset.json", dataset_info(name="made <up>", fingerprint="0", **facts))

    for seed, name in enumerate([f"teachers/{name}" for name in TEACHERS] + [f"students/{name}" for name in STUDENTS]):
        torch.manual_seed(0 if name.endswith("kd-0") else seed)  # the distilled student has its teacher's weights
        model = create_classifier(NETWORK, labels=LABELS)
        (folder / "models" / name).mkdir(parents=True)
        nothing = np.array([], np.uint64)
        provenance.write_ids(folder / "models" / name / provenance.FILE, provenance.TrainIds(nothing, nothing))
        predictions(model, Dataset.open(processed)).to_parquet(folder / "models" / name / "predictions.parquet")
        about = facts | {"map_size": map_size(model, size), "name": name.split("/")[1]}
        save_filled(folder / "models" / name, model, **about)
        TrainingMetrics(params=1, macs=1, val_macro_auroc=0.5).write(folder / "models" / name / "metrics.json")


@pytest.fixture(scope="module")
def project(root, tmp_path_factory):
    """A project with boxes at 128 px, after the stage."""
    folder = tmp_path_factory.mktemp("explain")
    write_project(folder, root, size=128, boxes=True)
    run(folder)
    return folder


def run(folder) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([]) == 0
    return json.loads((folder / "reports/explain/metrics.json").read_text(encoding="utf-8"))


def test_metrics_of_every_model(project):
    metrics = json.loads((project / "reports/explain/metrics.json").read_text(encoding="utf-8"))
    assert list(metrics) == [*TEACHERS, *STUDENTS]
    for entry in metrics.values():
        assert entry["map_size"] == [4, 4]
        assert entry["images"] == 20  # params.explain.max_images
        assert entry["boxes"] == entry["boxes_val"] + entry["boxes_test"] == entry["findings"]
        assert entry["chance"] == pytest.approx(0.25)
        assert entry["centre_prior"] == 1.0
        assert entry["conclusive"]
        assert set(entry["labels"]) == set(LABELS)
        assert entry["removal"]["images"] == 5  # params.explain.images
        assert list(entry["removal"]["by_share"]) == ["20%", "40%", "60%", "80%"]
        for figure in (entry["pointing_game"], entry["energy"], *(t["energy"] for t in entry["labels"].values())):
            assert 0 <= figure["lower"] <= figure["estimate"] <= figure["upper"] <= 1


def test_too_few_validation_images_choose_no_way(project):
    choice = json.loads((project / "reports/explain/choice.json").read_text(encoding="utf-8"))
    reason = "too few boxes or masks on validation images, or none on test images; it is the first of params.yaml"
    assert choice == {
        **{"method": "grad_cam", "layer": "last", "findings": 0, "images": 0, "groups": 0},
        **{"reason": reason, "tried": []},
    }


def test_validation_images_choose_the_way_and_test_images_are_measured(root, tmp_path):
    write_project(tmp_path, root, size=128, boxes=True, val=20)
    metrics = run(tmp_path)
    choice = json.loads((tmp_path / "reports/explain/choice.json").read_text(encoding="utf-8"))
    assert (choice["images"], choice["groups"], choice["reason"]) == (15, 10, "")  # every fourth image has no label
    assert len(choice["tried"]) == 6
    means = [tried["mean"] for tried in choice["tried"]]
    assert means == sorted(means, reverse=True)
    assert means[0] > means[-1]
    for tried in choice["tried"]:
        assert list(tried["models"]) == list(metrics)
        assert tried["mean"] == pytest.approx(np.mean([model["estimate"] for model in tried["models"].values()]))
    assert (choice["tried"][0]["method"], choice["tried"][0]["layer"]) == (choice["method"], choice["layer"])
    cells = {"last": [4, 4], "stride_16": [8, 8]}[choice["layer"]]
    for entry in metrics.values():
        assert (entry["method"], entry["layer"]) == (choice["method"], choice["layer"])
        assert entry["map_size"] == cells
        assert entry["boxes_val"] == 0
        assert 0 <= entry["label_prior"] <= 1
        for null in ("wrong_label", "random_weights"):
            assert 0 <= entry[null]["lower"] <= entry[null]["estimate"] <= entry[null]["upper"] <= 1
    text = (tmp_path / "reports/explain/index.html").read_text(encoding="utf-8")
    assert f"{in_words(choice['method'], choice['layer'])}</strong>, which points best at" in text


def test_agreement_is_with_the_recipes_teachers(project):
    metrics = json.loads((project / "reports/explain/metrics.json").read_text(encoding="utf-8"))
    twin, baseline = metrics["small-kd-0"], metrics["small-baseline-0"]
    assert list(twin["agreement_teacher"]) == list(baseline["agreement_teacher"]) == ["wide"]
    assert twin["agreement_teacher"]["wide"]["estimate"] == pytest.approx(1)
    assert baseline["agreement_teacher"]["wide"]["estimate"] < 0.999
    same = twin["difference_teacher"]["wide"]["energy"]
    assert (same["estimate"], same["lower"], same["upper"]) == (0, 0, 0)
    assert metrics["wide"]["agreement_teacher"] == metrics["other"]["agreement_teacher"] == {}


def test_energy_against_a_computation_of_its_own(project):
    """For a net with one linear layer after mean pooling Grad-CAM is ReLU(Σ w_k A_k) / cells, without gradients."""
    metrics = json.loads((project / "reports/explain/metrics.json").read_text(encoding="utf-8"))
    model = load_model(project / "models/teachers/other")
    manifest = pd.read_parquet(project / "data/processed/manifest.parquet").set_index("image_id")
    boxes = pd.read_parquet(project / "data/processed/boxes.parquet")
    shown = re.findall(r"image (i\d\d)", (project / "reports/explain/index.html").read_text(encoding="utf-8"))
    assert not set(shown) & set(manifest.index[manifest["split"] == "train"])
    pixels = np.load(project / "data/processed/images-00000.npy")
    energies = {}
    for image_id, label in boxes[["image_id", "label"]].itertuples(index=False):
        image = torch.from_numpy(pixels[manifest.at[image_id, "row"]][None]).float() / 255
        with torch.no_grad():
            features = model.backbone.forward_features((image - model.mean) / model.std)[0]
        weights = model.backbone.get_classifier().weight[LABELS.index(label)].detach()
        cells = torch.relu(torch.einsum("k,khw->hw", weights, features))
        frame = torch.nn.functional.interpolate(cells[None, None], size=(128, 128), mode="bilinear")[0, 0]
        total = frame.sum().item()
        energies[image_id, label] = frame[32:96, 32:96].sum().item() / total if total else 0.0
    chosen = boxed_findings(Dataset.open(project / "data/processed"), 20, ["val", "test"])
    expected = np.mean([energies[f.image_id, f.label] for f in chosen])
    assert metrics["other"]["energy"]["estimate"] == pytest.approx(expected, rel=1e-3)


def test_gallery(project):
    text = (project / "reports/explain/index.html").read_text(encoding="utf-8")
    assert text.count("<article>") == 6  # params.explain.gallery
    assert text.count("(absent)") == 1
    shown = Gallery.read(project / "reports/explain/gallery.json", "run explain")
    metrics = json.loads((project / "reports/explain/metrics.json").read_text(encoding="utf-8"))["small-kd-0"]
    assert (shown.student, shown.beside) == ("small-kd-0", ["wide", "small-baseline-0", "small-kd-0"])
    assert sum(kind.findings for kind in shown.kinds if kind.called) == metrics["detected_findings"]
    hits = sum(kind.findings for kind in shown.kinds if kind.hit)
    assert hits / metrics["findings"] == pytest.approx(metrics["pointing_game"]["estimate"])
    assert all(kind.shown for kind in shown.kinds)  # of each kind that there is
    for kind in shown.kinds:
        for one in kind.shown:
            (own,) = [answer for answer in one.maps if answer.model == shown.student]
            assert (own.called, own.hit) == (kind.called, kind.hit)
    assert not re.search(r"https?:", text)
    assert "<script" not in text
    assert "made &lt;up&gt;" in text
    assert "F, 50 years, PA" in text
    assert len(text) < 10e6


def test_labels_that_the_teachers_contradict_are_listed_and_shown(project):
    table = pd.read_csv(project / "reports/explain/second_look.csv")
    manifest = pd.read_parquet(project / "data/processed/manifest.parquet").set_index("image_id")
    teachers = [pd.read_parquet(project / "models/teachers" / name / "predictions.parquet") for name in TEACHERS]
    chances = [1 / (1 + np.exp(-own.set_index("image_id").filter(like="logit:"))) for own in teachers]
    assert len(table) > 12
    for row in table.itertuples():
        assert manifest.at[row.image_id, "split"] == row.split != "train"
        assert manifest.at[row.image_id, f"label:{row.label}"] == row.present
        mean = np.mean([own.at[row.image_id, f"logit:{row.label}"] for own in chances])
        assert row.probability == pytest.approx(mean, rel=1e-4)
    text = (project / "reports/explain/index.html").read_text(encoding="utf-8")
    assert text.partition("Labels worth a second look")[2].count("<img ") == 12


def test_same_bytes_when_run_again(project):
    files = [
        project / "reports/explain" / name for name in ("metrics.json", "choice.json", "second_look.csv", "index.html")
    ]
    before = [file.read_bytes() for file in files]
    run(project)
    assert [file.read_bytes() for file in files] == before
    assert sorted(path.name for path in (project / "reports").iterdir()) == ["explain"]


def test_a_teacher_without_a_feature_map_is_left_out_with_a_word(root, tmp_path, capsys):
    write_project(tmp_path, root, size=32, boxes=True)
    model = create_classifier(Network(arch="test_vit"), labels=LABELS, image_size=32)
    facts = {"task": "multilabel", "image_size": 32, "map_size": None, "name": "other"}
    shutil.rmtree(tmp_path / "models/teachers/other")
    shutil.copytree(tmp_path / "models/teachers/wide", tmp_path / "models/teachers/other")
    save_filled(tmp_path / "models/teachers/other", model, **facts)
    assert list(run(tmp_path)) == ["wide", *STUDENTS]
    assert capsys.readouterr().err.splitlines()[0] == "explain: other is left out: it has no feature map"
    page = (tmp_path / "reports/explain/index.html").read_text(encoding="utf-8")
    assert "other is left out: it has no feature map." in page


def test_coarse_maps_give_no_conclusion(root, tmp_path):
    write_project(tmp_path, root, size=32, boxes=True)
    metrics = run(tmp_path)
    assert not any(entry["conclusive"] for entry in metrics.values())
    assert metrics["wide"]["reason"] == "too coarse: a cell of the 1×1 map is 2.0 times as wide as a finding"
    assert metrics["wide"]["flat_maps"] == metrics["wide"]["findings"]
    assert metrics["wide"]["pointing_game"]["estimate"] == 0


def test_masks_are_a_truth_where_there_are_no_boxes(root, tmp_path):
    found = {}
    for name in ("boxes", "masks"):
        (tmp_path / name).mkdir()
        write_project(tmp_path / name, root, size=64, boxes=name == "boxes", task="multiclass", val=20)
        if name == "masks":
            processed = tmp_path / name / "data/processed"
            manifest = pd.read_parquet(processed / "manifest.parquet")
            lungs = np.where(np.arange(48) % 3 > 0, np.cumsum(np.arange(48) % 3 > 0) - 1, -1).astype(np.int32)
            manifest = manifest.assign(mask_row=np.arange(48, dtype=np.int32), lung_row=lungs)
            manifest.to_parquet(processed / "manifest.parquet")
            np.save(processed / "lungs-00000.npy", np.ones((32, 64, 64), np.uint8))
            masks = np.zeros((48, 64, 64), np.uint8)
            masks[:, 16:48, 16:48] = 1
            np.save(processed / "masks-00000.npy", masks)
            facts = {"task": "multiclass", "labels": LABELS, "image_size": 64, "channels": 1, "fit": "pad"}
            seal(processed / "dataset.json", dataset_info(name="made <up>", fingerprint="0", **facts))
        found[name] = run(tmp_path / name)
    choices = [(tmp_path / name / "reports/explain/choice.json").read_text(encoding="utf-8") for name in found]
    assert choices[0] == choices[1]
    assert json.loads(choices[0])["images"] == 20
    for name, entry in found["masks"].items():
        boxed = found["boxes"][name]
        assert (entry["masks"], boxed["masks"]) == (20, 0)
        assert entry["pointing_game"] == boxed["pointing_game"]
        assert entry["overlap_beside"] == boxed["overlap_beside"]
        assert entry["detected_findings"] + entry["missed_findings"] == 20
        assert "lungs" not in boxed
        assert 0 < entry["lungs"]["findings"] < 20  # every third image has none
        inside = entry["lungs"]["energy"]["estimate"]  # 0 of a flat map, else 1: this mask is the whole image
        assert entry["lungs"]["peak"]["estimate"] == pytest.approx(inside)
        assert entry["lungs"]["energy_beside"]["chance"]["value"] == 1
        assert list(entry["lungs"]["difference_teacher"]) == (["wide"] if name in STUDENTS else [])
    assert "Inside the lungs" not in (tmp_path / "boxes/reports/explain/index.html").read_text(encoding="utf-8")
    text = (tmp_path / "masks/reports/explain/index.html").read_text(encoding="utf-8")
    assert text.count("peak inside</td>") == 4
    assert text.count('-mask" d="M16 16h32M16 48h32M16 16v32M48 16v32"/>') == 5  # of the gallery's 6, one is no finding


def test_without_boxes_there_is_still_a_gallery(root, tmp_path):
    write_project(tmp_path, root, size=128, boxes=False)
    metrics = run(tmp_path)
    assert metrics["wide"]["pointing_game"] is None
    assert metrics["wide"]["boxes"] == 0
    assert metrics["wide"]["reason"] == "no boxes or masks on validation or test images"
    assert metrics["small-kd-0"]["agreement_teacher"]["wide"]["estimate"] == pytest.approx(1)
    text = (tmp_path / "reports/explain/index.html").read_text(encoding="utf-8")
    assert "Localisation is absent" in text
    assert text.count("<article>") == 6
    assert "✓ hit" not in text


def test_exclusive_classes_explain_the_true_class_and_one_that_is_named_in_its_place(root, tmp_path):
    write_project(tmp_path, root, size=128, boxes=False, task="multiclass")
    agreement = run(tmp_path)["small-kd-0"]["agreement_teacher"]["wide"]
    assert agreement["findings"] + agreement["flat_maps"] == 20  # the true class of params.explain.max_images
    text = html.unescape((tmp_path / "reports/explain/index.html").read_text(encoding="utf-8")).replace("<wbr>", "")
    manifest = pd.read_parquet(tmp_path / "data/processed/manifest.parquet").set_index("image_id")
    articles = re.findall(r"<article>.*?</article>", text, re.DOTALL)
    assert len(articles) == 6  # params.explain.gallery
    wrong = 0
    for article in articles:
        head = (
            r'<h4>(.*?)( \(absent\))? <span class="soft">image (i\d\d) · test · true class ([^,]*?)(, .*)?</span></h4>'
        )
        label, absent, image_id, truth, _ = re.search(head, article).groups()
        assert manifest.at[image_id, f"label:{truth}"] == 1
        assert (label == truth) == (absent is None)
        wrong += absent is not None
        named = {}
        for caption in article.split("<figcaption>")[2:]:  # the first caption is the image's own
            figures = r"(\S+) <span.*?probability (\d\.\d\d), peak \d+%, predicts (.*)"
            model, chance, rest = re.match(figures, caption).groups()
            named[model] = next(name for name in LABELS if rest.startswith(name))
            folder = tmp_path / "models" / ("teachers" if model in TEACHERS else "students") / model
            row = pd.read_parquet(folder / "predictions.parquet").set_index("image_id").loc[image_id]
            logits = {name: row[f"logit:{name}"] for name in LABELS}
            assert named[model] == max(LABELS, key=logits.get)
            expected = np.exp(logits[label]) / sum(np.exp(value) for value in logits.values())
            assert float(chance) == pytest.approx(expected, abs=0.0051)
        assert set(named) == {*TEACHERS, *STUDENTS}
        assert absent is None or label in named.values()
    assert wrong == 1  # a quarter of the gallery


def test_after_a_mistake_the_last_report_is_unchanged(project, tmp_path, monkeypatch):
    shutil.copytree(project, tmp_path / "p")
    monkeypatch.chdir(tmp_path / "p")
    file = tmp_path / "p/models/students/small-kd-0/config.json"
    seal(file, labels=LABELS[::-1])
    before = (tmp_path / "p/reports/explain/metrics.json").read_bytes()
    with pytest.raises(UserError, match=r"small-kd-0/config\.json: labels differ"):
        main([])
    shutil.rmtree(file.parent)
    with pytest.raises(UserError, match=r"small-kd-0/config\.json: no such file"):
        main([])
    assert (tmp_path / "p/reports/explain/metrics.json").read_bytes() == before
