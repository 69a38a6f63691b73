"""From a data set as its owner ships it to the one folder that every later stage reads."""

import hashlib
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd

from medistill.data import splits, unlabelled
from medistill.data.adapters import read_source
from medistill.data.cache import DecodedFrames, decode_all
from medistill.data.dataset import count_labels
from medistill.data.quarantine import list_left_out, require_few, write_quarantine
from medistill.data.reading.boxes import outside
from medistill.data.reading.folders import compose
from medistill.data.reading.source import DETAILS, Source
from medistill.data.settings import Data
from medistill.errors import UserError
from medistill.files import atomic, locked, write_array
from medistill.images.frame import Framing, fit_boxes
from medistill.layout import DataFolder
from medistill.records.data import (
    BOX_COLUMNS,
    BOX_NUMBERS,
    LABEL_PREFIX,
    MANIFEST_COLUMNS,
    SPLITS,
    DatasetInfo,
    Origin,
    SplitCounts,
)
from medistill.text import pluralise

SHARD = 1024
"""Images per shard, `images-*.npy`."""

_MASKS = {"mask": "masks", "lungs": "lungs"}
"""Columns with the paths of masks, and the folder of the cache for each."""

_FIND = "find them by `medistill check {root} --format {format} --write-splits {splits}`"


def ingest(
    data: Data,
    out: Path,
    cache: Path,
    *,
    executor: Executor | None = None,
    source: Source | None = None,
    allow_empty_splits: bool = False,
) -> DatasetInfo:
    """Read, split, decode and write a data set.

    Every entry of the source ends in the manifest or in the quarantine. `out` is written whole or not at all, and is
    the same byte for byte for the same source and settings.

    Args:
        data: the settings of `data` in params.yaml.
        out: folder to write: `manifest.parquet`, `boxes.parquet`, `images-*.npy`, `masks-*.npy` and `lungs-*.npy` where
            there are masks, `dataset.json`, `quarantine.csv`.
        cache: folder that keeps decoded images between runs; may be deleted at any time.
        executor: decodes in its workers, which must see the same folders; None: `data.workers` processes here.
        source: the data set as its adapter reads it, if the caller has read it already.
        allow_empty_splits: whether a split may be empty.

    Returns:
        The content of `dataset.json`.

    Raises:
        UserError: the source is not what its format promises, a group is in two splits, a split is empty, or more than
            `data.max_quarantined` of the entries must be left out (they are then listed in `cache/quarantine.csv`).
    """
    cache = Path(cache)
    # an ingest removes blocks that it does not need, so two at once would remove each other's
    taken = f"{cache}: process {{holder}} decodes into this folder; wait until it ends"
    with locked(cache / "lock", taken=taken):
        return _ingest(data, out, cache, executor, source, allow_empty_splits)


def _ingest(
    data: Data, out: Path, cache: Path, executor: Executor | None, source: Source | None, allow_empty_splits: bool
) -> DatasetInfo:
    source = source or read_source(data.format, data.root, data.options)
    extra = unlabelled.read_unlabelled(data)
    rows, quarantined, notes = _split(source, data, extra.rows["path"])
    files = len(extra.rows) + len(extra.quarantined)
    entries = source.entries + files
    quarantined += extra.quarantined
    require_few(quarantined, source.entries, files, data, cache)
    if len(extra.rows):
        rows = unlabelled.join(rows, extra.rows, source, data, cache)

    def require(rows: pd.DataFrame) -> None:
        if rows.empty:
            left_out = list_left_out(quarantined, cache) if quarantined else "there are none"
            raise UserError(f"{data.root}: none of the {entries} entries is usable; {left_out}")
        if not allow_empty_splits:
            splits.require_all(rows["split"])

    require(rows)
    # decode in the order of the shards: in another order each shard would gather its frames from all blocks
    rows = rows.sort_values("image_id", ignore_index=True)

    frames = unlabelled.decode_both(
        rows,
        data,
        cache,
        executor,
        lambda bad: require_few([*quarantined, *bad.items()], source.entries, files, data, cache),
    )
    masks = {kind: _decode_masks(rows[kind], data, cache / folder, executor) for kind, folder in _MASKS.items()}
    failures = frames.failures | {
        path: f"its {'lung mask' if kind == 'lungs' else 'mask'} {reason}"
        for kind in masks
        for path, reason in _bad_masks(rows, kind, frames, masks[kind]).items()
    }
    quarantined += failures.items()
    require_few(quarantined, source.entries, files, data, cache)
    rows = rows[~rows["path"].isin(failures.keys())].reset_index(drop=True)
    copies = 0
    if len(extra.rows):
        rows, copies = unlabelled.leave_out_copies(rows, frames, data, cache)
    require(rows)
    if len(rows) + copies + len(quarantined) != entries:
        raise AssertionError(f"{entries} entries in, {len(rows)} + {len(quarantined)} out")

    with atomic(out) as folder:
        folder.mkdir()
        place = DataFolder(folder)
        manifest = _write_shards(rows, frames, folder, source.labels)
        _write_masks(rows["mask"], masks["mask"], place.masks)
        _write_masks(rows["lungs"], masks["lungs"], place.lungs)
        boxes = _boxes_in_frames(source, manifest, data)
        info = _summarise(manifest, boxes, entries - copies, copies, source, data, notes)
        manifest.to_parquet(place.manifest, index=False)
        boxes.to_parquet(place.boxes, index=False)
        write_quarantine(place.quarantine, quarantined)
        # all files but the pixels, whose checksums are in the manifest
        checked = (file for file in folder.iterdir() if not file.name.startswith("images-"))
        return info.write(place.record, checked)


def _split(source: Source, data: Data, extra: pd.Series) -> tuple[pd.DataFrame, list[tuple[str, str]], list[str]]:
    """Rows with all columns and a `split`; what is left out so far, as (path, reason); and notes for the user.

    `extra`: str (N,), the paths of `data.unlabelled`, which groups.csv may name.
    """
    rows, quarantined = source.rows.copy(), list(source.quarantined)
    for column in DETAILS:
        rows[column] = rows[column].astype("str") if column in rows else pd.Series(None, index=rows.index, dtype="str")
    rows["age"] = rows["age"].astype("float64") if "age" in rows else np.nan
    own = rows["group_id"]
    rows["group_id"], listed, notes = _groups(source, data, rows["path"], own, extra)
    notes = [f"{count:,} excluded by options: {what}" for what, count in source.unwanted.items()] + source.notes + notes
    unknown = int(rows["patient_id"].isna().sum())
    if unknown == len(rows) == rows["group_id"].nunique():
        notes.append("no patient ids: each image is its own group, so a patient may be in two splits")
    elif 0 < unknown < len(rows):
        notes.append(f"{unknown:,} of {len(rows):,} images have no patient id")
    columns = [LABEL_PREFIX + label for label in source.labels]
    labelled = rows[columns].notna().any(axis=1)
    if not labelled.all():
        notes.append(f"{(~labelled).sum():,} images have no label; only recipes with unlabelled: true train on them")
    # groups without any label cannot be measured: they train, unless the data set or sides.csv says otherwise
    measured = labelled.groupby(rows["group_id"]).transform("any")
    splits_file = data.splits / splits.SPLITS_FILE
    if data.split == "patient":
        fixed = None
        if splits_file.is_file():
            named = splits.read_splits(splits_file)
            fixed, unused = splits.split_by_group(named, rows["group_id"], own, listed)
            notes += _unused(splits_file, unused, len(named), "group_id")
        idle = pd.Series("train", index=rows["group_id"][~measured].unique())
        fixed = idle if fixed is None else fixed.combine_first(idle)
        split = splits.by_group(
            rows["group_id"],
            val_fraction=data.val_fraction,
            test_fraction=data.test_fraction,
            seed=data.seed,
            fixed=fixed,
        )
        return rows.assign(split=split), quarantined, notes
    if splits_file.is_file():
        raise UserError(f"{splits_file}: data.split is official; set data.split: patient, or remove the file")
    if source.official is None:
        raise UserError(
            f"{data.root}: data.split is official, but {source.official_files} are not there; set data.split: patient"
        )
    known = source.official.notna()
    quarantined += [(path, f"in none of {source.official_files}") for path in rows["path"][~known]]
    rows, lists = rows[known], source.official[known]
    files = f"{data.root}: {source.official_files}"
    split = splits.official(rows["group_id"], lists, val_fraction=data.val_fraction, seed=data.seed, files=files)
    split = split.where(measured[known] | (lists != "train"), "train")
    return rows.assign(split=split), quarantined, notes


def _groups(
    source: Source, data: Data, paths: pd.Series, own: pd.Series, extra: pd.Series
) -> tuple[pd.Series, pd.Series, list[str]]:
    """Each image's group after joining groups.csv; its group in groups.csv; and notes for the user."""
    file = data.splits / splits.GROUPS_FILE
    find = _FIND.format(format=data.format, root=data.root, splits=data.splits)
    if not file.is_file():
        if source.copies:
            raise UserError(
                f"{data.root}: contains augmented copies, and no list says which images are copies of the same"
                f" picture; {find}"
            )
        return own, pd.Series(None, index=own.index, dtype="str"), []
    table = splits.read_groups(file)
    spelt = paths.map(compose)
    listed = spelt.map(table)
    if source.copies and listed.isna().any():
        missing = paths[listed.isna()]
        raise UserError(f"{file}: {len(missing)} images are not in it, the first {missing.iloc[0]}; {find}")
    there = {*spelt, *extra.map(compose)} | {compose(path) for path, _ in source.quarantined}
    unused = [path for path in table.index if path not in there]
    # data sets with augmented copies have no patient ids, so listed groups cannot clash with them
    groups = listed if source.copies else splits.merge_groups(own, paths, table)
    return groups, listed, _unused(file, unused, len(table), "path")


def _unused(file: Path, names: list[str], total: int, column: str) -> list[str]:
    """A note on names in the user's table that are not in the data set; `UserError` if none of them is."""
    if not names:
        return []
    text = f"{file}: {len(names):,} of {total:,} names in column {column!r} are not in the data set: {names[0]}"
    if len(names) == total:
        raise UserError(f"{text}; use the names that `medistill check --write-splits` writes")
    return [text + (" ..." if len(names) > 1 else "")]


def _decode_masks(masks: pd.Series, data: Data, cache: Path, executor: Executor | None) -> DecodedFrames:
    paths = masks.dropna().tolist()
    if not paths:
        return DecodedFrames({}, {})
    return decode_all(
        data.root,
        paths,
        cache,
        Framing(data.image_size, 1, data.fit),
        workers=data.workers,
        executor=executor,
    )


def _bad_masks(rows: pd.DataFrame, kind: str, frames: DecodedFrames, masks: DecodedFrames) -> dict[str, str]:
    """Path -> reason of images whose mask cannot be read or has another shape than they have."""
    bad = {}
    masked = rows[rows[kind].notna()]
    for path, mask in zip(masked["path"], masked[kind], strict=True):
        if mask in masks.failures:
            bad[path] = f"{mask}: {masks.failures[mask]}"
        elif path in frames.places:
            one, other = frames.places[path], masks.places[mask]
            # a mask may be smaller than its image; a difference of one pixel is rounding
            if abs(one.width * other.height - one.height * other.width) > max(one.width, one.height):
                shapes = f"{other.width}x{other.height} pixels, the image {one.width}x{one.height}"
                bad[path] = f"{mask} has another shape: {shapes}"
    return bad


def _write_shards(rows: pd.DataFrame, frames: DecodedFrames, folder: Path, labels: list[str]) -> pd.DataFrame:
    """Write `images-*.npy`, a shard in memory at a time, and return the manifest."""
    hashes: list[str] = []
    for shard, start in enumerate(range(0, len(rows), SHARD)):
        pixels = frames.gather(rows["path"].iloc[start : start + SHARD].tolist())
        write_array(DataFolder(folder).images(shard), pixels)
        hashes += [hashlib.sha256(frame.tobytes()).hexdigest() for frame in pixels]
    number = np.arange(len(rows), dtype=np.int32)
    places = [frames.places[path] for path in rows["path"]]
    manifest = rows.assign(
        shard=number // SHARD,
        row=number % SHARD,
        mask_row=_number(rows["mask"]),
        lung_row=_number(rows["lungs"]),
        width=np.array([place.width for place in places], np.int32),
        height=np.array([place.height for place in places], np.int32),
        sha256=pd.Series(hashes, index=rows.index, dtype="str"),
    )
    return manifest[[*MANIFEST_COLUMNS, *(LABEL_PREFIX + label for label in labels)]]


def _number(masks: pd.Series) -> pd.Series:
    """The place of each mask among those that there are, −1 where there is none: int32."""
    there = masks.notna()
    return (there.cumsum() - 1).where(there, -1).astype(np.int32)


def _write_masks(own: pd.Series, masks: DecodedFrames, place: Callable[[int], Path]) -> None:
    """Write the shards of masks, uint8 (n, S, S) of 0 and 1, in the order of the rows."""
    paths = own.dropna().tolist()
    for shard, start in enumerate(range(0, len(paths), SHARD)):
        pixels = masks.gather(paths[start : start + SHARD])
        # white may be 255 or 1
        white = pixels.max(axis=(1, 2, 3), keepdims=True)
        inside = (white > 0) & (pixels >= white / 2)
        write_array(place(shard), inside[:, 0].astype(np.uint8))


def _boxes_in_frames(source: Source, manifest: pd.DataFrame, data: Data) -> pd.DataFrame:
    """Boxes as fractions of the frames; those of images that were left out, or that a crop cuts away, are dropped.

    Raises:
        UserError: a box lies outside of its image.
    """
    boxes = source.boxes.merge(manifest[["image_id", "width", "height"]], on="image_id")
    numbers = list(BOX_NUMBERS)
    if source.boxes_in == "pixels":
        lost = outside(boxes, boxes["width"], boxes["height"])
        if lost.any():
            first = boxes[lost].iloc[0]
            box = ", ".join(f"{name} {first[name]:g}" for name in numbers)
            raise UserError(
                f"{data.root}: {pluralise(int(lost.sum()), 'box')} outside of the image; the first, of"
                f" {first['image_id']}, is {box} in {first['width']} x {first['height']} pixels; if images were"
                " resized, the data set must give the original size"
            )
    fitted = np.empty((len(boxes), 4))
    for of_size, here in boxes.groupby(["width", "height"]).indices.items():
        width, height = cast(tuple[int, int], of_size)
        unit = (width, height, width, height) if source.boxes_in == "fractions" else 1
        pixels = boxes[numbers].to_numpy()[here] * unit
        fitted[here] = fit_boxes(pixels, width=width, height=height, size=data.image_size, fit=data.fit)
    boxes[numbers] = fitted
    boxes = boxes[(boxes["w"] > 0) & (boxes["h"] > 0)]
    return boxes[list(BOX_COLUMNS)].sort_values(["image_id", "label", *numbers], ignore_index=True)


def _summarise(
    manifest: pd.DataFrame,
    boxes: pd.DataFrame,
    entries: int,
    copies: int,
    source: Source,
    data: Data,
    notes: list[str],
) -> DatasetInfo:
    counts = {}
    extra = unlabelled.summarise(manifest, copies, data)
    for split in SPLITS:
        part = manifest[manifest["split"] == split]
        positives, negatives = count_labels(part[[LABEL_PREFIX + label for label in source.labels]].to_numpy())
        counts[split] = SplitCounts(
            images=len(part),
            groups=part["group_id"].nunique(),
            positives=dict(zip(source.labels, positives.tolist(), strict=True)),
            negatives=dict(zip(source.labels, negatives.tolist(), strict=True)),
        )
    return DatasetInfo(
        name=data.title,
        task=source.task,
        labels=source.labels,
        image_size=data.image_size,
        channels=data.channels,
        fit=data.fit,
        fingerprint=_fingerprint(manifest, source.labels),
        source=Origin(format=data.format, split=data.split),
        boxes=len(boxes),
        entries=entries,
        quarantined=entries - len(manifest),
        counts=counts,
        notes=[*notes, *unlabelled.describe(extra)],
        unlabelled=extra,
    )


def _fingerprint(manifest: pd.DataFrame, labels: list[str]) -> str:
    """SHA-256 over label names, image ids, pixel hashes, groups, splits and labels."""
    values = manifest[[LABEL_PREFIX + label for label in labels]].to_numpy(np.float64)
    values = np.where(np.isnan(values), -1, values).astype(np.int8)
    digest = hashlib.sha256("\t".join(labels).encode())
    columns = manifest[["image_id", "sha256", "group_id", "split"]].itertuples(index=False)
    for facts, row in zip(columns, values, strict=True):
        digest.update("\n{}\t{}\t{}\t{}\t".format(*facts).encode() + row.tobytes())
    return digest.hexdigest()
