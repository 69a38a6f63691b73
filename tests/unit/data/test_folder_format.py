"""One folder per class, with and without splits."""

import os
import unicodedata

import numpy as np
import pytest

from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.data.reading.masks import find_masks
from medistill.errors import UserError
from tests.trees_tiles import classes_of, draw_mask, read_whole, settings, write_folder, write_mask, write_picture


def read(root):
    return read_whole("folder", root)


def test_classes_are_the_folders_in_order(tmp_path):
    paths = write_folder(tmp_path, classes=("tb", "COVID", "normal lung"))
    source = read(tmp_path)
    assert source.labels == ["COVID", "normal lung", "tb"]
    assert (source.task, source.entries, source.quarantined) == ("multiclass", 24, [])
    assert source.official is None
    assert classes_of(source) == {path: path.split("/")[0] for path in paths}
    assert sorted(source.rows["image_id"]) == sorted(source.rows["group_id"]) == sorted(paths)


@pytest.mark.parametrize(
    "splits", [("train", "val", "test"), ("Train", "VALID", "TEST"), ("train", "validation", "test")]
)
def test_folders_of_splits_are_the_official_split(tmp_path, splits):
    root = tmp_path / "xrays"
    paths = write_folder(root, splits=splits, images_each=3)
    split_of = dict(zip(splits, ("train", "val", "test"), strict=True))
    ingest(settings("folder", root, split="official"), tmp_path / "out", tmp_path / "cache")
    data = Dataset.open(tmp_path / "out")
    assert data.labels == ["NORMAL", "PNEUMONIA"]
    assert {row.path: row.split for row in data.manifest.itertuples()} == {
        path: split_of[path.split("/")[0]] for path in paths
    }
    assert data.targets(data.manifest).argmax(axis=1).tolist() == [
        path.split("/")[1] == "PNEUMONIA" for path in data.manifest["path"]
    ]


def test_without_a_validation_split_one_is_carved_from_training(tmp_path):
    root = tmp_path / "xrays"
    write_folder(root, splits=("train", "test"), images_each=10)
    ingest(settings("folder", root, split="official"), tmp_path / "out", tmp_path / "cache")
    manifest = Dataset.open(tmp_path / "out").manifest
    assert set(manifest["path"][manifest["split"] == "test"].str[:5]) == {"test/"}
    assert set(manifest["path"][manifest["split"] != "test"].str[:6]) == {"train/"}
    assert (manifest["split"] == "val").sum() > 0


def test_a_class_may_be_called_test_where_there_is_no_training_split(tmp_path):
    write_folder(tmp_path, classes=("test", "other"))
    source = read(tmp_path)
    assert source.labels == ["other", "test"]
    assert source.official is None


def test_groups_from_a_list_keep_a_person_in_one_split(tmp_path):
    """If file names contain the person, as in Kaggle's chest X-rays, a list gives the groups."""
    root, splits = tmp_path / "xrays", tmp_path / "splits"
    paths = write_folder(root, images_each=12)
    splits.mkdir()
    person = {path: path.split("/")[1].split("_")[0] for path in paths}
    (splits / "groups.csv").write_text("path,group_id\n" + "".join(f"{p},{g}\n" for p, g in person.items()))
    ingest(settings("folder", root, splits=splits), tmp_path / "out", tmp_path / "cache")
    manifest = Dataset.open(tmp_path / "out").manifest
    assert dict(zip(manifest["path"], manifest["group_id"], strict=True)) == {
        path: f"listed {name}" for path, name in person.items()
    }
    assert manifest["group_id"].nunique() == 12
    assert manifest.groupby("group_id")["split"].nunique().eq(1).all()


@pytest.mark.parametrize("splits", [(), ("train", "test")])
def test_folders_within_a_class_spread_out_the_files(tmp_path, splits):
    write_folder(tmp_path, splits=splits)
    above = "train/" if splits else ""
    write_picture(tmp_path / above / "NORMAL/2019/05/deep.png", 77)
    assert classes_of(read(tmp_path))[f"{above}NORMAL/2019/05/deep.png"] == "NORMAL"


def write_masks(root, layout, *, classes=("benign", "normal"), each=3):
    """Write images of two classes and their masks in one of the usual layouts; paths of masks by paths of images."""
    mask_of = {}
    for c, label in enumerate(classes):
        for number in range(each):
            image, mask = (text.format(c=label, n=number) for text in LAYOUTS[layout])
            write_picture(root / image, c, number)
            write_mask(root / mask, (2 + number, 4 + c, 20, 22))
            mask_of[image] = mask
    return mask_of


LAYOUTS = {
    "twin folders": ("{c}/images/{c}-{n}.png", "{c}/masks/{c}-{n}.png"),
    "of other suffixes": ("{c}/images/{c}-{n}.png", "{c}/masks/{c}-{n}.tif"),
    "of other names": ("{c}/images/image_{n}.png", "{c}/labels/label_{n}.png"),
    "below the images": ("{c}/{n}.png", "{c}/masks/{n}.png"),
    "of two words": ("{c}/images/{n}.png", "{c}/infection masks/{n}.png"),
    "ground truth": ("{c}/img/{n}.png", "{c}/ground_truth/{n}_gt.png"),
    "segmentations": ("{c}/images/{n}.png", "{c}/segmentations/{n}_segmentation.png"),
    "of one word": ("{c}/images/{n}.png", "{c}/lungmasks/{n}.png"),
    "of a version": ("{c}/images/{n}.png", "{c}/lung_mask_v2/{n}.png"),
    "annotations": ("{c}/xrays/{n}.png", "{c}/annotations/{n}.png"),
    "BUSI": ("{c}/{c} ({n}).png", "{c}/{c} ({n})_mask.png"),
    "seg": ("{c}/{n}.png", "{c}/{n}_seg.png"),
    "label": ("{c}/{n}.png", "{c}/{n}-label.png"),
    "a word of its own": ("{c}/{n}.png", "{c}/{n}_lungMask.png"),
    "without a sign": ("{c}/{c}{n}.png", "{c}/{c}{n}mask.png"),
    "numbered": ("{c}/{n}.png", "{c}/{n}_mask_1.png"),
    "mask first": ("{c}/img_{n}.png", "{c}/mask_{n}.png"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_among_the_images_are_no_images(tmp_path, layout):
    mask_of = write_masks(tmp_path, layout)
    source = read(tmp_path)
    assert sorted(source.rows["path"]) == sorted(mask_of)
    assert source.rows["mask"].isna().all()
    assert source.quarantined == []
    assert source.entries == 6
    ((what, count),) = source.unwanted.items()
    assert count == 6
    kind = what.split("'")[1]
    assert (
        what == f"masks, by the name {kind!r}; set data.options.masks: {kind!r} to read them, if they show the finding"
    )
    masked = read_whole("folder", tmp_path, masks=kind)
    assert dict(zip(masked.rows["path"], masked.rows["mask"], strict=True)) == mask_of
    assert masked.rows.drop(columns="mask").equals(source.rows.drop(columns="mask"))
    assert (masked.unwanted, masked.entries) == ({}, 6)


def test_a_data_set_that_is_called_after_its_masks_has_images_too():
    images = [f"Infection Segmentation Data/Train/{label}/images/1.png" for label in ("COVID-19", "Normal")]
    masks = [path.replace("images", "infection masks") for path in images]
    assert {path: mask.image for path, mask in find_masks(images + masks).items()} == dict(
        zip(masks, images, strict=True)
    )


@pytest.mark.parametrize("splits", [(), ("train", "test")])
def test_masks_come_out_pixel_by_pixel(tmp_path, splits):
    root = tmp_path / "set"
    for split in splits or (".",):
        write_masks(root / split, "twin folders", each=8)
    options = {"masks": "masks"}
    split = "official" if splits else "patient"
    ingest(settings("folder", root, split=split, options=options), tmp_path / "out", tmp_path / "cache")
    data = Dataset.open(tmp_path / "out")
    masks = data.masks(data.manifest)
    assert len(masks) == 16 * max(1, len(splits))
    for path, mask in zip(data.manifest["path"], masks, strict=True):
        number, c = int(path[-5]), int("normal" in path)
        assert (mask == draw_mask((2 + number, 4 + c, 20, 22))).all()


def test_of_several_kinds_of_masks_the_one_that_is_named_is_read(tmp_path):
    """As in the infection part of COVID-QU-Ex, where the lungs have masks of their own."""
    infections = write_masks(tmp_path, "of two words")
    for mask in infections.values():
        write_mask(tmp_path / mask.replace("infection", "lung"), (1, 1, 31, 31))
    source = read(tmp_path)
    assert len(source.rows) == 6
    assert sorted(source.unwanted.values()) == [6, 6]
    masked = read_whole("folder", tmp_path, masks="Infection Masks")
    assert dict(zip(masked.rows["path"], masked.rows["mask"], strict=True)) == infections
    ((what, _),) = masked.unwanted.items()
    assert "'lung masks'" in what
    with pytest.raises(UserError, match=r"options\.masks: no masks 'heart' beside images; there is '.* masks' and '"):
        read_whole("folder", tmp_path, masks="heart")


def test_an_image_with_several_masks_has_none_and_a_mask_without_an_image_is_told(tmp_path):
    mask_of = write_masks(tmp_path, "BUSI")
    write_mask(tmp_path / "benign/benign (1)_mask_1.png", (1, 1, 3, 3))
    source = read_whole("folder", tmp_path, masks="_mask")
    several = "benign/benign (1).png"
    expected = {image: None if image == several else mask for image, mask in mask_of.items()}
    found = source.rows.set_index("path")["mask"]
    assert {image: None if mask != mask else mask for image, mask in found.items()} == expected
    assert source.notes == ["1 image with several masks; none of them is read"]
    write_masks(tmp_path / "second", "twin folders")
    (tmp_path / "second/benign/images/benign-0.png").unlink()
    source = read_whole("folder", tmp_path / "second", masks="masks")
    assert source.quarantined == [("benign/masks/benign-0.png", "a mask without an image")]
    assert (len(source.rows), source.entries) == (5, 6)
    assert len(read(tmp_path / "second").rows) == 5  # the mask is not read as an image either


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda root: write_folder(root / "images") + write_folder(root / "masks"),
            "the folders masks and images hold files of the same names: .* set data.root to .*/images$",
        ),
        (
            lambda root: (
                write_folder(root, classes=("a", "a_masks"))
                + [
                    (root / "a_masks" / name.name.replace("a_masks", "a")).write_bytes(b"")
                    for name in (root / "a").iterdir()
                ]
            ),
            "the folders a_masks and a hold files of the same names",
        ),
        (
            lambda root: [
                write_picture(root / split / folder / "a" / f"{number}.png", number)
                for split in ("train", "test")
                for folder in ("images", "segmentations")
                for number in range(2)
            ],
            "the folders (train|test)/segmentations and (train|test)/images hold files of the same names",
        ),
    ],
)
def test_folders_of_masks_in_the_place_of_a_class_are_both_named(tmp_path, write, message):
    write(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path)
    assert "looks like the masks of the second" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_masks_beside_the_splits_are_no_images_either(tmp_path):
    paths = write_folder(tmp_path, splits=("train", "test"), images_each=2)
    for path in paths:
        write_mask(tmp_path / path.replace("train/", "train_masks/").replace("test/", "test_masks/"), (1, 1, 3, 3))
    source = read(tmp_path)
    assert sorted(source.rows["path"]) == sorted(paths)
    assert source.quarantined == []


@pytest.mark.parametrize(
    "names",
    [
        ("with_mask/with_mask_1.png", "without_mask/without_mask_1.png"),  # faces
        ("mask/1.png", "no mask/1.png"),
        ("mask/1.png", "nomask/1.png"),
        ("unmask/1.png", "b/1.png"),
        ("withoutmask/1.png", "other/1.png"),
        ("label_0/1.png", "label_1/1.png", "label_2/1.png"),
        ("a/1_label.png", "b/2_mask.png"),  # without images of these names
        ("patient 1/1.png", "patient 2/1.png"),
        ("AP/1.png", "PA/1.png"),
        ("gt200/1.png", "gt400/1.png"),
        ("segments/1.png", "masked/1.png"),
        ("unmasked/1.png", "unlabelled/1.png"),
        ("no_labels/1.png", "b/1.png"),
    ],
)
def test_images_that_only_sound_like_masks_are_images(tmp_path, names):
    for number, name in enumerate(names):
        write_picture(tmp_path / name, number)
    source = read(tmp_path)
    assert sorted(source.rows["path"]) == sorted(names)
    assert source.unwanted == {}


def test_a_split_of_a_larger_set_is_read_and_the_others_are_named(tmp_path):
    write_folder(tmp_path / "set", splits=("train", "val", "test"), images_each=2)
    source = read(tmp_path / "set" / "train")
    assert len(source.rows) == 4
    above = tmp_path / "set"
    assert source.notes == [f"train is one split of {above}; set data.root to {above} to read all splits"]
    assert read(above).notes == []


def test_what_lies_beside_the_classes_is_named_or_passed_over(tmp_path):
    write_folder(tmp_path, images_each=2)
    write_picture(tmp_path / "overview.png", 1)
    (tmp_path / "README.txt").touch()
    (tmp_path / "NORMAL/Thumbs.db").touch()
    write_picture(tmp_path / "__MACOSX/NORMAL/._a.png", 2)
    write_picture(tmp_path / ".cache/NORMAL/a.png", 3)
    write_picture(tmp_path / "NORMAL/.thumbnails/a.png", 4)
    source = read(tmp_path)
    assert source.labels == ["NORMAL", "PNEUMONIA"]
    assert source.quarantined == [("overview.png", "in no class's folder")]
    assert source.entries == 5


def test_images_outside_of_the_splits_are_named(tmp_path):
    """Kaggle's chest X-rays hold a second copy of themselves beside the splits."""
    write_folder(tmp_path, splits=("train", "test"), images_each=1)
    write_folder(tmp_path / "chest_xray", splits=("train", "test"), images_each=1)
    write_picture(tmp_path / "train/stray.png", 1)
    source = read(tmp_path)
    assert len(source.rows) == 4
    assert {path.split("/")[0] for path in source.rows["path"]} == {"train", "test"}
    assert sorted(path for path, _ in source.quarantined) == [
        "chest_xray/test/NORMAL/person10_normal.png",
        "chest_xray/test/PNEUMONIA/person10_pneumonia.png",
        "chest_xray/train/NORMAL/person00_normal.png",
        "chest_xray/train/PNEUMONIA/person00_pneumonia.png",
        "train/stray.png",
    ]
    assert {reason for _, reason in source.quarantined} == {"in no class's folder"}


def test_names_in_any_encoding(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD"))
    write_folder(tmp_path, classes=(composed, "b"), splits=("train",), images_each=1)
    write_folder(tmp_path, classes=(decomposed, "b"), splits=("test",), images_each=1)
    (tmp_path / "train/b" / os.fsdecode(b"caf\xe9.png")).touch()
    (tmp_path / "train" / os.fsdecode(b"caf\xe9")).mkdir()
    (tmp_path / "train" / os.fsdecode(b"caf\xe9") / "a.png").touch()
    source = read(tmp_path)
    assert source.labels == [composed, "b"]
    assert len(source.rows) == 4
    image_of = dict(zip(source.rows["path"], source.rows["image_id"], strict=True))
    stored = f"test/{decomposed}/person00_{decomposed.lower()}.png"
    assert image_of[stored] == f"test/{composed}/person00_{composed.lower()}.png" != stored
    assert sorted(path for path, _ in source.quarantined) == ["train/b/caf\\xe9.png", "train/caf\\xe9/a.png"]


def test_one_name_in_two_forms_is_two_files_of_one_name(tmp_path):
    write_folder(tmp_path, images_each=1)
    for form in ("NFC", "NFD"):
        write_picture(tmp_path / "NORMAL" / unicodedata.normalize(form, "ä.png"), 5)
    source = read(tmp_path)
    assert len(source.rows) == 3
    ((_, reason),) = source.quarantined
    assert "a second file of this name" in reason


def test_links_out_are_not_read(tmp_path):
    root = tmp_path / "xrays"
    write_folder(root, images_each=2)
    write_picture(tmp_path / "elsewhere/secret.png", 1)
    (root / "NORMAL/link.png").symlink_to(tmp_path / "elsewhere/secret.png")
    source = read(root)
    assert source.quarantined == [("NORMAL/link.png", "is a link that leads out of the data set's folder")]
    (root / "TB").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="TB: is a link that leads out of"):
        read(root)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda root: None, "xrays: no such folder; set data.root"),
        (lambda root: root.mkdir(), "xrays: folders of images: 2 or more labels are needed, but found none"),
        (lambda root: write_folder(root, classes=("images",)), "2 or more labels are needed, but found images$"),
        (
            lambda root: write_folder(root / "archive" / "xrays", splits=("train", "test")),
            "but found archive; set data.root to .*xrays/archive/xrays$",
        ),
        (
            lambda root: (write_folder(root / "set"), write_folder(root / "older" / "set"), (root / "doc").mkdir()),
            "doc: no image in it, .*; remove or fill it; set data.root to .*xrays/set$",
        ),
        (
            lambda root: (write_folder(root / "a", splits=("train", "test")), write_folder(root / "b")),
            "xrays: a holds test and train and is no class; set data.root to .*xrays/a$",
        ),
        (
            lambda root: (write_folder(root), (root / "TB/deep").mkdir(parents=True)),
            "TB: no image in it, but each folder there is a class",
        ),
        (
            lambda root: (write_folder(root, splits=("train", "test")), (root / "train/TB").mkdir()),
            "train/TB: no image in it",
        ),
        (
            lambda root: (
                write_folder(root, splits=("train",)),
                write_folder(root, splits=("test",), classes=("Normal", "PNEUMONIA")),
            ),
            "'NORMAL' and 'Normal' differ only in case",
        ),
    ],
)
def test_a_folder_without_classes_says_so(tmp_path, write, message):
    root = tmp_path / "xrays"
    write(root)
    with pytest.raises(UserError, match=message):
        read(root)


def test_a_class_that_is_a_link_says_so(tmp_path):
    root = tmp_path / "xrays"
    write_folder(root, classes=("NORMAL", ".store"), images_each=1)
    (root / "TB").symlink_to(root / ".store")
    with pytest.raises(UserError, match="TB: is a link to a folder; put the folder itself there"):
        read(root)


def test_images_of_every_format_and_nameless_dicom_are_images(tmp_path):
    write_folder(tmp_path, images_each=1)
    names = ("a.jfif", "b.JPE", "c.pgm", "d.j2k")
    for name in names:
        (tmp_path / "NORMAL" / name).touch()
    (tmp_path / "PNEUMONIA/IM0001").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "PNEUMONIA/checksums").write_bytes(b"\0" * 200)
    classes = classes_of(read(tmp_path))
    assert {path: label for path, label in classes.items() if not path.endswith(".png")} == {
        **{f"NORMAL/{name}": "NORMAL" for name in names},
        "PNEUMONIA/IM0001": "PNEUMONIA",
    }


def test_a_class_that_one_split_lacks_is_no_mistake(tmp_path):
    write_folder(tmp_path, splits=("train", "test"), images_each=1)
    (tmp_path / "test/PNEUMONIA/person10_pneumonia.png").unlink()
    source = read(tmp_path)
    assert source.labels == ["NORMAL", "PNEUMONIA"]
    assert len(source.rows) == 3


@pytest.mark.parametrize("split", ["patient", "official"])
def test_a_folder_without_a_class_trains_and_is_of_no_class(tmp_path, split):
    root = tmp_path / "xrays"
    splits = ("train", "test") if split == "official" else ()
    write_folder(root, classes=("COVID", "NORMAL", "someday"), splits=splits, images_each=10)
    options = {"unlabelled": "someday"}
    ingest(settings("folder", root, split=split, options=options), tmp_path / "out", tmp_path / "cache")
    data = Dataset.open(tmp_path / "out")
    assert (data.labels, data.task) == (["COVID", "NORMAL"], "multiclass")
    without = data.manifest["path"].str.contains("someday")
    targets = data.targets(data.manifest)
    assert (np.isnan(targets).all(axis=1) == without).all()
    assert (targets[~without].sum(axis=1) == 1).all()
    free = without & ~data.manifest["path"].str.startswith("test/")
    assert set(data.manifest["split"][free]) == {"train"}
    assert set(data.manifest["split"][~without]) == {"train", "val", "test"}
    with pytest.raises(UserError, match=r"data\.options\.unlabelled: no folder 'nowhere' with images"):
        read_whole("folder", root, unlabelled="nowhere")
