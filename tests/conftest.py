"""Fixtures shared by all tests."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images and label files; without it the test is skipped."""
    folder = Path(os.environ.get("MEDISTILL_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("real images are not here: set MEDISTILL_TEST_DATA to their folder")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A function that mounts a file system of so many KB in memory and returns its folder; skips if it may not."""
    made: list[Path] = []

    def make(kilobytes: int) -> Path:
        folder = tmp_path / f"disk{len(made)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("a small file system cannot be mounted here: it takes root")
        made.append(folder)
        return folder

    yield make
    for folder in made:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def write_dataset(
    folder: Path, *, images: int = 60, size: int = 32, labels: tuple[str, ...] = ("Left", "Right")
) -> Path:
    """Write what `ingest` writes: images of noise in which each label is a bright spot in a column of its own.

    Two images per patient; patients 0, 5, 10… are in test, 1, 6, 11… in val, the others in train. Every positive has
    a box.
    """
    import numpy as np
    import pandas as pd

    from medistill.layout import DataFolder
    from medistill.records.data import BOX_COLUMNS, QUARANTINE_COLUMNS, DatasetInfo, Origin, SplitCounts
    from tests.seal import digests, seal

    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 60, (images, 1, size, size), dtype=np.uint8)
    targets = generator.random((images, len(labels))) < 0.5
    width = size // len(labels)
    boxes = []
    image_ids = [f"{i // 2:05d}_{i % 2}.png" for i in range(images)]
    for i, j in zip(*np.nonzero(targets), strict=True):
        left, top = j * width, int(generator.integers(0, size - width // 2))
        pixels[i, 0, top : top + width // 2, left : left + width // 2] += 150
        box = (left / size, top / size, width // 2 / size, width // 2 / size)
        boxes.append((image_ids[i], labels[j], *box))
    manifest = pd.DataFrame(
        {
            "image_id": image_ids,
            "path": [f"images/{image_id}" for image_id in image_ids],
            "shard": np.zeros(images, np.int32),
            "row": np.arange(images, dtype=np.int32),
            "group_id": [str(i // 2) for i in range(images)],
            "patient_id": [str(i // 2) for i in range(images)],
            "study_id": None,
            "split": [{0: "test", 1: "val"}.get(i // 2 % 5, "train") for i in range(images)],
            "view": "PA",
            "sex": ["M" if i // 2 % 2 else "F" for i in range(images)],
            "age": [20.0 + i // 2 for i in range(images)],
            "source": None,
            "mask_row": np.int32(-1),
            "lung_row": np.int32(-1),
            "width": np.int32(size),
            "height": np.int32(size),
            "sha256": digests(pixels),
            **{f"label:{label}": targets[:, j].astype(np.float32) for j, label in enumerate(labels)},
        }
    )
    files = DataFolder(folder)
    manifest.to_parquet(files.manifest, index=False)
    pd.DataFrame(boxes, columns=list(BOX_COLUMNS)).to_parquet(files.boxes, index=False)
    np.save(files.images(0), pixels)
    pd.DataFrame(columns=list(QUARANTINE_COLUMNS)).to_csv(files.quarantine, index=False)
    counts = {}
    for name, rows in manifest.groupby("split"):
        positives = {label: int(rows[f"label:{label}"].sum()) for label in labels}
        negatives = {label: len(rows) - positives[label] for label in labels}
        groups = rows["group_id"].nunique()
        counts[name] = SplitCounts(images=len(rows), groups=groups, positives=positives, negatives=negatives)
    info = DatasetInfo(
        name="spots",
        task="multilabel",
        labels=list(labels),
        image_size=size,
        channels=1,
        fit="pad",
        fingerprint="spots",
        source=Origin(format="chestxray14", split="official"),
        boxes=len(boxes),
        entries=images,
        quarantined=0,
        counts=counts,
    )
    seal(files.record, info)
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory):
    """An ingested data set of 60 images of 32 px with two easy labels."""
    from medistill.data.dataset import Dataset

    return Dataset.open(write_dataset(tmp_path_factory.mktemp("tiny") / "processed"))
