"""COVID-QU-Ex, as Kaggle ships it (anasmohammedtahir/covidqu).

Lung Segmentation Data/{Train,Val,Test}/{COVID-19,Non-COVID,Normal}/images/*.png        the whole set
Infection Segmentation Data/ ... /images/*.png, infection masks/*.png                   a part of it, with masks

Kaggle unpacks each part into a folder of the same name, so that the name occurs twice; both layouts are read. The `lung
masks` beside the images say where the lungs are.

The set has no patient ids: an image is its own group, and a patient may be in two splits. Its classes come from
different hospitals and collections, so a network can tell them apart by acquisition.
"""

import filecmp
from collections import defaultdict
from pathlib import Path
from typing import Literal

import pandas as pd

from medistill.data.reading.folders import Files, find_files, list_images, require_folder, suggest_root
from medistill.data.reading.source import Source, one_hot
from medistill.errors import UserError
from medistill.settings import Settings
from medistill.task import Task

LABELS = ("COVID-19", "Non-COVID", "Normal")
SPLIT_FOLDERS = {"Train": "train", "Val": "val", "Test": "test"}
PARTS = {"lung": "Lung Segmentation Data", "infection": "Infection Segmentation Data"}
MASKS = "infection masks"
LUNGS = "lung masks"


class Options(Settings):
    """The keys of `data.options`."""

    part: Literal["lung", "infection"] = "lung"
    """`lung`: all 33,920 images; the masks of those that the infection part repeats. `infection`: the 5,826 images of
    that part, with their masks."""


def read(root: Path, options: Options) -> Source:
    """Read classes and splits from the folders; no pixel is decoded.

    An image of the infection part has the infection mask of its name. An image of the lung part has the mask of the
    same bytes under the same name and class there, in whatever split. Without one, `mask` is null.

    Any image may have the lung mask of its name; without one, `lungs` is null.

    Left out with a reason: images of the infection part whose mask is missing, unless there is no folder of masks
    beside them and they show no COVID-19; images whose lung mask cannot be used; masks without an image.

    Raises:
        UserError: one of the nine folders of images is missing or holds none.
    """
    root = require_folder(root)
    part = _find_part(root, options.part)
    if part is None:
        advice = suggest_root(root, lambda folder: _find_part(folder, options.part) is not None)
        other = next(part for part in PARTS if part != options.part)
        if not advice and _find_part(root, other):
            advice = f"; {PARTS[other]} is there, data.options.part: {other} reads it"
        raise UserError(f"{root}: no folder {PARTS[options.part]}/Train in it{advice or '; data.root must hold it'}")
    files, lungs = _find_whole_part(root, part), _find_files(root, part, LUNGS)
    images, quarantined = list_images(files)
    entries = len(images) + len(quarantined)

    infection = _find_part(root, "infection")
    masks = _find_files(root, infection, MASKS) if infection else Files({}, {}, [])
    twins = _find_files(root, infection, "images") if infection else Files({}, {}, [])
    masked, pictured = masks.keys(), {_mask_of(key) for key in twins.keys()}  # noqa: SIM118 (it is no dict)
    if options.part == "infection":
        mask_of = {key: _mask_of(key) for key in images}
    else:
        mask_of = _masks_of_twins(
            root, images, {key: path for key, path in twins.usable.items() if _mask_of(key) in masked}
        )
    bad = {key: masks.refused[mask][1] for key, mask in mask_of.items() if mask in masks.refused}
    with_masks = {mask.rpartition("/")[0] for mask in masked}  # folders
    for key, mask in mask_of.items():
        promised = mask.rpartition("/")[0] in with_masks or f"/{LABELS[0]}/" in key
        if promised and mask not in masked:
            bad[key] = f"is missing: {mask}"
    reasons = {key: f"its mask {reason}" for key, reason in bad.items()}
    lungs_of = {key: _mask_of(key, LUNGS) for key in files.keys()}  # noqa: SIM118 (it is no dict)
    reasons = _refused_lungs(lungs, lungs_of, images) | reasons
    quarantined += [(images[key], reason) for key, reason in reasons.items()]
    orphans = [(path, "an infection mask without an image") for path in _orphans(masks, pictured)]
    orphans += [(path, "a lung mask without an image") for path in _orphans(lungs, set(lungs_of.values()))]
    quarantined += orphans
    entries += len(orphans)

    keys = pd.Series([key for key in images if key not in reasons], dtype="str")
    image_id = keys.str.removeprefix(f"{part}/")
    split, label = (image_id.str.split("/").str[place] for place in (0, 1))
    rows = pd.DataFrame(
        {
            "image_id": image_id,
            "path": keys.map(images),
            "group_id": image_id,
            "mask": keys.map(mask_of).map(masks.usable).astype("str"),
            "lungs": keys.map(lungs_of).map(lungs.usable).astype("str"),
        }
    )
    return Source(
        labels=list(LABELS),
        task=Task.MULTICLASS,
        rows=pd.concat([rows, one_hot(label, list(LABELS))], axis=1),
        entries=entries,
        quarantined=quarantined,
        official=split.map(SPLIT_FOLDERS),
        official_files="the folders Train, Val and Test",
        unwanted=_count_unwanted(root) if options.part == "infection" else {},
        notes=[] if infection else [_without_masks(root)],
    )


def _find_part(root: Path, part: str) -> str | None:
    name = PARTS[part]
    return next((folder for folder in (f"{name}/{name}", name) if (root / folder / "Train").is_dir()), None)


def _without_masks(root: Path) -> str:
    """The note if the infection part is missing, perhaps because the root lies within the doubled folders."""
    above = suggest_root(root, lambda folder: all(_find_part(folder, part) for part in PARTS))
    return f"no folder {PARTS['infection']}, so no image has a mask{above}"


def _count_unwanted(root: Path) -> dict[str, int]:
    """Images of the lung part, where only the infection part is asked for."""
    lung = _find_part(root, "lung")
    count = len(list_images(_find_files(root, lung, "images"))[0]) if lung else 0
    return {f"images of {PARTS['lung']} (part: infection)": count} if count else {}


def _find_files(root: Path, part: str, name: str) -> Files:
    """Files of the folders `name` that a part has."""
    folders = [f"{part}/{split}/{label}/{name}" for split in SPLIT_FOLDERS for label in LABELS]
    return find_files(root, [folder for folder in folders if (root / folder).is_dir()])


def _find_whole_part(root: Path, part: str) -> Files:
    files = _find_files(root, part, "images")
    images, others = list_images(files)
    filled = {path.rpartition("/")[0] for path in [*images.values(), *(path for path, _ in others)]}
    for split in SPLIT_FOLDERS:
        for label in LABELS:
            if f"{part}/{split}/{label}/images" not in filled:
                raise UserError(f"{root / part / split / label / 'images'}: no image in it; the data set is not whole")
    return files


def _mask_of(key: str, folder: str = MASKS) -> str:
    """The path of an image's mask in another folder beside it."""
    return key.replace("/images/", f"/{folder}/")


def _refused_lungs(lungs: Files, lungs_of: dict[str, str], images: dict[str, str]) -> dict[str, str]:
    """Why the lung masks of images cannot be used, by the images' keys."""
    own = {key: lungs_of[key] for key in images}
    return {key: f"its lung mask {lungs.refused[mask][1]}" for key, mask in own.items() if mask in lungs.refused}


def _orphans(masks: Files, wanted: set[str]) -> list[str]:
    """Paths of masks that are those of no image."""
    paths = (masks.path(mask) for mask in sorted(masks.keys() - wanted))
    return [path for path in paths if masks.is_image(path)]


def _masks_of_twins(root: Path, images: dict[str, str], twins: dict[str, str]) -> dict[str, str]:
    """Key of the mask of each of `images` that one of `twins`, images of the infection part, repeats; both by key."""
    candidates = defaultdict(list)
    for key in twins:
        candidates[_class_and_name(key)].append(key)
    masks = {}
    for key, path in images.items():
        same = (twin for twin in candidates[_class_and_name(key)] if _same_bytes(root / path, root / twins[twin]))
        twin = next(same, None)
        if twin:
            masks[key] = _mask_of(twin)
    return masks


def _class_and_name(key: str) -> tuple[str, str]:
    label, _, name = key.split("/")[-3:]
    return label, name


def _same_bytes(first: Path, second: Path) -> bool:
    try:
        return filecmp.cmp(first, second, shallow=False)
    except OSError:  # a file that cannot be read is reported when it is decoded
        return False
