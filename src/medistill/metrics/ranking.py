"""Ranking, calibration and thresholded metrics of one binary label, and accuracy of exclusive classes.

Exact with ties, and fast over thousands of resamples. Definitions are those of scikit-learn's `roc_auc_score`,
`average_precision_score`, `accuracy_score` and `balanced_accuracy_score` with `sample_weight`. A class of several
exclusive ones is a binary label, itself against the rest, scored by its softmax probability: its logit alone says
nothing, since a constant added to all logits of an image changes no prediction but the image's rank.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

FloatArray = NDArray[np.float64]

ROC_GRID = np.linspace(0.0, 1.0, 201)
"""False positive rates at which ROC curves of several labels are averaged."""


@dataclass(frozen=True)
class RankedLabel:
    """One label of one model, reduced to what AUROC and average precision need, ready for many weightings at once.

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
    def of(cls, targets: NDArray, scores: NDArray, groups: NDArray, group_count: int) -> "RankedLabel":
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
            _counts(at, groups[is_positive], (count, group_count)),
            _counts(2 * above + tied, groups[is_negative], (2 * count + 1, group_count)),
        )

    def measure(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """AUROC and average precision under each weighting.

        Args:
            weights: (G, R) float64, the weight of each group; whole numbers in a bootstrap, which keeps the sums exact.

        Returns:
            AUROC (R,) and average precision (R,), 0..1; NaN where the positives or the negatives weigh nothing.
        """
        hits = self.positives @ weights  # (K, R)
        # In place: these are the largest arrays there are.
        false_alarms = self.negatives @ weights  # (2K + 1, R)
        np.cumsum(false_alarms, axis=0, out=false_alarms)
        true_alarms = np.cumsum(hits, axis=0)
        positives, negatives = hits.sum(axis=0), false_alarms[-1]
        # A negative above a positive costs its weight, a tied one half: the mean of the sums before and after the tie.
        lost = np.einsum("kr,kr->r", hits, (false_alarms[:-1:2] + false_alarms[1::2]) / 2)
        precision = true_alarms + false_alarms[1::2]
        np.divide(true_alarms, precision, out=precision, where=precision > 0)  # elsewhere 0 already, and no hits
        with np.errstate(divide="ignore", invalid="ignore"):
            auroc = 1 - lost / (positives * negatives)
            average_precision = np.einsum("kr,kr->r", hits, precision) / positives
        undefined = (positives <= 0) | (negatives <= 0)
        auroc[undefined] = average_precision[undefined] = np.nan
        return auroc, average_precision


def _counts(rows: NDArray, columns: NDArray, shape: tuple[int, int]) -> sparse.csr_array:
    """How often each (row, column) occurs, as a sparse float64 matrix."""
    return sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)


def auroc(targets: NDArray, scores: NDArray, weights: NDArray | None = None) -> float:
    """Area under the ROC curve of one label; ties count half.

    Args:
        targets: (N,), 1, 0, or NaN where unknown (left out).
        scores: (N,), any score that rises with the probability.
        weights: (N,), one an image; None: all 1.

    Returns:
        0..1, NaN without a positive or without a negative.
    """
    return _measure(targets, scores, weights)[0]


def average_precision(targets: NDArray, scores: NDArray, weights: NDArray | None = None) -> float:
    """Average precision of one label, Σ (recall step × precision) over distinct scores, without interpolation (AUPRC).

    Arguments and undefined cases as in `auroc`.
    """
    return _measure(targets, scores, weights)[1]


def _measure(targets: NDArray, scores: NDArray, weights: NDArray | None) -> tuple[float, float]:
    count = len(targets)
    column = np.ones((count, 1)) if weights is None else np.asarray(weights, np.float64)[:, None]
    area, precision = RankedLabel.of(np.asarray(targets), np.asarray(scores), np.arange(count), count).measure(column)
    return float(area[0]), float(precision[0])


@dataclass(frozen=True)
class CountedClasses:
    """Exclusive classes of one model, reduced to what accuracy needs, ready for many weightings at once.

    Attributes:
        right: (L, G), the number of images of class l in group g that the model names rightly.
        images: (L, G), the number of images of class l in group g.
    """

    right: sparse.csr_array
    images: sparse.csr_array

    @classmethod
    def of(cls, targets: NDArray, scores: NDArray, groups: NDArray, group_count: int) -> "CountedClasses":
        """Count right answers; the answer is the class of the highest score, the first of equals.

        Args:
            targets: (N, L), 1 for the true class and 0 for the others; an image with a NaN is left out.
            scores: (N, L), finite.
            groups: (N,) int, the group of each image, 0..G-1.
            group_count: G.
        """
        known = ~np.isnan(targets).any(axis=1)
        truth, groups = targets[known].argmax(axis=1), groups[known]
        right = truth == scores[known].argmax(axis=1)
        shape = (targets.shape[1], group_count)
        return cls(_counts(truth[right], groups[right], shape), _counts(truth, groups, shape))

    def measure(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Accuracy and balanced accuracy under each weighting.

        Args:
            weights: (G, R) float64, the weight of each group.

        Returns:
            Accuracy (R,), the share of right answers, and balanced accuracy (R,), its mean over the classes that occur
            in the data, 0..1; NaN where no image, or for the latter none of one of these classes, has a weight.
        """
        right, images = self.right @ weights, self.images @ weights  # (L, R)
        occurring = self.images.sum(axis=1) > 0
        with np.errstate(invalid="ignore"):
            accuracy = right.sum(axis=0) / images.sum(axis=0)
            recall = right[occurring] / images[occurring]
            return accuracy, recall.sum(axis=0) / occurring.sum()


def accuracy(targets: NDArray, scores: NDArray) -> tuple[float, float]:
    """Accuracy and balanced accuracy (mean recall of the classes that occur) of exclusive classes.

    Args:
        targets: (N, L), 1 for the true class and 0 for the others; an image with a NaN is left out.
        scores: (N, L), logits or probabilities.

    Returns:
        0..1 each, NaN without a known image.
    """
    counted = CountedClasses.of(np.asarray(targets), np.asarray(scores), np.zeros(len(targets), int), 1)
    share, balanced = counted.measure(np.ones((1, 1)))
    return float(share[0]), float(balanced[0])


def expected_calibration_error(targets: NDArray, probabilities: NDArray, bins: int = 15) -> float:
    """Expected calibration error of one label: the mean over images of |observed rate − mean probability| of their bin.

    Binary form with equal-width bins [k/bins, (k+1)/bins), the last one closed (Naeini et al., AAAI 2015).

    Args:
        targets: (N,), 1, 0, or NaN where unknown (left out).
        probabilities: (N,), 0..1.
        bins: their number.

    Returns:
        0..1, NaN without a known image.
    """
    known = ~np.isnan(targets)
    if not known.any():
        return float("nan")
    targets, probabilities = np.asarray(targets, np.float64)[known], np.asarray(probabilities, np.float64)[known]
    which = np.minimum((probabilities * bins).astype(int), bins - 1)
    # n_b/N × |rate − mean| is |Σ targets − Σ probabilities| / N of the bin: empty bins need no special case.
    gap = np.bincount(which, weights=targets - probabilities, minlength=bins)
    return float(np.abs(gap).sum() / len(targets))


def thresholded(targets: NDArray, probabilities: NDArray) -> tuple[float, float, float]:
    """Accuracy, F1 and weighted F1 of one label that is called positive where its probability exceeds one half.

    Of a rare label all three say little, accuracy and weighted F1 least: they are high where nothing is ever found.
    Papers report them. Definitions are scikit-learn's: `accuracy_score`, `f1_score` and `f1_score(average="weighted")`,
    the mean of both classes' F1, each weighted by its frequency.

    Args:
        targets: (N,), 1, 0, or NaN where unknown (left out).
        probabilities: (N,), 0..1.

    Returns:
        0..1 each; NaN without a known image, F1 also where nothing is positive and nothing is called so.
    """
    known = ~np.isnan(targets)
    truth, called = np.asarray(targets)[known] == 1, np.asarray(probabilities)[known] > 0.5
    if not len(truth):
        return float("nan"), float("nan"), float("nan")
    wrong = (truth != called).sum()

    def f1(is_class: NDArray, called_so: NDArray) -> float:
        hits = (is_class & called_so).sum()
        return float(2 * hits / (2 * hits + wrong)) if hits + wrong else float("nan")

    share = truth.mean()
    both = [(share, f1(truth, called)), (1 - share, f1(~truth, ~called))]
    weighted = sum(weight * value for weight, value in both if weight)  # a class that does not occur weighs nothing
    return float(1 - wrong / len(truth)), both[0][1], float(weighted)


def roc_curve(targets: NDArray, scores: NDArray) -> tuple[FloatArray, FloatArray]:
    """ROC curve of one label with a point at every distinct score.

    Returns:
        False positive rates and true positive rates, (K + 1,) each, from (0, 0) to (1, 1); NaN rates without a positive
        or without a negative.
    """
    known = ~np.isnan(targets)
    targets, scores = targets[known], scores[known]
    order = np.argsort(-scores, kind="stable")
    targets, scores = targets[order] == 1, scores[order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1) if len(scores) else np.array([], int)
    hits, alarms = np.cumsum(targets)[ends], np.cumsum(~targets)[ends]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.append(0, alarms) / np.float64((~targets).sum()), np.append(0, hits) / np.float64(targets.sum())


def macro_roc(targets: NDArray, scores: NDArray) -> tuple[FloatArray, FloatArray]:
    """Macro-average ROC curve: the mean over labels of the true positive rate at equal false positive rates.

    Args:
        targets: (N, L), 1, 0, or NaN; each label with a positive and a negative.
        scores: (N, L).

    Returns:
        False positive rates (202,), 0 and then `ROC_GRID`, and true positive rates (202,) from 0 to 1; without labels
        both are empty.
    """
    if not targets.shape[1]:
        return np.empty(0), np.empty(0)
    curves = []
    for label in range(targets.shape[1]):
        fpr, tpr = roc_curve(targets[:, label], scores[:, label])
        # Where a curve rises straight up, np.interp takes the upper end: the last of equal abscissae.
        curves.append(np.interp(ROC_GRID, fpr, tpr))
    return np.append(0, ROC_GRID), np.append(0, np.mean(curves, axis=0))
