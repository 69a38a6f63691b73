"""What the shortcut probe finds in real images, checked against what is known of them."""

import time

import numpy as np
import pandas as pd
import pytest

from medistill.audit.shortcuts import MAX_IMAGES, border_features, probe_shortcuts
from medistill.images.decode import decode, read

WARN = 0.65


def told(table: pd.DataFrame) -> set[tuple[str, str]]:
    """Labels and cues for which there would be a warning."""
    return set(table.loc[table["lower"] > WARN, ["label", "cue"]].itertuples(index=False, name=None))


@pytest.fixture(scope="module")
def rows(by_patient, nih1000) -> pd.DataFrame:
    """The manifest with the sizes of the original files, as the sample's files are all scaled to 256 x 256."""
    table = pd.read_csv(nih1000 / "Data_Entry_2017.csv", index_col="Image Index").loc[by_patient.manifest["image_id"]]
    width, height = table["OriginalImage[Width"].to_numpy(), table["Height]"].to_numpy()
    return by_patient.manifest.assign(width=width, height=height)


@pytest.fixture(scope="module")
def targets(by_patient) -> np.ndarray:
    return by_patient.targets(by_patient.manifest)


@pytest.fixture(scope="module")
def frames(by_patient, nih1000) -> np.ndarray:
    paths = by_patient.manifest["path"]
    return np.stack([decode(nih1000 / path, size=128, channels=1, fit="pad") for path in paths])


@pytest.fixture(scope="module")
def found(rows, targets, frames, by_patient) -> pd.DataFrame:
    return probe_shortcuts(rows, targets, by_patient.labels, border_features(frames))


def test_how_the_sample_of_pneumonia_was_drawn_is_found(found, rows):
    """All images without pneumonia are of patients 1280 to 3970: older images, of other machines and sizes."""
    patients = rows["patient_id"].astype(int)
    negative = rows["label:Pneumonia"] == 0
    assert (patients[negative].min(), patients[negative].max()) == (1280, 3970)
    assert (patients[~negative].min(), patients[~negative].max()) == (61, 12229)
    newer = rows["width"] == 2992
    assert (newer[negative].sum(), newer[~negative].sum()) == (2, 75)
    assert {("Pneumonia", "size"), ("Pneumonia", "border")} <= told(found)
    assert not told(found) & {("Pneumonia", "source"), ("Mass", "border"), ("Nodule", "border")}


def test_labels_that_are_too_rare_are_left_out(found, rows, by_patient):
    positive = {label: rows[rows[f"label:{label}"] == 1] for label in by_patient.labels}
    missing = {
        label: (len(images), images["group_id"].nunique())
        for label, images in positive.items()
        if label not in set(found["label"])
    }
    assert missing == {label: counts for label, counts in missing.items() if min(counts) < 10}
    assert set(missing) == {"Emphysema", "Fibrosis", "Hernia"}


def test_a_tag_in_the_corner_of_real_xrays_is_found(found, rows, targets, frames, by_patient):
    random = np.random.default_rng(0)
    atelectasis = targets[:, by_patient.labels.index("Atelectasis")] == 1
    share = np.where(atelectasis, 0.8, 0.05)
    tagged = frames.copy()
    tagged[random.random(len(frames)) < share, :, 2:7, 2:7] = 255
    after = probe_shortcuts(rows, targets, by_patient.labels, border_features(tagged))
    assert told(after) - told(found) == {("Atelectasis", "border")}
    assert told(found) - told(after) == set()


@pytest.mark.parametrize("seed", range(2))
def test_shuffled_labels_cannot_be_told_from_real_borders(rows, targets, frames, by_patient, seed):
    """Patients with equally many images exchange their labels."""
    random = np.random.default_rng(seed)
    shuffled = targets.copy()
    members = pd.Series(range(len(rows))).groupby(rows["group_id"].to_numpy()).apply(list)
    for _, alike in members.groupby(members.map(len)):
        for mine, theirs in zip(alike, random.permutation(alike.to_numpy()), strict=True):
            shuffled[mine] = targets[theirs]
    np.testing.assert_array_equal(shuffled.sum(axis=0), targets.sum(axis=0))
    table = probe_shortcuts(rows, shuffled, by_patient.labels, border_features(frames))
    assert told(table) == set()
    assert table["auroc"].mean() == pytest.approx(0.5, abs=0.05)


def test_intensive_care_is_told_from_the_view(real_data):
    """Of 243 COVID-19 X-rays, 92 % of the AP ones (taken in bed) and 14 % of the PA ones are from intensive care."""
    root = real_data / "hannover_256"
    table = pd.read_csv(root / "data.csv")
    files = [root / "png" / f"{name}.png" for name in table["image_id"]]
    sizes = np.array([read(file).size for file in files])
    rows = pd.DataFrame({"group_id": table["patient_id"], "view": table["projection"]})
    rows["width"], rows["height"] = sizes[:, 0], sizes[:, 1]
    care = table["icu_admission_offset"].notna()
    assert care.groupby(rows["view"]).mean().round(2).to_dict() == {"ap": 0.92, "pa": 0.14}
    borders = border_features(np.stack([decode(file, size=128, channels=1, fit="pad") for file in files]))
    found = probe_shortcuts(rows, care.to_numpy(np.float32)[:, None], ["Intensive care"], borders)
    assert told(found) == {("Intensive care", cue) for cue in ("view", "size", "border")}


def test_the_border_of_a_tile_is_tissue(real_data):
    """LC25000 has no background, so that the border alone gives the class away; no other cue does."""
    root = real_data / "lc25000_lung_96"
    table = pd.read_csv(root / "groups.csv")
    labels = ["lung_aca", "lung_n", "lung_scc"]
    targets = np.stack([table["label"] == label for label in labels], axis=1).astype(np.float32)
    borders = border_features(np.stack([decode(root / f, size=96, channels=3, fit="pad") for f in table["file"]]))
    rows = table[["group_id"]].assign(view=None, width=96, height=96)
    found = probe_shortcuts(rows, targets, labels, borders)
    assert told(found) == {(label, "border") for label in labels}
    assert len(found) == 3


@pytest.mark.slow  # 20,000 images
def test_at_full_scale_oedema_is_told_from_the_view_and_it_takes_seconds(real_data):
    table = pd.read_csv(real_data / "nih_label_files" / "Data_Entry_2017_v2020.csv.gz")
    columns = {"Patient ID": "group_id", "View Position": "view", "OriginalImage[Width": "width", "Height]": "height"}
    rows = table[list(columns)].rename(columns=columns)
    findings = table["Finding Labels"].str.get_dummies("|").drop(columns="No Finding")
    borders = np.random.default_rng(0).normal(size=(len(rows), 96)).astype(np.float32)
    start = time.process_time()
    found = probe_shortcuts(rows, findings.to_numpy(np.float32), list(findings), borders)
    assert time.process_time() - start < 120
    assert len(found) == 42
    assert found["images"].between(MAX_IMAGES, MAX_IMAGES + 184).all()  # no patient has more than 184 images
    assert told(found) == {("Edema", "view"), ("Edema", "size")}
