"""`medistill evaluate`: figures by hand and by scikit-learn, what is left out, verdicts, and mistakes in one line."""

import hashlib
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import expit, log_softmax, softmax
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from medistill.checksums import checksums, write_record
from medistill.data.provenance import TrainIds, hash_names, write_ids
from medistill.errors import UserError
from medistill.evaluation.external import Request, evaluate
from medistill.evaluation.foreign import Place
from medistill.records.external import External
from medistill.report.compared import as_text
from medistill.report.compared_page import as_page
from tests.unit.runtime.conftest import linear_model

LABELS = ["Mass", "Nodule", "Hernia"]
SLOPE, OFFSET = [20.0, -20.0, 1.0], [-10.0, 9.0, 0.0]
SIZE, IMAGES = 32, 120


def write_export(folder, labels=LABELS, slope=SLOPE, offset=OFFSET, trained_on=None, size=SIZE, **keys):
    """An exported model: each logit is slope · mean brightness (0..1) + offset."""
    folder.mkdir(parents=True)
    model = linear_model(slope, offset, size=size, batch="batch")
    (folder / "model.onnx").write_bytes(model)
    if trained_on is not None:
        write_ids(folder / "train_ids.npz", trained_on)
    bundle = {
        "bundle_version": 2,
        "name": folder.name,
        "task": "multilabel",
        "labels": labels,
        "preprocessing": {"image_size": size, "channels": 1, "fit": "squash", "mean": [0] * 3, "std": [1] * 3},
        "operating_points": [],
        "calibration": {"slopes": [1.0] * len(labels), "intercepts": [0.0] * len(labels)},
        "test_auroc": {},
        "map_scale": {},
        "file": "model.onnx",
        "sha256": hashlib.sha256(model).hexdigest(),
        **keys,
    }
    write_record(folder / "bundle.json", bundle | {"files": checksums(folder.iterdir(), folder)})
    return folder


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """120 images of 60 patients: the brighter one is, the more probable a mass and the less a lump; a table of both."""
    root, random = tmp_path_factory.mktemp("other") / "hospital", np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    bright = random.integers(90, 160, IMAGES)
    rows = []
    for k, level in enumerate(bright):
        pixels = random.integers(level - 20, level + 21, (SIZE, SIZE)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{k:03d}.png")
        z = pixels.mean() / 255 * 20 - 10
        rows.append(
            [f"{k:03d}.png", f"p{k // 2:02d}", int(random.random() < expit(z)), int(random.random() > expit(z))]
        )
    table = pd.DataFrame(rows, columns=["image", "patient", "Mass", "lump"])
    table["Rare"], table["one"] = "", "1"
    table["sex"] = np.where(np.arange(IMAGES) // 2 % 3 == 0, "F", "M")
    table["kind"] = np.where(bright > 125, "light", np.where(bright > 110, "grey", "dark"))
    table.to_csv(root / "table.csv", index=False)
    return root


OPTIONS = {
    "table": "table.csv",
    "images": "images",
    "path": "image",
    "labels": ["Mass", "lump", "Rare"],
    "patient": "patient",
    "sex": "sex",
}


def place(root, cache, **changes) -> Place:
    return replace(Place(root, "csv", cache, OPTIONS), **changes)


def by_hand(root, slope=SLOPE, offset=OFFSET) -> np.ndarray:
    """Logits (N, L) in the order of the table."""
    names = pd.read_csv(root / "table.csv")["image"]
    means = np.array([np.asarray(Image.open(root / "images" / name), np.float64).mean() / 255 for name in names])
    return means[:, None] * slope + offset


POINTS = [
    {"kind": kind, "promised": 0.9, "thresholds": {"Mass": 0.4, "Nodule": 0.6, "Hernia": None}}
    for kind in ("sensitivity", "specificity")
]


KEYS = {
    "test_auroc": {"Mass": 0.9, "Nodule": 0.8},
    "calibration": {"slopes": [0.5, 0.6, 1.0], "intercepts": [0.1, -0.2, 0.0]},
}


@pytest.fixture(scope="module")
def found(hospital, tmp_path_factory) -> External:
    folder = tmp_path_factory.mktemp("exports")
    model = write_export(folder / "model", operating_points=POINTS, **KEYS)
    other = write_export(folder / "other", labels=["Nodule", "Mass"], slope=[-1.0, -3.0], offset=[0.0, 0.0])
    asked = Request(model, place(hospital, folder / "cache"), {"Nodule": "lump"}, [other], resamples=200)
    return evaluate(asked)


def test_figures_are_scikit_learns_on_logits_by_hand(found, hospital):
    table = pd.read_csv(hospital / "table.csv")
    chances = expit(by_hand(hospital))
    own = found.models["model"]
    assert (own.images, own.groups, own.labels) == (IMAGES, IMAGES // 2, ["Mass", "Nodule"])
    for k, theirs in enumerate(["Mass", "lump"]):
        figures = own.per_label[LABELS[k]]
        assert figures.figure("auroc").estimate == pytest.approx(roc_auc_score(table[theirs], chances[:, k]), abs=1e-12)
        assert figures.figure("brier").estimate == pytest.approx(
            brier_score_loss(table[theirs], chances[:, k]), abs=1e-6
        )
    assert own.figure("macro_auroc").lower < own.figure("macro_auroc").estimate < own.figure("macro_auroc").upper
    assert found.unknown_labels == ["Hernia"]
    assert found.unasked_labels == ["Rare"]
    assert found.left_out == {}
    assert found.own_auroc == pytest.approx(0.85)
    assert [group.group for group in found.subgroups["model"]] == ["M", "F"]


def test_thresholds_of_the_bundle_are_seen_not_fitted(found, hospital):
    table = pd.read_csv(hospital / "table.csv")
    called = expit(by_hand(hospital)[:, 0] * 0.5 + 0.1) >= 0.4  # once calibrated, as predict shows it
    point = found.operating["model"]["Mass"][0]
    assert (point.threshold, point.groups) == (0.4, None)
    assert point.sensitivity.estimate == pytest.approx(called[table["Mass"] == 1].mean())
    assert point.specificity.estimate == pytest.approx((~called)[table["Mass"] == 0].mean())
    ill = table["Mass"] == 1
    by_patient = pd.Series(called[ill]).groupby(table["patient"][ill].to_numpy()).mean()
    assert point.observed.estimate == pytest.approx(by_patient.mean())
    assert found.operating["other"]["Mass"] == []


def test_the_calibration_of_the_bundle_is_applied_beside(found, hospital):
    table = pd.read_csv(hospital / "table.csv")
    chances = expit(by_hand(hospital)[:, :2] * [0.5, 0.6] + [0.1, -0.2])
    after = found.calibrated["model"].per_label["Nodule"]
    assert after.figure("brier").estimate == pytest.approx(brier_score_loss(table["lump"], chances[:, 1]), abs=1e-6)
    expected = found.calibrated["model"].figure("macro_brier").estimate
    assert f"{expected:.3f}" in as_text(found).split("model, calibrated")[1].splitlines()[0]
    plain = found.models["other"].per_label["Nodule"].figure("brier")
    assert found.calibrated["other"].per_label["Nodule"].figure("brier") == plain  # its slopes are 1


def test_the_offered_shift_makes_probabilities_right_on_the_whole(found, hospital):
    table, logits = pd.read_csv(hospital / "table.csv"), by_hand(hospital)
    shift = found.recalibration["model"].per_label["Nodule"]
    after = expit(logits[:, 1] + shift.intercept.estimate)
    assert after.mean() == pytest.approx(table["lump"].mean(), abs=1e-6)  # what maximum likelihood means
    assert shift.brier_after == pytest.approx(brier_score_loss(table["lump"], after), abs=1e-6)
    assert shift.log_loss_after == pytest.approx(log_loss(table["lump"], after), abs=1e-6)
    assert shift.log_loss == pytest.approx(log_loss(table["lump"], expit(logits[:, 1])), abs=1e-6)
    assert shift.log_loss_after <= shift.log_loss
    assert "fitted on these very images" in as_text(found)


def test_another_export_is_compared_label_by_label_whatever_its_order(found, hospital):
    table = pd.read_csv(hospital / "table.csv")
    (row,) = [row for row in found.comparisons if row.label == "Mass"]
    assert (row.model, row.reference) == ("model", "other")
    first, second = (roc_auc_score(table["Mass"], by_hand(hospital)[:, 0] * sign) for sign in (1, -1))
    assert row.estimate == pytest.approx(first - second, abs=1e-12)
    assert row.p_holm is not None
    assert row.p_holm >= row.p


def test_exports_with_frames_of_another_size_answer_the_same_images(found, hospital, tmp_path):
    model, larger = write_export(tmp_path / "model"), write_export(tmp_path / "larger", size=2 * SIZE)
    asked = Request(model, place(hospital, tmp_path / "cache"), against=[larger], resamples=100)
    both = [own.per_label["Mass"].figure("auroc").estimate for own in evaluate(asked).models.values()]
    assert both[0] == found.models["model"].per_label["Mass"].figure("auroc").estimate
    assert both[1] == pytest.approx(both[0], abs=0.002)  # enlarged images have nearly the same mean


def test_json_comes_back_as_it_was(found):
    assert External.model_validate_json(json.dumps(found.to_json()), strict=False).to_json() == found.to_json()


# What a model was trained on


def frames(root, chosen) -> np.ndarray:
    """Hashes of the pixels of some images, as `ingest` has them in frames of the same size."""
    digests = []
    for name in pd.read_csv(root / "table.csv")["image"].iloc[chosen]:
        pixels = np.asarray(Image.open(root / "images" / name), np.uint8)[None]
        digests.append(int(hashlib.sha256(pixels.tobytes()).hexdigest()[:16], 16))
    return np.unique(np.array(digests, np.uint64))


def test_what_a_model_was_trained_on_is_left_out_and_counted(hospital, tmp_path):
    nobody = np.empty(0, np.uint64)
    person = np.unique(hash_names(f"csv\n{hospital.name}", ["p01"]))
    trained = TrainIds(person, frames(hospital, [0, 1, 2, 10]))
    model = write_export(tmp_path / "model", trained_on=trained)
    other = write_export(tmp_path / "other", trained_on=TrainIds(nobody, frames(hospital, [20])))
    asked = Request(model, place(hospital, tmp_path / "cache"), {"Nodule": "lump"}, resamples=100)
    alone = evaluate(asked)
    assert alone.left_out == {"trained on by a model": 4, "of patients or groups that a model was trained on": 1}
    assert alone.models["model"].images == IMAGES - 5  # image 3 is of the patient of image 2
    both = evaluate(replace(asked, against=[other]))
    assert both.left_out["trained on by a model"] == 5
    assert both.models["other"].images == both.models["model"].images == IMAGES - 6
    kept = [k for k in range(IMAGES) if k not in {0, 1, 2, 3, 10, 20}]
    truth = pd.read_csv(hospital / "table.csv")["Mass"].iloc[kept]
    expected = roc_auc_score(truth, by_hand(hospital)[kept, 0])
    assert both.models["model"].per_label["Mass"].figure("auroc").estimate == pytest.approx(expected, abs=1e-12)


def test_a_model_that_was_trained_on_everything_is_refused(hospital, tmp_path):
    everything = TrainIds(np.empty(0, np.uint64), frames(hospital, range(IMAGES)))
    model = write_export(tmp_path / "model", trained_on=everything)
    with pytest.raises(UserError, match="model was trained on all of them"):
        evaluate(Request(model, place(hospital, tmp_path / "cache"), resamples=100))


def test_without_its_list_nobody_can_say(found):
    assert [note for note in found.notes if note.startswith("model: its export does not hold train_ids.npz")]


# Verdicts


@pytest.mark.parametrize(
    ("slope", "own", "do_not_use", "said"),
    [
        (20.0, 0.8, False, "ranks better than chance"),
        (20.0, None, False, "no proof"),
        (20.0, 1.0, True, "far worse than on its own"),
        (-20.0, 0.8, True, "worse than chance"),
        (0.0, 0.8, True, "cannot be told from chance"),
    ],
)
def test_a_plain_verdict(hospital, tmp_path, slope, own, do_not_use, said):
    keys = {} if own is None else {"test_auroc": {"Mass": own}}
    model = write_export(tmp_path / "model", ["Mass"], [slope], [-slope / 2], **keys)
    seen = evaluate(Request(model, place(hospital, tmp_path / "cache"), resamples=200))
    assert seen.do_not_use is do_not_use
    assert said in seen.verdict[0]
    assert seen.verdict[0].startswith("Do not use model on such images") is do_not_use
    assert seen.verdict[0] in as_text(seen)


def test_broken_promises_and_wrong_levels_are_named(hospital, tmp_path):
    never = [{"kind": "sensitivity", "promised": 0.9, "thresholds": {"Mass": 0.999}}]
    model = write_export(tmp_path / "model", ["Mass"], [20.0], [-14.0], operating_points=never)
    verdict = evaluate(Request(model, place(hospital, tmp_path / "cache"), resamples=200)).verdict
    assert "The thresholds for sensitivity 0.9 do not keep it here for Mass." in verdict
    assert "Probabilities are much too low here for Mass: do not read them as chances." in verdict


# Exclusive classes


def test_classes_keep_their_softmax_and_unknown_ones_are_left_out(hospital, tmp_path):
    labels, slope, offset = ["light", "dark", "none of it"], [20.0, -20.0, 0.0], [-10.0, 9.0, -1.0]
    model = write_export(tmp_path / "model", labels, slope, offset, task="multiclass")
    options = {"table": "table.csv", "images": "images", "path": "image", "label": "kind", "patient": "patient"}
    seen = evaluate(Request(model, place(hospital, tmp_path / "cache", options=options), resamples=100))
    kinds = pd.read_csv(hospital / "table.csv")["kind"]
    known = (kinds != "grey").to_numpy()
    assert seen.left_out == {"without a label that is measured": int((~known).sum())}
    logits = by_hand(hospital, slope, offset)[known]
    chances = softmax(logits, axis=1)
    own = seen.models["model"]
    expected = roc_auc_score(kinds[known] == "light", chances[:, 0])
    assert own.per_label["light"].figure("auroc").estimate == pytest.approx(expected, abs=1e-12)
    right = np.array(labels)[logits.argmax(axis=1)] == kinds[known]
    assert own.figure("accuracy").estimate == pytest.approx(right.mean())
    shifts = [shift.intercept.estimate for shift in seen.recalibration["model"].per_label.values()]
    after = np.exp(log_softmax(logits + shifts, axis=1))
    # of the classes that are there the shares are met, but for what goes to the one that is not
    there = after[:, :2].mean(axis=0) / after[:, :2].mean(axis=0).sum()
    assert there[0] == pytest.approx((kinds[known] == "light").mean(), abs=0.01)


def test_classes_need_a_data_set_of_classes(hospital, tmp_path):
    model = write_export(tmp_path / "model", task="multiclass")
    with pytest.raises(UserError, match="do not exclude each other"):
        evaluate(Request(model, place(hospital, tmp_path / "cache")))


# Mistakes


def damaged(folder, file):
    model = write_export(folder / "model", trained_on=TrainIds(*[np.empty(0, np.uint64)] * 2))
    (model / file).write_bytes(b"\0" + (model / file).read_bytes())
    return model


@pytest.mark.parametrize(
    ("changes", "renamed", "said"),
    [
        ({"root": True}, {}, "nowhere: no such folder"),
        ({"format": "jpeg2000"}, {}, "--format: 'jpeg2000' is unknown; known are chestxray14"),
        ({"format": "folder", "options": {}}, {}, "labels are needed"),
        ({"options": OPTIONS | {"labels": ["lump"]}}, {}, "has no label of model: it has lump"),
        ({}, {"Lump": "lump"}, "--map Lump: is no label of model; it has Mass, Nodule, Hernia"),
        ({}, {"Nodule": "node"}, "--map Nodule=node: .* has no such label; it has Mass, lump, Rare"),
        ({}, {"Nodule": "Mass"}, "two labels of model would be Mass"),
        ({"options": OPTIONS | {"labels": ["Rare"]}}, {"Hernia": "Rare"}, "none has a label that is measured"),
        ({"options": OPTIONS | {"labels": ["one"]}}, {"Mass": "one"}, "of none of the labels Mass it has images with"),
        ({"options": OPTIONS | {"path": "file"}}, {}, "names the column 'file', which is not there"),
    ],
)
def test_a_mistake_is_named(hospital, tmp_path, changes, renamed, said):
    root = tmp_path / "nowhere" if "root" in changes else hospital
    model = write_export(tmp_path / "model")
    with pytest.raises(UserError, match=said) as error:
        evaluate(Request(model, replace(place(hospital, tmp_path / "cache"), **{**changes, "root": root}), renamed))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("file", ["model.onnx", "train_ids.npz", "bundle.json"])
def test_a_damaged_export_is_named(hospital, tmp_path, file):
    with pytest.raises(UserError, match=file):
        evaluate(Request(damaged(tmp_path, file), place(hospital, tmp_path / "cache")))


def test_an_answer_that_is_no_number_is_named(hospital, tmp_path):
    model = write_export(tmp_path / "model", offset=[float("nan"), 0.0, 0.0])
    with pytest.raises(UserError, match=r"model: its answer to image 000.* is not finite"):
        evaluate(Request(model, place(hospital, tmp_path / "cache")))


def test_a_model_is_not_compared_with_itself(hospital, tmp_path):
    model = write_export(tmp_path / "model")
    with pytest.raises(UserError, match="cannot be compared with itself"):
        evaluate(Request(model, place(hospital, tmp_path / "cache"), against=[model]))
    twin = write_export(tmp_path / "older" / "model")
    asked = Request(model, place(hospital, tmp_path / "cache"), against=[twin], resamples=100)
    assert list(evaluate(asked).models) == [str(model), str(twin)]


# The command and its page


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "medistill.cli", "evaluate", *map(str, arguments)]


def test_neither_torch_nor_timm_is_loaded(hospital, tmp_path):
    model = write_export(tmp_path / "model")
    settings = [text for key in OPTIONS for text in ("--set", f"{key}={json.dumps(OPTIONS[key])}")]
    given = [model, hospital, "--format", "csv", *settings, "--map", "Nodule=lump", "--resamples", 100]
    given += ["--cache", tmp_path / "cache", "--html", tmp_path / "page.html", "--json"]
    code = (
        "import sys\nfrom medistill.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert stop.code == 0, stop.code\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command(*given)[3:]], capture_output=True, text=True, check=True
    )
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "onnxruntime" in loaded
    assert not loaded & {"torch", "torchvision", "timm", "onnx", "mlflow", "prefect"}
    assert json.loads(done.stdout)["evaluated"] == "model"
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--map", "Nodule"], "--map Nodule: must be OURS=THEIRS"),
        (["--html", "nowhere/page.html"], "--html nowhere/page.html: nowhere is no folder"),
    ],
)
def test_a_mistake_ends_with_one_line_and_code_2(tmp_path, more, said):
    model = write_export(tmp_path / "model")
    (tmp_path / "set").mkdir()
    given = command(model, tmp_path / "set", "--format", "csv", "--cache", tmp_path / "cache", *more)
    done = subprocess.run(given, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_the_page_shows_the_figures_and_runs_nothing(found):
    page = as_page(found)
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert found.verdict[0].split(" (")[0] in page
    for figure in ("macro_auroc", "macro_brier"):
        assert f"{found.models['model'].figure(figure).estimate:.3f}" in page
    plots = [ET.fromstring(f"<svg{part.partition('</svg>')[0]}</svg>") for part in page.split("<svg")[1:]]
    forests = [plot for plot in plots if plot.get("role") == "img"]
    assert [plot.get("aria-label") for plot in forests] == ["AUROC by label", "Differences in AUROC by label"]
    (circle, *_) = [mark for mark in forests[1].iter("circle")]
    assert "s1" in circle.get("class")  # a difference has the colour of the model that varies
    names = [text.find("title").text for text in forests[0].iter("text") if text.find("title") is not None]
    assert names == ["mean", "Mass", "Nodule"]
