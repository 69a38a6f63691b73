"""The gate between data and training: its failures, its warnings and its files."""

import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.data.settings import Data
from medistill.errors import UserError
from medistill.phantom.write import write_phantom
from medistill.records.audit import Audit, Pair
from pipeline import expectations
from tests.seal import digests, seal

CRITICAL, WARNING = "failures", "warnings"


def validate(*arguments, **more) -> dict:
    """Run the gate; the content of validation.json."""
    return expectations.validate(*arguments, **more).to_json()


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom of 120 images, ingested."""
    folder = tmp_path_factory.mktemp("validate")
    write_phantom(folder / "phantom", images=120, size=32, seed=0, prevalence="balanced")
    settings = Data(
        format="chestxray14",
        root=folder / "phantom",
        split="official",
        val_fraction=0.3,
        test_fraction=0.3,
        seed=0,
        image_size=32,
        channels=1,
        fit="pad",
        max_quarantined=0.01,
        workers=1,
    )
    ingest(settings, folder / "processed", folder / "cache")
    return folder / "processed"


@pytest.fixture(scope="session")
def before(good: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The gate's verdict on it."""
    return validate(good, tmp_path_factory.mktemp("before") / "docs", max_quarantined=0.01)


@pytest.fixture
def processed(good: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil, at the path where the stage expects it."""
    folder = tmp_path / "data" / "processed"
    folder.mkdir(parents=True)
    for file in good.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def change(folder: Path, edit) -> pd.DataFrame:
    """Let `edit` change the manifest in place or return another one."""
    manifest = pd.read_parquet(folder / "manifest.parquet")
    changed = edit(manifest)
    manifest = manifest if changed is None else changed
    write_manifest(folder, manifest)
    return manifest


def write_manifest(folder: Path, manifest: pd.DataFrame) -> None:
    manifest.to_parquet(folder / "manifest.parquet", index=False)
    seal(folder / "dataset.json")


def write_pixels(folder: Path, pixels: np.ndarray) -> None:
    """Replace the pixels, as `ingest` would have written them."""
    np.save(folder / "images-00000.npy", pixels)
    write_manifest(folder, pd.read_parquet(folder / "manifest.parquet").assign(sha256=digests(pixels)))


def test_a_good_data_set_passes(processed, tmp_path):
    result = validate(processed, tmp_path / "docs", max_quarantined=0.01)
    assert result["success"]
    assert result["failures"] == []
    assert result["statistics"]["failed"] == 0
    assert result["statistics"]["evaluated"] == len(result["expectations"]) == 35
    names = {entry["name"] for entry in result["expectations"]}
    assert {"group_in_one_split", "pixels_in_one_split", "label_with_both"} <= names


def first_on(manifest, split):
    return manifest.index[manifest["split"] == split][0]


def same_patient(manifest):
    manifest.loc[first_on(manifest, "test"), "group_id"] = manifest["group_id"][first_on(manifest, "train")]


def copy_pixels(manifest, to, source):
    for column in ("shard", "row", "sha256"):
        manifest.loc[to, column] = manifest.loc[source, column]


def same_pixels(manifest):
    copy_pixels(manifest, first_on(manifest, "val"), first_on(manifest, "train"))


def twice(manifest):
    manifest.loc[1, "image_id"] = manifest["image_id"][0]


def no_group(manifest):
    manifest.loc[[3, 4], "group_id"] = None


def other_split(manifest):
    manifest.loc[0, "split"] = "holdout"


def no_val(manifest):
    manifest.loc[manifest["split"] == "val", "split"] = "train"


def odd_label(manifest):
    manifest.loc[5, "label:Mass"] = 0.5


def old(manifest):
    manifest.loc[:6, "age"] = 411.0


def odd_sex(manifest):
    manifest.loc[0, "sex"] = "O"


def odd_view(manifest):
    manifest.loc[0, "view"] = "OBLIQUE"


def constant_label(manifest):
    manifest.loc[manifest["split"] == "test", "label:Hernia"] = 1.0


def absent_label(manifest):
    manifest.loc[manifest["split"] == "val", "label:Hernia"] = 0.0


def copied(manifest):
    train = manifest.index[manifest["split"] == "train"]
    copy_pixels(manifest, train[1], train[0])


def rare(manifest):
    train = manifest.index[manifest["split"] == "train"]
    manifest.loc[train, "label:Nodule"] = 1.0
    manifest.loc[train[0], "label:Nodule"] = 0.0


def too_few(manifest):
    return manifest.iloc[:110]


@pytest.mark.parametrize(
    ("edit", "severity", "column", "parts"),
    [
        (same_patient, CRITICAL, "splits_of_group", ["one split only", "violated by ", " is in "]),
        (
            same_pixels,
            CRITICAL,
            "splits_of_pixels",
            ["identical pixel for pixel", "violated by 2 rows", "(val, as ", " in train)"],
        ),
        (twice, CRITICAL, "image_id", ["occurs once", "violated by 2 rows"]),
        (no_group, CRITICAL, "group_id", ["belongs to a group", "violated by 2 rows"]),
        (other_split, CRITICAL, "split", ["one of train, val, test", "violated by 1 row", "(holdout)"]),
        (no_val, CRITICAL, "split", ["at least one image", "found missing: val"]),
        (odd_label, CRITICAL, "label:Mass", ["0, 1, or empty", "violated by 1 row", "(0.5)"]),
        (too_few, CRITICAL, "images", ["data.max_quarantined", "found 110"]),
        (old, WARNING, "age", ["0 to 120 years", "violated by 7 rows", "(411.0)"]),
        (odd_sex, WARNING, "sex", ["violated by 1 row", "(O)"]),
        (odd_view, WARNING, "view", ["violated by 1 row", "(OBLIQUE)"]),
        (copied, WARNING, "copies_of_pixels", ["twice", "violated by 2 rows", "(as "]),
        (rare, WARNING, "prevalence", ["0.0005 to 0.95", "Nodule in train (0.9"]),
        (constant_label, WARNING, "negatives", ["constant in a split", "Hernia in test"]),
        (absent_label, WARNING, "positives", ["constant in a split", "Hernia in val"]),
    ],
)
def test_each_rule_is_broken_in_one_line(before, processed, tmp_path, edit, severity, column, parts):
    change(processed, edit)
    after = validate(processed, tmp_path / "docs", max_quarantined=0.01)
    (line,) = [line for line in after[severity] if line.startswith(f"{column}: ") and line not in before[severity]]
    assert "\n" not in line
    for part in parts:
        assert part in line
    assert line.count("; ") <= 6  # five examples at most
    assert after["success"] is (severity == WARNING)


def test_a_missing_column_is_named_once(processed, tmp_path):
    change(processed, lambda manifest: manifest.drop(columns=["group_id", "label:Edema"]))
    result = validate(processed, tmp_path / "docs", max_quarantined=0.01)
    assert not result["success"]
    (line,) = result["failures"]
    assert line == "images: expected: The manifest has all its columns; found missing: group_id, label:Edema"


def test_blank_frames_are_a_warning(processed, tmp_path):
    pixels = np.load(processed / "images-00000.npy")
    pixels[[7, 9]] = 40
    write_pixels(processed, pixels)
    result = validate(processed, tmp_path / "docs", max_quarantined=0.01)
    manifest = pd.read_parquet(processed / "manifest.parquet")
    assert result["success"]
    (line,) = [line for line in result["warnings"] if line.startswith("pixel_deviation")]
    assert "violated by 2 rows" in line
    assert all(manifest["image_id"][row] in line for row in (7, 9))


def edit_pixels(folder: Path, rows: list[int], change) -> list[str]:
    pixels = np.load(folder / "images-00000.npy")
    pixels[rows] = change(pixels[rows])
    write_pixels(folder, pixels)
    return pd.read_parquet(folder / "manifest.parquet")["image_id"][rows].tolist()


@pytest.mark.parametrize(
    ("column", "change"), [("likeness", lambda pixels: 255 - pixels), ("white_share", lambda pixels: pixels | 255)]
)
def test_inverted_and_saturated_frames_are_a_warning(processed, tmp_path, column, change):
    names = edit_pixels(processed, [3, 11, 40], change)
    (line,) = [line for line in warnings_of(processed, tmp_path) if line.startswith(column)]
    assert "violated by 3 rows" in line
    assert all(name in line for name in names)


def warnings_of(folder: Path, tmp_path: Path, **more) -> list[str]:
    return validate(folder, tmp_path / "docs", max_quarantined=0.01, **more)["warnings"]


def test_pictures_without_a_common_shape_are_never_inverted(tmp_path, good):
    folder = tmp_path / "noise"
    shutil.copytree(good, folder)
    count = len(pd.read_parquet(folder / "manifest.parquet"))
    noise = np.random.default_rng(0).integers(0, 255, (count, 1, 32, 32), dtype=np.uint8)
    write_pixels(folder, noise)
    assert not [line for line in warnings_of(folder, tmp_path) if line.startswith("likeness")]


def found(**changed):
    return Audit(**{"findings": [], "near_duplicates": [], "shortcuts": []} | changed)


def test_near_duplicates_across_splits_are_a_warning(processed, tmp_path):
    images = pd.read_parquet(processed / "manifest.parquet")["image_id"]
    pairs = [
        Pair(image_id=images[0], other=images[5], splits=["train", "test"], correlation=0.99, kind="same"),
        Pair(image_id=images[1], other=images[2], splits=["train"], correlation=0.98, kind="same"),
    ]
    lines = warnings_of(processed, tmp_path, audit=found(near_duplicates=pairs))
    (line,) = [line for line in lines if line.startswith("near_duplicates")]
    assert "violated by 2 rows" in line
    assert f"{images[0]} (like {images[5]}); {images[5]} (like {images[0]})" in line
    assert images[1] not in line


def test_shortcuts_are_a_warning(processed, tmp_path):
    rows = [
        {"label": "Edema", "cue": "view", "auroc": 0.8, "lower": 0.7, "upper": 0.9, "images": 84, "positives": 20},
        {"label": "Mass", "cue": "view", "auroc": 0.7, "lower": 0.6, "upper": 0.8, "images": 84, "positives": 20},
    ]
    lines = warnings_of(processed, tmp_path, audit=found(shortcuts=rows))
    (line,) = [line for line in lines if line.startswith("lower")]
    assert "violated by 1 row" in line
    assert "Edema by view (0.7)" in line
    assert "Mass" not in line


def test_weights_that_have_seen_the_test_split_stop_the_graph(processed, tmp_path):
    dataset = Dataset.open(processed)
    for name, split in (("clean", "train"), ("seen", "test")):
        (tmp_path / name).mkdir()
        provenance.write_ids(tmp_path / name / provenance.FILE, provenance.ids_of(dataset, split))
    (tmp_path / "unknown").mkdir()
    weights = {f"teachers.{name}": tmp_path / name / "model.safetensors" for name in ("clean", "seen", "unknown")}
    result = validate(processed, tmp_path / "docs", max_quarantined=0.01, weights=weights)
    (failure,) = result["failures"]
    test = dataset.split("test")
    assert "trained on no group and no image of the val and test split; violated by 1 row" in failure
    counts = f"{test['group_id'].nunique()} groups and {test['sha256'].nunique()} images"
    assert f"teachers.seen ({counts} of the test split)" in failure
    (warning,) = [line for line in result["warnings"] if line.startswith("seen")]
    assert "teachers.unknown" in warning
    assert "teachers.clean" not in failure + warning


def flip(file):
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.unlink(), "no such file"),
        (lambda file: file.write_bytes(b"junk"), "damaged"),
        (flip, r"the pixels of image \S+ have changed"),
    ],
)
def test_a_damaged_shard_is_named(processed, tmp_path, damage, message):
    damage(processed / "images-00000.npy")
    with pytest.raises(UserError, match=rf"images-00000\.npy: {message}.*; run the ingest stage again"):
        validate(processed, tmp_path / "docs", max_quarantined=0.01)


def test_the_result_is_the_same_each_time(processed, tmp_path):
    change(processed, same_patient)
    assert validate(processed, tmp_path / "one", max_quarantined=0.01) == validate(
        processed, tmp_path / "two", max_quarantined=0.01
    )


def test_the_pages_work_offline_and_run_nothing(processed, tmp_path):
    change(
        processed,
        lambda manifest: manifest.replace({"image_id": {manifest["image_id"][0]: "<script>alert(1)</script>"}}),
    )
    change(processed, lambda manifest: manifest.assign(group_id=None))
    docs = tmp_path / "docs"
    validate(processed, docs, max_quarantined=0.01)
    pages = list(docs.rglob("*.html"))
    assert len(pages) == 7
    for page in pages:
        text = page.read_text()
        assert "http://" not in text
        assert "https://" not in text
        assert "<script" not in text
        assert "default-src 'none'" in text
    (results,) = [page for page in pages if "validations/images" in page.as_posix()]
    assert "Every image belongs to a group" in results.read_text()
    index = (docs / "index.html").read_text()
    assert results.relative_to(docs).as_posix() in index


class Tags(HTMLParser):
    """Tags of a page with their attributes, and its text."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def test_names_and_values_are_text_in_the_data_docs_and_nothing_in_them_is_obeyed(processed, tmp_path):
    label, view = '<meta http-equiv="refresh" content="0">$column &lt; {0}', "<form action='x'>\x1b[2J\u202e$v__0"

    def spoil(manifest):
        manifest["view"] = view
        manifest.loc[0, ["image_id", "age"]] = ["<a href='x'>\x1b", 300]
        return manifest.rename(columns={"label:Mass": f"label:{label}"})

    change(processed, spoil)
    meta = json.loads((processed / "dataset.json").read_text())
    labels = [label if name == "Mass" else name for name in meta["labels"]]
    seal(processed / "dataset.json", labels=labels)
    result = validate(processed, tmp_path / "docs", max_quarantined=0.01)

    found = {entry["name"] + str(entry["column"]): entry for entry in result["expectations"]}
    assert found[f"label_valueslabel:{label}"]["success"]
    assert found["viewview"]["examples"][0]["view"] == view
    assert found["ageage"]["examples"] == [{"age": 300.0, "image_id": "<a href='x'>\x1b"}]
    text = ""
    for page in (tmp_path / "docs").rglob("*.html"):
        content = page.read_text(encoding="utf-8")
        assert content.replace("\n", "").replace("\t", "").isprintable()
        tags = Tags(content)
        text += tags.text
        assert not {"form", "script"} & {tag for tag, _ in tags.found}
        assert {attributes.get("http-equiv", "Content-Security-Policy").lower() for tag, attributes in tags.found} == {
            "content-security-policy"
        }
        assert "x" not in [attributes.get("href") for _, attributes in tags.found]
    assert f"label:{label}" in text
    assert r"<form action='x'>\x1b[2J\u202e" in text


def run_stage(root: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipeline.stages.validate"]
    shutil.copy(root / "params.yaml", folder)
    audit = folder / "reports" / "validation" / "audit.json"
    found().write(audit)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_the_stage_stops_with_a_line_a_failure_and_leaves_what_one_needs_to_look(root, processed, tmp_path):
    change(processed, same_patient)
    change(processed, old)
    done = run_stage(root, tmp_path)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    (error,) = [line for line in lines if line.startswith("error: ")]
    assert error.startswith("error: splits_of_group: expected: Every patient")
    assert [line for line in lines if line.startswith("warning: age: ")]
    assert all(line.startswith(("error: ", "warning: ")) for line in lines)
    result = json.loads((tmp_path / "reports/validation/validation.json").read_text())
    assert result["success"] is False
    assert (tmp_path / "reports/validation/data_docs/index.html").is_file()


def test_the_stage_passes_a_good_data_set(root, processed, tmp_path):
    done = run_stage(root, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "reports/validation/validation.json").read_text())["success"] is True


def test_the_stage_without_data_is_one_line(root, tmp_path):
    done = run_stage(root, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: data/processed/dataset.json: no such file; run the ingest stage again (dvc ")
    assert done.stderr.count("\n") == 1
