"""MedMNIST, its two-dimensional sets, as its authors ship them: one NumPy archive each.

chestmnist.npz, chestmnist_64.npz, chestmnist_128.npz, chestmnist_224.npz, pathmnist.npz ...

Each holds `train_images`, `train_labels`, `val_images`, `val_labels`, `test_images` and `test_labels`: uint8 pictures
of 28, 64, 128 or 224 pixels, grey (N, H, W) or RGB (N, H, W, 3), and labels (N, 1), the number of a class, or (N, L), 1
or 0 each. The official split is theirs. Sets with two classes are multiclass, too.

There are no patient ids: an image is its own group.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from medistill.data.reading.arrays import SUFFIX, Array, find_arrays, is_picture, read_array
from medistill.data.reading.folders import require_folder, suggest_root
from medistill.data.reading.source import Source, one_hot
from medistill.errors import UserError
from medistill.records.data import LABEL_PREFIX, SPLITS
from medistill.settings import Settings
from medistill.task import Task

_ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right"),
    *("liver", "lung-left", "lung-right", "pancreas", "spleen"),
)

SETS = {
    "pathmnist": (
        *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
        *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
    ),
    "chestmnist": (
        *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax"),
        *("consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
    ),
    "dermamnist": (
        *("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions"),
        *("dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions"),
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": ("0", "1", "2", "3", "4"),
    "breastmnist": ("malignant", "normal, benign"),
    "bloodmnist": (
        *("basophil", "eosinophil", "erythroblast"),
        "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
        *("lymphocyte", "monocyte", "neutrophil", "platelet"),
    ),
    "tissuemnist": (
        *("Collecting Duct, Connecting Tubule", "Distal Convoluted Tubule", "Glomerular endothelial cells"),
        *("Interstitial endothelial cells", "Leukocytes", "Podocytes", "Proximal Tubule Segments"),
        "Thick Ascending Limb",
    ),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
}
"""Names of the labels of each set, in the order of their numbers."""

MULTILABEL = "chestmnist"
"""The set whose labels do not exclude each other."""

SIZES = ("", "_64", "_128", "_224")
"""Suffixes of the set's name in names of archives; none for 28 pixels."""

ARCHIVES = {f"{name}{size}{SUFFIX}": name for name in SETS for size in SIZES}
"""Names of archives -> the set."""

_MOST = 1_000_000
"""Pictures in an array at most; the largest set has 165,466."""

_LABEL_BYTES = 100_000_000
"""Bytes of an array of labels at most."""


class Options(Settings):
    """The keys of `data.options`."""

    file: str = ""
    """The archive, relative to the root; empty: the only one there."""


def read(root: Path, options: Options) -> Source:
    """Read labels and splits of an archive; of pictures only the headers.

    The path of a picture is `chestmnist.npz/train_images/17`; it is numbered from 0, as in the archive.

    Raises:
        UserError: there is no archive of a two-dimensional set, or several; an array is missing or has another shape
            or dtype; a label is unknown.
    """
    root = Path(root)
    if root.is_file():
        raise UserError(f"{root}: is a file; set data.root to its folder, {root.parent}")
    name = _find_archive(require_folder(root), options.file)
    labels = SETS[ARCHIVES[PurePosixPath(name).name]]
    arrays = find_arrays(root / name, [f"{split}_{what}" for split in SPLITS for what in ("images", "labels")])
    parts = []
    for split in SPLITS:
        values = _read_labels(root / name, split, arrays, labels)
        numbers = pd.Series(range(len(values)))
        image_id = f"{split}/" + numbers.map("{:06d}".format).astype("str")
        path = f"{name}/{split}_images/" + numbers.astype("str")
        rows = pd.DataFrame({"image_id": image_id, "path": path, "group_id": image_id, "split": split})
        parts.append(pd.concat([rows, values], axis=1))
    rows = pd.concat(parts, ignore_index=True)
    return Source(
        labels=list(labels),
        task=Task.MULTILABEL if labels == SETS[MULTILABEL] else Task.MULTICLASS,
        rows=rows.drop(columns="split"),
        entries=len(rows),
        quarantined=[],
        official=rows["split"],
        official_files=f"the splits of {name}",
    )


def _find_archive(root: Path, name: str) -> str:
    """The archive's path relative to the root."""
    there = sorted(entry.name for entry in root.iterdir() if entry.is_file() and entry.suffix == SUFFIX)
    found = [name] if name else [name for name in there if name in ARCHIVES]
    if len(found) > 1:
        raise UserError(f"{root}: several archives; set data.options.file to one of {', '.join(found)}")
    if not found:
        others = f", but {', '.join(there[:3])}" if there else ""
        advice = suggest_root(root, lambda folder: any((folder / archive).is_file() for archive in ARCHIVES))
        raise UserError(
            f"{root}: no archive of a two-dimensional set of MedMNIST in it, such as chestmnist.npz or"
            f" chestmnist_64.npz{others}{advice}"
        )
    archive = root / found[0]
    if not archive.resolve().is_relative_to(root.resolve()):
        raise UserError(f"{archive}: lies outside of data.root; set data.options.file to an archive in it")
    if archive.name not in ARCHIVES:
        raise UserError(f"{archive}: its name is none of MedMNIST's two-dimensional sets, {', '.join(SETS)}")
    if not archive.is_file():
        raise UserError(f"{archive}: no such file; correct data.options.file")
    return PurePosixPath(found[0]).as_posix()


def _read_labels(archive: Path, split: str, arrays: Mapping[str, Array], labels: tuple[str, ...]) -> pd.DataFrame:
    """Columns of labels of a split, float32."""
    pictures, declared = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    if not is_picture(pictures):
        raise UserError(
            f"{archive}: {split}_images is {pictures.dtype} of {pictures.shape}; it must be uint8 of (number, height,"
            " width) or (number, height, width, 3)"
        )
    multilabel = labels == SETS[MULTILABEL]
    expected = (pictures.shape[0], len(labels) if multilabel else 1)
    if declared.shape != expected or declared.dtype.kind not in "iu":
        raise UserError(
            f"{archive}: {split}_labels is {declared.dtype} of {declared.shape}; it must be whole numbers of"
            f" {expected}, as {split}_images has {expected[0]:,} pictures"
        )
    if pictures.shape[0] > _MOST:
        raise UserError(
            f"{archive}: {split}_images has {pictures.shape[0]:,} pictures; no more than {_MOST:,} are read"
        )
    values = read_array(archive, f"{split}_labels", declared, limit=_LABEL_BYTES)
    highest = 1 if multilabel else len(labels) - 1
    wrong = np.argwhere((values < 0) | (values > highest))
    if len(wrong):
        row, column = wrong[0]
        raise UserError(f"{archive}: {split}_labels has {values[row, column]} at {row}; known are 0 to {highest}")
    if multilabel:
        return pd.DataFrame(values.astype(np.float32), columns=[LABEL_PREFIX + label for label in labels])
    return one_hot(pd.Series(np.array(labels)[values[:, 0].astype(int)]), list(labels))
