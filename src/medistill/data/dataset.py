"""The ingested data set as every later stage reads it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from medistill.checksums import INGEST_AGAIN, reading
from medistill.errors import UserError
from medistill.layout import HERE, DataFolder
from medistill.records.data import LABEL_PREFIX, DatasetInfo
from medistill.task import Task


@dataclass(frozen=True)
class Dataset:
    """An ingested data set: a manifest with one row per image, and memory-mapped shards of pixels.

    Attributes:
        folder: where `ingest` wrote it.
        name: shown in reports.
        format: of its source, as `data.format` named it.
        task: whether its labels exclude each other.
        labels: label names, in the order of every logit vector.
        image_size: height and width of the frames in pixels.
        channels: 1 or 3.
        fit: how frames were made square (`pad`, `squash`, `crop`).
        fingerprint: changes when pixels, labels or splits change.
        manifest: one row per image, sorted by `image_id`; columns as in docs/architecture.md.
        checked: by shard, which of its frames this process has verified against the manifest.
    """

    folder: Path
    name: str
    format: str
    task: Task
    labels: list[str]
    image_size: int
    channels: int
    fit: str
    fingerprint: str
    manifest: pd.DataFrame
    checked: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, folder: Path = HERE.processed.folder) -> "Dataset":
        """Open what `ingest` wrote.

        Raises:
            UserError: a file is missing or damaged. Pixels are verified when they are read, see `FrameReader`.
        """
        files = DataFolder(Path(folder))
        info = DatasetInfo.read_whole(files.record, [files.manifest.name])
        return cls(
            folder=files.folder,
            name=info.name,
            format=info.source.format,
            task=info.task,
            labels=info.labels,
            image_size=info.image_size,
            channels=info.channels,
            fit=info.fit,
            fingerprint=info.fingerprint,
            manifest=pd.read_parquet(files.manifest),
        )

    @property
    def files(self) -> DataFolder:
        """The files in its folder."""
        return DataFolder(self.folder)

    def split(self, name: str) -> pd.DataFrame:
        """Rows of one split (`train`, `val`, `test`), sorted by `image_id`.

        Raises:
            UserError: the split is empty.
        """
        rows = self.manifest[self.manifest["split"] == name].reset_index(drop=True)
        if rows.empty:
            raise UserError(f"{self.files.manifest}: the {name} split is empty; change data.split or fractions")
        return rows

    def targets(self, rows: pd.DataFrame) -> np.ndarray:
        """Labels of `rows`: float32 (N, L); 1, 0, or NaN where unknown."""
        return rows[[LABEL_PREFIX + label for label in self.labels]].to_numpy(np.float32, copy=True)

    def images(self, rows: pd.DataFrame) -> np.ndarray:
        """Pixels of `rows`: uint8 (N, C, H, W), in the order of `rows`."""
        return FrameReader(self, rows)[np.arange(len(rows))]

    def masks(self, rows: pd.DataFrame) -> np.ndarray:
        """Masks of `rows`, all of which must have one (`mask_row` of 0 or more): bool (N, H, W)."""
        return self._masks(rows["mask_row"].to_numpy(), "masks-")

    def lungs(self, rows: pd.DataFrame) -> np.ndarray:
        """Lung masks of `rows`, all of which must have one (`lung_row` of 0 or more): bool (N, H, W)."""
        return self._masks(rows["lung_row"].to_numpy(), "lungs-")

    def _masks(self, number: np.ndarray, prefix: str) -> np.ndarray:
        if (number < 0).any():
            raise ValueError("an image without a mask")
        names = [name for name in DatasetInfo.read(self.files.record).files if name.startswith(prefix)]
        DatasetInfo.read_whole(self.files.record, names)
        # every shard but the last is full
        full = 0
        out = np.empty((len(number), self.image_size, self.image_size), bool)
        for name in names:
            masks = np.load(self.folder / name, mmap_mode="r")
            here = np.flatnonzero((number >= full) & (number < full + len(masks)))
            out[here] = masks[number[here] - full] != 0
            full += len(masks)
        return out

    def boxes(self) -> pd.DataFrame:
        """Boxes: `image_id`, `label`, `x`, `y` (top left), `w`, `h`, as fractions of the frame; empty where none."""
        DatasetInfo.read_whole(self.files.record, [self.files.boxes.name])
        return pd.read_parquet(self.files.boxes)


class FrameReader:
    """Pixels of some rows of a data set, read when they are asked for: they stay in their memory-mapped shards.

    Each frame is verified against its checksum in the manifest when a process first reads it: verifying the whole data
    set would take longer than most stages, while for one frame it is cheap beside whatever the reader does with it.
    """

    def __init__(self, dataset: Dataset, rows: pd.DataFrame) -> None:
        """Open the shards that have the pixels of `rows`.

        Raises:
            UserError: one is missing or damaged.
        """
        self._shape = (dataset.channels, dataset.image_size, dataset.image_size)
        self._shard_of, self._row_of = rows["shard"].to_numpy(), rows["row"].to_numpy()
        self._ids, self._digests = rows["image_id"].to_numpy(), rows["sha256"].to_numpy()
        self._file, self._checked = dataset.files.images, dataset.checked
        self._shards = {}
        for shard in np.unique(self._shard_of):
            file = self._file(shard)
            with reading(file, INGEST_AGAIN):
                pixels = np.load(file, mmap_mode="r")
            last = self._row_of[self._shard_of == shard].max()
            if pixels.dtype != np.uint8 or pixels.shape[1:] != self._shape or len(pixels) <= last:
                raise UserError(
                    f"{file}: damaged: its shape differs from the one in {dataset.files.record.name}; {INGEST_AGAIN}"
                )
            self._shards[shard] = pixels
            self._checked.setdefault(shard, np.zeros(len(pixels), bool))

    def __getitem__(self, chosen: np.ndarray) -> np.ndarray:
        """Pixels of the rows in these places: uint8 (n, C, H, W), in their order."""
        out = np.empty((len(chosen), *self._shape), np.uint8)
        shard_of, row_of = self._shard_of[chosen], self._row_of[chosen]
        for shard in np.unique(shard_of):
            here = np.flatnonzero(shard_of == shard)
            out[here] = self._shards[shard][row_of[here]]
            checked = self._checked[shard]
            for place in here[~checked[row_of[here]]]:
                if hashlib.sha256(out[place]).hexdigest() != self._digests[chosen[place]]:
                    image = self._ids[chosen[place]]
                    raise UserError(f"{self._file(shard)}: the pixels of image {image} have changed; {INGEST_AGAIN}")
                checked[row_of[place]] = True
        return out


def count_labels(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of positives and of negatives of each label, int (L,) each.

    Args:
        targets: (N, L), 1, 0, or NaN where unknown; or (N,) for one label, which returns two numbers.
    """
    return (targets == 1).sum(axis=0), (targets == 0).sum(axis=0)


def label_columns(known: Sequence[str], wanted: Sequence[str], who: str) -> list[int | None]:
    """Index of each of the `wanted` labels among the `known` ones of a teacher, None for a label it does not know.

    Raises:
        UserError: the teacher knows none of them; the message begins with `who`.
    """
    columns = [known.index(label) if label in known else None for label in wanted]
    if columns.count(None) == len(columns):
        raise UserError(f"{who}: the teacher knows none of the labels {', '.join(wanted)}; it knows {', '.join(known)}")
    return columns
