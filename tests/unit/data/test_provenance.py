"""Images and patients that a model has seen: hashes find every true overlap, and no other."""

import hashlib
import re

import numpy as np
import pytest

from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.data.provenance import TrainIds, ids_of, overlaps, read_ids, refuse_overlap, write_ids
from medistill.errors import UserError


def number(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16)


def test_ids_are_the_first_64_bits_of_the_hashes(tiny_dataset):
    ids = ids_of(tiny_dataset, "train")
    rows = tiny_dataset.split("train")
    assert ids.groups.tolist() == sorted({number(f"chestxray14\n{group}") for group in rows["group_id"]})
    assert ids.images.tolist() == sorted({int(digest[:16], 16) for digest in rows["sha256"]})
    assert ids.groups.dtype == ids.images.dtype == np.uint64


def test_a_model_of_the_training_split_overlaps_with_nothing(tiny_dataset, tmp_path):
    ids = ids_of(tiny_dataset, "train")
    write_ids(tmp_path / provenance.FILE, ids)
    assert overlaps(ids, tiny_dataset) == []
    read = refuse_overlap(tmp_path / provenance.FILE, tiny_dataset)
    assert all(np.array_equal(a, b) for a, b in zip(read, ids, strict=True))


def test_groups_and_images_of_each_split_are_counted(tiny_dataset, tmp_path):
    test, val = tiny_dataset.split("test"), tiny_dataset.split("val")
    seen = TrainIds(
        np.array(sorted(number(f"chestxray14\n{group}") for group in test["group_id"].unique()[:3]), np.uint64),
        np.array(sorted(int(digest[:16], 16) for digest in [*test["sha256"][:5], *val["sha256"][:1]]), np.uint64),
    )
    file = tmp_path / provenance.FILE
    write_ids(file, ids_of(tiny_dataset, "train") | seen)
    assert overlaps(read_ids(file), tiny_dataset) == [("val", 0, 1), ("test", 3, 5)]
    text = "trained on 0 groups and 1 image of the val split and 3 groups and 5 images of the test split"
    with pytest.raises(UserError, match=re.escape(f"{file}: the model was {text}")):
        refuse_overlap(file, tiny_dataset)


def test_patients_of_another_data_set_are_others(tiny_dataset):
    elsewhere = Dataset(**(vars(tiny_dataset) | {"format": "chexpert"}))
    pixels_apart = ids_of(elsewhere, "test")._replace(images=np.array([], np.uint64))
    assert overlaps(pixels_apart, elsewhere) == [("test", len(pixels_apart.groups), 0)]
    assert overlaps(pixels_apart, tiny_dataset) == []


def test_hospitals_count_their_patients_alike(tiny_dataset):
    here = Dataset(**(vars(tiny_dataset) | {"format": "csv", "name": "here"}))
    there = Dataset(**(vars(here) | {"name": "there"}))
    pixels_apart = ids_of(here, "test")._replace(images=np.array([], np.uint64))
    assert overlaps(pixels_apart, there) == []
    assert overlaps(pixels_apart, here) == [("test", len(pixels_apart.groups), 0)]


@pytest.mark.parametrize("known", [True, False])
def test_a_patient_is_found_whatever_groups_she_was_joined_to(tiny_dataset, known):
    """groups.csv was added after the training and images have another size, so both kinds of hashes differ."""
    manifest = tiny_dataset.manifest
    if not known:  # without patients each image is its own group
        manifest = manifest.assign(patient_id=None, group_id=manifest["image_id"])
    before = Dataset(**(vars(tiny_dataset) | {"manifest": manifest}))
    joined = manifest.assign(group_id="listed 1", sha256=manifest["sha256"].str[::-1])
    joined.loc[joined["split"] == "test", "group_id"] = "listed 2"
    after = Dataset(**(vars(tiny_dataset) | {"manifest": joined}))
    assert overlaps(ids_of(before, "test"), after) == [("test", 1, 0)]
    assert overlaps(ids_of(before, "train"), after) == []


def test_the_same_pixels_are_found_under_other_names(tiny_dataset):
    manifest = tiny_dataset.manifest
    renamed = manifest.assign(group_id="x" + manifest["group_id"], patient_id="x" + manifest["patient_id"])
    other = Dataset(**(vars(tiny_dataset) | {"manifest": renamed}))
    images = tiny_dataset.split("test")["sha256"].nunique()
    assert overlaps(ids_of(other, "test"), tiny_dataset) == [("test", 0, images)]


def test_either_is_the_union():
    a, b = (TrainIds(*(np.array(x, np.uint64) for x in ids)) for ids in (([1, 3], [9]), ([3, 4], [2, 9])))
    assert [part.tolist() for part in a | b] == [[1, 3, 4], [2, 9]]


@pytest.mark.parametrize(
    ("content", "message"), [(None, "no such file"), (b"junk", "damaged"), (b"PK\x03\x04junk", "damaged")]
)
def test_missing_and_damaged_files_are_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "train_ids.npz").write_bytes(content)
    with pytest.raises(UserError, match=f"train_ids.npz: {message}"):
        read_ids(tmp_path / "train_ids.npz")


def test_pickles_are_not_loaded(tmp_path):
    np.savez(tmp_path / "train_ids.npz", groups=np.array([{"a": 1}], dtype=object), images=np.array([1]))
    with pytest.raises(UserError, match="damaged"):
        read_ids(tmp_path / "train_ids.npz")
