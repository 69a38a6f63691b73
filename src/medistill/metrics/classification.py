"""Figures of decisions: accuracy of exclusive classes, and accuracy and F1 of labels that are called at one half.

Definitions are those of scikit-learn's `accuracy_score`, `balanced_accuracy_score` and `f1_score`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from medistill.metrics.bootstrap import count_by_group, resample
from medistill.metrics.intervals import Codes, FloatArray, Numbers


@dataclass(frozen=True)
class CountedClasses:
    """Exclusive classes of one model, reduced to what accuracy needs, ready for many weightings at once.

    Attributes:
        right: (L, G), the number of images of class l in group g that the model classifies correctly.
        images: (L, G), the number of images of class l in group g.
    """

    right: sparse.csr_array
    images: sparse.csr_array

    @classmethod
    def of(cls, targets: Numbers, scores: Numbers, groups: Codes, group_count: int) -> "CountedClasses":
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
        return cls(count_by_group(truth[right], groups[right], shape), count_by_group(truth, groups, shape))

    def measure(self, weights: FloatArray) -> FloatArray:
        """Accuracy and balanced accuracy under each weighting, a `Statistic`.

        Args:
            weights: (G, R) float64, the weight of each group.

        Returns:
            (2, R): accuracy, the share of right answers, and balanced accuracy, its mean over the classes that occur
            in the data, 0..1; NaN where no image, or for the latter none of one of these classes, has a weight.
        """
        right, images = self.right @ weights, self.images @ weights  # (L, R)
        occurring = self.images.sum(axis=1) > 0
        with np.errstate(invalid="ignore"):
            accuracy = right.sum(axis=0) / images.sum(axis=0)
            recall = right[occurring] / images[occurring]
            return np.stack([accuracy, recall.sum(axis=0) / occurring.sum()])


def measure_accuracy(targets: Numbers, scores: Numbers, groups: Codes, counts: Codes) -> FloatArray:
    """Accuracy and balanced accuracy of exclusive classes in every resample.

    Args:
        targets: (N, L), 1 for the true class and 0 for the others; an image with a NaN is left out.
        scores: (N, L), finite; the highest is the answer.
        groups: (N,) int, 0..G-1.
        counts: (G, 1 + R), from `bootstrap.draw`.

    Returns:
        (2, 1 + R), accuracy and balanced accuracy, the first of each on the data themselves; NaN where undefined: a
        resample without one of the classes that occur in the data has no balanced accuracy.

    Example:
        >>> targets, scores = np.eye(2)[[0, 1, 1]], np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]])
        >>> once = np.ones((3, 1), int)  # each image is a group, and drawn once
        >>> measure_accuracy(targets, scores, np.arange(3), once).round(3).tolist()
        [[0.667], [0.75]]
    """
    return resample(CountedClasses.of(targets, scores, groups, len(counts)).measure, counts)


def accuracy(targets: Numbers, scores: Numbers) -> tuple[float, float]:
    """Accuracy and balanced accuracy (mean recall of the classes that occur) of exclusive classes.

    Args:
        targets: (N, L), 1 for the true class and 0 for the others; an image with a NaN is left out.
        scores: (N, L), logits or probabilities.

    Returns:
        0..1 each, NaN without a known image.

    Example:
        >>> accuracy(np.eye(2)[[0, 0, 0, 1]], np.array([[2.0, 1.0], [2.0, 1.0], [0.0, 1.0], [0.0, 1.0]]))[0]
        0.75
    """
    counted = CountedClasses.of(np.asarray(targets), np.asarray(scores), np.zeros(len(targets), int), 1)
    share, balanced = counted.measure(np.ones((1, 1)))
    return float(share[0]), float(balanced[0])


def metrics_at_half(targets: Numbers, probabilities: Numbers) -> tuple[float, float, float]:
    """Accuracy, F1 and weighted F1 of one label that is called positive where its probability exceeds one half.

    For a rare label none of the three is informative; accuracy and weighted F1 are high even if no positive is ever
    found. Papers report them. Definitions are scikit-learn's: `accuracy_score`, `f1_score` and
    `f1_score(average="weighted")`, the mean of both classes' F1, each weighted by its frequency.

    Args:
        targets: (N,), 1, 0, or NaN where unknown (left out).
        probabilities: (N,), 0..1.

    Returns:
        0..1 each; NaN without a known image, F1 also where nothing is positive and nothing is called so.

    Example:
        >>> [round(value, 3) for value in metrics_at_half(np.array([1, 1, 0, 0]), np.array([0.9, 0.2, 0.1, 0.4]))]
        [0.75, 0.667, 0.733]
    """
    known = ~np.isnan(targets)
    truth, called = np.asarray(targets)[known] == 1, np.asarray(probabilities)[known] > 0.5
    if not len(truth):
        return float("nan"), float("nan"), float("nan")
    wrong = (truth != called).sum()

    def f1(is_class: NDArray[np.bool], called_so: NDArray[np.bool]) -> float:
        hits = (is_class & called_so).sum()
        return float(2 * hits / (2 * hits + wrong)) if hits + wrong else float("nan")

    share = truth.mean()
    both = [(share, f1(truth, called)), (1 - share, f1(~truth, ~called))]
    weighted = sum(weight * value for weight, value in both if weight)  # a class that does not occur has weight 0
    return float(1 - wrong / len(truth)), both[0][1], float(weighted)
