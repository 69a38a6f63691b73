"""Images in a folder for each class, with or without a folder for each split above.

NORMAL/*.png   PNEUMONIA/*.png   ...
train/NORMAL/*.png   val/NORMAL/*.png   test/NORMAL/*.png   ...     also `valid`, `Testing` and the like (`SPLIT_NAMES`)

The names of the folders are the classes; folders within them only spread out the files. An image is its own group:
if several are of one patient, `groups.csv` in the folder of `data.splits` must say so (columns `path`, relative to
the root, and `group_id`).

Masks among the images are not read as images: NORMAL/masks/1.png beside NORMAL/images/1.png or NORMAL/1.png, and
NORMAL/1_mask.png beside NORMAL/1.png; see `medistill.data.reading.masks`. They are skipped and counted, unless
`data.options.masks` names them as masks of the finding: many sets have masks of the lungs.
"""

import contextlib
import os
from collections import Counter
from pathlib import Path

import pandas as pd

from medistill.data.reading.folders import (
    Files,
    compose,
    find_files,
    is_hidden,
    is_image_name,
    list_images,
    require_folder,
    suggest_root,
)
from medistill.data.reading.masks import Mask, find_masks
from medistill.data.reading.source import Source, collect_labels, one_hot, split_of
from medistill.errors import UserError
from medistill.settings import Settings
from medistill.task import Task
from medistill.text import pluralise


class Options(Settings):
    """The keys of `data.options`."""

    unlabelled: str = ""
    """The folder, beside those of the classes, of images without a class, for recipes with `unlabelled: true`."""
    masks: str = ""
    """Which of the masks among the images show the finding: the name of their folder, such as `infection masks`, or
    what their names end in, such as `_mask`. An image with several such masks is read without one."""


def read(root: Path, options: Options) -> Source:
    """Read classes, and splits where there are any, from the folders; no pixel is decoded.

    Left out with a reason: images that lie in no class's folder, and requested masks without an image.

    Raises:
        UserError: there are fewer than two classes, one holds no image, or one holds the masks of another or a data
            set of its own.
    """
    root = require_folder(root)
    splits = _split_folders(root)
    depth = 1 if splits else 0  # of the classes' folders
    if not splits:
        _require_no_level_more(root)
    files = find_files(root, ["."], recursive=True)
    masks = find_masks(key for key, path in files.usable.items() if files.is_image(path))
    _require_no_class_of_masks(root, masks, depth)
    mask_of, orphans, unwanted, notes = _choose_masks(root, files, masks, options.masks)

    images, quarantined = list_images(files.without(masks))
    quarantined += [(path, "a mask without an image") for path in orphans]
    entries = len(images) + len(quarantined)
    table = pd.DataFrame({"image_id": images.keys(), "path": images.values()}, dtype="str")
    parts = table["image_id"].str.split("/")
    placed = table["image_id"].str.count("/") > depth
    if splits:
        placed &= parts.str[0].isin(splits.keys())
    quarantined += [(path, "in no class's folder") for path in table["path"][~placed]]
    rows, parts = table[placed].reset_index(drop=True), parts[placed].reset_index(drop=True)
    label = parts.str[depth].astype("str")

    left_out = [compose(path).split("/") for path, _ in quarantined]
    _require_filled(root, splits, set(label) | {path[depth] for path in left_out if len(path) > depth + 1})
    if options.unlabelled:
        without = label == compose(options.unlabelled)
        if not without.any():
            raise UserError(f"{root}: data.options.unlabelled: no folder {options.unlabelled!r} with images")
        label = label.mask(without)
    within = any("/" not in path for path in images)  # a class, whose images lie in the root itself
    advice = suggest_root(root, _is_data_set, above=within) if label.nunique() < 2 else ""
    labels = collect_labels(label.dropna(), f"{root}: folders of images", advice=advice)
    if _is_split_folder(root):
        above = root.resolve().parent
        notes.append(f"{root.resolve().name} is one split of {above}; set data.root to {above} to read all splits")
    rows = rows.assign(group_id=rows["image_id"], mask=rows["image_id"].map(mask_of).astype("str"))
    return Source(
        labels=labels,
        task=Task.MULTICLASS,
        rows=pd.concat([rows, one_hot(label, labels)], axis=1),
        entries=entries,
        quarantined=quarantined,
        official=parts.str[0].map(splits) if splits else None,
        official_files="folders train, val and test",
        unwanted=unwanted,
        notes=notes,
    )


def _split_folders(root: Path) -> dict[str, str]:
    """Split of each folder that is one; none without a training split, where `test` is a class like any other."""
    splits = {name: split for name in _folders(root) if (split := split_of(name))}
    return splits if "train" in splits.values() else {}


def _require_no_level_more(root: Path) -> None:
    """Refuse folders that would be classes and have splits in them: those are data sets."""
    deeper = [name for name in _folders(root) if len(_split_folders(root / name)) > 1]
    if deeper:
        splits = " and ".join(_split_folders(root / deeper[0]))
        raise UserError(
            f"{root}: {deeper[0]} holds {splits} and is no class; set data.root to"
            f" {' or to '.join(str(root / name) for name in deeper[:3])}"
        )


def _require_no_class_of_masks(root: Path, masks: dict[str, Mask], depth: int) -> None:
    for mask in masks.values():
        if mask.image and mask.place and mask.place.count("/") == depth:
            images = mask.image.split("/")[depth]
            raise UserError(
                f"{root}: the folders {mask.place} and {'/'.join(mask.image.split('/')[: depth + 1])} hold files of"
                f" the same names: the first looks like the masks of the second, and is no class; move it out of"
                f" data.root, or set data.root to {root / '/'.join([*mask.place.split('/')[:-1], images])}"
            )


def _require_filled(root: Path, splits: dict[str, str], filled: set[str]) -> None:
    for parent in splits or ["."]:
        empty = next((name for name in _folders(root / parent) if name not in filled), None)
        if empty:
            advice = "" if splits else suggest_root(root, _is_data_set, above=False)
            raise UserError(
                f"{root / parent / empty}: no image in it, but each folder there is a class; remove or fill it{advice}"
            )


def _choose_masks(
    root: Path, files: Files, masks: dict[str, Mask], wanted: str
) -> tuple[dict[str, str], list[str], dict[str, int], list[str]]:
    """Path of the mask by image, paths of masks without an image, masks that are not requested, and notes."""
    kinds = Counter(mask.kind for mask in masks.values())
    asked = {kind for kind in kinds if wanted and _bare(kind) == _bare(wanted)}
    if wanted and not asked:
        there = " and ".join(map(repr, kinds)) if kinds else "none"
        raise UserError(f"{root}: data.options.masks: no masks {wanted!r} beside images; there is {there}")
    found: dict[str, list[str]] = {}
    orphans = []
    for key, mask in masks.items():
        if mask.kind in asked and mask.image:
            found.setdefault(mask.image, []).append(files.usable[key])
        elif mask.kind in asked:
            orphans.append(files.usable[key])
    several = sum(len(paths) > 1 for paths in found.values())
    notes = [f"{pluralise(several, 'image')} with several masks; none of them is read"] if several else []
    unwanted = {
        f"masks, by the name {kind!r}; set data.options.masks: {kind!r} to read them, if they show the finding": count
        for kind, count in kinds.items()
        if kind not in asked
    }
    return {image: paths[0] for image, paths in found.items() if len(paths) == 1}, orphans, unwanted, notes


def _bare(kind: str) -> str:
    return kind.casefold().strip(" _.-")


def _is_data_set(folder: Path) -> bool:
    """Whether a folder has classes: two folders with images, or splits with them."""
    parent = next(iter(_split_folders(folder)), ".")
    filled = [name for name in _folders(folder / parent) if _has_images(folder / parent / name)]
    return len(filled) > 1 and not _is_split_folder(folder)


def _is_split_folder(folder: Path) -> bool:
    """Whether a folder is one split of a data set."""
    folder = folder.resolve()
    return split_of(folder.name) is not None and len(_split_folders(folder.parent)) > 1


def _has_images(folder: Path) -> bool:
    """Whether a folder or one of the first below it has an image by name."""
    with contextlib.suppress(OSError):  # see `_folders`
        for place in (folder, *(folder / name for name in _folders(folder)[:5])):
            with os.scandir(place) as scan:
                if any(is_image_name(entry.name) for entry in scan):
                    return True
    return False


def _folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, without hidden ones and those whose name is not text or that are locked."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if Path(entry).is_dir() and not is_hidden(entry.name))
    except OSError:  # folders that cannot be read are skipped here; `find_files` names them
        return []
    return [compose(name) for name in names if name.isprintable()]
