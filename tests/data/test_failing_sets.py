"""Data sets that were once read wrongly, each with its right answer."""

from pathlib import Path

import pytest

from medistill.audit.command import Request, check, report_text
from medistill.data.adapters import read_source
from medistill.data.reading.masks import find_masks


@pytest.fixture(scope="module")
def failing(real_data: Path) -> Path:
    folder = real_data / "failing"
    if not folder.is_dir():
        pytest.skip("the folder of failing inputs is not among the real images")
    return folder


def report_of(root: Path, tmp_path: Path, format: str, **options: object) -> tuple[dict, str]:
    report = check(Request(root, format, tmp_path / "cache", options=options, splits=tmp_path / "none"))
    return report.to_json(), report_text(report)


def test_masks_in_twin_folders_are_no_images(failing, tmp_path):
    root = failing / "T1-masks-as-images" / "set"
    report, told = report_of(root, tmp_path, "folder")
    assert (report["images"], report["masks"], report["entries"]) == (30, 0, 30)
    assert "30 excluded by options: masks, by the name 'masks'" in told
    masked, _ = report_of(root, tmp_path, "folder", masks="masks")
    assert (masked["images"], masked["masks"]) == (30, 30)


def test_check_says_what_would_stop_ingest(failing, tmp_path):
    root = failing / "T2-check-green-ingest-stops"
    report, told = report_of(root / "kermany", tmp_path, "folder")
    (error,) = report["findings"]
    assert error["severity"] == "error"
    assert "error: 20 of 40 entries are left out" in told
    assert "(chest_xray/)" in error["advice"]
    options = {"images": "train", "path": "image_id", "label": "class_name"}
    report, told = report_of(root / "vinbig", tmp_path, "csv", **options)
    assert "of 179 entries are left out, more than data.max_quarantined (0.01) allows" in told
    assert "error: 1 split without an image: test" in told
    assert "warning: 13 labels without a positive in a split" in told


@pytest.mark.parametrize("table", ["first.csv", "middle.csv"])
def test_a_trailing_comma_is_read_in_whatever_row(failing, table):
    options = {"table": table, "images": "img", "path": "image", "labels": ["Mass"]}
    source = read_source("csv", failing / "T3-one-ragged-row", options)
    assert source.rows["label:Mass"].tolist() == [0, 1] * 6
    assert source.quarantined == []


def test_the_batches_of_chexpert_are_found_without_moving_a_file(failing):
    source = read_source("chexpert", failing / "T5-chexpert-batches" / "set", {})
    assert source.official.value_counts().to_dict() == {"train": 46, "test": 9}
    assert source.quarantined == source.notes == []
    assert source.unwanted == {"lateral views (views: frontal)": 17}


@pytest.mark.parametrize("name", ["kermany_224", "lc25000_lung_96", "hannover_256", "nih1000_256", "nih_extra_256"])
def test_no_real_image_is_taken_for_a_mask(real_data, name):
    root = real_data / name
    paths = [file.relative_to(root).as_posix() for file in root.rglob("*") if file.suffix in (".png", ".jpeg", ".jpg")]
    assert len(paths) > 200
    assert find_masks(paths) == {}


def test_masks_of_covid_qu_ex_are_told_from_images(real_data):
    root = real_data / "covidquex_256"
    masks = find_masks(file.relative_to(root).as_posix() for file in root.rglob("*.png"))
    assert len(masks) == 2 * 1864
    assert all(mask.image == path.replace(mask.kind, "images") for path, mask in masks.items())
