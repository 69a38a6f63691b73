"""The RSNA challenge: boxes of 1024 px, one label or three classes, and unusable rows and files."""

import numpy as np
import pytest

from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.errors import UserError
from tests.trees_readers import RSNA, write_dicom, write_rsna_pneumonia, write_table
from tests.trees_tiles import classes_of, read_whole, settings, write_picture

LABELS, CLASSES = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"
ROWS = ["a,,,,,0", "b,264.0,152.0,213.0,379.0,1", "b,562.0,152.0,256.0,453.0,1", "c,,,,,0"]
KINDS = ["a,Normal", "b,Lung Opacity", "b,Lung Opacity", "c,No Lung Opacity / Not Normal"]


@pytest.fixture
def root(tmp_path):
    """Three images, one of them with two boxes."""
    root = tmp_path / "rsna"
    for number, name in enumerate("abc"):
        write_dicom(root / "stage_2_train_images" / f"{name}.dcm", number)
    write_table(root / LABELS, RSNA, ROWS)
    write_table(root / CLASSES, "patientId,class", KINDS)
    return root


def boxes_of(source):
    return [(image, label, *(np.array(numbers) * 1024).round(6)) for image, label, *numbers in source.boxes.to_numpy()]


def test_target_is_the_label_and_boxes_refer_to_1024_pixels(root):
    source = read_whole("rsna_pneumonia", root)
    assert (source.task, source.labels, source.entries, source.quarantined) == ("multilabel", ["Pneumonia"], 3, [])
    assert dict(zip(source.rows["image_id"], source.rows["label:Pneumonia"], strict=True)) == {"a": 0, "b": 1, "c": 0}
    assert source.rows["path"].tolist() == [f"stage_2_train_images/{name}.dcm" for name in "abc"]
    assert source.rows["group_id"].tolist() == ["a", "b", "c"]  # the ids are those of images
    assert "patient_id" not in source.rows
    assert source.boxes_in == "fractions"
    assert boxes_of(source) == [("b", "Pneumonia", 264, 152, 213, 379), ("b", "Pneumonia", 562, 152, 256, 453)]
    assert source.official is None


def test_the_three_classes_of_the_other_table(root):
    source = read_whole("rsna_pneumonia", root, labels="classes")
    assert source.task == "multiclass"
    assert source.labels == ["Normal", "No Lung Opacity / Not Normal", "Lung Opacity"]
    assert {path[-5]: label for path, label in classes_of(source).items()} == {
        "a": "Normal",
        "b": "Lung Opacity",
        "c": "No Lung Opacity / Not Normal",
    }
    assert [box[:2] for box in boxes_of(source)] == [("b", "Lung Opacity")] * 2


def test_what_cannot_be_used_is_named_and_the_test_images_are_counted(root):
    write_table(root / LABELS, RSNA, [*ROWS, "d,,,,,0", "e,,,,,0", "e,1,1,9,9,1", "f,1,1,9,9,1"])
    write_table(root / CLASSES, "patientId,class", [*KINDS[:3], "e,Lung Opacity", "f,Normal"])
    for number, name in enumerate("efx"):
        write_dicom(root / "stage_2_train_images" / f"{name}.dcm", 10 + number)
    write_dicom(root / "stage_2_test_images/t.dcm", 20)
    source = read_whole("rsna_pneumonia", root)
    left_out = [
        ("stage_2_train_images/d.dcm", f"listed in {LABELS} (line 6), but there is no such file"),
        ("stage_2_train_images/e.dcm", f"rows of {LABELS} contradict each other about this image"),
        ("stage_2_train_images/f.dcm", "Target is 1, its class 'Normal'"),
        ("stage_2_train_images/x.dcm", f"no row of {LABELS} names this image"),
    ]
    assert sorted(source.quarantined) == left_out
    assert source.unwanted == {"images of stage_2_test_images/, which have no labels": 1}
    classes = read_whole("rsna_pneumonia", root, labels="classes")
    no_class = ("stage_2_train_images/c.dcm", f"has no class in {CLASSES}")
    assert sorted(classes.quarantined) == sorted([no_class, *left_out])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,1,2,3,4,0", "line 2: has a box beside Target 0"),
        ("a,1,2,3,,1", "line 2: the box x, y, w, h = 1, 2, 3, '' must be four numbers"),
        ("a,1024,2,3,4,1", "line 2: .* lies outside of the picture"),
        ("a,1,2,0,4,1", "line 2: .* must have a width and height above 0"),
        ("a,,,,,2", "line 2: column 'Target' has '2'; known are 1, 0"),
        ("a,,,,,", "line 2: column 'Target' is empty"),
        (",,,,,1", "line 2: column 'patientId' is empty"),
    ],
)
def test_a_row_that_is_not_as_published_is_named(root, row, message):
    write_table(root / LABELS, RSNA, [row])
    with pytest.raises(UserError, match=rf"stage_2_train_labels\.csv: {message}"):
        read_whole("rsna_pneumonia", root)


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (
            ["a,Healthy"],
            "line 2: unknown class 'Healthy'; known are Normal, No Lung Opacity / Not Normal, Lung Opacity",
        ),
        (["a,Normal", "a,Lung Opacity"], "line 3: a has a second class"),
    ],
)
def test_classes_that_are_not_as_published_are_named(root, kinds, message):
    write_table(root / CLASSES, "patientId,class", kinds)
    with pytest.raises(UserError, match=rf"stage_2_detailed_class_info\.csv: {message}"):
        read_whole("rsna_pneumonia", root)


def test_folders_that_are_not_whole_or_one_level_off(root):
    for place in (root.parent, root / "stage_2_train_images"):
        with pytest.raises(UserError, match=r"no stage_2_train_labels\.csv in it, .*; set data\.root to .*/rsna$"):
            read_whole("rsna_pneumonia", place)
    (root / CLASSES).unlink()
    assert len(read_whole("rsna_pneumonia", root).rows) == 3
    with pytest.raises(UserError, match=r"no stage_2_detailed_class_info\.csv in it"):
        read_whole("rsna_pneumonia", root, labels="classes")
    (root / "stage_2_train_images").rename(root / "images")
    with pytest.raises(UserError, match="no folder stage_2_train_images in it"):
        read_whole("rsna_pneumonia", root)


def test_images_that_have_been_converted_are_found_by_their_id(root):
    for name in "ab":
        (root / f"stage_2_train_images/{name}.dcm").unlink()
    write_picture(root / "stage_2_train_images/a.png", 1)
    write_picture(root / "stage_2_train_images/b.jpg", 2)
    assert sorted(read_whole("rsna_pneumonia", root).rows["path"]) == [
        f"stage_2_train_images/{name}" for name in ("a.png", "b.jpg", "c.dcm")
    ]


def test_boxes_reach_their_place_in_the_frame(tmp_path):
    """The frame shows 40 x 32 pixels padded to a square, although boxes refer to another size."""
    root = tmp_path / "rsna"
    write_rsna_pneumonia(root)
    ingest(settings("rsna_pneumonia", root, image_size=40), tmp_path / "out", tmp_path / "cache")
    boxes = Dataset.open(tmp_path / "out").boxes()
    assert len(boxes) == 20
    x, y, w, h = boxes[["x", "y", "w", "h"]].iloc[0]
    assert (x, w) == pytest.approx((264 / 1024, 213 / 1024))
    assert (y, h) == pytest.approx(((4 + 32 * 152 / 1024) / 40, 32 * 379 / 1024 / 40))
