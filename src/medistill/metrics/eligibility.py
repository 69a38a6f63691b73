"""Whether a label has enough positives and negatives, from enough groups, for its figures to mean something."""

import numpy as np
from numpy.typing import NDArray

from medistill.metrics.intervals import Numbers

MIN_IMAGES = 10
"""Fewest positives, and fewest negatives, of an eligible label."""
MIN_GROUPS = 10
"""Fewest groups with positives, and with negatives, of an eligible label."""


def ineligibility(targets: Numbers, groups: NDArray[np.generic]) -> str | None:
    """Why a label is not eligible for macro means and comparisons; None where it is.

    Args:
        targets: (N,), 1, 0, or NaN where unknown.
        groups: (N,), the group of each image.

    Example:
        >>> targets = np.array([1] * 12 + [0] * 30)
        >>> ineligibility(targets, np.arange(42)) is None
        True
        >>> ineligibility(targets, np.arange(42) // 2)
        'positives from 6 groups, fewer than 10'
    """
    for value, name in ((1, "positives"), (0, "negatives")):
        chosen = targets == value
        images, patients = int(chosen.sum()), len(np.unique(groups[chosen]))
        if images < MIN_IMAGES:
            return f"{images} {name}, fewer than {MIN_IMAGES}"
        if patients < MIN_GROUPS:
            return f"{name} from {patients} groups, fewer than {MIN_GROUPS}"
    return None


def fewer_groups(targets: Numbers, groups: NDArray[np.generic]) -> int:
    """Number of groups with a positive, or with a negative where these are fewer: what a label's figures rest on.

    Args:
        targets: (N,), 1, 0, or NaN where unknown.
        groups: (N,), the group of each image.

    Example:
        >>> fewer_groups(np.array([1, 1, 0, 0, 0]), np.array([7, 7, 7, 8, 9]))
        1
    """
    return min(len(np.unique(groups[targets == value])) for value in (1, 0))
