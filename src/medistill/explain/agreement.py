"""Whether a student looks where its teacher looks."""

import numpy as np
from numpy.typing import NDArray

from medistill.metrics.means import mean_interval
from medistill.records.explain import Agreement


def agreement(student: NDArray[np.float32], teacher: NDArray[np.float32], groups: NDArray[np.generic]) -> Agreement:
    """Mean correlation (Pearson's, over pixels) of a student's and a teacher's maps of the same findings.

    Any two maps of chests correlate, so the mean correlation of a student's map with the teacher's maps of all
    findings of other groups stands beside it.

    Args:
        student, teacher: unnormalised maps (N, S, S).
        groups: (N,); the unit of the bootstrap.
    """
    own, other = _standardised(student), _standardised(teacher)
    known = ~(np.isnan(own).any(axis=1) | np.isnan(other).any(axis=1))
    same, shuffled = np.full((2, len(own)), np.nan)
    same[known] = (own[known] * other[known]).sum(axis=1, dtype=np.float64)
    shuffled[known] = _with_other_groups(own[known], other[known], groups[known])
    mean = mean_interval(same, groups)
    return Agreement(
        estimate=mean.estimate,
        lower=mean.lower,
        upper=mean.upper,
        findings=int(known.sum()),
        flat_maps=int((~known).sum()),
        shuffled=mean_interval(shuffled, groups).estimate,
        difference_shuffled=mean_interval(same - shuffled, groups, difference=True),
    )


def _standardised(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Maps (N, S, S) as vectors (N, S²) of mean 0 and length 1, whose product is the correlation; NaN where flat."""
    vectors = maps.reshape(len(maps), -1)
    centred = vectors - vectors.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    lengths[lengths <= 1e-6 * np.abs(vectors).max(axis=1, keepdims=True, initial=0)] = np.nan
    result: NDArray[np.float32] = centred / lengths
    return result


def _with_other_groups(
    own: NDArray[np.float32], other: NDArray[np.float32], groups: NDArray[np.generic]
) -> NDArray[np.float64]:
    """The mean product of each row of `own` with the rows of `other` of all other groups: (N,), NaN without one."""
    result = np.full(len(own), np.nan)
    every = other.sum(axis=0, dtype=np.float64)
    for group in np.unique(groups):
        inside = groups == group
        if outside := int((~inside).sum()):
            result[inside] = own[inside] @ (every - other[inside].sum(axis=0)) / outside
    return result
