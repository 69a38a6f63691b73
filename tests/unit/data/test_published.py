"""Published lists of training images: their hashes are those of `ingest`, so that what a model has seen is found."""

import gzip
import hashlib
import importlib
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from medistill.data import adapters
from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.data.provenance import FILE, Overlap, overlaps, read_ids, refuse_overlap
from medistill.data.published import FORMATS, SHORT, read_published, write_published
from medistill.data.settings import Data
from medistill.errors import UserError
from tests.trees_cxr import PADCHEST_TABLE, write_chexpert, write_padchest
from tests.trees_readers import MIMIC, write_mimic_cxr


def table(rows, **columns):
    return rows[list(columns.values())].set_axis(list(columns), axis=1).to_csv(index=False)


def nih_names(rows):
    return "\n".join(rows["image_id"]) + "\n"


FORMS = {  # format and form of the list -> its text, from rows of the manifest
    ("chestxray14", "names"): nih_names,
    ("chestxray14", "CheXNet's"): lambda rows: "".join(f"{name}{' 0' * 14}\n" for name in rows["image_id"]),
    ("chestxray14", "table"): lambda rows: table(rows, **{"Image Index": "image_id", "Patient ID": "patient_id"}),
    ("chestxray14", "table of images"): lambda rows: table(rows, **{"Image Index": "image_id", "Age": "age"}),
    ("chexpert", "table"): lambda rows: "Path,Sex\n" + "".join(f"CheXpert-v1.0/{name},\n" for name in rows["image_id"]),
    ("padchest", "table"): lambda rows: table(rows, ImageID="image_id", PatientID="patient_id"),
    ("mimic_cxr", "table"): lambda rows: table(rows, subject_id="patient_id", study_id="study_id", dicom_id="image_id"),
}


@pytest.fixture(scope="module")
def ingested(tmp_path_factory):
    """A small data set of each format, split by patient."""
    from tests.unit.conftest import write_nih

    folder = tmp_path_factory.mktemp("published")
    trees = {
        "chestxray14": write_nih,
        "chexpert": write_chexpert,
        "padchest": write_padchest,
        "mimic_cxr": write_mimic_cxr,
    }
    found = {}
    for format, write in trees.items():
        write(folder / format)
        given = {"test_fraction": 0.3, "image_size": 32, "workers": 1, "splits": folder}
        data = Data(format=format, root=folder / format, split="patient", **given)
        ingest(data, folder / f"{format} processed", folder / "cache")
        found[format] = Dataset.open(folder / f"{format} processed")
    return folder, found


@pytest.mark.parametrize(("format", "form"), FORMS, ids=" ".join)
def test_a_list_of_images_overlaps_with_these_and_no_others(ingested, tmp_path, format, form):
    dataset = ingested[1][format]
    for split, others in (("test", ("val",)), ("val", ("test",)), ("train", ("val", "test"))):
        rows = dataset.split(split)
        (tmp_path / "list.csv").write_text(FORMS[format, form](rows))
        found = read_published(tmp_path / "list.csv", format)
        assert (found.images, found.patients) == (len(rows), rows["patient_id"].nunique())
        expected = [] if split == "train" else [Overlap(split, rows["group_id"].nunique(), 0)]
        assert overlaps(found.ids, dataset) == expected
        assert all(dataset.split(other)["group_id"].nunique() > 0 for other in others)


def test_a_model_that_was_trained_on_listed_test_images_is_refused(ingested, tmp_path):
    dataset = ingested[1]["chestxray14"]
    for split in ("train", "test"):
        (tmp_path / "list.txt").write_text(nih_names(dataset.split(split)))
        write_published(tmp_path / split / FILE, read_published(tmp_path / "list.txt", "chestxray14"))
    refuse_overlap(tmp_path / "train" / FILE, dataset)
    groups = dataset.split("test")["group_id"].nunique()
    with pytest.raises(UserError, match=f"the model was trained on {groups} groups and 0 images of the test split"):
        refuse_overlap(tmp_path / "test" / FILE, dataset)


def test_patients_of_one_data_set_are_not_those_of_another(ingested, tmp_path):
    (tmp_path / "list.csv").write_text("subject_id,dicom_id\n13,a\n")
    assert (
        int(hashlib.sha256(b"mimic_cxr\n13").hexdigest()[:16], 16)
        in read_published(tmp_path / "list.csv", "mimic").ids.groups
    )
    patients = ingested[1]["chestxray14"].split("test")["patient_id"].unique()
    text = "subject_id,dicom_id\n" + "".join(f"{patient},image {patient}\n" for patient in patients)
    (tmp_path / "list.csv").write_text(text)
    assert overlaps(read_published(tmp_path / "list.csv", "mimic_cxr").ids, ingested[1]["chestxray14"]) == []


def test_an_image_without_patient_is_found_by_its_own_id(ingested, tmp_path):
    folder, _ = ingested
    lines = pd.read_csv(folder / "padchest" / PADCHEST_TABLE, dtype=str, keep_default_na=False)
    for number in "012":
        shutil.copytree(folder / "padchest" / number, tmp_path / "set" / number)
    lines.loc[::4, "PatientID"] = ""
    lines.to_csv(tmp_path / "set" / PADCHEST_TABLE, index=False)
    data = Data(format="padchest", root=tmp_path / "set", split="patient", image_size=32, workers=1, splits=tmp_path)
    ingest(data, tmp_path / "processed", tmp_path / "cache")
    dataset = Dataset.open(tmp_path / "processed")
    test = dataset.split("test")
    assert 0 < test["patient_id"].isna().sum() < len(test)
    seen = overlaps(read_published(tmp_path / "set" / PADCHEST_TABLE, "padchest").ids, dataset)
    assert Overlap("test", test["group_id"].nunique(), 0) in seen


def test_the_released_split_of_mimic_leaves_its_test_images_out(ingested, tmp_path):
    folder, _ = ingested
    data = Data(format="mimic_cxr", root=folder / "mimic_cxr", split="official", image_size=32, workers=1)
    ingest(data, tmp_path / "processed", tmp_path / "cache")
    dataset = Dataset.open(tmp_path / "processed")
    found = read_published(folder / "mimic_cxr" / MIMIC.format("split"), "mimic")
    assert (found.images, found.held_out) == (54, 18)
    assert overlaps(found.ids, dataset) == [Overlap("val", dataset.split("val")["group_id"].nunique(), 0)]


def test_a_packed_list_reads_as_the_plain_one(tmp_path):
    text = "00000013_000.png\n00000013_001.png\n\n00000014_000.png\n"
    (tmp_path / "list.txt").write_text(text)
    (tmp_path / "list.txt.gz").write_bytes(gzip.compress(text.encode()))
    plain, packed = (read_published(tmp_path / name, "chestxray14") for name in ("list.txt", "list.txt.gz"))
    assert (plain.images, plain.patients) == (packed.images, packed.patients) == (3, 2)
    assert np.array_equal(plain.ids.groups, packed.ids.groups)


def test_formats_are_those_whose_adapter_reads_lists():
    reading = [
        f for f in adapters.formats() if hasattr(importlib.import_module(f"{adapters.__name__}.{f}"), "read_list")
    ]
    assert sorted(FORMATS) == reading
    assert set(SHORT.values()) <= set(FORMATS)


@pytest.mark.parametrize(
    ("format", "text", "message"),
    [
        ("chestxray14", None, "no such file"),
        ("chestxray14", "", "it is empty"),
        ("chestxray14", "name,Patient ID\n1.png,1\n", "column 'Image Index' is missing; it has name, Patient ID"),
        ("chestxray14", "Image Index,Patient ID\n", "no rows below the header"),
        ("chestxray14", "Image Index,Patient ID\n00000001_000.png,1\n,2\n", "line 3: column 'Image Index' is empty"),
        ("chestxray14", "00000001_000.png\n\nscan.png\n", "line 3: 'scan.png' has no name of NIH's"),
        ("chestxray14", "00000001_000.png 1\n00000001_000.png" + " 0" * 15, "line 2 has 16 fields, more than 15"),
        ("chexpert", "image\ntrain/patient1/study1/a.jpg\n", "column 'Path' is missing; it has image"),
        ("chexpert", "Path,Sex\ntrain/patient1/study1/a.jpg,\n,Male\n", "line 3: column 'Path' has '', which is not"),
        ("chexpert", "Path\ntrain/1.jpg\n", "line 2: column 'Path' has 'train/1.jpg', which is not of the form"),
        ("padchest", "ImageID\na.png\n", "column 'PatientID' is missing; it has ImageID"),
        ("padchest", "ImageID,PatientID\n,7\n", "line 2: column 'ImageID' is empty"),
        ("padchest", "ImageID,PatientID\na.png,8.4E+38\n", "column 'PatientID' has '8.4E+38': a spreadsheet"),
        ("mimic_cxr", "dicom_id,study_id\na,1\n", "column 'subject_id' is missing; it has dicom_id, study_id"),
        ("mimic_cxr", "dicom_id,subject_id\na,\n", "line 2: column 'subject_id' is empty"),
        ("mimic_cxr", "dicom_id,subject_id,split\na,1,later\n", "line 2: column 'split' has 'later'"),
        ("mimic_cxr", "dicom_id,subject_id,split\na,1,test\n", "no images that were trained on are in it"),
        ("folder", "a", "--format: 'folder' is unknown; known are chestxray14, chexpert, mimic_cxr, padchest"),
    ],
)
def test_a_list_that_cannot_be_read_is_one_line(tmp_path, format, text, message):
    file = tmp_path / "list.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        read_published(file, format)
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("--format" if format == "folder" else f"{file}: ")


def test_what_is_written_is_what_the_gate_reads_and_nothing_is_replaced(tmp_path):
    (tmp_path / "list.txt").write_text("00000013_000.png\n")
    found = read_published(tmp_path / "list.txt", "chestxray14")
    for name in ("train_ids.npz", "ids"):  # numpy would write ids.npz
        write_published(tmp_path / "new" / name, found)
        assert np.array_equal(read_ids(tmp_path / "new" / name).groups, found.ids.groups)
    assert len(found.ids.images) == 0
    assert {file.name for file in (tmp_path / "new").iterdir()} == {"train_ids.npz", "ids"}
    with pytest.raises(UserError, match="exists already"):
        write_published(tmp_path / "new" / "ids", found)
    with pytest.raises(UserError, match="is a folder; name a file in it"):
        write_published(tmp_path / "new", found)
