"""COVID-QU-Ex trees in Kaggle's layout: splits, classes, and the infection masks that some images have."""

import os
import shutil
import unicodedata

import numpy as np
import pandas as pd
import pytest

from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.errors import UserError
from tests.trees_tiles import (
    COVID_CLASSES,
    INFECTION,
    LUNG,
    classes_of,
    draw_mask,
    read_whole,
    settings,
    write_covid_qu_ex,
    write_mask,
    write_picture,
)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "covidqu"
    write_covid_qu_ex(root, doubled=False)
    return root


def read(root, **options):
    return read_whole("covid_qu_ex", root, **options)


@pytest.mark.parametrize("doubled", [True, False])
def test_both_layouts_give_the_same_images_classes_and_splits(tmp_path, doubled):
    boxes = write_covid_qu_ex(tmp_path, doubled=doubled)
    source = read(tmp_path)
    assert source.labels == list(COVID_CLASSES)
    assert (source.task, source.entries, source.quarantined, source.copies) == ("multiclass", 36, [], False)
    part = f"{LUNG}/{LUNG}" if doubled else LUNG
    rows = source.rows
    assert (part + "/" + rows["image_id"] == rows["path"]).all()
    assert (rows["group_id"] == rows["image_id"]).all()
    for path, label in classes_of(source).items():
        assert f"/{label}/images/" in path
    splits = {f"{name}/" for name in ("Train", "Val", "Test")}
    assert {image[: image.index("/") + 1] for image in rows["image_id"]} == splits
    assert (source.official == rows["image_id"].str.split("/").str[0].str.lower()).all()
    # a picture of the lung part has a mask if the infection part repeats it, in any split
    assert set(rows["image_id"][rows["mask"].notna()]) == set(boxes)
    assert len(boxes) == 18


def test_lung_masks_may_be_missing_but_not_damaged_or_alone(tmp_path):
    write_covid_qu_ex(tmp_path / "covidqu", doubled=False)
    folder = tmp_path / "covidqu" / LUNG / "Test" / COVID_CLASSES[2] / "lung masks"
    missing, damaged, alone = sorted(folder.iterdir())[:3]
    missing.unlink()
    damaged.write_bytes(b"no picture")
    (alone.parents[1] / "images" / alone.name).unlink()
    source = read(tmp_path / "covidqu")
    assert (source.entries, source.rows["lungs"].isna().sum()) == (36, 1)
    assert [reason for _, reason in source.quarantined] == ["a lung mask without an image"]
    data = settings("covid_qu_ex", tmp_path / "covidqu", split="official", max_quarantined=0.1)
    assert ingest(data, tmp_path / "out", tmp_path / "cache").quarantined == 2
    left_out = pd.read_csv(tmp_path / "out" / "quarantine.csv").set_index("path")["reason"]
    image = damaged.parents[1].relative_to(tmp_path / "covidqu").as_posix() + f"/images/{damaged.name}"
    assert left_out[image].startswith(f"its lung mask {damaged.relative_to(tmp_path / 'covidqu').as_posix()}: ")
    manifest = Dataset.open(tmp_path / "out").manifest.set_index("path")
    assert (manifest["lung_row"] < 0).sum() == 1
    assert manifest.at[image.replace(damaged.name, missing.name), "lung_row"] == -1


@pytest.mark.parametrize("part", ["lung", "infection"])
def test_masks_come_out_pixel_by_pixel(tmp_path, part):
    boxes = write_covid_qu_ex(tmp_path / "covidqu")
    data = settings("covid_qu_ex", tmp_path / "covidqu", split="official", options={"part": part})
    summary = ingest(data, tmp_path / "out", tmp_path / "cache")
    dataset = Dataset.open(tmp_path / "out")
    manifest = dataset.manifest
    assert {split: counts.images for split, counts in summary.counts.items()} == (
        {"train": 12, "val": 12, "test": 12} if part == "lung" else {"train": 6, "val": 6, "test": 6}
    )
    box_of = boxes
    if part == "infection":
        moved = {"Train": "Train", "Val": "Test", "Test": "Val"}
        box_of = {}
        for image, box in boxes.items():
            split, rest = image.split("/", 1)
            box_of[f"{moved[split]}/{rest}"] = box
        assert set(manifest["image_id"]) == set(box_of)
    rows = manifest[manifest["mask_row"] >= 0]
    assert set(rows["image_id"]) == set(box_of)
    masks = dataset.masks(rows)
    assert np.array_equal(masks, [draw_mask(box_of[image]) for image in rows["image_id"]])
    assert manifest["lung_row"].tolist() == list(range(len(manifest)))  # every image has a mask of its lungs
    assert (dataset.lungs(manifest) == draw_mask((1, 1, 31, 31))).all()
    assert masks.any(axis=(1, 2)).sum() == 12  # the masks of Normal exist, but are black
    assert dataset.targets(manifest).sum(axis=0).tolist() == [len(manifest) / 3] * 3


def test_only_the_same_bytes_under_the_same_class_and_name_share_a_mask(root):
    lung, infection = root / LUNG / "Train", root / INFECTION / "Train"
    write_picture(infection / "COVID-19/images/train_0.png", 99)  # the same name, other bytes
    shutil.copy(lung / "COVID-19/images/train_1.png", lung / "Normal/images/train_1.png")  # another class
    shutil.copy(lung / "Non-COVID/images/train_1.png", lung / "Non-COVID/images/copy.png")  # another name
    masked = set(read(root).rows.dropna(subset="mask")["image_id"])
    train = {image for image in masked if image.startswith("Train")}
    assert train == {
        "Train/COVID-19/images/train_1.png",
        "Train/Non-COVID/images/train_0.png",
        "Train/Non-COVID/images/train_1.png",
        "Train/Normal/images/train_0.png",
    }


def test_of_two_pictures_of_one_name_the_identical_one_gives_its_mask(root):
    """Several splits of the infection part may use one file name."""
    other = root / INFECTION / "Val/COVID-19"
    write_picture(other / "images/train_0.png", 7)
    write_mask(other / "infection masks/train_0.png", (0, 0, 5, 5))
    same = root / INFECTION / "Train/COVID-19/images/test_1.png"  # identical, but without a mask
    shutil.copy(root / INFECTION / "Val/COVID-19/images/test_1.png", same)
    masks = read(root).rows.set_index("image_id")["mask"]
    assert masks["Train/COVID-19/images/train_0.png"] == f"{INFECTION}/Train/COVID-19/infection masks/train_0.png"
    assert masks["Test/COVID-19/images/test_1.png"] == f"{INFECTION}/Val/COVID-19/infection masks/test_1.png"


def test_an_image_whose_mask_is_lost_is_left_out(root):
    lost = "Train/COVID-19/infection masks/train_0.png"
    (root / INFECTION / lost).unlink()
    shutil.rmtree(root / INFECTION / "Train/Normal/infection masks")  # nothing is infected there
    shutil.rmtree(root / INFECTION / "Val/COVID-19/infection masks")
    source = read(root, part="infection")
    assert source.entries == 18
    reason = f"its mask is missing: {INFECTION}/"
    assert dict(source.quarantined) == {
        f"{INFECTION}/Train/COVID-19/images/train_0.png": reason + lost,
        **{
            f"{INFECTION}/Val/COVID-19/images/{name}": f"{reason}Val/COVID-19/infection masks/{name}"
            for name in ("test_0.png", "test_1.png")
        },
    }
    assert set(source.rows["image_id"][source.rows["mask"].isna()]) == {
        "Train/Normal/images/train_0.png",
        "Train/Normal/images/train_1.png",
    }
    whole = read(root)  # most images of the lung part have no mask
    assert (len(whole.rows), whole.rows["mask"].notna().sum(), whole.quarantined) == (36, 18 - 5, [])


@pytest.mark.parametrize("part", ["lung", "infection"])
def test_a_mask_without_an_image_is_told(root, part):
    write_mask(root / INFECTION / "Val/Non-COVID/infection masks/orphan.png", (0, 0, 9, 9))
    (root / INFECTION / "Val/Non-COVID/infection masks/Thumbs.db").touch()
    source = read(root, part=part)
    orphan = f"{INFECTION}/Val/Non-COVID/infection masks/orphan.png"
    assert source.quarantined == [(orphan, "an infection mask without an image")]
    assert len(source.rows) == (36 if part == "lung" else 18)


def test_images_of_the_part_that_is_not_asked_for_are_counted(root):
    assert read(root, part="infection").unwanted == {"images of Lung Segmentation Data (part: infection)": 36}
    assert read(root, part="lung").unwanted == {}
    shutil.rmtree(root / LUNG)
    assert read(root, part="infection").unwanted == {}


def test_without_the_infection_part_nothing_has_a_mask(tmp_path):
    write_covid_qu_ex(tmp_path, infection=False)
    source = read(tmp_path)
    assert (source.entries, source.rows["mask"].notna().sum()) == (36, 0)
    with pytest.raises(UserError, match="no folder Infection Segmentation Data/Train in it"):
        read(tmp_path, part="infection")


def test_a_mask_that_cannot_be_decoded_leaves_its_image_out(tmp_path):
    root = tmp_path / "covidqu"
    write_covid_qu_ex(root, doubled=False)
    (root / INFECTION / "Train/COVID-19/infection masks/train_0.png").write_bytes(b"\x89PNG nothing more")
    data = settings("covid_qu_ex", root, split="official", max_quarantined=0.05)
    ingest(data, tmp_path / "out", tmp_path / "cache")
    quarantine = pd.read_csv(tmp_path / "out/quarantine.csv")
    assert quarantine["path"].tolist() == [f"{LUNG}/Train/COVID-19/images/train_0.png"]
    assert quarantine["reason"][0].startswith("its mask ")
    assert len(Dataset.open(tmp_path / "out").manifest) == 35


def test_nothing_but_images_counts_and_links_out_are_not_read(root, tmp_path):
    images = root / LUNG / "Train/COVID-19/images"
    (images / "Thumbs.db").touch()
    (images / "desktop.ini").touch()
    write_picture(tmp_path / "secret.png", 5)
    (images / "link.png").symlink_to(tmp_path / "secret.png")
    mask = root / INFECTION / "Train/Non-COVID/infection masks/train_0.png"
    mask.unlink()
    mask.symlink_to(tmp_path / "secret.png")
    source = read(root)
    assert source.entries == 37
    assert dict(source.quarantined) == {
        f"{LUNG}/Train/COVID-19/images/link.png": "is a link that leads out of the data set's folder",
        f"{LUNG}/Train/Non-COVID/images/train_0.png": "its mask is a link that leads out of the data set's folder",
    }


def test_names_in_any_encoding(root):
    lung, infection = root / LUNG / "Train/Normal/images", root / INFECTION / "Train/Normal"
    composed, decomposed = (unicodedata.normalize(form, "Hälfte.png") for form in ("NFC", "NFD"))
    write_picture(lung / decomposed, 50)
    write_picture(infection / "images" / composed, 50)
    write_mask(infection / "infection masks" / decomposed, (0, 0, 9, 9))
    (lung / os.fsdecode(b"caf\xe9.png")).touch()
    source = read(root)
    row = source.rows.set_index("image_id").loc[f"Train/Normal/images/{composed}"]
    assert row["path"] == f"{LUNG}/Train/Normal/images/{decomposed}"
    assert row["mask"] == f"{INFECTION}/Train/Normal/infection masks/{decomposed}"
    assert source.quarantined == [
        (f"{LUNG}/Train/Normal/images/caf\\xe9.png", "its name is not valid UTF-8; rename the file")
    ]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: shutil.rmtree(root), "covidqu: no such folder; set data.root"),
        (lambda root: shutil.rmtree(root / LUNG), "covidqu: no folder Lung Segmentation Data/Train in it"),
        (lambda root: shutil.rmtree(root / LUNG / "Val/Normal"), "Val/Normal/images: no image in it"),
        (
            lambda root: [file.unlink() for file in (root / LUNG / "Test/COVID-19/images").iterdir()],
            "Test/COVID-19/images: no image in it; the data set is not whole",
        ),
    ],
)
def test_a_folder_that_is_not_the_data_set_says_what_is_missing(root, break_it, message):
    break_it(root)
    with pytest.raises(UserError, match=message):
        read(root)


def test_an_unknown_part_names_the_known_ones(root):
    with pytest.raises(UserError, match=r"params\.yaml: data\.options: part: .*'lung' or 'infection'"):
        read(root, part="heart")
