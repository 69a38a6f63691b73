"""`data.unlabelled`: images without labels join the train split, and none that validation or test has."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medistill.data import cache, provenance
from medistill.data.adapters import patient_of, read_source
from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.data.settings import Data
from medistill.data.unlabelled import join_groups
from medistill.errors import UserError
from medistill.images.decode import decode
from medistill.records.data import UNLABELLED, UnlabelledFolder
from tests.dicoms import dataset as dicom
from tests.dicoms import save as save_dicom


def settings(root, **changed):
    given = {"split": "official", "val_fraction": 0.3, "image_size": 32, "max_quarantined": 0.1, "workers": 1}
    return Data(**{"format": "chestxray14", "root": root, "splits": root.parent / "splits"} | given | changed)


def run(root, tmp_path, out="out", **changed):
    return ingest(settings(root, **changed), tmp_path / out, tmp_path / "cache")


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def extra(tmp_path, make_picture):
    """Five images in folders, among other files; one is a DICOM file without a suffix, one is damaged."""
    folder = tmp_path / "from the archive"
    for number, name in enumerate(["a.png", "2019/b.jpg", "2019/deep/er/c.tif"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        make_picture(9000 + number, 30).save(folder / name)
    save_dicom(folder / "2019/IM0001", dicom(np.arange(600, dtype=np.uint8).reshape(20, 30)))
    (folder / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n not more")
    (folder / "labels.csv").write_text("not,read\n")
    return folder


NAMES = ["2019/IM0001", "2019/b.jpg", "2019/deep/er/c.tif", "a.png"]


@pytest.mark.parametrize("split", ["official", "patient"])
def test_images_join_the_train_split_without_labels_and_nothing_else_changes(nih, extra, tmp_path, split):
    alone = run(nih, tmp_path, "alone", split=split)
    info = run(nih, tmp_path, split=split, unlabelled=extra)
    before, dataset = Dataset.open(tmp_path / "alone"), Dataset.open(tmp_path / "out")
    joined = dataset.manifest[dataset.manifest["image_id"].str.startswith(UNLABELLED)]
    own = dataset.manifest.drop(joined.index).reset_index(drop=True)
    places = ["shard", "row"]
    pd.testing.assert_frame_equal(own.drop(columns=places), before.manifest.drop(columns=places))
    assert np.array_equal(dataset.images(own), before.images(before.manifest))

    assert joined["image_id"].tolist() == joined["path"].tolist() == [UNLABELLED + name for name in NAMES]
    assert set(joined["split"]) == {"train"}
    assert joined["group_id"].tolist() == joined["image_id"].tolist()
    assert joined.filter(like="label:").isna().all(axis=None)
    assert joined[["patient_id", "view", "age", "sex", "source"]].isna().all(axis=None)
    for frame, name in zip(dataset.images(joined), NAMES, strict=True):
        assert np.array_equal(frame, decode(extra / name, size=32, channels=1, fit="pad"))

    assert info.unlabelled == UnlabelledFolder(folder="from the archive", images=4, copies=0)
    assert (info.entries, info.quarantined) == (alone.entries + 5, 1)
    assert info.counts["train"].images == alone.counts["train"].images + 4
    assert [info.counts[name] for name in ("val", "test")] == [alone.counts[name] for name in ("val", "test")]
    assert info.counts["train"].positives == alone.counts["train"].positives
    assert info.notes == [
        "4 images of data.unlabelled (from the archive) in the train split; only recipes with unlabelled: true train on"
        " them"
    ]
    assert info.fingerprint != alone.fingerprint
    (left_out,) = pd.read_csv(tmp_path / "out" / "quarantine.csv").itertuples()
    assert left_out.path == f"{UNLABELLED}damaged.png"


def test_no_folder_and_an_empty_one_are_the_same_byte_for_byte(nih, tmp_path):
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    (tmp_path / "empty" / "README.md").write_text("# Images without labels\n")
    run(nih, tmp_path, "without")
    info = run(nih, tmp_path, "with", unlabelled=tmp_path / "empty")
    assert files_of(tmp_path / "without") == files_of(tmp_path / "with")
    assert (info.unlabelled, info.notes) == (UnlabelledFolder(), [])


def test_the_usual_folder_need_not_be_there(nih, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(nih, tmp_path, unlabelled="data/unlabelled").unlabelled == UnlabelledFolder()


def test_two_runs_are_the_same_whatever_the_workers_and_decode_nothing_again(nih, extra, tmp_path, monkeypatch):
    run(nih, tmp_path, "one", unlabelled=extra)
    ingest(settings(nih, unlabelled=extra, workers=2), tmp_path / "two", tmp_path / "another cache")
    decoded = []
    read = cache.read_picture
    monkeypatch.setattr(cache, "read_picture", lambda root, path: decoded.append(path) or read(root, path))
    run(nih, tmp_path, "three", unlabelled=extra)
    assert decoded == ["damaged.png"]  # what failed is tried again
    Image.fromarray(np.full((9, 9), 77, np.uint8)).save(extra / "new.png")
    run(nih, tmp_path, "four", unlabelled=extra)
    assert sorted(decoded) == ["damaged.png", "damaged.png", "new.png"]
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two") == files_of(tmp_path / "three")


def refused(nih, tmp_path, **changed):
    """The message; nothing is written."""
    with pytest.raises(UserError) as raised:
        run(nih, tmp_path, **changed)
    assert not (tmp_path / "out").exists()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("split", ["official", "patient"])
@pytest.mark.parametrize("of", ["val", "test"])
def test_pixels_of_validation_or_test_are_refused(nih, extra, tmp_path, split, of):
    run(nih, tmp_path, "alone", split=split)
    held_out = Dataset.open(tmp_path / "alone").split(of)["path"].tolist()
    for number, path in enumerate(held_out[:2]):
        Image.open(nih / path).convert("RGB").save(extra / "2019" / f"z{number}.png")  # other bytes, the same pixels
    message = refused(nih, tmp_path, split=split, unlabelled=extra)
    assert message == (
        f"{extra}: holds 2 images of val or test, pixel for pixel; remove these files from the folder; the first:"
        f" {UNLABELLED}2019/z0.png: is the same as {held_out[0]} of the {of} split;"
        f" all: {tmp_path}/cache/quarantine.csv"
    )
    listed = pd.read_csv(tmp_path / "cache" / "quarantine.csv")
    assert listed["path"].tolist() == [f"{UNLABELLED}2019/z0.png", f"{UNLABELLED}2019/z1.png"]


def test_a_patient_of_test_is_refused_by_the_name_of_the_file(nih, extra, tmp_path, make_picture):
    make_picture(1).save(extra / "00000029_007.png")  # the last third is in the test list
    message = refused(nih, tmp_path, unlabelled=extra)
    assert message.startswith(
        f"{extra}: holds 1 image of patients or groups in val or test;"
        " remove these files from the folder, or rename those of other patients; the first:"
        f" {UNLABELLED}00000029_007.png: is of the group (patient) 29, which is in the test split; all: "
    )


def test_a_patient_of_train_and_one_of_nowhere_keep_their_groups(nih, extra, tmp_path, make_picture):
    run(nih, tmp_path, "alone")
    train = Dataset.open(tmp_path / "alone").split("train")["patient_id"].iloc[0]
    for number, patient in enumerate([int(train), 4711, 4711]):
        make_picture(number).save(extra / f"{patient:08d}_{100 + number}.png")
    run(nih, tmp_path, unlabelled=extra)
    manifest = Dataset.open(tmp_path / "out").manifest.set_index("image_id")
    for column in ("group_id", "patient_id"):
        joined = manifest[column][
            [f"{UNLABELLED}{name}" for name in (f"{int(train):08d}_100.png", "00004711_101.png", "00004711_102.png")]
        ]
        assert joined.tolist() == [train, "4711", "4711"]
    assert set(manifest["split"][manifest["group_id"] == train]) == {"train"}
    # models that train on them have seen these patients
    seen = provenance.ids_of(Dataset.open(tmp_path / "out"), "train").groups
    assert provenance.hash_names("chestxray14", ["4711"])[0] in seen


def write_groups(tmp_path, *rows):
    (tmp_path / "splits").mkdir(exist_ok=True)
    (tmp_path / "splits" / "groups.csv").write_text("path,group_id\n" + "".join(f"{row}\n" for row in rows))


def test_groups_csv_may_name_images_of_the_folder(nih, extra, tmp_path):
    run(nih, tmp_path, "alone")
    before = Dataset.open(tmp_path / "alone")
    train, test = (before.split(split)["path"].iloc[0] for split in ("train", "test"))
    write_groups(
        tmp_path,
        f"{UNLABELLED}a.png,one",
        f"{train},one",
        f"{UNLABELLED}2019/b.jpg,two",
        f"{UNLABELLED}2019/IM0001,two",
    )
    info = run(nih, tmp_path, "joined", unlabelled=extra)
    assert len(info.notes) == 1  # no name in the table is unknown
    manifest = Dataset.open(tmp_path / "joined").manifest.set_index("path")["group_id"]
    assert manifest[f"{UNLABELLED}a.png"] == manifest[train] == "listed one"
    assert manifest[f"{UNLABELLED}2019/b.jpg"] == manifest[f"{UNLABELLED}2019/IM0001"] == "listed two"
    write_groups(tmp_path, f"{UNLABELLED}a.png,one", f"{test},one")
    message = refused(nih, tmp_path, unlabelled=extra)
    assert (
        f"the first: {UNLABELLED}a.png: is listed in groups.csv with the group (patient) listed one, which is in the"
        " test split" in message
    )


def test_a_data_set_of_augmented_copies_needs_the_groups_of_all_images(nih, extra, tmp_path):
    source = replace(read_source("chestxray14", nih, {}), copies=True)
    write_groups(
        tmp_path,
        *(f"{path},{number // 2}" for number, path in enumerate(sorted(source.rows["path"]))),
        f"{UNLABELLED}a.png,0",
    )
    with pytest.raises(
        UserError, match=r"groups.csv: 4 images of data.unlabelled are not in it, the first unlabelled//damaged"
    ):
        ingest(settings(nih, unlabelled=extra), tmp_path / "out", tmp_path / "cache", source=source)


def test_copies_of_training_images_are_left_out_and_counted(nih, extra, tmp_path):
    run(nih, tmp_path, "alone")
    train = Dataset.open(tmp_path / "alone").split("train")["path"].tolist()
    for number in range(3):
        Image.open(nih / train[number]).save(extra / f"again{number}.bmp")
    Image.open(extra / "a.png").save(extra / "b.bmp")
    info = run(nih, tmp_path, unlabelled=extra)
    assert info.unlabelled == UnlabelledFolder(folder="from the archive", images=4, copies=4)
    assert info.notes[0].endswith("; left out: 4 with the pixels of another training image")
    manifest = Dataset.open(tmp_path / "out").manifest
    assert manifest["sha256"].is_unique
    assert [name.removeprefix(UNLABELLED) for name in manifest["image_id"] if name.startswith(UNLABELLED)] == NAMES
    assert len(manifest) + info.quarantined == info.entries


def test_too_many_unreadable_files_stop_ingest(nih, extra, tmp_path):
    message = refused(nih, tmp_path, unlabelled=extra, max_quarantined=0)
    assert message.startswith(f"{extra}: 1 of 5 entries cannot be used, more than data.max_quarantined (0) allows;")
    assert f"{UNLABELLED}damaged.png" in message


def test_many_readable_files_of_the_folder_excuse_no_unreadable_one_of_the_data_set(nih, tmp_path, make_picture):
    (tmp_path / "extra").mkdir()
    for number in range(60):
        make_picture(9000 + number).save(tmp_path / "extra" / f"{number}.png")
    for number in (1, 2, 3):
        (nih / "images" / f"{number:08d}_000.png").write_bytes(b"")
    given = {"unlabelled": tmp_path / "extra", "max_quarantined": 0.04}
    assert refused(nih, tmp_path, **given).startswith(f"{nih}: 3 of 60 entries cannot be used")
    run(nih, tmp_path, **given | {"max_quarantined": 0.05})


def a_file(folder):
    folder.write_bytes(b"PK\x03\x04 a zip")


def only_an_archive(folder):
    folder.mkdir()
    (folder / "images.zip").write_bytes(b"PK\x03\x04")


def with_masks(folder):
    (folder / "masks").mkdir(parents=True)
    for place in ("1.png", "masks/1.png"):
        Image.new("L", (9, 9)).save(folder / place)


def with_a_link(folder):
    (folder.parent / "elsewhere").mkdir()
    folder.mkdir()
    (folder / "more").symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no such folder; set data.unlabelled to a folder of images, or to an empty one"),
        (a_file, "not a folder; unpack it and set data.unlabelled to a folder of images"),
        (only_an_archive, "no image is in it, but 1 file, images.zip; set data.unlabelled to a folder of images"),
        (with_masks, "masks/1.png: looks like the mask of 1.png, not like an image; move masks out of data.unlabelled"),
        (with_a_link, "is a link that leads out of"),
    ],
)
def test_a_folder_that_cannot_be_read_is_one_line(nih, tmp_path, make, message):
    make(tmp_path / "folder")
    said = refused(nih, tmp_path, unlabelled=tmp_path / "folder")
    assert message in said
    assert "data.root" not in said


@pytest.mark.parametrize("place", [".", "images", ".."])
def test_a_folder_in_the_data_set_or_around_it_is_refused(nih, tmp_path, place):
    message = refused(nih, tmp_path, unlabelled=nih / place)
    assert "data.unlabelled lies in data.root or around it" in message


def test_a_link_to_a_file_elsewhere_is_quarantined(nih, extra, tmp_path, make_picture):
    make_picture(7).save(tmp_path / "secret.png")
    (extra / "link.png").symlink_to(tmp_path / "secret.png")
    run(nih, tmp_path, unlabelled=extra, max_quarantined=0.5)
    left_out = pd.read_csv(tmp_path / "out" / "quarantine.csv").set_index("path")["reason"]
    assert re.search("link that leads out", left_out[f"{UNLABELLED}link.png"])
    assert f"{UNLABELLED}link.png" not in set(Dataset.open(tmp_path / "out").manifest["image_id"])


@pytest.mark.parametrize(
    ("format", "path", "patient"),
    [
        ("chestxray14", "any/00000013_005.png", "13"),
        ("chestxray14", "00000013_005.dcm", "13"),
        ("chestxray14", "00000013_005_mask.png", None),
        ("chestxray14", "13_005.png", None),
        ("chexpert", "train/patient00013/study1/view1_frontal.jpg", "patient00013"),
        ("chexpert", "patient00013/study1/view1_frontal.jpg", "patient00013"),
        ("chexpert", "patient00013.jpg", None),
        ("mimic_cxr", "files/p10/p10000032/s50414267/02aa804e.jpg", "10000032"),
        ("mimic_cxr", "p10000032.jpg", None),
        ("padchest", "0/216840111366964012.png", None),
        ("csv", "00000013_005.png", None),
    ],
)
def test_patients_by_the_names_of_files(format, path, patient):
    assert patient_of(format, path) == patient


def test_an_image_is_refused_if_either_of_its_groups_is_held_out():
    rows = pd.DataFrame(
        {
            "path": ["a", "b", "c"],
            "group_id": ["1", "listed x", "listed y"],
            "patient_id": ["1", "2", "3"],
            "split": ["train", "test", "val"],
        }
    )
    listed = pd.Series({"b": "x", "c": "y", f"{UNLABELLED}2": "y", f"{UNLABELLED}3": "z"})
    names = [f"{UNLABELLED}{number}" for number in range(1, 6)]
    extra = pd.DataFrame({"image_id": names, "path": names, "patient_id": ["1", "1", "1", "2", None]}, dtype="str")
    joined, held_out = join_groups(extra, rows, listed)
    assert [path for path, _ in held_out] == [names[1], names[3]]
    assert joined["group_id"].tolist() == ["1", "listed y", "1", "listed x", names[4]]
    assert set(joined["split"]) == {"train"}
