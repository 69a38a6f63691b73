"""LC25000 trees: which classes exist, and which pictures are copies of the same source."""

import gzip
import os
import shutil

import pytest

from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.errors import UserError
from tests.trees_tiles import (
    LC25000_CLASSES,
    classes_of,
    read_whole,
    settings,
    write_lc25000,
    write_mask,
    write_picture,
)

LUNG, COLON = LC25000_CLASSES


@pytest.fixture
def lung(tmp_path):
    """96 images of 24 sources, three classes."""
    root = tmp_path / "lc"
    write_lc25000(root, halves=(LUNG,), copies=4)
    return root


def read(root):
    return read_whole("lc25000", root)


@pytest.mark.parametrize(
    ("halves", "labels"),
    [
        ((LUNG, COLON), ["lung_aca", "lung_n", "lung_scc", "colon_aca", "colon_n"]),
        ((LUNG,), ["lung_aca", "lung_n", "lung_scc"]),
        ((COLON,), ["colon_aca", "colon_n"]),
    ],
)
@pytest.mark.parametrize("top", ["", "lung_colon_image_set"])
def test_the_classes_are_those_whose_half_is_there(tmp_path, halves, labels, top):
    write_lc25000(tmp_path, halves=halves, sources=2, top=top, groups=False)
    source = read(tmp_path)
    assert source.labels == labels
    assert (source.task, source.entries, source.quarantined) == ("multiclass", 6 * len(labels), [])
    for path, label in classes_of(source).items():
        assert path.split("/")[-2] == label
    assert source.official is None
    assert source.rows["image_id"].iloc[0].count("/") == 1  # the same whether the root is the set or its parent
    assert f"{labels[0]}/{labels[0].replace('_', '')}1.jpeg" in set(source.rows["image_id"])


def test_folders_within_a_class_spread_out_the_files(tmp_path):
    write_lc25000(tmp_path, halves=(COLON,), sources=1, groups=False)
    write_picture(tmp_path / COLON / "colon_n/more/1.jpeg", 3)
    source = read(tmp_path)
    assert classes_of(source)[f"{COLON}/colon_n/more/1.jpeg"] == "colon_n"
    assert "colon_n/more/1.jpeg" in set(source.rows["image_id"])


def test_without_groups_nothing_can_be_split(tmp_path):
    root = tmp_path / "lc"
    write_lc25000(root, groups=False)
    source = read(root)
    assert source.copies
    assert (source.rows["group_id"] == source.rows["image_id"]).all()
    with pytest.raises(UserError, match=r"medistill check .*lc --format lc25000"):
        ingest(settings("lc25000", root), tmp_path / "out", tmp_path / "cache")


def test_groups_of_the_root_keep_copies_in_one_split(lung, tmp_path):
    group_of = write_lc25000(lung, halves=(LUNG,), copies=4)
    ingest(settings("lc25000", lung, channels=3), tmp_path / "out", tmp_path / "cache")
    data = Dataset.open(tmp_path / "out")
    manifest = data.manifest
    assert dict(zip(manifest["path"], manifest["group_id"], strict=True)) == group_of
    assert manifest.groupby("group_id")["split"].nunique().eq(1).all()
    assert set(manifest["split"]) == {"train", "val", "test"}
    assert data.images(manifest).shape == (96, 3, 32, 32)
    assert data.targets(manifest).sum(axis=0).tolist() == [32, 32, 32]


def test_groups_may_be_packed_by_gzip(lung):
    plain = read(lung)
    (lung / "groups.csv.gz").write_bytes(gzip.compress((lung / "groups.csv").read_bytes()))
    (lung / "groups.csv").unlink()
    packed = read(lung)
    assert packed.rows.equals(plain.rows)
    assert not packed.copies


def test_masks_among_the_tiles_are_refused_and_both_are_named(lung):
    for file in sorted((lung / LUNG / "lung_n").glob("*.jpeg")):
        write_mask(lung / LUNG / "lung_n" / "masks" / f"{file.stem}.png", (1, 1, 3, 3))
    first = f"{LUNG}/lung_n/masks/lungn1.png: looks like the mask of {LUNG}/lung_n/lungn1.jpeg, not like an image"
    with pytest.raises(UserError, match=f"{first}; move {LUNG}/lung_n/masks out of data.root"):
        read(lung)


def test_groups_found_later_serve_as_well(tmp_path):
    root, found = tmp_path / "lc", tmp_path / "splits"
    group_of = write_lc25000(root, halves=(COLON,), copies=4, sources=12)
    found.mkdir()
    (root / "groups.csv").rename(found / "groups.csv")
    ingest(settings("lc25000", root, splits=found), tmp_path / "out", tmp_path / "cache")
    manifest = Dataset.open(tmp_path / "out").manifest
    assert dict(zip(manifest["path"], manifest["group_id"], strict=True)) == group_of


def test_rows_without_a_file_and_repeated_rows_are_left_out(lung):
    gone = lung / LUNG / "lung_n/lungn3.jpeg"
    gone.unlink()
    with (lung / "groups.csv").open("a") as stream:
        stream.write(f"../secret.jpeg,,x\n{LUNG}/lung_scc/lungscc1.jpeg,lung_scc,lung_scc_0\n")
    source = read(lung)
    assert (len(source.rows), source.entries) == (95, 98)
    reasons = dict(source.quarantined)
    assert reasons[f"{LUNG}/lung_n/lungn3.jpeg"] == "listed in groups.csv (line 36), but there is no such file"
    assert reasons["../secret.jpeg"] == "listed in groups.csv (line 98), but there is no such file"
    assert reasons[f"{LUNG}/lung_scc/lungscc1.jpeg"] == "line 99 repeats an earlier row of groups.csv"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            f"{LUNG}/lung_n/lungn1.jpeg,lung_n,lung_n_0\n{LUNG}/lung_n/lungn2.jpeg,lung_n,lung_n_0\n",
            "",
            rf"groups\.csv: 2 images are not in it, the first {LUNG}/lung_n/lungn1\.jpeg",
        ),
        (
            "lungaca2.jpeg,lung_aca,",
            "lungaca2.jpeg,lung_n,",
            r"groups\.csv: line 3: .*lungaca2\.jpeg has the label 'lung_n', but is in another class's folder",
        ),
        (
            "lungaca3.jpeg,lung_aca,lung_aca_0",
            "lungaca3.jpeg,lung_aca,",
            r"groups\.csv: line 4: path or group_id is empty",
        ),
        ("file,label,group_id", "file,label,gruop", r"groups\.csv: column 'group_id' is missing"),
    ],
)
def test_a_list_that_is_wrong_is_named_with_its_line(lung, old, new, message):
    text = (lung / "groups.csv").read_text()
    assert old in text
    (lung / "groups.csv").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        read(lung)


def test_an_image_with_two_groups_is_refused(lung):
    with (lung / "groups.csv").open("a") as stream:
        stream.write(f"{LUNG}/lung_n/lungn1.jpeg,lung_n,lung_n_5\n")
    with pytest.raises(UserError, match=r"line 98: .*lungn1\.jpeg has a second group_id"):
        read(lung)


@pytest.mark.parametrize("groups", [True, False])
def test_links_out_and_names_that_are_not_text_are_not_read(lung, tmp_path, groups):
    write_picture(tmp_path / "secret.jpeg", 1)
    image = lung / LUNG / "lung_aca/lungaca1.jpeg"
    image.unlink()
    image.symlink_to(tmp_path / "secret.jpeg")
    (lung / LUNG / "lung_n" / os.fsdecode(b"caf\xe9.jpeg")).touch()
    (lung / LUNG / "lung_n" / "Thumbs.db").touch()
    if not groups:
        (lung / "groups.csv").unlink()
    source = read(lung)
    assert (len(source.rows), source.entries) == (95, 97)
    assert [path for path, _ in sorted(source.quarantined)] == [
        f"{LUNG}/lung_aca/lungaca1.jpeg",
        f"{LUNG}/lung_n/caf\\xe9.jpeg",
    ]


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda root: shutil.rmtree(root), "lc: no such folder; set data.root"),
        (lambda root: shutil.rmtree(root / LUNG), "no folder lung_image_sets or colon_image_sets in it"),
        (lambda root: shutil.rmtree(root / LUNG / "lung_scc"), "lung_scc: no image in it; the data set is not whole"),
        (lambda root: (root / COLON / "colon_aca").mkdir(parents=True), "colon_aca: no image in it"),
    ],
)
def test_a_folder_that_is_not_the_data_set_says_what_is_missing(lung, break_it, message):
    break_it(lung)
    with pytest.raises(UserError, match=message):
        read(lung)
