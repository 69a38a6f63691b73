"""Whether a student looks where its teacher looks."""

import numpy as np
from numpy.typing import NDArray

from medistill.metrics.means import mean_interval
from medistill.records.explain import Agreement


def cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine similarity of maps (N, S, S) with maps (N, S, S), one by one: float64 (N,), NaN where one is all zero."""
    a, b = (maps.reshape(len(maps), -1).astype(np.float64) for maps in (first, second))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: NDArray[np.float64] = np.divide((a * b).sum(axis=1), norms, out=np.full(len(a), np.nan), where=norms > 0)
    return cosines


def agreement(student: NDArray[np.float32], teacher: NDArray[np.float32], groups: NDArray[np.generic]) -> Agreement:
    """Mean cosine similarity of a student's and a teacher's unnormalised maps (N, S, S) of the same findings.

    Returns:
        With an interval from a bootstrap over `groups`, (N,).
    """
    values = cosine(student, teacher)
    left_out = int(np.isnan(values).sum())
    mean = mean_interval(values, groups)
    return Agreement(
        estimate=mean.estimate,
        lower=mean.lower,
        upper=mean.upper,
        findings=len(values) - left_out,
        zero_maps=left_out,
    )
