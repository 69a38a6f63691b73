"""Groups of LC25000's augmented tiles against `groups.csv`, and no groups among X-rays of different patients.

As measured, every figure below is 1 on the three classes, each alone and together. Thresholds were chosen on lung_n.
"""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medistill.audit.groups import discover_groups
from medistill.images.decode import decode


def frames_of(files: list[Path], size: int, channels: int) -> Callable[[np.ndarray], np.ndarray]:
    frames = np.stack([decode(file, size=size, channels=channels, fit="pad") for file in files])
    return lambda chosen: frames[chosen]


def pairwise(found: np.ndarray, truth: list[str]) -> tuple[float, float]:
    """Precision and recall of pairs of images in one group."""
    _, truth = np.unique(truth, return_inverse=True)
    above = np.triu_indices(len(truth), 1)
    together = (found[:, None] == found)[above]
    true = (truth[:, None] == truth)[above]
    return (together & true).sum() / together.sum(), (together & true).sum() / true.sum()


def tiles(root: Path, *labels: str) -> tuple[Callable[[np.ndarray], np.ndarray], list[str]]:
    with (root / "lc25000_lung_96" / "groups.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["label"] in labels]
    files = [root / "lc25000_lung_96" / row["file"] for row in rows]
    return frames_of(files, 96, 3), [row["group_id"] for row in rows]


def test_a_class_that_no_threshold_was_chosen_on(real_data):
    frames, truth = tiles(real_data, "lung_scc")
    found = discover_groups(frames, len(truth))
    precision, recall = pairwise(found, truth)
    assert precision >= 0.99
    assert recall >= 0.98
    assert np.bincount(found).max() == 32
    assert len(truth) == 388


@pytest.mark.slow
def test_all_tiles(real_data):
    frames, truth = tiles(real_data, "lung_aca", "lung_n", "lung_scc")
    found = discover_groups(frames, len(truth))
    precision, recall = pairwise(found, truth)
    assert precision >= 0.99
    assert recall >= 0.98
    assert 58 <= found.max() + 1 <= 66
    assert len(truth) == 1172


@pytest.mark.slow
def test_x_rays_of_different_patients_are_not_merged(real_data):
    files = sorted((real_data / "nih1000_256" / "images").iterdir())
    found = discover_groups(frames_of(files, 128, 1), len(files))
    patients = np.array([file.name[:8] for file in files])
    for number in np.flatnonzero(np.bincount(found) > 1):
        assert len(set(patients[found == number])) == 1
