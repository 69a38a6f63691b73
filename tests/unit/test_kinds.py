"""The kind of a file that was given as a table or an image, recognised by its first bytes."""

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medistill.data.reading.tables import read_table
from medistill.errors import UserError
from medistill.images.decode import read
from medistill.images.errors import ImageError
from medistill.kinds import HEAD, describe_kind, describe_picture

TABLE = b"image,Mass\na.png,1\n"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"


def zipped(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tarred(name="table.csv", mode="w"):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        member = tarfile.TarInfo(name)
        member.size = len(TABLE)
        archive.addfile(member, io.BytesIO(TABLE))
    return stream.getvalue()


def saved(save, *arguments):
    stream = io.BytesIO()
    save(stream, *arguments)
    return stream.getvalue()


FILES = {
    "zip": (zipped(**{"table.csv": TABLE}), "a ZIP archive", "unpack it"),
    "xlsx": (zipped(**{"[Content_Types].xml": "", "xl/workbook.xml": ""}), "an Excel workbook (.xlsx)", "as CSV"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "an Excel workbook of the old kind", "as CSV"),
    "ods": (
        zipped(mimetype="application/vnd.oasis.opendocument.spreadsheet"),
        "an OpenDocument sheet",
        "as CSV",
    ),
    "parquet": (saved(pd.DataFrame({"image": ["a"]}).to_parquet), "a Parquet file", "as CSV"),
    "npz": (saved(np.savez, np.zeros(3)), "a NumPy archive (.npz)", "medmnist"),
    "npy": (saved(np.save, np.zeros(3)), "a NumPy array (.npy)", "as CSV"),
    "pickle": (pickle.dumps({"image": 1}), "a pickle of Python", "as CSV"),
    "tar": (tarred(), "a tar archive", "unpack it"),
    "tar.gz": (tarred(mode="w:gz"), "a tar archive", "unpack it"),
    "gz of a zip": (gzip.compress(zipped(**{"table.csv": TABLE})), "a ZIP archive", "unpack it"),
    "bz2": (bz2.compress(TABLE), "packed by bzip2", "unpack it"),
    "xz": (lzma.compress(TABLE), "packed by xz", "unpack it"),
    "html": (b"\n<!DOCTYPE HTML><html><body>Sign in", "a web page", "download it again"),
    "html of a spreadsheet's export": (b"\xef\xbb\xbf<html>", "a web page", "download it again"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied", "an XML document", "download it again"),
    "json": (b'{"username": "jane", "key": "0123456789"}', "JSON", "as CSV"),
    "json list": (b'[\n  {"image": "a.png"}\n]', "JSON", "as CSV"),
    "git-lfs": (POINTER, "a Git LFS pointer", "git lfs pull"),
    "git-annex": (b"/annex/objects/SHA256E-s12--ab.csv\n", "a git-annex pointer", "git annex get"),
    "pdf": (b"%PDF-1.7\n", "a PDF", "as CSV"),
    "sqlite": (b"SQLite format 3\0" + bytes(84), "an SQLite database", "as CSV"),
    "png": (saved(lambda file: Image.new("L", (8, 8)).save(file, "PNG")), "a PNG image", "not a table"),
    "dicom": (bytes(128) + b"DICM" + bytes(20), "a DICOM file", "not a table"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz"])
def test_a_file_that_is_no_table_is_named_by_what_it_is_whatever_its_name(tmp_path, kind, name):
    content, what, advice = FILES[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_table(tmp_path / name, {"image": ()})
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / name}: is {what}")
    assert advice in message
    assert "\n" not in message
    assert "0123456789" not in message  # a secret key must not get into logs


@pytest.mark.parametrize(
    "header",
    ["image,Mass", "[image],label", "{image},label", "PK,label", "<5 mm,label", "version,label", "RIFF,%PDF"],
)
def test_a_header_is_none_of_them(tmp_path, header):
    head = f"{header}\na.png,1\n".encode()
    assert describe_kind(head) is describe_picture(head) is None
    (tmp_path / "table.csv").write_bytes(head)
    assert len(read_table(tmp_path / "table.csv", {header.split(",")[0]: ()})) == 1


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("git-lfs", ": a Git LFS pointer in place of the file; run git lfs pull"),
        ("git-annex", ": a git-annex pointer in place of the file; run git annex get"),
        ("html", ": a web page; the download failed; sign in at its source and download it again"),
        ("tar.gz", ": packed by gzip; unpack it"),
        ("json", ": JSON"),
    ],
)
def test_an_image_that_is_something_else_is_named_too(tmp_path, kind, advice):
    (tmp_path / "a.png").write_bytes(FILES[kind][0])
    with pytest.raises(ImageError) as caught:
        read(tmp_path / "a.png")
    assert caught.value.reason == f"not an image, or in a format that is not read{advice}"


def test_signatures_of_real_files_are_within_the_bytes_read():
    assert describe_kind(tarred()[:HEAD]) == ("a tar archive", "unpack it")
    assert describe_kind(b"") is None
