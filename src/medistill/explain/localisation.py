"""Whether a map points at the finding: pointing game and energy inside the box, beside chance and a centre prior.

The unit is a finding, one label on one image; all its boxes together are its target. Intervals come from a bootstrap
over groups with the same draws for every model, so that two models are compared on the same patients.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medistill.evaluation.bootstrap import MIN_GROUPS, draw, summarise
from medistill.explain.selection import Box, Finding

RESAMPLES = 2000
SEED = 0
MIN_MAP = 4
"""Cells a side below which a map is too coarse to conclude anything from."""

NO_BOXES: dict[str, Any] = {
    "images": 0,
    "findings": 0,
    "groups": 0,
    "boxes": 0,
    "boxes_val": 0,
    "boxes_test": 0,
    "flat_maps": 0,
    "pointing_game": None,
    "energy": None,
    "chance": None,
    "centre_prior": None,
    "conclusive": False,
    "reason": "no boxes on validation or test images",
    "conclusion": "none: no boxes on validation or test images",
    "labels": {},
}
"""What `localise` would say of a data set without boxes."""


@dataclass(frozen=True)
class Targets:
    """Where the findings are, and what no model at all would score.

    Attributes:
        masks: bool (N, S, S), the union of each finding's boxes.
        chance: float64 (N,), share of the frame that the boxes cover: what a random point hits, and the energy of a
            map that is the same everywhere.
        centre: float64 (N,), 1 where the frame's centre is inside a box, else 0: what is hit without looking.
    """

    masks: NDArray[np.bool_]
    chance: NDArray[np.float64]
    centre: NDArray[np.float64]


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


def targets(findings: list[Finding], size: int) -> Targets:
    """Draw the boxes of N findings into frames of `size` pixels."""
    masks = np.stack([box_mask(finding.boxes, size) for finding in findings])
    centre = [any(x <= 0.5 < x + w and y <= 0.5 < y + h for x, y, w, h in finding.boxes) for finding in findings]
    return Targets(masks, masks.mean(axis=(1, 2)), np.array(centre, np.float64))


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


def mean_interval(values: NDArray[np.float64], groups: NDArray) -> dict[str, float | None]:
    """Mean of per-finding values with its 95 % percentile interval from a bootstrap over groups.

    Args:
        values: (N,), one a finding; NaN is left out.
        groups: (N,), each finding's group. The same groups give the same draws, whatever the values.

    Returns:
        `estimate`, `lower`, `upper`; None where undefined (no values, or none in more than 5 % of the resamples).
    """
    if len(values) == 0:
        return {"estimate": None, "lower": None, "upper": None}
    _, codes = np.unique(groups, return_inverse=True)
    known = ~np.isnan(values)
    sums = np.bincount(codes, np.where(known, values, 0))
    numbers = np.bincount(codes, known)
    counts = _draws(len(sums))
    with np.errstate(invalid="ignore"):  # 0 / 0: no known value in the resample
        result = summarise((sums @ counts) / (numbers @ counts))
    return {"estimate": result.estimate, "lower": result.lower, "upper": result.upper}


@lru_cache(maxsize=64)
def _draws(group_count: int) -> NDArray[np.float64]:
    return draw(group_count, RESAMPLES, SEED).astype(np.float64)


def localise(findings: list[Finding], where: Targets, scores: Scores, map_size: tuple[int, int]) -> dict[str, Any]:
    """One model's table: overall and per label, means over findings, with intervals, chance and centre prior.

    Args:
        findings: N findings with boxes.
        where: their targets.
        scores: the model's scores on them.
        map_size: height and width of the model's feature map.

    Returns:
        `images`, `findings`, `groups`, `boxes`, `boxes_val`, `boxes_test`, `flat_maps`, `pointing_game` and `energy`
        (each `estimate`, `lower`, `upper`), `chance`, `centre_prior`, `conclusive`, `reason` ("" where conclusive),
        `conclusion` in words, and `labels`: the same for each label.
    """
    names = np.array([finding.label for finding in findings])
    result = _table(findings, where, scores, map_size, np.ones(len(findings), bool))
    result["labels"] = {
        label: _table(findings, where, scores, map_size, names == label) for label in dict.fromkeys(sorted(names))
    }
    return result


def difference(findings: list[Finding], student: Scores, teacher: Scores) -> dict[str, dict[str, float | None]]:
    """Student minus teacher on the same findings: `pointing_game` and `energy`, each with a paired interval."""
    groups = np.array([finding.group_id for finding in findings])
    return {
        "pointing_game": mean_interval(student.hits - teacher.hits, groups),
        "energy": mean_interval(student.energy - teacher.energy, groups),
    }


def inconclusive(map_size: tuple[int, int], groups: int) -> str:
    """Why nothing can be concluded from a figure; empty where something can."""
    if min(map_size) < MIN_MAP:
        return f"map of {map_size[0]}×{map_size[1]} cells, smaller than {MIN_MAP}×{MIN_MAP}"
    if groups < MIN_GROUPS:
        return f"boxes from {groups} groups, fewer than {MIN_GROUPS}"
    return ""


def conclusion(entry: dict[str, Any]) -> str:
    """What the pointing game says of a model, in words: only an interval above a reference counts as above it."""
    if not entry["conclusive"]:
        return f"none: {entry['reason']}"
    lower, upper = entry["pointing_game"]["lower"], entry["pointing_game"]["upper"]
    if lower is None:
        return "none: too few findings for an interval"
    if entry["flat_maps"] > entry["findings"] / 2:
        return f"most maps are flat ({entry['flat_maps']} of {entry['findings']}): points nowhere"
    if upper < entry["chance"]:
        return "points beside the findings, below chance"
    if lower <= entry["chance"]:
        return "no better than chance"
    if lower <= entry["centre_prior"]:
        return "better than chance, not than pointing at the centre"
    return "better than chance and than pointing at the centre"


def _table(
    findings: list[Finding], where: Targets, scores: Scores, map_size: tuple[int, int], chosen: NDArray[np.bool_]
) -> dict[str, Any]:
    rows = [finding for finding, wanted in zip(findings, chosen, strict=True) if wanted]
    groups = np.array([finding.group_id for finding in rows])
    boxes = {side: sum(len(f.boxes) for f in rows if f.split == side) for side in ("val", "test")}
    reason = inconclusive(map_size, len(set(groups)))
    table = {
        "images": len({finding.image_id for finding in rows}),
        "findings": len(rows),
        "groups": len(set(groups)),
        "boxes": sum(boxes.values()),
        "boxes_val": boxes["val"],
        "boxes_test": boxes["test"],
        "flat_maps": sum(at is None for at, wanted in zip(scores.peaks, chosen, strict=True) if wanted),
        "pointing_game": mean_interval(scores.hits[chosen], groups),
        "energy": mean_interval(scores.energy[chosen], groups),
        "chance": float(where.chance[chosen].mean()),
        "centre_prior": float(where.centre[chosen].mean()),
        "conclusive": not reason,
        "reason": reason,
    }
    return table | {"conclusion": conclusion(table)}
