"""Whether a network can be exported, tried once before it is trained."""

import contextlib
import hashlib
import io
import json
import sys
import tempfile
from pathlib import Path

import onnx
import onnxruntime
import onnxscript
import timm
import torch

from medistill.checksums import write_record
from medistill.errors import UserError
from medistill.export.onnx import export_onnx, require_small
from medistill.layout import ExportFolder
from medistill.models.build import create_classifier
from medistill.models.classifier import Classifier
from medistill.models.deploy import deployed
from medistill.models.settings import Network
from medistill.records.export import Exportable
from medistill.records.models import Config
from medistill.runtime.bundle import BUNDLE_VERSION
from medistill.task import Task


def require_exportable(network: Network, *, image_size: int, channels: int, opset: int, known: Path) -> int | None:
    """Export a network untrained, which takes some ten seconds, unless the same network has been exported before.

    Args:
        network: its weights are not read.
        image_size: height and width of the frames in pixels.
        channels: of the frames.
        opset: version of the ONNX operator set.
        known: folder with one file per network that could be exported.

    Returns:
        How many images its file takes at once: 1, or None for any number.

    Raises:
        UserError: torch cannot export it to ONNX, it is too large, or ONNX Runtime cannot open it.
    """
    plain = network.untrained
    asked = {
        **plain.model_dump(mode="json", include={"arch", "args", "channels", "input_size"}),
        **{"frames": [image_size, channels], "opset": opset},
        "bundle": BUNDLE_VERSION,  # another one is another graph
        "versions": [module.__version__ for module in (onnx, onnxruntime, onnxscript, timm, torch)],
    }
    record = known / f"{hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]}.json"
    with contextlib.suppress(UserError):  # not there, or damaged: it is tried
        return Exportable.read(record).batch_size
    about: Config = {"name": "untrained", "task": Task.MULTILABEL, "fit": "pad", "fingerprint": ""}
    about |= {"image_size": image_size, "channels": channels}

    def build() -> Classifier:
        model = deployed(create_classifier(plain, labels=["a label", "another"], image_size=image_size)).eval()
        model.config |= about
        return model

    try:
        with torch.device("meta"):
            require_small(build())  # before its numbers take memory
        print(
            f"exporting {network.arch} untrained, to check that this is possible (once, about ten seconds)",
            file=sys.stderr,
        )
        with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
            model = build()
            with contextlib.redirect_stderr(io.StringIO()):  # the exporter's long messages
                batch_size = export_onnx(model, ExportFolder(Path(folder)).onnx, opset=opset)
    except UserError as error:
        raise UserError(str(error).removeprefix("untrained: ")) from None
    write_record(record, asked | {"batch_size": batch_size})
    return batch_size
