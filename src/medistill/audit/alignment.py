"""How alike two images are once aligned: the test that confirms near-duplicates and groups of copies.

Keypoints (SIFT) of one image are found again in the other under any rotation, zoom or exposure; an affine transform is
fitted to them (RANSAC). Two numbers then indicate a common source: the correlation of the aligned images, and the
share of keypoints whose partner the transform hits exactly. Chests of different people may correlate once aligned, and
letters burned into films give exact partners, but seldom both.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

ReadFrames = Callable[[np.ndarray], np.ndarray]
"""Gives the frames of some images: int (n,) positions -> uint8 (n, C, S, S), C 1 or 3, in that order."""

SIDE = 128
"""Images are compared at this height and width in pixels; smaller ones are enlarged to it."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601
_NOISE = 5.0  # grey levels: where an image varies by less, local contrast does not blow noise up into structure
_RIM = 3  # pixels at the border of the overlap that are left out: filters see half a neighbourhood there
_FLAT = 1e-6  # variance of local contrast that is rounding and nothing else
_LEAST_OVERLAP = 0.1  # of the frame: on less, a correlation says little
_KEYPOINTS = 150
_SCALE = 512  # of descriptors of length 1, when they are kept as bytes
_RATIO = 0.8  # of distances to the nearest and the second nearest descriptor (Lowe 2004)
_EXACT = 1.3  # pixels between a keypoint's partner and where the transform carries it
_LEAST_POINTS = 6  # that must agree: an affine transform takes three
_ZOOM = 2.5  # the most that a transform may enlarge or shrink
_STRETCH = 2.0  # the most that it may stretch one direction against the other

# A SIFT descriptor has 4 rows, 4 columns, and 8 directions. In a mirrored image the rows come in reverse, and so do the
# directions, but for the first.
MIRROR = np.arange(128).reshape(4, 4, 8)[::-1][:, :, -np.arange(8) % 8].ravel()
"""The order in which the numbers of a descriptor stand when the image is mirrored."""


@dataclass(frozen=True)
class Picture:
    """The content of an image that is compared.

    Attributes:
        pixels: grey uint8 (s, s).
        points: keypoints, float32 (k, 2): x, y in pixels.
        descriptors: square roots of their SIFT descriptors (RootSIFT, Arandjelovic and Zisserman 2012), times 512:
            uint8 (k, 128).
    """

    pixels: np.ndarray
    points: np.ndarray
    descriptors: np.ndarray


def grey(frames: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Frames uint8 (n, C, S, S) as grey uint8 (n, side, side)."""
    if frames.shape[1] == 3:
        frames = np.rint(np.einsum("nchw,c->nhw", frames, _LUMA, optimize=True)).astype(np.uint8)
    else:
        frames = frames[:, 0]
    method = cv2.INTER_AREA if frames.shape[-1] > side else cv2.INTER_CUBIC
    return np.array([cv2.resize(frame, (side, side), interpolation=method) for frame in frames], np.uint8)


def picture(pixels: np.ndarray) -> Picture:
    """Find the keypoints of a grey image uint8 (s, s)."""
    # X-rays have little contrast; without precise upscaling, keypoints lie half a pixel beside what they show
    sift = cv2.SIFT.create(nfeatures=_KEYPOINTS, contrastThreshold=0.003, enable_precise_upscale=True)
    keypoints, descriptors = sift.detectAndCompute(pixels, None)
    if descriptors is None:
        return Picture(pixels, np.empty((0, 2), np.float32), np.empty((0, 128), np.uint8))
    points = np.array([keypoint.pt for keypoint in keypoints[:_KEYPOINTS]], np.float32)
    share = descriptors[:_KEYPOINTS] / np.maximum(descriptors[:_KEYPOINTS].sum(axis=1, keepdims=True), 1)
    return Picture(pixels, points, np.minimum(np.rint(_SCALE * np.sqrt(share)), 255).astype(np.uint8))


def compare(first: Picture, second: Picture, *, mirrored: bool) -> tuple[float, float]:
    """How alike two images are once aligned.

    Args:
        first: an image.
        second: another of the same size.
        mirrored: whether `first` is aligned with the mirror image of `second`.

    Returns:
        Correlation of the aligned images' local contrast, -1 to 1, and agreement: the share of keypoints with a partner
        that the alignment hits to a hundredth of the side, 0 to 1. Both are 0 where no alignment is found.
    """
    here, there = _partners(first, second, mirrored)
    if len(here) < _LEAST_POINTS:
        return 0.0, 0.0
    transform, exact = cv2.estimateAffine2D(here, there, ransacReprojThreshold=_EXACT, maxIters=500)
    if transform is None or exact.sum() < _LEAST_POINTS:
        return 0.0, 0.0
    large, small = np.linalg.svd(transform[:, :2])[1]
    if large > _ZOOM or small < 1 / _ZOOM or large > _STRETCH * small:
        return 0.0, 0.0
    return aligned_correlation(first.pixels, second.pixels, transform, sigma=2.5), float(exact.mean())


def _partners(first: Picture, second: Picture, mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints whose descriptors are each other's nearest by far: two float32 (m, 2)."""
    descriptors = second.descriptors[:, MIRROR] if mirrored else second.descriptors
    if min(len(first.points), len(second.points)) < 2:
        return first.points[:0], second.points[:0]
    alike = (first.descriptors.astype(np.float32) @ descriptors.astype(np.float32).T) / _SCALE**2
    row = np.arange(len(alike))
    nearest = alike.argmax(axis=1)
    mutual = alike.argmax(axis=0)[nearest] == row
    distance = 1 - alike[row, nearest]  # half its square
    alike[row, nearest] = -1
    kept = mutual & (distance < _RATIO**2 * (1 - alike.max(axis=1)))
    return first.points[kept], second.points[nearest[kept]]


def local_contrast(image: np.ndarray, sigma: float) -> np.ndarray:
    """An image less its local mean, over its local standard deviation: (H, W) -> float32 (H, W).

    This removes coarse structure, which all images of a kind share (the shape of a chest, exposure, contrast), and
    keeps fine structure, which is specific to an image.

    Args:
        image: grey levels 0 to 255.
        sigma: standard deviation of the Gaussian window in pixels.
    """
    image = image.astype(np.float32)
    mean = cv2.GaussianBlur(image, (0, 0), sigma)
    variance = cv2.GaussianBlur((image - mean) ** 2, (0, 0), sigma)
    contrast: np.ndarray = (image - mean) / np.sqrt(variance + _NOISE**2)
    return contrast


def aligned_correlation(first: np.ndarray, second: np.ndarray, transform: np.ndarray, *, sigma: float) -> float:
    """Pearson correlation of two images' local contrast where they overlap; 0 where they hardly overlap.

    Args:
        first: grey uint8 (s, s).
        second: grey uint8 (s, s).
        transform: affine (2, 3); carries x, y of a pixel of `first` to its place in `second`.
        sigma: of the window of local contrast, in pixels.
    """
    shape, inverse = first.shape[::-1], cv2.WARP_INVERSE_MAP
    inside = np.zeros_like(first)
    inside[_RIM:-_RIM, _RIM:-_RIM] = 1
    overlap = (inside & cv2.warpAffine(inside, transform, shape, flags=inverse | cv2.INTER_NEAREST)) > 0
    if overlap.mean() < _LEAST_OVERLAP:
        return 0.0
    here = local_contrast(first, sigma)[overlap]
    there = local_contrast(second, sigma)
    there = cv2.warpAffine(there, transform, shape, flags=inverse | cv2.INTER_LINEAR)[overlap]
    here, there = here - here.mean(), there - there.mean()
    scale = float(np.sqrt((here @ here) * (there @ there)))
    return float(here @ there) / scale if scale > _FLAT * len(here) else 0.0
