"""`medistill check` succeeds on exactly the data sets on which `ingest` and the gate succeed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medistill.audit.command import FRACTIONS, SIZE, Request, check, report_text
from medistill.audit.findings import audit
from medistill.audit.quality import tables_of
from medistill.audit.rules import rules_of
from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.data.settings import MAX_QUARANTINED, Data
from medistill.errors import UserError
from medistill.params import load_params
from medistill.records.audit import Audit
from pipeline.expectations import validate
from pipeline.presets import PRESETS, preset_text
from tests.seal import seal
from tests.trees_tiles import write_folder, write_lc25000, write_picture

Rows = list[dict[str, Any]]


def rows_of_patients() -> Rows:
    """60 images of 30 patients: six in val, six in test, the others in train."""
    rows = []
    for number in range(60):
        patient = number // 2
        split = {0: "val", 1: "test"}.get(patient % 5, "train")
        labels = {"Mass": patient % 2, "Edema": number % 3 == 0}
        rows.append({"image": f"{number}.png", "patient": patient, "split": split, "age": 50, "view": "PA", **labels})
    return rows


def only_train(rows: Rows) -> Rows:
    return [row | {"split": "train"} for row in rows]


def without_test(rows: Rows) -> Rows:
    return [row for row in rows if row["split"] != "test"]


def change(**cells: Any) -> Callable[[Rows], Rows]:
    """A function that changes cells in the rows of one split, or of all."""
    split = cells.pop("on", None)
    return lambda rows: [row | cells if split in (None, row["split"]) else row for row in rows]


def repeated(count: int) -> Callable[[Rows], Rows]:
    return lambda rows: rows + rows[:count]


def torn(rows: Rows) -> Rows:
    return [*rows[:-1], rows[-1] | {"patient": rows[0]["patient"]}]


def draw(root: Path, files: dict[str, np.ndarray]) -> None:
    for name, pixels in files.items():
        Image.fromarray(pixels).save(root / "images" / name)


def same_pixels(root: Path) -> None:
    (root / "images" / "0.png").write_bytes((root / "images" / "4.png").read_bytes())  # of val and train


def blank(root: Path) -> None:
    draw(root, {"4.png": np.full((32, 32), 90, np.uint8), "6.png": np.full((32, 32), 255, np.uint8)})


def damaged(count: int) -> Callable[[Path], None]:
    numbers = [(4 + place) % 60 for place in range(count)]
    return lambda root: [(root / "images" / f"{number}.png").write_bytes(b"<html>") for number in numbers]


CSV = {"images": "images", "path": "image", "labels": ["Mass", "Edema"], "patient": "patient", "split": "split"}
CSV |= {"age": "age", "view": "view"}

SETS = {
    # change of the rows, change of the files, exit code of check, parts of its report
    "good": (None, None, 0, ["0 errors"]),
    "a damaged file of 60": (None, damaged(1), 0, ["left out: 1 of 60", "a web page"]),
    "two damaged files of 60": (None, damaged(2), 1, ["error: 2 of 60 entries", "what helps: fetch these files again"]),
    "rows that repeat": (repeated(2), None, 1, ["2 of 62 entries", "what helps: write one row per image"]),
    "no test split": (
        without_test,
        None,
        1,
        ["left out: 12", "error: 1 split without an image: test", "--write-splits"],
    ),
    "no val split, carved": (change(on="val", split="train"), None, 0, []),
    "nothing but train": (only_train, None, 1, ["error: 1 split without an image: test"]),
    "nothing to choose by": (
        change(on="val", Mass=1, Edema=0),
        None,
        1,
        ["error: 1 split in which every label", ": val"],
    ),
    "nothing to measure": (change(on="test", Mass="", Edema=""), None, 1, ["in which every label is constant: test"]),
    "nothing to learn": (change(on="train", Mass=0, Edema=0), None, 1, ["in which every label is constant: train"]),
    "a label that is constant in val": (change(on="val", Mass=1), None, 0, ["warning: 1 label without a negative"]),
    "a label that is nowhere": (change(Mass=0), None, 0, ["warning: 1 label without a positive in a split: Mass in"]),
    "a patient in two splits": (torn, None, 2, ["group 0 is in two splits, train and val"]),
    "the same picture in two splits": (
        None,
        same_pixels,
        1,
        ["identical pixel for pixel and in two", "--write-splits keeps"],
    ),
    "odd ages and views": (change(age=411, view="OBLIQUE"), None, 0, ["warning: 60 images with an age", "a view that"]),
    "blank and white frames": (
        None,
        blank,
        0,
        ["warning: 2 images blank: ", "warning: 1 image saturated: ", "6.png (1)"],
    ),
    "nothing at all can be used": (None, damaged(60), 2, ["none of the 60 entries is usable"]),
    "little can be used": (None, damaged(56), 1, ["error: 56 of 60", "set data.max_quarantined to 0.94"]),
}


@pytest.mark.parametrize("name", SETS)
def test_check_ends_as_ingest_and_the_gate_do(name, tmp_path):
    edit_rows, edit_files, exit_code, words = SETS[name]
    rows = rows_of_patients()
    for number in range(len(rows)):
        write_picture(tmp_path / "set" / "images" / f"{number}.png", number)
    if edit_files:
        edit_files(tmp_path / "set")
    pd.DataFrame(edit_rows(rows) if edit_rows else rows).to_csv(tmp_path / "set" / "table.csv", index=False)
    ends, told = check_ends(tmp_path, "csv", CSV)
    assert ends == exit_code
    assert (ends != 0) == pipeline_stops(tmp_path, "csv", CSV, "official")
    for text in words:
        assert text in told


def request(folder: Path, format: str, **changed: Any) -> Request:
    return Request(folder / "set", format, **({"splits": folder / "none", "cache": folder / "cache"} | changed))


def check_ends(folder: Path, format: str, options: dict[str, Any], **changed: Any) -> tuple[int, str]:
    """The exit code of `medistill check`, and its report."""
    try:
        report = check(request(folder, format, options=options, **changed))
    except UserError as error:
        return 2, str(error)
    return int(any(found["severity"] == "error" for found in report.to_json()["findings"])), report_text(report)


def pipeline_stops(folder: Path, format: str, options: dict[str, Any], split: str, **changed: Any) -> bool:
    """Whether `ingest` raises or the gate fails, with the settings of `check` and the default limit."""
    given = {"splits": folder / "none", "image_size": SIZE, "channels": 1, "seed": 0, "fit": "pad", "workers": 1}
    given |= FRACTIONS | {"max_quarantined": MAX_QUARANTINED} | changed
    data = Data(format=format, root=folder / "set", options=options, split=split, **given)
    try:
        ingest(data, folder / "processed", folder / "ingest")
    except UserError:
        return True
    dataset = Dataset.open(folder / "processed")
    limit = data.max_quarantined
    result = validate(dataset.folder, folder / "docs", max_quarantined=limit, audit=audit(dataset))
    broken = {entry.message for entry in result.expectations if not entry.success}
    assert len(broken) == len(result.failures) + len(result.warnings)
    return not result.success


def test_check_takes_the_limit_that_params_yaml_and_every_preset_come_with(tmp_path):
    file = tmp_path / "params.yaml"
    for name in PRESETS:  # params.yaml is one of them
        file.write_text(preset_text(name, None if name == "phantom" else Path("/data/set")))
        assert load_params(file).data.max_quarantined == MAX_QUARANTINED, name


def test_copies_without_a_list_of_groups_stop_both_and_check_writes_the_list(tmp_path):
    write_lc25000(tmp_path / "set", halves=("lung_image_sets",), groups=False)
    ends, told = check_ends(tmp_path, "lc25000", {})
    assert ends == 1
    assert (
        "error: the data set contains augmented copies, and no list says which images are copies of the same picture\n"
        in told
    )
    assert "what helps: run again with --write-splits splits, which writes groups.csv for ingest" in told
    assert pipeline_stops(tmp_path, "lc25000", {}, "patient", channels=3)
    splits = tmp_path / "splits"
    ends, told = check_ends(tmp_path, "lc25000", {}, splits=None, write_splits=splits)
    assert ends == 0, told
    assert not pipeline_stops(tmp_path, "lc25000", {}, "patient", channels=3, splits=splits)


def test_a_second_copy_of_the_data_set_beside_its_splits_is_named_with_its_folder(tmp_path):
    for root in (tmp_path / "set", tmp_path / "set" / "chest_xray"):
        write_folder(root, splits=("train", "val", "test"), images_each=4)
    ends, told = check_ends(tmp_path, "folder", {})
    assert ends == 1
    assert "  left out: 24 of 48 entries (--json lists all)\n    24 such as chest_xray/test/NORMAL/" in told
    assert (
        "move files that are not of this data set out of data.root (chest_xray/); or set data.max_quarantined to 0.5"
        in told
    )
    assert pipeline_stops(tmp_path, "folder", {}, "official")


def test_rules_of_the_library_and_great_expectations_find_the_same(tmp_path):
    """Each rule on a manifest that breaks most of them, with Great Expectations as the oracle."""
    rows = rows_of_patients()
    for number in range(len(rows)):
        write_picture(tmp_path / "set" / "images" / f"{number}.png", number)
    blank(tmp_path / "set")
    pd.DataFrame(rows).to_csv(tmp_path / "set" / "table.csv", index=False)
    assert not pipeline_stops(tmp_path, "csv", CSV, "official")
    manifest = pd.read_parquet(tmp_path / "processed" / "manifest.parquet")
    manifest.loc[[0, 3], "group_id"] = None
    manifest.loc[[1, 2], "image_id"] = "twice"
    manifest.loc[4, "image_id"] = None
    manifest.loc[5, "split"] = "holdout"
    manifest.loc[6, "split"] = None
    manifest.loc[manifest["split"] == "val", "split"] = "test"
    manifest.loc[7, "label:Mass"] = 0.5
    manifest.loc[manifest["split"] == "test", "label:Edema"] = 1.0
    manifest.loc[8:10, "age"] = [-1.0, 121.0, np.nan]
    manifest.loc[8:10, "sex"] = ["O", "F", None]
    manifest.loc[8:10, "view"] = ["X", "PA", None]
    manifest.loc[11, ["shard", "row", "sha256"]] = manifest.loc[12, ["shard", "row", "sha256"]]
    manifest.drop(columns="study_id").iloc[:55].to_parquet(tmp_path / "processed" / "manifest.parquet")
    seal(tmp_path / "processed" / "dataset.json")
    dataset = Dataset.open(tmp_path / "processed")
    found = Audit(findings=[], near_duplicates=[], shortcuts=[])
    result = validate(dataset.folder, tmp_path / "docs", max_quarantined=0.01, audit=found)
    tables = tables_of(dataset, found)
    rules = [rule for rule in rules_of(dataset, 60, 0.01) if rule.table in tables and rule.applies(tables[rule.table])]
    assert len(rules) == len(result.expectations)
    broken = 0
    for rule, entry in zip(
        sorted(rules, key=lambda rule: list(tables).index(rule.table)), result.expectations, strict=True
    ):
        assert (entry.name, entry.column, entry.expected) == (rule.name, rule.column, rule.expected)
        assert entry.success is (not rule.broken(tables[rule.table])), rule
        assert entry.severity == ("critical" if rule.critical else "warning")
        broken += not entry.success
        if entry.unexpected_count and rule.table == "images":
            assert len(rule.broken(tables["images"])) == entry.unexpected_count or rule.kind == "unique", rule
    assert broken >= 15
