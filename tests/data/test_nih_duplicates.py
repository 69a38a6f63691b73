"""Near-duplicates among 1,000 real X-rays, which have one real pair, and copies of some of them."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from medistill.audit.duplicates import near_duplicates
from medistill.images.decode import decode
from medistill.images.frame import to_frame


@pytest.fixture(scope="module")
def x_rays(nih1000: Path) -> tuple[np.ndarray, list[str]]:
    files = sorted((nih1000 / "images").iterdir())
    frames = np.stack([decode(file, size=128, channels=1, fit="pad") for file in files])
    return frames, [file.name for file in files]


def copied(path: Path) -> np.ndarray:
    """A copy as someone might post it again: cropped to 97 %, a little brighter, JPEG."""
    image = Image.open(path).convert("L").crop((2, 5, 250, 253)).point(lambda grey: 255 * (grey / 255) ** 0.8)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=50)
    return to_frame(Image.open(stream), size=128, channels=1, fit="pad")


def test_two_films_of_a_patient_are_duplicates_only_if_they_are_the_same_film(x_rays):
    frames, names = x_rays
    table = near_duplicates(lambda chosen: frames[chosen], len(frames))
    assert [(names[i], names[j]) for i, j in zip(table["i"], table["j"], strict=True)] == [
        ("00002658_001.png", "00002658_002.png")
    ]
    one, other = frames[table["i"][0]].astype(int), frames[table["j"][0]].astype(int)
    assert np.abs(one - other).mean() < 2


def test_copies_are_found_in_the_whole_set(x_rays, nih1000):
    frames, names = x_rays
    copies = np.stack([copied(nih1000 / "images" / name) for name in names[::10]])
    copies[::4] = np.stack([cv2.equalizeHist(copy[0])[None] for copy in copies[::4]])
    together = np.concatenate([frames, copies])
    table = near_duplicates(lambda chosen: together[chosen], len(together))
    found = set(zip(table["i"].tolist(), table["j"].tolist(), strict=True))
    true = {(10 * number, 1000 + number) for number in range(100)}
    assert len(found & true) >= 97
    patient = [name[:8] for name in names] + [name[:8] for name in names[::10]]
    assert not [(i, j) for i, j in found if patient[i] != patient[j]]
