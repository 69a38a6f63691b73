"""How much of a map is inside the lungs, where a data set has masks of them: beside chance and the centre."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medistill.data.dataset import Dataset
from medistill.explain.localisation import hold_against
from medistill.explain.scores import Scores, score
from medistill.explain.selection import Finding
from medistill.explain.targets import centre_of, chance_of
from medistill.metrics.means import mean_interval, paired_interval, share_interval
from medistill.records.explain import InLungs, LungLead


@dataclass(frozen=True)
class Lungs:
    """Where the lungs are on the images of some findings.

    Attributes:
        rows: bool (N,), findings whose image has a mask of the lungs that is not empty: M of them.
        masks: bool (M, S, S).
        groups: (M,), of these findings.
    """

    rows: NDArray[np.bool_]
    masks: NDArray[np.bool_]
    groups: NDArray[np.str_]

    def score(self, frames: NDArray[np.float32]) -> Scores:
        """How the maps of all findings, (N, S, S), meet the lungs of those M that have a mask."""
        return score(frames[self.rows], self.masks)

    def measure(self, own: Scores, teachers: Mapping[str, Scores]) -> InLungs:
        """A model's figures, and its own minus each teacher's, paired finding by finding.

        Args:
            own: the model's scores, from `score`.
            teachers: those of the teachers that it is compared with.
        """
        references = {"chance": chance_of(self.masks), "centre": centre_of(self.masks)}
        return InLungs(
            findings=len(self.masks),
            groups=len(set(self.groups)),
            peak=share_interval(own.hits, self.groups),
            energy=mean_interval(own.energy, self.groups),
            peak_beside={name: hold_against(own.hits, one.hits, self.groups) for name, one in references.items()},
            energy_beside={name: hold_against(own.energy, one.energy, self.groups) for name, one in references.items()},
            difference_teacher={
                name: LungLead(
                    peak=paired_interval(own.hits, teacher.hits, self.groups),
                    energy=mean_interval(own.energy - teacher.energy, self.groups, difference=True),
                )
                for name, teacher in teachers.items()
            },
        )


def lungs_of(findings: list[Finding], dataset: Dataset) -> Lungs | None:
    """Where the lungs are on the findings' images; None where no image has a mask of them."""
    if "lung_row" not in dataset.manifest:
        return None
    images = dataset.manifest.set_index("image_id").loc[[finding.image_id for finding in findings]].reset_index()
    rows = images["lung_row"].to_numpy() >= 0
    if not rows.any():
        return None
    masks = dataset.lungs(images[rows])
    filled = masks.any(axis=(1, 2))
    rows[rows] = filled
    groups = np.array([finding.group_id for finding, known in zip(findings, rows, strict=True) if known])
    return Lungs(rows, masks[filled], groups) if rows.any() else None
