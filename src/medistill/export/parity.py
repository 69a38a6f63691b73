"""Parity: whether the exported file answers as the network does."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from medistill.export.tolerance import MAP_LIMIT, PROBABILITY_LIMIT, UNLIKE_LIMIT, parity_limit
from medistill.models.classifier import Classifier
from medistill.models.heads import class_maps_by_autograd
from medistill.records.export import Parity
from medistill.runtime.bundle import LARGEST, LOGITS, MAPS, PROBABILITIES, UNLIKE
from medistill.runtime.session import Session, open_session, run_all
from medistill.stress.tap import forward_tapped
from medistill.stress.unlike import Unlike
from medistill.task import Calibration, Task
from medistill.views import render_plain

Numbers = NDArray[np.floating]

BATCHES = (1, 7)
"""Images at a time: a graph may hold for one number of them alone."""


def measure_parity(
    classifier: Classifier,
    model: Path,
    images: np.ndarray,
    calibration: Calibration | None = None,
    unlike: Unlike | None = None,
) -> Parity:
    """Compare ONNX Runtime with torch on the same pixels: one image at a time, some, and all at once.

    Args:
        classifier: the network in evaluation mode, as it was trained.
        model: its ONNX file.
        images: uint8 (N, C, S, S), N ≥ 1.
        calibration: that of the file's probabilities; None: there is none.
        unlike: that of the file's scores; None: it has none.

    Returns:
        The largest differences over images, labels and all batch sizes: of logits with a limit that grows with the
        largest of them; of probabilities, against `Calibration` in float64; of maps, against Grad-CAM by autograd, as a
        share of the map's largest value; of scores, against `Unlike.scores` in float64, as a share of 1 or of the score
        if that is more. Undefined where either side gives a number that is not finite.
    """
    expected, maps = _by_torch(classifier, images)
    session = open_session(model.read_bytes(), name=str(model))
    given = [_in_batches(session, images, size) for size in (*BATCHES, len(images))]
    calibration = calibration or Calibration(Task(classifier.config["task"]))
    logits = _largest(answers[LOGITS] - expected for answers in given)
    largest = float(np.abs(expected).max())
    limit = parity_limit(largest if logits is not None else None)
    probabilities = _largest(answers[PROBABILITIES] - calibration.probabilities(expected) for answers in given)
    has_maps, shares, empty = MAPS in session.outputs, None, None
    if has_maps and maps.size:
        peaks = maps.max((2, 3))
        empty = int((peaks == 0).sum())
        scale = np.where(peaks > 0, peaks, 1.0)  # where it must be zero everywhere, any other value counts as it is
        shares = _largest(
            difference / (scale[:, :, None, None] if difference.ndim == 4 else scale)
            for answers in given
            for difference in (answers[MAPS] - maps, answers[LARGEST] - peaks)
        )
    scores = None if unlike is None else _scores(classifier, images, unlike)
    unlikely = None if scores is None else _largest((answers[UNLIKE] - scores) / scores.clip(1) for answers in given)
    return Parity(
        images=len(images),
        max_abs_logit_difference=logits,
        largest_logit=None if logits is None else largest,
        limit=limit,
        max_abs_probability_difference=probabilities,
        has_maps=has_maps,
        max_relative_map_difference=shares,
        empty_maps=empty,
        max_relative_unlike_difference=unlikely,
        passed=_within(logits, limit)
        and _within(probabilities, PROBABILITY_LIMIT)
        and (_within(shares, MAP_LIMIT) if maps.size else not has_maps)
        and (unlike is None or _within(unlikely, UNLIKE_LIMIT)),
    )


def _by_torch(classifier: Classifier, images: np.ndarray) -> tuple[Numbers, Numbers]:
    """Logits (N, L), and Grad-CAM of all labels (N, L, h, w) by autograd; without a map, an empty array."""
    with torch.no_grad():
        features = classifier.features(render_plain(torch.from_numpy(images)))
        if features.dim() != 4 or classifier.closed_head() is None:
            return classifier.classify(features).numpy(), np.empty(0)
    features = features.detach().requires_grad_()
    with torch.enable_grad():
        logits = classifier.classify(features)
        labels = torch.arange(logits.shape[1]).expand(len(logits), -1)
        with torch.no_grad():
            maps = class_maps_by_autograd(logits, features, labels).relu()
    return logits.detach().numpy(), maps.numpy()


@torch.inference_mode()
def _scores(classifier: Classifier, images: np.ndarray, unlike: Unlike) -> Numbers:
    """The scores of `unlike` (N,), in float64 from torch's features."""
    return unlike.scores(forward_tapped(classifier, render_plain(torch.from_numpy(images)))[2].numpy())


def _in_batches(session: Session, images: np.ndarray, size: int) -> dict[str, np.ndarray]:
    parts = [
        run_all(session, images[start : start + size], list(session.outputs)) for start in range(0, len(images), size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in session.outputs}


def _largest(differences: Iterable[Numbers]) -> float | None:
    """The largest absolute value of all, or None where one is not finite."""
    largest = np.array([np.abs(each).max() for each in differences])
    return float(largest.max()) if np.isfinite(largest).all() else None


def _within(difference: float | None, limit: float) -> bool:
    return difference is not None and difference <= limit
