"""Logits to probabilities, against SciPy."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from medistill.runtime.probabilities import probabilities

LOGITS = np.random.default_rng(0).normal(0, 5, (40, 3)).astype(np.float32)


def test_labels_are_sigmoids_and_exclusive_classes_a_softmax():
    each, together = probabilities(LOGITS, "multilabel"), probabilities(LOGITS, "multiclass")
    assert each.dtype == together.dtype == np.float64
    np.testing.assert_allclose(each, expit(LOGITS.astype(np.float64)), rtol=1e-13)
    np.testing.assert_allclose(together, softmax(LOGITS.astype(np.float64), axis=1), rtol=1e-13)
    np.testing.assert_allclose(together.sum(axis=1), 1, rtol=1e-14)


def test_a_constant_added_to_an_image_changes_labels_and_no_class():
    offset = np.random.default_rng(1).integers(-4, 5, (40, 1))
    moved = LOGITS.astype(np.float64) + offset
    np.testing.assert_allclose(probabilities(moved, "multiclass"), probabilities(LOGITS, "multiclass"), rtol=1e-12)
    assert np.abs(probabilities(moved, "multilabel") - probabilities(LOGITS, "multilabel")).max() > 0.1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("task", "expected"), [("multilabel", [1, 0, 0.5]), ("multiclass", [1, 0, 0])])
def test_huge_logits_do_not_overflow(task, expected):
    assert probabilities(np.array([[1e5, -1e5, 0]]), task).tolist() == [expected]


def test_no_images_give_no_rows():
    assert probabilities(np.empty((0, 3)), "multiclass").shape == (0, 3)


def test_a_task_that_does_not_exist_is_not_taken_for_another():
    with pytest.raises(ValueError, match="no such task: 'multi-class'"):
        probabilities(LOGITS, "multi-class")
