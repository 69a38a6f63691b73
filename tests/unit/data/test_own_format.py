"""The documentation's example of a format of one's own, run as it stands there."""

import re

import numpy as np
import pytest
from PIL import Image

from medistill.data import adapters
from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.data.settings import Data


@pytest.fixture
def own_format(root, tmp_path, monkeypatch):
    """The name of the format, for as long as the test runs."""
    blocks = re.findall(r"```python\n(.*?)```", (root / "docs" / "data.md").read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "def read(" in block]
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "named_files.py").write_text(code)
    monkeypatch.setattr(adapters, "__path__", [*adapters.__path__, str(tmp_path / "adapters")])
    return "named_files"


def test_one_file_is_all_a_format_needs(own_format, tmp_path, make_picture):
    folder = tmp_path / "root" / "pictures"
    folder.mkdir(parents=True)
    for number in range(60):
        kind = ("benign", "malignant")[number % 2]
        make_picture(number).save(folder / f"{kind}_p{number // 3}_{number}.png")
    (folder / "malignant_p99_broken.png").write_bytes(b"")
    data = Data(
        format=own_format,
        root=tmp_path / "root",
        options={"folder": "pictures"},
        split="patient",
        val_fraction=0.3,
        test_fraction=0.3,
        seed=0,
        image_size=32,
        channels=1,
        fit="pad",
        max_quarantined=0.1,
        workers=1,
    )
    summary = ingest(data, tmp_path / "out", tmp_path / "cache")
    assert (summary.entries, summary.quarantined, summary.task) == (61, 1, "multiclass")
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.labels == ["benign", "malignant"]
    assert dataset.manifest["group_id"].nunique() == 20
    assert dataset.manifest.groupby("group_id")["split"].nunique().max() == 1
    path = "pictures/malignant_p1_5.png"
    row = dataset.manifest[dataset.manifest["path"] == path]
    assert dataset.targets(row).tolist() == [[0, 1]]
    shown = dataset.images(row)[0, 0].astype(int)
    assert np.array_equal(shown, np.asarray(Image.open(tmp_path / "root" / path).resize((32, 32), 2)))
