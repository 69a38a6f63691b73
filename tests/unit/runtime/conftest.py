"""Exported models whose answers can be computed by hand, made without torch."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from medistill.files import write_json

LABELS = ["Effusion", "Mass", "Nodule"]


def linear_model(slope: list[float], offset: list[float], *, size: int, batch: int | str) -> bytes:
    """An ONNX file: logit = slope · mean brightness (0..1) + offset."""
    labels = len(slope)
    constants = {
        "scale": np.array([1 / 255], np.float32),
        "slope": np.array([slope], np.float32),
        "offset": np.array(offset, np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["float", "scale"], ["scaled"]),
            helper.make_node("ReduceMean", ["scaled", "axes"], ["mean"], keepdims=0),
            helper.make_node("MatMul", ["mean", "slope"], ["product"]),
            helper.make_node("Add", ["product", "offset"], ["logits"]),
        ],
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, 1, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, labels])],
        [
            *[numpy_helper.from_array(value, name) for name, value in constants.items()],
            numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def graph_model(nodes, inputs, outputs, constants=None, **model) -> bytes:
    """An ONNX file of a graph; ports as (name, type, shape), constants by name as arrays."""
    ports = [[helper.make_tensor_value_info(*port) for port in side] for side in (inputs, outputs)]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "graph", *ports, tensors)
    settings = {"opset_imports": [helper.make_opsetid("", 18)], "ir_version": 10, **model}
    return helper.make_model(graph, **settings).SerializeToString()


IMAGE = ("image", TensorProto.UINT8, ["batch", 1, 8, 8])
LOGITS = ("logits", TensorProto.FLOAT, ["batch", 3])
MEANS = [
    helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
    helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0),
]
"""Nodes that compute `mean`, float32 (batch, 1), of each image's pixels, 0..255; the constant `axes` is `AXES`."""
AXES = np.array([2, 3])


@pytest.fixture
def make_bundle(tmp_path) -> Callable[..., Path]:
    """A function that writes an exported model's folder; its keywords replace keys of bundle.json."""

    def make(
        folder_name: str = "linear-kd-0",
        *,
        slope: list[float] | None = None,
        offset: list[float] | None = None,
        batch: int | str = "batch",
        content: bytes | None = None,
        **keys,
    ) -> Path:
        folder = tmp_path / "exports" / folder_name
        labels = len(keys.get("labels") or LABELS)
        folder.mkdir(parents=True)
        content = content or linear_model(slope or [4.0, -4.0, 0.0], offset or [-2.0, 1.0, 0.5], size=8, batch=batch)
        (folder / "model.onnx").write_bytes(content)
        bundle = {
            "bundle_version": 2,
            "name": folder_name,
            "task": "multilabel",
            "labels": LABELS,
            "preprocessing": {"image_size": 8, "channels": 1, "fit": "squash", "mean": [0] * 3, "std": [1] * 3},
            "operating_points": [],
            "calibration": {"slopes": [1.0] * labels, "intercepts": [0.0] * labels},
            "test_auroc": {},
            "map_scale": {},
            "file": "model.onnx",
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        bundle.update(keys)
        write_json(folder / "bundle.json", {key: value for key, value in bundle.items() if value is not None})
        return folder

    return make


@pytest.fixture
def grey(tmp_path) -> Callable[[int], Path]:
    """A function that draws an image of one brightness."""

    def draw(value: int, name: str | None = None) -> Path:
        path = tmp_path / (name or f"grey{value}.png")
        Image.new("L", (20, 12), value).save(path)
        return path

    return draw
