"""Decoded frames on disk, so that a killed or repeated ingest decodes no image twice.

The cache folder holds a folder for each (root, size, channels, fit), and in it blocks: `pixels.npy` uint8 (n, C, S, S)
and `index.json`, which names each image's file by path, size and time of change. A block appears in one rename.
Nothing else is kept, so the folder may be deleted at any time.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
from tqdm import tqdm

from medistill.errors import UserError
from medistill.files import atomic, write_json
from medistill.images import Fit, ImageError, read, to_frame

BLOCK = 1024
"""Images a block: what is in memory at once, and what a kill can lose."""

_CHUNK = 16
"""Images a task of the pool: large enough that the transport costs nothing."""

_VERSION = 1
"""Part of every key; raise it when `medistill.images` starts to give other pixels."""


@dataclass(frozen=True)
class Place:
    """Where a decoded frame lies, and the size of its upright source image in pixels."""

    block: Path
    row: int
    width: int
    height: int


@dataclass(frozen=True)
class Frames:
    """The outcome of `decode_all`: every path is in exactly one of the two."""

    places: dict[str, Place]
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


def decode_all(
    root: Path,
    paths: Sequence[str],
    cache: Path,
    *,
    size: int,
    channels: int,
    fit: Fit,
    workers: int,
    executor: Executor | None = None,
    check: Callable[[dict[str, str]], None] = lambda failures: None,
) -> Frames:
    """Decode images into the cache, those that are not there yet.

    Args:
        root: folder that `paths` are relative to.
        paths: POSIX paths of the images.
        cache: the cache folder.
        size: height and width of the frames in pixels.
        channels: 1 or 3.
        fit: how an image becomes square.
        workers: processes that decode; 1 decodes in this one.
        executor: decodes in its workers instead, which must see the same folders, and is left open.
        check: is shown all failures (path -> reason) after each block, and may raise to stop early.

    Raises:
        UserError: a worker process died.
    """
    root = Path(root)
    settings = json.dumps([_VERSION, str(root.resolve()), size, channels, fit])
    folder = Path(cache) / hashlib.sha256(settings.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    failures: dict[str, str] = {}
    keys = {}
    for path in paths:
        try:
            keys[path] = _key(root / path, path)
        except OSError as error:
            failures[path] = f"cannot be read: {error.strerror}"
    cached = _read_blocks(folder, (channels, size, size))
    places = {path: cached[key] for path, key in keys.items() if key in cached}
    missing = [path for path in keys if path not in places]
    decode = functools.partial(_decode_chunk, root, size=size, channels=channels, fit=fit)
    with (
        _executor(executor, workers if len(missing) > _CHUNK else 1) as executor,
        tqdm(total=len(keys), initial=len(places), desc="decode", unit="image", disable=None) as bar,
    ):
        for start in range(0, len(missing), BLOCK):  # block by block bounds what waits in memory
            block = missing[start : start + BLOCK]
            frames, index = np.empty((len(block), channels, size, size), np.uint8), []
            try:
                chunks = [block[first : first + _CHUNK] for first in range(0, len(block), _CHUNK)]
                for outcome in (executor.map if executor else map)(decode, chunks):
                    for path, frame, detail in outcome:
                        if frame is None:
                            failures[path] = detail
                        else:
                            frames[len(index)] = frame
                            index.append([path, keys[path], *detail])
                    bar.update(len(outcome))
            except BrokenProcessPool:
                raise UserError(
                    "a decoding process died, perhaps for want of memory: set data.workers lower and run again"
                    " (what was decoded is kept)"
                ) from None
            if index:
                written = _write_block(folder, frames[: len(index)], [entry[1:] for entry in index])
                for row, (path, _, width, height) in enumerate(index):
                    places[path] = Place(written, row, width, height)
            check(failures)
    used = {place.block for place in places.values()}
    for block in {place.block for place in cached.values()} - used:
        shutil.rmtree(block)  # the images were replaced or removed
    return Frames(places, failures)


def _key(file: Path, path: str) -> str:
    """Changes when the file is replaced or written to."""
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
    """End this worker when its parent is killed: it would wait for work for ever."""

    def watch() -> None:
        parent = parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _decode_chunk(
    root: Path, paths: Sequence[str], *, size: int, channels: int, fit: Fit
) -> list[tuple[str, np.ndarray, tuple[int, int]] | tuple[str, None, str]]:
    """Per path its frame and the size of its source, or None and the reason."""
    outcome: list = []
    for path in paths:
        try:
            image = read(root / path)
            outcome.append((path, to_frame(image, size=size, channels=channels, fit=fit), image.size))
        except ImageError as error:
            outcome.append((path, None, error.reason))
    return outcome


def _write_block(folder: Path, frames: np.ndarray, index: list[list]) -> Path:
    name = hashlib.sha256(json.dumps(index).encode()).hexdigest()[:16]
    with atomic(folder / name) as temporary:
        temporary.mkdir()
        np.save(temporary / "pixels.npy", frames)
        write_json(temporary / "index.json", index)
    return folder / name


def _read_blocks(folder: Path, shape: tuple[int, int, int]) -> dict[str, Place]:
    """Key -> place of every decoded frame; what a kill left behind or a disk damaged is removed."""
    places = {}
    for block in sorted(folder.iterdir()):
        try:
            index = json.loads((block / "index.json").read_text(encoding="utf-8"))
            pixels = np.load(block / "pixels.npy", mmap_mode="r")
            if pixels.shape != (len(index), *shape) or pixels.dtype != np.uint8:
                raise ValueError("pixels and index differ")
            places |= {key: Place(block, row, width, height) for row, (key, width, height) in enumerate(index)}
        except (OSError, ValueError, TypeError):
            shutil.rmtree(block) if block.is_dir() else os.unlink(block)
    return places
