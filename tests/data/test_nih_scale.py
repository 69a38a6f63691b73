"""The release's own label files: every count was published by the data set's owners or users."""

import shutil

import numpy as np
import pandas as pd
import pytest

from medistill.data import splits
from medistill.data.adapters import read_source
from medistill.data.published import read_published
from medistill.metrics.classification import metrics_at_half

POSITIVES = {  # in all images, then in the official training and test split
    "Infiltration": (19_894, 13_782, 6_112),
    "Effusion": (13_317, 8_659, 4_658),
    "Atelectasis": (11_559, 8_280, 3_279),
    "Nodule": (6_331, 4_708, 1_623),
    "Mass": (5_782, 4_034, 1_748),
    "Pneumothorax": (5_302, 2_637, 2_665),
    "Consolidation": (4_667, 2_852, 1_815),
    "Pleural_Thickening": (3_385, 2_242, 1_143),
    "Cardiomegaly": (2_776, 1_707, 1_069),
    "Emphysema": (2_516, 1_423, 1_093),
    "Edema": (2_303, 1_378, 925),
    "Fibrosis": (1_686, 1_251, 435),
    "Pneumonia": (1_431, 876, 555),
    "Hernia": (227, 141, 86),
}


@pytest.fixture(scope="module")
def source(true_scale):
    return read_source("chestxray14", true_scale, {})


@pytest.mark.slow  # makes 112,120 files
def test_every_row_is_joined(source):
    assert len(source.rows) == source.entries == 112_120
    assert source.quarantined == []
    assert source.rows["patient_id"].nunique() == 30_805
    assert source.rows["view"].value_counts().to_dict() == {"PA": 67_310, "AP": 44_810}
    assert source.rows["sex"].value_counts().to_dict() == {"M": 63_340, "F": 48_780}
    assert (source.rows["age"].min(), source.rows["age"].max()) == (0, 95)


@pytest.mark.slow  # makes 112,120 files
def test_labels_are_those_published(source):
    columns = [f"label:{label}" for label in source.labels]
    assert set(source.labels) == set(POSITIVES)
    for label, (everywhere, train, test) in POSITIVES.items():
        positive = source.rows[f"label:{label}"] == 1
        splits = source.official[positive].value_counts()
        assert (positive.sum(), splits["train"], splits["test"]) == (everywhere, train, test), label
    assert (source.rows[columns].sum(axis=1) == 0).sum() == 60_361  # No Finding


@pytest.mark.slow  # makes 112,120 files
def test_the_official_lists_are_those_published_and_split_no_patient(source):
    assert source.official.value_counts().to_dict() == {"train": 86_524, "test": 25_596}
    patients = source.rows["patient_id"].groupby(source.official).nunique()
    assert patients.to_dict() == {"train": 28_008, "test": 2_797}
    split = splits.official(source.rows["group_id"], source.official, val_fraction=0.1, seed=0, files="lists")
    assert split.groupby(source.rows["group_id"]).nunique().max() == 1
    assert source.rows["group_id"][split == "val"].nunique() == pytest.approx(2_800.8, abs=4 * 50)  # binomial


@pytest.mark.slow  # makes 112,120 files
def test_boxes_are_those_published(source):
    assert len(source.boxes) == 984
    assert source.boxes["image_id"].nunique() == 880
    assert source.boxes["label"].value_counts().to_dict() == {
        "Atelectasis": 180,
        "Effusion": 153,
        "Cardiomegaly": 146,
        "Infiltration": 123,  # the file says Infiltrate
        "Pneumonia": 120,
        "Pneumothorax": 98,
        "Mass": 85,
        "Nodule": 79,
    }
    assert source.boxes[["x", "y"]].min().min() >= 0
    assert source.boxes["x"].add(source.boxes["w"]).max() <= 1


@pytest.mark.slow  # 112,120 files are made for it
def test_a_release_without_its_images_names_every_row(true_scale, tmp_path):
    for file in true_scale.glob("*.*"):
        shutil.copy(file, tmp_path)
    (tmp_path / "images").mkdir()
    source = read_source("chestxray14", tmp_path, {})
    assert source.rows.empty
    assert len(source.quarantined) == source.entries == 112_120


@pytest.mark.parametrize(("which", "images", "said"), [(0, 112_120, (94.8, 92.4)), (2, 25_596, (92.4, 88.9))])
def test_predicting_no_finding_scores_what_docs_papers_says(root, which, images, said):
    figures = []
    for counts in POSITIVES.values():
        targets = np.arange(images) < counts[which]
        accuracy, _, weighted = metrics_at_half(targets.astype(float), np.zeros(images))
        figures.append((accuracy, weighted))
    assert tuple(np.round(100 * np.mean(figures, axis=0), 1)) == said
    page = " ".join((root / "docs" / "papers.md").read_text().split())
    text = f"{said[0]} % accuracy and {said[1]} % weighted F1" if which == 0 else f"{said[0]} % and {said[1]} %"
    assert text in page


def test_kaggles_sample_is_a_header_variant(real_data, tmp_path):
    shutil.copy(real_data / "nih_label_files" / "kaggle_sample_labels.csv", tmp_path / "Data_Entry_2017.csv")
    (tmp_path / "images").mkdir()
    for line in (tmp_path / "Data_Entry_2017.csv").read_text().splitlines()[1:]:
        (tmp_path / "images" / line.split(",")[0]).touch()
    rows = read_source("chestxray14", tmp_path, {}).rows.set_index("image_id")
    assert len(rows) == 5_606
    assert rows["age"].notna().all()
    first = rows.loc[
        "00000013_005.png"
    ]  # Emphysema|Infiltration|Pleural_Thickening|Pneumothorax,005,00000013,060Y,M,AP
    assert (first["patient_id"], first["age"], first["sex"], first["view"]) == ("13", 60, "M", "AP")
    assert first.filter(like="label:").astype(float).pipe(lambda row: set(row.index[row == 1])) == {
        "label:Emphysema",
        "label:Infiltration",
        "label:Pleural_Thickening",
        "label:Pneumothorax",
    }


def test_published_lists_say_who_was_seen(real_data):
    folder = real_data / "nih_label_files"
    table = pd.read_csv(folder / "Data_Entry_2017_v2020.csv.gz").set_index("Image Index")["Patient ID"]
    patients, seen = {}, {}
    for name in ("train_val_list", "test_list", "chexnet_v1_train_list"):
        images = pd.read_csv(folder / f"{name}.txt", sep=" ", header=None)[0]
        patients[name] = set(table[images])  # NIH's own table, where the list has only the names of images
        found = read_published(folder / f"{name}.txt", "chestxray14")
        assert (found.images, found.patients) == (len(images), len(patients[name]))
        assert len(found.ids.groups) == found.images + found.patients
        seen[name] = found.ids.groups
    for name in ("train_val_list", "chexnet_v1_train_list"):
        both = len(np.intersect1d(seen[name], seen["test_list"]))
        images = set(pd.read_csv(folder / f"{name}.txt", sep=" ", header=None)[0])
        shared = images & set(pd.read_csv(folder / "test_list.txt", header=None)[0])
        assert both == len(patients[name] & patients["test_list"]) + len(shared)
        assert (both == 0) == (name == "train_val_list")
