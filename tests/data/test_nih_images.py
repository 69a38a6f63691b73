"""1,000 real X-rays through `ingest`."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def test_nothing_is_lost(by_patient, nih1000):
    with (nih1000 / "Data_Entry_2017.csv").open() as stream:
        table = {row["Image Index"]: row for row in csv.DictReader(stream)}
    manifest = by_patient.manifest.set_index("image_id")
    assert len(manifest) == len(table) == 1_000
    assert manifest["patient_id"].nunique() == 682
    for image, row in table.items():
        positive = {label for label in by_patient.labels if manifest.at[image, f"label:{label}"] == 1}
        assert positive == set(row["Finding Labels"].split("|")) - {"No Finding"}
    assert (by_patient.folder / "quarantine.csv").read_text() == "path,reason\n"


def test_no_patient_is_in_two_splits(by_patient):
    manifest = by_patient.manifest
    splits = {split: set(manifest["patient_id"][manifest["split"] == split]) for split in ("train", "val", "test")}
    assert all(splits.values())
    assert len(splits["train"] | splits["val"] | splits["test"]) == sum(map(len, splits.values())) == 682


def mode(file: Path) -> str:
    with Image.open(file) as image:
        return image.mode


def test_the_four_rgba_files_are_read_like_their_grey_selves(by_patient, nih1000):
    manifest = by_patient.manifest
    colour = [path for path in manifest["path"] if mode(nih1000 / path) == "RGBA"]
    assert len(colour) == 4
    rows = manifest[manifest["path"].isin(colour)]
    for path, frame in zip(rows["path"], by_patient.images(rows), strict=True):
        grey = np.asarray(Image.open(nih1000 / path))[..., 0].astype(float)  # its channels are equal
        blocks = grey.reshape(64, 4, 64, 4).mean(axis=(1, 3))
        assert np.corrcoef(frame[0].ravel(), blocks.ravel())[0, 1] > 0.99
        assert frame.mean() == pytest.approx(grey.mean(), abs=1)


def test_frames_are_the_files_pixels(by_patient, nih1000):
    """Against plain averages of 4 x 4 pixels of a sample of the files: same place, same brightness."""
    rows = by_patient.manifest.iloc[::25]
    for path, frame in zip(rows["path"], by_patient.images(rows), strict=True):
        grey = np.asarray(Image.open(nih1000 / path).convert("L")).astype(float)
        assert np.abs(frame[0] - grey.reshape(64, 4, 64, 4).mean(axis=(1, 3))).mean() < 4


def test_boxes_are_in_the_frame_of_the_release(by_patient):
    boxes = by_patient.boxes()
    assert len(boxes) == 49
    # 00008365_000.png,Cardiomegaly,337.898305084746,509.559322033898,417.627118644068,403.525423728814 of 1024 px
    (box,) = boxes[boxes["image_id"] == "00008365_000.png"][["x", "y", "w", "h"]].to_numpy()
    assert box == pytest.approx([0.3299788, 0.4976165, 0.4078390, 0.3940678], abs=1e-6)


def test_the_official_lists_are_taken_as_they_are(ingested, nih1000):
    from medistill.data.dataset import Dataset

    official = Dataset.open(ingested["official"])
    test = official.split("test")
    assert set(test["image_id"]) == set((nih1000 / "test_list.txt").read_text().split())
    assert len(test) == 153
    assert (test["label:Pneumonia"] == 1).all()
    assert len(official.split("train")) + len(official.split("val")) == 847


def test_validate_passes_and_warns_of_labels_that_are_constant_in_a_split(ingested, tmp_path):
    from pipeline.expectations import validate

    result = validate(ingested["official"], tmp_path / "docs", max_quarantined=0.01)
    assert result.success
    (warning,) = [line for line in result.warnings if line.startswith("negatives")]
    assert "violated by 1 row" in warning
    assert "Pneumonia in test" in warning

    result = validate(ingested["patient"], tmp_path / "docs", max_quarantined=0.01)
    assert result.success
    assert not [line for line in result.warnings if line.startswith("negatives")]
