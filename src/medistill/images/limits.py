"""How large a picture may be, and how many rows are processed at once."""

import math
from collections.abc import Iterator

from medistill.images.errors import Refused

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: a small file can unpack to more than the memory holds."""

LARGEST_SIZE = 4096
"""Largest height and width of a frame in pixels: its memory is allocated before an image is read."""

MAX_BYTES = 1_000_000_000
"""Images whose decoding takes more memory than this are refused first: a device has little memory."""


def require_size(width: int, height: int, needed: float, memory: float = math.inf) -> None:
    """Refuse an image of more pixels than `MAX_PIXELS`, or that needs more bytes than `MAX_BYTES` or `memory`."""
    size = f"{width}x{height} pixels"
    if width * height > MAX_PIXELS:
        raise Refused(too_large(size))
    if needed > MAX_BYTES:
        raise Refused(f"{size} take {needed / 1e9:.2f} GB to decode; the limit is {MAX_BYTES / 1e9:g} GB")
    if needed > memory:
        raise Refused(f"{size} take {needed / 1e9:.2f} GB to decode, but only {memory / 1e9:.2f} GB of memory are free")


def too_large(what: str) -> str:
    """Why an image with more than `MAX_PIXELS` is refused."""
    return f"{what} exceeds the limit of {MAX_PIXELS // 1_000_000} million pixels"


def strips(shape: tuple[int, ...]) -> Iterator[slice]:
    """Rows of an image (H, W, ...), some hundred thousand pixels at a time, to keep intermediate results small."""
    step = max(1, 2**18 // shape[1])
    for top in range(0, shape[0], step):
        yield slice(top, min(top + step, shape[0]))
