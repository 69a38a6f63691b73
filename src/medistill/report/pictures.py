"""Images and maps as data URIs, in the colours of the legend, and the outline of a mask."""

import base64
import io
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

COLOURS = "inferno"
OPACITY = 0.75
"""Opacity of the strongest evidence; it falls with the root of the evidence, and is 0 without any."""


def stops() -> list[str]:
    """The colours of a map from no evidence to the most, for the legend: CSS colours."""
    return [f"rgba({red}, {green}, {blue}, {alpha / 255:.2f})" for red, green, blue, alpha in _palette()[:: 255 // 15]]


def heat_uri(heat: NDArray[np.float32]) -> str:
    """A map (S, S) of 0..1 as the data URI of a picture: a few kilobytes, in exactly the legend's colours."""
    picture = Image.fromarray(np.uint8(np.round(np.clip(heat, 0, 1) * 255)))
    picture.putpalette(_palette()[:, :3].tobytes())
    return _png(picture, transparency=_palette()[:, 3].tobytes())


def image_uri(pixels: NDArray[np.uint8]) -> str:
    """An image (C, S, S), grey or RGB, as a data URI."""
    return _png(Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))))


def outline(mask: NDArray[np.bool_]) -> str:
    """Where a mask (S, S) ends, as the path of an SVG: lines along the edges of pixels.

    Example:
        >>> outline(np.array([[False, False], [True, True]]))
        'M0 1h2M0 2h2M0 1v1M2 1v1'
    """
    lines = []
    for step, edges in (("h", _edges(mask)), ("v", _edges(mask.T))):
        for at, start, length in edges:
            lines.append(f"M{start} {at}h{length}" if step == "h" else f"M{at} {start}v{length}")
    return "".join(lines)


def _edges(mask: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Row, first column and length of each line between a row of pixels and the one above where only one is inside."""
    framed = np.pad(mask, 1)
    changes = (framed[1:] != framed[:-1]).astype(np.int8)  # of rows; the outermost columns never change
    steps = np.diff(changes, axis=1)
    starts, ends = np.argwhere(steps == 1), np.argwhere(steps == -1)
    return [(int(row), int(first), int(last - first)) for (row, first), (_, last) in zip(starts, ends, strict=True)]


def _palette() -> NDArray[np.uint8]:
    """RGBA, uint8 (256, 4), of a value from 0 to 1."""
    value = np.linspace(0, 1, 256)
    colours = colormaps[COLOURS](0.3 + 0.7 * value)  # the darkest colours would look like shadow
    colours[:, 3] = OPACITY * np.sqrt(value)
    return np.round(colours * 255).astype(np.uint8)


def _png(picture: Image.Image, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
