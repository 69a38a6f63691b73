"""Augmented views of images as a pure function of image id, view number and seed.

Because a view does not depend on batch, epoch or process, teachers can answer views before a student exists, and
student and teacher still see the same pixels ("a good teacher is patient and consistent", Beyer et al., 2106.05237).
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from medistill.augmentation import Augmentation
from medistill.data.dataset import Dataset, FrameReader
from medistill.models.classifier import resize

Item = TypeVar("Item")
Read = TypeVar("Read")

_PARAMETERS = 7  # rotation, translation x, translation y, scale, brightness, contrast, flip


def view_parameters(image_ids: Sequence[str], view: int, seed: int, augmentation: Augmentation) -> np.ndarray:
    """Parameters of one view of each image: float32 (N, 7).

    Columns: rotation (radians), translation x and y (shares of the frame), zoom factor, brightness offset, contrast
    factor, flip (1 or 0). Each is uniform in the range that `augmentation` states.
    """
    uniform = np.empty((len(image_ids), 8))
    for i, image_id in enumerate(image_ids):
        digest = hashlib.blake2b(f"{seed}\0{view}\0{image_id}".encode()).digest()
        uniform[i] = np.frombuffer(digest, "<u8") / 2.0**64
    centred = 2 * uniform[:, :_PARAMETERS] - 1
    rotation = np.deg2rad(augmentation.rotation)
    spread = (
        rotation,
        augmentation.translation,
        augmentation.translation,
        augmentation.scale,
        augmentation.brightness,
        augmentation.contrast,
    )
    out = np.empty((len(image_ids), _PARAMETERS), np.float32)
    out[:, :6] = centred[:, :6] * spread
    out[:, 3] += 1
    out[:, 5] += 1
    out[:, 6] = augmentation.flip & (centred[:, 6] < 0)
    return out


def open_frames(dataset: Dataset, rows: pd.DataFrame, size: int | None) -> Callable[[np.ndarray], Tensor]:
    """Frames of `rows` at the size that a network sees, before any view is drawn.

    A view of small frames is the same crop as that of large ones, at a fraction of the memory and time: frames
    are resized once and kept in memory. Frames that need no resizing stay in their memory-mapped shards.

    Args:
        dataset: of the frames.
        rows: of the manifest.
        size: height and width; None or larger than the frames: they are not resized.

    Returns:
        A function from places in `rows` (n,) to uint8 (n, C, s, s).
    """
    if _as_they_are(dataset, size):
        frames = FrameReader(dataset, rows)
        return lambda chosen: torch.from_numpy(frames[chosen])
    small = read_frames(dataset, rows, size)
    return lambda chosen: small[chosen]


def read_frames(dataset: Dataset, rows: pd.DataFrame, size: int | None) -> Tensor:
    """Frames of `rows`, none larger than the size that a network sees: uint8 (N, C, s, s); None: as they are."""
    if size is None or _as_they_are(dataset, size):
        return torch.from_numpy(dataset.images(rows))
    out = torch.empty(len(rows), dataset.channels, size, size, dtype=torch.uint8)
    for start in range(0, len(rows), 256):  # the large ones never lie in memory all at once
        frames = torch.from_numpy(dataset.images(rows.iloc[start : start + 256])).float()
        out[start : start + 256] = resize(frames, size).round().clamp(0, 255).byte()
    return out


def send(values: Tensor, device: torch.device) -> Tensor:
    """`values` on `device`. The copy to a GPU is asynchronous, which needs pinned memory."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def read_ahead(read: Callable[[Item], Read], items: Iterable[Item]) -> Iterator[Read]:
    """As `map(read, items)`, but the next item is read while the last one is in use."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        coming: deque[Future[Read]] = deque()
        for item in items:
            coming.append(reader.submit(read, item))
            if len(coming) == 2:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


def _as_they_are(dataset: Dataset, size: int | None) -> bool:
    """What a network enlarges by itself would only take memory here."""
    return size is None or size >= dataset.image_size


def render_views(images: Tensor, parameters: Tensor) -> Tensor:
    """Images as the network sees them in a view: float32 (N, C, H, W), 0..1 before brightness and contrast.

    Values that these two push out of 0..1 are not clipped: clipping would erase findings in the brightest and darkest
    parts, such as a hernia behind the heart.

    Args:
        images: uint8 (N, C, H, W).
        parameters: float32 (N, 7) of `view_parameters`. Pixels from outside of the frame are black.
    """
    rotation, x, y, zoom, brightness, contrast, flip = parameters.unbind(1)
    cos, sin, mirror = torch.cos(rotation) / zoom, torch.sin(rotation) / zoom, 1 - 2 * flip
    # Rows of the matrix that takes a place in the view to its place in the image, both in -1..1.
    first = torch.stack([cos * mirror, -sin, 2 * x], dim=1)
    second = torch.stack([sin * mirror, cos, 2 * y], dim=1)
    grid = F.affine_grid(torch.stack([first, second], dim=1), list(images.shape), align_corners=False)
    pixels = F.grid_sample(render_plain(images), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (pixels - 0.5) * contrast.view(-1, 1, 1, 1) + 0.5 + brightness.view(-1, 1, 1, 1)


def render_plain(images: Tensor) -> Tensor:
    """Images without augmentation, as in evaluation: float32 (N, C, H, W) in 0..1."""
    return images.float() / 255
