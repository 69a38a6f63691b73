"""Prediction from image files with an exported model."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from medistill.errors import UserError
from medistill.images import ImageError, decode
from medistill.runtime.bundle import INPUT, OUTPUT, read_bundle
from medistill.runtime.probabilities import probabilities


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image, or why it could not be read.

    Attributes:
        image: the path as it was given.
        probabilities: one in 0..1 a label, in the order of the model's labels; they sum to 1 where the classes are
            exclusive (bundle.json: task multiclass). None where the image could not be read.
        error: the reason; None where the image could be read.
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
        path = self.bundle.model
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; export the model again") from None
        if hashlib.sha256(content).hexdigest() != self.bundle.sha256:
            raise UserError(f"{path}: damaged, its SHA-256 is not the one in bundle.json; copy or export it again")
        self._session = open_session(content, name=str(path), threads=threads)
        self._check_shapes()

    def predict(self, images: Iterable[Path], *, batch_size: int = 16) -> Iterator[Prediction]:
        """Predict image files, `batch_size` at a time; an image that cannot be read yields its error.

        Yields:
            A prediction an image, in the order of `images`.
        """
        batch: list[Path] = []
        for image in images:
            batch.append(Path(image))
            if len(batch) == batch_size:
                yield from self._predict_batch(batch)
                batch = []
        if batch:
            yield from self._predict_batch(batch)

    def logits(self, frames: np.ndarray) -> np.ndarray:
        """Logits, float32 (N, L), of frames, uint8 (N, C, S, S)."""
        return run(self._session, frames)

    def _check_shapes(self) -> None:
        bundle = self.bundle
        ports = {port.name: port.shape[1:] for port in [*self._session.get_inputs(), *self._session.get_outputs()]}
        expected = {INPUT: [bundle.channels, bundle.image_size, bundle.image_size], OUTPUT: [len(bundle.labels)]}
        for name, shape in expected.items():
            if ports.get(name) != shape:
                raise UserError(
                    f"{bundle.model}: {name} is {ports.get(name)}, but bundle.json needs {shape}; export it again"
                )

    def _predict_batch(self, images: list[Path]) -> Iterator[Prediction]:
        bundle = self.bundle
        frames: dict[int, np.ndarray] = {}
        errors: dict[int, str] = {}
        for index, image in enumerate(images):
            try:
                frames[index] = decode(image, size=bundle.image_size, channels=bundle.channels, fit=bundle.fit)
            except ImageError as error:
                errors[index] = error.reason
            except OSError as error:
                errors[index] = error.strerror or str(error)
        rows: dict[int, np.ndarray] = {}
        if frames:
            rows = dict(
                zip(frames, probabilities(self.logits(np.stack(list(frames.values()))), bundle.task), strict=True)
            )
        for index, image in enumerate(images):
            if index in errors:
                yield Prediction(image, error=errors[index])
            else:
                yield Prediction(image, dict(zip(bundle.labels, rows[index].tolist(), strict=True)))


def open_session(model: bytes, *, name: str, threads: int = 0) -> onnxruntime.InferenceSession:
    """Open an ONNX model on the CPU with a fixed number of threads (0: as many as ONNX Runtime likes).

    Raises:
        UserError: this ONNX Runtime cannot open it; `name` stands in the message.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only: its warnings are about hardware that is not there
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        reason = " ".join(str(error).split())
        raise UserError(f"{name}: ONNX Runtime {onnxruntime.__version__} cannot open it: {reason}") from None


def run(session: onnxruntime.InferenceSession, frames: np.ndarray) -> np.ndarray:
    """Logits, float32 (N, L), of frames, uint8 (N, C, S, S)."""
    (logits,) = session.run([OUTPUT], {INPUT: frames})
    return logits
