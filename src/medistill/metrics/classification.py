"""Figures of decisions: of exclusive classes by their confusion, and of labels that are called at one half.

Definitions are those of scikit-learn's `accuracy_score`, `balanced_accuracy_score`, `f1_score`, `matthews_corrcoef` and
`cohen_kappa_score`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from medistill.metrics.bootstrap import count_by_group, resample
from medistill.metrics.intervals import Codes, FloatArray, Numbers

FIGURES = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "quadratic_kappa")
"""What `measure_classes` measures, in its order."""


@dataclass(frozen=True)
class CountedClasses:
    """Exclusive classes of one model, reduced to their confusion by group, ready for many weightings at once.

    Attributes:
        cells: (L × L, G), the number of images of group g of class l for which the model says m, at row l L + m.
        places: (L,), the place of each class where they are ordered; None where they are not.
    """

    cells: sparse.csr_array
    places: FloatArray | None = None

    @classmethod
    def of(
        cls, targets: Numbers, scores: Numbers, groups: Codes, group_count: int, places: FloatArray | None = None
    ) -> "CountedClasses":
        """Count answers; the answer is the class of the highest score, the first of equals.

        Args:
            targets: (N, L), 1 for the true class and 0 for the others; an image with a NaN is left out.
            scores: (N, L), finite.
            groups: (N,) int, the group of each image, 0..G-1.
            group_count: G.
            places: (L,), see the class.
        """
        known, count = ~np.isnan(targets).any(axis=1), targets.shape[1]
        truth, answers = targets[known].argmax(axis=1), scores[known].argmax(axis=1)
        return cls(count_by_group(truth * count + answers, groups[known], (count**2, group_count)), places)

    @property
    def confusion(self) -> FloatArray:
        """Numbers of images by class (rows) and answer (columns): (L, L)."""
        cells: FloatArray = self.cells.sum(axis=1)
        return cells.reshape(2 * [int(np.sqrt(len(cells)))])

    def measure(self, weights: FloatArray) -> FloatArray:
        """The figures of `FIGURES` under each weighting, a `Statistic`.

        Args:
            weights: (G, R) float64, the weight of each group.

        Returns:
            (5, R), NaN where undefined, see `measure_classes`.
        """
        count = len(self.confusion)
        cells = (self.cells @ weights).reshape(count, count, -1)
        right, images, answers = np.einsum("llr->lr", cells), cells.sum(axis=1), cells.sum(axis=0)  # (L, R) each
        whole = images.sum(axis=0)
        occurring = self.confusion.sum(axis=1) > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            accuracy = right.sum(axis=0) / whole
            recall = right[occurring] / images[occurring]
            balanced = recall.sum(axis=0) / occurring.sum()
            f1 = np.nansum(2 * right / (images + answers), axis=0) / ((images + answers) > 0).sum(axis=0)
            together = right.sum(axis=0) * whole - (images * answers).sum(axis=0)
            spread = (whole**2 - (images**2).sum(axis=0)) * (whole**2 - (answers**2).sum(axis=0))
            mcc = np.where(spread > 0, together / np.sqrt(spread), np.where(whole > 0, 0, np.nan))
        kappa = np.full_like(accuracy, np.nan) if self.places is None else _kappa(cells, self.places)
        return np.stack([accuracy, balanced, f1, mcc, kappa])


def _kappa(cells: FloatArray, places: FloatArray) -> FloatArray:
    """Quadratic weighted kappa of confusions (L, L, R): (R,), NaN where truth and answers are one class."""
    weights = np.square(places[:, None] - places[None])
    found = np.einsum("lm,lmr->r", weights, cells)
    expected = np.einsum("lm,lr,mr->r", weights, cells.sum(axis=1), cells.sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        kappa: FloatArray = np.where(expected > 0, 1 - found * cells.sum(axis=(0, 1)) / expected, np.nan)
    return kappa


def measure_classes(
    targets: Numbers, scores: Numbers, groups: Codes, counts: Codes, places: FloatArray | None = None
) -> FloatArray:
    """Accuracy, balanced accuracy, macro F1, Matthews' correlation and quadratic kappa of exclusive classes.

    - Accuracy: share of right answers; balanced accuracy: its mean over the classes that occur in the data.
    - Macro F1: mean F1 of the classes that occur or are answered.
    - Matthews' correlation coefficient of several classes (Gorodkin, Comput. Biol. Chem. 2004), -1..1; 0 where all
      images are of one class or all answers are.
    - Quadratic weighted kappa (Cohen, Psychol. Bull. 1968) of ordered classes, -1..1: agreement beyond chance, where a
      wrong answer counts by the square of its distance.

    All are those of scikit-learn, for weights too.

    Args:
        targets: (N, L), 1 for the true class and 0 for the others; an image with a NaN is left out.
        scores: (N, L), finite; the highest is the answer, the first of equals.
        groups: (N,) int, 0..G-1.
        counts: (G, 1 + R), from `bootstrap.draw`.
        places: (L,), the place of each class where they are ordered; None: there is no kappa.

    Returns:
        (5, 1 + R), in the order of `FIGURES`, the first of each on the data themselves; NaN where undefined: a resample
        without one of the classes that occur in the data has no balanced accuracy.

    Example:
        >>> targets, scores = np.eye(2)[[0, 1, 1]], np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0]])
        >>> once = np.ones((3, 1), int)  # each image is a group, and drawn once
        >>> measure_classes(targets, scores, np.arange(3), once, np.arange(2.0)).round(3).tolist()
        [[0.667], [0.75], [0.667], [0.5], [0.4]]
    """
    counted = CountedClasses.of(targets, scores, groups, len(counts), places)
    return resample(counted.measure, counts, rows=counted.cells.shape[0])


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
