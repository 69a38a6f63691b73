"""Net benefit: what calling a label is worth where a false alarm costs so and so much (decision curve analysis).

Vickers & Elkin, Medical Decision Making 2006. Who calls a label from probability t on holds a false alarm to cost
t / (1 − t) of what a found positive is worth. The net benefit is TP/N − FP/N · t/(1 − t).
"""

from collections.abc import Sequence

import numpy as np

from medistill.metrics.bootstrap import resample
from medistill.metrics.intervals import Codes, FloatArray, Numbers


def net_benefit(
    targets: Numbers, probabilities: Numbers, thresholds: Sequence[float], groups: Codes, counts: Codes
) -> FloatArray:
    """Net benefit of one label at several thresholds, in every resample.

    Args:
        targets: (N,), 1, 0, or NaN where unknown (left out).
        probabilities: (N,), 0..1, calibrated; the label is called where they are at least the threshold. All 1: where
            every image is called.
        thresholds: T of them, each above 0 and below 1.
        groups: (N,) int, 0..G-1.
        counts: (G, 1 + R), from `bootstrap.draw`.

    Returns:
        (T, 1 + R), the first of each on the data themselves, in true positives per image; NaN without a known image.

    Example:
        >>> targets, probabilities = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.8, 0.4, 0.6, 0.7])
        >>> once = np.ones((4, 1), int)  # each image is a group, and drawn once
        >>> net_benefit(targets, probabilities, [0.2, 0.5], np.arange(4), once)[:, 0].tolist()
        [0.375, 0.25]
    """
    known = ~np.isnan(targets)
    truth, given, groups = np.asarray(targets, np.float64)[known], probabilities[known], groups[known]
    images = np.bincount(groups, minlength=len(counts)).astype(np.float64)
    worth = [
        np.bincount(groups, (given >= at) * (truth - (1 - truth) * at / (1 - at)), minlength=len(counts))
        for at in thresholds
    ]
    sums = np.array(worth, np.float64).reshape(len(worth), len(counts))

    def measure(weights: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore"):
            found: FloatArray = (sums @ weights) / (images @ weights)
        return found

    return resample(measure, counts)
