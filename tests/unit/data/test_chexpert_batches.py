"""CheXpert at full size, as its archives unpack side by side: tables in batch 1, patients in batches 2 to 4."""

import shutil

import pytest

from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.errors import UserError
from tests.trees_cxr import chexpert_row, write_chexpert, write_chexpert_table, write_xray
from tests.trees_tiles import read_whole, settings

ONE = "train/patient00001/study1/view1_frontal.jpg"
BATCH_1 = "CheXpert-v1.0 batch 1 (validate & csv)"


def read(root, **options):
    return read_whole("chexpert", root, **options)


def batches(root, *, patients=9, numbers=(2, 3, 4), by="patient"):
    """The full-size release, its archives unpacked side by side: the images of train.csv are spread over three of them.

    They are spread by patient, or by image, so that one patient is in several. Archives that are not in `numbers` are
    missing.
    """
    written = write_chexpert(root / BATCH_1, patients=patients, valid=3, prefix="CheXpert-v1.0/")
    dealt = sorted({path.split("/")[1] if by == "patient" else path for path in written["train"]})
    batch_of = {}
    for path in written["train"]:
        number = 2 + dealt.index(path.split("/")[1] if by == "patient" else path) % 3
        batch_of[path] = number
        target = root / f"CheXpert-v1.0 batch {number} (train {number - 1})" / path.removeprefix("train/")
        target.parent.mkdir(parents=True, exist_ok=True)
        (root / BATCH_1 / path).rename(target)
        if number not in numbers:
            target.unlink()
    shutil.rmtree(root / BATCH_1 / "train")
    for number in {2, 3, 4} - set(numbers):
        shutil.rmtree(root / f"CheXpert-v1.0 batch {number} (train {number - 1})")
    return written, batch_of


@pytest.mark.parametrize("by", ["patient", "image"])
def test_the_batches_of_the_full_size_release_are_found_where_they_are_unpacked(tmp_path, by):
    root = tmp_path / "release"
    written, batch_of = batches(root, by=by)
    source = read(root, views="all")
    assert source.quarantined == source.notes == []
    path_of = dict(zip(source.rows["image_id"], source.rows["path"], strict=True))
    assert path_of == {
        **{
            path: f"CheXpert-v1.0 batch {number} (train {number - 1})/{path.removeprefix('train/')}"
            for path, number in batch_of.items()
        },
        **{path: f"{BATCH_1}/{path}" for path in written["valid"]},
    }
    write_chexpert(tmp_path / "small", patients=9, valid=3)
    small = read(tmp_path / "small", views="all")
    assert source.rows.drop(columns="path").equals(small.rows.drop(columns="path"))
    assert source.official.equals(small.official)
    frontal = read(root)
    assert (frontal.entries, frontal.quarantined) == (18 + 6, [])
    assert frontal.unwanted == {"lateral views (views: frontal)": 12}


def test_batches_go_through_ingest(tmp_path):
    batches(tmp_path / "release")
    ingest(settings("chexpert", tmp_path / "release", split="official"), tmp_path / "out", tmp_path / "cache")
    manifest = Dataset.open(tmp_path / "out").manifest
    assert (manifest["path"].str.contains("batch 1") == (manifest["split"] == "test")).all()
    assert set(manifest["split"]) == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("numbers", "note"),
    [
        ((2, 4), "batch 3 of the full-size release is not there: unpack it beside the others"),
        ((3,), "batch 2 and 4 of the full-size release is not there: unpack it beside the others"),
    ],
)
def test_a_batch_that_is_not_unpacked_is_named(tmp_path, numbers, note):
    written, batch_of = batches(tmp_path, numbers=numbers)
    source = read(tmp_path, views="all")
    assert source.notes == [note]
    missing = {path for path, number in batch_of.items() if number not in numbers}
    assert {path.removeprefix(f"{BATCH_1}/") for path, _ in source.quarantined} == missing
    assert set(source.rows["image_id"]) == {*written["train"], *written["valid"]} - missing


@pytest.mark.parametrize(
    "change",
    [
        lambda root, folder: None,
        lambda root, folder: [
            (root / BATCH_1 / file).rename(root / file) for file in ("train.csv", "valid.csv", "valid")
        ],
        lambda root, folder: folder.rename(root / BATCH_1 / "train"),  # one of them was moved by hand
        lambda root, folder: (
            (folder / "twice").mkdir()
            or [patient.rename(folder / "twice" / patient.name) for patient in folder.glob("patient*")]
        ),
        lambda root, folder: (
            folder.rename(root / "x"),
            folder.mkdir(),
            (root / "x").rename(folder / folder.name),  # an archive was unpacked into a folder of its name
        ),
        lambda root, folder: folder.rename(root / "CheXpert-v1.0_batch_2_train_1"),
    ],
)
def test_batches_that_lie_a_little_otherwise_are_found_too(tmp_path, change):
    written, _ = batches(tmp_path)
    change(tmp_path, tmp_path / "CheXpert-v1.0 batch 2 (train 1)")
    source = read(tmp_path, views="all")
    assert set(source.rows["image_id"]) == {*written["train"], *written["valid"]}
    assert source.quarantined == []


def test_a_root_above_or_within_the_batches_says_which_folder_would_do(tmp_path):
    root = tmp_path / "data" / "release"
    batches(root)
    within = "CheXpert-v1.0 batch 2 (train 1)"
    for wrong, message in (
        (root.parent, "no train.csv in it"),
        (root / BATCH_1, "train.csv is there, but no folder train/ with its images"),
        (root / within, "no train.csv in it"),
        (root / BATCH_1 / "valid", "no train.csv in it"),
    ):
        with pytest.raises(UserError) as caught:
            read(wrong)
        assert str(caught.value) == f"{wrong}: {message}; set data.root to {root}"
    shutil.rmtree(root / "CheXpert-v1.0 batch 2 (train 1)")
    shutil.rmtree(root / "CheXpert-v1.0 batch 3 (train 2)")
    shutil.rmtree(root / "CheXpert-v1.0 batch 4 (train 3)")
    with pytest.raises(UserError, match=r"no folder train/ with its images; unpack the other archives beside that"):
        read(root)


def test_folders_of_patients_beside_a_whole_release_are_none_of_it(tmp_path):
    write_chexpert_table(tmp_path / "CheXpert-v1.0-small", [chexpert_row(ONE)])
    write_xray(tmp_path / "other study" / "patient00001" / "study1" / "view1_frontal.jpg", 1)
    source = read(tmp_path)
    assert source.rows["path"].tolist() == [f"CheXpert-v1.0-small/{ONE}"]
    assert source.entries == 1


def test_an_image_in_two_batches_is_one(tmp_path):
    _, batch_of = batches(tmp_path)
    path = next(path for path, number in batch_of.items() if number == 2)
    copy = tmp_path / "CheXpert-v1.0 batch 4 (train 3)" / path.removeprefix("train/")
    copy.parent.mkdir(parents=True)
    shutil.copy(tmp_path / "CheXpert-v1.0 batch 2 (train 1)" / path.removeprefix("train/"), copy)
    source = read(tmp_path, views="all")
    ((left_out, reason),) = source.quarantined
    assert left_out == copy.relative_to(tmp_path).as_posix()
    assert reason.startswith("a second file of this name, the first is CheXpert-v1.0 batch 2 (train 1)/patient")
