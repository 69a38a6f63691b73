"""A small ChestX-ray14 folder, written by hand."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)


def picture(seed: int, size: int = 24) -> Image.Image:
    """Noise that depends on the seed."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), np.uint8))


def write_nih(root: Path, patients: int = 30, images_each: int = 2, prefix: str = "images") -> list[str]:
    """Write `patients` x `images_each` images; every second patient has labels, the last third is in the test list."""
    folder = root / prefix
    folder.mkdir(parents=True)
    rows, names = [HEADER], []
    for patient in range(1, patients + 1):
        for number in range(images_each):
            name = f"{patient:08d}_{number:03d}.png"
            picture(patient * 100 + number).save(folder / name)
            labels = "Effusion|Mass" if patient % 2 else "No Finding"
            rows.append(f"{name},{labels},{number},{patient},{40 + number},F,PA,2000,2000,0.1,0.1")
            names.append(name)
    (root / "Data_Entry_2017.csv").write_text("\n".join(rows) + "\n")
    cut = patients * 2 // 3 * images_each
    (root / "train_val_list.txt").write_text("\n".join(names[:cut]))
    (root / "test_list.txt").write_text("\n".join(names[cut:]))
    return names


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    """60 images of 30 patients."""
    root = tmp_path / "nih"
    write_nih(root)
    return root


@pytest.fixture
def make_nih() -> Callable[..., list[str]]:
    return write_nih


@pytest.fixture
def make_picture() -> Callable[..., Image.Image]:
    return picture
