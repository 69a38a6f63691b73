"""Images of other kinds: drawn ones, and those of folders that the user names."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage

from medistill.data.reading.folders import find_files, list_images, require_folder
from medistill.errors import UserError
from medistill.images.decode import decode
from medistill.images.errors import ImageError
from medistill.images.frame import Framing
from medistill.stress.shifts import Frames, generator_of
from medistill.text import by_hash

DRAWN_IMAGES = 50
"""Images of each kind that is drawn."""

_LUMA = np.array([0.299, 0.587, 0.114])


def _static(size: int, generator: np.random.Generator) -> np.ndarray:
    """Every pixel at random."""
    return generator.uniform(size=(3, size, size))


def _tile(size: int, generator: np.random.Generator) -> np.ndarray:
    """Dark nuclei on a pale ground with strands, in the colours of haematoxylin and eosin."""
    ground, strand, nucleus = np.array([(0.95, 0.82, 0.90), (0.85, 0.55, 0.72), (0.36, 0.22, 0.52)])[..., None, None]
    tile = np.where(_smooth(size, 0.03, generator) > 0.3, strand, ground)
    tile = np.where(_smooth(size, 0.012, generator) > 1.3, nucleus, tile)
    noise = generator.normal(0, 0.03, tile.shape)
    stained: np.ndarray = tile + noise
    return stained


def _photograph(size: int, generator: np.random.Generator) -> np.ndarray:
    """The spectrum of natural scenes, whose amplitude falls with the frequency (Field, JOSA A 1987), with edges."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = np.inf
    tints = generator.uniform(0.6, 1.0, (3, 1, 1))
    phases = np.exp(2j * np.pi * generator.uniform(size=frequency.shape))
    scene = np.fft.irfft2(phases / frequency, s=(size, size))
    scene = (scene - scene.min()) / np.ptp(scene)
    edge = _smooth(size, 0.1, generator) > 0  # something that stands before the rest
    photograph: np.ndarray = np.where(edge, scene, 1 - scene)[None] * tints
    return photograph


def _smooth(size: int, width: float, generator: np.random.Generator) -> np.ndarray:
    """Noise of a width, with mean 0 and deviation 1."""
    noise = ndimage.gaussian_filter(generator.normal(size=(size, size)), width * size, mode="wrap")
    smooth: np.ndarray = (noise - noise.mean()) / noise.std()
    return smooth


DRAWN: dict[str, tuple[str, Callable[[int, np.random.Generator], np.ndarray]]] = {
    "static": ("drawn: every pixel at random", _static),
    "tile": ("drawn, like a slice of tissue under a microscope", _tile),
    "photograph": ("drawn, with the spectrum of natural scenes", _photograph),
}
"""Kinds that are drawn, by name: what they are, and a function of size and generator to (3, S, S) in about 0..1."""


def draw_pictures(kind: str, framing: Framing, count: int = DRAWN_IMAGES) -> Frames:
    """Images of a kind of `DRAWN`: uint8 (count, C, S, S), always the same."""
    _, picture = DRAWN[kind]
    drawn = np.stack([picture(framing.size, generator_of(f"{kind}\0{k}")) for k in range(count)])
    if framing.channels == 1:
        drawn = np.tensordot(drawn, _LUMA, (1, 0))[:, None]
    pixels: Frames = np.rint(255 * drawn).clip(0, 255).astype(np.uint8)
    return pixels


def read_folder(folder: Path, key: str, framing: Framing, most: int) -> Frames:
    """Images of a folder and below it, at most so many, chosen by a hash of their paths: uint8 (N, C, S, S).

    Files that are no readable images are left out.

    Args:
        folder: of images of any format that ingest reads.
        key: of params.yaml that names it.
        framing: of the data set.
        most: N at most.

    Raises:
        UserError: there is no such folder, or no image in it can be read.
    """
    wanted = f"set {key} to a folder of images"
    images, _ = list_images(find_files(require_folder(folder, wanted), ["."], recursive=True))
    frames = []
    for path in by_hash(images.values()):
        try:
            frames.append(decode(folder / path, size=framing.size, channels=framing.channels, fit=framing.fit))
        except ImageError:
            continue
        if len(frames) == most:
            break
    if not frames:
        raise UserError(f"{folder}: no image in it can be read; {wanted}")
    return np.stack(frames)
