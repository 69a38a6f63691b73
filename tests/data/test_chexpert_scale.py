"""CheXpert at the release's size: as many rows, views, studies and patients, with empty image files."""

import os
import tempfile
from pathlib import Path

import pytest

from medistill.data.adapters import read_source
from tests.trees_cxr import CHEXPERT_HEADER, chexpert_row

ROWS, STUDIES, PATIENTS, LATERALS = 223_414, 187_641, 64_540, 32_387
VALID_ROWS, VALID_PATIENTS, VALID_LATERALS = 234, 200, 32
VALUES = ("1.0", "0.0", "-1.0", "")


def write_table(root, folder, name, *, first, patients, studies, rows, laterals):
    """Spread studies evenly over patients; the first studies get a second image, in the first `laterals` a lateral.

    Label l of row r is `VALUES[(r + l) % 4]`.
    """
    lines, number = [CHEXPERT_HEADER], 0
    each, more = divmod(studies, patients)
    owners = [(first + patient, nth + 1) for patient in range(patients) for nth in range(each + (patient < more))]
    for study, (patient, nth) in enumerate(owners):
        path = f"{folder}/patient{patient:05d}/study{nth}"
        os.makedirs(root / path)
        for view in range(2 if study < rows - studies else 1):
            lateral = view == 1 and study < laterals
            image = f"{path}/view{view + 1}_{'lateral' if lateral else 'frontal'}.jpg"
            open(root / image, "w").close()
            cells = ",".join(VALUES[(number + label) % 4] for label in range(14))
            details = "Female,61,Lateral," if lateral else "Male,58,Frontal,PA"
            lines.append(f"CheXpert-v1.0-small/{image},{details},{cells}")
            number += 1
    assert lines[1].count(",") == chexpert_row("").count(",")
    (root / name).write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def root():
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # some disks need minutes to delete 475,000 files
    with tempfile.TemporaryDirectory(prefix="chexpert-", dir=memory) as folder:
        root = Path(folder) / "CheXpert-v1.0-small"
        train = {"first": 1, "patients": PATIENTS, "studies": STUDIES, "rows": ROWS, "laterals": LATERALS}
        valid = {"studies": VALID_PATIENTS, "rows": VALID_ROWS, "laterals": VALID_LATERALS}
        write_table(root, "train", "train.csv", **train)
        write_table(root, "valid", "valid.csv", first=64_541, patients=VALID_PATIENTS, **valid)
        yield root


@pytest.mark.slow  # makes 223,648 files
def test_every_row_is_joined(root):
    source = read_source("chexpert", root.parent, {"views": "all", "uncertainty": "ones"})
    rows = source.rows
    assert len(rows) == source.entries == ROWS + VALID_ROWS
    assert source.quarantined == []
    assert rows["patient_id"].nunique() == PATIENTS + VALID_PATIENTS
    assert rows["study_id"].nunique() == STUDIES + VALID_PATIENTS
    assert rows["view"].value_counts().to_dict() == {
        "PA": ROWS + VALID_ROWS - LATERALS - VALID_LATERALS,
        "L": LATERALS + VALID_LATERALS,
    }
    assert source.official.value_counts().to_dict() == {"train": ROWS, "test": VALID_ROWS}
    train = rows[source.official == "train"]
    for number, label in enumerate(source.labels):
        ones = sum((row + number) % 4 in (0, 2) for row in range(ROWS))  # 1.0 and -1.0
        assert (train[f"label:{label}"] == 1).sum() == ones
        assert (train[f"label:{label}"] == 0).sum() == ROWS - ones


@pytest.mark.slow  # makes 223,648 files
def test_laterals_and_their_files_are_no_entries(root):
    source = read_source("chexpert", root, {})
    assert len(source.rows) == source.entries == ROWS + VALID_ROWS - LATERALS - VALID_LATERALS
    assert source.entries - VALID_ROWS + VALID_LATERALS == 191_027  # frontals that publications count
    assert source.quarantined == []
    assert source.rows["sex"].eq("M").all()
