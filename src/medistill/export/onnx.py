"""Writing a classifier as one self-contained ONNX file that takes pixels."""

import contextlib
import io
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import nn

from medistill.errors import UserError, is_out_of_memory
from medistill.export.graph import DeviceModel
from medistill.files import atomic
from medistill.models.classifier import Classifier
from medistill.models.costs import count_params
from medistill.records.models import Config
from medistill.runtime.bundle import DISCLAIMER, INPUT, CalledAt
from medistill.runtime.predictor import LARGEST_MODEL
from medistill.runtime.session import open_session
from medistill.stress.unlike import Unlike
from medistill.task import Calibration, Task
from medistill.text import error_line


def export_onnx(
    classifier: Classifier,
    path: Path,
    *,
    opset: int,
    calibration: Calibration | None = None,
    unlike: Unlike | None = None,
    points: Sequence[CalledAt] = (),
) -> int | None:
    """Write `classifier` as one ONNX file, weights included.

    Graph: `image` uint8 (batch, C, S, S) → scaling to 0..1, normalisation, network → what `DeviceModel` answers, with
    a free batch size where torch can express that. The metadata has everything that prediction needs: see `metadata`.
    The bytes depend on the weights, the configuration, `opset` and the versions of torch and onnxscript alone.

    Args:
        classifier: in evaluation mode, its `config` complete.
        path: the file to write.
        opset: version of the ONNX operator set.
        calibration: of its logits, fitted on validation; None: there is none.
        unlike: what it knows of its training images; None: the file has no such output.
        points: operating points, for the metadata.

    Returns:
        How many images it takes at once: 1, or None for any number.

    Raises:
        UserError: torch cannot export the network to ONNX, it is too large, or torch or ONNX Runtime do not know that
            operator set.
    """
    require_small(classifier)
    calibration = calibration or Calibration(Task(classifier.config["task"]))
    model = _to_onnx(DeviceModel(classifier, calibration, unlike), opset)
    write_onnx(
        model,
        metadata(classifier.config) | _calling(len(classifier.config["labels"]), calibration, points),
        path,
        opset=opset,
    )
    return model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or None


def write_onnx(model: onnx.ModelProto, about: Mapping[str, str], path: Path, *, opset: int) -> None:
    """Write what torch exported: with this metadata, `name` in it, without notes of this machine, checked.

    Raises:
        UserError: ONNX Runtime cannot open it.
    """
    _strip_provenance(model.graph)
    for function in model.functions:
        _strip_provenance(function)
    onnx.helper.set_model_props(model, dict(about))
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString(deterministic=True)
    open_session(content, name=f"{about['name']} in opset {opset} (params.yaml: export.opset)")
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def require_small(classifier: Classifier) -> None:
    """Refuse a network whose file would be too large for a device, by its shapes.

    Raises:
        UserError: it is too large.
    """
    weights = 4 * count_params(classifier)
    if weights > LARGEST_MODEL:
        raise UserError(
            f"{classifier.config['name']}: {classifier.config['arch']} has {weights:,} bytes of weights, and an "
            f"exported model may have {LARGEST_MODEL:,}; take a smaller arch"
        )


def metadata(config: Config) -> dict[str, str]:
    """The file's own description, for readers who have nothing but the file; lists are JSON."""
    return {
        "name": config["name"],
        "task": config["task"],
        "labels": json.dumps(config["labels"], ensure_ascii=False),
        "image_size": str(config["image_size"]),
        "channels": str(config["channels"]),
        "fit": config["fit"],
        "mean": json.dumps(config["mean"]),
        "std": json.dumps(config["std"]),
        "fingerprint": config["fingerprint"],
        "disclaimer": DISCLAIMER,
    }


def _calling(labels: int, calibration: Calibration, points: Sequence[CalledAt]) -> dict[str, str]:
    """The part of the metadata that says how logits become probabilities, and from where on a label is called."""
    return {
        **{name: json.dumps(values) for name, values in calibration.written_out(labels).items()},
        "operating_points": json.dumps([point.to_json() for point in points], ensure_ascii=False),
    }


def _to_onnx(device: DeviceModel, opset: int) -> onnx.ModelProto:
    """The graph, of a free batch size where torch can express that, else of one image."""
    config, chatter = device.classifier.config, io.StringIO()
    fused = [module for module in device.modules() if getattr(module, "fused_attn", False)]
    for single, plain in [(False, []), *([(False, fused)] if fused else []), (True, fused)]:
        try:
            with (
                _plain_attention(plain),
                warnings.catch_warnings(),
                contextlib.redirect_stdout(chatter),
                contextlib.redirect_stderr(chatter),
            ):
                warnings.simplefilter("always")
                model = _traced(device, config, opset, single=single)
            break
        except Exception as error:  # torch's exporter at work on timm's code: all of them may come
            if is_out_of_memory(error):
                raise UserError(f"{config['name']}: out of memory while exporting it to ONNX") from None
            print(error, file=chatter)
            reason = _cause(error)
    else:
        print(chatter.getvalue(), file=sys.stderr)
        raise UserError(f"{config['name']}: torch cannot export {config['arch']} to ONNX ({reason}); use another arch")
    written = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if written != opset:
        # The exporter falls back to its own version where it cannot convert.
        raise UserError(
            f"params.yaml: export.opset: {config['arch']} cannot be exported with opset {opset}; set {written}"
        )
    return model


def _cause(error: BaseException) -> str:
    """The first of a chain of exceptions, in one line."""
    while error.__cause__:
        error = error.__cause__
    return error_line(error, 150)


def _traced(device: DeviceModel, config: Config, opset: int, *, single: bool) -> onnx.ModelProto:
    size = config["image_size"]
    # Two images: with one the exporter would take the batch size for a constant, as `single` intends.
    example = torch.zeros(1 if single else 2, config["channels"], size, size, dtype=torch.uint8)
    program = torch.onnx.export(
        device.eval(),
        (example,),
        dynamo=True,
        opset_version=opset,
        input_names=[INPUT],
        output_names=list(device.outputs),
        dynamic_shapes=None if single else {"image": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    assert program is not None  # by `dynamo`
    model = program.model_proto
    if not single and not model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise ValueError("its code turns the number of images into a constant")  # it would only take two images
    return model


@contextlib.contextmanager
def _plain_attention(fused: list[nn.Module]) -> Iterator[None]:
    """Let timm's attention multiply matrices: the exporter knows the fused operation only with one axis of heads."""
    for module in fused:
        module.fused_attn = False  # type: ignore[assignment]  # torch: any attribute is a module
    try:
        yield
    finally:
        for module in fused:
            module.fused_attn = True  # type: ignore[assignment]  # as above


def _strip_provenance(graph: onnx.GraphProto | onnx.FunctionProto) -> None:
    """Remove the exporter's notes: they hold paths of this machine, and no runtime reads them."""
    del graph.metadata_props[:]
    graph.doc_string = ""
    values = [*graph.value_info]
    if isinstance(graph, onnx.GraphProto):
        values += [*graph.input, *graph.output, *graph.initializer]
    for value in values:
        del value.metadata_props[:]
        value.doc_string = ""
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                _strip_provenance(inner)
