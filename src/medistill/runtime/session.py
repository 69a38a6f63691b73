"""An ONNX model that ONNX Runtime has opened: pixels in, logits out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime

from medistill.errors import UserError
from medistill.runtime.bundle import INPUT, LOGITS, MAPS, UNLIKE
from medistill.runtime.onnx_file import has_external_data
from medistill.text import pluralise, shortened

FATAL = 4
"""Severity of ONNX Runtime's log: errors become exceptions, and names from the file are not printed unescaped."""

onnxruntime.set_default_logger_severity(FATAL)  # for messages outside of any session, such as failed allocations


@dataclass(frozen=True)
class Session:
    """An open model.

    Attributes:
        name: its name in messages, usually its file.
        inner: ONNX Runtime's session.
        inputs, outputs: type and shape of each by name; free sizes in a shape are text or None.
    """

    name: str
    inner: onnxruntime.InferenceSession
    inputs: dict[str, tuple[str, list[int | str | None]]]
    outputs: dict[str, tuple[str, list[int | str | None]]]

    @property
    def batch(self) -> int | None:
        """Images that it takes at a time; None: any number."""
        _, shape = self.inputs.get(INPUT, ("", []))
        return shape[0] if shape and isinstance(shape[0], int) and shape[0] > 0 else None

    def require(self, image: tuple[int, int, int], labels: int) -> None:
        """Refuse a model that does not take uint8 (N, *image) and nothing else, or does not give float32 (N, labels).

        Raises:
            UserError: the message names the input or output that differs.
        """
        for ports, name, kind, shape in (
            (self.inputs, INPUT, "tensor(uint8)", list(image)),
            (self.outputs, LOGITS, "tensor(float)", [labels]),
        ):
            their_kind, theirs = ports.get(name, ("missing", []))
            if (their_kind, theirs[1:]) != (kind, shape):
                there = f"{their_kind} {theirs[1:]}" if name in ports else "missing"
                raise UserError(
                    f"{self.name}: {name} is {there}, but bundle.json needs {kind} {shape} for each image;"
                    " export it again"
                )
        if len(self.inputs) > 1:
            others = shortened(", ".join(name for name in self.inputs if name != INPUT), 200)
            raise UserError(f"{self.name}: has inputs other than {INPUT}: {others}; export it again")


def open_session(model: bytes, *, name: str, threads: int = 0) -> Session:
    """Open an ONNX model on the CPU with a fixed number of threads (0: ONNX Runtime decides).

    It is opened from memory, and only if it is complete, so that nothing depends on the current folder.

    Raises:
        UserError: a part of the model is in another file, or this ONNX Runtime cannot open it; `name` stands in the
            message.
    """
    try:
        external = has_external_data(model)
    except ValueError as error:
        raise UserError(f"{name}: not an ONNX file, or damaged ({error}); export it again") from None
    if external:
        raise UserError(
            f"{name}: stores weights in another file (external data), which is not read; save it as one file"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = FATAL
    options.add_session_config_entry("session.load_model_format", "ONNX")  # not ORT's own, which is not looked into
    try:
        inner = onnxruntime.InferenceSession(
            model,
            options,
            providers=["CPUExecutionProvider"],
            enable_fallback=0,  # it would print to stdout, and try the same again
        )
        inputs, outputs = (
            {port.name: (port.type, port.shape) for port in ports}  # of a damaged file they may be no text
            for ports in (inner.get_inputs(), inner.get_outputs())
        )
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        raise UserError(
            f"{name}: ONNX Runtime {onnxruntime.__version__} cannot open it ({reason_of(error)}); export it again, or"
            " install a newer onnxruntime"
        ) from None
    return Session(name, inner, inputs, outputs)


def run(session: Session, frames: np.ndarray) -> np.ndarray:
    """Logits, float32 (N, L), of frames, uint8 (N, C, S, S); see `run_all`."""
    return run_all(session, frames, [LOGITS])[LOGITS]


def run_all(session: Session, frames: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray]:
    """Some outputs by name, float32 (N, …), of frames, uint8 (N, C, S, S).

    A model that takes a fixed number of images is given exactly that many at a time; the last batch is filled up with
    black images.

    Raises:
        UserError: ONNX Runtime cannot run the model, or it does not answer with one row for each image.
    """
    step, count = session.batch, len(frames)
    if step is None or step == count:
        return _run(session, frames, outputs)
    added = np.zeros((-count % step, *frames.shape[1:]), frames.dtype)
    padded = np.concatenate([frames, added])
    parts = [_run(session, padded[start : start + step], outputs) for start in range(0, len(padded), step)]
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in outputs}


def _run(session: Session, frames: np.ndarray, outputs: Sequence[str]) -> dict[str, np.ndarray]:
    options = onnxruntime.RunOptions()
    options.log_severity_level = FATAL
    try:
        answers = session.inner.run(list(outputs), {INPUT: frames}, options)
    except Exception as error:
        raise UserError(
            f"{session.name}: ONNX Runtime {onnxruntime.__version__} cannot run it ({reason_of(error)}); export it"
            " again"
        ) from None
    for name, answer in zip(outputs, answers, strict=True):
        axes = {MAPS: 4, UNLIKE: 1}.get(name, 2)
        if not isinstance(answer, np.ndarray) or answer.ndim != axes or len(answer) != len(frames):
            shape = list(answer.shape) if isinstance(answer, np.ndarray) else "no array"
            raise UserError(
                f"{session.name}: its {name} of {pluralise(len(frames), 'image')} have the shape {shape}, not one row"
                " per image;"
                " export it again"
            )
    return dict(zip(outputs, answers, strict=True))


def reason_of(error: Exception) -> str:
    """ONNX Runtime's message in one line, without its error codes and source locations."""
    words = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
    return shortened(re.sub(r"/\S+\.\w+:\d+ [^()]*\([^()]*\) (const )?", "", words), 300)
