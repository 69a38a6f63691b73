"""How well a map meets a finding: its peak, the energy inside, and the overlap of as many pixels as the truth has."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scores:
    """How well maps, or places that need none, meet N findings; NaN where one has no answer.

    Attributes:
        hits: float64 (N,), 1 where the map's peak is inside the truth, else 0; 0 for a flat map, which points nowhere.
        energy: float64 (N,), share of the map's sum inside the truth; 0 for an all-zero map.
        overlap: float64 (N,), area-matched IoU, see `overlap`; 0 for a flat map.
        peaks: (row, column) in pixels of each map's peak, None for a flat map; empty where there are no maps.
    """

    hits: NDArray[np.float64]
    energy: NDArray[np.float64]
    overlap: NDArray[np.float64]
    peaks: list[tuple[int, int] | None] = field(default_factory=list)

    def at(self, rows: NDArray[np.bool_]) -> "Scores":
        """Those of some findings."""
        peaks = [place for place, wanted in zip(self.peaks, rows, strict=True) if wanted] if self.peaks else []
        return Scores(self.hits[rows], self.energy[rows], self.overlap[rows], peaks)

    def unknown_where(self, rows: NDArray[np.bool_]) -> "Scores":
        """The same with NaN in some rows."""
        hits, energy, overlap = (np.where(rows, np.nan, of) for of in (self.hits, self.energy, self.overlap))
        return Scores(hits, energy, overlap, self.peaks)


def score(frames: NDArray[np.float32], masks: NDArray[np.bool_]) -> Scores:
    """Compare maps at the frame's resolution, float32 (N, S, S) ≥ 0, with the truth, bool (N, S, S)."""
    peaks = [peak(frame) for frame in frames]
    hits = [0.0 if at is None else float(mask[at]) for at, mask in zip(peaks, masks, strict=True)]
    total = frames.sum(axis=(1, 2), dtype=np.float64)
    inside = np.where(masks, frames, 0).sum(axis=(1, 2), dtype=np.float64)
    energy = np.divide(inside, total, out=np.zeros_like(total), where=total > 0)
    met = [0.0 if at is None else overlap(frame, mask) for at, frame, mask in zip(peaks, frames, masks, strict=True)]
    return Scores(np.array(hits), energy, np.array(met), peaks)


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


def overlap(frame: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    """Area-matched IoU of a map (S, S) and a truth (S, S): of the truth and as many of the map's strongest pixels.

    No threshold is needed, which would mean another thing for each network. Of pixels that tie for the last places the
    share inside the truth counts, not which of them come first.

    Example:
        >>> overlap(np.array([[3.0, 2.0], [1.0, 0.0]], np.float32), np.array([[True, False], [True, False]]))
        0.3333333333333333
    """
    size = int(mask.sum())
    least = np.partition(frame, -size, axis=None)[-size]
    above, tied = frame > least, frame == least
    open_places = size - int(above.sum())
    both = int((mask & above).sum()) + open_places * float((mask & tied).sum() / tied.sum())
    return both / (2 * size - both)
