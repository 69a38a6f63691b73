"""Estimates with 95 % intervals and p-values, from a figure's values in resamples, and Wilson's interval of a share."""

import numpy as np
from numpy.typing import NDArray
from scipy import special

from medistill.records.estimate import Estimate

FloatArray = NDArray[np.float64]
Numbers = NDArray[np.floating | np.integer | np.bool]
"""Targets, scores and probabilities, in whatever precision they come."""
Codes = NDArray[np.integer]
"""Groups 0..G-1, or how often each is drawn."""

CONFIDENCE = 0.95
MAX_DROPPED = 0.05
"""Share of undefined resamples above which there is no interval."""


def summarise(values: FloatArray, *, groups: int | None = None, difference: bool = False) -> Estimate:
    """Estimate and 95 % interval of one figure; docs/intervals.md says how often each interval holds the truth.

    Means over labels and their differences have the percentile interval. Where a resample cannot differ from the data
    (an AUROC of 1, all answers right), it would have no width: a figure of `groups` has Wilson's interval of as many
    trials instead, any other one none.

    Args:
        values: (1 + R,), the figure on the data themselves, then in each resample; NaN where undefined.
        groups: of a figure of one label, the number of groups it rests on (`fewer_groups`). With few of them the
            percentile interval is too narrow; it is expanded (Hesterberg, The American Statistician 2015, section 5).
        difference: the figure is one of two models, paired, and not one between 0 and 1.

    Example:
        >>> figure = summarise(np.concatenate([[0.5], np.linspace(0, 1, 2001)]))
        >>> figure.estimate, round(figure.lower, 3), round(figure.upper, 3)
        (0.5, 0.025, 0.975)
    """
    resampled = values[1:]
    defined = resampled[~np.isnan(resampled)]
    dropped = len(resampled) - len(defined)
    if np.isnan(values[0]):
        return Estimate(None, None, None, dropped)
    estimate = float(values[0])
    if dropped > MAX_DROPPED * len(resampled) or (groups is not None and groups < 2):
        return Estimate(estimate, None, None, dropped)
    if estimate in (0, 1) and not difference and (defined == estimate).all():
        lower, upper = wilson(estimate, groups) if groups else (None, None)
        return Estimate(estimate, lower, upper, dropped)
    tail = (1 - CONFIDENCE) / 2 if groups is None else _expanded(groups)
    lower, upper = np.quantile(defined, [tail, 1 - tail])
    return Estimate(estimate, float(lower), float(upper), dropped)


def centred(values: FloatArray, groups: int) -> Estimate:
    """Estimate and 95 % interval by a jackknife over groups: about the estimate less its bias, by Student's t.

    For a mean over labels of average precision, which is too high where positives are few, while the mean narrows the
    interval but not that bias. Duplicates in a resample raise it once more, so that resamples cannot say by how much
    (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapters 10 and 11).

    Args:
        values: (1 + B,), the figure on the data themselves, then without each block of groups, see
            `bootstrap.leave_out`; NaN where undefined.
        groups: the fewest groups that a label of the mean rests on (`fewer_groups`).

    Returns:
        The estimate as it is. No bounds where a block leaves it undefined or none changes it.

    Example:
        >>> sample = np.array([0.1, 0.4, 0.2, 0.5])
        >>> without = [np.delete(sample, k).mean() for k in range(4)]
        >>> found = centred(np.array([sample.mean(), *without]), groups=4)  # of a mean: Student's interval
        >>> round(found.estimate, 3), round(found.lower, 3), round(found.upper, 3)
        (0.3, 0.009, 0.591)
    """
    left_out = values[1:]
    count, dropped = len(left_out), int(np.isnan(left_out).sum())
    if np.isnan(values[0]):
        return Estimate(None, None, None, dropped)
    estimate, middle = float(values[0]), left_out.mean()
    error = np.sqrt((count - 1) / count * np.square(left_out - middle).sum())
    if dropped or groups < 2 or error == 0:
        return Estimate(estimate, None, None, dropped)
    centre = estimate - (count - 1) * (middle - estimate)
    half = special.stdtrit(groups - 1, (1 + CONFIDENCE) / 2) * error
    lower, upper = np.clip([centre - half, centre + half], 0, 1)
    return Estimate(estimate, float(lower), float(upper), dropped)


def _expanded(groups: int) -> float:
    """The tail probability that corrects two defects of the percentile interval of a mean of n.

    A resample's variance is (n − 1)/n of the sample's, and the normal distribution stands in for Student's t.
    """
    student = special.stdtrit(groups - 1, (1 + CONFIDENCE) / 2)
    return float(special.ndtr(-student * np.sqrt(groups / (groups - 1))))


def wilson(share: float, trials: float) -> tuple[float, float]:
    """Wilson's (1927) 95 % interval of a share, 0..1, of so many independent trials; they need not be whole.

    Example:
        >>> [round(bound, 3) for bound in wilson(0.9, 50)]
        [0.786, 0.957]
        >>> [round(bound, 3) for bound in wilson(1.0, 50)]
        [0.929, 1.0]
    """
    squared = special.ndtri((1 + CONFIDENCE) / 2) ** 2
    middle = share + squared / (2 * trials)
    half = np.sqrt(squared * (share * (1 - share) / trials + squared / (4 * trials**2)))
    lower, upper = (middle - half) / (1 + squared / trials), (middle + half) / (1 + squared / trials)
    return float(min(lower, share)), float(max(upper, share))  # includes 0 and 1 in spite of rounding


def p_value(differences: FloatArray, *, groups: int | None = None) -> float | None:
    """Two-sided bootstrap p-value of a paired difference, below 0.05 where the interval of `summarise` leaves out 0.

    It is min(1, 2 min((1 + #≤0)/(R + 1), (1 + #≥0)/(R + 1))); of one label it is as much larger as its interval is
    wider.

    Args:
        differences: (1 + R,), on the data themselves, then in each resample; R counts those that are defined.
        groups: of a difference of one label, as in `summarise`.

    Returns:
        None where there is no interval either.

    Example:
        >>> p_value(np.concatenate([[0.1], np.full(999, 0.1)]))
        0.002
    """
    if summarise(differences, groups=groups, difference=True).lower is None:
        return None
    defined = differences[1:][~np.isnan(differences[1:])]
    tail = (1 + min((defined <= 0).sum(), (defined >= 0).sum())) / (len(defined) + 1)
    if groups is not None:
        tail = special.stdtr(groups - 1, special.ndtri(tail) * np.sqrt((groups - 1) / groups))
    return float(min(1.0, 2 * tail))


def compare(own: FloatArray, reference: FloatArray, *, groups: int | None = None) -> tuple[Estimate, float | None]:
    """Paired difference own − reference of a figure of two models, with its interval, and its p-value.

    Args:
        own, reference: (1 + R,), the figure of each in the same resamples, the first on the data themselves.
        groups: of a figure of one label, as in `summarise`.

    Example:
        >>> own, reference = np.linspace(0.7, 0.9, 100), np.linspace(0.6, 0.8, 100)
        >>> difference, p = compare(own, reference)
        >>> round(difference.estimate, 3), round(difference.lower, 3), round(p, 3)
        (0.1, 0.1, 0.02)
    """
    differences = own - reference
    return summarise(differences, groups=groups, difference=True), p_value(differences, groups=groups)


def holm(p_values: list[float | None]) -> list[float | None]:
    """Adjust p-values for testing them all (Holm, 1979); None stays None and is not counted.

    Example:
        >>> holm([0.01, None, 0.04, 0.03])
        [0.03, None, 0.06, 0.06]
    """
    known = {k: p for k, p in enumerate(p_values) if p is not None}
    order = sorted(known, key=known.__getitem__)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * known[k]))
        adjusted[k] = largest
    return adjusted
