"""Prediction from image files with an exported model."""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medistill.checksums import EXPORT_AGAIN
from medistill.errors import UserError
from medistill.files import read_regular
from medistill.images.decode import decode
from medistill.images.errors import ImageError
from medistill.runtime.bundle import read_bundle
from medistill.runtime.memory import free_memory
from medistill.runtime.session import open_session, run
from medistill.task import Calibration

LARGEST_MODEL = 10**9
"""Largest ONNX file in bytes; the largest network of both papers, VGG19, has 60 % of that."""

LARGEST_BATCH = 2**26
"""Bytes of the frames that are in memory at once; the network's feature maps need many times as much."""


@dataclass(frozen=True)
class Prediction:
    """The probabilities of one image, or the reason why there are none.

    Attributes:
        image: the path as it was given.
        probabilities: one per label in 0..1, in the order of the model's labels; they sum to 1 where the classes are
            exclusive (bundle.json: task multiclass). None where the image could not be read or a logit is not finite.
        error: the reason; None where there are probabilities.
    """

    image: Path
    probabilities: dict[str, float] | None = None
    error: str | None = None


class Predictor:
    """An exported model, ready to predict on the CPU.

    Attributes:
        bundle: what bundle.json says about the model.
    """

    def __init__(self, folder: Path, *, threads: int = 0) -> None:
        """Open the model that the export stage wrote into `folder`.

        Args:
            folder: a folder with `bundle.json` and the ONNX file that it names.
            threads: threads of one prediction; 0 leaves it to ONNX Runtime.

        Raises:
            UserError: a file is missing, damaged, or of another version.
        """
        self.bundle = read_bundle(folder)
        bundle, path = self.bundle, self.bundle.model
        try:
            content = read_regular(path, limit=LARGEST_MODEL)
        except UserError as error:
            raise UserError(f"{error}; {EXPORT_AGAIN}") from None
        if hashlib.sha256(content).hexdigest() != bundle.sha256:
            raise UserError(f"{path}: damaged, its SHA-256 is not the one in bundle.json; copy or export it again")
        self._session = open_session(content, name=str(path), threads=threads)
        shape = (bundle.channels, bundle.image_size, bundle.image_size)
        self._session.require(shape, len(bundle.labels))
        self._most = max(1, LARGEST_BATCH // math.prod(shape))
        if (self._session.batch or 1) > self._most:
            raise UserError(
                f"{path}: takes {self._session.batch:,} images of this size at a time, but there is memory for"
                f" {self._most:,} only; export it again"
            )

    def predict(self, images: Iterable[Path], *, batch_size: int = 16) -> Iterator[Prediction]:
        """Predict image files, at most `batch_size` at a time; an image that cannot be read yields its error.

        Yields:
            One prediction per image, in the order of `images`.
        """
        size = self._session.batch or min(batch_size, self._most)
        batch: list[Path] = []
        for image in images:
            batch.append(Path(image))
            if len(batch) == size:
                yield from self._predict_batch(batch)
                batch = []
        if batch:
            yield from self._predict_batch(batch)

    def logits(self, frames: np.ndarray) -> np.ndarray:
        """Logits, float32 (N, L), of frames, uint8 (N, C, S, S).

        Raises:
            UserError: the model fails, or gives another number of logits than it says.
        """
        logits = run(self._session, frames)
        if logits.shape[1] != len(self.bundle.labels):
            raise UserError(
                f"{self.bundle.model}: gives {logits.shape[1]} logits per image for {len(self.bundle.labels)} labels;"
                " export it again"
            )
        return logits

    def _predict_batch(self, images: list[Path]) -> Iterator[Prediction]:
        bundle = self.bundle
        frames: dict[int, np.ndarray] = {}
        errors: dict[int, str] = {}
        for index, image in enumerate(images):
            try:
                frames[index] = decode(
                    image, size=bundle.image_size, channels=bundle.channels, fit=bundle.fit, memory=free_memory()
                )
            except ImageError as error:
                errors[index] = error.reason
            except OSError as error:
                errors[index] = error.strerror or str(error)
        logits = dict(zip(frames, self.logits(np.stack(list(frames.values()))), strict=True)) if frames else {}
        for index, image in enumerate(images):
            if index in errors:
                yield Prediction(image, error=errors[index])
            else:
                yield self._answer(image, logits[index])

    def _answer(self, image: Path, logits: np.ndarray) -> Prediction:
        """The prediction from one image's logits, float32 (L,)."""
        labels = self.bundle.labels
        for label, logit in zip(labels, logits.tolist(), strict=True):
            if not math.isfinite(logit):
                return Prediction(image, error=f"the model's logit for {label} is {logit}")
        (row,) = Calibration(self.bundle.task).probabilities(logits[None])
        return Prediction(image, dict(zip(labels, row.tolist(), strict=True)))
