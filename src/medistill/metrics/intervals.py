"""Estimates with 95 % intervals and p-values, from a figure's values in resamples, and Wilson's interval of a share."""

from dataclasses import dataclass

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


def summarise(
    values: FloatArray, counts: Codes | None = None, *, groups: int | None = None, difference: bool = False
) -> Estimate:
    """Estimate and 95 % interval of one figure; docs/intervals.md says how often each interval holds the truth.

    It is the percentile interval of the resamples, expanded for as many groups as the figure is worth, and more to the
    side to which single groups move it far, see `_Worth`. Where a resample cannot differ from the data (an AUROC of 1,
    all answers right), it would have no width: a figure of `groups` has Wilson's interval of as many trials instead,
    any other one none.

    Args:
        values: (1 + R,), the figure on the data themselves, then in each resample; NaN where undefined.
        counts: (G, 1 + R), how often each group is in each resample, from `bootstrap.draw`; None where it is not groups
            alone that are drawn.
        groups: of a figure of one label, the number of groups it rests on (`fewer_groups`); it is not worth more, and
            with 1 there is no interval; None: what `counts` say, and without these the percentile interval as it is.
        difference: the figure is one of two models, paired, and not one between 0 and 1.

    Example:
        >>> figure = summarise(np.concatenate([[0.5], np.linspace(0, 1, 2001)]))
        >>> figure.estimate, round(figure.lower, 3), round(figure.upper, 3)
        (0.5, 0.025, 0.975)
    """
    return _summarised(values, counts, groups, difference)[0]


def _summarised(
    values: FloatArray, counts: Codes | None, groups: int | None, difference: bool
) -> tuple[Estimate, "_Worth | None"]:
    """What `summarise` gives, and by how much the interval is expanded; None where it is none of the resamples."""
    resampled = values[1:]
    defined = resampled[~np.isnan(resampled)]
    dropped = len(resampled) - len(defined)
    if np.isnan(values[0]):
        return Estimate(None, None, None, dropped), None
    estimate = float(values[0])
    if dropped > MAX_DROPPED * len(resampled) or (groups is not None and groups < 2):
        return Estimate(estimate, None, None, dropped), None
    if estimate in (0, 1) and not difference and (defined == estimate).all():
        lower, upper = wilson(estimate, groups) if groups else (None, None)
        return Estimate(estimate, lower, upper, dropped), None
    worth = _Worth.of_resamples(values, counts, groups)
    below, above = worth.tails()
    lower, upper = np.quantile(defined, [below, 1 - above])
    return Estimate(estimate, float(lower), float(upper), dropped), worth


def centred(values: FloatArray, groups: int) -> Estimate:
    """Estimate and 95 % interval by a jackknife over groups: about the estimate less its bias, by Student's t.

    For a mean over labels of average precision, which is too high where positives are few, while the mean narrows the
    interval but not that bias. Duplicates in a resample raise it once more, so that resamples cannot say by how much
    (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapters 10 and 11).

    Args:
        values: (1 + B,), the figure on the data themselves, then without each block of groups, see
            `bootstrap.leave_out`; NaN where undefined.
        groups: the fewest groups that a label of the mean rests on (`fewer_groups`); it is not worth more, see
            `_Worth`.

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
    worth = _Worth.of_influences(middle - left_out, groups)
    half = special.stdtrit(worth.groups - 1, (1 + CONFIDENCE) / 2) * error
    lower, upper = np.clip([centre - half, centre + half], 0, 1)
    return Estimate(estimate, float(lower), float(upper), dropped)


@dataclass(frozen=True)
class _Worth:
    """How many groups a figure is worth, and to which side single groups move it far.

    A group's influence u is, to first order, by how much the figure moves when the group is drawn once more. Where a
    few groups have most of it (patients with a hundred images), the figure's variance is known no better than from so
    few. The variance of a sample's variance is σ⁴ (2/(G − 1) + κ/G), κ the excess kurtosis; Satterthwaite's (1946)
    degrees of freedom are those of a χ² that varies as much: 2/df = 2/(G − 1) + κ/G.

    Attributes:
        groups: 1 + df, at most G: as many groups of normal influence.
        skew: the acceleration of Efron (JASA 1987), Σu³ / (6 (Σu²)^1.5): the figure's error grows with it.
    """

    groups: float
    skew: float = 0.0

    @classmethod
    def of_resamples(cls, values: FloatArray, counts: Codes | None, groups: int | None) -> "_Worth":
        """From a figure's values, as for `summarise`.

        A group's influence is the covariance of the figure with how often it is drawn (the infinitesimal jackknife;
        Efron, JASA 2014). Of a figure with variance 1 it has the Monte Carlo variance 1/R.
        """
        known = ~np.isnan(values[1:])
        defined = values[1:][known]
        spread = defined.std()
        if counts is None or spread == 0:
            return cls(np.inf if groups is None else groups)
        scaled = np.where(known, (values[1:] - defined.mean()) / spread, 0) / len(defined)
        parts = np.array_split(counts[:, 1:], -(-len(counts) // 128))  # which stay in the cache as float64
        moved = np.concatenate([part.astype(np.float64) @ scaled for part in parts])
        return cls.of_influences(moved, groups, noise=1 / len(defined))

    @classmethod
    def of_influences(cls, influences: FloatArray, groups: int | None, noise: float = 0.0) -> "_Worth":
        """From each group's influence (G,), not all of them 0.

        Args:
            influences: of each group.
            groups: the most that it can be worth; None: G.
            noise: variance of each influence's error, where the figure's variance is 1; it is taken out of the sums.
        """
        count = len(influences)
        squares = float(np.square(influences).sum())
        if noise:  # the rest of the variance is what groups do together, which is never most of it
            squares = max(squares - count * noise, 0.5)
        fourths = float((influences**4).sum()) - 6 * noise * squares - 3 * count * noise**2
        excess = max(fourths / squares**2 - 3 / count, 0.0)
        worth = 1 + 1 / (1 / (count - 1) + excess / 2) if count > 1 else 1.0
        skew = float((influences**3).sum()) / (6 * squares**1.5)
        return cls(worth if groups is None else min(worth, groups), skew)

    def tails(self) -> tuple[float, float]:
        """The tail probabilities that correct the lower and the upper end of the percentile interval.

        A resample's variance is (n − 1)/n of a sample's, and the normal distribution stands in for Student's t
        (Hesterberg, The American Statistician 2015, section 5); and where the figure is higher, its error is larger or
        smaller, by its skew (Efron, JASA 1987).
        """
        if np.isinf(self.groups):
            return (1 - CONFIDENCE) / 2, (1 - CONFIDENCE) / 2
        reach = special.stdtrit(self.groups - 1, (1 + CONFIDENCE) / 2) * np.sqrt(self.groups / (self.groups - 1))
        ends = [reach / max(1 + skew * reach, 1e-9) for skew in (self.skew, -self.skew)]
        return float(special.ndtr(-ends[0])), float(special.ndtr(-ends[1]))

    def p_value(self, below: float, above: float) -> float:
        """The two-sided p-value of 0, which is where an end of the interval of confidence 1 − p lies: undoes `tails`.

        Args:
            below: share of resamples at most 0, above 0.
            above: share of resamples at least 0, above 0.
        """
        tail, skew = (below, self.skew) if below <= above else (above, -self.skew)
        if np.isfinite(self.groups) and tail < 0.5:
            end = -special.ndtri(tail)
            reach = end / max(1 - skew * end, 1e-9)
            tail = special.stdtr(self.groups - 1, -reach * np.sqrt((self.groups - 1) / self.groups))
        return float(min(1.0, 2 * tail))


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


def p_value(differences: FloatArray, counts: Codes | None = None, *, groups: int | None = None) -> float | None:
    """Two-sided bootstrap p-value of a paired difference, below 0.05 where the interval of `summarise` leaves out 0.

    It is min(1, 2 min((1 + #≤0)/(R + 1), (1 + #≥0)/(R + 1))), and as much larger as the interval is expanded.

    Args:
        differences: (1 + R,), on the data themselves, then in each resample; R counts those that are defined.
        counts, groups: as in `summarise`.

    Returns:
        None where there is no interval either.

    Example:
        >>> p_value(np.concatenate([[0.1], np.full(999, 0.1)]))
        0.002
    """
    return _judged(differences, counts, groups)[1]


def compare(
    own: FloatArray, reference: FloatArray, counts: Codes | None = None, *, groups: int | None = None
) -> tuple[Estimate, float | None]:
    """Paired difference own − reference of a figure of two models, with its interval, and its p-value.

    Args:
        own, reference: (1 + R,), the figure of each in the same resamples, the first on the data themselves.
        counts, groups: as in `summarise`.

    Example:
        >>> own, reference = np.linspace(0.7, 0.9, 100), np.linspace(0.6, 0.8, 100)
        >>> difference, p = compare(own, reference)
        >>> round(difference.estimate, 3), round(difference.lower, 3), round(p, 3)
        (0.1, 0.1, 0.02)
    """
    return _judged(own - reference, counts, groups)


def _judged(differences: FloatArray, counts: Codes | None, groups: int | None) -> tuple[Estimate, float | None]:
    """The interval of differences, and their p-value from the same expansion; None where there is no interval."""
    interval, worth = _summarised(differences, counts, groups, difference=True)
    if worth is None:
        return interval, None
    defined = differences[1:][~np.isnan(differences[1:])]
    below, above = ((1 + found.sum()) / (len(defined) + 1) for found in (defined <= 0, defined >= 0))
    return interval, worth.p_value(below, above)


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
