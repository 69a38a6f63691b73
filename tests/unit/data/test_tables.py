"""Tables in every dialect, and the join of their rows with files: nothing is lost on the way."""

import gzip
import os

import numpy as np
import pandas as pd
import pytest

from medistill.data.reading.folders import Files
from medistill.data.reading.tables import find_table, identifiers, join_files, read_fields, read_header, read_table
from medistill.errors import UserError

COLUMNS = {"image": (), "patient": (), "note": ()}
ROWS = "image,patient,note\na.png,007,1e5\nb.png,NA,\n"


def write(folder, content, name="table.csv"):
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain", ROWS.encode()),
        ("byte order mark", b"\xef\xbb\xbf" + ROWS.encode()),
        ("CRLF", ROWS.replace("\n", "\r\n").encode()),
        ("CR", ROWS.replace("\n", "\r").encode()),
        ("semicolons", ROWS.replace(",", ";").encode()),
        ("tabs", ROWS.replace(",", "\t").encode()),
        ("bars", ROWS.replace(",", "|").encode()),
        ("UTF-16", ROWS.encode("utf-16")),
        ("no last line end", ROWS.strip().encode()),
        ("quoted", b'"image","patient","note"\n"a.png","007","1e5"\n"b.png","NA",""\n'),
        ("blanks", b"image, patient ,note\n a.png , 007,1e5\nb.png,NA,\n"),
        ("comma at the end of rows", b"image,patient,note\na.png,007,1e5,\nb.png,NA,,\n"),
        ("more columns", b"image,patient,,note,\na.png,007,x,1e5\nb.png,NA,,\n"),
    ],
)
def test_every_dialect_gives_the_same_text(tmp_path, name, content):
    file = write(tmp_path, content)
    assert read_header(file)[:2] == ["image", "patient"]
    table = read_table(file, COLUMNS)
    assert table.to_dict("list") == {
        "image": ["a.png", "b.png"],
        "patient": ["007", "NA"],  # neither a number nor missing
        "note": ["1e5", ""],
        "line": [2, 3],
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("table.csv.gz", gzip.compress(ROWS.encode(), mtime=0)),
        ("table.csv", gzip.compress(ROWS.encode(), mtime=0)),  # a browser kept it packed but changed its name
        ("table.csv.gz", ROWS.encode()),  # a browser unpacked it but kept its name
        ("table.csv", ROWS.encode("utf-16-le")),  # without a byte order mark
        ("table.csv", ROWS.encode("utf-16-be")),
    ],
)
def test_how_a_table_is_packed_and_encoded_is_told_by_its_content(tmp_path, name, content):
    assert read_table(write(tmp_path, content, name), COLUMNS)["patient"].tolist() == ["007", "NA"]


def test_a_table_is_found_plain_or_packed_and_the_first_name_counts(tmp_path):
    assert find_table(tmp_path, "new.csv", "old.csv") is None
    for name in ("old.csv", "new.csv.gz", "new.csv"):
        (tmp_path / name).touch()
        assert find_table(tmp_path, "new.csv", "old.csv") == tmp_path / name
    (tmp_path / "list.txt").mkdir()
    assert find_table(tmp_path, "list.txt") is None


@pytest.mark.parametrize("end", ["\n", ""])
@pytest.mark.parametrize("wider", ["x,", "x,,,", '"x",""', "x, ,", 'x,"",'])
@pytest.mark.parametrize("place", [0, 1, 3, 6])
def test_a_row_with_more_delimiters_than_the_header_is_read_wherever_it_stands(tmp_path, place, wider, end):
    rows = [f"{number}.png,x" for number in range(7)]
    rows[place] = f"{place}.png,{wider}"
    file = write(tmp_path, "\n".join(["image,note", *rows]) + end)
    table = read_table(file, {"image": (), "note": ()})
    assert table["image"].tolist() == [f"{number}.png" for number in range(7)]
    assert table["note"].tolist() == ["x"] * 7
    assert len(read_fields(file)) == 8


@pytest.mark.parametrize("delimiter", list(",;\t|"))
@pytest.mark.parametrize("place", [0, 1, 3, 6])
def test_a_row_with_more_cells_than_the_header_has_names_is_refused_wherever_it_stands(tmp_path, place, delimiter):
    """A delimiter within a cell shifts all later cells: in `left, lower lobe,1` the 1 would be in another column."""
    note = f"left{delimiter} lower lobe"
    rows = [["image", "note", "Mass"], *([f"{number}.png", "x", "0"] for number in range(7))]
    rows[1 + place] = [f"{place}.png", note, "1"]
    file = write(tmp_path, "\n".join(delimiter.join(row) for row in rows))
    message = rf"table\.csv: line {place + 2} has 4 fields, more than 3: the header has fewer columns; quote cells"
    with pytest.raises(UserError, match=message):
        read_table(file, {"image": ()})  # although the column `image` would be right
    rows[1 + place] = [f"{place}.png", f'"{note}"', "1"]
    table = read_table(write(tmp_path, "\n".join(delimiter.join(row) for row in rows)), {"note": (), "Mass": ()})
    assert table.iloc[place].tolist() == [note, "1", place + 2]


def test_a_column_of_row_names_without_a_name_is_refused(tmp_path):
    """As R writes it: the header has one name fewer than rows have cells, so each name would be one column off."""
    with pytest.raises(UserError, match="line 2 has 3 fields, more than 2"):
        read_table(write(tmp_path, "image,Mass\n1,a.png,0\n2,b.png,1\n"), {"image": ()})


def test_the_line_of_a_row_that_is_too_long_counts_lines_within_cells(tmp_path):
    file = write(tmp_path, '\n\nimage,note\na.png,"two\nlines"\nb.png,x,y\n')
    with pytest.raises(UserError, match="line 6 has 3 fields"):
        read_table(file, {"image": ()})


@pytest.mark.parametrize(
    ("first", "looks"),
    [
        ("a.png,0", True),
        ("IM1.dcm;1;0", True),
        ("17,0,1.5", True),
        ("picture,mass", False),
        ("picture,0,1,2", False),  # classes may be numbers
        ("017,left lung", False),
        ("p1 a.png COVID-19 rsna", True),  # blanks between cells, as in COVIDx
        ("1 0 0", True),
        ("left lung", False),
    ],
)
def test_a_table_without_a_header_is_told_to_want_one(tmp_path, first, looks):
    with pytest.raises(UserError, match="column 'image' is missing; it has ") as caught:
        read_table(write(tmp_path, f"{first}\n{first}\n"), {"image": ()})
    assert ("put a line with the names of the columns above it" in str(caught.value)) == looks


@pytest.mark.parametrize(
    ("header", "columns"), [("image mass view", 3), ("image\xa0mass", 2), ("image", 0), ("left lung,mass", 0)]
)
def test_a_table_whose_cells_are_separated_by_blanks_is_told_to_want_commas(tmp_path, header, columns):
    with pytest.raises(UserError, match="column 'file' is missing; it has ") as caught:
        read_table(write(tmp_path, f"{header}\na b c\n"), {"file": ()})
    advice = f"the header is one column; if blanks separate {columns} columns, save the table with commas"
    assert (advice in str(caught.value)) == (columns > 0)
    assert ("save the table with commas" in str(caught.value)) == (columns > 0)


def test_line_numbers_count_lines_of_the_file(tmp_path):
    file = write(tmp_path, 'image,report\na.png,"two\nlines"\n\n,\nb.png,"three\n\nlines"\nc.png,one\n')
    table = read_table(file, {"image": (), "report": ()})
    assert table["image"].tolist() == ["a.png", "b.png", "c.png"]
    assert table["line"].tolist() == [2, 6, 9]  # line 5, `,`, is empty
    assert table["report"][1] == "three\n\nlines"


def test_columns_are_found_whatever_their_spelling(tmp_path):
    file = write(tmp_path, "Patient-ID,IMAGE index,Patient Sex\n1,a.png,F\n")
    columns = {"Image Index": (), "Patient Gender": ("Patient Sex",), "patient_id": ()}
    table = read_table(file, columns)
    assert list(table) == ["Image Index", "Patient Gender", "patient_id", "line"]
    assert table.iloc[0].tolist() == ["a.png", "F", "1", 2]
    with pytest.raises(
        UserError, match=r"table\.csv: column 'View' is missing; it has Patient-ID, IMAGE index, Patient"
    ):
        read_table(file, {"View": ()})


def test_a_header_may_stand_below_blank_lines_and_span_lines(tmp_path):
    table = read_table(write(tmp_path, '\n\nimage,"note of\nthe reader"\na.png,x\n'), {"image": ()})
    assert table.to_dict("list") == {"image": ["a.png"], "line": [5]}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("first", ["sep=;", "SEP=;", '"sep=;"'])
def test_the_first_line_that_excel_puts_there_names_the_delimiter(tmp_path, first, end):
    rows = [first, "image;size,x,y,z", "a.png;1", "b.png;2"]  # the header has more commas than semicolons
    file = write(tmp_path, end.join(rows))
    assert read_header(file) == ["image", "size,x,y,z"]
    assert read_table(file, {"image": ()}).to_dict("list") == {"image": ["a.png", "b.png"], "line": [3, 4]}
    assert read_fields(file)[1] == (3, ["a.png", "1"])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("image,Mass,Mass", "2 columns are named 'Mass'; keep one of them"),
        ("image,mass,MASS", "2 columns are named 'mass' or 'MASS'; keep one of them"),
    ],
)
def test_a_column_that_is_there_twice_is_refused_where_it_is_wanted(tmp_path, header, message):
    file = write(tmp_path, f"{header}\na.png,1,0\n")
    with pytest.raises(UserError, match=rf"table\.csv: {message}"):
        read_table(file, {"image": (), "Mass": ()})
    assert read_table(file, {"image": ()})["image"].tolist() == ["a.png"]


def test_a_name_as_it_is_goes_before_one_that_is_alike(tmp_path):
    file = write(tmp_path, "mass,Mass,Mass.1\n1,2,3\n")
    assert read_table(file, {"Mass": (), "Mass.1": ()}).iloc[0].tolist() == ["2", "3", 2]


@pytest.mark.parametrize(
    ("last", "line"),
    [
        ("b.png,0", 3),  # cut off
        ("b.png,0\n", 3),
        ("b.png", 3),
        ('"b.\npng",1,1\nc.png,1', 5),
        ("b.png,1,1\n\n,\nc.png,1\nd.png,1,1\n", 6),
    ],
)
def test_a_row_that_ends_before_a_wanted_column_is_refused(tmp_path, last, line):
    file = write(tmp_path, f"image,Mass,Edema\na.png,1,1\n{last}")
    wanted = {"image": (), "Edema": ()}
    with pytest.raises(
        UserError, match=rf"table\.csv: line {line} ends before column 'Edema': the file is cut off, or"
    ):
        read_table(file, wanted)
    assert read_table(file, wanted, optional=["Edema"])["Edema"].iloc[0] == "1"
    assert read_table(file, {"image": ()})["image"].iloc[0] == "a.png"


def test_a_row_that_ends_before_all_wanted_columns_is_refused_too(tmp_path):
    with pytest.raises(UserError, match="line 3 ends before column 'image'"):
        read_table(write(tmp_path, "number,image\n0,a.png\n1"), {"image": ()})


def test_blank_rows_are_passed_over_however_short(tmp_path):
    table = read_table(write(tmp_path, "image,Mass,Edema\na.png,1,1\n\n,\n  \n,,\nb.png,1,1\n\n"), {"Edema": ()})
    assert table["line"].tolist() == [2, 7]


def test_fields_are_read_by_place(tmp_path):
    file = write(tmp_path, "\ufeffimage;box [x;y]\r\n a.png;1;2;;\r\n;;\r\nb.png\r\n")
    assert read_fields(file) == [(1, ["image", "box [x", "y]"]), (2, ["a.png", "1", "2", "", ""]), (4, ["b.png"])]


def test_optional_columns_may_be_missing(tmp_path):
    file = write(tmp_path, "image,Age\na.png,58\nb.png,61\n")
    table = read_table(file, {"Sex": ("Gender",), "age": (), "Image": ()}, optional=("Sex", "age"))
    assert table.to_dict("list") == {"Sex": ["", ""], "age": ["58", "61"], "Image": ["a.png", "b.png"], "line": [2, 3]}
    with pytest.raises(UserError, match="column 'Image' is missing"):
        read_table(write(tmp_path, "Age\n58\n"), {"Age": (), "Image": ()}, optional=("Age",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "not a readable CSV file"),
        (b"image,label\n", "no rows below the header"),
        (b"image,label\n\n,\n", "no rows below the header"),
        (b"image,label\na.png,M\xfcll\n", "line 2 is not valid UTF-8; save the file as UTF-8"),
        (b"image,label\na\0b,c\n", "it holds zero bytes"),
        (b'image,label\n"a.png,c\n', "not a readable CSV file"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, content, message):
    file = tmp_path / "table.csv" if content is None else write(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        read_table(file, {"image": ()})
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "\n\n", ";;\n;;\n", "sep=;\n", '"' + "x" * 200_000])
def test_a_file_without_a_header_is_named(tmp_path, content):
    file = write(tmp_path, content)
    for read in (read_header, read_fields):
        with pytest.raises(UserError, match=r"table\.csv: not a readable CSV file: "):
            read(file)


def test_a_damaged_gz_is_named(tmp_path):
    packed = gzip.compress(ROWS.encode() * 50)
    cut, flipped, wrong = packed[:-9], bytearray(packed), packed[:-6] + bytes(6)
    flipped[20:30] = b"\xff" * 10  # zlib's own error for this is not an OSError
    for content in (cut, bytes(flipped), wrong):
        with pytest.raises(UserError, match="cannot be read"):
            read_table(write(tmp_path, content, "table.csv.gz"), COLUMNS)


def test_what_is_no_file_is_named_and_not_waited_for(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("folder.csv", "pipe.csv"):
        with pytest.raises(UserError, match=f"{name}: is not a file"):
            read_table(tmp_path / name, COLUMNS)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["17.0", "4.0", ""], ["17", "4", None]),
        (["17.0", "4", "5.00"], ["17", "4", "5"]),
        (["17.0", "p4"], ["17.0", "p4"]),  # not all are numbers that were saved as floats
        (
            ["007", "216840111366964012768025509942010012100610090"],
            ["007", "216840111366964012768025509942010012100610090"],
        ),
        (["1e5", "2"], ["1e5", "2"]),
    ],
)
def test_ids_are_text_again(tmp_path, values, expected):
    found = identifiers(pd.Series(values, dtype="str"), tmp_path / "t.csv", "patient")
    assert [None if value != value else value for value in found] == expected


def test_rounded_ids_are_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"t\.csv: column 'patient' has '2\.1684E\+44': a spreadsheet seems to have rounded"
    ):
        identifiers(pd.Series(["1", "2.1684E+44"], dtype="str"), tmp_path / "t.csv", "patient")


def rows_of(**columns):
    table = pd.DataFrame(columns, dtype="str")
    return table.assign(line=np.arange(2, len(table) + 2))


def test_every_row_and_every_file_ends_in_one_place():
    files = Files(
        usable={name: f"images/{name}" for name in ("a.png", "b.png", "c.png", "spare.png", "Thumbs.db")},
        refused={"out.png": ("images/out.png", "is a link")},
        surplus=[("more/a.png", "a second file"), ("more/Thumbs.db", "a second file")],
    )
    table = rows_of(
        image=["a.png", "b.png", "b.png", "c.png", "c.png", "gone.png", "../x.png", "out.png"],
        label=["1", "1", "1", "0", "1", "1", "1", "1"],
    )
    joined = join_files(table, files, "t.csv", missing="images/{image}")
    assert joined.rows[["image", "path", "line"]].to_dict("list") == {
        "image": ["a.png", "b.png"],
        "path": ["images/a.png", "images/b.png"],
        "line": [2, 3],
    }
    assert sorted(joined.quarantined) == [
        ("images/../x.png", "listed in t.csv (line 8), but there is no such file"),
        ("images/b.png", "line 4 repeats an earlier row of t.csv"),
        ("images/c.png", "rows of t.csv contradict each other about this image (line 5)"),
        ("images/c.png", "rows of t.csv contradict each other about this image (line 6)"),
        ("images/gone.png", "listed in t.csv (line 7), but there is no such file"),
        ("images/out.png", "is a link"),
        ("images/spare.png", "no row of t.csv names this image"),
        ("more/a.png", "a second file"),
    ]
    assert joined.entries == len(table) + 2 == len(joined.rows) + len(joined.quarantined)


def test_unwanted_files_are_neither_listed_nor_unlisted():
    usable, refused = {"a.png": "a.png", "b.png": "b.png"}, {"c.png": ("c.png", "is a link"), "d.png": ("d.png", "x")}
    surplus = [("more/a.png", "a second file")]
    assert Files({}, {}, [], {"IM1"}).without({"a.png"}).dicom == {"IM1"}
    files = Files(usable, refused, surplus).without({"b.png", "c.png", "gone.png"})
    assert files == Files({"a.png": "a.png"}, {"d.png": ("d.png", "x")}, surplus)
    assert (len(usable), len(refused)) == (2, 2)
    joined = join_files(rows_of(image=["a.png"]), files, "t.csv")
    assert (joined.entries, {path for path, _ in joined.quarantined}) == (3, {"d.png", "more/a.png"})


def test_dicom_files_that_no_row_names_are_told_whatever_their_name():
    paths = ("a/IM1", "a/IM2", "a/notes", "a/1.2.840.99")
    surplus = [("b/IM1", "a second file"), ("b/notes", "a second file")]
    files = Files({path[2:]: path for path in paths}, {}, surplus, {"a/IM1", "a/IM2", "a/1.2.840.99", "b/IM1"})
    joined = join_files(rows_of(image=["IM2"]), files, "t.csv")
    assert joined.rows["path"].tolist() == ["a/IM2"]
    assert {path for path, _ in joined.quarantined} == {"a/IM1", "a/1.2.840.99", "b/IM1"}
    assert joined.entries == 4


def test_bad_rows_keep_their_reason_and_names_are_fit_for_one_line():
    files = Files({"a.png": "a.png", "b.png": "b.png"}, {}, [])
    table = rows_of(image=["a.png", "b.png", "new\nline", ""])
    joined = join_files(table, files, "t.csv", bad=pd.Series(["no label", None, None, None], dtype=object))
    assert joined.rows["image"].tolist() == ["b.png"]
    assert dict(joined.quarantined)["a.png"] == "no label"
    assert {path for path, _ in joined.quarantined} == {"a.png", "new\\nline", "(empty)"}


def test_composed_and_decomposed_names_are_one():
    files = Files({"M\u00fcll.png": "M\u00fcll.png"}, {}, [])
    joined = join_files(rows_of(image=["Mu\u0308ll.png"]), files, "t.csv")
    assert joined.rows["path"].tolist() == ["M\u00fcll.png"]
