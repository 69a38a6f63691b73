"""Cached answers of teachers: logits of every training image in every view, written once, read by image id.

A distillation epoch then costs what training without a teacher costs, however many or large the teachers are.
"""

import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from medistill.augmentation import Augmentation
from medistill.checksums import TEACH_AGAIN, checksums, reading
from medistill.data import provenance
from medistill.data.dataset import Dataset, label_columns
from medistill.distillation.answers import ANSWERS, answerable
from medistill.distillation.settings import Teach
from medistill.distillation.teachers import Asked, TorchModel, by_label, require_finite, unknown_labels
from medistill.errors import UserError
from medistill.files import remove, reserve, write_array, writing
from medistill.layout import KnowledgeFolder
from medistill.models.classifier import Classifier
from medistill.records.models import AnsweredSoFar, Config, KnowledgeRecord
from medistill.training.batches import Batch
from medistill.training.memory import explain_out_of_memory
from medistill.training.spec import fingerprint
from medistill.views import read_frames, render_views, send, view_parameters

EVERY = 10.0
"""Seconds between two saves of a teacher's progress: the most work that an interruption loses."""


def write_knowledge(
    folder: Path, teacher: Classifier | Asked, dataset: Dataset, augmentation: Augmentation, asked: Teach
) -> None:
    """Let `teacher` answer all training images in views 0 … `asked.views` − 1.

    Writes into an existing folder: `image_ids.npy` (N), `knowledge.json`, a record of all files that the folder then
    has, and float16 `logits.npy` (V, N, L); where they are asked for, `attention.npy` (V, N, h, w), `cams.npy`
    (V, N, L, h, w) and `features.npy` (V, N, K), as `ask` gives them, of those that such a network has. If an
    interrupted call left a part of the same answers, it continues after the undamaged ones.

    Raises:
        UserError: an answer is not finite or does not fit float16, or memory or the disk does not suffice.
    """
    views, view_seed, batch_size = asked.views, asked.view_seed, asked.batch_size
    model = TorchModel(teacher, dataset.image_size) if isinstance(teacher, Classifier) else teacher
    needs = set(answerable(asked.answers, model.map_shape))
    rows = dataset.split("train")
    image_ids = rows["image_id"].to_numpy(str)
    record = _record(model.config, dataset, augmentation, asked, model.map_shape)
    settings = model.config.get("fingerprint", "")  # answers depend on more than weights, such as the normalisation
    progress = _Progress(folder, fingerprint({**record.to_json(), "teacher_fingerprint": settings}))
    arrays, first = progress.read()
    memory = partial(explain_out_of_memory, model, dataset, f"teach.batch_size lower than {batch_size}")
    title = f"teach {model.config['name']}"
    with tqdm(total=views * len(rows), initial=views * first, unit="img", desc=title, disable=None) as bar:
        for start in range(first, len(rows), batch_size):
            chosen = slice(start, start + batch_size)
            names: list[str] = image_ids[chosen].tolist()
            with memory():
                pixels = send(read_frames(dataset, rows.iloc[chosen], model.input_size), model.device)
            for view in range(views):
                parameters = torch.from_numpy(view_parameters(names, view, view_seed, augmentation))
                with memory():
                    images = render_views(pixels, send(parameters, model.device))
                    answers = {name: values.half().cpu() for name, values in model.ask(images, needs).items()}
                require_finite(answers, names, model.config)
                if not arrays:
                    shapes = {name: (views, len(rows), *values.shape[1:]) for name, values in answers.items()}
                    arrays = _create(folder, shapes)
                for name, values in answers.items():
                    arrays[name][view, chosen] = values.numpy()
                bar.update(len(pixels))
            progress.write(arrays, start + len(pixels))
    _flush(folder, arrays)
    _finish(folder, record, image_ids)
    progress.remove()


def write_table_knowledge(
    folder: Path, config: Config, answers: pd.DataFrame, dataset: Dataset, augmentation: Augmentation, asked: Teach
) -> None:
    """Write what a table says about all training images: one view, which stands for all, NaN without a row.

    Args:
        folder: exists; it gets the files of `write_knowledge`.
        config: of the table's folder.
        answers: logits, one column per label of the table; index: image ids.
        dataset: whose training images are asked about.
        augmentation: of the views that students see.
        asked: their number and seed.
    """
    image_ids = dataset.split("train")["image_id"].to_numpy(str)
    logits = answers.reindex(image_ids).to_numpy(np.float16)[None]
    with writing(KnowledgeFolder(folder).answers("logits")):
        write_array(KnowledgeFolder(folder).answers("logits"), logits)
    record = _record(config, dataset, augmentation, asked, ())
    _finish(folder, record.model_copy(update={"every_view": True}), image_ids)


def _record(
    teacher: Config, dataset: Dataset, augmentation: Augmentation, asked: Teach, map_shape: Sequence[int]
) -> KnowledgeRecord:
    """What a teacher is asked, before it has answered."""
    return KnowledgeRecord(
        teacher=teacher["name"],
        labels=teacher["labels"],
        views=asked.views,
        view_seed=asked.view_seed,
        answers=asked.answers,
        map_shape=list(map_shape),
        augmentation=augmentation.model_dump(mode="json"),
        dataset_fingerprint=dataset.fingerprint,
        teacher_sha256=teacher["model_sha256"],
        checksum="",  # of the answers, which come now
    )


def _finish(folder: Path, record: KnowledgeRecord, image_ids: np.ndarray) -> None:
    """Write the ids and the record of all files that are there."""
    written = KnowledgeFolder(folder)
    with writing(written.image_ids):
        write_array(written.image_ids, image_ids)
    files = checksums((file for file in folder.iterdir() if file not in (written.record, written.progress)), folder)
    checksum = _checksum(record.labels, files)
    record.model_copy(update={"checksum": checksum, "files": files}).write(written.record)


class _Progress:
    """The number of images with complete answers, in a file beside the answers, with checksums of the answers."""

    def __init__(self, folder: Path, identity: str) -> None:
        """`identity`: hash of every input of the answers, code included."""
        self._folder, self._file, self._identity = folder, KnowledgeFolder(folder).progress, identity
        self._written = time.monotonic()
        self._parts: list[tuple[int, str]] = []  # images so far, and the checksum of the answers since the part before

    def read(self) -> tuple[dict[str, np.memmap], int]:
        """The answers so far and their number of images; damaged ones and those of another identity are removed."""
        if self._file.exists():
            try:
                state = AnsweredSoFar.read(self._file)
                if state.identity == self._identity:
                    return self._resume(state)
            except UserError as error:
                print(f"note: {error}; the answers are computed from the start", file=sys.stderr)
        for name in ANSWERS:
            remove(KnowledgeFolder(self._folder).answers(name))
        self.remove()
        return {}, 0

    def _resume(self, state: AnsweredSoFar) -> tuple[dict[str, np.memmap], int]:
        """The answers up to the first part that is damaged."""
        arrays: dict[str, np.memmap] = {}
        for name, shape in state.arrays.items():
            file = KnowledgeFolder(self._folder).answers(name)
            with reading(file, "it held the answers so far"):
                arrays[name] = np.load(file, mmap_mode="r+")  # extends a truncated file
            reserve(file)
            if list(arrays[name].shape) != shape or arrays[name].dtype != np.float16:
                raise UserError(f"{file}: damaged, it has another shape")
        first = 0
        for images, digest in state.parts:
            if digest != _part_checksum(arrays, first, images):
                print(
                    f"note: {self._folder}: damaged; the answers after the first {first} images are computed again",
                    file=sys.stderr,
                )
                break
            self._parts.append((images, digest))
            first = images
        return arrays, first

    def write(self, arrays: dict[str, np.memmap], images: int) -> None:
        """Save the number of answered images from time to time, after the answers themselves."""
        if time.monotonic() - self._written < EVERY:
            return
        _flush(self._folder, arrays)
        before = self._parts[-1][0] if self._parts else 0
        self._parts.append((images, _part_checksum(arrays, before, images)))
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        AnsweredSoFar(identity=self._identity, arrays=shapes, parts=self._parts).write(self._file)
        self._written = time.monotonic()

    def remove(self) -> None:
        """Finish: all answers are complete."""
        remove(self._file)


def _part_checksum(arrays: dict[str, np.memmap], first: int, last: int) -> str:
    """Checksum of the answers about images `first` … `last` − 1."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(name.encode())
        for view in array:
            digest.update(np.ascontiguousarray(view[first:last]).data)
    return digest.hexdigest()


def _create(folder: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.memmap]:
    """Empty float16 arrays in files; `UserError` if the disk is too small."""
    sizes = {name: 2 * math.prod(shape) for name, shape in shapes.items()}
    free = shutil.disk_usage(folder).free
    if sum(sizes.values()) > free:
        parts = ", ".join(f"{name} {size / 1e9:.3g}" for name, size in sizes.items())
        raise UserError(
            f"{folder.parent}: the teacher's answers take {sum(sizes.values()) / 1e9:.3g} GB ({parts}), and"
            f" {free / 1e9:.3g} are free; lower teach.views below {shapes['logits'][0]}, or leave features or"
            " cams out of teach.answers"
        )
    arrays: dict[str, np.memmap] = {}
    try:
        for name, shape in shapes.items():
            file = KnowledgeFolder(folder).answers(name)
            with writing(file):
                arrays[name] = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=shape)
            reserve(file)
    except UserError:
        for name in shapes:
            remove(KnowledgeFolder(folder).answers(name))
        raise
    return arrays


def _flush(folder: Path, arrays: dict[str, np.memmap]) -> None:
    for name, array in arrays.items():
        with writing(KnowledgeFolder(folder).answers(name)):
            array.flush()


def _checksum(labels: list[str], files: dict[str, str]) -> str:
    """Checksum of all answers with their labels and image ids, whose order matters."""
    digest = hashlib.sha256(json.dumps(labels).encode())
    for name in ("image_ids", *ANSWERS):
        digest.update(bytes.fromhex(files.get(f"{name}.npy", "")))
    return digest.hexdigest()


@dataclass(frozen=True)
class Knowledge:
    """One teacher's answers, memory-mapped.

    Attributes:
        folder: where they are.
        name: the teacher's.
        views: how many views of each image were answered.
        view_seed: the seed of the views.
        every_view: the answers are the same in every view, as those of a table.
        checksum: of all answers and their labels.
        map_shape: K, h, w of its feature map, or less; see `Teacher`.
        unknown: the data set's labels that it does not know.
    """

    folder: Path
    name: str
    views: int
    view_seed: int
    every_view: bool
    checksum: str
    map_shape: list[int]
    unknown: list[str]
    _rows: dict[str, int]
    _columns: list[int | None]
    _arrays: dict[str, np.ndarray]

    @classmethod
    def open(cls, folder: Path, dataset: Dataset, augmentation: Augmentation, asked: Teach) -> "Knowledge":
        """Open a teacher's answers for distillation on `dataset`, in views drawn from `augmentation`.

        A teacher may know other labels than the data set: labels are matched by name.

        Raises:
            UserError: a file is missing or damaged, the answers are to other images or views than `asked`, or the
                teacher knows none of the data set's labels.
        """
        record = KnowledgeRecord.read_whole(KnowledgeFolder(folder).record)
        image_ids = np.load(KnowledgeFolder(folder).image_ids)
        for key, value, what in (
            ("augmentation", augmentation.model_dump(mode="json"), "augmentation"),
            ("views", asked.views, "views"),
            ("view_seed", asked.view_seed, "view_seed"),
            ("answers", asked.answers, "list of answers"),
            ("dataset_fingerprint", dataset.fingerprint, "dataset_fingerprint"),
        ):
            if getattr(record, key) != value:
                raise UserError(f"{folder}: the answers are for another {what}; {TEACH_AGAIN}")
        given = ("logits", *answerable(record.answers, record.map_shape))
        arrays = {name: np.load(KnowledgeFolder(folder).answers(name), mmap_mode="r") for name in given}
        columns = label_columns(record.labels, dataset.labels, str(folder))
        rows = {image_id: row for row, image_id in enumerate(image_ids.tolist())}
        unknown = unknown_labels(dataset, columns)
        return cls(
            folder=folder,
            name=record.teacher,
            views=record.views,
            view_seed=record.view_seed,
            every_view=record.every_view,
            checksum=record.checksum,
            map_shape=record.map_shape,
            unknown=unknown,
            _rows=rows,
            _columns=columns,
            _arrays=arrays,
        )

    @property
    def seen(self) -> provenance.TrainIds:
        """Hashes of the images and groups that the teacher was trained on.

        Raises:
            UserError: the file beside the answers is missing or damaged.
        """
        return provenance.read_ids(KnowledgeFolder(self.folder).train_ids)

    def answer(self, batch: Batch, needs: AbstractSet[str]) -> dict[str, Tensor]:
        """What the teacher answered about a batch's images in its view, on the device of its targets; see `Teacher`."""
        answers = {name: self.read(name, batch.image_ids, batch.view) for name in {"logits", *needs}}
        return {name: send(torch.from_numpy(values), batch.targets.device) for name, values in answers.items()}

    def read(self, kind: str, image_ids: Sequence[str], view: int) -> np.ndarray:
        """The teacher's answers of one kind about images in a view, in the order of `image_ids`: float32 (N, …).

        An axis of labels is in the data set's order, NaN for labels that the teacher does not know, and for images that
        a table of answers lacks.

        Args:
            kind: of `ANSWERS`.
            image_ids: of the images.
            view: number of the view.

        Raises:
            KeyError: the teacher was not asked about an image, or not for this kind.
        """
        places = np.array([self._rows[image_id] for image_id in image_ids])
        answers: np.ndarray = self._arrays[kind][0 if self.every_view else view][places].astype(np.float32)
        if not ANSWERS[kind].by_label:
            return answers
        return by_label(torch.from_numpy(answers), self._columns).numpy()
