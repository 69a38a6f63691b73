"""Fitting an image, and boxes on it, into a square frame."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

Fit = Literal["pad", "squash", "crop"]


@dataclass(frozen=True)
class Framing:
    """The shape of frames: `size` pixels high and wide, 1 or 3 `channels`, and how images are fitted into them."""

    size: int
    channels: int
    fit: Fit


def to_frame(image: Image.Image, *, size: int, channels: int, fit: Fit) -> np.ndarray:
    """Make an image of `read` square.

    Args:
        image: mode `L` or `RGB`.
        size: height and width of the frame in pixels.
        channels: 1 (grey; colour by ITU-R 601 luma) or 3 (RGB; grey repeated).
        fit: `pad`: black bars, the image centred; `squash`: the aspect ratio is lost; `crop`: the centred square.

    Returns:
        uint8 (channels, size, size). Resized by Pillow's bilinear filter with antialiasing.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels}")
    source, target = _placement(*image.size, size, fit)
    inner = (target[2] - target[0], target[3] - target[1])
    if channels == 1 and image.mode != "L":  # a conversion copies, and the image may be large
        image = image.convert("L")
    if inner != image.size or source != (0, 0, *image.size):
        # reducing_gap: large factors are box-averaged to three times the target first; as good, several times faster
        image = image.resize(inner, Image.Resampling.BILINEAR, box=source, reducing_gap=3.0)
    if channels == 3 and image.mode != "RGB":
        image = image.convert("RGB")
    frame = np.zeros((channels, size, size), np.uint8)
    pixels = np.asarray(image).reshape(inner[1], inner[0], channels)
    frame[:, target[1] : target[3], target[0] : target[2]] = pixels.transpose(2, 0, 1)
    return frame


def fit_boxes(boxes: np.ndarray, *, width: int, height: int, size: int, fit: Fit) -> np.ndarray:
    """Map boxes from an image into its frame, by the same geometry as `to_frame`.

    Args:
        boxes: (N, 4) x, y, w, h in pixels of the upright source image; x, y is the top left corner.
        width: width of the source image in pixels.
        height: height of the source image in pixels.
        size: height and width of the frame in pixels.
        fit: as in `to_frame`.

    Returns:
        float64 (N, 4) x, y, w, h as fractions of the frame, clipped to it; a box outside of the frame has a
        width or height of 0.
    """
    (left, top, right, bottom), (x0, y0, x1, y1) = _placement(width, height, size, fit)
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    scale = np.array([(x1 - x0) / (right - left), (y1 - y0) / (bottom - top)])
    offset = np.array([x0, y0])
    low = (boxes[:, :2] - (left, top)) * scale + offset
    high = (boxes[:, :2] + boxes[:, 2:] - (left, top)) * scale + offset
    low, high = np.clip(low, (x0, y0), (x1, y1)), np.clip(high, (x0, y0), (x1, y1))
    return np.hstack([low, high - low]) / size


def _placement(
    width: int, height: int, size: int, fit: Fit
) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """Which part of the image goes where in the frame: two boxes (left, top, right, bottom) in pixels."""
    source, target = (0, 0, width, height), (0, 0, size, size)
    if fit == "pad":
        longest = max(width, height)
        inner_width, inner_height = (max(1, round(side * size / longest)) for side in (width, height))
        left, top = (size - inner_width) // 2, (size - inner_height) // 2
        target = (left, top, left + inner_width, top + inner_height)
    elif fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        source = (left, top, left + side, top + side)
    elif fit != "squash":
        raise ValueError(f"fit must be pad, squash or crop, not {fit!r}")
    return source, target
