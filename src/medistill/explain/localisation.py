"""Whether a map points at the finding: pointing game and energy inside the box, beside what needs no such map.

That is chance, pointing at the centre, pointing where other patients have the finding, the map of a label that is not
there, and that of the same network with random weights.

The unit is a finding, one label on one image; all its boxes together are its target. A model is compared finding by
finding, with another one or with a baseline that needs no model; `metrics.means` has the intervals.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medistill.explain.selection import Box, Finding
from medistill.metrics.eligibility import MIN_GROUPS
from medistill.metrics.means import mean_interval, paired_interval, share_interval
from medistill.records.estimate import Estimate
from medistill.records.explain import Lead, Located, LocatedByLabel

MAX_CELL = 0.5
"""Widest cell of a map, as a share of the median side of the boxes, of which anything can be concluded."""

NO_BOXES = LocatedByLabel(
    images=0,
    findings=0,
    groups=0,
    boxes=0,
    boxes_val=0,
    boxes_test=0,
    flat_maps=0,
    pointing_game=Estimate(None),
    energy=Estimate(None),
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
    conclusive=False,
    reason="no boxes on validation or test images",
    conclusion="none: no boxes on validation or test images",
    labels={},
)
"""What `localise` would say of a data set without boxes."""


@dataclass(frozen=True)
class Targets:
    """Where the findings are, and what is hit without any model.

    Attributes:
        masks: bool (N, S, S), the union of each finding's boxes.
        chance: float64 (N,), share of the frame that the boxes cover: the chance that a random point hits, and the
            energy of a uniform map.
        centre: float64 (N,), 1 where the frame's centre is inside a box, else 0.
        usual: float64 (N,), 1 where the label's usual place is inside a box, else 0: the point that lies in most boxes
            of the label in other groups; NaN where no other group has one.
    """

    masks: NDArray[np.bool_]
    chance: NDArray[np.float64]
    centre: NDArray[np.float64]
    usual: NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """How well one model's maps meet the boxes.

    Attributes:
        hits: float64 (N,), 1 where the map's peak is inside a box, else 0; 0 for a flat map, which points nowhere.
        energy: float64 (N,), share of the map's sum inside the boxes; 0 for an all-zero map.
        peaks: (row, column) in pixels of each map's peak, None for a flat map.
    """

    hits: NDArray[np.float64]
    energy: NDArray[np.float64]
    peaks: list[tuple[int, int] | None]


@dataclass(frozen=True)
class Nulls:
    """Hits of maps that know nothing of the finding, each float64 (N,).

    Attributes:
        wrong_label: of the map of a label that the image does not have; NaN where it has all.
        random_weights: of the map of the same network with random weights.
    """

    wrong_label: NDArray[np.float64]
    random_weights: NDArray[np.float64]


def targets(findings: list[Finding], size: int) -> Targets:
    """Draw the boxes of N findings into frames of `size` pixels."""
    masks = np.stack([box_mask(finding.boxes, size) for finding in findings])
    centre = [any(x <= 0.5 < x + w and y <= 0.5 < y + h for x, y, w, h in finding.boxes) for finding in findings]
    return Targets(masks, masks.mean(axis=(1, 2)), np.array(centre, np.float64), usual_places(findings, masks))


def usual_places(findings: list[Finding], masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Whether pointing where other groups have the label hits: float64 (N,), see `Targets.usual`."""
    labels, groups = (np.array([getattr(f, name) for f in findings]) for name in ("label", "group_id"))
    hits = np.full(len(findings), np.nan)
    for label in np.unique(labels):
        same = labels == label
        every = masks[same].sum(axis=0, dtype=np.int64)
        for group in np.unique(groups[same]):
            own = same & (groups == group)
            place = peak((every - masks[own].sum(axis=0)).astype(np.float32))
            if place is not None:
                hits[own] = masks[own][:, *place]
    return hits


def box_mask(boxes: tuple[Box, ...], size: int) -> NDArray[np.bool_]:
    """Pixels, bool (size, size), whose centre is inside one of the boxes; at least the pixel of a box's own centre."""
    centres = (np.arange(size) + 0.5) / size
    mask = np.zeros((size, size), bool)
    for x, y, w, h in boxes:
        rows, columns = (centres >= y) & (centres < y + h), (centres >= x) & (centres < x + w)
        mask |= rows[:, None] & columns[None, :]
        row, column = (min(size - 1, max(0, int(middle * size))) for middle in (y + h / 2, x + w / 2))
        mask[row, column] = True
    return mask


def peak(frame: NDArray[np.float32]) -> tuple[int, int] | None:
    """Row and column of the largest value of a map (S, S); None for a flat map.

    Interpolation leaves the largest value on several pixels (a plateau along the borders, a pair between cells). Of
    these the one closest to their centre of mass is the peak: the first one would pull every tie to the top left.
    """
    top = float(frame.max())
    if top - float(frame.min()) <= 1e-6 * top:
        return None
    tied = np.argwhere(frame >= top * (1 - 1e-6))
    nearest = np.square(tied - tied.mean(axis=0)).sum(axis=1).argmin()
    row, column = tied[nearest]
    return int(row), int(column)


def score(frames: NDArray[np.float32], masks: NDArray[np.bool_]) -> Scores:
    """Compare maps at the frame's resolution, float32 (N, S, S) ≥ 0, with targets, bool (N, S, S)."""
    peaks = [peak(frame) for frame in frames]
    hits = [0.0 if at is None else float(mask[at]) for at, mask in zip(peaks, masks, strict=True)]
    total = frames.sum(axis=(1, 2), dtype=np.float64)
    inside = np.where(masks, frames, 0).sum(axis=(1, 2), dtype=np.float64)
    energy = np.divide(inside, total, out=np.zeros_like(total), where=total > 0)
    return Scores(np.array(hits), energy, peaks)


def localise(
    findings: list[Finding], where: Targets, scores: Scores, map_size: tuple[int, int], nulls: Nulls
) -> LocatedByLabel:
    """One model's table: overall and per label, means over findings, with intervals, beside what needs no such map.

    Args:
        findings: N findings with boxes.
        where: their targets.
        scores: the model's scores on them.
        map_size: height and width of the model's maps.
        nulls: hits of its maps that should not point at them.
    """
    names = np.array([finding.label for finding in findings])
    labels = {
        label: _table(findings, where, scores, map_size, nulls, names == label)
        for label in dict.fromkeys(sorted(names))
    }
    overall = _table(findings, where, scores, map_size, nulls, np.ones(len(findings), bool))
    return LocatedByLabel(**dict(overall), labels=labels)


def difference(findings: list[Finding], student: Scores, teacher: Scores) -> Lead:
    """Student minus teacher on the same findings, each figure with a paired interval."""
    groups = np.array([finding.group_id for finding in findings])
    return Lead(
        pointing_game=paired_interval(student.hits, teacher.hits, groups),
        energy=mean_interval(student.energy - teacher.energy, groups, difference=True),
    )


def inconclusive(map_size: tuple[int, int], boxes: list[Box], groups: int) -> str:
    """Why nothing can be concluded from a figure; empty if a conclusion is possible."""
    cell = 1 / min(map_size)
    side = float(np.median([math.sqrt(w * h) for _, _, w, h in boxes]))
    if cell > MAX_CELL * side:
        return f"too coarse: a cell of the {map_size[0]}×{map_size[1]} map is {cell / side:.1f} times as wide as a box"
    if groups < MIN_GROUPS:
        return f"boxes from {groups} groups, fewer than {MIN_GROUPS}"
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


def _table(
    findings: list[Finding],
    where: Targets,
    scores: Scores,
    map_size: tuple[int, int],
    nulls: Nulls,
    chosen: NDArray[np.bool_],
) -> Located:
    rows = [finding for finding, wanted in zip(findings, chosen, strict=True) if wanted]
    groups = np.array([finding.group_id for finding in rows])
    hits, chance, centre = scores.hits[chosen], where.chance[chosen], where.centre[chosen]
    usual, wrong, random = where.usual[chosen], nulls.wrong_label[chosen], nulls.random_weights[chosen]
    elsewhere, known = ~np.isnan(usual), ~np.isnan(wrong)
    boxes = {split: sum(len(f.boxes) for f in rows if f.split == split) for split in ("val", "test")}
    reason = inconclusive(map_size, [box for finding in rows for box in finding.boxes], len(set(groups)))
    table = Located(
        images=len({finding.image_id for finding in rows}),
        findings=len(rows),
        groups=len(set(groups)),
        boxes=sum(boxes.values()),
        boxes_val=boxes["val"],
        boxes_test=boxes["test"],
        flat_maps=sum(at is None for at, wanted in zip(scores.peaks, chosen, strict=True) if wanted),
        pointing_game=share_interval(hits, groups),
        energy=mean_interval(scores.energy[chosen], groups),
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
        conclusive=not reason,
        reason=reason,
        conclusion="",
    )
    return table.model_copy(update={"conclusion": conclusion(table)})
