"""The fit of a calibration on held-out data."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax

from medistill.metrics.intervals import FloatArray, Numbers
from medistill.task import Calibration, Task

LEAST = 30
"""Positives, and negatives, below which a teacher's label is not calibrated; of exclusive classes images of all."""
OWN_SLOPE = 100
"""Positives, and negatives, from which a label has a slope of its own."""
_PRIOR = 0.5
"""Standard deviation of slopes around 1 and of intercepts around 0."""
_STEEPEST = (0.01, 100.0)
"""Bounds of slopes: a calibration never turns a ranking round."""


def calibratable(targets: Numbers, logits: Numbers, task: Task, least: int | None = None) -> NDArray[np.bool]:
    """Which labels have enough images for `fit_calibration`: boolean (L,); args as there.

    Example:
        >>> targets = np.array([[1.0, 1.0]] * 30 + [[0.0, 0.0]] * 29 + [[0.0, np.nan]])
        >>> calibratable(targets, np.zeros((60, 2)), Task.MULTILABEL).tolist()
        [True, False]
    """
    least = LEAST if least is None else least
    known = ~(np.isnan(targets) | np.isnan(logits))
    if task.exclusive:
        return np.full(targets.shape[1], int(known.all(axis=1).sum()) >= least)
    positives, negatives = (((targets == value) & known).sum(axis=0) for value in (1, 0))
    enough: NDArray[np.bool] = np.minimum(positives, negatives) >= least
    return enough


def fit_calibration(targets: Numbers, logits: Numbers, task: Task, least: int | None = None) -> Calibration:
    """Fit a slope and an intercept per label on data that the model has not learnt from.

    The most probable slopes a and intercepts b under sigmoid(a·z + b), with a − 1 and b from a normal distribution of
    mean 0 and standard deviation 0.5 beforehand, so that few images change little. Labels with fewer than `OWN_SLOPE`
    positives or negatives share one slope; those with fewer than `least` stay as they are. Exclusive classes have one
    temperature: softmax(a·z), the same slope for all.

    Sources: Platt, "Probabilistic outputs for support vector machines", 1999; Guo et al., "On Calibration of Modern
    Neural Networks", ICML 2017 (temperature); the prior and the shared slope are ours.

    Args:
        targets: (N, L), 1, 0, or NaN where unknown (left out).
        logits: (N, L), NaN where the model does not know a label (left out).
        task: whether labels are exclusive.
        least: positives, and negatives, of a label that is calibrated; of exclusive classes images. None: `LEAST`.

    Example:
        >>> targets, logits = np.array([[1.0]] * 90 + [[0.0]] * 90), np.array([[5.0]] * 90 + [[-5.0]] * 90)
        >>> targets[80:100] = 1 - targets[80:100]  # it is sure of all, and wrong about a ninth
        >>> found = fit_calibration(targets, logits, Task.MULTILABEL)
        >>> [round(found.slopes[0], 2), abs(round(found.intercepts[0], 2))]
        [0.42, 0.0]
    """
    enough = calibratable(targets, logits, task, least)
    if not enough.any():
        return Calibration(task)
    known = ~(np.isnan(targets) | np.isnan(logits))
    wanted, given = np.where(known, targets, np.nan).astype(np.float64), np.asarray(logits, np.float64)
    count = wanted.shape[1]
    if task.exclusive:
        whole = known.all(axis=1)
        return Calibration(task, [_temperature(wanted[whole], given[whole])] * count)
    slopes, intercepts = np.ones(count), np.zeros(count)
    of_own = np.minimum((wanted == 1).sum(axis=0), (wanted == 0).sum(axis=0)) >= OWN_SLOPE
    sharing = np.flatnonzero(enough & ~of_own)
    for labels in (sharing, *np.flatnonzero(enough & of_own)[:, None]):
        if len(labels):
            slopes[labels], intercepts[labels] = _one_slope(wanted[:, labels], given[:, labels])
    return Calibration(task, slopes.tolist(), intercepts.tolist())


def _one_slope(targets: FloatArray, logits: FloatArray) -> tuple[float, FloatArray]:
    """The slope that all labels share, and the intercept of each, (L,)."""
    known = ~np.isnan(targets)
    targets, logits = np.where(known, targets, 0), np.where(known, logits, 0)

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        slope, intercepts = parameters[0], parameters[1:]
        answers = slope * logits + intercepts
        excess = np.where(known, expit(answers) - targets, 0)
        away = np.concatenate([[slope - 1], intercepts]) / _PRIOR**2
        entropy = np.where(known, np.logaddexp(0, answers) - targets * answers, 0).sum()
        gradient = np.concatenate([[(excess * logits).sum()], excess.sum(axis=0)])
        return entropy + (away**2).sum() * _PRIOR**2 / 2, gradient + away

    start = np.concatenate([[1.0], np.zeros(targets.shape[1])])
    found = _least(loss, start, [_STEEPEST, *[(None, None)] * targets.shape[1]])
    return float(found[0]), found[1:]


def _temperature(targets: FloatArray, logits: FloatArray) -> float:
    """The slope of all exclusive classes, one over their temperature."""

    def loss(parameters: FloatArray) -> tuple[float, FloatArray]:
        (slope,) = parameters
        entropy = -(targets * log_softmax(slope * logits, axis=1)).sum()
        gradient = ((softmax(slope * logits, axis=1) * targets.sum(axis=1, keepdims=True) - targets) * logits).sum()
        away = (slope - 1) / _PRIOR**2
        return entropy + away**2 * _PRIOR**2 / 2, np.array([gradient + away])

    return float(_least(loss, np.ones(1), [_STEEPEST])[0])


def _least(loss: object, start: FloatArray, bounds: list[tuple[float | None, float | None]]) -> FloatArray:
    """Where a convex function, given with its gradient, is least."""
    options = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000}
    found: FloatArray = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return found
