"""Published lists of training images, as the `train_ids.npz` of a model that was trained on them."""

import importlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medistill.data import adapters
from medistill.data.provenance import FILE, NOTHING, TrainIds, hash_names, write_ids
from medistill.errors import UserError
from medistill.files import atomic

FORMATS = ("chestxray14", "chexpert", "mimic_cxr", "padchest")
"""Formats whose images and patients have the same ids wherever they lie, so that a list of them says what was seen."""

SHORT = {"mimic": "mimic_cxr"}
"""Other names of formats."""


@dataclass(frozen=True)
class Published:
    """What a list says of a model that was trained on it.

    Attributes:
        format: of the data set, as `data.format` names it.
        ids: the hashes of patients and of image ids; none of pixels, which a list does not have.
        images, patients: number of images trained on, and of their patients as far as they are known.
        held_out: number of images that the list names as its test split; they are not among `ids`.
    """

    format: str
    ids: TrainIds
    images: int
    patients: int
    held_out: int


def read_published(file: Path, format: str) -> Published:
    """Read a published list of training images.

    Images and patients have the ids that `ingest` gives them in a data set of this format. An image adds its patient
    and its own id: in a data set that does not know its patient, it is a group of its own.

    Args:
        file: the list: `adapters.FORMAT.read_list` says what it may look like.
        format: one of `FORMATS` or of `SHORT`.

    Raises:
        UserError: the format is unknown, the file is missing or unreadable, lacks a column or rows, or a row names no
            image or no patient.
    """
    format = SHORT.get(format, format)
    if format not in FORMATS:
        raise UserError(f"--format: {format!r} is unknown; known are {', '.join(FORMATS)}")
    listed = importlib.import_module(f"{adapters.__name__}.{format}").read_list(Path(file))
    held_out = listed.get("held_out", np.zeros(len(listed), bool))
    trained = listed[~held_out]
    if trained.empty:
        raise UserError(f"{file}: no images that were trained on are in it")
    patients, images = trained["patient_id"].dropna().unique(), trained["image_id"].unique()
    ids = NOTHING._replace(groups=np.unique(hash_names(format, [*patients, *images])))
    return Published(format, ids, len(images), len(patients), int(held_out.sum()))


def write_published(out: Path, published: Published) -> None:
    """Write `train_ids.npz`.

    Raises:
        UserError: there is something of this name already: it may be what a model of one's own was trained on.
    """
    require_new(out)
    with atomic(out) as file:
        write_ids(file, published.ids)


def require_new(out: Path) -> None:
    """Raise `UserError` if something of this name is there already."""
    if out.is_dir():
        raise UserError(f"--out {out}: is a folder; name a file in it, {out / FILE}")
    if out.exists():
        raise UserError(f"--out {out}: exists already; remove it first, or name another file")
