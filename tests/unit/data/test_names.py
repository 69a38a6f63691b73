"""Names that a terminal, a page or a spreadsheet would run: labels are refused, names of files and people escaped."""

import csv
import json

import pandas as pd
import pytest
from PIL import Image

from medistill.audit.command import Request, check, report_text
from medistill.data.adapters import read_source
from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.data.settings import Data
from medistill.errors import UserError
from medistill.files import read_json
from medistill.text import to_json

OBEYED = "\x1b[31m\n\u202e\x9b2J"
SHOWN = r"\x1b[31m\n\u202e\x9b2J"


def write_rows(root, rows, columns=("file", "patient", "findings")):
    root.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=list(columns)).to_csv(root / "table.csv", index=False)


def draw(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((24, 24), 40 + number).save(path, "PNG")


REFUSED = [
    "\x1b[31mMass",
    "Mass\nNodule",
    "Mass\x07",
    "\u202essaM",
    "Mass\u2066",
    "Mass\u200f",
    "Ma\u2028ss",
    "Ma\x85ss",
]


@pytest.mark.parametrize("label", REFUSED)
def test_a_label_in_a_table_that_would_be_obeyed_is_refused_in_one_line(tmp_path, label):
    write_rows(tmp_path, [("a.png", "1", "Edema;Cyst"), ("b.png", "2", f"{label};Cyst")])
    for number, name in enumerate("ab"):
        draw(tmp_path / f"{name}.png", number)
    options = {"path": "file", "labels": "findings", "separator": ";"}
    with pytest.raises(UserError, match=rf"^{tmp_path}: the label .* has a control character") as caught:
        read_source("csv", tmp_path, options)
    assert str(caught.value).isprintable()
    assert repr(label) in str(caught.value)


@pytest.mark.parametrize("label", REFUSED)
def test_a_column_that_is_a_label_and_would_be_obeyed_is_refused(tmp_path, label):
    write_rows(tmp_path, [("a.png", 1, 0), ("b.png", 0, 1)], columns=("file", "Cyst", label))
    for number, name in enumerate("ab"):
        draw(tmp_path / f"{name}.png", number)
    with pytest.raises(UserError, match=r"has a control character|is not there") as caught:
        read_source("csv", tmp_path, {"path": "file", "labels": ["Cyst", label]})
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("label", [*REFUSED, "caf\udce9"])
def test_a_folder_of_a_class_that_would_be_obeyed_is_refused(tmp_path, label):
    for number, name in enumerate(("Cyst", label)):
        draw(tmp_path / name / "a.png", number)
        draw(tmp_path / name / "b.png", number + 2)
    if label == "caf\udce9":  # not text: its files are left out by name, and the one class left is too few
        with pytest.raises(UserError, match="2 or more labels are needed, but found Cyst"):
            read_source("folder", tmp_path, {})
        return
    with pytest.raises(UserError, match=rf"^{tmp_path}: the label .* has a control character") as caught:
        read_source("folder", tmp_path, {})
    assert repr(label) in str(caught.value)


@pytest.mark.parametrize("label", ["Röntgen 胸部", "ذات الرئة", "می‌شود", "Pleural\u00a0effusion", "=1+1", "-", "<b>"])
def test_labels_of_every_language_are_read(tmp_path, label):
    for number, name in enumerate(("Cyst", label)):
        draw(tmp_path / name / "a.png", number)
    assert read_source("folder", tmp_path, {}).labels == sorted(["Cyst", label])


def test_an_adapter_that_gives_a_label_twice_or_none_is_refused(tmp_path, monkeypatch):
    from medistill.data.adapters import folder

    alike = (["A", "M\xe9", "Me\u0301"], "'Me\u0301' occurs twice")  # one name in two Unicode forms
    for labels, message in ((["A", "B", "A"], "'A' occurs twice"), (["A", " "], "' ' is blank"), alike):
        for number, name in enumerate("AB"):
            draw(tmp_path / name / "a.png", number)
        with monkeypatch.context() as patch:
            made = folder.read(tmp_path, folder.Options())
            object.__setattr__(made, "labels", labels)
            patch.setattr(folder, "read", lambda root, options, made=made: made)
            with pytest.raises(UserError, match=message):
                read_source("folder", tmp_path, {})


@pytest.fixture
def hostile(tmp_path):
    """A data set with control characters in its file names, people and own name; three of its entries are unusable."""
    root = tmp_path / f"set{OBEYED}"
    rows = [
        (f"{number}{OBEYED}.png", f"{OBEYED}{number // 2}", "Cyst" if number % 3 else "Edema") for number in range(30)
    ]
    for number, (name, _, _) in enumerate(rows):
        draw(root / name, number)
    (root / rows[3][0]).write_text("no image")
    rows.append((f"=HYPERLINK({OBEYED}).png", "p", "Cyst"))
    write_rows(root, rows)
    draw(root / f"@unlisted{OBEYED}.png", 99)
    return root


OPTIONS = {"path": "file", "label": "findings", "patient": "patient"}


def settings(root, options=OPTIONS) -> Data:
    facts = {"format": "csv", "root": root, "options": options, "split": "patient", "image_size": 32, "channels": 1}
    fractions = {"val_fraction": 0.3, "test_fraction": 0.3, "seed": 0, "max_quarantined": 0.2}
    return Data(**facts, **fractions, fit="pad", workers=1)


def test_names_of_files_and_people_are_kept_as_they_are_and_escaped_in_what_people_read(hostile, tmp_path):
    summary = ingest(settings(hostile), tmp_path / "out", tmp_path / "cache")
    assert summary.name == f"set{SHOWN}"
    manifest = Dataset.open(tmp_path / "out").manifest
    assert f"4{OBEYED}.png" in manifest["image_id"].tolist()
    assert (hostile / manifest["path"].iloc[0]).is_file()
    assert f"{OBEYED}2" in manifest["patient_id"].tolist()

    text = (tmp_path / "out" / "quarantine.csv").read_text(encoding="utf-8")
    assert text.replace("\n", "").isprintable()
    with (tmp_path / "out" / "quarantine.csv").open(encoding="utf-8", newline="") as file:
        paths = {row["path"] for row in csv.DictReader(file)}
    # A spreadsheet does not take these paths for formulas, and each still names its file.
    assert paths == {f"./=HYPERLINK({SHOWN}).png", f"./@unlisted{SHOWN}.png", f"3{SHOWN}.png"}
    assert read_json(tmp_path / "out" / "dataset.json")["name"] == f"set{SHOWN}"


def test_a_name_within_a_reason_is_escaped_too(tmp_path):
    rows = [(f"{number}.png", f"{number}", "Cyst" if number % 3 else "Edema", "") for number in range(24)]
    for number, (name, *_) in enumerate(rows):
        draw(tmp_path / "set" / name, number)
    rows[5] = (*rows[5][:3], f"mask{OBEYED}.png")
    (tmp_path / "set" / rows[5][3]).write_text("no image")
    write_rows(tmp_path / "set", rows, columns=("file", "patient", "findings", "mask"))
    ingest(settings(tmp_path / "set", OPTIONS | {"mask": "mask"}), tmp_path / "out", tmp_path / "cache")
    ((path, reason),) = pd.read_csv(tmp_path / "out" / "quarantine.csv").to_numpy().tolist()
    assert path == "5.png"
    assert reason.startswith(f"its mask mask{SHOWN}.png: not an image")


def test_check_says_nothing_that_is_obeyed_and_programs_get_names_as_they_are(hostile, tmp_path):
    splits = tmp_path / "splits"
    splits.mkdir()
    names = [f"0{OBEYED}.png", f"2{OBEYED}.png", f"gone{OBEYED}.png"]
    pd.DataFrame({"path": names, "group_id": "g"}).to_csv(splits / "groups.csv", index=False)
    report = check(Request(hostile, "csv", tmp_path / "cache", options=OPTIONS, splits=splits))
    for text in (report_text(report), to_json(report.to_json())):
        assert text.replace("\n", "").isprintable()
    assert f"gone{SHOWN}.png" in report_text(report)
    assert any(f"gone{OBEYED}.png" in note for note in json.loads(to_json(report.to_json()))["notes"])
