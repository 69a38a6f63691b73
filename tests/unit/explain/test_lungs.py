"""How much of a map is inside the lungs, against sums over pixels."""

import numpy as np
import pytest

from medistill.explain.localisation import hold_against
from medistill.explain.lungs import Lungs
from medistill.metrics.means import mean_interval


def made(seed: int = 0) -> tuple[Lungs, np.ndarray]:
    """40 findings of 20 patients, 30 of them with a mask of two lungs of random size, and random maps of all."""
    random = np.random.default_rng(seed)
    masks = np.zeros((30, 16, 16), bool)
    for mask, top in zip(masks, random.integers(1, 8, 30), strict=True):
        mask[top:13, 2:6] = mask[top:13, 10:14] = True
    rows = np.arange(40) % 4 != 0
    groups = np.array([f"p{k // 2}" for k in range(40)])[rows]
    return Lungs(rows, masks, groups), random.random((40, 16, 16)).astype(np.float32) ** 4


def test_peak_and_energy_are_sums_over_pixels():
    lungs, frames = made()
    found = lungs.measure(lungs.score(frames), {})
    known = frames[lungs.rows].astype(np.float64)
    inside = [(frame * mask).sum() / frame.sum() for frame, mask in zip(known, lungs.masks, strict=True)]
    hits = [mask.flat[frame.argmax()] for frame, mask in zip(known, lungs.masks, strict=True)]
    assert found.energy.estimate == pytest.approx(np.mean(inside))
    assert found.peak.estimate == pytest.approx(np.mean(hits))
    assert (found.findings, found.groups) == (30, len(set(lungs.groups)))
    area = lungs.masks.mean(axis=(1, 2))
    assert found.energy_beside["chance"].value == found.peak_beside["chance"].value == pytest.approx(area.mean())
    assert found.energy_beside["chance"].difference == mean_interval(inside - area, lungs.groups, difference=True)
    assert found.peak_beside["centre"].value == 0  # the heart is between the lungs
    assert found.difference_teacher == {}


def test_the_difference_to_a_teacher_is_paired_by_finding():
    lungs, frames = made()
    own, teacher = lungs.score(frames), lungs.score(made(1)[1])
    lead = lungs.measure(own, {"t": teacher}).difference_teacher["t"]
    assert lead.energy.estimate == pytest.approx((own.energy - teacher.energy).mean())
    assert lead.energy == hold_against(own.energy, teacher.energy, lungs.groups).difference
    assert lead.peak.estimate == pytest.approx((own.hits - teacher.hits).mean())
    same = lungs.measure(own, {"t": own}).difference_teacher["t"]
    assert (same.energy.lower, same.energy.upper) == (0, 0)
