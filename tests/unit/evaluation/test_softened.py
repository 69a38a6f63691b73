"""Gaps of subgroups in softened answers, against means over images, label by label."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, softmax

from medistill.evaluation.softened import softened_gaps

LABELS = ["Mass", "Nodule", "Rare"]


def made(exclusive: bool = False) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """240 images of 120 patients, half of them female; `Rare` has five positives; logits of two views."""
    random = np.random.default_rng(0)
    rows = pd.DataFrame({"group_id": [f"p{k // 2}" for k in range(240)], "age": np.nan, "view": "PA", "source": None})
    rows["sex"] = np.where(np.arange(240) % 4 < 2, "F", "M")
    targets = (random.random((240, 3)) < 0.4).astype(float)
    if exclusive:
        targets = np.eye(3)[random.integers(0, 3, 240)]
    else:
        targets[:, 2] = np.arange(240) < 5
        targets[:7, 0] = np.nan
    logits = 3 * np.nan_to_num(targets) - 2 + random.normal(size=(2, 240, 3))
    logits[:, rows["sex"] == "F", 0] -= 1
    return rows, targets, logits


@pytest.mark.parametrize("exclusive", [False, True])
def test_gaps_are_differences_of_mean_answers(exclusive):
    rows, targets, logits = made(exclusive)
    (group,) = softened_gaps(rows, targets, LABELS, logits, exclusive, resamples=200, seed=0)
    assert (group.attribute, group.group, group.images, group.groups) == ("sex", "F", 120, 60)
    assert group.labels == (LABELS if exclusive else LABELS[:2])
    assert [gap.temperature for gap in group.gaps] == [1, 2, 4, 8]
    female = (rows["sex"] == "F").to_numpy()
    for gap in group.gaps:
        z = logits / gap.temperature
        answers = (softmax(z, axis=-1) if exclusive else expit(z)).mean(axis=0)
        level = {
            (value, inside): np.mean(
                [answers[(targets[:, k] == value) & (female == inside), k].mean() for k in range(len(group.labels))]
            )
            for value in (0, 1)
            for inside in (True, False)
        }
        assert gap.positives.estimate == pytest.approx(level[1, True] - level[1, False], abs=1e-12)
        assert gap.negatives.estimate == pytest.approx(level[0, True] - level[0, False], abs=1e-12)
        expected = (level[1, True] + level[1, False] - level[0, True] - level[0, False]) / 2
        assert gap.distance.estimate == pytest.approx(expected, abs=1e-12)
        assert gap.positives.lower < gap.positives.estimate < gap.positives.upper
    assert exclusive or group.gaps[0].positives.upper < 0  # of Mass, less is taught of women
    distances = [gap.distance.estimate for gap in group.gaps]
    assert distances == sorted(distances, reverse=True)


def test_a_group_with_too_few_positives_is_named_and_not_scored():
    rows, targets, logits = made()
    (group,) = softened_gaps(rows, targets[:, 2:], LABELS[2:], logits[..., 2:], False, resamples=100, seed=0)
    assert (group.labels, group.gaps) == ([], [])
