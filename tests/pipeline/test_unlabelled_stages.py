"""`data.unlabelled` through the stages: a copy of a test image ends the run before anything is trained."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from medistill.layout import HERE
from medistill.phantom.write import write_phantom
from medistill.records.data import UNLABELLED
from pipeline.stages import audit, ingest, validate

SIZE = 64


@pytest.fixture
def project(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a phantom of 120 images, params.yaml, and ten images of another phantom in data/unlabelled."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    assert params["data"]["unlabelled"] == "data/unlabelled"
    params["data"] |= {"image_size": SIZE, "workers": 1, "val_fraction": 0.3}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    write_phantom(tmp_path / "data" / "raw" / "phantom", images=120, size=SIZE, seed=0, prevalence="balanced")
    write_phantom(tmp_path / "other", images=10, size=SIZE, seed=5, prevalence="balanced")
    for number, file in enumerate(sorted((tmp_path / "other" / "images").iterdir())):
        (tmp_path / "data" / "unlabelled" / "deeper").mkdir(parents=True, exist_ok=True)
        file.rename(tmp_path / "data" / "unlabelled" / "deeper" / f"scan{number}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_of_other_images_passes(project, capsys):
    assert [stage.main([]) for stage in (ingest, audit, validate)] == [0, 0, 0]
    said = capsys.readouterr()
    assert "note: 10 images of data.unlabelled (unlabelled) in the train split;" in said.err
    assert "of data.unlabelled nearly" not in said.err
    summary = json.loads(HERE.processed.record.read_text())
    assert summary["unlabelled"] == {"folder": "unlabelled", "images": 10, "copies": 0}


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_changed_copy_of_an_image_of_validation_or_test_is_refused_before_training(project, split, capsys):
    ingest.main([])
    from medistill.data.dataset import Dataset

    path = Dataset.open().split(split)["path"].iloc[0]
    pixels = np.asarray(Image.open(project / "data" / "raw" / "phantom" / path))
    darker = (pixels * 0.8 + 10).astype(np.uint8)
    Image.fromarray(darker).save(project / "data" / "unlabelled" / "copy.jpg", quality=80)
    ingest.main([])
    audit.main([])
    found = json.loads(HERE.reports.audit.read_text())["findings"]
    (error,) = [finding for finding in found if finding["severity"] == "error"]
    assert error["check"] == "unlabelled"
    name = f"{UNLABELLED}copy.jpg"
    assert error["examples"][0].startswith(f"{min(name, Path(path).name)} and {max(name, Path(path).name)} (copy, ")
    assert error["advice"] == "remove these files from the folder of data.unlabelled"
    capsys.readouterr()
    assert validate.main([]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: held_out: expected: No image of data.unlabelled is nearly the same as one of val or test; remove such"
        f" files from that folder; violated by 1 row: {name} (like {Path(path).name})"
    ]
    (project / "data" / "unlabelled" / "copy.jpg").unlink()
    assert [stage.main([]) for stage in (ingest, audit, validate)] == [0, 0, 0]
