"""How much AUROC falls when test images are shifted, and whether a student loses more than others do."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medistill.evaluation.answers import Answers, Split
from medistill.metrics.intervals import FloatArray, compare, holm, summarise
from medistill.records.estimate import Estimate
from medistill.records.stress import FallDifference, LabelFall, Shifted
from medistill.stress.shifts import SHIFTS
from medistill.task import Calibration


def measure_aurocs(split: Split, logits: NDArray[np.floating]) -> FloatArray:
    """AUROC of each label, (1 + R, L), row 0 on the data themselves, of logits (N, L)."""
    return Answers(split, logits, Calibration(split.task).probabilities(logits)).ranking[0]


@dataclass(frozen=True)
class Ranked:
    """One model's AUROCs on the same test images, each (1 + R, L).

    Attributes:
        split: the truth of these images.
        plain: on the images as they are.
        shifted: by the name of the shift.
    """

    split: Split
    plain: FloatArray
    shifted: Mapping[str, FloatArray]

    @classmethod
    def of(cls, split: Split, plain: NDArray[np.floating], shifted: Mapping[str, NDArray[np.floating]]) -> "Ranked":
        """Rank by logits (N, L)."""
        found = {shift.name: measure_aurocs(split, shifted[shift.name]) for shift in SHIFTS}
        return cls(split, measure_aurocs(split, plain), found)

    def macro(self, values: FloatArray) -> FloatArray:
        """Mean over the eligible labels, (1 + R,); NaN where there is none."""
        columns = self.split.columns()
        return values[:, columns].mean(axis=1) if columns else np.full(len(values), np.nan)

    def fall(self, shift: str) -> FloatArray:
        """Mean AUROC on the images as they are minus that on shifted ones, (1 + R,)."""
        return self.macro(self.plain) - self.macro(self.shifted[shift])


def describe_shifts(
    own: Ranked, others: Mapping[str, tuple[str, Ranked]], marked: Mapping[str, Estimate]
) -> dict[str, Shifted]:
    """A model under every shift.

    Args:
        own: of the model.
        others: of each model that its falls are compared with, what that is to it, and its AUROCs; p is adjusted for
            all shifts.
        marked: share of marked images by shift; empty of a teacher.
    """
    against: dict[str, dict[str, FallDifference]] = {shift.name: {} for shift in SHIFTS}
    for name, (relation, other) in others.items():
        compared = [compare(own.fall(shift.name), other.fall(shift.name)) for shift in SHIFTS]
        adjusted = holm([p for _, p in compared])
        for shift, (difference, p), p_holm in zip(SHIFTS, compared, adjusted, strict=True):
            against[shift.name][name] = FallDifference(relation=relation, difference=difference, p=p, p_holm=p_holm)
    return {
        shift.name: Shifted(
            what=shift.what,
            auroc=summarise(own.macro(own.shifted[shift.name])),
            fall=summarise(own.fall(shift.name), difference=True),
            marked=marked.get(shift.name, Estimate(None)),
            labels=_labels(own, own.shifted[shift.name]),
            against=against[shift.name],
        )
        for shift in SHIFTS
    }


def _labels(own: Ranked, shifted: FloatArray) -> dict[str, LabelFall]:
    split = own.split
    return {
        split.labels[k]: LabelFall(
            plain=summarise(own.plain[:, k], groups=split.rests_on[k]),
            shifted=summarise(shifted[:, k], groups=split.rests_on[k]),
            fall=compare(own.plain[:, k], shifted[:, k], groups=split.rests_on[k])[0],
        )
        for k in split.columns()
    }
