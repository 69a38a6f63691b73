"""model.explain.onnx: logits and, of labels that are asked for, the finer heat map; and whether its maps are right."""

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from medistill.errors import UserError
from medistill.explain.cam import explain_by
from medistill.explain.ways import Way
from medistill.export.onnx import metadata, write_onnx
from medistill.export.vjp import Explained
from medistill.models.classifier import Classifier
from medistill.records.export import MapParity
from medistill.runtime.bundle import INPUT, LOGITS
from medistill.runtime.explainer import ASKED, MAP, Explainer
from medistill.text import error_line
from medistill.views import render_plain

WAY = Way("hires_cam", "stride_16")

TRACED_OPSET = 20
"""Newest operator set that torch writes by tracing."""

USUAL, LARGEST = 1e-4, 0.05
"""Limits of a difference, as a share of the peak: of half of the maps, and of each. Where the input of an activation is
within rounding of its kink, either slope is right, and some cells differ: one map of 40 did, by a thousandth."""


class _Pixels(nn.Module):
    """The network with its maps, of decoded pixels: the module that becomes the graph."""

    def __init__(self, explained: Explained) -> None:
        super().__init__()
        self.explained = explained

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        logits, maps = self.explained(render_plain(image), label)
        return logits, maps


def export_explained(classifier: Classifier, path: Path, *, opset: int) -> None:
    """Write the network with its finer heat maps as one ONNX file.

    Graph: `image` uint8 (batch, C, S, S) and `label` int64 (batch, asked), the labels asked of each image → `logits`
    float32 (batch, L) and `map` float32 (batch, asked, h, w), HiResCAM at stride 16, unnormalised and ≥ 0.

    Args:
        classifier: as it is deployed; `can_explain` has nothing against it.
        path: the file to write.
        opset: version of the ONNX operator set, at most.

    Raises:
        UserError: torch cannot export it.
    """
    size = classifier.config["image_size"]
    # Two images and three labels: with one the exporter would take its number for a constant.
    example = (
        torch.zeros(2, classifier.config["channels"], size, size, dtype=torch.uint8),
        torch.zeros(2, 3, dtype=torch.int64),
    )
    content, chatter = io.BytesIO(), io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(chatter), contextlib.redirect_stderr(chatter):
            warnings.simplefilter("ignore")
            # By tracing, torch's older way, which takes a tenth of the time; the operators here are known to both.
            torch.onnx.export(
                _Pixels(Explained(classifier)).eval(),
                example,
                content,  # type: ignore[arg-type]  # torch writes into a buffer, too
                dynamo=False,
                opset_version=min(opset, TRACED_OPSET),
                do_constant_folding=False,  # it would write turned weights beside the weights
                input_names=[INPUT, ASKED],
                output_names=[LOGITS, MAP],
                dynamic_axes={name: {0: "batch"} for name in (INPUT, LOGITS)}
                | {name: {0: "batch", 1: "asked"} for name in (ASKED, MAP)},
            )
    except Exception as error:  # torch's exporter: all of them may come
        raise UserError(
            f"{classifier.config['name']}: torch cannot export its finer heat maps to ONNX ({error_line(error, 150)})"
        ) from None
    write_onnx(onnx.load_model_from_string(content.getvalue()), metadata(classifier.config), path, opset=opset)


def measure_map_parity(classifier: Classifier, model: Path, images: np.ndarray) -> MapParity:
    """Compare the maps of ONNX Runtime with those that autograd gives, one label of each image, all labels in turn.

    Args:
        classifier: the network in evaluation mode, as it was trained.
        model: its file.
        images: uint8 (N, C, S, S), N ≥ 1.
    """
    labels = np.resize(np.arange(len(classifier.config["labels"])), len(images))
    explainer = Explainer(model.read_bytes(), name=str(model))
    expected = explain_by(classifier, render_plain(torch.from_numpy(images)), labels, [WAY])[0][WAY]
    maps = np.stack([explainer.explain(images[[i]], labels[[i], None])[1][0, 0] for i in range(len(images))])
    peaks = expected.max((1, 2))
    scale = np.maximum(peaks, 0.01 * peaks.max())  # of an empty map, whose rounding would else be without bound
    differences = np.abs(maps - expected).max((1, 2)) / np.where(scale > 0, scale, 1)
    finite = bool(np.isfinite(differences).all())
    usual, largest = float(np.median(differences)), float(differences.max())
    return MapParity(
        images=len(images),
        median_difference=usual if finite else None,
        largest_difference=largest if finite else None,
        empty=int((peaks == 0).sum()),
        passed=finite and usual <= USUAL and largest <= LARGEST,
    )
