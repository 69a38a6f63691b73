"""Small ONNX files of networks whose answers arithmetic gives, and of mistakes."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 16


def write_linear(
    file: Path,
    weight: np.ndarray,
    *,
    layout: str = "nchw",
    channels: int = 1,
    size: int | str = SIZE,
    batch: int | str = "n",
    end: str = "",
    kind: int = TensorProto.FLOAT,
    opset: int = 17,
    external: str = "",
    inputs: int = 1,
    domain: str = "",
) -> None:
    """A network: mean over the pixels of each channel (output `pooled`, (N, C)), times `weight` (C, L) (output `y`).

    Args:
        file: where it goes.
        weight: of the linear layer.
        layout, channels, size, batch: of the input `x`.
        end: an operator behind the linear layer, such as Sigmoid.
        kind: type of input and weights.
        opset: version of the operators that it says it needs.
        external: file of the weights, as the model names it, beside `file`.
        inputs: how many inputs it has.
        domain: of the linear layer's operator.
    """
    axes, shape = ([2, 3], [batch, channels, size, size])
    if layout == "nhwc":
        axes, shape = [1, 2], [batch, size, size, channels]
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    constants = [numpy_helper.from_array(weight.astype(dtype), "weight")]
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["pooled"], axes=axes, keepdims=0),
        helper.make_node("MatMul", ["pooled", "weight"], ["z" if end else "y"], domain=domain),
    ]
    if end:
        nodes.append(helper.make_node(end, ["z"], ["y"]))
    ports = [helper.make_tensor_value_info(name, kind, shape) for name in ["x", "other"][:inputs]]
    kinds = {"pooled": kind, "y": TensorProto.INT64 if end == "Shape" else kind}
    outputs = [helper.make_tensor_value_info(name, kinds[name], None) for name in kinds]
    graph = helper.make_graph(nodes, "linear", ports, outputs, constants)
    opsets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    if external:
        (tensor,) = model.graph.initializer
        (file.parent / external).parent.mkdir(parents=True, exist_ok=True)
        (file.parent / external).write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=external)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(model.SerializeToString())


def is_one_file(file: Path) -> bool:
    """Whether no tensor of an ONNX file lies elsewhere."""
    model = onnx.load(str(file), load_external_data=False)
    return not any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer)
