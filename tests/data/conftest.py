"""Real ChestX-ray14 data, ingested once."""

import gzip
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.data.settings import Data


@pytest.fixture(scope="session")
def nih1000(real_data: Path) -> Path:
    """1,000 real X-rays at 256 px in the data set's own layout."""
    return real_data / "nih1000_256"


@pytest.fixture(scope="session")
def ingested(nih1000: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The 1,000 X-rays as `ingest` wrote them, with the official splits and with splits by patient."""
    folder = tmp_path_factory.mktemp("nih1000")
    for split in ("patient", "official"):
        settings = Data(
            format="chestxray14",
            root=nih1000,
            split=split,
            val_fraction=0.15,
            test_fraction=0.3,
            seed=0,
            image_size=64,
            channels=1,
            fit="pad",
            max_quarantined=0,
            workers=2,
        )
        ingest(settings, folder / split, folder / "cache")
    return {split: folder / split for split in ("patient", "official")}


@pytest.fixture(scope="session")
def by_patient(ingested: dict[str, Path]) -> Dataset:
    return Dataset.open(ingested["patient"])


@pytest.fixture(scope="session")
def true_scale(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All 112,120 rows, lists and boxes of the release with empty image files: for everything but pixels."""
    source, root = real_data / "nih_label_files", tmp_path_factory.mktemp("chestxray14")
    for name in ("Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"):
        (root / name).write_bytes(gzip.decompress((source / f"{name}.gz").read_bytes()))
    (root / "images").mkdir()
    for name in ("train_val_list.txt", "test_list.txt"):
        shutil.copy(source / name, root / name)
        for image in (source / name).read_text().split():
            (root / "images" / image).touch()
    yield root
    shutil.rmtree(root)  # pytest keeps its folders for three runs; this one has 112,120 files
