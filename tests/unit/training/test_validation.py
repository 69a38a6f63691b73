"""The figure by which the best epoch is chosen."""

import numpy as np
import pytest

from medistill.training.validation import mean_auroc, measured_labels


def test_mean_auroc_leaves_out_unknown_labels():
    targets = np.array([[1, 1, 0], [0, 1, np.nan], [1, 1, 1], [0, 1, 0]], np.float32)
    logits = np.array([[0.9, 0.1, 0.3], [0.8, 0.2, 9], [0.7, 0.3, 0.1], [0.1, 0.4, 0.2]], np.float32)
    measured = measured_labels(targets, np.arange(4))
    assert measured.tolist() == [0, 2]  # no label is eligible, so all with both classes count
    by_hand = np.mean([0.75, 0.0])  # label 0: three of four pairs in order; label 2: none of two
    assert mean_auroc(targets, logits, measured) == pytest.approx(by_hand)


def test_eligible_labels_choose_the_epoch_where_there_are_any():
    targets = np.zeros((40, 3), np.float32)
    targets[:10, 0] = 1
    targets[:9, 1] = 1  # one too few
    targets[:12, 2] = 1
    groups = np.array([*range(10), 9, 9, *range(12, 40)])  # the twelve positives of label 2 come from ten groups
    assert measured_labels(targets, groups).tolist() == [0, 2]
    assert measured_labels(targets, np.minimum(groups, 8)).tolist() == [0, 1, 2]  # none is eligible any more
