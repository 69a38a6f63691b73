"""Reliability: how often a label is present where a model gives it so and so much probability; calibration error."""

from dataclasses import dataclass

import numpy as np

from medistill.metrics.intervals import CONFIDENCE, Codes, FloatArray, Numbers

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
    truth, given, starts = _in_bins(targets, probabilities, bins)
    if not len(starts):
        return Reliability(*[np.empty(0)] * 5)
    sizes = np.diff(starts, append=len(given)).astype(np.float64)
    drawn = _drawn(given, starts, draws)
    tail = (1 - CONFIDENCE) / 2
    lower, upper = np.quantile(drawn / sizes, [tail, 1 - tail], axis=0)
    probability, rate = (np.add.reduceat(values, starts) / sizes for values in (given, truth))
    return Reliability(sizes, probability, rate, lower, upper)


def _in_bins(targets: Numbers, probabilities: Numbers, bins: int) -> tuple[FloatArray, FloatArray, Codes]:
    """Known truth and probabilities (n,), by rising probability, and where each bin of equal mass begins (B,)."""
    known = ~np.isnan(targets)
    order = np.argsort(probabilities[known], kind="stable")
    truth = np.asarray(targets, np.float64)[known][order]
    given = np.asarray(probabilities, np.float64)[known][order]
    below = np.searchsorted(given, given)  # equal probabilities have equally many below them
    return truth, given, np.flatnonzero(np.diff(below * bins // max(len(given), 1), prepend=-1))


def _drawn(given: FloatArray, starts: Codes, draws: int) -> FloatArray:
    """Numbers of positives in each bin (draws, B), where the truth is drawn by the probabilities (n,)."""
    random = np.random.default_rng(0)
    return np.stack([np.add.reduceat(random.random(len(given)) < given, starts, dtype=float) for _ in range(draws)])


def expected_calibration_error(targets: Numbers, probabilities: Numbers, bins: int = BINS) -> float:
    """Calibration error of one label: the root mean square of rate − mean probability over bins, without its bias.

    A rate of few images is off by chance, which makes the plain error larger, the fewer images there are. So the
    variance of the rate is subtracted in each bin: Σ_b w_b ((ȳ_b − p̄_b)² − ȳ_b (1 − ȳ_b) / (n_b − 1)), w_b the share of
    images in bin b, and the root is taken with the sum's sign (Kumar, Liang & Ma, NeurIPS 2019).

    Args:
        targets: (N,), 1, 0, or NaN where unknown (left out).
        probabilities: (N,), 0..1.
        bins: their number; they are of equal mass, equal probabilities in the same one. One of a single image is left
            out.

    Returns:
        -1..1, below 0 where there is less than chance alone would show; NaN where no bin has two images.

    Example:
        >>> targets, probabilities = np.array([0, 0, 1, 0, 1, 1]), np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
        >>> round(expected_calibration_error(targets, probabilities, bins=2), 3)  # (0.13² − 0.11 + 0.17² − 0.11) / 2
        -0.297
    """
    truth, given, starts = _in_bins(targets, probabilities, bins)
    if not len(starts):
        return float("nan")
    return float(_debiased(np.add.reduceat(truth, starts)[None], given, starts)[0])


def null_calibration_error(targets: Numbers, probabilities: Numbers, bins: int = BINS, draws: int = 100) -> float:
    """The mean of `expected_calibration_error` where each probability is right: near 0, and never quite.

    Args:
        targets: (N,), NaN where unknown (left out).
        probabilities: (N,), 0..1.
        bins: their number, as of `expected_calibration_error`.
        draws: of the truth, each image's by its own probability; the mean over them is returned.

    Returns:
        -1..1, NaN where no bin has two images. The same arguments give the same number.

    Example:
        >>> given = np.linspace(0.01, 0.99, 1000)
        >>> abs(null_calibration_error(given, given)) < 0.02
        True
    """
    _, given, starts = _in_bins(targets, probabilities, bins)
    if not len(starts):
        return float("nan")
    return float(_debiased(_drawn(given, starts, draws), given, starts).mean())


def _debiased(positives: FloatArray, given: FloatArray, starts: Codes) -> FloatArray:
    """The error of several truths of the same images, by their numbers of positives in each bin (D, B): (D,)."""
    sizes = np.diff(starts, append=len(given)).astype(np.float64)
    enough = sizes > 1
    if not enough.any():
        return np.full(len(positives), np.nan)
    sizes, rates = sizes[enough], positives[:, enough] / sizes[enough]
    gaps = rates - (np.add.reduceat(given, starts)[enough] / sizes)
    squares = (gaps**2 - rates * (1 - rates) / (sizes - 1)) @ sizes / sizes.sum()
    signed: FloatArray = np.sign(squares) * np.sqrt(np.abs(squares))
    return signed
