"""Calibration error of probabilities."""

import numpy as np

from medistill.metrics.intervals import Numbers

BINS = 15
"""Number of bins of equal width, in which probabilities are compared with rates."""


def expected_calibration_error(targets: Numbers, probabilities: Numbers, bins: int = BINS) -> float:
    """Expected calibration error of one label: the mean over images of |observed rate − mean probability| of their bin.

    Binary form with equal-width bins [k/bins, (k+1)/bins), the last one closed (Naeini et al., AAAI 2015).

    Args:
        targets: (N,), 1, 0, or NaN where unknown (left out).
        probabilities: (N,), 0..1.
        bins: their number.

    Returns:
        0..1, NaN without a known image.

    Example:
        >>> round(expected_calibration_error(np.array([1, 0, 1, 1]), np.array([0.9, 0.1, 0.9, 0.1])), 3)
        0.25
    """
    known = ~np.isnan(targets)
    if not known.any():
        return float("nan")
    targets = np.asarray(targets, np.float64)[known]
    probabilities = np.asarray(probabilities, np.float64)[known]
    which = np.minimum((probabilities * bins).astype(int), bins - 1)
    # n_b/N × |rate − mean| is |Σ targets − Σ probabilities| / N of the bin: empty bins need no special case.
    gap = np.bincount(which, weights=targets - probabilities, minlength=bins)
    return float(np.abs(gap).sum() / len(targets))
