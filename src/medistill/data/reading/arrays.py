"""Pictures in a NumPy archive (`.npz`), read one at a time.

The path of such a picture is that of its archive with the array and the picture's number behind it:
`chestmnist.npz/train_images/17`. Nothing is unpickled, and a header's sizes are checked against the archive before
memory is allocated. Arrays are compressed as one stream, so reading pictures in order decompresses each array once.
"""

import contextlib
import math
import threading
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from medistill.errors import UserError
from medistill.images.decode import read
from medistill.images.limits import MAX_PIXELS
from medistill.text import error_line, shortened

SUFFIX = ".npz"

_MAX_HEADER = 10_000
"""Characters of an array's header; a genuine header has about a hundred."""

_open = threading.local()
"""The array that this thread reads from, so that the next picture need not begin at the first."""


@dataclass(frozen=True)
class Array:
    """What the header of an array in an archive declares.

    Attributes:
        shape: of the array.
        dtype: of its values, never of objects.
        start: bytes of the header.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    start: int

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return math.prod(self.shape) * self.dtype.itemsize


def find_arrays(archive: Path, names: Iterable[str]) -> dict[str, Array]:
    """The arrays of an archive that have these names.

    Raises:
        UserError: it is not a NumPy archive, or one of the arrays is missing, holds Python objects, is stored column by
            column, or is shorter or longer than its header says.
    """
    with _readable(archive), zipfile.ZipFile(archive) as opened:
        there = {info.filename.removesuffix(".npy"): info for info in opened.infolist()}
        for name in names:
            if name not in there:
                raise UserError(f"{archive}: has no array {name}; it has {shortened(', '.join(sorted(there)), 200)}")
        return {name: _declared(opened, there[name]) for name in names}


def read_array(archive: Path, name: str, array: Array, *, limit: int) -> np.ndarray:
    """A whole array that `find_arrays` has found; `UserError` if it is damaged or has more than `limit` bytes."""
    if array.nbytes > limit:
        raise UserError(f"{archive}: {name} has {array.nbytes:,} bytes; no more than {limit:,} are read")
    with _readable(archive), zipfile.ZipFile(archive) as opened, opened.open(f"{name}.npy") as file:
        return np.frombuffer(file.read(), array.dtype, offset=array.start).reshape(array.shape)


def file_of(root: Path, path: str) -> Path:
    """The file that holds a picture: its archive, or the picture's own file."""
    place = _place(root, path)
    return place[0] if place else root / path


def read_picture(root: Path, path: str) -> Image.Image:
    """Read a picture, in an archive or a file of its own, as `medistill.images.decode.read` does.

    Raises:
        ImageError: a file of its own cannot be decoded.
        UserError: an archive is damaged.
    """
    place = _place(root, path)
    if place is None:
        return read(root / path)
    archive, name, number = place
    with _readable(archive):
        status = archive.stat()
        key = (str(archive), status.st_size, status.st_mtime_ns, name)
        if getattr(_open, "key", None) != key or _open.next > number:
            opened = zipfile.ZipFile(archive)
            _open.array = _declared(opened, opened.getinfo(f"{name}.npy"))
            _open.file = opened.open(f"{name}.npy")
            _skip(_open.file, _open.array.start)
            _open.key, _open.next = key, 0
        shape = _open.array.shape[1:]
        size = math.prod(shape)
        _skip(_open.file, (number - _open.next) * size)
        content = _open.file.read(size)
        _open.next = number + 1
        if _open.next == _open.array.shape[0]:
            _open.file.read(1)  # the end, where the checksum of the whole array is compared
        return Image.fromarray(np.frombuffer(content, np.uint8).reshape(shape))


def is_picture(array: Array) -> bool:
    """Whether an array holds grey or RGB pictures: uint8 (N, H, W) or (N, H, W, 3), none larger than is read."""
    flat = len(array.shape) == 3 or (len(array.shape) == 4 and array.shape[3] == 3)
    return array.dtype == np.uint8 and flat and 0 < math.prod(array.shape[1:3]) <= MAX_PIXELS


@contextlib.contextmanager
def _readable(archive: Path) -> Iterator[None]:
    """Turn the many exceptions that `zipfile`, `zlib` and numpy raise for a damaged archive into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        _open.key = None
        reason = error_line(error, 200)
        raise UserError(f"{archive}: not a readable NumPy archive: {reason}") from None


def _place(root: Path, path: str) -> tuple[Path, str, int] | None:
    """Archive, name of the array and number of a picture; None for one with a file of its own."""
    stem, inside, rest = path.partition(f"{SUFFIX}/")
    archive = root / f"{stem}{SUFFIX}"
    if not inside or not archive.is_file():
        return None
    name, _, number = rest.partition("/")
    return archive, name, int(number)


def _declared(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    with opened.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{info.filename} has the format {version[0]}.{version[1]}")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(file, max_header_size=_MAX_HEADER)
        array = Array(shape, dtype, file.tell())
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds Python objects, which are not read")
    if fortran and len(shape) > 1:
        raise ValueError(f"{info.filename} is stored column by column")
    if min(shape, default=0) < 0 or array.start + array.nbytes != info.file_size:
        raise ValueError(f"{info.filename} has {info.file_size:,} bytes and declares {array.start + array.nbytes:,}")
    return array


def _skip(file: BinaryIO, count: int) -> None:
    while count > 0:
        read = len(file.read(min(count, 1 << 20)))
        if not read:
            raise EOFError("it ends too early")
        count -= read
