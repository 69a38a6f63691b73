"""How well scores rank one binary label: AUROC, average precision and ROC curves.

Exact with ties, and fast over thousands of resamples. Definitions are those of scikit-learn's `roc_auc_score` and
`average_precision_score` with `sample_weight`. A class of several exclusive ones is a binary label, itself against the
rest, scored by its softmax probability: its logit alone is meaningless, since a constant added to all logits of an
image changes its rank but no prediction.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from medistill.metrics.bootstrap import count_by_group, resample
from medistill.metrics.intervals import Codes, FloatArray, Numbers

ROC_GRID = np.linspace(0.0, 1.0, 201)
"""False positive rates at which ROC curves of several labels are averaged."""
RECALLS = 100
"""Recalls at which precision–recall curves of several labels are averaged: 1 %, 2 %, …, 100 %."""


@dataclass(frozen=True)
class RankedLabel:
    """One label of one model, reduced to counts by level and group, from which AUROC and average precision follow.

    Both metrics change only at scores that a positive has: a level is such a distinct score, counted from the top.
    Weights belong to groups (a resample draws a patient with all her images), so a weighting is a column of group
    weights and all resamples are one sparse matrix product: no resample ever sorts or copies images.

    Attributes:
        positives: (K, G), the number of positives of group g at level k.
        negatives: (2K + 1, G), the number of negatives of group g above the first level, at it, between it and the
            second, at the second, and so on; the last row is below all levels.
    """

    positives: sparse.csr_array
    negatives: sparse.csr_array

    @classmethod
    def of(cls, targets: Numbers, scores: Numbers, groups: Codes, group_count: int) -> "RankedLabel":
        """Rank one label.

        Args:
            targets: (N,), 1, 0, or NaN where unknown; unknown images are left out.
            scores: (N,), any finite score that rises with the probability; only its order counts.
            groups: (N,) int, the group of each image, 0..G-1.
            group_count: G.
        """
        is_positive, is_negative = targets == 1, targets == 0
        levels = np.unique(scores[is_positive])  # ascending
        count = len(levels)
        at = count - 1 - np.searchsorted(levels, scores[is_positive])
        above = count - np.searchsorted(levels, scores[is_negative], side="right")  # levels strictly above a negative
        tied = np.zeros(len(above), bool)
        if count:
            inside = above < count
            tied[inside] = levels[count - 1 - above[inside]] == scores[is_negative][inside]
        return cls(
            count_by_group(at, groups[is_positive], (count, group_count)),
            count_by_group(2 * above + tied, groups[is_negative], (2 * count + 1, group_count)),
        )

    @property
    def rows(self) -> int:
        """How tall the largest array of `measure` is."""
        return int(self.negatives.shape[0])

    def measure(self, weights: FloatArray) -> FloatArray:
        """AUROC and average precision under each weighting, a `Statistic`.

        Args:
            weights: (G, R) float64, the weight of each group; whole numbers in a bootstrap, which keeps the sums exact.

        Returns:
            (2, R), AUROC and average precision, 0..1; NaN where the positives or the negatives weigh nothing.
        """
        hits, false_alarms = self._count(weights)
        auroc = _auroc(hits, false_alarms)
        true_alarms = np.cumsum(hits, axis=0)
        precision = true_alarms + false_alarms[1::2]
        np.divide(true_alarms, precision, out=precision, where=precision > 0)  # elsewhere 0 already, and no hits
        with np.errstate(divide="ignore", invalid="ignore"):
            average_precision = np.einsum("kr,kr->r", hits, precision) / hits.sum(axis=0)
        average_precision[np.isnan(auroc)] = np.nan
        return np.stack([auroc, average_precision])

    def auroc(self, weights: FloatArray) -> FloatArray:
        """AUROC as `measure` has it, without average precision, which costs a quarter of its time: (R,)."""
        return _auroc(*self._count(weights))

    def _count(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Weight of the positives at each level, (K, R), and of the negatives down to each row, (2K + 1, R)."""
        hits = self.positives @ weights
        false_alarms = self.negatives @ weights
        np.cumsum(false_alarms, axis=0, out=false_alarms)  # in place: it is the largest array
        return hits, false_alarms

    def pairs(self, weights: FloatArray) -> FloatArray:
        """Weight of all pairs of a positive and a negative under each weighting: (R,)."""
        pairs: FloatArray = (self.positives.sum(axis=0) @ weights) * (self.negatives.sum(axis=0) @ weights)
        return pairs


def _auroc(hits: FloatArray, false_alarms: FloatArray) -> FloatArray:
    positives, negatives = hits.sum(axis=0), false_alarms[-1]
    # A negative above a positive costs its weight, a tied one half: the mean of the sums before and after the tie.
    lost = np.einsum("kr,kr->r", hits, (false_alarms[:-1:2] + false_alarms[1::2]) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        auroc: FloatArray = 1 - lost / (positives * negatives)
    auroc[(positives <= 0) | (negatives <= 0)] = np.nan
    return auroc


def measure_ranking(
    targets: Numbers,
    scores: Numbers,
    groups: Codes,
    counts: Codes,
    on_label: Callable[[], object] | None = None,
) -> tuple[FloatArray, FloatArray]:
    """AUROC and average precision of every label in every resample.

    Args:
        targets: (N, L), 1, 0, or NaN where unknown.
        scores: (N, L), finite.
        groups: (N,) int, 0..G-1.
        counts: (G, 1 + R), from `bootstrap.draw`.
        on_label: called L times in all while the work goes on.

    Returns:
        AUROC (1 + R, L) and average precision (1 + R, L), row 0 on the data themselves; NaN where undefined.

    Example:
        >>> targets, scores = np.array([[1.0], [0.0], [1.0]]), np.array([[0.9], [0.8], [0.3]])
        >>> once = np.ones((3, 1), int)  # each image is a group, and drawn once
        >>> [values.round(3).tolist() for values in measure_ranking(targets, scores, np.arange(3), once)]
        [[[0.5]], [[0.833]]]
    """
    labels, (group_count, columns) = targets.shape[1], counts.shape
    if not labels:
        return np.empty((columns, 0)), np.empty((columns, 0))
    ranked = [RankedLabel.of(targets[:, k], scores[:, k], groups, group_count) for k in range(labels)]
    done = reported = 0

    def measure_all(weights: FloatArray) -> FloatArray:
        nonlocal done, reported
        figures = np.stack([label.measure(weights) for label in ranked], axis=1)  # (2, L, R)
        done += weights.shape[1]
        while on_label and reported < labels * done // columns:
            on_label()
            reported += 1
        return figures

    auroc, precision = resample(measure_all, counts, rows=max(label.rows for label in ranked))
    return np.ascontiguousarray(auroc.T), np.ascontiguousarray(precision.T)


def auroc(targets: Numbers, scores: Numbers, weights: Numbers | None = None) -> float:
    """Area under the ROC curve of one label; ties count half.

    Args:
        targets: (N,), 1, 0, or NaN where unknown (left out).
        scores: (N,), any score that rises with the probability.
        weights: (N,), one per image; None: all 1.

    Returns:
        0..1, NaN without a positive or without a negative.

    Example:
        >>> auroc(np.array([1, 0, 1, np.nan]), np.array([0.9, 0.8, 0.3, 0.7]))  # of the two pairs one is in order
        0.5
    """
    return _measure(targets, scores, weights)[0]


def average_precision(targets: Numbers, scores: Numbers, weights: Numbers | None = None) -> float:
    """Average precision of one label, Σ (recall step × precision) over distinct scores, without interpolation (AUPRC).

    Arguments and undefined cases as in `auroc`.

    Example:
        >>> round(average_precision(np.array([1, 0, 1]), np.array([0.9, 0.8, 0.3])), 3)
        0.833
    """
    return _measure(targets, scores, weights)[1]


def _measure(targets: Numbers, scores: Numbers, weights: Numbers | None) -> tuple[float, float]:
    count = len(targets)
    column = np.ones((count, 1)) if weights is None else np.asarray(weights, np.float64)[:, None]
    area, precision = RankedLabel.of(np.asarray(targets), np.asarray(scores), np.arange(count), count).measure(column)
    return float(area[0]), float(precision[0])


def roc_curve(targets: Numbers, scores: Numbers) -> tuple[FloatArray, FloatArray]:
    """ROC curve of one label with a point at every distinct score.

    Returns:
        False positive rates and true positive rates, (K + 1,) each, from (0, 0) to (1, 1); NaN rates without a positive
        or without a negative.

    Example:
        >>> [values.tolist() for values in roc_curve(np.array([1, 0, 1]), np.array([0.9, 0.8, 0.3]))]
        [[0.0, 0.0, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0]]
    """
    hits, alarms = _counts_by_threshold(targets, scores)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.append(0, alarms) / np.float64((targets == 0).sum()), np.append(0, hits) / np.float64(
            (targets == 1).sum()
        )


def macro_roc(targets: Numbers, scores: Numbers) -> tuple[FloatArray, FloatArray]:
    """Macro-average ROC curve: the mean over labels of the true positive rate at equal false positive rates.

    Args:
        targets: (N, L), 1, 0, or NaN; each label with a positive and a negative.
        scores: (N, L).

    Returns:
        False positive rates (202,), 0 and then `ROC_GRID`, and true positive rates (202,) from 0 to 1; without labels
        both are empty.

    Example:
        >>> targets, scores = np.array([[1.0], [0.0]]), np.array([[0.9], [0.8]])
        >>> false_positives, true_positives = macro_roc(targets, scores)
        >>> true_positives.min().item(), len(false_positives)
        (0.0, 202)
    """
    if not targets.shape[1]:
        return np.empty(0), np.empty(0)
    curves = []
    for label in range(targets.shape[1]):
        fpr, tpr = roc_curve(targets[:, label], scores[:, label])
        # Where a curve rises straight up, np.interp takes the upper end: the last of equal abscissae.
        curves.append(np.interp(ROC_GRID, fpr, tpr))
    return np.append(0, ROC_GRID), np.append(0, np.mean(curves, axis=0))


def macro_precision_recall(targets: Numbers, scores: Numbers) -> tuple[FloatArray, FloatArray]:
    """Macro-average precision–recall curve: the mean over labels of the precision at equal recall.

    The precision of a label at a recall is that of the highest threshold that reaches it, as in average precision.

    Args:
        targets: (N, L), 1, 0, or NaN; each label with a positive and a negative.
        scores: (N, L).

    Returns:
        Recalls (100,) and precisions (100,); without labels both are empty.

    Example:
        >>> targets, scores = np.array([[1.0], [0.0], [1.0]]), np.array([[0.9], [0.8], [0.3]])
        >>> recall, precision = macro_precision_recall(targets, scores)
        >>> precision[recall <= 0.5].min().item(), round(precision[-1].item(), 3)
        (1.0, 0.667)
    """
    if not targets.shape[1]:
        return np.empty(0), np.empty(0)
    curves = []
    for label in range(targets.shape[1]):
        hits, alarms = _counts_by_threshold(targets[:, label], scores[:, label])
        reached = np.searchsorted(RECALLS * hits, np.arange(1, RECALLS + 1) * hits[-1])  # whole numbers: no rounding
        curves.append((hits / (hits + alarms))[reached])
    return np.arange(1, RECALLS + 1) / RECALLS, np.mean(curves, axis=0)


def _counts_by_threshold(targets: Numbers, scores: Numbers) -> tuple[Codes, Codes]:
    """Positives and negatives at or above each distinct score, from the highest down: (K,) each."""
    known = ~np.isnan(targets)
    targets, scores = targets[known], scores[known]
    order = np.argsort(np.negative(scores), kind="stable")
    is_positive, scores = targets[order] == 1, scores[order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1) if len(scores) else np.array([], int)
    return np.cumsum(is_positive)[ends], np.cumsum(~is_positive)[ends]
