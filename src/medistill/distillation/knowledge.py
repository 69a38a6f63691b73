"""What teachers answered: logits of every training image in every view, written once, read by id.

A distillation epoch then costs what training without a teacher costs, however many or large the teachers are.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from medistill.config import Augmentation
from medistill.data.dataset import Dataset
from medistill.distillation.maps import class_maps
from medistill.errors import UserError
from medistill.files import read_json, write_json
from medistill.models.zoo import Classifier
from medistill.training.views import render_views, view_parameters


def write_knowledge(
    folder: Path,
    teacher: Classifier,
    dataset: Dataset,
    augmentation: Augmentation,
    *,
    views: int,
    view_seed: int,
    cams: bool = False,
    features: bool = False,
    batch_size: int = 64,
) -> None:
    """Let `teacher` answer all training images in views 0 … `views` − 1.

    Writes into an existing folder: `image_ids.npy` (N), `knowledge.json`, and float16 `logits.npy` (V, N, L); where
    they are asked for, `cams.npy` (V, N, L, h, w), signed class activation maps whose largest entry is 1, as only their
    direction counts, and `features.npy` (V, N, K), the feature map's mean.
    """
    device = next(teacher.parameters()).device
    teacher.to(memory_format=torch.channels_last).eval()
    rows = dataset.split("train")
    image_ids = rows["image_id"].to_numpy(str)
    arrays: dict[str, np.ndarray] = {}
    with tqdm(total=views * len(rows), unit="img", desc=f"teach {teacher.config['name']}", disable=None) as bar:
        for start in range(0, len(rows), batch_size):
            chosen = slice(start, start + batch_size)
            pixels = torch.from_numpy(dataset.images(rows.iloc[chosen])).to(device)
            for view in range(views):
                parameters = torch.from_numpy(view_parameters(image_ids[chosen], view, view_seed, augmentation))
                images = render_views(pixels, parameters.to(device)).contiguous(memory_format=torch.channels_last)
                for name, values in _answer(teacher, images, cams=cams, features=features).items():
                    if name not in arrays:
                        shape = (views, len(rows), *values.shape[1:])
                        arrays[name] = np.lib.format.open_memmap(
                            folder / f"{name}.npy", mode="w+", dtype=np.float16, shape=shape
                        )
                    arrays[name][view, chosen] = values.float().cpu().numpy()
                bar.update(len(pixels))
    for array in arrays.values():
        array.flush()
    np.save(folder / "image_ids.npy", image_ids)
    write_json(
        folder / "knowledge.json",
        {
            "teacher": teacher.config["name"],
            "labels": teacher.config["labels"],
            "views": views,
            "view_seed": view_seed,
            "cams": cams,
            "features": features,
            "augmentation": augmentation.model_dump(),
            "dataset_fingerprint": dataset.fingerprint,
            "teacher_fingerprint": teacher.config["fingerprint"],
            "checksum": _checksum(folder),
        },
    )


def _answer(teacher: Classifier, images: Tensor, *, cams: bool, features: bool) -> dict[str, Tensor]:
    """`logits` (N, L), and `cams` (N, L, h, w) and `features` (N, K) where they are asked for."""
    seen: list[Tensor] = []

    def start_graph(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_(cams))
        return seen[0]

    handle = teacher.cam_layer().register_forward_hook(start_graph)
    trained = [parameter for parameter in teacher.parameters() if parameter.requires_grad]
    for parameter in trained:  # nothing but the way from the feature map to the logits is differentiated
        parameter.requires_grad_(False)
    try:
        with torch.set_grad_enabled(cams):
            logits = teacher(images)
            answers = {"logits": logits.detach()}
            if cams:
                maps = class_maps(logits, seen[0], range(logits.shape[1]), create_graph=False).detach()
                answers["cams"] = maps / maps.abs().amax((2, 3), keepdim=True).clamp(min=1e-30)
            if features:
                answers["features"] = seen[0].detach().mean((2, 3))
    finally:
        handle.remove()
        for parameter in trained:
            parameter.requires_grad_(True)
    return answers


def _checksum(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in ("image_ids.npy", "logits.npy", "cams.npy", "features.npy"):
        if not (folder / name).exists() and name not in ("image_ids.npy", "logits.npy"):
            continue
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
    _cams: np.ndarray | None = None
    _features: np.ndarray | None = None

    @classmethod
    def open(
        cls,
        folder: Path,
        dataset: Dataset,
        augmentation: Augmentation,
        *,
        views: int,
        view_seed: int,
        cams: bool = False,
        features: bool = False,
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
            maps = np.load(folder / "cams.npy", mmap_mode="r") if cams and meta["cams"] else None
            pooled = np.load(folder / "features.npy", mmap_mode="r") if features and meta["features"] else None
            damaged = _checksum(folder) != meta["checksum"]
        except (OSError, ValueError, KeyError):
            damaged = True
        if damaged:
            raise UserError(f"{folder}: the teacher's answers are damaged; run the teach stage again")
        for key, value in (
            ("augmentation", augmentation.model_dump()),
            ("views", views),
            ("view_seed", view_seed),
            ("cams", cams),
            ("features", features),
            ("dataset_fingerprint", dataset.fingerprint),
        ):
            if meta[key] != value:
                raise UserError(f"{folder}: the teacher answered for another {key}; run the teach stage again")
        columns = [meta["labels"].index(label) if label in meta["labels"] else None for label in dataset.labels]
        if columns.count(None) == len(columns):
            wanted, known = ", ".join(dataset.labels), ", ".join(meta["labels"])
            raise UserError(f"{folder}: the teacher knows none of the labels {wanted}, but {known}")
        rows = {image_id: row for row, image_id in enumerate(image_ids.tolist())}
        return cls(
            meta["teacher"], meta["views"], meta["view_seed"], meta["checksum"], rows, logits, columns, maps, pooled
        )

    def logits(self, image_ids: Sequence[str], view: int) -> np.ndarray:
        """The teacher's logits for images in a view: float32 (N, L), NaN for labels that it does not know.

        In the order of `image_ids` and of the data set's labels.

        Raises:
            KeyError: the teacher was not asked about an image.
        """
        return self._by_label(self._logits, image_ids, view)

    def cams(self, image_ids: Sequence[str], view: int) -> np.ndarray:
        """The teacher's signed class activation maps: float32 (N, L, h, w), NaN for labels that it does not know."""
        return self._by_label(self._cams, image_ids, view)

    def features(self, image_ids: Sequence[str], view: int) -> np.ndarray:
        """The teacher's pooled features: float32 (N, K)."""
        return self._features[view][self._places(image_ids)].astype(np.float32)

    def _places(self, image_ids: Sequence[str]) -> np.ndarray:
        return np.array([self._rows[image_id] for image_id in image_ids])

    def _by_label(self, array: np.ndarray, image_ids: Sequence[str], view: int) -> np.ndarray:
        answers = array[view][self._places(image_ids)].astype(np.float32)
        out = np.full((len(answers), len(self._columns), *answers.shape[2:]), np.nan, np.float32)
        for label, column in enumerate(self._columns):
            if column is not None:
                out[:, label] = answers[:, column]
        return out
