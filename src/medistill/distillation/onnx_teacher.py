"""Teachers in ONNX files, whoever made them: checked, kept as one file, and run by ONNX Runtime."""

import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from medistill.data.dataset import Dataset, label_columns
from medistill.distillation.outside import Outside, logits_of, require_probabilities, write_folder
from medistill.distillation.settings import OnnxTeacher
from medistill.errors import UserError
from medistill.layout import ModelFolder
from medistill.models.classifier import LUMA, normalise, resize
from medistill.records.models import Config, ModelRecord
from medistill.text import pluralise, shortened
from medistill.training.processes import this_process
from medistill.training.run import ids_of_weights
from medistill.views import read_frames, render_plain

if TYPE_CHECKING:
    from onnx import TensorProto

FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
"""Types of an input that images are given in."""

FATAL = 4
"""Severity of ONNX Runtime's log: errors become exceptions, and nothing is printed."""


class OnnxModel:
    """A network in an ONNX file that is asked about images: float images in 0..1 in, logits and features out.

    Attributes:
        config: what is known of it; its labels are those that are not null.
        map_shape: K of its pooled features where it gives them, else empty.
    """

    def __init__(self, content: bytes, network: OnnxTeacher, *, image_size: int, exclusive: bool, where: Path) -> None:
        """Open a file and ask it once about two images of noise.

        Args:
            content: of the file, which refers to no other file.
            network: its settings.
            image_size: of the frames, in pixels.
            exclusive: whether labels exclude each other.
            where: of the file, for messages.

        Raises:
            UserError: ONNX Runtime cannot open or run it, or its input or outputs are not as the settings say.
        """
        self._network, self._exclusive, self._where = network, exclusive, where
        self.size = network.input_size or image_size
        labels = [label for label in network.labels if label]
        self._columns = [place for place, label in enumerate(network.labels) if label]
        self.config: Config = {"labels": labels, "name": where.name, "model_sha256": ""}
        self._session = _open(content, where)
        self._input, self._type, self._batch = self._read_input()
        outputs = network.outputs
        named = {"logits": outputs.logits, "probabilities": outputs.probabilities, "features": outputs.features}
        self._outputs = {kind: name for kind, name in named.items() if name is not None}
        theirs = [port.name for port in self._session.get_outputs()]
        for name in self._outputs.values():
            if name not in theirs:
                raise UserError(f"{where}: has no output {name}; it has {_names(theirs)}")
        noise = np.random.default_rng(0).random((2, network.channels, self.size, self.size), np.float32)
        answers = self._run(noise)
        self.map_shape: Sequence[int] = list(answers["features"].shape[1:]) if "features" in answers else []

    @classmethod
    def open(cls, folder: Path, dataset: Dataset) -> "OnnxModel":
        """Open the model that `import_onnx` has written.

        Raises:
            UserError: a file is missing or damaged, or as for the class.
        """
        files = ModelFolder(folder)
        record = ModelRecord.read_whole(files.config)
        network = OnnxTeacher.model_validate(record.network)
        exclusive = dataset.task.exclusive
        content = files.onnx.read_bytes()
        model = cls(content, network, image_size=dataset.image_size, exclusive=exclusive, where=files.onnx)
        model.config = cast(Config, record.model_dump(mode="json"))
        return model

    @property
    def input_size(self) -> int | None:
        """Height and width that it sees; None: those of its images."""
        return self._network.input_size

    @property
    def device(self) -> torch.device:
        """Where images are rendered before it sees them."""
        device: torch.device = this_process().device
        return device

    def ask(self, images: Tensor, needs: AbstractSet[str]) -> dict[str, Tensor]:
        """Its `logits` (N, L) for its labels, and `features` (N, K) if needed.

        Args:
            images: float32 (N, C, H, W) in 0..1, of any size; one channel is read as grey.
            needs: kinds of answers besides the logits; those that it does not have are left out.

        Raises:
            UserError: ONNX Runtime cannot run it, or its answers are not as its settings say.
        """
        answers = self._run(self._normalised(images).numpy())
        given = {"logits": torch.from_numpy(self._logits(answers))}
        if "features" in needs and "features" in answers:
            given["features"] = torch.from_numpy(answers["features"].astype(np.float32))
        return {kind: values.to(images.device) for kind, values in given.items()}

    def _logits(self, answers: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Logits (N, L) of its labels."""
        if "logits" in answers:
            return answers["logits"][:, self._columns].astype(np.float32)
        probabilities = answers["probabilities"][:, self._columns]
        name = self._outputs["probabilities"]
        require_probabilities(probabilities, f"{self._where}: output {name}", f"set outputs: {{logits: {name}}}")
        return logits_of(probabilities, exclusive=self._exclusive)

    def _normalised(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) in 0..1 as it expects them, channels first, on the CPU."""
        values = (self._network.mean, self._network.std, LUMA)
        mean, std, luma = (torch.tensor(each).view(1, -1, 1, 1) for each in values)
        return normalise(resize(images, self.size).cpu(), mean, std, luma)

    def _read_input(self) -> tuple[str, type, int | None]:
        """Name and type of its only input, and the images that it takes at a time (None: any number)."""
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            names = _names([port.name for port in inputs])
            raise UserError(f"{self._where}: has {pluralise(len(inputs), 'input')} ({names}); a teacher takes images")
        (port,) = inputs
        if port.type not in FLOATS:
            raise UserError(f"{self._where}: its input {port.name} is {port.type}, not floating point")
        network, shape = self._network, list(port.shape)
        sizes = [self.size, self.size]
        wanted = [network.channels, *sizes] if network.layout == "nchw" else [*sizes, network.channels]
        fits = len(shape) == 4 and all(
            not isinstance(theirs, int) or theirs in (ours, -1) for theirs, ours in zip(shape[1:], wanted, strict=True)
        )
        if not fits:
            there = f"[{', '.join(str(size) for size in shape)}]"
            raise UserError(
                f"{self._where}: its input {port.name} has the shape {shortened(there, 100)}, but input_size, channels"
                f" and layout give [N, {', '.join(map(str, wanted))}]; set them as the file needs"
            )
        return port.name, FLOATS[port.type], shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None

    def _run(self, images: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """What it answers to normalised images (N, C, H, W), by kind: float (N, …).

        Raises:
            UserError: ONNX Runtime cannot run it, or an output is not (N, L) or (N, K).
        """
        if self._network.layout == "nhwc":
            images = images.transpose(0, 2, 3, 1)
        images, count = np.ascontiguousarray(images, self._type), len(images)
        step = self._batch or count
        padded = np.concatenate([images, np.zeros((-count % step, *images.shape[1:]), images.dtype)])
        parts = [self._run_batch(padded[start : start + step]) for start in range(0, len(padded), step)]
        return {kind: np.concatenate([part[kind] for part in parts])[:count] for kind in self._outputs}

    def _run_batch(self, images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        options = onnxruntime.RunOptions()
        options.log_severity_level = FATAL
        try:
            found = self._session.run(list(self._outputs.values()), {self._input: images}, options)
        except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
            shape = list(images.shape)
            raise UserError(f"{self._where}: cannot be run on images {shape}: {_reason(error)}") from None
        for (kind, name), values in zip(self._outputs.items(), found, strict=True):
            wide = "K" if kind == "features" else str(len(self._network.labels))
            is_table = isinstance(values, np.ndarray) and values.ndim == 2 and values.dtype.kind == "f"
            if not is_table or len(values) != len(images) or (wide != "K" and values.shape[1] != int(wide)):
                there = f"{values.dtype} {list(values.shape)}" if isinstance(values, np.ndarray) else "no array"
                why = "pooled features" if kind == "features" else "one number for each entry of labels"
                raise UserError(
                    f"{self._where}: its output {name} of {pluralise(len(images), 'image')} is {shortened(there, 100)},"
                    f" not floating-point [{len(images)}, {wide}]: {why}"
                )
        return dict(zip(self._outputs, found, strict=True))


def import_onnx(folder: Path, name: str, network: OnnxTeacher, dataset: Dataset, *, batch_size: int = 64) -> None:
    """Write the folder of a teacher in an ONNX file, with its logits on val and test.

    Args:
        folder: the model's folder, replaced as a whole. It gets the file with all that other files of the same folder
            hold of it, so that nothing outside of it is needed any more.
        name: of the model.
        network: its settings.
        dataset: whose images it answers.
        batch_size: images that it answers at once.

    Raises:
        UserError: as `load_onnx`; an answer is not finite; or it was trained on images or groups of val or test.
    """
    seen = ids_of_weights(network.file, dataset)
    content, params = read_onnx(network.onnx)
    model = load_onnx(network, dataset, content)
    parts = []
    for split in ("val", "test"):
        rows = dataset.split(split)
        for start in range(0, len(rows), batch_size):
            some = rows.iloc[start : start + batch_size]
            logits = model.ask(render_plain(read_frames(dataset, some, model.input_size)), set())["logits"].numpy()
            bad = ~np.isfinite(logits).all(axis=1)
            if bad.any():
                image = some["image_id"].iloc[int(bad.argmax())]
                raise UserError(f"{network.onnx}: its answer to image {image} is not finite; look at mean and std")
            parts.append(logits)
    outside = Outside(
        name=name,
        network=network,
        labels=model.config["labels"],
        params=params,
        versions={"onnxruntime": onnxruntime.__version__},
        stored=(ModelFolder(folder).onnx.name, content),
    )
    write_folder(folder, outside, dataset, np.concatenate(parts), seen)


def load_onnx(network: OnnxTeacher, dataset: Dataset, content: bytes | None = None) -> OnnxModel:
    """Open a user's ONNX file as its settings say.

    Args:
        network: the settings.
        dataset: whose images it will see.
        content: from `read_onnx`; None: it is read.

    Raises:
        UserError: it is missing, damaged or not such a file, or none of its labels is the data set's.
    """
    if content is None:
        content, _ = read_onnx(network.onnx)
    exclusive = dataset.task.exclusive
    model = OnnxModel(content, network, image_size=dataset.image_size, exclusive=exclusive, where=network.onnx)
    label_columns(model.config["labels"], dataset.labels, "labels")
    return model


def read_onnx(file: Path) -> tuple[bytes, int]:
    """An ONNX file with all that other files hold of it, and how many floating-point numbers it has.

    Raises:
        UserError: it is missing, not an ONNX file, or larger than 2 GB as one file; or it refers to a file outside of
            its folder or to one that is missing or too short.
    """
    import onnx

    if not file.is_file():
        raise UserError(f"{file}: no such file")
    try:
        model = onnx.load(str(file), format="protobuf", load_external_data=False)
    except Exception:  # protobuf's, which have no types
        raise UserError(f"{file}: not an ONNX file, or damaged") from None
    if not model.graph.node:
        raise UserError(f"{file}: not an ONNX file, or without a graph")
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _fetch(tensor, file)
    try:
        content: bytes = model.SerializeToString()
    except Exception:  # protobuf's
        raise UserError(f"{file}: larger than 2 GB as one file, which ONNX cannot hold") from None
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
    weights = [tensor for tensor in model.graph.initializer if tensor.data_type in floats]
    return content, sum(int(np.prod(tensor.dims, dtype=np.int64)) for tensor in weights)


def _tensors(message: Any) -> Iterator["TensorProto"]:
    """All tensors of a message, in subgraphs, functions and attributes, too."""
    waiting = [message]
    while waiting:
        here = waiting.pop()
        if here.DESCRIPTOR.name == "TensorProto":
            yield here
            continue
        for field, value in here.ListFields():
            if field.message_type is not None:
                waiting += [value] if hasattr(value, "DESCRIPTOR") else list(value)


def _fetch(tensor: "TensorProto", file: Path) -> None:
    """Take a tensor's numbers over from another file of the same folder.

    Raises:
        UserError: the file lies elsewhere, is missing or too short.
    """
    from onnx.external_data_helper import load_external_data_for_tensor
    from onnx.numpy_helper import to_array

    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    shown, folder = shortened(repr(location), 100), file.parent.resolve()
    try:
        other = (folder / location).resolve()
        if not location or not other.is_relative_to(folder):
            raise UserError(f"{file}: stores weights in {shown}, outside of its folder; save it as one file")
        if not other.is_file():
            raise UserError(f"{file}: stores weights in {shown}, which is not beside it; copy it there")
        load_external_data_for_tensor(tensor, str(folder))
        tensor.ClearField("data_location")
        to_array(tensor)  # whether there are as many numbers as it says
    except UserError:
        raise
    except Exception as error:  # onnx's checks, which differ from version to version
        raise UserError(f"{file}: its weights in {shown} cannot be read: {_reason(error)}") from None
    tensor.ClearField("external_data")


def _open(content: bytes, where: Path) -> onnxruntime.InferenceSession:
    """A session on the GPU where ONNX Runtime has one, else on the CPU."""
    onnxruntime.set_default_logger_severity(FATAL)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = FATAL
    options.add_session_config_entry("session.load_model_format", "ONNX")  # not ORT's own, which is not looked into
    there = onnxruntime.get_available_providers()
    providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in there]
    try:
        return onnxruntime.InferenceSession(content, options, providers=providers, enable_fallback=0)
    except Exception as error:  # as for running
        raise UserError(
            f"{where}: ONNX Runtime {onnxruntime.__version__} cannot open it ({_reason(error)}); export it for an opset"
            " that this version knows and without operators of your own, or install a newer onnxruntime"
        ) from None


def _names(names: Sequence[str]) -> str:
    return shortened(", ".join(names), 200)


def _reason(error: Exception) -> str:
    """A message in one line, without ONNX Runtime's error codes and source locations."""
    words = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
    return shortened(re.sub(r"/\S+\.\w+:\d+ [^()]*\([^()]*\) (const )?", "", words), 300)
