"""Logits to probabilities, against SciPy."""

import json

import numpy as np
import pytest
from scipy.special import expit, softmax

from medistill.task import Calibration, Task

LOGITS = np.random.default_rng(0).normal(0, 5, (40, 3)).astype(np.float32)


def test_labels_are_sigmoids_and_exclusive_classes_a_softmax():
    each, together = Task.MULTILABEL.probabilities(LOGITS), Task.MULTICLASS.probabilities(LOGITS)
    assert each.dtype == together.dtype == np.float64
    np.testing.assert_allclose(each, expit(LOGITS.astype(np.float64)), rtol=1e-13)
    np.testing.assert_allclose(together, softmax(LOGITS.astype(np.float64), axis=1), rtol=1e-13)
    np.testing.assert_allclose(together.sum(axis=1), 1, rtol=1e-14)


def test_a_constant_added_to_an_image_changes_labels_and_no_class():
    offset = np.random.default_rng(1).integers(-4, 5, (40, 1))
    moved = LOGITS.astype(np.float64) + offset
    np.testing.assert_allclose(Task.MULTICLASS.probabilities(moved), Task.MULTICLASS.probabilities(LOGITS), rtol=1e-12)
    assert np.abs(Task.MULTILABEL.probabilities(moved) - Task.MULTILABEL.probabilities(LOGITS)).max() > 0.1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("task", "expected"), [("multilabel", [1, 0, 0.5]), ("multiclass", [1, 0, 0])])
def test_huge_logits_do_not_overflow(task, expected):
    assert Task(task).probabilities(np.array([[1e5, -1e5, 0]])).tolist() == [expected]


def test_no_images_give_no_rows():
    assert Task.MULTICLASS.probabilities(np.empty((0, 3))).shape == (0, 3)


def test_a_task_that_does_not_exist_is_not_taken_for_another():
    with pytest.raises(ValueError, match="'multi-class' is not a valid Task"):
        Task("multi-class")


def test_a_task_is_written_as_its_name():
    assert json.dumps({"task": Task.MULTICLASS}) == '{"task": "multiclass"}'
    assert f"{Task.MULTILABEL}" == "multilabel"
    assert [task.exclusive for task in (Task.MULTILABEL, Task.MULTICLASS)] == [False, True]


@pytest.mark.parametrize("task", Task)
def test_without_a_calibration_probabilities_are_those_of_the_logits(task):
    assert Calibration(task).logits(LOGITS) is LOGITS
    np.testing.assert_array_equal(Calibration(task).probabilities(LOGITS), task.probabilities(LOGITS))


def test_a_calibration_is_a_slope_and_an_intercept_per_label():
    slopes, intercepts = [0.5, 1.0, 2.0], [1.0, 0.0, -2.0]
    found = Calibration(Task.MULTILABEL, slopes, intercepts).probabilities(LOGITS)
    np.testing.assert_allclose(found, expit(slopes * LOGITS.astype(np.float64) + intercepts), rtol=1e-13)
