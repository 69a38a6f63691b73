"""Means of values that items of groups have, and shares of hits, with intervals.

A share of hits has Wilson's interval, which is wide where nothing or everything is hit. Other means have the expanded
percentile interval of the bootstrap over groups, with the same draws whatever the values.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from medistill.metrics.bootstrap import draw, estimate
from medistill.metrics.intervals import CONFIDENCE, Codes, FloatArray, Numbers, wilson
from medistill.records.estimate import Estimate


@dataclass(frozen=True)
class GroupedMean:
    """Values reduced to sums and counts per group, from which their mean follows under any weighting of the groups.

    Attributes:
        sums: (G,), of the values of each group.
        numbers: (G,), how many there are.
    """

    sums: FloatArray
    numbers: FloatArray

    @classmethod
    def of(cls, values: Numbers, groups: Codes, group_count: int) -> "GroupedMean":
        """Add up values (N,), NaN left out, of groups (N,) int, 0..G-1."""
        known = ~np.isnan(values)
        sums = np.bincount(groups, np.where(known, values, 0), minlength=group_count)
        numbers = np.bincount(groups, known, minlength=group_count)
        return cls(sums.astype(np.float64, copy=False), numbers.astype(np.float64, copy=False))

    def measure(self, weights: FloatArray) -> FloatArray:
        """The mean under each weighting (G, R), a `Statistic`: (R,), NaN where no value has a weight."""
        with np.errstate(invalid="ignore"):
            return (self.sums @ weights) / (self.numbers @ weights)


def mean_interval(values: NDArray[np.float64], groups: NDArray[np.generic], *, difference: bool = False) -> Estimate:
    """Mean of values with its 95 % expanded percentile interval from a bootstrap over groups.

    Args:
        values: (N,), one per item; NaN is left out.
        groups: (N,), each item's group. The same groups give the same draws, whatever the values.
        difference: the values are differences, and not between 0 and 1.

    Returns:
        All None without a value; the bounds also where the values are of one group, or where more than 5 % of the
        resamples have none.

    Example:
        >>> figure = mean_interval(np.arange(10.0), np.arange(10))
        >>> figure.estimate, figure.lower < 4.5 < figure.upper
        (4.5, True)
    """
    if len(values) == 0:
        return Estimate(None)
    names, codes = np.unique(groups, return_inverse=True)
    mean = GroupedMean.of(values, codes, len(names))
    rests_on = int((mean.numbers > 0).sum())
    return estimate(mean.measure, draw(len(names)), groups=rests_on, difference=difference)


def share_interval(hits: NDArray[np.float64], groups: NDArray[np.generic]) -> Estimate:
    """Share of items that are hits, with Wilson's 95 % interval of as many trials as these items are worth.

    The items of a group (the findings of a patient) are correlated, so N of them are worth N divided by the design
    effect: how many times larger the variance of the share is than that of N independent trials (Kish 1965). It is at
    least 1, and at most what it would be if each group were all hits or all misses; that is also taken where nothing or
    everything is hit, since the variance is then not known. An estimated variance costs a little more (Korn & Graubard,
    Survey Methodology 1998; Franco et al., Journal of Survey Statistics and Methodology 2019, compare such intervals).

    Args:
        hits: (N,), 1 or 0.
        groups: (N,), each item's group.

    Returns:
        All None without an item; the bounds also where there is but one group.

    Example:
        >>> figure = share_interval(np.array([1.0, 0.0, 1.0, 1.0]), np.array([0, 1, 2, 3]))
        >>> figure.estimate, figure.lower < 0.75 < figure.upper
        (0.75, True)
    """
    if len(hits) == 0:
        return Estimate(None)
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    share, count = float(hits.mean()), len(sizes)
    if count < 2:
        return Estimate(share)
    trials = len(hits) ** 2 / float(np.square(sizes).sum())
    residuals = np.bincount(codes, hits - share)
    variance = count / (count - 1) * float(np.square(residuals).sum()) / len(hits) ** 2
    if 0 < share < 1:
        trials = min(len(hits), max(trials, share * (1 - share) / variance)) if variance else len(hits)
        tail = (1 + CONFIDENCE) / 2
        trials *= (special.ndtri(tail) / special.stdtrit(count - 1, tail)) ** 2
    return Estimate(share, *wilson(share, trials))


def paired_interval(own: NDArray[np.float64], other: NDArray[np.float64], groups: NDArray[np.generic]) -> Estimate:
    """Mean of own − other, item by item, with its interval from a bootstrap over groups.

    Resamples contain no outcome that the data lack. So where one of the two is all hits or all misses, the bounds of
    both are combined (Newcombe's square-and-add, Statistics in Medicine 1998); and where two models agree on every
    item, they may still differ on as many others as the interval of none of N says.

    Args:
        own: (N,), 1 where a model hits, else 0.
        other: (N,), the same of another model or of a prior, or the chance of a hit.
        groups: (N,), each item's group.

    Example:
        >>> own, other, patients = np.array([1.0, 1.0, 0.0]), np.array([0.0, 1.0, 0.0]), np.array([0, 1, 2])
        >>> round(paired_interval(own, other, patients).estimate, 3)
        0.333
    """
    result = mean_interval(own - other, groups, difference=True)
    if result.estimate is None or result.lower is None:
        return result
    if (own == other).all():
        none = _bounds(share_interval(np.zeros(len(own)), groups))[2]
        return replace(result, lower=-none, upper=none)
    if any((values == end).all() for values in (own, other) for end in (0, 1)):
        a, a_lower, a_upper = _bounds(share_interval(own, groups))
        is_share = np.isin(other, (0, 1)).all()
        b, b_lower, b_upper = _bounds(share_interval(other, groups) if is_share else mean_interval(other, groups))
        below, above = np.hypot(a - a_lower, b_upper - b), np.hypot(a_upper - a, b - b_lower)
        return replace(result, lower=float(result.estimate - below), upper=float(result.estimate + above))
    return result


def _bounds(figure: Estimate) -> tuple[float, float, float]:
    """Estimate, lower and upper bound of a figure that has an interval."""
    assert figure.estimate is not None
    assert figure.lower is not None
    assert figure.upper is not None
    return figure.estimate, figure.lower, figure.upper
