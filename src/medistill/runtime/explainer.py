"""Heat maps of labels that are asked for, by the file `model.explain.onnx` of an exported model."""

import numpy as np
from numpy.typing import ArrayLike

from medistill.checksums import EXPORT_AGAIN
from medistill.errors import UserError
from medistill.runtime.bundle import INPUT, LOGITS, Bundle
from medistill.runtime.predictor import read_model
from medistill.runtime.session import open_session, reason_of

ASKED, MAP = "label", "map"
"""Names in the graph, beside those of `model.onnx`: int64 (batch, asked) in, float32 (batch, asked, h, w) out."""


class Explainer:
    """A network that says where it looked, ready on the CPU."""

    def __init__(self, model: bytes, *, name: str, threads: int = 0) -> None:
        """Open the network.

        Args:
            model: content of model.explain.onnx.
            name: its name in messages, usually its file.
            threads: threads of one answer; 0 leaves it to ONNX Runtime.

        Raises:
            UserError: it is no such network, or ONNX Runtime cannot open it.
        """
        self._session = open_session(model, name=name, threads=threads)
        if set(self._session.inputs) != {INPUT, ASKED} or set(self._session.outputs) != {LOGITS, MAP}:
            raise UserError(f"{name}: does not take {INPUT} and {ASKED} and give {LOGITS} and {MAP}; {EXPORT_AGAIN}")

    @classmethod
    def of(cls, bundle: Bundle, *, threads: int = 0) -> "Explainer | None":
        """That of an exported model; None if it has none.

        Raises:
            UserError: its file is missing or damaged.
        """
        if bundle.explain is None:
            return None
        return cls(read_model(bundle.explain, bundle.explain_sha256), name=str(bundle.explain), threads=threads)

    def explain(self, frames: np.ndarray, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Logits and heat maps in one pass.

        Args:
            frames: uint8 (N, C, S, S).
            labels: int64 (N, M), the indices of the M labels that are explained of each image.

        Returns:
            Logits, float32 (N, L); and maps, float32 (N, M, h, w), HiResCAM where a cell is 16 pixels wide,
            unnormalised and ≥ 0, so that maps of one model can be compared.

        Raises:
            UserError: ONNX Runtime cannot run it on these.
        """
        try:
            logits, maps = self._session.inner.run([LOGITS, MAP], {INPUT: frames, ASKED: np.asarray(labels, np.int64)})
        except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
            raise UserError(f"{self._session.name}: {reason_of(error)}; {EXPORT_AGAIN}") from None
        return np.asarray(logits), np.asarray(maps)
