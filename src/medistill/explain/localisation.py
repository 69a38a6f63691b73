"""Whether a map points at the finding: pointing game, energy and overlap, beside what needs no such map.

That is chance, pointing at the centre, pointing where other patients have the finding, the map of a label that is not
there, and that of the same network with random weights.

The unit is a finding, one label on one image; all its boxes together, or its mask, are its target. A model is compared
finding by finding, with another one or with a baseline that needs no model; `metrics.means` has the intervals.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medistill.explain.scores import Scores
from medistill.explain.selection import Finding
from medistill.explain.targets import Targets, sides
from medistill.metrics.eligibility import MIN_GROUPS
from medistill.metrics.means import mean_interval, paired_interval, share_interval
from medistill.records.estimate import Estimate
from medistill.records.explain import Beside, Lead, Located, LocatedByLabel

MAX_CELL = 0.5
"""Widest cell of a map, as a share of the median side of the findings, of which anything can be concluded."""

NO_TRUTH = LocatedByLabel(
    images=0,
    findings=0,
    groups=0,
    boxes=0,
    boxes_val=0,
    boxes_test=0,
    masks=0,
    flat_maps=0,
    pointing_game=Estimate(None),
    energy=Estimate(None),
    energy_ratio=Estimate(None),
    overlap=Estimate(None),
    chance=None,
    difference_chance=Estimate(None),
    centre_prior=None,
    difference_centre=Estimate(None),
    label_prior=None,
    difference_label_prior=Estimate(None),
    wrong_label=Estimate(None),
    difference_wrong_label=Estimate(None),
    random_weights=Estimate(None),
    difference_random_weights=Estimate(None),
    energy_beside={},
    overlap_beside={},
    detected_findings=0,
    missed_findings=0,
    detected=Estimate(None),
    missed=Estimate(None),
    conclusive=False,
    reason="no boxes or masks on validation or test images",
    conclusion="none: no boxes or masks on validation or test images",
    labels={},
)
"""What `localise` would say of a data set without boxes and masks."""


@dataclass(frozen=True)
class Maps:
    """How well one model's maps meet N findings.

    Attributes:
        own: of the finding's label.
        wrong_label: of the map of a label that the image does not have; NaN where it has all.
        random_weights: of the map of the same network with random weights.
        size: height and width of the maps in cells.
        called: float64 (N,), 1 where the model calls the label at the threshold that it ships with, else 0; NaN where
            it has none.
    """

    own: Scores
    wrong_label: Scores
    random_weights: Scores
    size: tuple[int, int]
    called: NDArray[np.float64]

    def at(self, rows: NDArray[np.bool_]) -> "Maps":
        """Those of some findings."""
        own, wrong, random = self.own.at(rows), self.wrong_label.at(rows), self.random_weights.at(rows)
        return Maps(own, wrong, random, self.size, self.called[rows])


def localise(findings: list[Finding], where: Targets, maps: Maps) -> LocatedByLabel:
    """One model's table: overall and per label, means over findings, with intervals, beside what needs no such map.

    Args:
        findings: N findings with boxes or masks.
        where: their targets.
        maps: the model's scores on them, and those of maps that should not point at them.
    """
    names = np.array([finding.label for finding in findings])
    labels = {label: _table(findings, where, maps, names == label) for label in dict.fromkeys(sorted(names))}
    everything = np.ones(len(findings), bool)
    overall = _table(findings, where, maps, everything)
    groups = np.array([finding.group_id for finding in findings])
    beside = {
        f"{figure}_beside": {
            name: hold_against(getattr(maps.own, figure), getattr(other, figure), groups)
            for name, other in _references(where, maps).items()
        }
        for figure in ("energy", "overlap")
    }
    return LocatedByLabel(**dict(overall) | beside, labels=labels)


def difference(findings: list[Finding], student: Scores, teacher: Scores) -> Lead:
    """Student minus teacher on the same findings, each figure with a paired interval."""
    groups = np.array([finding.group_id for finding in findings])
    return Lead(
        pointing_game=paired_interval(student.hits, teacher.hits, groups),
        energy=mean_interval(student.energy - teacher.energy, groups, difference=True),
        overlap=mean_interval(student.overlap - teacher.overlap, groups, difference=True),
    )


def inconclusive(map_size: tuple[int, int], sizes: list[float], groups: int) -> str:
    """Why nothing can be concluded from a figure; empty if a conclusion is possible.

    Args:
        map_size: height and width of the maps in cells.
        sizes: side of each box or mask, as a share of the frame.
        groups: that have findings.
    """
    cell = 1 / min(map_size)
    side = float(np.median(sizes))
    if cell > MAX_CELL * side:
        return (
            f"too coarse: a cell of the {map_size[0]}×{map_size[1]} map is {cell / side:.1f} times as wide as a finding"
        )
    if groups < MIN_GROUPS:
        return f"findings from {groups} groups, fewer than {MIN_GROUPS}"
    return ""


def conclusion(entry: Located) -> str:
    """What the pointing game says of a model, in words: only what a paired interval shows counts as better or worse."""
    if not entry.conclusive:
        return f"none: {entry.reason}"
    references = {
        "chance": entry.difference_chance,
        "pointing at the centre": entry.difference_centre,
        "pointing at the label's usual place": entry.difference_label_prior,
    }
    if any(difference.lower is None for difference in references.values()):
        return "none: too few findings for an interval"
    if entry.flat_maps > entry.findings / 2:
        return f"most maps are flat ({entry.flat_maps} of {entry.findings}), so no conclusion"
    return ", ".join(f"{_shown(difference)} {name}" for name, difference in references.items())


def _shown(difference: Estimate) -> str:
    if difference.lower is not None and difference.lower > 0:
        return "better than"
    return "worse than" if difference.upper is not None and difference.upper < 0 else "not shown to differ from"


def _references(where: Targets, maps: Maps) -> dict[str, Scores]:
    """What a model's maps are held against, by the names of `records.explain.REFERENCES`."""
    return {
        "chance": where.chance,
        "centre": where.centre,
        "usual_place": where.usual,
        "another_label": maps.wrong_label,
        "random_weights": maps.random_weights,
    }


def hold_against(own: NDArray[np.float64], other: NDArray[np.float64], groups: NDArray[np.generic]) -> Beside:
    """The mean of what a share is held against, where that is known, and the paired difference."""
    known = ~np.isnan(other)
    value = float(other[known].mean()) if known.any() else None
    return Beside(value=value, difference=mean_interval((own - other)[known], groups[known], difference=True))


def _table(findings: list[Finding], where: Targets, maps: Maps, chosen: NDArray[np.bool_]) -> Located:
    rows = [finding for finding, wanted in zip(findings, chosen, strict=True) if wanted]
    groups = np.array([finding.group_id for finding in rows])
    maps = maps.at(chosen)
    own, hits, chance = maps.own, maps.own.hits, where.chance.hits[chosen]
    centre, usual = where.centre.hits[chosen], where.usual.hits[chosen]
    wrong, random = maps.wrong_label.hits, maps.random_weights.hits
    elsewhere, known = ~np.isnan(usual), ~np.isnan(wrong)
    boxes = {split: sum(len(f.boxes) for f in rows if f.split == split) for split in ("val", "test")}
    called, missed = maps.called == 1, maps.called == 0
    reason = inconclusive(maps.size, [side for finding in rows for side in sides(finding)], len(set(groups)))
    table = Located(
        images=len({finding.image_id for finding in rows}),
        findings=len(rows),
        groups=len(set(groups)),
        boxes=sum(boxes.values()),
        boxes_val=boxes["val"],
        boxes_test=boxes["test"],
        masks=sum(finding.mask is not None for finding in rows),
        flat_maps=sum(at is None for at in own.peaks),
        pointing_game=share_interval(hits, groups),
        energy=mean_interval(own.energy, groups),
        energy_ratio=mean_interval(own.energy / where.chance.energy[chosen], groups, difference=True),
        overlap=mean_interval(own.overlap, groups),
        chance=float(chance.mean()),
        difference_chance=paired_interval(hits, chance, groups),
        centre_prior=float(centre.mean()),
        difference_centre=paired_interval(hits, centre, groups),
        label_prior=float(usual[elsewhere].mean()) if elsewhere.any() else None,
        difference_label_prior=paired_interval(hits[elsewhere], usual[elsewhere], groups[elsewhere]),
        wrong_label=share_interval(wrong[known], groups[known]),
        difference_wrong_label=paired_interval(hits[known], wrong[known], groups[known]),
        random_weights=share_interval(random, groups),
        difference_random_weights=paired_interval(hits, random, groups),
        energy_beside={},
        overlap_beside={},
        detected_findings=int(called.sum()),
        missed_findings=int(missed.sum()),
        detected=share_interval(hits[called], groups[called]),
        missed=share_interval(hits[missed], groups[missed]),
        conclusive=not reason,
        reason=reason,
        conclusion="",
    )
    return table.model_copy(update={"conclusion": conclusion(table)})
