"""LC25000, histopathology of lung and colon, as its authors ship it.

lung_colon_image_set/lung_image_sets/{lung_aca,lung_n,lung_scc}/*.jpeg
lung_colon_image_set/colon_image_sets/{colon_aca,colon_n}/*.jpeg
groups.csv                                              which pictures are copies of one; see below

Five classes; three if only the lung half is present, two if only the colon half is. The root is the
folder `lung_colon_image_set`, or the one that holds it.

The 25,000 pictures were made from 1,250 by flips and rotations, and the set does not say from which. A random split
puts copies of nearly every test picture into training. So the groups must be known before anything is split: from
`groups.csv` (or `groups.csv.gz`) in the root (columns `path` or `file`, relative to the root, and `group_id`) or, found
by `medistill check`, in the folder of `data.splits`.
"""

from pathlib import Path

import pandas as pd

from medistill.data.reading.folders import Files, compose, find_files, list_images, require_folder, suggest_root
from medistill.data.reading.source import Source, one_hot
from medistill.data.reading.tables import Joined, find_table, join_files, read_header, read_table
from medistill.data.splits import GROUPS_FILE, read_groups
from medistill.errors import UserError
from medistill.settings import Settings
from medistill.task import Task

CLASSES = {"lung_image_sets": ("lung_aca", "lung_n", "lung_scc"), "colon_image_sets": ("colon_aca", "colon_n")}
SET = "lung_colon_image_set"


class Options(Settings):
    """`data.options` has no keys."""


def read(root: Path, options: Options) -> Source:
    """Read classes from the folders and groups from `groups.csv`; no pixel is decoded.

    Raises:
        UserError: a class is missing or holds no image; `groups.csv` leaves an image out, gives one two groups, or
            contradicts its folder.
    """
    root = require_folder(root)
    folders = _find_classes(root)
    files = find_files(root, [folder for folder in folders.values() if (root / folder).is_dir()], recursive=True)
    images, quarantined = list_images(files)
    found = [*images.values(), *(path for path, _ in quarantined)]
    for folder in folders.values():
        if not any(path.startswith(f"{folder}/") for path in found):
            raise UserError(f"{root / folder}: no image in it; the data set is not whole")
    listed = find_table(root, GROUPS_FILE)
    if listed:
        joined = _join_groups(listed, files, images)
        paths, groups = joined.rows["path"], joined.rows["group_id"]
        entries, quarantined = joined.entries, joined.quarantined
    else:
        paths, entries = pd.Series(images.values(), dtype="str"), len(found)
    above = folders[next(iter(folders))].count("/")
    image_id = paths.map(compose).str.split("/", n=above).str[above]
    label = image_id.str.split("/").str[0]
    rows = pd.DataFrame({"image_id": image_id, "path": paths, "group_id": groups if listed else image_id})
    return Source(
        labels=list(folders),
        task=Task.MULTICLASS,
        rows=pd.concat([rows, one_hot(label, list(folders))], axis=1),
        entries=entries,
        quarantined=quarantined,
        copies=listed is None,
    )


def _find_classes(root: Path) -> dict[str, str]:
    """Folder of each class of the halves that are present, relative to the root."""
    top, halves = _find_halves(root)
    if not halves:
        advice = suggest_root(root, lambda folder: bool(_find_halves(folder)[1]))
        raise UserError(
            f"{root}: no folder {' or '.join(CLASSES)} in it{advice or '; data.root must hold one of them'}"
        )
    return {label: f"{top}{half}/{label}" for half in halves for label in CLASSES[half]}


def _find_halves(root: Path) -> tuple[str, list[str]]:
    """The folder of the halves, as a prefix, and the halves that are present."""
    for top in ("", f"{SET}/"):
        halves = [half for half in CLASSES if (root / top / half).is_dir()]
        if halves:
            return top, halves
    return "", []


def _join_groups(file: Path, files: Files, images: dict[str, str]) -> Joined:
    """The rows of `groups.csv` with their files: `path`, `group_id`."""
    groups = read_groups(file)  # refuses empty fields and a second group of an image
    unlisted = [path for key, path in images.items() if key not in groups.index]
    if unlisted:
        raise UserError(
            f"{file}: {len(unlisted)} images are not in it, the first {unlisted[0]};"
            " list every image, or remove the file and find the groups by `medistill check`"
        )
    columns = {"path": ("file", "image"), "group_id": ("group",)}
    labelled = "label" in read_header(file)
    table = read_table(file, columns | ({"label": ()} if labelled else {})).rename(columns={"path": "image"})
    if labelled:
        folder = table["image"].str.rpartition("/")[0].str.rpartition("/")[2]
        wrong = table[(table["label"] != folder) & (table["label"] != "")]
        if len(wrong):
            line, image, label = wrong[["line", "image", "label"]].iloc[0]
            raise UserError(f"{file}: line {line}: {image} has the label {label!r}, but is in another class's folder")
    return join_files(table, files, file.name)
