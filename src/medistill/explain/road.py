"""Whether a model's answer rests on the pixels that its map shows: the fall of the probability when they are removed.

ROAD, "remove and debias": Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods", ICML
2022 (arXiv 2202.00449). A removed pixel gets the weighted mean of its neighbours, so that the shape of what is missing,
by which a network could tell it, is hard to see.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from medistill.explain.cam import FloatArray, upsample
from medistill.explain.selection import Finding
from medistill.metrics.means import mean_interval
from medistill.models.classifier import Classifier
from medistill.records.explain import Removal
from medistill.task import Calibration, Task
from medistill.views import render_plain

SHARES = (0.2, 0.4, 0.6, 0.8)
"""Of the pixels of an image, which are removed."""

NOISE = 0.01
"""Standard deviation of the noise that is added to imputed pixels, of a range of 0..1."""

_NEIGHBOURS = [
    *((row, column, 1 / 6) for row, column in ((-1, 0), (1, 0), (0, -1), (0, 1))),
    *((row, column, 1 / 12) for row, column in ((-1, -1), (-1, 1), (1, -1), (1, 1))),
]
"""Row and column of a neighbour, and its weight."""

_TOLERANCE = 1e-4
"""Of the solution, relative; the noise is larger."""


@dataclass(frozen=True)
class Drops:
    """By how much the probability of N findings' labels falls when shares of the pixels are removed; float64 (N, 4).

    Attributes:
        most: the most relevant pixels first.
        least: the least relevant first.
        random: the pixels that a random map of as many cells shows first.
    """

    most: NDArray[np.float64]
    least: NDArray[np.float64]
    random: NDArray[np.float64]


class Removed:
    """Images of N of the findings, from which pixels are removed: by random maps once for all networks."""

    def __init__(self, findings: Sequence[Finding], images: NDArray[np.uint8], rows: Sequence[int]) -> None:
        """Take the findings of some rows, and the image of each: uint8 (M, C, S, S) of all findings."""
        self.rows, self.findings = list(rows), [findings[row] for row in rows]
        self.images = render_plain(torch.from_numpy(images[self.rows])).numpy()
        self._by_random: dict[tuple[int, ...], FloatArray] = {}

    def by_maps(self, maps: FloatArray, *, most: bool) -> FloatArray:
        """Float32 (N, 4, C, S, S) in 0..1: without the pixels that maps (N, h, w) show most, or least."""
        frames = upsample(maps, self.images.shape[-1])
        return np.stack(
            [
                removals(image, frame if most else -frame, seed=_seed(finding))
                for finding, image, frame in zip(self.findings, self.images, frames, strict=True)
            ]
        )

    def by_random(self, size: tuple[int, ...]) -> FloatArray:
        """The same by maps of `size` cells with random values."""
        if size not in self._by_random:
            maps = [np.random.default_rng([_seed(f), 1]).random(size, np.float32) for f in self.findings]
            self._by_random[size] = self.by_maps(np.stack(maps), most=True)
        return self._by_random[size]


def measure_drops(model: Classifier, task: Task, labels: Sequence[str], removed: Removed, maps: FloatArray) -> Drops:
    """By how much a model's probability of each finding's label falls.

    Args:
        model: as `cam.grad_cam` takes it.
        task: of the data set.
        labels: of the data set, all of which the model knows.
        removed: N findings.
        maps: (N, h, w), the model's of each.
    """
    own, columns = list(model.config["labels"]), [labels.index(finding.label) for finding in removed.findings]
    order = [own.index(label) for label in labels]

    def probabilities(images: FloatArray) -> NDArray[np.float64]:
        """Of each finding's label: (N, k) of images (N, k, C, S, S)."""
        found = [
            Calibration(task).probabilities(_logits(model, some)[:, order])[:, column]
            for some, column in zip(images, columns, strict=True)
        ]
        return np.stack(found)

    whole = probabilities(removed.images[:, None])
    most, least = (whole - probabilities(removed.by_maps(maps, most=first)) for first in (True, False))
    return Drops(most, least, whole - probabilities(removed.by_random(maps.shape[1:])))


def summarise(drops: Drops, groups: NDArray[np.generic]) -> Removal:
    """The mean drops of N findings, over all shares with an interval over groups (N,), and of each share."""
    most, least, random = (of.mean(axis=1) for of in (drops.most, drops.least, drops.random))
    return Removal(
        images=len(most),
        most=mean_interval(most, groups, difference=True),
        least=mean_interval(least, groups, difference=True),
        random=mean_interval(random, groups, difference=True),
        most_minus_random=mean_interval(most - random, groups, difference=True),
        random_minus_least=mean_interval(random - least, groups, difference=True),
        by_share={
            f"{share:.0%}": [float(of[:, place].mean()) for of in (drops.most, drops.least, drops.random)]
            for place, share in enumerate(SHARES)
        },
    )


def removals(image: FloatArray, frame: FloatArray, seed: int) -> FloatArray:
    """An image without the pixels that a map shows most, of which ties are in a random order: float32 (4, C, S, S).

    Args:
        image: (C, S, S) in 0..1.
        frame: (S, S).
        seed: of the order of ties and of the noise.
    """
    random = np.random.default_rng(seed)
    order = np.lexsort((random.random(frame.size), -frame.ravel()))
    noise = random.normal(0, NOISE, image.shape)
    result = []
    for share in SHARES:
        gone = np.zeros(frame.shape, bool)
        gone.flat[order[: round(share * frame.size)]] = True
        filled = impute(image, gone)
        result.append(np.where(gone, np.clip(filled + noise, 0, 1), image))
    return np.stack(result).astype(np.float32)


def impute(image: FloatArray, gone: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Fill removed pixels: each is the weighted mean of its neighbours within the frame, removed ones or not.

    Source: Rong et al. 2022, section 4.2: weights of 1/6 for direct and 1/12 for diagonal neighbours.

    Args:
        image: (C, S, S).
        gone: (S, S), the removed pixels; not all of them.

    Returns:
        (C, S, S), the other pixels as they were.
    """
    result = image.astype(np.float64)
    if not gone.any():
        return result
    number = np.full(gone.shape, -1)
    number[gone] = np.arange(gone.sum())
    around = np.pad(number, 1, constant_values=-2)  # −1 is a pixel that is there, −2 none at all
    rows, columns = np.nonzero(gone)
    diagonal, known = np.zeros(len(rows)), np.zeros((len(image), len(rows)))
    entries = []
    for down, right, weight in _NEIGHBOURS:
        neighbour = around[rows + 1 + down, columns + 1 + right]
        diagonal += weight * (neighbour != -2)
        there, unknown = np.flatnonzero(neighbour == -1), np.flatnonzero(neighbour >= 0)
        known[:, there] += weight * image[:, rows[there] + down, columns[there] + right]
        entries.append((np.full(len(unknown), -weight), unknown, neighbour[unknown]))
    entries.append((diagonal, np.arange(len(rows)), np.arange(len(rows))))
    values, first, second = (np.concatenate(part) for part in zip(*entries, strict=True))
    system = sparse.csr_array((values, (first, second)))  # symmetric and positive definite
    for channel, right_side in zip(result, known, strict=True):
        start = np.full(len(rows), channel[~gone].mean())
        channel[gone], _ = sparse.linalg.cg(system, right_side, x0=start, rtol=_TOLERANCE)
    return result


def _seed(finding: Finding) -> int:
    return int.from_bytes(hashlib.sha256(f"{finding.image_id}\0{finding.label}".encode()).digest()[:8])


@torch.no_grad()
def _logits(model: Classifier, images: FloatArray) -> FloatArray:
    """Logits (N, L) of the model's own labels, of images (N, C, S, S) in 0..1."""
    device = next(model.parameters()).device
    logits: FloatArray = model.eval()(torch.from_numpy(images).to(device)).float().cpu().numpy()
    return logits
