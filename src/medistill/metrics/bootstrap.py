"""One paired bootstrap over groups (patients), for every figure that is a function of group weights.

Images of one patient are not independent, so whole groups are drawn with replacement. The same draws serve every model,
so that the difference of two models is paired.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from medistill.metrics.intervals import Codes, FloatArray, summarise
from medistill.records.estimate import Estimate

RESAMPLES = 2000
"""Resamples for figures without a setting of their own."""

BLOCKS = 200
"""Most blocks of groups that a jackknife leaves out."""

Statistic = Callable[[FloatArray], FloatArray]
"""A figure under many weightings of the groups at once: group weights (G, R) to (R,), NaN where it is undefined.

Several figures that share their work are one statistic, (G, R) to (…, R). An image counts as often as its group.
"""

_CHUNK_BYTES = 32e6
"""Size of the largest array while resamples are computed: it stays near the cache, and memory stays flat."""


@lru_cache(maxsize=32)
def draw(group_count: int, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.uint16]:
    """Draw groups with replacement, as many as there are, `resamples` times.

    Returns:
        (G, 1 + resamples): how often each group is in each resample. Column 0 is the data themselves, every group once,
        so that estimate and resamples are computed by the same code. The array is kept, and cannot be written to.

    Example:
        >>> draw(3, resamples=2, seed=0).sum(axis=0).tolist()  # each resample has as many groups as there are
        [3, 3, 3]
    """
    generator = np.random.default_rng(seed)
    counts = np.ones((group_count, 1 + resamples), np.uint16)
    for resample in range(1, 1 + resamples):
        drawn = generator.integers(group_count, size=group_count)
        counts[:, resample] = np.bincount(drawn, minlength=group_count)
    counts.setflags(write=False)
    return counts


@lru_cache(maxsize=32)
def leave_out(group_count: int, blocks: int = BLOCKS) -> NDArray[np.uint16]:
    """Each group once, but for those of one block, for a jackknife: (G, 1 + B), column 0 the data themselves.

    There are as many blocks as groups, and `blocks` at most, of equally many groups drawn at random. The array is kept,
    and cannot be written to.

    Example:
        >>> leave_out(3)[:, 1:].sum(axis=0).tolist()
        [2, 2, 2]
    """
    count = min(group_count, blocks)
    counts = np.ones((group_count, 1 + count), np.uint16)
    block_of = np.random.default_rng(0).permutation(group_count) % max(count, 1)
    counts[np.arange(group_count), 1 + block_of] = 0
    counts.setflags(write=False)
    return counts


def resample(statistic: Statistic, counts: Codes, *, rows: int = 0) -> FloatArray:
    """A statistic on the data themselves and in every resample.

    Args:
        statistic: of G groups.
        counts: (G, 1 + R), from `draw`.
        rows: how many rows the largest array has that the statistic makes, where these are more than G.

    Returns:
        (…, 1 + R), the first of the last axis on the data themselves.

    Example:
        >>> sums = np.array([1.0, 2.0, 6.0])
        >>> def mean(weights):
        ...     return sums @ weights / weights.sum(axis=0)
        >>> resample(mean, draw(3, resamples=4)).shape
        (5,)
    """
    return np.concatenate([statistic(weights) for weights in _weightings(counts, max(len(counts), rows))], axis=-1)


def _weightings(counts: Codes, rows: int) -> Iterator[FloatArray]:
    """Draws as float64 weights, a few columns at a time, so that arrays of `rows` rows stay small."""
    chunk = max(1, int(_CHUNK_BYTES / (8 * rows)))
    for start in range(0, counts.shape[1], chunk):
        yield counts[:, start : start + chunk].astype(np.float64)


def estimate(statistic: Statistic, counts: Codes, *, groups: int | None = None, difference: bool = False) -> Estimate:
    """One figure with its 95 % interval.

    Args:
        statistic: (G, R) to (R,).
        counts: (G, 1 + R), from `draw`.
        groups, difference: as in `intervals.summarise`.

    Example:
        >>> values = np.arange(20.0)
        >>> def mean(weights):
        ...     return values @ weights / weights.sum(axis=0)
        >>> figure = estimate(mean, draw(20))
        >>> figure.estimate, figure.lower < 9.5 < figure.upper
        (9.5, True)
    """
    return summarise(resample(statistic, counts), counts, groups=groups, difference=difference)


def count_by_group(rows: Codes, groups: Codes, shape: tuple[int, int]) -> sparse.csr_array:
    """How often each (row, group) occurs, as a sparse float64 matrix of this shape (rows, G): what statistics weigh.

    Example:
        >>> count_by_group(np.array([0, 0, 1]), np.array([1, 1, 0]), (2, 3)).toarray().tolist()
        [[0.0, 2.0, 0.0], [1.0, 0.0, 0.0]]
    """
    return sparse.csr_array((np.ones(len(rows)), (rows, groups)), shape=shape)
