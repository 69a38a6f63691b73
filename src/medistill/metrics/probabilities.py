"""How good probabilities are: proper scores, and calibration in the large and by slope, without bins.

All are sums over images, or follow from such sums, so that resamples of groups cost a matrix product. A class of
several exclusive ones is a binary label, itself against the rest.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from medistill.metrics.bootstrap import resample
from medistill.metrics.intervals import Codes, FloatArray, Numbers

FIGURES = ("brier", "log_loss", "calibration_slope", "calibration_intercept", "observed_expected")
"""What `measure_probabilities` measures, in its order."""

_LEAST = float(np.finfo(np.float64).eps)
"""Probabilities closer to 0 or 1 count as this close, as scikit-learn has it: one wrong certainty is not infinite."""


@dataclass(frozen=True)
class _Fitted:
    """A logistic regression of the truth on logits, in sums by group that give its parameters under any weights.

    The parameters under weights w are one Newton step from those under equal weights: θ + (Σ w H)⁻¹ Σ w S, S and H the
    score and information of each group at θ (the one-step bootstrap: Andrews, Econometrica 2002).

    Attributes:
        parameters: (P,), at equal weights; NaN where there is no finite one.
        scores: (P, G).
        information: (P, P, G).
    """

    parameters: FloatArray
    scores: FloatArray
    information: FloatArray

    @classmethod
    def of(cls, targets: Numbers, terms: FloatArray, offset: FloatArray, groups: Codes, group_count: int) -> "_Fitted":
        """Fit sigmoid(offset + θ · terms), terms (P, N)."""
        parameters = _fit(targets, terms, offset)
        chances = expit(offset + np.nan_to_num(parameters) @ terms)
        spread = chances * (1 - chances)
        count = len(terms)
        scores = np.stack([_by_group((targets - chances) * row, groups, group_count) for row in terms])
        information = np.stack(
            [_by_group(spread * terms[i] * terms[j], groups, group_count) for i in range(count) for j in range(count)]
        )
        return cls(parameters, scores, information.reshape(count, count, group_count))

    def measure(self, weights: FloatArray) -> FloatArray:
        """The parameters under each weighting (G, R): (P, R); NaN where they are not determined."""
        if np.isnan(self.parameters).any():
            return np.full((len(self.parameters), weights.shape[1]), np.nan)
        information = np.moveaxis(self.information @ weights, -1, 0)  # (R, P, P)
        determined = np.linalg.det(information) > 1e-12 * np.linalg.det(self.information.sum(axis=-1))
        information[~determined] = np.eye(len(self.parameters))
        steps = np.linalg.solve(information, (self.scores @ weights).T[..., None])[..., 0].T
        steps[:, ~determined] = np.nan
        result: FloatArray = self.parameters[:, None] + steps
        return result


def _by_group(values: FloatArray, groups: Codes, group_count: int) -> FloatArray:
    return np.bincount(groups, values, minlength=group_count).astype(np.float64, copy=False)


def _fit(targets: Numbers, terms: FloatArray, offset: FloatArray) -> FloatArray:
    """The most likely parameters by Newton's method, (P,); NaN where there are no finite ones."""
    parameters = np.zeros(len(terms))

    def loss(at: FloatArray) -> float:
        answers = offset + at @ terms
        return float((np.logaddexp(0, answers) - targets * answers).sum())

    for _ in range(100):
        chances = expit(offset + parameters @ terms)
        score = terms @ (targets - chances)
        information = (terms * (chances * (1 - chances))) @ terms.T
        if np.linalg.cond(information) > 1e12:  # nothing holds the parameters: all logits equal, or classes apart
            return np.full(len(terms), np.nan)
        step, now = np.linalg.solve(information, score), loss(parameters)
        while loss(parameters + step) > now + 1e-12 * abs(now) and np.abs(step).max() > 1e-12:
            step = step / 2
        parameters = parameters + step
        if np.abs(step).max() < 1e-10 * max(1, np.abs(parameters).max()):
            return parameters
    return np.full(len(terms), np.nan)


@dataclass(frozen=True)
class JudgedLabel:
    """The probabilities of one label, reduced to sums by group, ready for many weightings at once.

    Attributes:
        sums: (5, G), of squared errors, log losses, positives, probabilities and images.
        recalibrated: slope and intercept of the truth on the logits.
        shifted: the intercept where the slope is 1.
    """

    sums: FloatArray
    recalibrated: _Fitted
    shifted: _Fitted

    @classmethod
    def of(cls, targets: Numbers, probabilities: Numbers, groups: Codes, group_count: int) -> "JudgedLabel":
        """Add up one label.

        Args:
            targets: (N,), 1, 0, or NaN where unknown (left out).
            probabilities: (N,), 0..1.
            groups: (N,) int, the group of each image, 0..G-1.
            group_count: G.
        """
        known = ~np.isnan(targets)
        truth, groups = np.asarray(targets, np.float64)[known], groups[known]
        given = np.asarray(probabilities, np.float64)[known]
        inner = np.clip(given, _LEAST, 1 - _LEAST)
        losses = -np.where(truth == 1, np.log(inner), np.log1p(-inner))
        values = ((given - truth) ** 2, losses, truth, given, np.ones(len(truth)))
        sums = np.stack([_by_group(each, groups, group_count) for each in values])
        logits, ones = logit(inner), np.ones((1, len(truth)))
        recalibrated, shifted = _undetermined(2, group_count), _undetermined(1, group_count)
        if not _are_apart(truth, logits):
            recalibrated = _Fitted.of(truth, np.stack([logits, ones[0]]), np.zeros(len(truth)), groups, group_count)
        if 0 < truth.sum() < len(truth):
            shifted = _Fitted.of(truth, ones, logits, groups, group_count)
        return cls(sums, recalibrated, shifted)

    def measure(self, weights: FloatArray) -> FloatArray:
        """The figures of `FIGURES` under each weighting (G, R), a `Statistic`: (5, R), NaN where undefined."""
        squares, losses, positives, expected, images = self.sums @ weights
        with np.errstate(invalid="ignore", divide="ignore"):
            brier, log_loss = squares / images, losses / images
            ratio = np.where(expected > 0, positives / expected, np.nan)
        slope = self.recalibrated.measure(weights)[0]
        intercept = self.shifted.measure(weights)[0]
        one_sided = (positives == 0) | (positives == images)
        slope[one_sided] = intercept[one_sided] = np.nan
        return np.stack([brier, log_loss, slope, intercept, ratio])


def _undetermined(count: int, group_count: int) -> _Fitted:
    return _Fitted(np.full(count, np.nan), np.zeros((count, group_count)), np.zeros((count, count, group_count)))


def _are_apart(truth: FloatArray, logits: FloatArray) -> bool:
    """Whether a threshold tells positives from negatives without error, or there is but one kind of either."""
    positive, negative = logits[truth == 1], logits[truth == 0]
    if not len(positive) or not len(negative) or logits.min() == logits.max():
        return True
    return bool(positive.min() >= negative.max() or positive.max() <= negative.min())


def measure_probabilities(targets: Numbers, probabilities: Numbers, groups: Codes, counts: Codes) -> FloatArray:
    """Brier score, log loss, calibration slope and intercept, and observed over expected, in every resample.

    - Brier score: mean squared difference of probability and truth; log loss: mean −log of the probability of the
      truth. Both are proper: least, on average, for the true probabilities.
    - Calibration slope: a of the most likely sigmoid(a·z + b), z the logit of the probability; below 1 the
      probabilities are too extreme. Calibration intercept: b where a is 1; below 0 they are too high on the whole.
    - Observed over expected: positives over the sum of probabilities.

    Sources: Cox, Biometrika 1958; Van Calster et al., J Clin Epidemiol 2016 and BMC Medicine 2019 (slope, intercept).

    Args:
        targets: (N,), 1, 0, or NaN where unknown (left out).
        probabilities: (N,), 0..1.
        groups: (N,) int, 0..G-1.
        counts: (G, 1 + R), from `bootstrap.draw`.

    Returns:
        (5, 1 + R), in the order of `FIGURES`, the first of each on the data themselves; NaN where undefined: slope and
        intercept without both positives and negatives, the slope also where a threshold tells them apart.

    Example:
        >>> targets, probabilities = np.array([1, 0, 1, 0]), np.array([0.8, 0.4, 0.6, 0.7])
        >>> once = np.ones((4, 1), int)  # each image is a group, and drawn once
        >>> measure_probabilities(targets, probabilities, np.arange(4), once)[[0, 1, 4], 0].round(3).tolist()
        [0.212, 0.612, 0.8]
    """
    label = JudgedLabel.of(targets, probabilities, groups, len(counts))
    return resample(label.measure, counts)
