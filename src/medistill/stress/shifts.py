"""Changes of an image that another scanner, archive or hand might make, at fixed strengths.

Each is a function of the frame that a network is given, before its normalisation. What is random about it is drawn from
the image's id, so that every model sees the same pixels in every run.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Frames = NDArray[np.uint8]
"""One frame (C, S, S), C 1 or 3, or several (N, C, S, S)."""

BRIGHTER, DARKER = 0.67, 1.5
NOISE = 0.05
QUALITY = 15
BLUR = 0.01
COLLIMATION = (0.04, 0.12)
DEGREES = 10.0


@dataclass(frozen=True)
class Change:
    """A change of a frame.

    Attributes:
        name: in files.
        what: what it does and how strongly, for people.
        apply: from a frame (C, S, S) and a generator of random numbers to the changed frame of the same shape.
    """

    name: str
    what: str
    apply: Callable[[Frames, np.random.Generator], Frames]

    def of(self, image_ids: Sequence[str], frames: Frames) -> Frames:
        """Changed frames (N, C, S, S) of images (N,)."""
        pairs = zip(image_ids, frames, strict=True)
        return np.stack([self.apply(frame, generator_of(f"{self.name}\0{image_id}")) for image_id, frame in pairs])


def generator_of(name: str) -> np.random.Generator:
    """Random numbers that depend on a name alone."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]))


def _rounded(values: NDArray[np.floating]) -> Frames:
    rounded: Frames = np.rint(values).clip(0, 255).astype(np.uint8)
    return rounded


def _picture(frame: Frames) -> Image.Image:
    return Image.fromarray(frame[0] if len(frame) == 1 else np.ascontiguousarray(frame.transpose(1, 2, 0)))


def _pixels(image: Image.Image, channels: int) -> Frames:
    size = (image.height, image.width, channels)
    return np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(size).transpose(2, 0, 1)


def _powered(exponent: float) -> Callable[[Frames, np.random.Generator], Frames]:
    table = _rounded(255 * (np.arange(256) / 255) ** exponent)
    return lambda frame, generator: table[frame]


def _noisy(frame: Frames, generator: np.random.Generator) -> Frames:
    return _rounded(frame + generator.normal(0, 255 * NOISE, (1, *frame.shape[1:])))  # the same in all channels


def _compressed(frame: Frames, generator: np.random.Generator) -> Frames:
    file = io.BytesIO()
    _picture(frame).save(file, "JPEG", quality=QUALITY)
    return _pixels(Image.open(file), len(frame))


def _blurred(frame: Frames, generator: np.random.Generator) -> Frames:
    width = BLUR * frame.shape[-1]
    return _rounded(ndimage.gaussian_filter(frame.astype(np.float32), (0, width, width), mode="nearest"))


def _collimated(frame: Frames, generator: np.random.Generator) -> Frames:
    size = frame.shape[-1]
    top, bottom, left, right = np.rint(generator.uniform(*COLLIMATION, 4) * size).astype(int)
    inside = np.zeros_like(frame)
    inside[:, top : size - bottom, left : size - right] = frame[:, top : size - bottom, left : size - right]
    return inside


def _rotated(frame: Frames, generator: np.random.Generator) -> Frames:
    degrees = DEGREES if generator.random() < 0.5 else -DEGREES
    return _pixels(_picture(frame).rotate(degrees, Image.Resampling.BILINEAR), len(frame))


def _inverted(frame: Frames, generator: np.random.Generator) -> Frames:
    return 255 - frame


def _mirrored(frame: Frames, generator: np.random.Generator) -> Frames:
    return frame[:, :, ::-1]


def _turned(frame: Frames, generator: np.random.Generator) -> Frames:
    return np.rot90(frame, axes=(1, 2))


INVERSION = "inversion"

SHIFTS: tuple[Change, ...] = (
    Change("brighter", f"greys of 0 to 1 to the power of {BRIGHTER} (gamma)", _powered(BRIGHTER)),
    Change("darker", f"greys of 0 to 1 to the power of {DARKER}", _powered(DARKER)),
    Change("noise", f"normal noise, standard deviation {100 * NOISE:.0f} % of the range of greys", _noisy),
    Change("jpeg", f"JPEG at quality {QUALITY}", _compressed),
    Change("blur", f"Gaussian blur, standard deviation {100 * BLUR:.0f} % of the width", _blurred),
    Change(
        "collimation",
        f"each side black for {100 * COLLIMATION[0]:.0f} to {100 * COLLIMATION[1]:.0f} % of the frame, drawn by image",
        _collimated,
    ),
    Change("rotation", f"{DEGREES:.0f}° to the left or to the right, drawn by image; corners black", _rotated),
    Change(INVERSION, "the negative: white becomes black", _inverted),
)
"""Under which quality is measured. Strengths were fixed before any model was measured."""

MIRRORED = Change("mirrored", "test images, left and right exchanged", _mirrored)

MADE: tuple[Change, ...] = (
    MIRRORED,
    Change("turned", "test images, turned by 90°", _turned),
)
"""Further changes, after which an image is one of another kind."""
