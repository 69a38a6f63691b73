"""If `data.root` is a folder too high or too low, every format says which folder would do."""

import shutil
from pathlib import Path

import pytest

from medistill.data.adapters import formats, read_source
from medistill.data.reading.folders import suggest_root
from medistill.errors import UserError
from medistill.phantom.write import write_phantom
from tests.trees_cxr import write_chexpert, write_padchest
from tests.trees_readers import write_medmnist, write_mimic_cxr, write_rsna_pneumonia, write_vindr_cxr
from tests.trees_tiles import write_covid_qu_ex, write_csv, write_folder, write_lc25000

LAYOUTS = {
    # a function that writes a data set, and a folder within it
    "chestxray14": (lambda root: write_phantom(root, images=20, size=32, seed=0, prevalence="balanced"), "images"),
    "chexpert": (lambda root: write_chexpert(root, patients=2, valid=1), "train"),
    "padchest": (lambda root: write_padchest(root, patients=3), "0"),
    "covid_qu_ex": (lambda root: write_covid_qu_ex(root, images_each=2, doubled=False), "Lung Segmentation Data"),
    "lc25000": (lambda root: write_lc25000(root, top=""), "lung_image_sets"),
    "folder": (lambda root: write_folder(root, splits=("train", "test"), images_each=1), "test/NORMAL"),
    "csv": (lambda root: write_csv(root, patients=2), "images"),
    "mimic_cxr": (lambda root: write_mimic_cxr(root, patients=2), "files"),
    "vindr_cxr": (lambda root: write_vindr_cxr(root, images=4, test=1), "train"),
    "rsna_pneumonia": (lambda root: write_rsna_pneumonia(root, images=3), "stage_2_train_images"),
    "medmnist": (lambda root: write_medmnist(root, sizes=(2, 2, 2)), "below"),
}


@pytest.mark.parametrize("format", formats())
def test_a_root_too_high_or_too_low_says_which_would_do(format, tmp_path):
    write, within = LAYOUTS[format]
    right = tmp_path / "downloads" / "archive" / "release"
    options = write(right)
    options = options if format == "csv" else {}
    (tmp_path / "downloads" / "__MACOSX" / "release").mkdir(parents=True)
    (right / within).mkdir(exist_ok=True)
    assert len(read_source(format, right, options).rows) > 0
    for wrong in (right.parent.parent, right.parent, right / within):
        if (format, wrong) == ("chexpert", right.parent):
            continue  # this format also reads the folder above
        with pytest.raises(UserError) as caught:
            read_source(format, wrong, options)
        best = right.parent if (format, wrong) == ("chexpert", right.parent.parent) else right
        assert str(caught.value).startswith(str(wrong))
        assert str(caught.value).endswith(f"; set data.root to {best}")
        assert "\n" not in str(caught.value)
    shutil.rmtree(right)
    with pytest.raises(UserError) as caught:
        read_source(format, right.parent, options)
    assert "set data.root to" not in str(caught.value)


@pytest.mark.parametrize("name", ["archive.zip", "release.tar.gz", "SET.RAR"])
@pytest.mark.parametrize("format", formats())
def test_a_release_that_is_still_packed_is_told_to_be_unpacked(format, name, tmp_path):
    LAYOUTS[format][0](tmp_path / "another")  # which the folder above has, and is no reason to advise that one
    root = tmp_path / "release"
    root.mkdir()
    (root / name).touch()
    options = {"path": "file", "label": "label"} if format == "csv" else {}
    with pytest.raises(UserError, match=f"; {name} is there: unpack it$"):
        read_source(format, root, options)


def test_the_nearest_folders_are_suggested_and_nothing_behind_links(tmp_path):
    def would_do(folder: Path) -> bool:
        return (folder / "here").exists()

    for name in ("a/b", "a/c", "d/e/f", ".hidden", "__MACOSX"):
        (tmp_path / "root" / name).mkdir(parents=True)
        (tmp_path / "root" / name / "here").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "here").touch()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    root = tmp_path / "root"
    assert suggest_root(root, would_do) == f"; set data.root to {root / 'a/b'} or to {root / 'a/c'}"
    shutil.rmtree(root / "a")
    assert suggest_root(root, would_do) == f"; set data.root to {root / 'd/e/f'}"
    shutil.rmtree(root / "d")
    assert suggest_root(root, would_do) == ""
    (tmp_path / "here").touch()
    assert suggest_root(root, would_do) == f"; set data.root to {tmp_path}"
    assert suggest_root(root, would_do, above=False) == ""


def test_a_part_of_covid_qu_ex_within_its_doubled_folders_is_read_and_the_rest_is_named(tmp_path):
    write_covid_qu_ex(tmp_path / "covidqu", images_each=2)
    source = read_source("covid_qu_ex", tmp_path / "covidqu" / "Lung Segmentation Data", {})
    assert len(source.rows) == 18
    assert source.rows["mask"].isna().all()
    (note,) = source.notes
    assert note == (
        f"no folder Infection Segmentation Data, so no image has a mask; set data.root to {tmp_path / 'covidqu'}"
    )
    shutil.rmtree(tmp_path / "covidqu" / "Lung Segmentation Data")
    with pytest.raises(UserError, match=r"Segmentation Data is there, data\.options\.part: infection reads it$"):
        read_source("covid_qu_ex", tmp_path / "covidqu", {})
