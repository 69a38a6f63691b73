"""Thresholds of each label: fitted on validation, where they promise something, and seen on test.

By conformal risk control (Angelopoulos et al., "Conformal Risk Control", ICLR 2024, arXiv 2208.02814), with the patient
as unit. The loss of a patient is the share of her images with the label that are not called. Of n validation patients
with the label, the highest threshold is taken at which (Σ loss + 1) / (n + 1) is at most α; then the expected loss of a
new patient like them is at most α. Where (n + 1) α < 1, there is none, however low: nothing can be promised. A
specificity is promised alike, of images without the label.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from medistill.evaluation.answers import VALIDATION, Answers, Validation
from medistill.metrics.intervals import Codes, FloatArray
from medistill.metrics.means import mean_interval, share_interval
from medistill.records.estimate import Estimate
from medistill.records.evaluation import OperatingPoint

Kind = Literal["sensitivity", "specificity"]

POINTS: tuple[tuple[Kind, float], ...] = (
    ("sensitivity", 0.90),
    ("sensitivity", 0.80),
    ("sensitivity", 0.95),
    ("specificity", 0.90),
)
"""What is promised, in the order of the page."""


@dataclass(frozen=True)
class Known:
    """One label of one model on a split: the images of which it is known.

    Attributes:
        split: its name.
        present: bool (N,).
        probabilities: float64 (N,).
        groups: int (N,).
    """

    split: str
    present: np.ndarray
    probabilities: FloatArray
    groups: Codes

    @classmethod
    def of(cls, answers: Answers, label: int) -> "Known":
        """A label by its index; no image where the model does not know it."""
        targets, given = answers.split.targets[:, label], answers.probabilities[:, label]
        known = ~(np.isnan(targets) | np.isnan(given))
        return cls(answers.split.name, targets[known] == 1, given[known], answers.split.groups[known])


def threshold(val: Known, kind: str, promised: float) -> float | None:
    """The threshold that keeps a promise; None where there is none.

    Args:
        val: of the validation split.
        kind: `sensitivity` or `specificity`.
        promised: its mean over patients.

    Raises:
        ValueError: the images are of another split than validation.
    """
    if val.split != VALIDATION:
        raise ValueError(f"thresholds are fitted on {VALIDATION}, never on {val.split}")
    if kind == "sensitivity":
        return _highest(val.probabilities[val.present], val.groups[val.present], 1 - promised)
    # The lowest at which few images without the label are called: they are called down to, and not at, the last one.
    lowest = _highest(-val.probabilities[~val.present], val.groups[~val.present], 1 - promised)
    return None if lowest is None else float(np.nextafter(-lowest, np.inf))


def _highest(scores: FloatArray, groups: Codes, alpha: float) -> float | None:
    """The highest threshold at which (Σ over groups of the share of scores below it + 1) / (n + 1) is at most α."""
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    allowed = alpha * (len(sizes) + 1) - 1
    if allowed < -_ROUNDING:
        return None
    order = np.argsort(scores, kind="stable")
    lost = np.concatenate([[0.0], np.cumsum(1 / sizes[codes[order]])[:-1]])  # by a threshold at each score, from below
    candidates = scores[order]
    first = np.searchsorted(candidates, candidates, side="left")  # of equal scores none is below the threshold
    kept = candidates[lost[first] <= allowed + _ROUNDING]
    return float(kept.max()) if len(kept) else None


_ROUNDING = 1e-9
"""Sums of shares, and 1 − 0.9, are not exact in binary."""


def thresholds_of(val: Validation) -> dict[tuple[Kind, float], dict[str, float | None]]:
    """The threshold of each label of a model for each of `POINTS`, on its calibrated probabilities."""
    known = {label: Known.of(val.calibrated, k) for k, label in enumerate(val.answers.split.labels)}
    return {point: {label: threshold(own, *point) for label, own in known.items()} for point in POINTS}


def operating_points(val: Validation, test: Answers) -> dict[str, list[OperatingPoint]]:
    """All points of each label of one model, fitted on `val` and seen on `test`; both are calibrated by `val`."""
    fitted, seen = val.calibrated, test.calibrated(val.calibration)
    return {
        label: [_point(Known.of(fitted, k), Known.of(seen, k), *point) for point in POINTS]
        for k, label in enumerate(test.split.labels)
    }


def _point(val: Known, test: Known, kind: Kind, promised: float) -> OperatingPoint:
    wanted = val.present if kind == "sensitivity" else ~val.present
    return observe(test, kind, promised, threshold(val, kind, promised), len(np.unique(val.groups[wanted])))


def observe(test: Known, kind: Kind, promised: float, found: float | None, groups: int | None) -> OperatingPoint:
    """What images that a threshold was not fitted on show of it.

    Args:
        test: a label on these images.
        kind, promised: what is promised of it.
        found: the threshold; None where there is none.
        groups: what the promise rests on; None: not known.
    """
    nothing = Estimate(None)
    if found is None:
        return OperatingPoint(
            kind=kind,
            promised=promised,
            groups=groups,
            threshold=None,
            **dict.fromkeys(("observed", "sensitivity", "specificity", "ppv", "npv"), nothing),
        )
    called = test.probabilities >= found

    def share(right: np.ndarray, among: np.ndarray) -> Estimate:
        return share_interval(right[among].astype(np.float64), test.groups[among])

    among = test.present if kind == "sensitivity" else ~test.present
    return OperatingPoint(
        kind=kind,
        promised=promised,
        groups=groups,
        threshold=found,
        observed=_by_patient((called == test.present)[among], test.groups[among]),
        sensitivity=share(called, test.present),
        specificity=share(~called, ~test.present),
        ppv=share(test.present, called),
        npv=share(~test.present, ~called),
    )


def _by_patient(right: np.ndarray, groups: Codes) -> Estimate:
    """The mean over patients of the share of right answers."""
    names, codes = np.unique(groups, return_inverse=True)
    if not len(names):
        return Estimate(None)
    shares = np.bincount(codes, right) / np.bincount(codes)
    return share_interval(shares, names) if np.isin(shares, (0, 1)).all() else mean_interval(shares, names)
