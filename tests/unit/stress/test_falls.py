"""Falls of AUROC under shifts, against scikit-learn on the same images."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medistill.evaluation.answers import Split
from medistill.records.estimate import Estimate
from medistill.stress.falls import Ranked, describe_shifts
from medistill.stress.shifts import SHIFTS

LABELS = ["Mass", "Nodule", "Rare"]
GENERATOR = np.random.default_rng(0)
TARGETS = (GENERATOR.random((160, 3)) < (0.4, 0.3, 0.02)).astype(float)
TARGETS[::17, 1] = np.nan
SPLIT = Split.of(LABELS, TARGETS, np.arange(160) // 2, 400, 0)


def answers(strength):
    return strength * np.nan_to_num(TARGETS) + GENERATOR.normal(size=TARGETS.shape)


def ranked(plain, shifted):
    return Ranked.of(SPLIT, answers(plain), {shift.name: answers(shifted) for shift in SHIFTS})


def area(logits, k):
    known = ~np.isnan(TARGETS[:, k])
    return roc_auc_score(TARGETS[known, k], logits[known, k])


def test_a_fall_is_the_difference_of_two_areas():
    plain, shifted = answers(3), {shift.name: answers(k / 4) for k, shift in enumerate(SHIFTS)}
    found = describe_shifts(Ranked.of(SPLIT, plain, shifted), {}, {"blur": Estimate(0.25)})
    assert SPLIT.eligible == ["Mass", "Nodule"]
    for shift in SHIFTS:
        own = found[shift.name]
        areas = [(area(plain, k), area(shifted[shift.name], k)) for k in range(2)]
        assert own.auroc.estimate == pytest.approx(np.mean([after for _, after in areas]))
        assert own.fall.estimate == pytest.approx(np.mean([before - after for before, after in areas]))
        assert own.fall.lower < own.fall.estimate < own.fall.upper
        assert list(own.labels) == ["Mass", "Nodule"]
        assert own.labels["Nodule"].fall.estimate == pytest.approx(areas[1][0] - areas[1][1])
        assert own.marked.estimate == (0.25 if shift.name == "blur" else None)


def test_a_student_that_loses_more_is_told_from_one_that_loses_as_much():
    student, teacher, twin = ranked(3, 0.5), ranked(3, 3), ranked(3, 0.5)
    found = describe_shifts(student, {"big": ("teacher", teacher), "twin": ("baseline", twin)}, {})
    for name, own in found.items():
        big = own.against["big"]
        assert big.relation == "teacher"
        expected = own.fall.estimate - describe_shifts(teacher, {}, {})[name].fall.estimate
        assert big.difference.estimate == pytest.approx(expected)
        assert big.difference.lower > 0
        assert 8 * 2 / 401 <= big.p_holm < 0.05  # none of the 400 resamples is at 0 or below, for all 8
        assert own.against["twin"].p_holm > 0.05
    itself = describe_shifts(student, {"same": ("baseline", student)}, {})["noise"].against["same"]
    assert (itself.difference.estimate, itself.p_holm) == (0, 1)


def test_without_an_eligible_label_there_is_no_figure():
    split = Split.of(LABELS, TARGETS[:8], np.arange(8), 100, 0)
    own = Ranked.of(split, answers(3)[:8], {shift.name: answers(3)[:8] for shift in SHIFTS})
    found = describe_shifts(own, {"same": ("teacher", own)}, {})["jpeg"]
    assert (found.auroc.estimate, found.fall.estimate, found.labels) == (None, None, {})
    assert found.against["same"].p_holm is None
