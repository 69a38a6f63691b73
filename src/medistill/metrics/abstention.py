"""How many calls are wrong among those that a model is sure of: risk by coverage.

Geifman & El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017. The model keeps the images of
which it is surest, and hands the others on. Coverage is the share that it keeps, risk the share of wrong calls among
these.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from medistill.metrics.bootstrap import count_by_group, resample
from medistill.metrics.intervals import Codes, FloatArray, Numbers

LEVELS = 100
"""Coverages that are looked at: 1 %, 2 %, …, 100 %."""


@dataclass(frozen=True)
class Kept:
    """Calls by how sure they are, reduced to counts by level and group.

    An image is at the first level that keeps it with all that are as sure.

    Attributes:
        images: (LEVELS, G).
        wrong: (LEVELS, G), those whose call is wrong.
    """

    images: sparse.csr_array
    wrong: sparse.csr_array

    @classmethod
    def of(cls, wrong: Numbers, confidence: Numbers, groups: Codes, group_count: int) -> "Kept":
        """Count.

        Args:
            wrong: (N,), 1 where the call is wrong, 0 where it is right, NaN where that is unknown (left out).
            confidence: (N,), any finite number that is higher the surer the call is; only its order counts.
            groups: (N,) int, the group of each image, 0..G-1.
            group_count: G.
        """
        known = ~np.isnan(wrong)
        wrong, confidence, groups = wrong[known], np.asarray(confidence)[known], groups[known]
        count = len(wrong)
        as_sure = count - np.searchsorted(np.sort(confidence), confidence)  # itself and its equals among them
        level = -(-LEVELS * as_sure // max(count, 1)) - 1
        shape, is_wrong = (LEVELS, group_count), wrong == 1
        return cls(count_by_group(level, groups, shape), count_by_group(level[is_wrong], groups[is_wrong], shape))

    def risks(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weight of the images of each level, and risk of what is kept up to it, under each weighting (G, R).

        Returns:
            (LEVELS, R) each; the risk is NaN where nothing is kept.
        """
        images: FloatArray = self.images @ weights
        kept = np.cumsum(images, axis=0)
        with np.errstate(invalid="ignore"):
            return images, np.cumsum(self.wrong @ weights, axis=0) / kept

    def measure(self, weights: FloatArray) -> FloatArray:
        """The area under each weighting (G, R), a `Statistic`: (R,), NaN where no image has a weight."""
        images, risks = self.risks(weights)
        with np.errstate(invalid="ignore"):
            area: FloatArray = (images * np.nan_to_num(risks)).sum(axis=0) / images.sum(axis=0)
        return area


def measure_abstention(wrong: Numbers, confidence: Numbers, groups: Codes, counts: Codes) -> FloatArray:
    """Area under the risk–coverage curve, the mean risk over all coverages, in every resample; less is better.

    Args:
        wrong: (N,), 1 where the call is wrong, 0 where it is right, NaN where that is unknown (left out).
        confidence: (N,), higher the surer the call is.
        groups: (N,) int, 0..G-1.
        counts: (G, 1 + R), from `bootstrap.draw`.

    Returns:
        (1 + R,), 0..1, the first on the data themselves; NaN without a known image.

    Example:
        >>> wrong, confidence = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.9, 0.8, 0.7, 0.6])
        >>> once = np.ones((4, 1), int)  # each image is a group, and drawn once
        >>> measure_abstention(wrong, confidence, np.arange(4), once).round(3).tolist()  # (0 + 0 + 1/3 + 1/2) / 4
        [0.208]
    """
    return resample(Kept.of(wrong, confidence, groups, len(counts)).measure, counts, rows=LEVELS)


def risk_coverage(wrong: Numbers, confidence: Numbers) -> FloatArray:
    """Risk at each coverage of 1 %, 2 %, …, 100 %.

    Args:
        wrong, confidence: as in `measure_abstention`; at least one image is known.

    Returns:
        (LEVELS,): of the fewest images that hold such a share and all that are as sure as the last of them.

    Example:
        >>> risk_coverage(np.array([0.0, 1.0]), np.array([0.9, 0.6]))[[0, 49, 50, 99]].tolist()
        [0.0, 0.0, 0.5, 0.5]
    """
    images, risks = Kept.of(wrong, confidence, np.zeros(len(wrong), int), 1).risks(np.ones((1, 1)))
    held = np.flatnonzero(images[:, 0] > 0)
    found: FloatArray = risks[held[np.searchsorted(held, np.arange(LEVELS))], 0]
    return found
