"""A record has checksums of itself and of the files beside it."""

import json
import os
import re

import numpy as np
import pandas as pd
import pytest

import medistill.checksums
from medistill.checksums import OWN, checksums, read_record, reading, require_whole, write_record
from medistill.errors import UserError


@pytest.fixture
def record(tmp_path):
    """A record of two files, one of them in a folder."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.bin").write_bytes(b"abc")
    (tmp_path / "folder" / "b.bin").write_bytes(b"")
    files = [tmp_path / "folder" / "b.bin", tmp_path / "a.bin"]
    path = tmp_path / "config.json"
    write_record(path, {"labels": ["é", "b"], "size": (1, 2), "rate": 0.1, "files": checksums(files, tmp_path)})
    return path


def test_what_was_written_comes_back_with_the_checksums_of_the_files(record):
    content = require_whole(record)
    assert content == read_record(record)
    assert content == {
        "labels": ["é", "b"],
        "size": [1, 2],
        "rate": 0.1,
        "files": {  # sha256sum of abc and of an empty file
            "a.bin": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "folder/b.bin": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        },
    }


def test_the_order_of_keys_and_spaces_say_nothing_and_every_value_does(record):
    text = json.loads(record.read_text())
    record.write_text(json.dumps(dict(reversed(text.items()))))
    assert read_record(record)["rate"] == 0.1
    for change in ({"rate": 0.2}, {"rate": "0.1"}, {"size": [2, 1]}, {"more": None}, {"files": {}}, {OWN: "0"}):
        record.write_text(json.dumps(text | change))
        with pytest.raises(UserError, match=r"config\.json: damaged or changed: .*; train the model again \(dvc repro"):
            read_record(record)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"labels": []}', "has no checksum, so an older version of medistill wrote it; train the model again"),
        ("[]", "has no checksum, so an older"),
        ('{"a"', r"not valid JSON \(.*\); train the model again"),
        ("[" * 100_000, r"not valid JSON \(.*\); train"),
        (b"\xff", "not valid JSON"),
        ("9" * 5000, "not valid JSON"),
        (None, "no such file; train the model again"),
    ],
)
def test_what_is_no_record_is_one_line(tmp_path, content, message):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: {message}") as error:
        read_record(path)
    assert len(str(error.value)) < 400


def test_a_file_that_has_changed_is_named(record):
    (record.parent / "a.bin").write_bytes(b"abd")
    require_whole(record, ["folder/b.bin"])
    with pytest.raises(UserError, match=r"/a\.bin: damaged or changed: config\.json has another checksum of it; train"):
        require_whole(record)
    (record.parent / "a.bin").unlink()
    with pytest.raises(UserError, match=r"/a\.bin: no such file; train the model again"):
        require_whole(record)
    (record.parent / "c.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"/c\.bin: config\.json has no checksum for it; train the model again"):
        require_whole(record, ["c.bin"])


def test_a_large_file_is_read_once_in_a_process_and_again_when_it_has_changed(record, monkeypatch):
    file, read, digest = record.parent / "a.bin", [], medistill.checksums.digest
    monkeypatch.setattr(medistill.checksums, "digest", lambda path: read.append(path.name) or digest(path))
    os.utime(file, (1, 1))
    for _ in range(3):
        require_whole(record, ["a.bin"])
    assert read == ["a.bin"]
    file.write_bytes(b"abd")
    os.utime(file, (1, 1))  # its ctime cannot be set
    with pytest.raises(UserError, match=r"a\.bin: damaged"):
        require_whole(record, ["a.bin"])


def test_a_file_that_was_just_written_is_read_each_time(record):
    file = record.parent / "a.bin"
    for content in (b"abd", b"abe"):  # within one tick of the file system's clock
        file.write_bytes(b"abc")
        require_whole(record)
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.bin: damaged"):
            require_whole(record)


READERS = {
    "parquet": pd.read_parquet,
    "npz": lambda path: np.load(path)["a"],
    "npy": lambda path: np.load(path, mmap_mode="r"),
    "json": lambda path: json.loads(path.read_text()),
    "csv": pd.read_csv,
}
JUNK = [b"", b'a,"b', b"PK\x03\x04junk", b"PAR1\x00\x00PAR1", b"\x93NUMPY\x01\x00v\x00{"]


@pytest.mark.parametrize(
    ("kind", "content"),
    [(kind, content) for kind in READERS for content in (JUNK[:2] if kind == "csv" else JUNK)],
)
def test_whatever_a_library_says_of_a_damaged_file_is_one_line(tmp_path, kind, content):
    path = tmp_path / "file"
    path.write_bytes(content)

    def read():
        with reading(path, "make it again"):
            return READERS[kind](path)

    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: damaged .*; make it again$") as error:
        read()
    assert "\n" not in str(error.value)


def test_what_is_not_there_or_may_not_be_read_is_one_line(tmp_path):
    for path, reason in (
        (tmp_path / "nothing", "no such file; again"),
        (tmp_path, r"cannot be read \(Is a directory\)"),
    ):
        with pytest.raises(UserError, match=f"{path.name}: {reason}"), reading(path, "again"):
            path.read_text()
