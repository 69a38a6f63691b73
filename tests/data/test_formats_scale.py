"""MIMIC-CXR-JPG, VinDr-CXR, the RSNA challenge and ChestMNIST at the releases' size, with empty image files."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ingest
from medistill.data.adapters import read_source


@pytest.fixture
def root():
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # some disks need minutes to delete so many files
    with tempfile.TemporaryDirectory(prefix="scale-", dir=memory) as folder:
        yield Path(folder)


@pytest.mark.slow  # makes 377,110 files
def test_every_image_of_mimic_cxr_is_joined(root):
    ingest.write_mimic(root, root)
    source = read_source("mimic_cxr", root, {"views": "all"})
    assert (len(source.rows), source.entries, source.quarantined) == (377_110, 377_110, [])
    assert source.rows["study_id"].nunique() == 227_835
    assert source.rows["patient_id"].nunique() == 65_379
    assert source.official.eq("train").all()
    labels = source.rows.filter(like="label:")
    assert labels.groupby(source.rows["study_id"]).nunique(dropna=False).max(axis=None) == 1
    frontal = read_source("mimic_cxr", root, {})
    assert (len(frontal.rows), frontal.entries, frontal.quarantined) == (227_835, 227_835, [])
    assert sum(frontal.unwanted.values()) == 377_110 - 227_835


@pytest.mark.slow  # makes 44,684 files
@pytest.mark.parametrize(
    ("format", "write", "images", "boxed"),
    [("vindr_cxr", ingest.write_vindr, 18_000, None), ("rsna_pneumonia", ingest.write_rsna, 26_684, 9_555)],
)
def test_readers_and_boxes_are_joined(root, format, write, images, boxed):
    write(root, root)
    source = read_source(format, root, {})
    assert (len(source.rows), source.entries, source.quarantined) == (images, images, [])
    assert boxed is None or len(source.boxes) == boxed
    columns = source.rows.set_index("image_id")[[f"label:{label}" for label in source.labels]]
    places = columns.columns.get_indexer("label:" + source.boxes["label"])
    assert (columns.loc[source.boxes["image_id"]].to_numpy()[np.arange(len(source.boxes)), places] == 1).all()


@pytest.mark.slow  # makes an archive of 87 MB
def test_labels_of_an_archive_are_read_without_its_pictures(root):
    ingest.write_chestmnist(root, root)
    source = read_source("medmnist", root, {})
    assert (len(source.rows), source.entries) == (112_120, 112_120)
    assert source.official.value_counts().to_dict() == {"train": 78_468, "test": 22_433, "val": 11_219}
