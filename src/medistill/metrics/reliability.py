"""Reliability: how often a label is present where a model gives it so and so much probability."""

from dataclasses import dataclass

import numpy as np

from medistill.metrics.intervals import CONFIDENCE, FloatArray, Numbers

BINS = 10
"""Bins of equally many answers: bins of equal width would hold next to none of a rare label's high probabilities."""
DRAWS = 500


@dataclass(frozen=True)
class Reliability:
    """Answers in bins, from the lowest probability up; B of them, empty ones left out.

    Attributes:
        answers: int (B,), how many each bin holds.
        probability: (B,), their mean.
        rate: (B,), the share of positives among them.
        lower, upper: (B,), where 95 % of such rates lie if each probability is right.
    """

    answers: FloatArray
    probability: FloatArray
    rate: FloatArray
    lower: FloatArray
    upper: FloatArray


def reliability(targets: Numbers, probabilities: Numbers, bins: int = BINS, draws: int = DRAWS) -> Reliability:
    """Rates in bins of equal mass, with a consistency band.

    The band is Bröcker & Smith's (Weather and Forecasting 2007), given the probabilities: the truth is drawn anew from
    them, image by image. Images of one patient are alike, which the draws are not: with many images per patient the
    band is a little narrow.

    Args:
        targets: (N,), 1, 0, or NaN where unknown (left out).
        probabilities: (N,), 0..1; equal ones are in the same bin.
        bins: their number.
        draws: of the truth. The same arguments give the same band.

    Example:
        >>> found = reliability(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.1, 0.3, 0.6, 0.8]), bins=2)
        >>> found.probability.round(3).tolist(), found.rate.tolist()
        ([0.2, 0.7], [0.0, 1.0])
    """
    known = ~np.isnan(targets)
    order = np.argsort(probabilities[known], kind="stable")
    truth = np.asarray(targets, np.float64)[known][order]
    given = np.asarray(probabilities, np.float64)[known][order]
    below = np.searchsorted(given, given)  # equal probabilities have equally many below them
    starts = np.flatnonzero(np.diff(below * bins // max(len(given), 1), prepend=-1))
    if not len(starts):
        return Reliability(*[np.empty(0)] * 5)
    sizes = np.diff(starts, append=len(given)).astype(np.float64)
    random = np.random.default_rng(0)
    drawn = np.stack([np.add.reduceat(random.random(len(given)) < given, starts, dtype=float) for _ in range(draws)])
    tail = (1 - CONFIDENCE) / 2
    lower, upper = np.quantile(drawn / sizes, [tail, 1 - tail], axis=0)
    probability, rate = (np.add.reduceat(values, starts) / sizes for values in (given, truth))
    return Reliability(sizes, probability, rate, lower, upper)
