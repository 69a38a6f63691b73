"""Images in a folder for each class, with or without a folder for each side above.

NORMAL/*.png   PNEUMONIA/*.png   ...
train/NORMAL/*.png   val/NORMAL/*.png   test/NORMAL/*.png   ...     also `valid`, `Testing` and alike (`SIDE_NAMES`)

The names of the folders are the classes; folders within them only spread out the files. An image is its own group:
where several are of one patient, `groups.csv` in the folder of `data.splits` must say so (columns `path`, relative to
the root, and `group_id`).
"""

import os
from pathlib import Path

import pandas as pd

from medistill.config import Settings
from medistill.data.folders import compose, find_files, is_hidden, list_images, require_folder
from medistill.data.source import Source, collect_labels, one_hot, side_of
from medistill.errors import UserError


class Options(Settings):
    """What `data.options` may say."""

    unlabelled: str = ""
    """The folder, beside those of the classes, whose images have none: for recipes that learn from what teachers say of
    them."""


def read(root: Path, options: Options) -> Source:
    """Read classes, and sides where there are any, from the folders; no pixel is decoded.

    Left out with a reason: images that lie in no class's folder.

    Raises:
        UserError: there are fewer than two classes, or one holds no image.
    """
    root = require_folder(root)
    sides = {name: side for name in _folders(root) if (side := side_of(name))}
    if "train" not in sides.values():
        sides = {}  # without a training side `test` is a class like any other
    depth = 1 if sides else 0  # of the classes' folders

    images, quarantined = list_images(find_files(root, ["."], recursive=True))
    entries = len(images) + len(quarantined)
    table = pd.DataFrame({"image_id": images.keys(), "path": images.values()}, dtype="str")
    parts = table["image_id"].str.split("/")
    placed = parts.str.len() > depth + 1
    if sides:
        placed &= parts.str[0].isin(sides.keys())
    quarantined += [(path, "in no class's folder") for path in table["path"][~placed]]
    rows, parts = table[placed].reset_index(drop=True), parts[placed].reset_index(drop=True)
    label = parts.str[depth].astype("str")

    left_out = [compose(path).split("/") for path, _ in quarantined]
    filled = set(label) | {path[depth] for path in left_out if len(path) > depth + 1}
    for parent in sides or ["."]:
        empty = next((name for name in _folders(root / parent) if name not in filled), None)
        if empty:
            raise UserError(f"{root / parent / empty}: no image in it; a folder there is a class, so remove or fill it")
    if options.unlabelled:
        without = label == compose(options.unlabelled)
        if not without.any():
            raise UserError(f"{root}: data.options.unlabelled: no folder {options.unlabelled!r} with images")
        label = label.mask(without)
    labels = collect_labels(label.dropna(), f"{root}: folders of images")
    return Source(
        labels=labels,
        task="multiclass",
        rows=pd.concat([rows.assign(group_id=rows["image_id"]), one_hot(label, labels)], axis=1),
        entries=entries,
        quarantined=quarantined,
        official=parts.str[0].map(sides) if sides else None,
        official_files="folders train, val and test",
    )


def _folders(folder: Path) -> list[str]:
    """Names of the folders in a folder, without hidden ones and those whose name is not text."""
    names = sorted(entry.name for entry in os.scandir(folder) if Path(entry).is_dir() and not is_hidden(entry.name))
    return [compose(name) for name in names if name.isprintable()]
