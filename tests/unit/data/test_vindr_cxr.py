"""VinDr-CXR in both layouts: readers vote, boxes are in pixels of the DICOM files; unusable rows and files."""

import numpy as np
import pandas as pd
import pytest

from medistill.data.adapters.vindr_cxr import FINDINGS, IMPRESSIONS, KAGGLE
from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.errors import UserError
from tests.trees_readers import VINDR_KAGGLE, VINDR_LABELS, vindr_cells, write_dicom, write_table, write_vindr_cxr
from tests.trees_tiles import read_whole, settings, write_picture

TRAIN, TEST = VINDR_LABELS.format("Other diseases"), VINDR_LABELS.format("Other disease")
BOXES = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max"


def label_rows(**seen):
    """One row per image and reader, of three readers; image -> the labels that each of them names."""
    return [
        f"{image},R{8 + nth},{vindr_cells(TRAIN, *names)}"
        for image, each in seen.items()
        for nth, names in enumerate(each)
    ]


@pytest.fixture
def root(tmp_path):
    """PhysioNet's layout: three training images that the readers see differently, one test image."""
    root = tmp_path / "1.0.0"
    for number, image in enumerate("abc"):
        write_dicom(root / f"train/{image}.dicom", number)
    write_dicom(root / "test/t.dicom", 9)
    mass, effusion, none = ("Nodule/Mass",), ("Pleural effusion", "Other diseases"), ()
    rows = label_rows(a=(mass, mass, none), b=(none, none, none), c=(effusion, none, mass))
    write_table(root / "annotations/image_labels_train.csv", f"image_id,rad_id,{TRAIN}", rows)
    write_table(
        root / "annotations/image_labels_test.csv", f"image_id,{TEST}", [f"t,{vindr_cells(TEST, 'Other disease')}"]
    )
    boxes = [
        "a,R8,Nodule/Mass,4.5,5,20,25",
        "a,R9,Nodule/Mass,5,6,21,26",
        "c,R10,Nodule/Mass,1,1,9,9",
        "b,R8,No finding,,,,",
    ]
    write_table(root / "annotations/annotations_train.csv", BOXES, boxes)
    write_table(root / "annotations/annotations_test.csv", BOXES.replace("rad_id,", ""), ["t,Lung cyst,1,2,3,4"])
    return root


def positives(source):
    labels = source.rows.set_index("image_id").filter(like="label:")
    return {
        image: {name.removeprefix("label:") for name, value in row.items() if value == 1}
        for image, row in labels.iterrows()
    }


def boxes_of(source):
    return sorted(map(tuple, source.boxes.to_numpy().tolist()))


def test_three_readers_vote_and_boxes_count_where_their_label_holds(root):
    source = read_whole("vindr_cxr", root)
    assert source.labels == [*FINDINGS, *IMPRESSIONS]
    assert (source.task, source.entries, source.quarantined) == ("multilabel", 4, [])
    assert positives(source) == {"a": {"Nodule/Mass"}, "b": set(), "c": set(), "t": {"Other disease"}}
    assert source.rows["path"].tolist() == ["train/a.dicom", "train/b.dicom", "train/c.dicom", "test/t.dicom"]
    assert source.rows["group_id"].tolist() == list("abct")
    assert source.official.tolist() == ["train", "train", "train", "test"]
    assert source.boxes_in == "pixels"
    assert boxes_of(source) == [("a", "Nodule/Mass", 4.5, 5, 15.5, 20), ("a", "Nodule/Mass", 5, 6, 16, 20)]
    assert source.notes == [
        "9 answers of readers about 3 images, vote: majority; they disagree about a label of 2 images",
        "2 boxes left out, as the label is not 1 for the image",
    ]


@pytest.mark.parametrize(
    ("vote", "a", "c"),
    [
        ("any", {"Nodule/Mass"}, {"Nodule/Mass", "Pleural effusion", "Other disease"}),
        ("all", set(), set()),
        ("mean", {"Nodule/Mass"}, set()),
    ],
)
def test_other_votes(root, vote, a, c):
    source = read_whole("vindr_cxr", root, vote=vote)
    assert positives(source) == {"a": a, "b": set(), "c": c, "t": {"Other disease"}}


def test_without_test_labels_its_images_are_counted(root):
    (root / "annotations/image_labels_test.csv").unlink()
    source = read_whole("vindr_cxr", root)
    assert (source.entries, source.official, source.official_files) == (3, None, "image_labels_test.csv")
    assert source.unwanted == {"images of test/, whose labels are not there": 1}


def test_without_a_table_of_boxes_there_are_none(root):
    for part in ("train", "test"):
        (root / f"annotations/annotations_{part}.csv").unlink()
    source = read_whole("vindr_cxr", root)
    assert len(source.boxes) == 0
    assert "annotations_train.csv is missing, so there are no boxes" in source.notes


def test_tables_beside_the_images_are_found_as_well(root):
    for file in (root / "annotations").iterdir():
        file.rename(root / file.name)
    assert len(read_whole("vindr_cxr", root).boxes) == 2


def test_images_and_rows_that_do_not_meet_are_all_named(root):
    (root / "train/a.dicom").unlink()
    write_dicom(root / "test/x.dicom", 7)
    source = read_whole("vindr_cxr", root)
    names = "image_labels_train.csv and image_labels_test.csv"
    assert source.quarantined == [
        ("train/a.dicom", f"listed in {names} (line 2 of image_labels_train.csv), but there is no such file"),
        ("test/x.dicom", f"no row of {names} names this image"),
    ]
    assert len(source.boxes) == 0


KAGGLE_ROWS = [
    *("a,Nodule/Mass,8,R1,4,5,20,25", "a,ILD,5,R1,1,1,9,9", "a,Nodule/Mass,8,R2,5,6,21,26", "a,No finding,14,R3,,,,"),
    *(f"b,No finding,14,R{n},,,," for n in (1, 2, 3)),
    *("c,ILD,5,R1,1,1,9,9", "c,No finding,14,R1,,,,", "c,No finding,14,R2,,,,"),
]


@pytest.fixture
def kaggle(tmp_path):
    """Kaggle's layout: three images, in the last of which a reader contradicts himself, and a test image."""
    root = tmp_path / "vinbigdata"
    for number, path in enumerate(("train/a", "train/b", "train/c", "test/t")):
        write_dicom(root / f"{path}.dicom", number)
    write_table(root / "train.csv", VINDR_KAGGLE, KAGGLE_ROWS)
    return root


def test_kaggles_table_has_labels_and_boxes_in_one(kaggle):
    source = read_whole("vindr_cxr", kaggle)
    assert source.labels == list(KAGGLE)
    assert positives(source) == {"a": {"Nodule/Mass"}, "b": set()}
    assert source.quarantined == [
        ("train/c.dicom", 'a reader names both a finding and "No finding" for it (train.csv)')
    ]
    assert boxes_of(source) == [("a", "Nodule/Mass", 4, 5, 16, 20), ("a", "Nodule/Mass", 5, 6, 16, 20)]
    assert source.unwanted == {"images of test/, whose labels are not there": 1}
    assert (source.official, source.entries) == (None, 3)
    assert source.notes == [
        "8 answers of readers about 3 images, vote: majority; they disagree about a label of 2 images",
        "1 image with a tie between readers for a label: the label is unknown there",
        "1 image with fewer than 3 readers (at least 2)",
        "1 box left out, as the label is not 1 for the image",
    ]


def test_converted_images_need_the_size_that_boxes_refer_to(kaggle):
    (kaggle / "train/a.dicom").unlink()
    write_picture(kaggle / "train/a.png", 1)
    with pytest.raises(
        UserError, match=r"train\.csv: boxes are in pixels of the original DICOM file, but train/a\.png is not"
    ):
        read_whole("vindr_cxr", kaggle)
    rows = [f"{row},200,100" for row in KAGGLE_ROWS]
    write_table(kaggle / "train.csv", f"{VINDR_KAGGLE},width,height", rows)
    source = read_whole("vindr_cxr", kaggle)
    assert source.boxes_in == "fractions"
    np.testing.assert_allclose(source.boxes[["x", "y", "w", "h"]].iloc[0].tolist(), [0.02, 0.05, 0.08, 0.2])


@pytest.mark.parametrize(
    ("table", "header", "rows", "message"),
    [
        (
            "image_labels_train.csv",
            f"image_id,rad_id,{TRAIN}",
            label_rows(a=((), ())) + label_rows(a=((),)),
            "line 4: a se",
        ),
        (
            "image_labels_train.csv",
            f"image_id,rad_id,{TRAIN}",
            [f"a,,{vindr_cells(TRAIN)}"],
            "line 2: column 'rad_id' is e",
        ),
        (
            "image_labels_train.csv",
            f"image_id,rad_id,{TRAIN}",
            [f"a,R1,2.0{vindr_cells(TRAIN)[3:]}"],
            "has '2.0'; known are",
        ),
        ("image_labels_train.csv", f"image_id,{TRAIN}", [f"a,{vindr_cells(TRAIN)}"], "column 'rad_id' is missing"),
        (
            "image_labels_test.csv",
            f"image_id,{TEST}",
            [f"t,{vindr_cells(TEST)}"] * 2,
            "line 3: a second row of image t",
        ),
        (
            "image_labels_test.csv",
            f"image_id,{TEST}",
            [f"{image},{vindr_cells(TEST)}" for image in "ta"],
            "a is in both",
        ),
        (
            "annotations_train.csv",
            BOXES,
            ["a,R8,Mass,1,2,3,4"],
            "line 2: the box's label 'Mass' is unknown; known are Aortic enlargement",
        ),
        ("annotations_train.csv", BOXES, ["a,R8,Edema,9,2,3,4"], "line 2: the box .* must have x_max above x_min"),
        (
            "annotations_train.csv",
            BOXES,
            ["x,R8,Edema,1,2,3,4"],
            "none of its images is in image_labels_train",
        ),
        ("annotations_train.csv", BOXES, ["a,R8,Edema,,2,3,4"], "line 2: the box .* must be four numbers"),
    ],
)
def test_a_table_that_is_not_as_published_is_named(root, table, header, rows, message):
    write_table(root / "annotations" / table, header, rows)
    with pytest.raises(UserError, match=message):
        read_whole("vindr_cxr", root)


def test_an_unknown_class_of_kaggles_table_is_named(kaggle):
    write_table(kaggle / "train.csv", VINDR_KAGGLE, ["a,Mass,8,R1,1,2,3,4"])
    with pytest.raises(
        UserError, match=r"train\.csv: line 2: unknown class 'Mass'; known are Aortic enlargement, .* and No"
    ):
        read_whole("vindr_cxr", kaggle)


@pytest.mark.parametrize("place", ["..", "train", "annotations"])
def test_a_folder_one_level_off_is_told_which_one_is_meant(root, place):
    missing = "folder train" if place == "annotations" else r"annotations/image_labels_train\.csv or .*train\.csv"
    with pytest.raises(UserError, match=rf"no {missing} in it.*; set data\.root to .*1\.0\.0$"):
        read_whole("vindr_cxr", root / place)


def test_a_missing_folder_of_images_is_named(root):
    (root / "test").rename(root / "Test images")
    with pytest.raises(UserError, match="no folder test in it"):
        read_whole("vindr_cxr", root)


def test_boxes_reach_their_place_in_the_frame(tmp_path):
    """Files of 40 x 32 pixels, padded to 40 x 40: four rows above."""
    root = tmp_path / "vindr"
    write_vindr_cxr(root)
    data = settings("vindr_cxr", root, image_size=40, split="official")
    summary = ingest(data, tmp_path / "out", tmp_path / "cache")
    assert {split: counts.images for split, counts in summary.counts.items()} == {"train": 18, "val": 6, "test": 8}
    boxes = Dataset.open(tmp_path / "out").boxes()
    mass = boxes[boxes["label"] == "Nodule/Mass"][["x", "y", "w", "h"]].drop_duplicates() * 40
    expected = [(4 + nth, 9, 16, 20.5) for nth in range(3)]
    np.testing.assert_allclose(mass.sort_values("x"), expected)


def test_the_part_of_kaggle_is_read(real_data):
    """A small part of the real files, without the table of the sizes to which boxes refer."""
    root = real_data / "failing/T2-check-green-ingest-stops/vinbig"
    if not root.is_dir():
        pytest.skip(f"{root}: is not there")
    with pytest.raises(UserError, match="boxes are in pixels of the original DICOM file"):
        read_whole("vindr_cxr", root)
    assert len(pd.read_csv(root / "train.csv")["image_id"].unique()) == 25
