"""The index of a data set's files: all files in the folder, and none outside."""

import os
import tempfile
import unicodedata
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from medistill.data.reading.folders import IMAGE_SUFFIXES, Files, find_files, is_image_name, list_images, require_folder
from medistill.errors import UserError
from medistill.images import decode as images


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    for path in ("a/1.png", "a/2.png", "a/deep/3.png", "b/1.png", "top.txt"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)
    return folder


def test_keys_are_paths_or_names(root):
    by_path = find_files(root, ["a", "b"])
    assert by_path.usable == {path: path for path in ("a/1.png", "a/2.png", "b/1.png")}
    by_name = find_files(root, ["a", "b"], by="name")
    assert by_name.usable == {"1.png": "a/1.png", "2.png": "a/2.png"}
    assert by_name.surplus == [("b/1.png", "a second file of this name, the first is a/1.png")]


def test_folders_below_are_entered_only_where_asked(root):
    assert set(find_files(root, ["."]).usable) == {"top.txt"}
    everything = {"a/1.png", "a/2.png", "a/deep/3.png", "b/1.png", "top.txt"}
    assert set(find_files(root, ["."], recursive=True).usable) == everything


def test_links_lead_nowhere_outside(root, tmp_path):
    (tmp_path / "secret.png").write_text("secret")
    (root / "a" / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "a" / "in.png").symlink_to(root / "b" / "1.png")
    (root / "a" / "broken.png").symlink_to(root / "nowhere.png")
    files = find_files(root, ["."], recursive=True)
    outside = "is a link that leads out of the data set's folder"
    assert files.refused == {"a/out.png": ("a/out.png", outside)}
    assert {"a/in.png", "a/broken.png"} <= set(files.usable)  # the broken link is reported when it is read


def test_a_folder_that_leads_out_is_an_error(root, tmp_path):
    (tmp_path / "outside").mkdir()
    (root / "c").symlink_to(tmp_path / "outside")
    with pytest.raises(UserError, match="c: is a link that leads out of"):
        find_files(root, ["c"])
    with pytest.raises(UserError, match="leads out of"):
        find_files(root, ["../outside"])
    (root / "a" / "d").symlink_to(tmp_path / "outside")  # without the error its files would silently be missing
    with pytest.raises(UserError, match="a/d: is a link that leads out of"):
        find_files(root, ["a"], recursive=True)


def test_a_link_to_a_folder_inside_is_an_error_too(root):
    """If links were ignored, images would silently be missing; if they were followed, images could be read twice."""
    (root / "a" / ".loop").symlink_to(root)  # hidden ones are passed over, as folders are
    (root / "c").symlink_to(root / "a")
    assert set(find_files(root, ["c"]).usable) == {"c/1.png", "c/2.png"}  # a named folder may be a link
    assert set(find_files(root, ["a"], recursive=True).usable) == {"a/1.png", "a/2.png", "a/deep/3.png"}
    with pytest.raises(UserError, match="root/c: is a link to a folder; put the folder itself there, or remove the"):
        find_files(root, ["."], recursive=True)


@pytest.fixture
def locked():
    """A folder directly in the system's temporary folder, as pytest's own folders are closed to other users."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        (root / "a" / "deep").mkdir(parents=True)
        (root / "a" / "deep").chmod(0)
        yield root
        (root / "a" / "deep").chmod(0o700)


def test_a_folder_that_must_not_be_read_is_named(locked):
    user = os.geteuid()
    try:
        if user == 0:  # root may read everything
            os.seteuid(65534)
        with pytest.raises(UserError, match=f"{locked.name}/a/deep: the folder cannot be read: Permission denied"):
            find_files(locked, ["."], recursive=True)
        with pytest.raises(UserError, match="a/deep: the folder cannot be read: Permission denied"):
            require_folder(locked / "a" / "deep")
    finally:
        os.seteuid(user)


def test_names_that_are_no_text_are_refused_and_can_be_written_down(root):
    name = b"M\xfcller.png"  # Latin-1
    with open(os.path.join(os.fsencode(root / "a"), name), "wb"):
        pass
    files = find_files(root, ["a"])
    assert files.refused == {"a/M\\xfcller.png": ("a/M\\xfcller.png", "its name is not valid UTF-8; rename the file")}
    files.path("a/M\\xfcller.png").encode("utf-8")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_both_forms_of_a_name_have_one_key_and_keep_their_path(root, form):
    name = unicodedata.normalize(form, "M\u00fcller \u03b2.png")
    (root / "a" / name).touch()
    assert find_files(root, ["a"], by="name").usable["M\u00fcller \u03b2.png"] == f"a/{name}"


def test_what_looks_like_an_image():
    names = ["x.PNG", "x.jpeg", "x.dcm", "x.dicom", "x.tif", "Thumbs.db", "x.csv", "x", ".png"]
    assert [is_image_name(name) for name in names] == [True] * 5 + [False] * 4
    Image.init()
    assert {end for end, kind in Image.registered_extensions().items() if kind in images.FORMATS} <= IMAGE_SUFFIXES


@pytest.mark.parametrize("name", ["IM0001", "1.2.840.99", "image.ima", "x.dcm"])
def test_dicom_is_known_by_its_content(root, name):
    (root / "a" / name).write_bytes(b"\0" * 128 + b"DICM and more")
    (root / "a" / "late").write_bytes(b"\0" * 129 + b"DICM")
    (root / "a" / "short").write_bytes(b"DICM")
    (root / "a" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM, a table of contents")
    os.mkfifo(root / "a" / "pipe")  # reading it would block for ever
    files = find_files(root, ["."], recursive=True)
    assert files.is_image(f"a/{name}")
    usable, others = list_images(files)
    assert set(usable) == {"a/1.png", "a/2.png", "a/deep/3.png", "b/1.png", f"a/{name}"}
    assert others == []


def test_dicom_of_one_name_or_of_no_text_is_not_lost(root, tmp_path):
    content = b"\0" * 128 + b"DICM"
    for folder in ("a", "b"):
        (root / folder / "IM0001").write_bytes(content)
    (root / "a" / os.fsdecode(b"M\xfcller")).write_bytes(content)
    usable, others = list_images(find_files(root, ["a", "b"], by="name"))
    assert usable["IM0001"] == "a/IM0001"
    assert {path for path, _ in others} == {"b/1.png", "b/IM0001", "a/M\\xfcller"}


def test_hidden_folders_below_are_not_entered(root):
    for path in (".cache/1.png", "a/.thumbnails/1.png", "__MACOSX/a/._1.png"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    everything = {"a/1.png", "a/2.png", "a/deep/3.png", "b/1.png", "top.txt"}
    assert set(find_files(root, ["."], recursive=True).usable) == everything


def test_a_link_to_itself_is_left_to_the_reader(root):
    (root / "a" / "self.png").symlink_to("self.png")
    assert "a/self.png" in find_files(root, ["."], recursive=True).usable


@pytest.mark.parametrize("masks", ["masks", "a masks", "Segmentations", "z_masks"])
def test_of_an_image_and_its_mask_of_one_name_the_image_is_found_by_name(tmp_path, masks):
    for folder in (masks, "images", "images/older"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").touch()
    files = find_files(tmp_path, ["."], recursive=True, by="name")
    assert files.usable["1.png"] in ("images/1.png", "images/older/1.png")
    assert len(files.surplus) == 2
    assert f"{masks}/1.png" in {path for path, _ in files.surplus}


def test_masks_among_images_without_a_table_are_refused():
    files = Files({name: name for name in ("a.png", "a_mask.png", "b.png")}, {}, [])
    with pytest.raises(
        UserError, match=r"a_mask\.png: looks like the mask of a\.png, .* files whose names have '_mask'"
    ):
        list_images(files)
    assert len(list_images(files.without(["a.png"]))[0]) == 2  # a mask without its image


def test_files_of_two_folders_are_joined_by_new_keys():
    one = Files({"a/1": "a/1", "a/2": "a/2"}, {"a/3": ("a/3", "is a link")}, [("a/x", "second")], {"a/1"})
    other = Files({"b/2": "b/2", "b/4": "b/4"}, {"b/3": ("b/3", "is a link"), "b/5": ("b/5", "odd")}, [], {"b/2"})
    joined = one.joined_by(other, lambda key: key.replace("b/", "a/"))
    assert joined.usable == {"a/1": "a/1", "a/2": "a/2", "a/4": "b/4"}
    assert joined.refused == {"a/3": ("a/3", "is a link"), "a/5": ("b/5", "odd")}
    assert joined.dicom == {"a/1", "b/2"}
    second = "a second file of this name, the first is"
    assert joined.surplus == [("a/x", "second"), ("b/2", f"{second} a/2"), ("b/3", f"{second} a/3")]
    assert len(one.usable) == 2


def test_images_without_a_table_are_all_accounted_for():
    files = Files(
        usable={"a.png": "a.png", "ä.png": "a\u0308.png", "a.txt": "a.txt"},
        refused={"b.png": ("b.png", "is a link"), "b": ("b", "is a link")},
        surplus=[("c.jpg", "a second file"), ("c.db", "a second file")],
    )
    usable, others = list_images(files)
    assert usable == {"a.png": "a.png", "ä.png": "a\u0308.png"}
    assert others == [("b.png", "is a link"), ("c.jpg", "a second file")]


def test_a_file_in_place_of_the_folder_is_named_by_what_it_is(tmp_path):
    (tmp_path / "table.csv").write_text("image,Mass\n")
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("images/1.png", b"")
    for name, message in (
        ("table.csv", "is a file, not a folder; set data.root to the data set's folder"),
        ("archive.zip", "is a ZIP archive, not a folder; unpack it and set data.root to the data set's folder"),
        ("nothing", "no such folder; set data.root to the data set's folder"),
    ):
        with pytest.raises(UserError) as caught:
            require_folder(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {message}"
