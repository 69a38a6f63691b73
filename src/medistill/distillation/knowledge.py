"""What teachers answered: logits of every training image in every view, written once, read by id.

A distillation epoch then costs what training without a teacher costs, however many or large the teachers are.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from medistill.config import Augmentation
from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.files import read_json, write_json
from medistill.models.zoo import Classifier
from medistill.training.views import render_views, view_parameters


@torch.inference_mode()
def write_knowledge(
    folder: Path,
    teacher: Classifier,
    dataset: Dataset,
    augmentation: Augmentation,
    *,
    views: int,
    view_seed: int,
    batch_size: int = 64,
) -> None:
    """Let `teacher` answer all training images in views 0 … `views` − 1.

    Writes into an existing folder: `logits.npy` float16 (V, N, L), `image_ids.npy` (N), `knowledge.json`.
    """
    device = next(teacher.parameters()).device
    teacher.to(memory_format=torch.channels_last).eval()
    rows = dataset.split("train")
    image_ids = rows["image_id"].to_numpy(str)
    logits = np.lib.format.open_memmap(
        folder / "logits.npy", mode="w+", dtype=np.float16, shape=(views, len(rows), len(teacher.config["labels"]))
    )
    with tqdm(total=views * len(rows), unit="img", desc=f"teach {teacher.config['name']}", disable=None) as bar:
        for start in range(0, len(rows), batch_size):
            chosen = slice(start, start + batch_size)
            pixels = torch.from_numpy(dataset.images(rows.iloc[chosen])).to(device)
            for view in range(views):
                parameters = torch.from_numpy(view_parameters(image_ids[chosen], view, view_seed, augmentation))
                images = render_views(pixels, parameters.to(device)).contiguous(memory_format=torch.channels_last)
                logits[view, chosen] = teacher(images).float().cpu().numpy()
                bar.update(len(pixels))
    logits.flush()
    np.save(folder / "image_ids.npy", image_ids)
    write_json(
        folder / "knowledge.json",
        {
            "teacher": teacher.config["name"],
            "labels": teacher.config["labels"],
            "views": views,
            "view_seed": view_seed,
            "augmentation": augmentation.model_dump(),
            "dataset_fingerprint": dataset.fingerprint,
            "teacher_fingerprint": teacher.config["fingerprint"],
            "checksum": _checksum(folder),
        },
    )


def _checksum(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in ("image_ids.npy", "logits.npy"):
        with open(folder / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class Knowledge:
    """One teacher's answers, memory-mapped.

    Attributes:
        teacher: its name.
        views: how many views of each image were answered.
        view_seed: the seed of the views.
        checksum: of ids and logits.
    """

    teacher: str
    views: int
    view_seed: int
    checksum: str
    _rows: dict[str, int]
    _logits: np.ndarray
    _columns: list[int | None]

    @classmethod
    def open(
        cls, folder: Path, dataset: Dataset, augmentation: Augmentation, *, views: int, view_seed: int
    ) -> "Knowledge":
        """Open a teacher's answers for distillation on `dataset` in `views` views drawn from `augmentation`.

        A teacher may know other labels: those that both have are told by their names.

        Raises:
            UserError: a file is missing or damaged, the answers are to other images or views, or the teacher knows none
                of the data set's labels.
        """
        meta = read_json(folder / "knowledge.json")
        try:
            image_ids = np.load(folder / "image_ids.npy")
            logits = np.load(folder / "logits.npy", mmap_mode="r")
            damaged = _checksum(folder) != meta["checksum"]
        except (OSError, ValueError):
            damaged = True
        if damaged:
            raise UserError(f"{folder}: the teacher's answers are damaged; run the teach stage again")
        for key, value in (
            ("augmentation", augmentation.model_dump()),
            ("views", views),
            ("view_seed", view_seed),
            ("dataset_fingerprint", dataset.fingerprint),
        ):
            if meta[key] != value:
                raise UserError(f"{folder}: the teacher answered for another {key}; run the teach stage again")
        columns = [meta["labels"].index(label) if label in meta["labels"] else None for label in dataset.labels]
        if columns.count(None) == len(columns):
            wanted, known = ", ".join(dataset.labels), ", ".join(meta["labels"])
            raise UserError(f"{folder}: the teacher knows none of the labels {wanted}, but {known}")
        rows = {image_id: row for row, image_id in enumerate(image_ids.tolist())}
        return cls(meta["teacher"], meta["views"], meta["view_seed"], meta["checksum"], rows, logits, columns)

    def logits(self, image_ids: Sequence[str], view: int) -> np.ndarray:
        """The teacher's logits for images in a view: float32 (N, L), NaN for labels that it does not know.

        In the order of `image_ids` and of the data set's labels.

        Raises:
            KeyError: the teacher was not asked about an image.
        """
        rows = np.array([self._rows[image_id] for image_id in image_ids])
        answers = self._logits[view][rows].astype(np.float32)
        out = np.full((len(rows), len(self._columns)), np.nan, np.float32)
        for label, column in enumerate(self._columns):
            if column is not None:
                out[:, label] = answers[:, column]
        return out
