"""Tables with several rows per image (readers, boxes), with -1, and with columns that exclude each other."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.errors import UserError
from tests.trees_tiles import read_whole, settings, write_picture

NAN = float("nan")
XYWH = {"x": "x", "y": "y", "w": "w", "h": "h"}
CORNERS = {"x_min": "x0", "y_min": "y0", "x_max": "x1", "y_max": "y1"}


def table(root, header, *rows, images=()):
    """A folder with this table, and an image for each name in its first column or in `images`."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "table.csv").write_text("\n".join([header, *rows]) + "\n")
    for number, name in enumerate(dict.fromkeys([*(row.split(",")[0] for row in rows), *images])):
        write_picture(root / name, number)
    return root


def read(root, **options):
    return read_whole("csv", root, **({"path": "file"} | options))


def labels_of(source):
    rows = source.rows.set_index("image_id").sort_index()
    return {name: row.tolist() for name, row in zip(rows.index, rows.filter(like="label:").to_numpy(), strict=True)}


def boxes_of(source):
    return sorted(map(tuple, source.boxes.to_numpy().tolist()))


@pytest.mark.parametrize(("vote", "expected"), [("majority", 0), ("mean", 0), ("any", 1), ("all", 0)])
def test_rows_of_readers_are_one_image_by_vote(tmp_path, vote, expected):
    rows = [
        f"{name}.png,{reader},p{name},{mass}" for name in "ab" for reader, mass in (("R1", 1), ("R2", 0), ("R3", 0))
    ]
    root = table(tmp_path, "file,who,patient,Mass", *rows, "c.png,R1,pc,1")
    source = read(root, labels=["Mass"], readers="who", vote=vote, patient="patient")
    assert labels_of(source) == {"a.png": [expected], "b.png": [expected], "c.png": [1]}
    assert source.entries == 3
    assert source.quarantined == []
    assert source.rows["patient_id"].tolist() == ["pa", "pb", "pc"]
    assert source.notes == [
        "7 rows of table.csv describe 3 images",
        f"7 answers of readers about 3 images, vote: {vote}; they disagree about a label of 2 images",
        "1 image with fewer than 3 readers (at least 1)",
    ]


def test_readers_of_classes_who_do_not_agree_leave_an_image_without_one(tmp_path):
    rows = ["a.png,R1,mild", "a.png,R2,severe", "b.png,R1,mild", "b.png,R2,mild", "c.png,R1,", "c.png,R2,severe"]
    source = read(table(tmp_path, "file,who,grade", *rows), label="grade", readers="who")
    assert source.task == "multiclass"
    assert {name: row for name, row in labels_of(source).items() if name != "a.png"} == {
        "b.png": [1, 0],
        "c.png": [0, 1],
    }
    assert source.quarantined == [("a.png", "line 2 of table.csv has readers who do not agree on a class")]


def test_rows_that_repeat_a_reader_or_contradict_him_are_left_out(tmp_path):
    rows = [
        *("a.png,R1,1", "a.png,R2,1", "a.png,R2,1"),  # the third row is no third vote
        *("b.png,R1,1", "b.png,R1,0", "b.png,R2,1"),
        *("c.png,R1,1", "c.png,R2,0"),
    ]
    source = read(table(tmp_path, "file,who,Mass", *rows), labels=["Mass"], readers="who")
    assert labels_of(source) == {"a.png": [1], "c.png": [pytest.approx(NAN, nan_ok=True)]}
    assert source.quarantined == [
        ("a.png", "line 4 repeats an earlier row of table.csv"),
        ("b.png", "rows of table.csv contradict each other about this image"),
    ]
    (tmp_path / "table.csv").write_text("file,who,Mass\na.png,R1,1\nb.png,,1\n")
    with pytest.raises(UserError, match="line 3: column 'who' is empty; name the reader"):
        read(tmp_path, labels=["Mass"], readers="who")


def test_rows_of_readers_that_differ_in_more_than_labels_contradict_each_other(tmp_path):
    rows = ["a.png,R1,p1,1", "a.png,R2,p2,1", "b.png,R1,p3,1", "b.png,R2,p3,0"]
    source = read(table(tmp_path, "file,who,patient,Mass", *rows), labels=["Mass"], readers="who", patient="patient")
    assert source.rows["image_id"].tolist() == ["b.png"]
    assert source.quarantined == [
        ("a.png", f"rows of table.csv contradict each other about this image (line {line})") for line in (2, 3)
    ]


def test_rows_that_differ_in_boxes_alone_are_boxes(tmp_path):
    rows = ["a.png,,,,,0", "b.png,1,2,5,6,1", "b.png,2,3,5,6,1", "c.png,8,8,40,40,1"]
    source = read(table(tmp_path, "file,x,y,w,h,Mass", *rows, images=["d.png"]), labels=["Mass"], boxes=XYWH)
    assert labels_of(source) == {"a.png": [0], "b.png": [1], "c.png": [1]}
    assert (source.entries, source.quarantined) == (4, [("d.png", "no row of table.csv names this image")])
    assert source.notes == ["4 rows of table.csv describe 3 images"]
    assert source.boxes_in == "pixels"
    assert boxes_of(source) == [
        ("b.png", "Mass", 1, 2, 5, 6),
        ("b.png", "Mass", 2, 3, 5, 6),
        ("c.png", "Mass", 8, 8, 40, 40),
    ]


def test_a_table_with_a_row_for_each_finding_of_each_reader(tmp_path):
    """The layout of VinBigData's train.csv."""
    rows = [
        *("a.png,Mass,R1,10,20,30,60", "a.png,Edema,R1,1,1,5,5", "a.png,Mass,R2,12,22,32,62", "a.png,none,R3,,,,"),
        *("b.png,none,R1,,,,", "b.png,none,R2,,,,", "b.png,none,R3,,,,"),
        *("c.png,Mass,R1,1,1,9,9", "c.png,none,R1,,,,", "c.png,none,R2,,,,"),
    ]
    options = {"labels": "finding", "negative": ["none"], "readers": "who", "boxes": CORNERS | {"size": [200, 100]}}
    source = read(table(tmp_path, "file,finding,who,x0,y0,x1,y1", *rows), **options)
    assert source.labels == ["Edema", "Mass"]
    assert labels_of(source) == {"a.png": [0, 1], "b.png": [0, 0]}
    assert source.quarantined == [("c.png", "rows of table.csv contradict each other about this image")]
    assert boxes_of(source) == [
        ("a.png", "Mass", pytest.approx(0.05), pytest.approx(0.2), pytest.approx(0.1), pytest.approx(0.4)),
        ("a.png", "Mass", pytest.approx(0.06), pytest.approx(0.22), pytest.approx(0.1), pytest.approx(0.4)),
    ]
    assert source.notes[-1] == "1 box left out, as the label is not 1 for the image"
    anyone = read(tmp_path, **options, vote="any")
    assert labels_of(anyone) == {"a.png": [1, 1], "b.png": [0, 0]}
    assert len(anyone.boxes) == 3


def test_a_column_says_what_a_box_shows(tmp_path):
    rows = ["a.png,1,1,.1,.2,.3,.4,Mass", "a.png,1,1,.5,.5,.2,.2,Edema", "b.png,0,1,.5,.5,.2,.2,Edema"]
    root = table(tmp_path, "file,Mass,Edema,x,y,w,h,shows", *rows)
    options = {"labels": ["Mass", "Edema"], "boxes": XYWH | {"unit": "fractions"}}
    assert [box[:2] for box in boxes_of(read(root, **options))] == [
        *[("a.png", "Edema")] * 2,
        *[("a.png", "Mass")] * 2,
        ("b.png", "Edema"),
    ]
    options["boxes"] |= {"label": "shows"}
    source = read(root, **options)
    assert source.boxes_in == "fractions"
    assert boxes_of(source) == [
        ("a.png", "Edema", 0.5, 0.5, 0.2, 0.2),
        ("a.png", "Mass", 0.1, 0.2, 0.3, 0.4),
        ("b.png", "Edema", 0.5, 0.5, 0.2, 0.2),
    ]
    (root / "table.csv").write_text("file,Mass,Edema,x,y,w,h,shows\na.png,1,1,.1,.2,.3,.4,Heart\n")
    with pytest.raises(UserError, match="line 2: the box's label 'Heart' is unknown; known are Mass, Edema"):
        read(root, **options)


def test_a_box_without_a_label_that_is_1_is_refused(tmp_path):
    root = table(tmp_path, "file,x,y,w,h,Mass", "a.png,,,,,1", "b.png,1,2,5,6,0")
    with pytest.raises(UserError, match=r"line 3: has a box, but no label is 1; set data\.options\.boxes\.label"):
        read(root, labels=["Mass"], boxes=XYWH)


@pytest.mark.parametrize("fit", ["pad", "squash"])
def test_boxes_in_pixels_of_their_images_lie_on_what_they_show(tmp_path, fit):
    """Pictures of several shapes are black with a white box: after ingest it is where the table's box says."""
    root, rows = tmp_path / "root", []
    for number, (width, height) in enumerate([(64, 64), (96, 48), (40, 80)] * 4):
        x, y, w, h = 8 * (number % 3 + 1), 16, 8, 24
        pixels = np.zeros((height, width), np.uint8)
        pixels[y : y + h, x : x + w] = 255
        pixels[0, number] = 1  # so that no picture is a copy of another
        root.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / f"{number}.png")
        rows.append(f"{number}.png,{x},{y},{x + w},{y + h},1")
    (root / "t.csv").write_text("\n".join(["file,x0,y0,x1,y1,Mass", *rows]) + "\n")
    options = {"path": "file", "labels": ["Mass"], "boxes": CORNERS}
    data = settings("csv", root, options=options, image_size=96, fit=fit)
    assert ingest(data, tmp_path / "out", tmp_path / "cache").boxes == 12
    dataset = Dataset.open(tmp_path / "out")
    frames = dataset.images(dataset.manifest)[:, 0].astype(float) / 255
    boxes = dataset.boxes().set_index("image_id").loc[dataset.manifest["image_id"]]
    for frame, (x, y, w, h) in zip(frames, boxes[list("xywh")].to_numpy() * 96, strict=True):
        rows, columns = np.indices(frame.shape) + 0.5
        assert (frame * columns).sum() / frame.sum() == pytest.approx(x + w / 2, abs=0.6)
        assert (frame * rows).sum() / frame.sum() == pytest.approx(y + h / 2, abs=0.6)
        assert frame.sum() == pytest.approx(w * h, rel=0.03)


def test_a_box_in_pixels_outside_of_its_decoded_image_stops_with_its_name(tmp_path):
    rows = [f"{number:02d}.png,{number * 4},5,8,8,1" for number in range(12)]
    root = table(tmp_path / "root", "file,x,y,w,h,Mass", *rows)
    data = settings("csv", root, options={"path": "file", "labels": ["Mass"], "boxes": XYWH})
    with pytest.raises(
        UserError, match=r"4 boxes outside of the image; the first, of 08\.png, is x 32, y 5, w 8, h 8 in 32 x"
    ):
        ingest(data, tmp_path / "out", tmp_path / "cache")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("uncertainty", "expected"),
    [
        ("ones", [[1, 1], [1, 0], [NAN, 0]]),
        ("zeros", [[1, 0], [0, 0], [NAN, 0]]),
        ("ignore", [[1, NAN], [NAN, 0], [NAN, 0]]),
        ({"Mass": "ones"}, [[1, NAN], [1, 0], [NAN, 0]]),
        ({"Pleural Other": "zeros", "default": "ones"}, [[1, 0], [1, 0], [NAN, 0]]),
        ({"Pleural_Other": "zeros", "default": "ones"}, [[1, 0], [1, 0], [NAN, 0]]),
    ],
)
def test_what_minus_one_counts_as(tmp_path, uncertainty, expected):
    rows = ["a.png,1.0,-1.0", "b.png,-1,0", 'c.png,,"0,0"']
    root = table(tmp_path, "file,Mass,Pleural Other", *rows)
    found = labels_of(read(root, labels=["Mass", "Pleural Other"], uncertainty=uncertainty))
    np.testing.assert_array_equal([found[name] for name in ("a.png", "b.png", "c.png")], expected)


EXCLUSIVE = ["a.png,1,0,0", "b.png,0,1,", "c.png,1,1,0", "d.png,0,0,0", "e.png,0,,0", "f.png,,,", "g.png,,,1"]


@pytest.mark.parametrize("unlabelled", [False, True])
def test_columns_that_exclude_each_other_are_classes(tmp_path, unlabelled):
    root = table(tmp_path, "file,COVID,Viral,Normal", *EXCLUSIVE)
    source = read(root, labels=["COVID", "Viral", "Normal"], exclusive=True, unlabelled=unlabelled)
    assert source.task == "multiclass"
    expected = {"a.png": [1, 0, 0], "b.png": [0, 1, 0], "g.png": [0, 0, 1]} | (
        {"f.png": [NAN] * 3} if unlabelled else {}
    )
    found = labels_of(source)
    assert found.keys() == expected.keys()
    np.testing.assert_array_equal([found[name] for name in expected], list(expected.values()))
    assert source.quarantined == [
        ("c.png", "line 4 of table.csv is of several classes, COVID and Viral"),
        ("d.png", "line 5 of table.csv is of no class: no label is 1"),
        ("e.png", "line 6 of table.csv is of no class: no label is 1"),
        *([] if unlabelled else [("f.png", "line 7 of table.csv has no label")]),
    ]


def test_tables_of_other_machines_are_read_whole(real_data):
    """Each of these was once refused or read wrongly."""
    root = real_data / "failing" / "T4-tables-other-machines"
    if not root.is_dir():
        pytest.skip(f"{root}: is not there")
    options = {"images": "files", "path": "dicom_id", "labels": ["Edema"]}
    lines = pd.read_csv(root / "validate.csv", dtype=str)
    source = read_whole("csv", root, table="validate.csv", split="split", **options)
    assert source.official.tolist() == lines["split"].replace("validate", "val").tolist()
    assert len(read_whole("csv", root, table="absolute.csv", **options).rows) == 12
    uncertain = read_whole("csv", root, table="uncertain.csv", uncertainty="ignore", **options)
    cells = pd.read_csv(root / "uncertain.csv", dtype=str, keep_default_na=False)["Edema"]
    assert uncertain.rows["label:Edema"].isna().tolist() == cells.isin(["-1.0", ""]).tolist()
    options["path"] = "image_id"
    readers = read_whole("csv", root, table="readers.csv", readers="rad_id", **options)
    each = pd.read_csv(root / "readers.csv").groupby("image_id")["Edema"].sum()
    expected = (each.loc[readers.rows["image_id"].str.extract(r"(d\d+)\.png")[0]] >= 2).to_numpy()
    np.testing.assert_array_equal(readers.rows["label:Edema"] == 1, expected)
    boxes = pd.read_csv(root / "boxes.csv")
    columns = {"x": "x", "y": "y", "w": "width", "h": "height"}
    options |= {"path": "patientId", "labels": ["Target"], "boxes": columns}
    source = read_whole("csv", root, table="boxes.csv", **options)
    assert (len(source.rows), source.quarantined, len(source.boxes)) == (12, [], boxes["x"].notna().sum())
