"""The training images in their views, batch by batch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from medistill.data.dataset import Dataset
from medistill.errors import UserError
from medistill.layout import DataFolder
from medistill.models.classifier import pooled_map
from medistill.training.spec import TrainingSpec, TrainingStage
from medistill.views import open_frames, read_ahead, render_views, send, view_parameters


@dataclass(frozen=True)
class Batch:
    """A batch as an objective gets it, besides the logits.

    Attributes:
        image_ids: N ids.
        view: number of the view that the network saw.
        targets: float32 (N, L); 1, 0, NaN where unknown.
        images: the view itself, float32 (N, C, H, W); the whole frame's where teachers are asked live.
        features: the network's last feature map (N, K, h, w), with its graph; of one without a map its last features.
        pool: from such features to pooled ones, float32 (N, K).
        class_maps: the network's signed Grad-CAM, float32 (N, M, h, w) with its graph, of labels int64 (N, M).
    """

    image_ids: list[str]
    view: int
    targets: Tensor
    images: Tensor | None = None
    features: Tensor | None = None
    pool: Callable[[Tensor], Tensor] = pooled_map
    class_maps: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Drawn:
    """A batch whose view is drawn but not rendered yet.

    Attributes:
        batch: without images.
        frames: uint8 (N, C, s, s).
        parameters: of the view, float32 (N, 7).
    """

    batch: Batch
    frames: Tensor
    parameters: Tensor

    def render(self) -> Batch:
        """The batch with the images of its view."""
        return replace(self.batch, images=render_views(self.frames, self.parameters))


def training_rows(dataset: Dataset, unlabelled: bool) -> pd.DataFrame:
    """Rows of the training split: those with a label that is known, or all.

    Raises:
        UserError: none has a label.
    """
    rows = dataset.split("train")
    labelled = ~np.isnan(dataset.targets(rows)).all(axis=1)
    if not labelled.any():
        raise UserError(f"{DataFolder(dataset.folder).manifest}: no image of the train split has a label")
    return rows if unlabelled else rows[labelled].reset_index(drop=True)


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Batches of an epoch; an incomplete last one is left out, other images each epoch, unless it is the only one."""
    return max(1, images // batch_size)


def batches_per_epoch(dataset: Dataset, spec: TrainingSpec) -> int:
    """Batches of an epoch of `spec`: of the images with labels where it has stages, in each of these.

    Raises:
        UserError: no image has a label.
    """
    return steps_per_epoch(len(training_rows(dataset, spec.recipe.unlabelled)), spec.training.batch_size)


class Batches:
    """The batches of a stage, epoch by epoch; if several processes share each batch, the part of this one.

    The order of an epoch and its views depend on seeds and the epoch alone, so a resumed training gets the same
    batches.

    An epoch of a stage has as many batches as one of a baseline, whatever images the stage shows, so that students and
    baselines train for as many steps. Where those are more images, their order goes on in the next epoch; each time
    that all have been shown they have a new order and the next view.

    Attributes:
        size: images of a whole batch.
        per_epoch: batches of an epoch.
    """

    def __init__(
        self,
        dataset: Dataset,
        spec: TrainingSpec,
        stage: TrainingStage,
        *,
        input_size: int | None,
        device: torch.device,
        part: slice,
    ) -> None:
        """Open the frames of the images that a stage of `spec` trains on.

        Args:
            dataset: where they are.
            spec: seeds, views and batch size.
            stage: whether images without a label train.
            input_size: height and width that the network sees; None: those of the frames. Views are drawn from whole
                frames where teachers are asked live, who may see larger ones.
            device: where batches are put.
            part: this process's images of each batch.

        Raises:
            UserError: no image has a label, or a shard is missing or damaged.
        """
        rows = training_rows(dataset, stage.recipe.unlabelled)
        self._spec, self._device, self._part = spec, device, part
        self._frames = open_frames(dataset, rows, None if spec.recipe.views == "live" else input_size)
        self._targets = torch.from_numpy(dataset.targets(rows))
        self._image_ids = rows["image_id"].to_numpy()
        self.size = min(spec.training.batch_size, len(rows))
        self._per_pass = steps_per_epoch(len(rows), spec.training.batch_size)
        self.per_epoch = batches_per_epoch(dataset, spec)

    def of_epoch(self, epoch: int) -> Iterator[Drawn]:
        """The batches of an epoch, counted from 0."""
        first = epoch * self.per_epoch
        places = [divmod(step, self._per_pass) for step in range(first, first + self.per_epoch)]
        orders = {
            turn: np.random.default_rng([self._spec.seed, turn]).permutation(len(self._image_ids))
            for turn in {turn for turn, _ in places}
        }
        views = {turn: turn if self._spec.views is None else turn % self._spec.views for turn in orders}
        chosen = [(views[turn], orders[turn][i * self.size : (i + 1) * self.size][self._part]) for turn, i in places]
        # A GPU must not wait for the next batch; on a CPU a reader would only take a core from the network.
        each = read_ahead if self._device.type == "cuda" else map
        return iter(each(self._read, chosen))

    def _read(self, drawn_images: tuple[int, np.ndarray]) -> Drawn:
        """Ids, targets, frames and drawn view parameters: of a view, and of the images at these places."""
        view, chosen = drawn_images
        ids = list(self._image_ids[chosen])
        drawn = torch.from_numpy(view_parameters(ids, view, self._spec.view_seed, self._spec.augmentation))
        targets, frames, parameters = (
            send(values, self._device) for values in (self._targets[chosen], self._frames(chosen), drawn)
        )
        return Drawn(Batch(ids, view, targets), frames, parameters)
