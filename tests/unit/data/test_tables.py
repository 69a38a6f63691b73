"""Tables in every dialect, and the join of their rows with files: nothing is lost on the way."""

import gzip

import numpy as np
import pandas as pd
import pytest

from medistill.data.folders import Files
from medistill.data.tables import identifiers, join_files, read_table
from medistill.errors import UserError

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
        ("fields missing", b"image,patient,note\na.png,007,1e5\nb.png,NA\n"),
    ],
)
def test_every_dialect_gives_the_same_text(tmp_path, name, content):
    table = read_table(write(tmp_path, content))
    assert table.to_dict("list") == {
        "image": ["a.png", "b.png"],
        "patient": ["007", "NA"],  # neither a number nor missing
        "note": ["1e5", ""],
        "line": [2, 3],
    }


def test_gz_is_unpacked(tmp_path):
    file = write(tmp_path, gzip.compress(ROWS.encode()), "table.csv.gz")
    assert read_table(file)["patient"].tolist() == ["007", "NA"]


def test_line_numbers_count_lines_of_the_file(tmp_path):
    table = read_table(write(tmp_path, 'image,report\na.png,"two\nlines"\n\n,\nb.png,"three\n\nlines"\nc.png,one\n'))
    assert table["image"].tolist() == ["a.png", "b.png", "c.png"]
    assert table["line"].tolist() == [2, 6, 9]  # line 5, `,`, says nothing
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
        read_table(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_a_damaged_gz_is_named(tmp_path):
    file = write(tmp_path, gzip.compress(ROWS.encode())[:-9], "table.csv.gz")
    with pytest.raises(UserError, match="cannot be read"):
        read_table(file)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["17.0", "4.0", ""], ["17", "4", None]),
        (["17.0", "4", "5.00"], ["17", "4", "5"]),
        (["17.0", "p4"], ["17.0", "p4"]),  # not numbers that were saved as floats
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
    with pytest.raises(UserError, match=r"t\.csv: column 'patient' has '2\.1684E\+44': a spreadsheet has rounded"):
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
    files = Files(usable, refused, surplus).without({"b.png", "c.png", "gone.png"})
    assert files == Files({"a.png": "a.png"}, {"d.png": ("d.png", "x")}, surplus)
    assert (len(usable), len(refused)) == (2, 2)
    joined = join_files(rows_of(image=["a.png"]), files, "t.csv")
    assert (joined.entries, {path for path, _ in joined.quarantined}) == (3, {"d.png", "more/a.png"})


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
