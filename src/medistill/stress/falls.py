"""How much AUROC falls when test images are shifted, and whether a student loses more than others do."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medistill.evaluation.answers import Split
from medistill.evaluation.comparison import Measured
from medistill.evaluation.figures import LEAD
from medistill.metrics.intervals import FloatArray, compare, holm, summarise
from medistill.records.estimate import Estimate
from medistill.records.stress import FallDifference, LabelFall, Shifted
from medistill.stress.shifts import SHIFTS


@dataclass(frozen=True)
class Ranked:
    """One model on the same test images, of which AUROC alone is measured.

    Attributes:
        plain: on the images as they are.
        shifted: by the name of the shift.
    """

    plain: Measured
    shifted: Mapping[str, Measured]

    @classmethod
    def of(cls, split: Split, plain: NDArray[np.floating], shifted: Mapping[str, NDArray[np.floating]]) -> "Ranked":
        """Rank by logits (N, L)."""
        found = {shift.name: Measured.of(split, shifted[shift.name], names=[LEAD]) for shift in SHIFTS}
        return cls(Measured.of(split, plain, names=[LEAD]), found)

    def fall(self, shift: str) -> FloatArray:
        """Mean AUROC on the images as they are minus that on shifted ones, (1 + R,)."""
        return self.plain.macro(LEAD) - self.shifted[shift].macro(LEAD)


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
    counts = own.plain.split.counts
    against: dict[str, dict[str, FallDifference]] = {shift.name: {} for shift in SHIFTS}
    for name, (relation, other) in others.items():
        compared = [compare(own.fall(shift.name), other.fall(shift.name), counts) for shift in SHIFTS]
        adjusted = holm([p for _, p in compared])
        for shift, (difference, p), p_holm in zip(SHIFTS, compared, adjusted, strict=True):
            against[shift.name][name] = FallDifference(relation=relation, difference=difference, p=p, p_holm=p_holm)
    return {
        shift.name: Shifted(
            what=shift.what,
            auroc=summarise(own.shifted[shift.name].macro(LEAD), counts),
            fall=summarise(own.fall(shift.name), counts, difference=True),
            marked=marked.get(shift.name, Estimate(None)),
            labels=_labels(own.plain, own.shifted[shift.name]),
            against=against[shift.name],
        )
        for shift in SHIFTS
    }


def _labels(plain: Measured, shifted: Measured) -> dict[str, LabelFall]:
    split, before, after = plain.split, plain.values[LEAD], shifted.values[LEAD]
    return {
        split.labels[k]: LabelFall(
            plain=summarise(before[:, k], split.counts, groups=split.rests_on[k]),
            shifted=summarise(after[:, k], split.counts, groups=split.rests_on[k]),
            fall=compare(before[:, k], after[:, k], split.counts, groups=split.rests_on[k])[0],
        )
        for k in split.columns()
    }
