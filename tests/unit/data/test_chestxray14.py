"""The ChestX-ray14 adapter on small folders: headers, labels, boxes, lists, and what is left out."""

import gzip
import math
import zipfile

import numpy as np
import pytest

from medistill.data.adapters import chestxray14
from medistill.data.adapters.chestxray14 import LABELS, Options
from medistill.errors import UserError

ROW = "{image},{labels},0,{patient},{age},{sex},{view},2682,2749,0.143,0.143"
V2020 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
HEADERS = {
    "v2020": (V2020, ""),
    "2017: trailing comma in header and rows": (V2020 + ",", ","),
    "trailing comma in the header only": (V2020 + ",", ""),
    "trailing comma in rows only": (V2020, ","),
    "sex": (V2020.replace("Gender", "Sex"), ""),
    "no blanks": (V2020.replace(" ", ""), ""),
    "kaggle sample": (V2020.split(",Orig")[0] + ",OriginalImageWidth,OriginalImageHeight,SpacingX,SpacingY", ""),
    "byte order mark": ("\ufeff" + V2020, ""),
}


def read(root, **options):
    return chestxray14.read(root, Options(**options))


def write(root, *rows, header=V2020, end="", name="Data_Entry_2017.csv", images=True):
    """A folder with these rows: dicts of the cells that differ from a default row."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    lines = [header]
    for number, row in enumerate(rows):
        default = {"image": f"{number:08d}_000.png", "labels": "Mass", "patient": number}
        row = default | {"age": "58", "sex": "M", "view": "PA"} | row
        lines.append(ROW.format(**row) + end)
        if images and "/" not in row["image"]:
            (root / "images" / row["image"]).touch()
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def labels_of(source, image):
    row = source.rows.set_index("image_id").loc[image]
    return {label for label in source.labels if row[f"label:{label}"] == 1}


@pytest.mark.parametrize("variant", HEADERS)
def test_every_header_variant_is_read(tmp_path, variant):
    header, end = HEADERS[variant]
    source = read(
        write(
            tmp_path,
            {"labels": "Cardiomegaly|Pleural_Thickening", "patient": "00000017", "age": "060Y", "sex": "F"},
            {"labels": "No Finding", "patient": 17, "age": 61, "view": "AP"},
            header=header,
            end=end,
        )
    )
    assert source.labels == list(LABELS)
    assert source.task == "multilabel"
    assert (source.entries, source.quarantined) == (2, [])
    assert source.rows["patient_id"].tolist() == source.rows["group_id"].tolist() == ["17", "17"]
    assert source.rows["age"].tolist() == [60, 61]
    assert source.rows["sex"].tolist() == ["F", "M"]
    assert source.rows["view"].tolist() == ["PA", "AP"]
    assert labels_of(source, "00000000_000.png") == {"Cardiomegaly", "Pleural_Thickening"}
    values = source.rows[[f"label:{label}" for label in LABELS]].to_numpy()
    assert values.dtype == np.float32
    assert values.sum(axis=1).tolist() == [2, 0]
    assert set(np.unique(values)) == {0, 1}


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("060Y", 60),
        ("006M", 0.5),
        ("010D", 10 / 365.25),
        ("002W", 14 / 365.25),
        ("0", 0),
        ("", math.nan),
        ("-1", -1),
        ("old", math.nan),
    ],
)
def test_ages_are_years(tmp_path, text, years):
    assert read(write(tmp_path, {"age": text})).rows["age"].tolist() == pytest.approx([years], nan_ok=True)


def test_what_is_no_age_is_noted(tmp_path):
    source = read(write(tmp_path, {"age": "old"}, {"age": "58"}, {"age": ""}))
    assert source.notes == ["1 cell in column 'Patient Age' without a valid age: 'old'"]


def test_an_image_without_a_patient_is_its_own_group_and_blanks_are_unknown(tmp_path):
    rows = read(write(tmp_path, {"patient": "", "sex": "", "view": ""}, {})).rows
    assert rows["group_id"].tolist() == ["00000000_000.png", "1"]
    assert rows[["patient_id", "sex", "view"]].isna().iloc[0].all()


def test_the_newer_label_file_wins(tmp_path):
    write(tmp_path, {"labels": "Mass"})
    write(tmp_path, {"labels": "Hernia"}, name="Data_Entry_2017_v2020.csv")
    assert labels_of(read(tmp_path), "00000000_000.png") == {"Hernia"}


def test_the_twelve_folders_of_kaggle_are_read_like_one(nih, tmp_path, make_nih):
    kaggle = tmp_path / "kaggle"
    make_nih(kaggle, prefix="images_001/images")
    (kaggle / "images_002" / "images").mkdir(parents=True)
    moved = sorted((kaggle / "images_001" / "images").iterdir())[30:]
    for file in moved:
        file.rename(kaggle / "images_002" / "images" / file.name)
    flat, nested = read(nih).rows, read(kaggle).rows
    assert flat.drop(columns="path").equals(nested.drop(columns="path"))
    assert nested["path"].iloc[0] == "images_001/images/00000001_000.png"
    assert nested["path"].iloc[-1] == "images_002/images/00000030_001.png"


@pytest.mark.parametrize(
    "column", ["Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position"]
)
def test_a_missing_column_is_named_with_its_file(tmp_path, column):
    write(tmp_path, {}, header=V2020.replace(column, "Something"))
    with pytest.raises(UserError, match=rf"Data_Entry_2017\.csv: column '{column}' is missing"):
        read(tmp_path)


def test_an_unknown_label_is_named_with_file_and_row(tmp_path):
    write(tmp_path, {}, {}, {"labels": "Mass|Cough"})
    with pytest.raises(UserError, match=r"Data_Entry_2017\.csv: line 4 \(00000002_000\.png\): unknown label 'Cough'"):
        read(tmp_path)


def reasons(source):
    return dict(source.quarantined)


def test_rows_that_say_nothing_or_contradict_themselves_are_left_out(tmp_path):
    source = read(write(tmp_path, {"labels": "No Finding|Mass"}, {"labels": ""}, {}))
    assert source.rows["image_id"].tolist() == ["00000002_000.png"]
    assert "contradictory or empty labels 'No Finding|Mass'" in reasons(source)["images/00000000_000.png"]
    assert "line 3" in reasons(source)["images/00000001_000.png"]
    assert source.entries == 3


def test_repeated_rows_are_left_out_and_contradicting_ones_altogether(tmp_path):
    same, other = {"image": "a.png", "patient": 1}, {"image": "b.png", "patient": 2}
    source = read(write(tmp_path, same, other, same, other | {"labels": "Hernia"}, {}))
    assert source.rows["image_id"].tolist() == ["a.png", "00000004_000.png"]
    assert sorted(source.quarantined) == [
        ("images/a.png", "line 4 repeats an earlier row of Data_Entry_2017.csv"),
        ("images/b.png", "rows of Data_Entry_2017.csv contradict each other about this image (line 3)"),
        ("images/b.png", "rows of Data_Entry_2017.csv contradict each other about this image (line 5)"),
    ]
    assert source.entries == 5


def test_missing_unlisted_and_repeated_files_are_left_out_with_the_reason(nih):
    (nih / "images" / "00000002_001.png").unlink()
    (nih / "images" / "extra.png").touch()
    (nih / "images" / "Thumbs.db").touch()
    (nih / "images_001" / "images").mkdir(parents=True)
    (nih / "images_001" / "images" / "00000001_000.png").touch()
    source = read(nih)
    assert len(source.rows) == 59
    assert source.entries == 62 == len(source.rows) + len(source.quarantined)
    assert "no such file" in reasons(source)["images/00000002_001.png"]
    assert reasons(source)["images/extra.png"] == "no row of Data_Entry_2017.csv names this image"
    assert "a second file of this name" in reasons(source)["images_001/images/00000001_000.png"]


def test_no_name_and_no_link_leads_out_of_the_folder(nih, tmp_path):
    secret = tmp_path / "secret.png"
    (nih / "images" / "00000001_000.png").rename(secret)
    (nih / "images" / "00000001_000.png").symlink_to(secret)
    inside = nih / "images" / "00000001_001.png"  # a link to a file inside is read like a file
    inside.rename(nih / "moved.png")
    inside.symlink_to(nih / "moved.png")
    with (nih / "Data_Entry_2017.csv").open("a") as stream:
        stream.write("../../secret.png,Mass,0,99,40,F,PA,1,1,1,1\n" + f"{secret},Mass,0,99,40,F,PA,1,1,1,1\n")
    source = read(nih)
    assert reasons(source)["images/00000001_000.png"] == "is a link that leads out of the data set's folder"
    assert "images/00000001_001.png" in set(source.rows["path"])
    assert not source.rows["path"].str.contains("secret").any()
    assert (len(source.rows), len(source.quarantined), source.entries) == (59, 3, 62)


def test_an_image_folder_that_is_a_link_out_is_refused(nih, tmp_path):
    (nih / "images").rename(tmp_path / "elsewhere")
    (nih / "images").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="images: is a link that leads out of"):
        read(nih)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: None, "nih: no such folder; set data.root"),
        (lambda root: root.mkdir(), "none of Data_Entry_2017_v2020.csv, Data_Entry_2017.csv or sample_labels.csv"),
        (lambda root: write(root, images=False), "no rows below the header"),
        (lambda root: write(root, header=""), "not a readable CSV|column 'Image Index' is missing"),
        (lambda root: (write(root, {}) / "Data_Entry_2017.csv").write_bytes(b""), "not a readable CSV"),
        (
            lambda root: (write(root, {}) / "Data_Entry_2017.csv").write_bytes(b"\xff\xfe\x00"),
            "line 1 is not valid UTF-16",
        ),
        (
            lambda root: (write(root, {}) / "Data_Entry_2017.csv").write_bytes(b"Image Index\n\xe9"),
            "line 2 is not valid",
        ),
        (
            lambda root: (write(root, {}) / "images").rename(root / "pictures"),
            "no folder images/ or images_001/images/",
        ),
    ],
)
def test_a_folder_that_is_not_the_data_set_says_what_is_missing(tmp_path, break_it, message):
    root = tmp_path / "nih"
    break_it(root)
    with pytest.raises(UserError, match=message):
        read(root)


BOXES = "Image Index,Finding Label,Bbox [x,y,w,h],,,"


@pytest.mark.parametrize("end", ["", ",,,"])
def test_boxes_are_fractions_of_the_release_frame(tmp_path, end):
    write(tmp_path, {}, {})
    box = "00000001_000.png,Infiltrate,256,512.0,128.5,64"
    (tmp_path / "BBox_List_2017.csv").write_text(f"{BOXES}\n{box}{end}\nnot_here.png,Mass,1,2,3,4{end}\n")
    boxes = read(tmp_path).boxes
    assert boxes.to_dict("records") == [
        {"image_id": "00000001_000.png", "label": "Infiltration", "x": 0.25, "y": 0.5, "w": 128.5 / 1024, "h": 0.0625}
    ]


@pytest.mark.parametrize("first", ["", "sep=;\n"])
def test_boxes_in_another_dialect(tmp_path, first):
    """As a spreadsheet saves them in a locale with decimal commas."""
    write(tmp_path, {}, {})
    text = f"{first}{BOXES.replace(',', ';')}\r\n00000001_000.png;Mass;256;512,5;128;64;;;\r\n"
    (tmp_path / "BBox_List_2017.csv").write_text(text, encoding="utf-16")
    boxes = read(tmp_path).boxes
    assert boxes[["x", "y", "w", "h"]].to_numpy().tolist() == [[0.25, 512.5 / 1024, 0.125, 0.0625]]


def test_boxes_may_reach_beyond_the_image_and_be_of_images_that_are_not_there(tmp_path):
    write(tmp_path, {}, {})
    lines = [BOXES, "00000001_000.png,Mass,-10,1000,5000,50"]
    (tmp_path / "BBox_List_2017.csv").write_text("\n".join(lines))
    assert read(tmp_path).boxes[["x", "w"]].to_numpy().tolist() == [[-10 / 1024, 5000 / 1024]]
    (tmp_path / "images/00000001_000.png").unlink()
    assert read(tmp_path).boxes.empty  # the full list beside a part of the images
    (tmp_path / "BBox_List_2017.csv").write_text(BOXES)
    assert read(tmp_path).boxes.empty


def test_no_box_file_means_no_boxes(tmp_path):
    boxes = read(write(tmp_path, {})).boxes
    assert boxes.empty
    assert list(boxes) == ["image_id", "label", "x", "y", "w", "h"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{BOXES}\na.png,Cough,1,2,3,4", r"line 2 \(a.png\): unknown label 'Cough'"),
        (f"{BOXES}\na.png,Mass,1,2,3,4\nb.png,Mass,1,two,3,4", r"line 3 \(b.png\): x, y, w, h must be numbers"),
        (f"{BOXES}\na.png,Mass,1,2,0,4", "w and h positive"),
        (f"{BOXES}\na.png,Mass,1,2,3", "must be numbers"),
        ("Image Index,Label,Bbox [x,y,w,h]\na.png,Mass,1,2,3,4", "column 'Finding Label' is missing"),
        ("Image\na.png", "column 'Image Index' is missing"),
        ("", "not a readable CSV file"),
        (f"{BOXES}\n\na.png,Mass,1,2,nan,4", r"line 3 \(a.png\): x, y, w, h must be numbers"),
        (
            f"{BOXES}\na.png,Mass,1024,2,3,4",
            r"line 2 \(a.png\): the box 1024, 2, 3, 4 lies outside of the image of 1024 x 1024",
        ),
        (f"{BOXES}\na.png,Mass,-3,2,3,4", "the box -3, 2, 3, 4 lies outside of the image"),
        (f"{BOXES}\na.png,Mass,1,2,3,4\nb.png,Mass,1,2,3,4", "none of its images is in the label table; .* a.png"),
        (
            f"{BOXES}\na.png,Mass,1,2,3,4,,,\nb.png,Mass,225,08,547,01,86,78,79,18",  # decimal commas
            r"line 3 \(b.png\) has 10 fields, more than 6: a row of boxes is image, label, x, y, w, h; quote numbers"
            r" with a decimal comma, such as 225,5",
        ),
    ],
)
def test_a_bad_box_file_is_named_with_its_row(tmp_path, text, message):
    write(tmp_path, {})
    (tmp_path / "BBox_List_2017.csv").write_text(text)
    with pytest.raises(UserError, match=rf"BBox_List_2017\.csv: .*{message}"):
        read(tmp_path)


def test_tables_and_lists_may_be_packed_by_gzip(nih):
    (nih / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000001_000.png,Mass,1,2,3,4,,,\n"
    )
    plain = read(nih)
    assert len(plain.boxes) == 1
    assert plain.official.notna().all()
    for file in ("Data_Entry_2017.csv", "BBox_List_2017.csv", "train_val_list.txt", "test_list.txt"):
        (nih / f"{file}.gz").write_bytes(gzip.compress((nih / file).read_bytes()))
        (nih / file).unlink()
        packed = read(nih)
        assert packed.rows.equals(plain.rows)
        assert packed.boxes.equals(plain.boxes)
        assert packed.official.equals(plain.official)
    assert packed.official_files == "train_val_list.txt.gz and test_list.txt.gz"
    assert packed.entries == plain.entries == 60


def test_the_newer_label_file_wins_packed_or_not(tmp_path):
    write(tmp_path, {"labels": "Mass"})
    old = tmp_path / "Data_Entry_2017.csv"
    (tmp_path / "Data_Entry_2017_v2020.csv.gz").write_bytes(gzip.compress(old.read_bytes().replace(b"Mass", b"Edema")))
    source = read(tmp_path)
    assert source.rows[["label:Mass", "label:Edema"]].values.tolist() == [[0, 1]]


@pytest.mark.parametrize("name", ["Data_Entry_2017.csv.zip", "Data_Entry_2017_v2020.xlsx"])
def test_a_label_file_in_another_form_is_named(nih, name):
    """Kaggle delivers single files as archives."""
    (nih / "Data_Entry_2017.csv").unlink()
    with zipfile.ZipFile(nih / name, "w") as archive:
        archive.writestr("xl/workbook.xml" if name.endswith("x") else "Data_Entry_2017.csv", "x")
    what = "an Excel workbook" if name.endswith("x") else "a ZIP archive: unpack it"
    with pytest.raises(UserError, match=f"sample_labels.csv is there; {name} is there, {what}"):
        read(nih)


@pytest.mark.parametrize(
    "line", ["00000000_000.png,", " 00000000_000.png ", '"00000000_000.png"', "00000000_000.png,,"]
)
def test_delimiters_at_the_end_of_a_lists_line_say_nothing(tmp_path, line):
    write(tmp_path, {}, {})
    (tmp_path / "train_val_list.txt").write_text(f"00000001_000.png\n{line}\n\n")
    (tmp_path / "test_list.txt").write_text("not_here.png")
    assert read(tmp_path).official.tolist() == ["train", "train"]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_line_of_a_list_that_says_more_is_refused_wherever_it_stands(tmp_path, place):
    write(tmp_path, {}, {})
    lines = [f"0000000{number}_000.png" for number in range(3)]
    lines[place] += ",train"
    (tmp_path / "train_val_list.txt").write_text("\n".join(lines))
    (tmp_path / "test_list.txt").write_text("not_here.png")
    message = rf"train_val_list\.txt: line {place + 1} has 2 fields, more than 1: write one image name per line"
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_the_official_lists_are_read_with_and_without_a_last_line_end(tmp_path):
    write(tmp_path, {}, {}, {})
    (tmp_path / "train_val_list.txt").write_text("00000000_000.png\r\nnot_here.png\n")
    (tmp_path / "test_list.txt").write_text("00000001_000.png")
    official = read(tmp_path).official
    assert official.iloc[:2].tolist() == ["train", "test"]
    assert official.isna().tolist() == [False, False, True]


def test_without_both_lists_there_is_no_official_split(tmp_path):
    write(tmp_path, {})
    (tmp_path / "train_val_list.txt").write_text("00000000_000.png")
    assert read(tmp_path).official is None


def test_an_image_in_both_lists_is_named(tmp_path):
    write(tmp_path, {})
    (tmp_path / "train_val_list.txt").write_text("00000000_000.png\n")
    (tmp_path / "test_list.txt").write_text("00000000_000.png\n")
    with pytest.raises(UserError, match=r"test_list\.txt: 00000000_000\.png is also in train_val_list\.txt"):
        read(tmp_path)


def chexnet(root, folder="chexnet", prefix=""):
    """The lists of the CheXNet reproductions: a name and 14 labels per line."""
    splits = {"train": range(3, 30), "val": range(1, 3), "test": range(30, 31)}
    (root / folder).mkdir(exist_ok=True)
    for split, patients in splits.items():
        lines = [f"{patient:08d}_{number:03d}.png" + " 0" * 14 for patient in patients for number in range(2)]
        (root / folder / f"{prefix}{split}_list.txt").write_text("\n".join(lines))
    return {f"{patient}": split for split, patients in splits.items() for patient in patients}


@pytest.mark.parametrize(("folder", "prefix"), [("chexnet", ""), (".", "chexnet_")])
def test_the_lists_of_chexnet_are_another_official_split(nih, folder, prefix):
    split = chexnet(nih, folder, prefix)
    source = read(nih, lists="chexnet")
    assert source.official.tolist() == [split[patient] for patient in source.rows["patient_id"]]
    assert set(read(nih).official) == {"train", "test"}  # NIH's own lists are there too, one under the same name
    assert "train_list.txt and" in source.official_files


def test_without_the_lists_of_chexnet_the_message_names_them(nih):
    source = read(nih, lists="chexnet")
    assert source.official is None
    assert source.official_files == "chexnet/train_list.txt and chexnet/val_list.txt and chexnet/test_list.txt"


@pytest.mark.parametrize("folder", ["images", "sample/images", "sample/sample/images"])
def test_kaggles_sample_is_read_as_it_is_unpacked(tmp_path, folder):
    write(tmp_path, {"labels": "Hernia", "age": "060Y"}, name="sample_labels.csv")
    if folder != "images":
        (tmp_path / folder).parent.mkdir(parents=True)
        (tmp_path / "images").rename(tmp_path / folder)
    source = read(tmp_path)
    assert source.rows["path"].tolist() == [f"{folder}/00000000_000.png"]
    assert source.rows["age"].tolist() == [60]
    assert labels_of(source, "00000000_000.png") == {"Hernia"}
    assert source.official is None


def test_patients_that_became_floats_are_themselves_again(tmp_path):
    source = read(write(tmp_path, {"patient": "17.0"}, {"patient": "4.0"}))
    assert source.rows["patient_id"].tolist() == ["17", "4"]


def test_a_box_file_in_another_encoding_is_named(tmp_path):
    write(tmp_path, {})
    (tmp_path / "BBox_List_2017.csv").write_bytes(f"{BOXES}\n\xe4.png".encode("latin-1"))
    with pytest.raises(UserError, match=r"BBox_List_2017\.csv: line 2 is not valid UTF-8"):
        read(tmp_path)
