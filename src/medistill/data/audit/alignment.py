"""How alike two images are once one is laid over the other: what near-duplicates and groups are confirmed by."""

from collections.abc import Callable

import cv2
import numpy as np

Frames = Callable[[np.ndarray], np.ndarray]
"""Gives the frames of some images: int (n,) positions -> uint8 (n, C, S, S), C 1 or 3, in that order."""

SIDE = 96
"""Images are compared at this height and width in pixels, or at their own where that is less."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601
_NOISE = 5.0
"""Grey levels. Where an image varies by less, local contrast does not blow noise up into structure."""
_RIM = 2
"""Pixels at the border of the overlap that are left out: filters see half a neighbourhood there."""
_LEAST_OVERLAP = 0.1
"""Share of the frame. On less, a correlation says little."""


def grey(frames: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Frames uint8 (n, C, S, S) as grey uint8 (n, s, s), s the lesser of S and `side`."""
    if frames.shape[1] == 3:
        frames = np.rint(np.einsum("nchw,c->nhw", frames, _LUMA, optimize=True)).astype(np.uint8)
    else:
        frames = frames[:, 0]
    if frames.shape[-1] <= side:
        return np.ascontiguousarray(frames)
    return np.stack([cv2.resize(frame, (side, side), interpolation=cv2.INTER_AREA) for frame in frames])


def local_contrast(image: np.ndarray, sigma: float) -> np.ndarray:
    """An image less its local mean, over its local standard deviation: (H, W) -> float32 (H, W).

    What all images of a kind share (the shape of a chest, exposure, contrast) is coarse and goes; fine structure, which
    is an image's own, stays.

    Args:
        image: grey levels 0 to 255.
        sigma: standard deviation of the Gaussian window in pixels.
    """
    image = image.astype(np.float32)
    mean = cv2.GaussianBlur(image, (0, 0), sigma)
    variance = cv2.GaussianBlur((image - mean) ** 2, (0, 0), sigma)
    return (image - mean) / np.sqrt(variance + _NOISE**2)


def aligned_correlation(first: np.ndarray, second: np.ndarray, transform: np.ndarray) -> float:
    """Pearson correlation of two images' local contrast where they overlap; 0 where they hardly do.

    Args:
        first: grey uint8 (s, s).
        second: grey uint8 (s, s).
        transform: affine (2, 3); carries x, y of a pixel of `first` to its place in `second`.
    """
    side = first.shape[0]
    sigma = 0.5 + side / 64
    flags = cv2.WARP_INVERSE_MAP
    there = local_contrast(second, sigma)
    warped = cv2.warpAffine(there, transform, (side, side), flags=flags | cv2.INTER_LINEAR)
    inside = np.zeros((side, side), np.uint8)
    inside[_RIM:-_RIM, _RIM:-_RIM] = 1
    overlap = (inside & cv2.warpAffine(inside, transform, (side, side), flags=flags | cv2.INTER_NEAREST)) > 0
    if overlap.mean() < _LEAST_OVERLAP:
        return 0.0
    here, there = local_contrast(first, sigma)[overlap], warped[overlap]
    here, there = here - here.mean(), there - there.mean()
    scale = float(np.sqrt((here @ here) * (there @ there)))
    return float(here @ there) / scale if scale > 0 else 0.0
