"""Where the findings are, by boxes or masks, and what meets them without looking at the image."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medistill.explain.scores import Scores, score
from medistill.explain.selection import Box, Finding

CENTRE_SPREAD = 0.25
"""Standard deviation of the map that points at the centre, a Gaussian, as a share of the frame's side."""


@dataclass(frozen=True)
class Targets:
    """Where the findings are, and how well that is met without any model.

    Attributes:
        masks: bool (N, S, S), the union of each finding's boxes, or its mask.
        chance: of a random point, of a map that is the same everywhere, and of as many random pixels as the truth has.
        centre: of the frame's centre, and of a Gaussian around it.
        usual: of the label's usual place: the map of how many other groups have it where, and its peak; NaN where no
            other group has the label.
    """

    masks: NDArray[np.bool_]
    chance: Scores
    centre: Scores
    usual: Scores


def targets(findings: list[Finding], size: int) -> Targets:
    """Draw the truth of N findings into frames of `size` pixels."""
    masks = np.stack([mask_of(finding, size) for finding in findings])
    return Targets(masks, chance_of(masks), _centre(findings, masks), _usual(findings, masks))


def mask_of(finding: Finding, size: int) -> NDArray[np.bool_]:
    """Where a finding is: bool (size, size)."""
    return box_mask(finding.boxes, size) if finding.mask is None else finding.mask


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


def sides(finding: Finding) -> list[float]:
    """Side of a square as large as each box, or as the largest connected part of the mask, as a share of the frame."""
    if finding.mask is None:
        return [math.sqrt(w * h) for _, _, w, h in finding.boxes]
    parts, _ = ndimage.label(finding.mask)
    return [math.sqrt(np.bincount(parts.ravel())[1:].max() / finding.mask.size)]


def chance_of(masks: NDArray[np.bool_]) -> Scores:
    """What chance meets of masks (N, S, S), see `Targets`."""
    area = masks.mean(axis=(1, 2))
    return Scores(area, area, area / (2 - area))


def centre_of(masks: NDArray[np.bool_]) -> Scores:
    """What the centre meets of masks (N, S, S), see `Targets`."""
    size = masks.shape[-1]
    steps = ((np.arange(size) + 0.5) / size - 0.5) / CENTRE_SPREAD
    around = np.exp(-(steps[:, None] ** 2 + steps[None, :] ** 2) / 2).astype(np.float32)
    met = score(np.broadcast_to(around, masks.shape), masks)
    return Scores(masks[:, size // 2, size // 2].astype(np.float64), met.energy, met.overlap)


def _centre(findings: list[Finding], masks: NDArray[np.bool_]) -> Scores:
    met = centre_of(masks)
    hits = [
        any(x <= 0.5 < x + w and y <= 0.5 < y + h for x, y, w, h in finding.boxes)
        if finding.mask is None
        else bool(hit)
        for finding, hit in zip(findings, met.hits, strict=True)
    ]
    return Scores(np.array(hits, np.float64), met.energy, met.overlap)


def _usual(findings: list[Finding], masks: NDArray[np.bool_]) -> Scores:
    labels, groups = (np.array([getattr(f, name) for f in findings]) for name in ("label", "group_id"))
    hits, energy, overlap = np.full((3, len(findings)), np.nan)
    for label in np.unique(labels):
        same = labels == label
        every = masks[same].sum(axis=0, dtype=np.int64)
        for group in np.unique(groups[same]):
            own = same & (groups == group)
            place = (every - masks[own].sum(axis=0)).astype(np.float32)
            if place.max() > place.min():
                met = score(np.broadcast_to(place, masks[own].shape), masks[own])
                hits[own], energy[own], overlap[own] = met.hits, met.energy, met.overlap
    return Scores(hits, energy, overlap)
