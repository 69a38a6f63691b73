"""1,172 real histopathology tiles of LC25000's lung half, whose groups are known."""

import csv

import numpy as np
import pytest
from PIL import Image

from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.data.settings import Data


@pytest.fixture(scope="module")
def root(real_data):
    return real_data / "lc25000_lung_96"


@pytest.fixture(scope="module")
def dataset(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lc25000")
    settings = Data(
        format="lc25000",
        root=root,
        split="patient",
        val_fraction=0.2,
        test_fraction=0.3,
        seed=0,
        image_size=32,
        channels=3,
        fit="pad",
        max_quarantined=0,
        workers=1,
    )
    ingest(settings, folder / "out", folder / "cache")
    return Dataset.open(folder / "out")


def test_every_tile_has_its_class_and_its_source(dataset, root):
    with (root / "groups.csv").open() as stream:
        listed = {row["file"]: row for row in csv.DictReader(stream)}
    manifest = dataset.manifest.set_index("path")
    assert (dataset.task, dataset.labels) == ("multiclass", ["lung_aca", "lung_n", "lung_scc"])
    assert len(manifest) == len(listed) == 1_172
    assert (dataset.folder / "quarantine.csv").read_text() == "path,reason\n"
    assert manifest["group_id"].to_dict() == {path: row["group_id"] for path, row in listed.items()}
    classes = [dataset.labels[index] for index in dataset.targets(dataset.manifest).argmax(axis=1)]
    assert classes == [listed[path]["label"] for path in manifest.index]
    assert dataset.targets(dataset.manifest).sum(axis=0).tolist() == [379, 405, 388]


def test_no_source_is_in_two_splits(dataset):
    splits = dataset.manifest.groupby("group_id")["split"].unique()
    assert len(splits) == 60
    assert {len(split) for split in splits} == {1}
    assert {split[0] for split in splits} == {"train", "val", "test"}


def test_frames_keep_their_colours(dataset, root):
    rows = dataset.manifest.iloc[::120]
    for path, frame in zip(rows["path"], dataset.images(rows), strict=True):
        with Image.open(root / path) as image:
            colour = np.asarray(image.convert("RGB"), float)
        blocks = colour.reshape(32, 3, 32, 3, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
        assert np.abs(frame - blocks).mean() < 6
        assert frame.mean(axis=(1, 2)) == pytest.approx(blocks.mean(axis=(1, 2)), abs=1)
