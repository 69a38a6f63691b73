"""Intervals and p-values from a paired bootstrap over groups (patients).

Images of one patient are not independent, so whole groups are drawn with replacement. The same draws serve every model,
so that the difference of two models is paired.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from medistill.metrics.ranking import CountedClasses, FloatArray, RankedLabel

CONFIDENCE = 0.95
MAX_DROPPED = 0.05
"""Share of undefined resamples above which there is no interval."""
MIN_IMAGES = 10
"""Positives and negatives, each, that make a label eligible."""
MIN_GROUPS = 10
"""Groups from which the positives, and from which the negatives, of an eligible label come at least."""

_CHUNK_BYTES = 32e6
"""Size of the largest array while resamples are computed: it stays near the cache, and memory stays flat."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval.

    Attributes:
        estimate: on the data themselves; None where it is undefined.
        lower, upper: bounds of the 95 % interval; None where more than 5 % of the resamples were undefined, or where
            these say nothing of the spread.
        dropped: number of undefined resamples.
    """

    estimate: float | None
    lower: float | None
    upper: float | None
    dropped: int

    def to_dict(self) -> dict[str, float | int | None]:
        """The fields by name."""
        return asdict(self)


def draw(group_count: int, resamples: int, seed: int) -> NDArray[np.uint16]:
    """Draw groups with replacement, as many as there are, `resamples` times.

    Returns:
        (G, 1 + resamples): how often each group is in each resample. Column 0 is the data themselves, every group once,
        so that estimate and resamples are computed by the same code.
    """
    generator = np.random.default_rng(seed)
    counts = np.ones((group_count, 1 + resamples), np.uint16)
    for resample in range(1, 1 + resamples):
        drawn = generator.integers(group_count, size=group_count)
        counts[:, resample] = np.bincount(drawn, minlength=group_count)
    return counts


def measure(
    targets: NDArray,
    scores: NDArray,
    groups: NDArray,
    counts: NDArray,
    on_label: Callable[[], object] | None = None,
) -> tuple[FloatArray, FloatArray]:
    """AUROC and average precision of every label in every resample.

    Args:
        targets: (N, L), 1, 0, or NaN where unknown.
        scores: (N, L), finite.
        groups: (N,) int, 0..G-1.
        counts: (G, 1 + R), from `draw`.
        on_label: called L times in all while the work goes on.

    Returns:
        AUROC (1 + R, L) and average precision (1 + R, L), row 0 on the data themselves; NaN where undefined.
    """
    group_count, columns = counts.shape
    labels = targets.shape[1]
    ranked = [RankedLabel.of(targets[:, k], scores[:, k], groups, group_count) for k in range(labels)]
    auroc, precision = np.empty((columns, labels)), np.empty((columns, labels))
    rows = max([group_count, *(label.negatives.shape[0] for label in ranked)])
    reported = 0
    for part, weights in _weightings(counts, rows):
        for k, label in enumerate(ranked):
            auroc[part, k], precision[part, k] = label.measure(weights)
        while on_label and reported < labels * part.stop // columns:
            on_label()
            reported += 1
    return auroc, precision


def measure_accuracy(
    targets: NDArray, scores: NDArray, groups: NDArray, counts: NDArray
) -> tuple[FloatArray, FloatArray]:
    """Accuracy and balanced accuracy of exclusive classes in every resample.

    Args:
        targets: (N, L), 1 for the true class and 0 for the others; an image with a NaN is left out.
        scores: (N, L), finite; the highest is the answer.
        groups: (N,) int, 0..G-1.
        counts: (G, 1 + R), from `draw`.

    Returns:
        Accuracy (1 + R,) and balanced accuracy (1 + R,), the first on the data themselves; NaN where undefined: a
        resample without one of the classes that occur in the data has no balanced accuracy.
    """
    group_count, columns = counts.shape
    classes = CountedClasses.of(targets, scores, groups, group_count)
    accuracy, balanced = np.empty(columns), np.empty(columns)
    for part, weights in _weightings(counts, group_count):
        accuracy[part], balanced[part] = classes.measure(weights)
    return accuracy, balanced


def _weightings(counts: NDArray, rows: int) -> Iterator[tuple[slice, FloatArray]]:
    """Draws as float64 weights, a few columns at a time, so that arrays of `rows` rows stay small."""
    chunk = max(1, int(_CHUNK_BYTES / (8 * rows)))
    for start in range(0, counts.shape[1], chunk):
        part = slice(start, min(start + chunk, counts.shape[1]))
        yield part, counts[:, part].astype(np.float64)


def summarise(
    values: FloatArray, *, groups: int | None = None, reflected: bool = False, difference: bool = False
) -> Estimate:
    """Estimate and 95 % interval of one figure; docs/evaluation.md says how often which interval holds the truth.

    Means over labels and their differences have the percentile interval. Where a resample cannot differ from the data
    (an AUROC of 1, all answers right), it would have no width: a figure of `groups` has Wilson's interval of as many
    trials instead, any other one none.

    Args:
        values: (1 + R,), the figure on the data themselves, then in each resample; NaN where undefined.
        groups: of a figure of one label, the number of groups it rests on (`fewer_groups`). With few of them the
            percentile interval is too narrow; it is expanded (Hesterberg, The American Statistician 2015, section 5).
        reflected: mirror the percentile interval about the estimate and cut it at 0 and 1 (the basic bootstrap,
            Davison & Hinkley 1997, section 5.2). For a mean over labels of average precision: the duplicates in a
            resample raise it, and the mean narrows the interval but not that bias.
        difference: the figure is one of two models, paired, and not one between 0 and 1.
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
        return Estimate(estimate, *(wilson(estimate, groups) if groups else (None, None)), dropped)
    tail = (1 - CONFIDENCE) / 2 if groups is None else _expanded(groups)
    lower, upper = np.quantile(defined, [tail, 1 - tail])
    if reflected:
        lower, upper = np.clip([2 * estimate - upper, 2 * estimate - lower], 0, 1)
    return Estimate(estimate, float(lower), float(upper), dropped)


def _expanded(groups: int) -> float:
    """The tail whose quantiles make up for two things that the percentile interval of a mean of n lacks.

    A resample's variance is (n − 1)/n of the sample's, and the normal distribution stands in for Student's t.
    """
    student = special.stdtrit(groups - 1, (1 + CONFIDENCE) / 2)
    return float(special.ndtr(-student * np.sqrt(groups / (groups - 1))))


def wilson(share: float, trials: float) -> tuple[float, float]:
    """Wilson's (1927) 95 % interval of a share, 0..1, of so many independent trials; they need not be whole."""
    squared = special.ndtri((1 + CONFIDENCE) / 2) ** 2
    middle = share + squared / (2 * trials)
    half = np.sqrt(squared * (share * (1 - share) / trials + squared / (4 * trials**2)))
    lower, upper = (middle - half) / (1 + squared / trials), (middle + half) / (1 + squared / trials)
    return float(min(lower, share)), float(max(upper, share))  # 0 and 1 are among them, whatever the rounding


def fewer_groups(targets: NDArray, groups: NDArray) -> int:
    """Number of groups with a positive, or with a negative where these are fewer: what a label's figures rest on.

    Args:
        targets: (N,), 1, 0, or NaN where unknown.
        groups: (N,), the group of each image.
    """
    return min(len(np.unique(groups[targets == value])) for value in (1, 0))


def p_value(differences: FloatArray, *, groups: int | None = None) -> float | None:
    """Two-sided bootstrap p-value of a paired difference, below 0.05 where the interval of `summarise` leaves out 0.

    It is min(1, 2 min((1 + #≤0)/(R + 1), (1 + #≥0)/(R + 1))); of one label it is as much larger as its interval is
    wider.

    Args:
        differences: (1 + R,), on the data themselves, then in each resample; R counts those that are defined.
        groups: of a difference of one label, as in `summarise`.

    Returns:
        None where there is no interval either.
    """
    if summarise(differences, groups=groups, difference=True).lower is None:
        return None
    defined = differences[1:][~np.isnan(differences[1:])]
    tail = (1 + min((defined <= 0).sum(), (defined >= 0).sum())) / (len(defined) + 1)
    if groups is not None:
        tail = special.stdtr(groups - 1, special.ndtri(tail) * np.sqrt((groups - 1) / groups))
    return float(min(1.0, 2 * tail))


def holm(p_values: list[float | None]) -> list[float | None]:
    """Adjust p-values for testing them all (Holm, 1979); None stays None and is not counted."""
    order = sorted((k for k, p in enumerate(p_values) if p is not None), key=lambda k: p_values[k])
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[k]))
        adjusted[k] = largest
    return adjusted


def ineligible(targets: NDArray, groups: NDArray) -> str | None:
    """Why a label is not eligible for macro means and comparisons; None where it is.

    Args:
        targets: (N,), 1, 0, or NaN where unknown.
        groups: (N,), the group of each image.
    """
    for value, name in ((1, "positives"), (0, "negatives")):
        chosen = targets == value
        images, patients = int(chosen.sum()), len(np.unique(groups[chosen]))
        if images < MIN_IMAGES:
            return f"{images} {name}, fewer than {MIN_IMAGES}"
        if patients < MIN_GROUPS:
            return f"{name} from {patients} groups, fewer than {MIN_GROUPS}"
    return None
