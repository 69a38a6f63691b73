"""Prediction from image files with an exported model."""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medistill.checksums import EXPORT_AGAIN
from medistill.errors import UserError
from medistill.files import read_regular
from medistill.images.decode import decode
from medistill.images.errors import ImageError
from medistill.runtime.bundle import LOGITS, MAPS, UNLIKE, read_bundle
from medistill.runtime.memory import free_memory
from medistill.runtime.session import open_session, run_all

LARGEST_MODEL = 10**9
"""Largest ONNX file in bytes; the largest network of both papers, VGG19, has 60 % of that."""

LARGEST_BATCH = 2**26
"""Bytes of the frames that are in memory at once; the network's feature maps need many times as much."""


NO_MAPS = "gives no heat maps, as its network does not end in pooling and layers of a known derivative"


def read_model(path: Path, sha256: str | None) -> bytes:
    """The content of an ONNX file of an exported model.

    Args:
        path: the file.
        sha256: its checksum in bundle.json, hex.

    Raises:
        UserError: it is missing, too large or damaged.
    """
    try:
        content = read_regular(path, limit=LARGEST_MODEL)
    except UserError as error:
        raise UserError(f"{error}; {EXPORT_AGAIN}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path}: damaged, its SHA-256 is not the one in bundle.json; copy or export it again")
    return content


@dataclass(frozen=True)
class Prediction:
    """The probabilities of one image, or the reason why there are none.

    Attributes:
        image: the path as it was given.
        probabilities: one per label in 0..1, calibrated, in the order of the model's labels; they sum to 1 where the
            classes are exclusive (bundle.json: task multiclass). None where the image could not be read or a logit is
            not finite.
        error: the reason; None where there are probabilities.
        unlike: above 1, the image is unlike those that the model was trained on (`stress.unlike`); None where the file
            does not say.
        frame: uint8 (C, S, S), the image as the model sees it; None unless maps were asked for.
        maps: (h, w) of each label, ≥ 0 and unnormalised; None as above.
    """

    image: Path
    probabilities: dict[str, float] | None = None
    error: str | None = None
    unlike: float | None = None
    frame: np.ndarray | None = None
    maps: dict[str, np.ndarray] | None = None

    @property
    def is_unlike(self) -> bool:
        """Whether the image is unlike those that the model was trained on, as far as the file says."""
        return self.unlike is not None and self.unlike > 1


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
        self._session = open_session(read_model(path, bundle.sha256), name=str(path), threads=threads)
        shape = (bundle.channels, bundle.image_size, bundle.image_size)
        self._session.require(shape, len(bundle.labels))
        self._most = max(1, LARGEST_BATCH // math.prod(shape))
        if (self._session.batch or 1) > self._most:
            raise UserError(
                f"{path}: takes {self._session.batch:,} images of this size at a time, but there is memory for"
                f" {self._most:,} only; export it again"
            )

    def predict(self, images: Iterable[Path], *, batch_size: int = 16, maps: bool = False) -> Iterator[Prediction]:
        """Predict image files, at most `batch_size` at a time; an image that cannot be read yields its error.

        Args:
            images: their paths.
            batch_size: images at a time.
            maps: give the heat map of each label as well.

        Yields:
            One prediction per image, in the order of `images`.

        Raises:
            UserError: the model fails, or maps are asked for and the file gives none.
        """
        if maps and MAPS not in self._session.outputs:
            raise UserError(f"{self.bundle.model}: {NO_MAPS}")
        size = self._session.batch or min(batch_size, self._most)
        batch: list[Path] = []
        for image in images:
            batch.append(Path(image))
            if len(batch) == size:
                yield from self._predict_batch(batch, maps)
                batch = []
        if batch:
            yield from self._predict_batch(batch, maps)

    def logits(self, frames: np.ndarray) -> np.ndarray:
        """Logits, float32 (N, L), of frames, uint8 (N, C, S, S).

        Raises:
            UserError: the model fails, or gives another number of logits than it says.
        """
        return self._ask(frames, [LOGITS])[LOGITS]

    def _ask(self, frames: np.ndarray, outputs: list[str]) -> dict[str, np.ndarray]:
        """Outputs of the model by name, each with one column for each label but for `UNLIKE`."""
        answers = run_all(self._session, frames, outputs)
        for name, values in answers.items():
            if name != UNLIKE and values.shape[1] != len(self.bundle.labels):
                raise UserError(
                    f"{self.bundle.model}: gives {values.shape[1]} {'logits' if name == LOGITS else name} per image for"
                    f" {len(self.bundle.labels)} labels; export it again"
                )
        return answers

    def _predict_batch(self, images: list[Path], maps: bool) -> Iterator[Prediction]:
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
        names = [LOGITS, *(name for name in (UNLIKE, *([MAPS] if maps else [])) if name in self._session.outputs)]
        answers = self._ask(np.stack(list(frames.values())), names) if frames else {}
        rows = {index: row for row, index in enumerate(frames)}
        for index, image in enumerate(images):
            if index in errors:
                yield Prediction(image, error=errors[index])
            else:
                own = {name: values[rows[index]] for name, values in answers.items()}
                yield self._answer(image, own, frames[index])

    def _answer(self, image: Path, own: dict[str, np.ndarray], frame: np.ndarray) -> Prediction:
        """The prediction from what the model says of one image."""
        labels, logits = self.bundle.labels, own[LOGITS]
        for label, logit in zip(labels, logits.tolist(), strict=True):
            if not math.isfinite(logit):
                return Prediction(image, error=f"the model's logit for {label} is {logit}")
        (row,) = self.bundle.calibration.probabilities(logits[None])
        answer = Prediction(image, dict(zip(labels, row.tolist(), strict=True)))
        if UNLIKE in own:
            answer = replace(answer, unlike=float(own[UNLIKE]))
        return replace(answer, frame=frame, maps=dict(zip(labels, own[MAPS], strict=True))) if MAPS in own else answer
