"""Which file is meant by a path that was written on another machine."""

from pathlib import Path

import pandas as pd
import pytest

from medistill.data.reading.folders import find_files
from medistill.data.reading.locate import locate
from medistill.errors import UserError


def found(root, cells, *files, folder="."):
    """The file that each cell means, and the notes."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    raw = pd.DataFrame({"file": cells, "line": range(2, 2 + len(cells))})
    keys, notes = locate(raw, Path("t.csv"), "file", find_files(root, [folder], recursive=True), folder)
    return keys.tolist(), notes


@pytest.mark.parametrize(
    "prefix", ["/home/me/xrays/", "D:\\xrays\\", "d:/", "\\\\server\\share\\", "XRays-v1.0/", "a/b/c/", "/"]
)
def test_the_end_that_is_a_files_whole_path_names_it(tmp_path, prefix):
    cells = [f"{prefix}p10/1.png", f"{prefix}p11\\1.png", f"{prefix}p11/gone.png", f"{prefix}p11/2"]
    files = ("p10/1.png", "p11/1.png", "p11/2.png", "1.png")
    keys, notes = found(tmp_path, cells, *files)
    assert keys == ["p10/1.png", "p11/1.png", cells[2], "p11/2.png"]
    assert notes == [
        f"3 cells of column 'file' with a path of another machine, matched by its last parts: {cells[0]!r} is p10/1.png"
    ]


def test_the_end_may_begin_at_the_root_or_in_the_folder_of_images(tmp_path):
    cells = ["/x/images/1.png", "/x/2.png"]
    assert found(tmp_path, cells, "images/1.png", "images/2.png", "other/2.png", folder="images")[0] == [
        "images/1.png",
        "images/2.png",
    ]


def test_the_end_of_one_files_path_names_it(tmp_path):
    files = ("set/images/a/1.png", "set/images/b/1.png", "set/masks/c/1.png", "2.png")
    cells = ["a/1.png", "images/b/1", "c\\1.png", "d/1.png", "ges/a/1.png"]
    assert found(tmp_path, cells, *files) == ([files[0], files[1], files[2], "d/1.png", "ges/a/1.png"], [])
    with pytest.raises(
        UserError, match=r"'a/1\.png' may be set/images/a/1\.png or set/masks/a/1\.png; write the whole path"
    ):
        found(tmp_path, ["a/1.png"], *files, "set/masks/a/1.png")


def test_a_path_that_is_missing_here_is_no_path_of_another_machine(tmp_path):
    cells = ["a/1.png", "b/1.png", "c/2.png"]
    assert found(tmp_path, cells, "a/1.png", "1.png", "2.png") == (cells, [])


def test_no_path_leads_out_or_back(tmp_path):
    cells = ["/x/../1.png", "../1.png", "..\\a\\1.png"]
    assert found(tmp_path, cells, "1.png", "a/1.png") == (cells, [])


def test_where_all_lie_in_one_folder_there_the_name_counts_if_only_one_file_has_it(tmp_path):
    cells = ["/x/all/1.png", "/x/all/2.png", "/x/all/gone.png"]
    keys, notes = found(tmp_path, cells, "a/1.png", "b/2.png")
    assert keys == ["a/1.png", "b/2.png", "/x/all/gone.png"]
    assert notes[0].startswith("2 cells of column 'file' with a path of another machine")


@pytest.mark.parametrize(
    "cells", [["/x/NORMAL/1.png", "/x/SICK/2.png"], ["/x/test/1.png", "/x/test/2.png"], ["test/1.png", "test/2.png"]]
)
def test_a_name_alone_does_not_count_where_folders_tell_files_apart(tmp_path, cells):
    assert found(tmp_path, cells, "train/1.png", "train/2.png") == (cells, [])


def test_a_name_that_several_files_have_is_refused_with_both(tmp_path):
    with pytest.raises(UserError, match=r"line 3: column 'file': '/x/2\.png' may be a/2\.png or b/2\.png; write the"):
        found(tmp_path, ["/x/1.png", "/x/2.png"], "a/1.png", "a/2.png", "b/2.png")


def test_a_path_without_suffix_that_two_files_end_in_is_refused_with_both(tmp_path):
    with pytest.raises(UserError, match=r"'C:/x/a/1' may be a/1\.jpg or a/1\.png"):
        found(tmp_path, ["C:/x/a/1"], "a/1.png", "a/1.jpg")


@pytest.mark.parametrize("other", ["/x/p2/1.png", "1.png"])
def test_two_paths_that_may_be_the_same_file_are_refused_with_both(tmp_path, other):
    with pytest.raises(UserError, match=r"'/x/p1/1\.png'.*may both be 1\.png") as error:
        found(tmp_path, [other, "/x/p1/1.png"], "1.png", "2.png")
    assert repr(other) in str(error.value)
