"""Heat maps over the images that they are of, without matplotlib."""

import re
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from medistill.errors import UserError
from medistill.files import atomic, writing
from medistill.runtime.bundle import DISCLAIMER, Bundle, CalledAt
from medistill.runtime.predictor import NO_MAPS, Prediction

LEAST = 384
"""Pixels of a picture's sides at least."""

OPACITY = 0.65
"""Of the largest value; others are less opaque by their square root, and zero shows the image alone."""

_LONGEST = 200
"""Bytes of a file's name, before its number and suffix."""

_STOPS = np.linspace(0, 1, 5)
_COLOURS = np.array([[84, 15, 109], [170, 47, 95], [226, 92, 53], [249, 160, 27], [252, 235, 120]], np.float64)
"""From little to much: each brighter than the one before, so that the order is seen without colours, too."""


def overlay(frame: NDArray[np.uint8], values: NDArray[np.floating], scale: float) -> Image.Image:
    """An image with a map over it, the frame magnified by a whole number to `LEAST` pixels or more.

    Args:
        frame: (C, S, S), the image as the model sees it.
        values: (h, w), ≥ 0, as the model gives them.
        scale: the value that is shown as the largest; what is above looks the same. 0: there is no evidence.
    """
    size = frame.shape[1] * -(-LEAST // frame.shape[1])
    colour = np.ascontiguousarray(np.broadcast_to(frame, (3, *frame.shape[1:])).transpose(1, 2, 0))
    picture = Image.fromarray(colour).resize((size, size), Image.Resampling.BICUBIC)
    share = np.clip(values / scale, 0, 1) if scale > 0 else np.zeros_like(values)
    smooth = Image.fromarray(share.astype(np.float32)).resize((size, size), Image.Resampling.BILINEAR)
    level = np.clip(np.asarray(smooth), 0, 1)
    tint = np.stack([np.interp(level, _STOPS, channel) for channel in _COLOURS.T], axis=-1)
    opacity = OPACITY * np.sqrt(level)[..., None]
    mixed = (1 - opacity) * np.asarray(picture, np.float64) + opacity * tint
    return Image.fromarray(np.round(mixed).astype(np.uint8))


class HeatMaps:
    """A folder of heat maps: one PNG file for each label that is called on an image.

    A label that is not called has none, so that no map speaks of what the model does not. All maps of a label have one
    scale, from 0 to the largest value on some validation images: a faint map means little evidence.
    """

    def __init__(self, folder: Path, bundle: Bundle, point: CalledAt) -> None:
        """Make the folder.

        Args:
            folder: where files are written; older ones of the same name are replaced.
            bundle: of the model.
            point: what is called.

        Raises:
            UserError: the model gives no maps, or the folder cannot be made.
        """
        if not bundle.map_scale:
            raise UserError(f"{bundle.model}: {NO_MAPS}")
        self._folder, self._bundle, self._point = folder, bundle, point
        self._written: set[str] = set()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def write(self, prediction: Prediction) -> list[Path]:
        """Write the maps of one image; none of one that could not be read.

        Raises:
            UserError: a file cannot be written.
        """
        return [
            self._write(prediction, label, probability)
            for label, probability in (prediction.probabilities or {}).items()
            if self._point.calls(label, probability)
        ]

    def _write(self, prediction: Prediction, label: str, probability: float) -> Path:
        assert prediction.frame is not None  # maps were asked for
        assert prediction.maps is not None
        plain = re.sub(r"[^\w.-]+", "_", f"{prediction.image.stem}-{label}").lstrip(".")
        stem = plain.encode()[:_LONGEST].decode(errors="ignore")
        names = (stem if k == 1 else f"{stem}-{k}" for k in count(1))  # images of two folders may have one name
        name = next(name for name in names if name not in self._written)
        self._written.add(name)
        picture = overlay(prediction.frame, prediction.maps[label], self._bundle.map_scale[label])
        notes = PngImagePlugin.PngInfo()
        about = f"{label}, probability {probability:.3f}, called at {self._point}, {self._bundle.name}"
        notes.add_itxt("Description", f"{about}. {DISCLAIMER}")
        path = self._folder / f"{name}.png"
        with atomic(path) as temporary, open(temporary, "wb") as opened:
            picture.save(opened, format="PNG", pnginfo=notes)
        return path
