"""Decoded frames on disk, so that a killed or repeated ingest decodes no image twice.

The cache folder holds a folder for each (root, size, channels, fit), and in it blocks: `pixels.npy` uint8 (n, C, S, S)
and the record `index.json`, which names each image's file by path, size and time of change. A block appears in one
rename. Nothing else is kept, so the folder may be deleted at any time.
"""

import contextlib
import functools
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor
from dataclasses import astuple, dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
from tqdm import tqdm

from medistill.checksums import checksums
from medistill.data.reading.arrays import file_of, read_picture
from medistill.errors import UserError
from medistill.files import atomic, remove, write_array, writing
from medistill.images.errors import ImageError
from medistill.images.frame import Framing, to_frame
from medistill.records.data import BlockRecord

BLOCK = 128
"""Most images per block: a worker holds one block in memory, and a kill loses at most one block of its work."""

_LEAST = 16
"""Fewest images per block, if there are that many."""

_VERSION = 2
"""Part of every key; raise it when `medistill.images` decodes to different pixels."""


@dataclass(frozen=True, slots=True)
class CachedFrame:
    """Where a decoded frame lies, and the size of its upright source image in pixels."""

    block: Path
    row: int
    width: int
    height: int


@dataclass(frozen=True)
class DecodedFrames:
    """The outcome of `decode_all`: every path is in exactly one of the two."""

    places: dict[str, CachedFrame]
    failures: dict[str, str]

    def gather(self, paths: Sequence[str]) -> np.ndarray:
        """Frames of `paths` in that order: uint8 (N, C, S, S)."""
        places = [self.places[path] for path in paths]
        frames: np.ndarray | None = None
        for block in dict.fromkeys(place.block for place in places):
            pixels = np.load(block / "pixels.npy", mmap_mode="r")
            if frames is None:
                frames = np.empty((len(places), *pixels.shape[1:]), np.uint8)
            here = [index for index, place in enumerate(places) if place.block == block]
            frames[here] = pixels[[places[index].row for index in here]]
        if frames is None:
            raise ValueError("no paths to gather")
        return frames


def folder_of(cache: Path, root: Path) -> Path:
    """The cache of one data set among those of many: in a common one, each would remove the other's decoded images."""
    return Path(cache) / hashlib.sha256(str(Path(root).resolve()).encode()).hexdigest()[:16]


def decode_all(
    root: Path,
    paths: Sequence[str],
    cache: Path,
    framing: Framing,
    *,
    workers: int,
    executor: Executor | None = None,
    check: Callable[[dict[str, str]], None] = lambda failures: None,
) -> DecodedFrames:
    """Decode images into the cache, those that are not there yet.

    Args:
        root: folder that `paths` are relative to.
        paths: POSIX paths of the images, in archives as `medistill.data.reading.arrays` has them.
        cache: the cache folder.
        framing: the frames that images become.
        workers: processes that decode; 1 decodes in this one.
        executor: decodes in its workers instead (threads, or processes of this or other machines), which must see
            `root` and `cache` at the same place; it is left open.
        check: called with all failures (path -> reason) after each block; may raise to stop early.

    Raises:
        UserError: a worker process died, or an archive of images is damaged.
    """
    root = Path(root)
    settings = json.dumps([_VERSION, str(root.resolve()), *astuple(framing)])
    folder = Path(cache) / hashlib.sha256(settings.encode()).hexdigest()[:16]
    with writing(folder / "index.json"):
        folder.mkdir(parents=True, exist_ok=True)
    failures: dict[str, str] = {}
    keys = {}
    for path in paths:
        try:
            keys[path] = _key(file_of(root, path), path)
        except OSError as error:
            failures[path] = f"cannot be read: {error.strerror}"
    cached = _read_blocks(folder)
    places = {path: cached[key] for path, key in keys.items() if key in cached}
    missing = [path for path in keys if path not in places]
    # a worker writes what it decodes: pixels do not travel between processes
    decode = functools.partial(_decode_block, folder, root, framing)
    # blocks so small that all workers end at about the same time; for a few images no process is started
    step = min(BLOCK, max(_LEAST, len(missing) // (4 * workers)))
    blocks = [[(path, keys[path]) for path in missing[at : at + step]] for at in range(0, len(missing), step)]
    with (
        _executor(executor, workers if len(blocks) > 1 else 1) as executor,
        tqdm(total=len(keys), initial=len(places), desc="decode", unit="image", disable=None) as bar,
    ):
        try:
            for block, index, bad in (executor.map if executor else map)(decode, blocks):
                for row, (path, width, height) in enumerate(index):
                    places[path] = CachedFrame(block, row, width, height)
                failures |= bad
                bar.update(len(index) + len(bad))
                check(failures)
        except BrokenExecutor:
            raise UserError(
                "a decoding process died, perhaps from lack of memory; lower data.workers and run again"
                " (what was decoded is kept)"
            ) from None
    used = {place.block for place in places.values()}
    for block in {place.block for place in cached.values()} - used:
        remove(block)  # the images were replaced or removed
    return DecodedFrames(places, failures)


def _key(file: Path, path: str) -> str:
    """A key that changes when the file is replaced or written to."""
    status = file.stat()
    return f"{path}:{status.st_size}:{status.st_mtime_ns}"


@contextlib.contextmanager
def _executor(given: Executor | None, workers: int) -> Iterator[Executor | None]:
    if given is not None or workers == 1:
        yield given
        return
    # spawn: a fork of a process with threads (those of numpy, of a test runner) may hang
    executor = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """End this worker when its parent is killed, instead of waiting for work for ever."""

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _decode_block(
    folder: Path, root: Path, framing: Framing, block: Sequence[tuple[str, str]]
) -> tuple[Path, list[tuple[str, int, int]], dict[str, str]]:
    """Decode the images of a block, given as (path, key), and write it.

    Returns:
        The block's folder; path, width and height of each of its rows; and the reason for each image that failed.
    """
    frames = np.empty((len(block), framing.channels, framing.size, framing.size), np.uint8)
    index: list[tuple[str, int, int]] = []
    keys: list[tuple[str, int, int]] = []
    failures: dict[str, str] = {}
    for path, key in block:
        try:
            image = read_picture(root, path)
            frames[len(index)] = to_frame(image, size=framing.size, channels=framing.channels, fit=framing.fit)
        except ImageError as error:
            failures[path] = error.reason
        else:
            index.append((path, *image.size))
            keys.append((key, *image.size))
    name = hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:16]
    if index:
        with atomic(folder / name) as temporary:
            temporary.mkdir()
            write_array(temporary / "pixels.npy", frames[: len(index)])
            files = checksums([temporary / "pixels.npy"], temporary)
            BlockRecord(images=keys, files=files).write(temporary / "index.json")
    return folder / name, index, failures


def _read_blocks(folder: Path) -> dict[str, CachedFrame]:
    """Key -> place of every decoded frame; what a kill left behind or a disk damaged is removed."""
    places: dict[str, CachedFrame] = {}
    for block in sorted(folder.iterdir()):
        try:
            index = BlockRecord.read_whole(block / "index.json").images
        except UserError:
            remove(block)
            continue
        places |= {key: CachedFrame(block, row, width, height) for row, (key, width, height) in enumerate(index)}
    return places
