"""Images without labels from a folder of their own (`data.unlabelled`), which train beside those of the data set."""

import hashlib
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import pandas as pd

from medistill.data.adapters import patient_of
from medistill.data.cache import DecodedFrames, decode_all
from medistill.data.quarantine import list_left_out
from medistill.data.reading.folders import compose, find_files, list_images, require_folder
from medistill.data.reading.source import Source
from medistill.data.settings import Data
from medistill.data.splits import GROUPS_FILE, LISTED, read_groups
from medistill.errors import UserError
from medistill.images.frame import Framing
from medistill.layout import HERE
from medistill.records.data import UNLABELLED, UnlabelledFolder
from medistill.text import pluralise, printable

Found = TypeVar("Found")

_BATCH = 1024  # frames in memory at a time

_WANTED = "set data.unlabelled to a folder of images, or to an empty one"


@dataclass(frozen=True)
class Unlabelled:
    """The images of the folder before any is decoded.

    Attributes:
        rows: str columns `image_id` and `path`, which are the same (`UNLABELLED` and the path within the folder), and
            `patient_id`, null where the file's name does not tell.
        quarantined: `(path, reason)` of files that cannot be read.
    """

    rows: pd.DataFrame
    quarantined: list[tuple[str, str]]


def read_unlabelled(data: Data) -> Unlabelled:
    """The images in the folder and below it, in any arrangement; none where there is no folder or it is empty.

    Raises:
        UserError: a folder other than the usual one is missing, or the folder cannot be read, has files but no images,
            has masks among them, or lies in the data set's folder or around it.
    """
    columns = ["image_id", "path", "patient_id"]
    if data.unlabelled is None or (data.unlabelled == HERE.unlabelled and not data.unlabelled.exists()):
        return Unlabelled(pd.DataFrame(columns=columns, dtype="str"), [])
    folder = require_folder(data.unlabelled, _WANTED)
    try:
        files = find_files(folder, ["."], recursive=True)
        images, refused = list_images(files)
    except UserError as error:  # readers of folders name the key of the data set's
        raise UserError(str(error).replace("data.root", "data.unlabelled")) from None
    if not images and not refused:
        others = sorted(path for path in files.usable.values() if not path.startswith((".", "README")))
        if others:
            raise UserError(
                f"{folder}: no image is in it, but {pluralise(len(others), 'file')}, {others[0]}; {_WANTED}"
            )
        return Unlabelled(pd.DataFrame(columns=columns, dtype="str"), [])
    here, root = folder.resolve(), data.root.resolve()
    if here.is_relative_to(root) or root.is_relative_to(here):
        raise UserError(
            f"{folder}: data.unlabelled lies in data.root or around it, so files are read twice; move it out"
        )
    named = [(UNLABELLED + path, UNLABELLED + path, patient_of(data.format, path)) for path in images.values()]
    return Unlabelled(
        pd.DataFrame(named, columns=columns, dtype="str"), [(UNLABELLED + path, reason) for path, reason in refused]
    )


def join(rows: pd.DataFrame, extra: pd.DataFrame, source: Source, data: Data, cache: Path) -> pd.DataFrame:
    """Rows of the data set and, in the train split, of `data.unlabelled`.

    Raises:
        UserError: an image is of a group in val or test; or the data set has augmented copies, and groups.csv does not
            name an image.
    """
    file = data.splits / GROUPS_FILE
    listed = read_groups(file) if file.is_file() else pd.Series(dtype="str")
    missing = extra["path"][~extra["path"].map(compose).isin(listed.index)]
    if source.copies and len(missing):
        raise UserError(
            f"{file}: {len(missing)} images of data.unlabelled are not in it, the first {missing.iloc[0]}; name their"
            " groups, as they may be augmented copies of test images"
        )
    extra, held_out = join_groups(extra, rows, listed)
    if held_out:
        _refuse(held_out, "of patients or groups in val or test", ", or rename those of other patients", data, cache)
    return pd.concat([rows, extra], ignore_index=True)


def leave_out_copies(rows: pd.DataFrame, frames: DecodedFrames, data: Data, cache: Path) -> tuple[pd.DataFrame, int]:
    """Rows without extra images whose pixels train already, and how many these were.

    Raises:
        UserError: the pixels of an extra image are in val or test.
    """
    hashes: list[str] = []
    for start in range(0, len(rows), _BATCH):
        pixels = frames.gather(rows["path"].iloc[start : start + _BATCH].tolist())
        hashes += [hashlib.sha256(frame.tobytes()).hexdigest() for frame in pixels]
    held_out, again = find_copies(rows, pd.Series(hashes, index=rows.index, dtype="str"))
    if held_out:
        _refuse(held_out, "of val or test, pixel for pixel", "", data, cache)
    return rows[~again].reset_index(drop=True), int(again.sum())


def _refuse(held_out: list[tuple[str, str]], what: str, advice: str, data: Data, cache: Path) -> None:
    """Refuse extra images that must not train."""
    images = pluralise(len(held_out), "image")
    listing = list_left_out(held_out, cache)
    raise UserError(f"{data.unlabelled}: holds {images} {what}; remove these files from the folder{advice}; {listing}")


def decode_both(
    rows: pd.DataFrame,
    data: Data,
    cache: Path,
    executor: Executor | None,
    check: Callable[[dict[str, str]], None],
) -> DecodedFrames:
    """Frames of all images, those of `data.unlabelled` by their paths with the prefix."""
    framing = Framing(data.image_size, data.channels, data.fit)
    decode = partial(decode_all, framing=framing, workers=data.workers, executor=executor)
    extra = rows["path"].str.startswith(UNLABELLED)
    frames = decode(data.root, rows["path"][~extra].tolist(), cache, check=check)
    if data.unlabelled is None or not extra.any():
        return frames
    others = decode(
        data.unlabelled,
        rows["path"][extra].str.removeprefix(UNLABELLED).tolist(),
        cache / "unlabelled",
        check=lambda failures: check(frames.failures | _prefixed(failures)),
    )
    return DecodedFrames(frames.places | _prefixed(others.places), frames.failures | _prefixed(others.failures))


def _prefixed(found: dict[str, Found]) -> dict[str, Found]:
    return {UNLABELLED + path: value for path, value in found.items()}


def summarise(manifest: pd.DataFrame, copies: int, data: Data) -> UnlabelledFolder:
    """What came from the folder; `copies` of training images were left out."""
    images = int(manifest["path"].str.startswith(UNLABELLED).sum())
    if data.unlabelled is None or images + copies == 0:
        return UnlabelledFolder()
    return UnlabelledFolder(folder=printable(data.unlabelled.resolve().name), images=images, copies=copies)


def describe(found: UnlabelledFolder) -> list[str]:
    """A note for the user, where there are images."""
    if not found.folder:
        return []
    copies = f"; left out: {found.copies:,} with the pixels of another training image" if found.copies else ""
    return [
        f"{pluralise(found.images, 'image')} of data.unlabelled ({found.folder}) in the train split; only recipes with"
        f" unlabelled: true train on them{copies}"
    ]


def join_groups(
    extra: pd.DataFrame, rows: pd.DataFrame, listed: pd.Series
) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """The group of each extra image, and the images that must not train since their group is in val or test.

    An image is in the group that groups.csv names, else in that of its patient, else it is a group of its own.

    Args:
        extra: `Unlabelled.rows`.
        rows: those of the data set: `path`, `group_id`, `patient_id` and `split`.
        listed: group by path, as `splits.read_groups` gives it.

    Returns:
        `extra` with `group_id` and `split`, which is train; and (path, reason) of the images that must not train.
    """
    names = extra["path"].map(compose).map(listed).astype("str")
    by_name = _first(rows["path"].map(compose).map(listed), rows["group_id"])
    by_patient = _first(rows["patient_id"], rows["group_id"])
    split_of = _first(rows["group_id"], rows["split"])
    group = pd.Series(None, index=extra.index, dtype="str")
    held_out: dict[str, str] = {}
    for own, groups, what in ((names, by_name, "listed in groups.csv with"), (extra["patient_id"], by_patient, "of")):
        joined = own.map(groups).astype("str")
        split = joined.map(split_of)
        for path, its, where in zip(extra["path"], joined, split, strict=True):
            if where in ("val", "test"):
                held_out.setdefault(path, f"is {what} the group (patient) {its}, which is in the {where} split")
        group = group.fillna(joined)
    group = group.fillna(LISTED + names).fillna(extra["patient_id"]).fillna(extra["image_id"])
    return extra.assign(group_id=group.astype("str"), split="train"), list(held_out.items())


def find_copies(rows: pd.DataFrame, pixels: pd.Series) -> tuple[list[tuple[str, str]], pd.Series]:
    """Extra images that are the same as others, pixel for pixel.

    Args:
        rows: all images, `path` and `split`.
        pixels: str (N,), a hash of each frame, same index.

    Returns:
        (path, reason) of those that are in val or test; and, bool (N,), which are in train already: an image of the
        data set or an earlier extra one.
    """
    extra = rows["path"].str.startswith(UNLABELLED)
    held_out = rows["split"].isin(["val", "test"])
    places = (rows["path"] + " of the " + rows["split"] + " split")[held_out]
    same = pixels[extra].map(_first(pixels[held_out], places)).dropna()
    # those of the data set first, so that of two copies the labelled one stays
    again = pd.concat([pixels[~extra], pixels[extra]]).duplicated().sort_index()
    found = zip(rows["path"][same.index], same, strict=True)
    return [(path, f"is the same as {place}") for path, place in found], extra & again


def _first(keys: pd.Series, values: pd.Series) -> pd.Series:
    """The first value of each key that is known."""
    table = pd.Series(values.to_numpy(), index=pd.Index(keys, dtype="str"), dtype="str")
    return table[table.index.notna() & ~table.index.duplicated()]
