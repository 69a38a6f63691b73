"""243 real COVID-19 chest X-rays and their table, read by the format `csv`."""

import csv

import numpy as np
import pytest
from PIL import Image

from medistill.data.adapters import read_source
from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.data.settings import Data
from medistill.errors import UserError

OPTIONS = {
    "images": "png",
    "path": "image_id",
    "label": "projection",
    "patient": "patient_id",
    "sex": "sex",
    "view": "projection",
    "source": "modality",
}


@pytest.fixture(scope="module")
def root(real_data):
    return real_data / "hannover_256"


@pytest.fixture(scope="module")
def rows(root):
    with (root / "data.csv").open() as stream:
        return {f"{row['image_id']}.png": row for row in csv.DictReader(stream)}


@pytest.fixture(scope="module")
def dataset(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hannover")
    settings = Data(
        format="csv",
        root=root,
        options=OPTIONS,
        split="patient",
        val_fraction=0.2,
        test_fraction=0.3,
        seed=0,
        image_size=64,
        channels=1,
        fit="pad",
        max_quarantined=0,
        workers=1,
    )
    ingest(settings, folder / "out", folder / "cache")
    return Dataset.open(folder / "out")


def test_every_row_and_file_is_there_with_its_label(dataset, rows):
    manifest = dataset.manifest
    assert (dataset.task, dataset.labels) == ("multiclass", ["ap", "pa"])
    assert len(manifest) == len(rows) == 243
    assert set(manifest["image_id"]) == set(rows)
    assert (dataset.folder / "quarantine.csv").read_text() == "path,reason\n"
    for row, values in zip(manifest.itertuples(), dataset.targets(manifest), strict=True):
        listed = rows[row.image_id]
        assert dataset.labels[values.argmax()] == listed["projection"]
        assert (row.view, row.sex, row.source) == (
            listed["projection"].upper(),
            listed["sex"].upper(),
            listed["modality"],
        )
        assert row.patient_id == row.group_id == listed["patient_id"]
    assert dataset.targets(manifest).sum(axis=0).tolist() == [194, 49]


def test_no_patient_is_in_two_splits(dataset):
    splits = dataset.manifest.groupby("patient_id")["split"].unique()
    assert len(splits) == 71
    assert {len(split) for split in splits} == {1}
    assert {split[0] for split in splits} == {"train", "val", "test"}


def test_frames_are_the_files_pixels(dataset, root):
    rows = dataset.manifest.iloc[::30]
    for path, frame in zip(rows["path"], dataset.images(rows), strict=True):
        with Image.open(root / path) as image:
            grey = image.convert("L")
        longest = max(grey.size)
        square = Image.new("L", (longest, longest))
        square.paste(grey, ((longest - grey.width) // 2, (longest - grey.height) // 2))
        blocks = np.asarray(square.resize((64, 64), Image.Resampling.BOX), float)
        # padding is a whole number of pixels, so the frame may be off by half a pixel
        assert np.corrcoef(frame[0].ravel(), blocks.ravel())[0, 1] > 0.95
        assert np.corrcoef(frame[0, :, ::-1].ravel(), blocks.ravel())[0, 1] < 0.95
        assert frame.mean() == pytest.approx(blocks.mean(), abs=2)


def test_an_outcome_in_days_is_no_label(root):
    days = {"path": "image_id", "images": "png"}
    with pytest.raises(
        UserError, match=r"data\.csv: line 4: column 'icu_admission_offset' has '-2\.0'; known are 1, 0"
    ):
        read_source("csv", root, days | {"labels": ["icu_admission_offset"]})
    with pytest.raises(UserError, match="line 4: column 'admission_offset' has '-2', which is a number, not a class"):
        read_source("csv", root, days | {"label": "admission_offset"})
