"""Figures of studies instead of images: labels and probabilities against pandas and a direct mean."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, softmax

from medistill.errors import UserError
from medistill.evaluation.predictions import Studies
from medistill.task import Task

NAN = float("nan")


def rows_of(*images):
    """A manifest with one (patient, study) per image; None if it is not known."""
    patient, study = zip(*images, strict=True)
    image = [f"{number}.png" for number in range(len(images))]
    rows = pd.DataFrame({"image_id": image, "patient_id": patient, "study_id": study}, dtype="str")
    return rows.assign(group_id=rows["patient_id"].fillna(rows["image_id"]))


ROWS = rows_of(("p2", "s1"), ("p1", "s1"), ("p1", "s2"), ("p2", "s1"), ("p1", None), ("p1", "s1"), (None, None))
MEMBERS = [[0, 3], [1, 5], [2], [4], [6]]  # the same study id of another patient is another study


@pytest.mark.parametrize("task", Task)
@pytest.mark.parametrize("how", ["max", "mean"])
def test_a_study_has_the_highest_or_the_mean_probability_of_its_images(task, how):
    logits = np.random.default_rng(0).normal(0, 3, (7, 4)).astype(np.float32)
    studies = Studies.of(ROWS)
    assert [np.flatnonzero(studies.of_image == k).tolist() for k in range(5)] == MEMBERS
    if task.exclusive and how == "max":
        with pytest.raises(UserError, match="max is for labels that do not exclude each other; set it to mean"):
            studies.combine(logits, how, task)
        return
    found = studies.combine(logits, how, task)
    assert found.dtype == np.float32
    probability = (lambda z: softmax(z, axis=1)) if task.exclusive else expit
    each = probability(logits.astype(float))
    expected = [each[images].max(axis=0) if how == "max" else each[images].mean(axis=0) for images in MEMBERS]
    np.testing.assert_allclose(probability(found.astype(float)), expected, rtol=1e-6)
    np.testing.assert_array_equal(found[2:], logits[[2, 4, 6]])  # studies of one image are unchanged


@pytest.mark.parametrize("how", ["max", "mean"])
def test_extreme_logits_stay_finite_and_in_order(how):
    """Probabilities that round to 0 and 1 still differ in their logits."""
    logits = np.array([[40, -90], [200, -200], [300, 10], [60, -60], [0, 0], [300, 10], [0, 0]], np.float32)
    found = Studies.of(ROWS).combine(logits, how, Task.MULTILABEL)
    assert np.isfinite(found).all()
    expected = {"max": [60, -60], "mean": [40 + np.log(2), -60 - np.log(2)]}[how]
    np.testing.assert_allclose(found[0], expected, rtol=1e-6)


def test_a_label_that_the_model_does_not_know_stays_unknown():
    logits = np.zeros((7, 2), np.float32)
    logits[:, 1] = NAN
    for how in ("max", "mean"):
        found = Studies.of(ROWS).combine(logits, how, Task.MULTILABEL)
        assert np.isnan(found[:, 1]).all()
        assert (found[:, 0] == 0).all()


def test_labels_are_those_of_the_study():
    targets = np.array([[1, NAN], [0, 1], [1, 1], [1, NAN], [0, 0], [0, 1], [NAN, NAN]])
    np.testing.assert_array_equal(Studies.of(ROWS).targets(targets), targets[[0, 1, 2, 4, 6]])
    targets[3, 1] = 0
    with pytest.raises(UserError, match=r"the images of study p2, s1 have different labels; set evaluate\.study: none"):
        Studies.of(ROWS).targets(targets)


def test_what_has_no_studies_or_torn_ones_is_refused():
    with pytest.raises(UserError, match=r"evaluate\.study: no image of data/processed has a study id"):
        Studies.of(rows_of(("p1", None), ("p2", None)))
    with pytest.raises(UserError, match="study s1 has images of several groups, but resampling is by group"):
        Studies.of(rows_of((None, "s1"), (None, "s1")))
