"""Parity: whether the exported file gives what the network gives, its maps by autograd."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medistill.export.tolerance import MAP_LIMIT, UNLIKE_LIMIT, auroc_limit, parity_limit, probability_limit
from medistill.metrics.intervals import Numbers
from medistill.metrics.ranking import auroc
from medistill.models.classifier import Classifier
from medistill.models.heads import class_maps_by_autograd
from medistill.records.export import Checked, Parity
from medistill.runtime.bundle import LARGEST, LOGITS, MAPS, PROBABILITIES, UNLIKE
from medistill.runtime.session import open_session, run_all
from medistill.stress.tap import forward_tapped
from medistill.stress.unlike import Unlike
from medistill.task import Calibration, Task
from medistill.views import render_plain

BATCH = 7
"""Images at a time, after each has been answered alone."""

Answers = Mapping[str, NDArray[Any]]


def measure_parity(
    classifier: Classifier,
    model: Path,
    images: np.ndarray,
    *,
    calibration: Calibration | None = None,
    unlike: Unlike | None = None,
    targets: Numbers | None = None,
) -> Parity:
    """Compare ONNX Runtime with torch on the same pixels, one image at a time and seven at a time.

    Args:
        classifier: the network in evaluation mode.
        model: its ONNX file.
        images: uint8 (N, C, S, S), N ≥ 1.
        calibration, unlike: that the file was written with; None: none.
        targets: (N, L), 1, 0 or NaN where unknown; None: AUROCs are not compared.

    Returns:
        The largest difference of each output over images, labels and both batch sizes, undefined where ONNX Runtime or
        torch gives a number that is not finite, or the file lacks the output; and its limit. Maps are held against
        Grad-CAM by autograd, probabilities and scores against numpy in float64.
    """
    session = open_session(model.read_bytes(), name=str(model))
    calibration = calibration or Calibration(Task(classifier.config["task"]))
    expected = _expected(classifier, images, calibration, unlike)
    known = [name for name in session.outputs if name in expected]
    both = [
        _concatenated([run_all(session, images[at : at + size], known) for at in range(0, len(images), size)])
        for size in (1, BATCH)
    ]
    difference, largest = _difference(both, expected, LOGITS), _finite(np.abs(expected[LOGITS]).max())
    limit = parity_limit(largest if difference is not None else None)
    allowed = probability_limit(limit, max(calibration.slopes or [1.0]), exclusive=calibration.task.exclusive)
    outputs = {PROBABILITIES: Checked(difference=_difference(both, expected, PROBABILITIES), limit=allowed)}
    if MAPS in expected:
        scale = _scale(expected)
        outputs[MAPS] = Checked(
            difference=_difference(both, expected, MAPS, scale[:, None, None]),
            limit=MAP_LIMIT,
            zero_maps=int((expected[LARGEST] == 0).sum()),
        )
        outputs[LARGEST] = Checked(difference=_difference(both, expected, LARGEST, scale), limit=MAP_LIMIT)
    if unlike is not None:
        scores = _difference(both, expected, UNLIKE, expected[UNLIKE].clip(1))
        outputs[UNLIKE] = Checked(difference=scores, limit=UNLIKE_LIMIT)
    if targets is not None and difference is not None:
        outputs |= _aurocs(both, expected, targets)
    return Parity(
        images=len(images),
        max_abs_logit_difference=difference,
        largest_logit=largest if difference is not None else None,
        limit=limit,
        outputs=outputs,
        passed=difference is not None and difference <= limit and all(one.passed for one in outputs.values()),
    )


def _expected(
    classifier: Classifier, images: np.ndarray, calibration: Calibration, unlike: Unlike | None
) -> dict[str, NDArray[Any]]:
    """What torch and numpy give, by the name of the output; `signed`: maps before their ReLU."""
    pixels = render_plain(torch.from_numpy(images))
    answers = {}
    with torch.no_grad():
        if unlike is None:
            features = classifier.features(pixels)
        else:
            _, features, tapped = forward_tapped(classifier, pixels)
            answers[UNLIKE] = unlike.scores(tapped.numpy())
    with torch.enable_grad():
        logits = classifier.classify(features.requires_grad_())
    answers[LOGITS] = logits.detach().numpy()
    answers[PROBABILITIES] = calibration.probabilities(answers[LOGITS])
    with torch.no_grad():
        if classifier.closed_head() is not None:
            labels = torch.arange(logits.shape[1]).expand(len(images), -1)
            answers["signed"] = class_maps_by_autograd(logits, features, labels).numpy()
            answers[MAPS] = np.maximum(answers["signed"], 0)
            answers[LARGEST] = answers[MAPS].max((2, 3))
    return answers


def _scale(expected: Answers) -> NDArray[Any]:
    """By what a label's maps are measured, (L,): its largest value before the ReLU, by which rounding goes.

    Of what is against a label in all cells but one, the ReLU may leave a ten-thousandth.
    """
    signed = np.abs(expected["signed"]).max((0, 2, 3))
    return np.where(signed > 0, signed, 1)


def _difference(both: Sequence[Answers], expected: Answers, name: str, scale: Any = 1.0) -> float | None:
    """The largest difference of an output; None where it is not there, or a number is not finite: NaN must not pass."""
    if any(name not in answers for answers in both):
        return None
    return _finite(max(np.abs((answers[name] - expected[name]) / scale).max() for answers in both))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _concatenated(parts: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _aurocs(both: Sequence[Answers], expected: Answers, targets: Numbers) -> dict[str, Checked]:
    """The AUROC of logits, for the label whose differs most by its limit; nothing where no label has both answers."""
    found = []
    for k, column in enumerate(targets.T):
        positives, negatives = int((column == 1).sum()), int((column == 0).sum())
        if positives and negatives:
            right = auroc(column, expected[LOGITS][:, k])
            difference = max(abs(auroc(column, answers[LOGITS][:, k]) - right) for answers in both)
            found.append(Checked(difference=difference, limit=auroc_limit(positives, negatives)))
    return {"auroc": max(found, key=lambda one: (one.difference or 0.0) / one.limit)} if found else {}
