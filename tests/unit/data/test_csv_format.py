"""Any table: labels in every form, files found by path or name, dialects, and unusable rows and files."""

import gzip
import os
import unicodedata

import numpy as np
import pytest

from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.errors import UserError
from tests.trees_tiles import classes_of, draw_mask, read_whole, settings, write_csv, write_mask, write_picture

NAN = float("nan")


def table(root, text, *images, name="table.csv"):
    """A folder with this table and these images."""
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    for number, image in enumerate(images):
        write_picture(root / image, number)
    return root


def read(root, **options):
    return read_whole("csv", root, **({"path": "file"} | options))


def targets(source):
    rows = source.rows.sort_values("image_id")
    return rows[[f"label:{label}" for label in source.labels]].to_numpy().tolist()


def test_a_table_of_everything_goes_through_ingest(tmp_path):
    root = tmp_path / "hospital"
    options = write_csv(root)
    summary = ingest(settings("csv", root, split="official", options=options), tmp_path / "out", tmp_path / "cache")
    data = Dataset.open(tmp_path / "out")
    assert (data.task, data.labels, summary.entries, summary.quarantined) == (
        "multilabel",
        ["Mass", "Effusion"],
        32,
        0,
    )
    assert (tmp_path / "out/quarantine.csv").read_text() == "path,reason\n"
    values, masks = data.targets(data.manifest), {}
    for row, (mass, effusion) in zip(data.manifest.itertuples(), values, strict=True):
        patient, number = map(int, row.image_id.removesuffix(".png").split("_"))
        assert (row.patient_id, row.group_id, row.path) == (str(patient), str(patient), f"images/{row.image_id}")
        assert row.split == ("train", "train", "val", "test")[patient % 4]
        assert (row.sex, row.age, row.view) == ("F" if patient % 3 else "M", 30 + patient, "AP")
        assert mass == patient % 2
        assert effusion == pytest.approx((1, 0, NAN)[(patient + number) % 3], nan_ok=True)
        assert (row.mask_row >= 0) == (mass == 1)
        masks[row.image_id] = (4, 5, 6 + patient, 9 + number)
    masked = data.manifest[data.manifest["mask_row"] >= 0]
    assert len(masked) == 16
    assert np.array_equal(data.masks(masked), [draw_mask(masks[image]) for image in masked["image_id"]])


def test_no_patient_is_in_two_splits(tmp_path):
    root = tmp_path / "hospital"
    options = write_csv(root)
    ingest(settings("csv", root, options=options), tmp_path / "out", tmp_path / "cache")
    manifest = Dataset.open(tmp_path / "out").manifest
    assert manifest["patient_id"].nunique() == 16
    assert manifest.groupby("patient_id")["split"].nunique().eq(1).all()


def test_three_ways_of_writing_labels_say_the_same(tmp_path):
    write_csv(tmp_path)
    files = {"path": "image", "images": "images", "mask": "mask"}
    flags = read(tmp_path, **files, labels=["Effusion", "Mass"])
    names = read(tmp_path, **files, labels="findings", separator="|", negative=["No Finding"])
    classes = read(tmp_path, **files, label="severity")
    assert (flags.labels, names.labels, classes.labels) == (
        ["Effusion", "Mass"],
        ["Effusion", "Mass"],
        ["mild", "severe"],
    )
    assert (flags.task, names.task, classes.task) == ("multilabel", "multilabel", "multiclass")
    flagged, named = (np.array(targets(source)) for source in (flags, names))
    assert np.array_equal(np.nan_to_num(flagged), named)  # the column of names does not distinguish unknown from absent
    assert np.isnan(flagged).sum() == 11
    assert np.array_equal(np.array(targets(classes))[:, 1], named[:, 1])


CELLS = [
    *[(text, 1) for text in ("1", "1.0", "1.00", "1,0", "true", "True", "TRUE", "yes", "Y", "t", " 1 ")],
    *[(text, 0) for text in ("0", "0.0", "0,0", "false", "False", "NO", "n", "F")],
    *[(text, NAN) for text in ("", "  ")],
]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_cells_of_labels(tmp_path, delimiter):
    cells = [(text, value) for text, value in CELLS if delimiter not in text]
    rows = [f"{number:02d}.png{delimiter}{text}{delimiter}x" for number, (text, _) in enumerate(cells)]
    text = "\n".join([delimiter.join(["file", "Mass", "note"]), *rows])
    table(tmp_path, text, *(f"{number:02d}.png" for number in range(len(cells))))
    found = targets(read(tmp_path, labels=["Mass"]))
    assert found == [[pytest.approx(value, nan_ok=True)] for _, value in cells]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("2", "has '2'; known are 1, 0, yes, no, true, false, and blank for unknown"),
        ("maybe", "has 'maybe'; known are"),
        ("10", "has '10'; known are"),
        ("nan", "has 'nan'; known are"),
        ("-1", r"has '-1'; set data\.options\.uncertainty to ignore, ones or zeros"),
        ("-1.0", r"has '-1\.0'; set data\.options\.uncertainty to"),
    ],
)
def test_a_label_nobody_knows_is_named_with_file_line_and_column(tmp_path, cell, message):
    table(tmp_path, f"file,Mass,Effusion\na.png,1,1\nb.png,0,{cell}\n", "a.png", "b.png")
    with pytest.raises(UserError, match=rf"table\.csv: line 3: column 'Effusion' {message}"):
        read(tmp_path, labels=["Mass", "Effusion"])


@pytest.mark.parametrize("cell", ["-3", "0.5", "12,75", "-1"])
def test_a_measurement_is_no_class(tmp_path, cell):
    table(tmp_path, f"file;days\na.png;1\nb.png;{cell}\n", "a.png", "b.png")
    with pytest.raises(UserError, match=rf"line 3: column 'days' has '{cell}', which is a number, not a class"):
        read(tmp_path, label="days")


def test_classes_are_sorted_text_and_a_blank_one_is_left_out(tmp_path):
    root = table(tmp_path, "file,grade\nc.png,10.0\na.png,2.0\nb.png,\nd.png,2.0\n", *(f"{x}.png" for x in "abcd"))
    source = read(root, label="grade")
    assert source.labels == ["10", "2"]
    assert classes_of(source) == {"a.png": "2", "c.png": "10", "d.png": "2"}
    assert source.quarantined == [("b.png", "line 4 of table.csv has no label")]


def test_a_blank_class_is_kept_where_it_is_asked_for(tmp_path):
    table(tmp_path, "file,grade\n1.png,b\n2.png,\n3.png,a\n", "1.png", "2.png", "3.png")
    source = read(tmp_path, path="file", label="grade", unlabelled=True)
    assert source.labels == ["a", "b"]
    assert source.quarantined == []
    np.testing.assert_array_equal(targets(source), [[0, 1], [np.nan, np.nan], [1, 0]])
    with pytest.raises(UserError, match="unlabelled is for label: COLUMN"):
        read(tmp_path, path="file", labels=["grade"], unlabelled=True)


@pytest.mark.parametrize(
    ("grades", "message"),
    [
        (("low", "low"), "column 'grade': 2 or more labels are needed, but found low"),
        (("", ""), "column 'grade': 2 or more labels are needed, but found none"),
        (("Low", "low"), "column 'grade': 'Low' and 'low' differ only in case; give them one name"),
        (
            ("Me\u0301n", "M\xe9n"),
            r"column 'grade': 'Me\\u0301n' and 'M\\xe9n' are the same name in two Unicode forms; use",
        ),
    ],
)
def test_classes_that_are_too_few_or_too_alike(tmp_path, grades, message):
    table(tmp_path, "file,grade,x\na.png,{},1\nb.png,{},1\n".format(*grades), "a.png", "b.png")
    with pytest.raises(UserError, match=rf"table\.csv: {message}"):
        read(tmp_path, label="grade")


def test_names_in_one_column(tmp_path):
    cells = ["Mass; Edema", "Healthy", "Edema;", "", "Healthy;Mass", "Mass;Mass"]
    lines = [f"{number}.png|{cell}|x" for number, cell in enumerate(cells)]
    table(tmp_path, "\n".join(["file|finding|x", *lines]), *(f"{number}.png" for number in range(6)))
    options = {"labels": "finding", "separator": ";"}
    source = read(tmp_path, **options, negative=["Healthy"])
    assert source.labels == ["Edema", "Mass"]
    assert targets(source) == [[1, 1], [0, 0], [1, 0], [0, 1]]
    assert dict(source.quarantined) == {
        "3.png": 'line 5 of table.csv has no label (where a blank means none, add "" to data.options.negative)',
        "4.png": "line 6 of table.csv has the contradictory labels 'Healthy;Mass'",
    }
    blank = read(tmp_path, **options, negative=["Healthy", ""])
    assert targets(blank) == [[1, 1], [0, 0], [1, 0], [0, 0], [0, 1]]
    assert read(tmp_path, **options).labels == ["Edema", "Healthy", "Mass"]
    with pytest.raises(
        UserError, match=r"'No Finding' of data\.options\.negative does not occur; values are Edema, Heal"
    ):
        read(tmp_path, **options, negative=["No Finding"])
    with pytest.raises(UserError, match="1 or more labels are needed, but found none"):
        read(tmp_path, **options, negative=["Healthy", "Mass", "Edema"])


DIALECT = "file;patient;age;Mass\nä.png;17.0;58,5;1\nb.png;18.0;006M;0\nc.png;;;\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", DIALECT.encode()),
        ("t.csv", b"\xef\xbb\xbf" + DIALECT.encode()),
        ("t.csv", DIALECT.replace("\n", "\r\n").encode()),
        ("t.CSV", DIALECT.encode("utf-16")),
        ("t.tsv", DIALECT.replace(";", "\t").encode()),
        ("t.csv.gz", gzip.compress(DIALECT.encode(), mtime=0)),
    ],
)
def test_every_dialect(tmp_path, name, content):
    table(tmp_path, content, unicodedata.normalize("NFD", "ä.png"), "b.png", "c.png", name=name)
    source = read(tmp_path, labels=["Mass"], patient="patient", age="age")
    rows = source.rows.set_index("image_id").sort_index()
    assert rows.index.tolist() == ["b.png", "c.png", "ä.png"]
    assert rows["group_id"].tolist() == ["18", "c.png", "17"]
    assert rows["patient_id"].fillna("").tolist() == ["18", "", "17"]
    assert rows["age"].tolist() == pytest.approx([0.5, NAN, 58.5], nan_ok=True)
    assert targets(source) == [[0], [pytest.approx(NAN, nan_ok=True)], [1]]


@pytest.mark.parametrize(
    "cell",
    [
        "deep/17.png",
        "images/deep/17.png",
        "./deep/17.png",
        "deep\\17.png",
        "17.png",
        "17",
        "deep/17",
        "images\\deep\\17.png",
    ],
)
def test_a_file_is_found_by_path_or_name_with_or_without_suffix(tmp_path, cell):
    table(tmp_path, f"file,Mass\n{cell},1\n18.png,0\n", "images/deep/17.png", "images/18.png", "other/17.png")
    source = read(tmp_path, images="images", labels=["Mass"])
    assert source.entries == 2
    assert dict(zip(source.rows["image_id"], source.rows["path"], strict=True)) == {
        "deep/17.png": "images/deep/17.png",
        "18.png": "images/18.png",
    }


def test_whole_numbers_that_became_floats_still_name_their_files(tmp_path):
    table(tmp_path, "file,Mass\n17.0,1\n18.0,0\n", "17.png", "18.png")
    assert read(tmp_path, labels=["Mass"]).rows["path"].tolist() == ["17.png", "18.png"]


@pytest.mark.parametrize("cell", ["17.png", "17"])
def test_a_name_that_two_files_have_is_refused(tmp_path, cell):
    table(tmp_path, f"file,Mass\nb/18.png,0\n{cell},1\n", "a/17.png", "b/17.png", "b/18.png")
    with pytest.raises(
        UserError, match=rf"line 3: column 'file': '{cell}' may be a/17\.png or b/17\.png; write the whole path"
    ):
        read(tmp_path, labels=["Mass"])
    source = read(tmp_path, labels=["Mass"], images="b")
    assert sorted(source.rows["path"]) == ["b/17.png", "b/18.png"]


def test_an_exact_path_goes_before_a_name(tmp_path):
    table(tmp_path, "file,Mass\n17.png,1\nsub/17.png,0\n", "17.png", "sub/17.png")
    assert read(tmp_path, labels=["Mass"]).rows["path"].tolist() == ["17.png", "sub/17.png"]


def test_rows_and_files_that_do_not_meet_are_all_named(tmp_path):
    root = tmp_path / "hospital"
    rows = [
        "a.png,1",
        "gone.png,1",
        "../secret.png,1",
        f"{tmp_path}/secret.png,1",
        ",1",
        "link.png,1",
        "b.png,1",
        "b.png,0",
    ]
    table(root, "\n".join(["file,Mass", *rows, "a.png,1"]), "a.png", "b.png", "extra.png", ".hidden/x.png")
    write_picture(tmp_path / "secret.png", 9)
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / os.fsdecode(b"caf\xe9.png")).touch()
    (root / "README.txt").touch()
    source = read(root, labels=["Mass"])
    assert source.rows["path"].tolist() == ["a.png"]
    assert source.entries == 11
    missing = "listed in table.csv (line {}), but there is no such file"
    assert sorted(source.quarantined) == sorted(
        [
            ("gone.png", missing.format(3)),
            ("../secret.png", missing.format(4)),
            (f"{tmp_path}/secret.png", missing.format(5)),
            ("(empty)", missing.format(6)),
            ("link.png", "is a link that leads out of the data set's folder"),
            ("b.png", "rows of table.csv contradict each other about this image (line 8)"),
            ("b.png", "rows of table.csv contradict each other about this image (line 9)"),
            ("a.png", "line 10 repeats an earlier row of table.csv"),
            ("extra.png", "no row of table.csv names this image"),
            ("caf\\xe9.png", "its name is not valid UTF-8; rename the file"),
        ]
    )


def test_masks_are_found_in_their_folder_and_are_no_images(tmp_path):
    root = tmp_path / "hospital"
    rows = ["a.png,1,a.png", "b.png,0,", "c.png,1,gone.png", "d.png,1,link.png", "e.png,1,../secret.png"]
    table(root, "\n".join(["file,Mass,mask", *rows]), *(f"{name}.png" for name in "abcde"))
    write_mask(root / "masks/a.png", (1, 2, 3, 4))
    write_picture(tmp_path / "secret.png", 9)
    (root / "masks/link.png").symlink_to(tmp_path / "secret.png")
    source = read(root, labels=["Mass"], mask="mask", masks="masks")
    assert source.rows[["path", "mask"]].fillna("").to_numpy().tolist() == [["a.png", "masks/a.png"], ["b.png", ""]]
    assert sorted(source.quarantined) == [
        ("c.png", "its mask 'gone.png' is not there"),
        ("d.png", "its mask is a link that leads out of the data set's folder"),
        ("e.png", "its mask '../secret.png' is not there"),
    ]


@pytest.mark.filterwarnings("error")  # pandas warns of calls that it will refuse later
def test_a_mask_that_is_not_there_is_named_where_no_other_is_refused(tmp_path):
    table(tmp_path, "file,Mass,mask\na.png,1,gone.png\nb.png,0,\n", "a.png", "b.png")
    source = read(tmp_path, labels=["Mass"], mask="mask")
    assert source.quarantined == [("a.png", "its mask 'gone.png' is not there")]
    assert source.rows["path"].tolist() == ["b.png"]


def test_groups_and_patients_are_both_kept_together(tmp_path):
    """A family joins patients; images without a family are joined by patient."""
    rows = ["a.png,1,p1,f1", "b.png,1,p1,", "c.png,0,p2,f1", "d.png,0,p3,", "e.png,0,p3,", "f.png,1,,f2", "g.png,1,,"]
    table(tmp_path, "\n".join(["file,Mass,patient,family", *rows]), *(f"{name}.png" for name in "abcdefg"))
    rows = read(tmp_path, labels=["Mass"], patient="patient", group="family").rows.set_index("path")
    assert rows["group_id"].to_dict() == {
        **dict.fromkeys(("a.png", "b.png", "c.png"), "listed f1"),
        **dict.fromkeys(("d.png", "e.png"), "p3"),
        "f.png": "listed f2",
        "g.png": "g.png",
    }
    assert rows["patient_id"].fillna("").tolist() == ["p1", "p1", "p2", "p3", "p3", "", ""]


def test_all_that_is_known_of_an_image(tmp_path):
    rows = ["a.png,1,s1,pa,female,058Y,Siemens", "b.png,0,,,,,", "c.png,0,s2,Lateral,X,n/a,GE"]
    table(tmp_path, "\n".join(["file,Mass,study,v,s,a,scanner", *rows]), "a.png", "b.png", "c.png")
    rows = read(tmp_path, labels=["Mass"], study="study", view="v", sex="s", age="a", source="scanner").rows
    assert rows[["study_id", "view", "sex", "source"]].fillna("").to_numpy().tolist() == [
        ["s1", "PA", "F", "Siemens"],
        ["", "", "", ""],
        ["s2", "LATERAL", "X", "GE"],
    ]
    assert rows["age"].tolist() == pytest.approx([58, NAN, NAN], nan_ok=True)
    with pytest.raises(UserError, match="line 2: column 'scanner' has 'Siemens', and no row has an age in years"):
        read(tmp_path, labels=["Mass"], age="scanner")


def test_splits_of_a_column(tmp_path):
    cells = ["train", "VALID", "validation", "val", "Test", "", "validate", "Dev", "Training", "hold-out", "held out"]
    rows = [f"{number:02d}.png,1,{cell}" for number, cell in enumerate(cells)]
    table(tmp_path, "\n".join(["file,Mass,side", *rows]), *(f"{number:02d}.png" for number in range(len(cells))))
    official = read(tmp_path, labels=["Mass"], split="side").official
    assert official.fillna("").tolist() == [
        *("train", "val", "val", "val", "test", "", "val", "val", "train", "test", "test"),
    ]
    assert read(tmp_path, labels=["Mass"]).official is None
    (tmp_path / "table.csv").write_text("file,Mass,side\n0.png,1,fold 3\n")
    known = "train, training, val, valid, validate, validation, dev, development, tune, tuning, test, testing, holdout"
    with pytest.raises(UserError, match=f"line 2: column 'side' has 'fold 3'; known are {known}, heldout$"):
        read(tmp_path, labels=["Mass"], split="side")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["Mass"], "path": None}, r"path: input should be a valid string"),
        ({}, r"set either label: COLUMN \(one class per image\) or labels"),
        ({"label": "Mass", "labels": ["Mass"]}, r"set either label: COLUMN \(one class per image\) or labels"),
        ({"labels": []}, "label or labels names no column"),
        ({"labels": ["Mass", "Mass"]}, "labels names a column twice"),
        ({"labels": "Mass"}, r"labels: Mass needs separator.*is labels: \[Mass\]"),
        ({"label": "Mass", "separator": "|"}, "separator and negative go with labels: COLUMN only"),
        ({"labels": ["Mass"], "negative": ["none"]}, "separator and negative go with labels: COLUMN only"),
        ({"labels": "Mass", "separator": "|", "uncertainty": "ones"}, "uncertainty: is for columns of 1, 0 and -1"),
        (
            {"labels": ["Mass"], "uncertainty": "maybe"},
            "uncertainty.default: input should be 'ones', 'zeros' or 'ignore'",
        ),
        ({"labels": ["Mass"], "uncertainty": {"Mess": "ones"}}, "'Mess' is no label; known are Mass and default"),
        ({"labels": ["Mass"], "exclusive": True}, "exclusive: true needs several columns, of which one is 1"),
        ({"label": "Mass", "exclusive": True}, "exclusive: true needs several columns, of which one is 1"),
        ({"labels": ["Mass"], "vote": "any"}, "vote needs readers: COLUMN"),
        (
            {"labels": ["Mass"], "readers": "side", "vote": "all but one"},
            "vote: input should be 'majority', 'mean', 'any'",
        ),
        ({"labels": ["Mass"], "readers": "who"}, r"data\.options\.readers names the column 'who', which is not there"),
        (
            {"labels": ["Mass"], "boxes": {"x": "side"}},
            "boxes: name the columns of x, y, w, h, or of x_min, y_min, x_m",
        ),
        ({"labels": ["Mass"], "boxes": "side"}, "boxes: must have keys of its own"),
        ({"labels": ["Mass"], "boxes": {"z": "side"}}, "boxes.z is unknown; known here are x, y, w, h, x_min"),
        (
            {"labels": ["Mass"], "boxes": dict.fromkeys(("x", "y", "w", "h"), "a")},
            r"data\.options\.boxes\.x names the column 'a', which is not there",
        ),
        (
            {"labels": ["Mass"], "boxes": dict.fromkeys(("x", "y", "w", "h"), "side") | {"size": [0, 5]}},
            r"boxes\.size: must be a width and a height in pixels, or the columns that have them",
        ),
        (
            {"labels": ["Mass"], "boxes": dict.fromkeys("xywh", "side") | {"unit": "fractions", "size": [9, 5]}},
            "boxes: size is for boxes in pixels; fractions need none",
        ),
        ({"labels": ["Mass"], "pacient": "x"}, r"params\.yaml: data\.options: key pacient is unknown"),
        ({"labels": ["Mess"]}, r"data\.options\.labels\.0 names the column 'Mess'.*its columns are file, Mass, side$"),
        (
            {"labels": ["Mass"], "patient": "id"},
            r"table\.csv: data\.options\.patient names the column 'id', which is not",
        ),
        ({"labels": ["Mass"], "path": "line"}, r"data\.options\.path names the column 'line', which is not there"),
        (
            {"labels": ["Mass"], "patient": False},
            r"options: patient: no, yes, .* are booleans in YAML; put the name in quotes$",
        ),
        ({"labels": [True, "Mass"]}, r"options: labels: no, yes, .* are booleans in YAML; put the name in quotes$"),
        (
            {"labels": "Mass", "separator": "|", "negative": "M"},
            r"negative: must be a list, such as `\[a, b\]`, and is .M.$",
        ),
        ({"labels": ["Mass"], "images": "png"}, r"png: no such folder; set data\.options\.images"),
        ({"labels": ["Mass"], "images": ".."}, r"lies outside of data\.root; set data\.options\.images"),
        ({"labels": ["Mass"], "table": "../other.csv"}, r"lies outside of data\.root; set data\.options\.table"),
        ({"labels": ["Mass"], "table": "x.csv"}, r"x\.csv: no such file"),
    ],
)
def test_a_wrong_option_is_named_in_one_line(tmp_path, options, message):
    table(tmp_path / "root", "file,Mass,side\na.png,1,train\n", "a.png")
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path / "root", **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("header", "row", "options", "message"),
    [
        ("file,Mass,Mass", "a.png,1,0", {}, "2 columns are named 'Mass'; keep one of them"),
        (
            "file,Mass,line",
            "a.png,1,0",
            {"patient": "line"},
            r"data\.options\.patient: a column cannot be called 'line'",
        ),
        ("file,note,Mass", "a.png,x", {}, "line 3 ends before column 'Mass': the file is cut off"),
    ],
)
def test_columns_that_cannot_be_told(tmp_path, header, row, options, message):
    root = table(tmp_path / "root", f"{header}\nb.png,1,1\n{row}\n", "a.png", "b.png")
    with pytest.raises(UserError, match=message):
        read(root, labels=["Mass"], **options)


def test_columns_that_are_not_asked_for_may_be_short_double_or_named_line(tmp_path):
    root = table(tmp_path / "root", "file,Mass,line,note,note\na.png,1,77\nb.png,0,78,x,y\n", "a.png", "b.png")
    assert targets(read(root, labels=["Mass"])) == [[1], [0]]


def test_dicom_files_without_a_suffix_are_found_and_missed(tmp_path):
    root = table(tmp_path / "root", "file,Mass\nIM0001,1\n1.2.840.7,0\n")
    for name in ("IM0001", "1.2.840.7", "1.2.840.8"):
        (root / name).write_bytes(b"\0" * 128 + b"DICM")
    source = read(root, labels=["Mass"])
    assert sorted(source.rows["path"]) == ["1.2.840.7", "IM0001"]
    assert source.quarantined == [("1.2.840.8", "no row of table.csv names this image")]


def test_the_table_must_be_clear(tmp_path):
    with pytest.raises(UserError, match=r"no table found: no file ends in \.csv"):
        read(tmp_path, labels=["Mass"])
    table(tmp_path, "file,Mass\na.png,1\n", "a.png", name="a.csv")
    table(tmp_path, "file,Mass\na.png,0\n", name="b.tsv")
    with pytest.raises(UserError, match=r"set data\.options\.table to one of a\.csv, b\.tsv"):
        read(tmp_path, labels=["Mass"])
    assert targets(read(tmp_path, labels=["Mass"], table="a.csv")) == [[1]]


def test_official_without_a_column_of_splits_says_what_to_set(tmp_path):
    root = tmp_path / "hospital"
    options = write_csv(root)
    del options["split"]
    with pytest.raises(UserError, match=r"split is official, but splits \(data\.options\.split\) are not there"):
        ingest(settings("csv", root, split="official", options=options), tmp_path / "out", tmp_path / "cache")


def test_a_patient_in_two_official_splits_is_refused(tmp_path):
    root = tmp_path / "hospital"
    options = write_csv(root) | {"patient": "sex"}
    with pytest.raises(UserError, match=r"the splits of column 'split': .* is in two splits"):
        ingest(settings("csv", root, split="official", options=options), tmp_path / "out", tmp_path / "cache")
