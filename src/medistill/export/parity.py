"""Parity: whether the exported file gives the network's logits."""

from pathlib import Path

import numpy as np
import torch

from medistill.export.tolerance import parity_limit
from medistill.models.classifier import Classifier
from medistill.records.export import Parity
from medistill.runtime.session import open_session, run
from medistill.views import render_plain


def measure_parity(classifier: Classifier, model: Path, images: np.ndarray) -> Parity:
    """Compare ONNX Runtime with torch on the same pixels, one image at a time and all at once.

    Args:
        classifier: the network in evaluation mode.
        model: its ONNX file.
        images: uint8 (N, C, S, S), N ≥ 1.

    Returns:
        The largest difference over images, labels and both batch sizes, undefined where ONNX Runtime or torch gives a
        logit that is not finite; and the limit, which grows with the largest logit.
    """
    with torch.inference_mode():
        expected = classifier(render_plain(torch.from_numpy(images))).numpy()
    session = open_session(model.read_bytes(), name=str(model))
    singly = np.concatenate([run(session, image[None]) for image in images])
    together = run(session, images)
    # NaN and infinity survive the maximum: they must not pass.
    difference = float(max(np.abs(answer - expected).max() for answer in (together, singly)))
    finite = bool(np.isfinite([together, singly, expected]).all())
    largest = float(np.abs(expected).max())
    limit = parity_limit(largest if finite else None)
    return Parity(
        images=len(images),
        max_abs_logit_difference=difference if finite else None,
        largest_logit=largest if finite else None,
        limit=limit,
        passed=finite and difference <= limit,
    )
