"""How far outputs of an exported file may be from those of its network."""

PARITY_ABSOLUTE, PARITY_RELATIVE = 1e-4, 1e-5
"""Largest difference between a logit of ONNX Runtime and of torch: this much, or this share of the largest logit."""

PROBABILITY_LIMIT = 1e-5
"""Largest difference between probabilities, where logits do not allow for more."""

MAP_LIMIT = 1e-4
"""Largest difference between maps, as a share of the label's largest value, before the ReLU, on the images compared."""

UNLIKE_LIMIT = 1e-3
"""Largest difference between scores of `unlike`, as a share of the score, or of its threshold of 1 if that is more."""

AUROC_LIMIT = 1e-5
"""Largest difference between AUROCs, where two pairs of images out of order are not more."""


def parity_limit(largest_logit: float | None) -> float:
    """How far logits may differ: float32 rounds in proportion, some 1e-6 of the largest in networks of this depth.

    Args:
        largest_logit: by its absolute value; None where it is unknown or not finite.
    """
    return max(PARITY_ABSOLUTE, PARITY_RELATIVE * abs(largest_logit or 0.0))


def auroc_limit(positives: int, negatives: int) -> float:
    """How far the AUROC of one label may differ: rounding may turn a pair of images around, or make a tie of it."""
    return max(AUROC_LIMIT, 2 / (positives * negatives))


def probability_limit(logits: float, slope: float, *, exclusive: bool) -> float:
    """How far probabilities may differ: no less than logits that may differ by so much make them.

    Args:
        logits: the limit of logits.
        slope: the largest of the calibration.
        exclusive: softmax, whose probabilities follow logits twice as steeply at most as a sigmoid's do.
    """
    return max(PROBABILITY_LIMIT, (0.5 if exclusive else 0.25) * slope * logits)
