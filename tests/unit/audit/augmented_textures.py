"""Random pictures of cells, and augmented copies of them, for tests of the audit."""

import io

import cv2
import numpy as np
from PIL import Image


def texture(seed: int, size: int = 128) -> np.ndarray:
    """A slide with stained cells: uint8 (3, size, size)."""
    generator = np.random.default_rng(seed)
    clouds = cv2.GaussianBlur(generator.normal(0, 1, (size, size)), (0, 0), size / 10)
    image = np.repeat(190 + 25 * clouds[..., None] / clouds.std(), 3, axis=2) - [0, 40, 10]
    for _ in range(90):
        centre = tuple(int(value) for value in generator.integers(0, size, 2))
        axes = tuple(int(value) for value in generator.integers(size // 40, size // 12, 2))
        colour = [float(value) for value in generator.integers(30, 190, 3)]
        cv2.ellipse(image, centre, axes, float(generator.uniform(0, 180)), 0, 360, colour, -1)
    image = cv2.GaussianBlur(image, (0, 0), 0.7) + generator.normal(0, 3, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8).transpose(2, 0, 1)


def augmented(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A copy turned by up to 25 degrees, stretched, zoomed by 1.33 to 1.7 so that no corner is empty, and flipped."""
    size = image.shape[1]
    turn = cv2.getRotationMatrix2D((size / 2 - 0.5,) * 2, generator.uniform(-25, 25), 1.0)
    stretch = np.diag([*generator.uniform(1.33, 1.7, 2), 1.0])
    stretch[:2, 2] = (1 - stretch.diagonal()[:2]) * (size / 2 - 0.5)
    view = cv2.warpAffine(image.transpose(1, 2, 0), (stretch @ np.vstack([turn, [0, 0, 1]]))[:2], (size, size))
    view = view[:: generator.choice([-1, 1]), :: generator.choice([-1, 1])]
    return np.ascontiguousarray(view.transpose(2, 0, 1))


def jpeg(image: np.ndarray, quality: int = 50) -> np.ndarray:
    """An image (C, S, S) after JPEG."""
    stream = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(stream, "JPEG", quality=quality)
    pixels = np.asarray(Image.open(stream))
    return pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """An image (C, S, S) at another size."""
    pixels = Image.fromarray(image.transpose(1, 2, 0).squeeze()).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(pixels).reshape(size, size, -1).transpose(2, 0, 1)
