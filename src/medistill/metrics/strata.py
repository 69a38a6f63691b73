"""AUROC over pairs of images of one stratum, where images of different strata cannot or should not be compared.

A stratum is whatever would answer for the label: the fold whose model gave the score, the hospital, a finding that
all positives share. An image that has none is in no pair.
"""

from dataclasses import dataclass

import numpy as np

from medistill.metrics.bootstrap import resample
from medistill.metrics.eligibility import ineligibility
from medistill.metrics.intervals import Codes, FloatArray, Numbers
from medistill.metrics.ranking import RankedLabel

NO_STRATUM = -1
"""Of an image that is compared with none."""


@dataclass(frozen=True)
class StratifiedLabel:
    """One label of one model, whose images are ranked only within their stratum.

    Attributes:
        strata: the label among the images of each stratum that has both a positive and a negative.
    """

    strata: tuple[RankedLabel, ...]

    @classmethod
    def of(cls, targets: Numbers, scores: Numbers, groups: Codes, group_count: int, strata: Codes) -> "StratifiedLabel":
        """Rank one label stratum by stratum.

        Args:
            targets, scores, groups, group_count: as for `RankedLabel.of`.
            strata: (N,) int, the stratum of each image, or `NO_STRATUM`.
        """
        chosen = [strata == stratum for stratum in with_pairs(targets, strata)]
        return cls(tuple(RankedLabel.of(targets[k], scores[k], groups[k], group_count) for k in chosen))

    @property
    def rows(self) -> int:
        """Number of rows of the largest array of `auroc`."""
        return max((stratum.rows for stratum in self.strata), default=0)

    def count(self, weights: FloatArray) -> FloatArray:
        """Weight of the pairs that are in order, ties half, and of all pairs, within strata: (2, R).

        Args:
            weights: (G, R) float64, the weight of each group.
        """
        counted = np.zeros((2, weights.shape[1]))
        for stratum in self.strata:
            pairs = stratum.pairs(weights)
            counted += [np.where(pairs > 0, pairs * stratum.auroc(weights), 0), pairs]
        return counted

    def auroc(self, weights: FloatArray) -> FloatArray:
        """Share of the pairs of a positive and a negative *of one stratum* that are in order, a `Statistic`.

        It is the mean of the strata's AUROCs, each weighted by its pairs (the stratified C-index; van Elteren 1960 for
        the rank sum). Where strata are the folds of a cross-validation: a fold with few positives leaves more of them
        for training, so its scores are higher throughout, which draws the AUROC of all scores together below 0.5 where
        there is nothing to find (Parker et al., BMC Bioinformatics 2007; Forman & Scholz, SIGKDD Explorations 2010).
        Unlike the plain mean of the strata's AUROCs it is defined where a rare label is absent from a stratum, as it is
        in many resamples.

        Args:
            weights: (G, R) float64, the weight of each group.

        Returns:
            (R,), 0..1; NaN where no stratum has a pair.
        """
        won, pairs = self.count(weights)
        share: FloatArray = np.divide(won, pairs, out=np.full_like(won, np.nan), where=pairs > 0)
        return share


def with_pairs(targets: Numbers, strata: Codes) -> Codes:
    """The strata that have both a positive and a negative, ascending.

    Args:
        targets: (N,), 1, 0, or NaN where unknown.
        strata: (N,) int, the stratum of each image, or `NO_STRATUM`.

    Example:
        >>> with_pairs(np.array([1, 0, 1, 1, 0]), np.array([0, 0, 1, -1, -1])).tolist()
        [0]
    """
    both = np.intersect1d(strata[targets == 1], strata[targets == 0])
    inside: Codes = both[both != NO_STRATUM]
    return inside


def auroc_within(targets: Numbers, scores: Numbers, strata: Codes) -> float:
    """Share of the pairs of a positive and a negative of the same stratum that are in order; ties count half.

    With one stratum this is the AUROC.

    Args:
        targets: (N,), 1, 0, or NaN where unknown (left out).
        scores: (N,), any score that rises with the probability, comparable within a stratum.
        strata: (N,) int, the stratum of each image, or `NO_STRATUM`.

    Returns:
        0..1, NaN where no stratum has a pair.

    Example:
        >>> targets, scores = np.array([1, 0, 1, 0]), np.array([0.3, 0.2, 0.9, 0.8])
        >>> auroc_within(targets, scores, np.array([0, 0, 1, 1])), auroc_within(targets, scores, np.zeros(4, int))
        (1.0, 0.75)
    """
    everyone = np.arange(len(targets))
    label = StratifiedLabel.of(np.asarray(targets), np.asarray(scores), everyone, len(targets), strata)
    return float(label.auroc(np.ones((len(targets), 1)))[0])


def measure_within(targets: Numbers, scores: Numbers, groups: Codes, strata: Codes, counts: Codes) -> FloatArray:
    """AUROC of every label over pairs of images of one stratum, in every resample of groups.

    The same resamples for two models pair their difference.

    Args:
        targets: (N, L), 1, 0, or NaN where unknown.
        scores: (N, L), comparable within a stratum.
        groups: (N,) int, 0..G-1.
        strata: (N,) int, the stratum of each image, or `NO_STRATUM`.
        counts: (G, 1 + R), from `bootstrap.draw`.

    Returns:
        (1 + R, L), row 0 on the data themselves; NaN where no stratum has a pair.

    Example:
        >>> targets, scores = np.array([[1.0], [0.0], [1.0]]), np.array([[0.9], [0.8], [0.3]])
        >>> once = np.ones((3, 1), int)  # each image is a group, and drawn once
        >>> measure_within(targets, scores, np.arange(3), np.array([0, 0, 1]), once).tolist()
        [[1.0]]
    """
    if not targets.shape[1]:
        return np.empty((counts.shape[1], 0))
    pairs = zip(targets.T, scores.T, strict=True)
    labels = [StratifiedLabel.of(target, score, groups, len(counts), strata) for target, score in pairs]
    aurocs = resample(
        lambda weights: np.stack([label.auroc(weights) for label in labels]),
        counts,
        rows=max(label.rows for label in labels),
    )
    return np.ascontiguousarray(aurocs.T)


def ineligibility_within(targets: Numbers, groups: Codes, strata: Codes) -> str | None:
    """Why a label is not eligible for figures within strata; None where it is.

    Only images of strata that have both a positive and a negative count, as others are in no pair.

    Args:
        targets: (N,), 1, 0, or NaN where unknown.
        groups: (N,) int, the group of each image.
        strata: (N,) int, the stratum of each image, or `NO_STRATUM`.

    Example:
        >>> targets = np.array([1] * 12 + [0] * 30)
        >>> ineligibility_within(targets, np.arange(42), 1 - targets)
        '0 positives, fewer than 10'
    """
    inside = np.isin(strata, with_pairs(targets, strata))
    return ineligibility(targets[inside], groups[inside])
