"""What a network says of images, changed or not: its logits, and the features by which unlike images are told."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from medistill.data import provenance
from medistill.data.dataset import Dataset, FrameReader
from medistill.layout import ModelFolder
from medistill.models.classifier import Classifier
from medistill.records.models import ModelRecord
from medistill.stress.shifts import MADE, MIRRORED, SHIFTS, Change, Frames
from medistill.stress.tap import forward_tapped
from medistill.text import by_hash
from medistill.views import render_plain

BATCH = 8  # faster than larger ones on a CPU, and every network that could be trained fits


@dataclass(frozen=True)
class Material:
    """The images that networks are asked about.

    Attributes:
        dataset: of the rows.
        test, training, validation: rows of its manifest.
        others: images of other kinds by name, uint8 (N, C, S, S).
    """

    dataset: Dataset
    test: pd.DataFrame
    training: pd.DataFrame
    validation: pd.DataFrame
    others: Mapping[str, Frames]

    @classmethod
    def of(cls, dataset: Dataset, images: int, others: Mapping[str, Frames]) -> "Material":
        """At most so many test images, and four times as many of training and of validation."""
        test, training, validation = (dataset.split(name) for name in ("test", "train", "val"))
        return cls(dataset, some(test, images), some(training, 4 * images), some(validation, 4 * images), others)

    def images_asked(self, *, student: bool) -> int:
        """How many images a model answers."""
        count = (1 + len(SHIFTS)) * len(self.test)
        if student:
            fitted = 2 * len(self.training) + len(self.validation)  # training images mirrored, too
            count += len(MADE) * len(self.test) + fitted + sum(map(len, self.others.values()))
        return count


@dataclass(frozen=True)
class Answered:
    """A network's answers about N images: logits (N, L) and features (N, D) as `Unlike` takes them, both float32."""

    logits: NDArray[np.float32]
    features: NDArray[np.float32]


def some(rows: pd.DataFrame, images: int) -> pd.DataFrame:
    """Rows of whole groups, in the order of a hash of their names, while these have at most so many images.

    The first group is taken in any case.
    """
    sizes = rows.groupby("group_id").size()
    fits = sizes[by_hash(sizes.index)].cumsum() <= images
    fits.iloc[0] = True
    return rows[rows["group_id"].isin(fits.index[fits])].reset_index(drop=True)


def askable(
    folders: Mapping[str, ModelFolder], dataset: Dataset, *, teachers: Collection[str]
) -> tuple[dict[str, ModelFolder], dict[str, str]]:
    """Folder of each model that can be asked about new images.

    Args:
        folders: of all models.
        dataset: its test images are changed.
        teachers: names of those that may know other labels, or be something else than a network of torch.

    Returns:
        The folders; and of each teacher that is left out, why.

    Raises:
        UserError: a file is missing or damaged, or a model was trained on images that it is tested on.
    """
    found, left_out = {}, {}
    for name, files in folders.items():
        record = ModelRecord.read_whole(files.config)
        provenance.refuse_overlap(files.train_ids, dataset)
        missing = [label for label in dataset.labels if label not in record.labels]
        if name in teachers and not files.weights.is_file():
            left_out[name] = "it cannot be asked about new images"
        elif name in teachers and missing:
            left_out[name] = f"it does not know {', '.join(missing)}"
        else:
            found[name] = files
    return found, left_out


@torch.inference_mode()
def answer(
    model: Classifier,
    dataset: Dataset,
    batches: Iterable[Frames],
    on_images: Callable[[int], object],
    *,
    tapped: bool,
) -> Answered:
    """A network's answers about images.

    Args:
        model: where it is to run; in evaluation mode.
        dataset: its labels are the columns of the logits.
        batches: uint8 (n, C, S, S) each.
        on_images: called with the number of new answers.
        tapped: whether features are wanted; otherwise there are none, (N, 0).
    """
    device = next(model.parameters()).device
    columns = [model.config["labels"].index(label) for label in dataset.labels]
    logits, features = [], []
    for frames in batches:
        images = render_plain(torch.from_numpy(np.ascontiguousarray(frames)).to(device))
        images = images.contiguous(memory_format=torch.channels_last)
        if tapped:
            given, _, own = forward_tapped(model, images)
        else:
            given, own = model(images), torch.empty(len(images), 0)
        logits.append(given[:, columns].float().cpu().numpy())
        features.append(own.cpu().numpy())
        on_images(len(frames))
    return Answered(np.concatenate(logits), np.concatenate(features))


def frames_of(dataset: Dataset, rows: pd.DataFrame, change: Change | None = None) -> Iterator[Frames]:
    """Frames of rows of the manifest, a few at a time, changed where a change is given."""
    reader = FrameReader(dataset, rows)
    for start in range(0, len(rows), BATCH):
        places = np.arange(start, min(start + BATCH, len(rows)))
        frames = reader[places]
        yield frames if change is None else change.of(rows["image_id"].iloc[places].tolist(), frames)


def _parts(frames: Frames) -> Iterator[Frames]:
    for start in range(0, len(frames), BATCH):
        yield frames[start : start + BATCH]


@dataclass(frozen=True)
class ModelAnswers:
    """One model's answers.

    Attributes:
        plain: about the test images as they are.
        changed: about the same images after each change, by its name: all of `SHIFTS`, of a student of `MADE` too.
        training, mirrored, validation, others: of a student; mirrored are training images, others go by kind.
    """

    plain: Answered
    changed: Mapping[str, Answered]
    training: Answered | None = None
    mirrored: Answered | None = None
    validation: Answered | None = None
    others: Mapping[str, Answered] | None = None


def ask(
    model: Classifier, material: Material, *, student: bool, on_images: Callable[[int], object] = lambda count: None
) -> ModelAnswers:
    """Ask a model about all images that it is to answer.

    Args:
        model: moved to a GPU where there is one.
        material: the images.
        student: whether features are wanted, and answers about training, validation and other images.
        on_images: called with the number of new answers.
    """
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    dataset = material.dataset

    def about(batches: Iterable[Frames]) -> Answered:
        return answer(model, dataset, batches, on_images, tapped=student)

    changes = (*SHIFTS, *MADE) if student else SHIFTS
    plain = about(frames_of(dataset, material.test))
    changed = {change.name: about(frames_of(dataset, material.test, change)) for change in changes}
    if not student:
        return ModelAnswers(plain, changed)
    return ModelAnswers(
        plain,
        changed,
        about(frames_of(dataset, material.training)),
        about(frames_of(dataset, material.training, MIRRORED)),
        about(frames_of(dataset, material.validation)),
        {kind: about(_parts(frames)) for kind, frames in material.others.items()},
    )
