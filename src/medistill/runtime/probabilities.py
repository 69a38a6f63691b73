"""From logits to probabilities: the one place that does it, for the device, the evaluation and the explanations."""

import numpy as np


def probabilities(logits: np.ndarray, task: str) -> np.ndarray:
    """Probabilities of logits, without overflow.

    Args:
        logits: (N, L).
        task: `multilabel` (a sigmoid a label) or `multiclass` (a softmax over the classes, so that a row sums to 1).

    Returns:
        float64 (N, L), 0..1.

    Raises:
        ValueError: there is no such task.
    """
    logits = np.asarray(logits, np.float64)
    if task == "multiclass":
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponents / exponents.sum(axis=1, keepdims=True)
    if task != "multilabel":
        raise ValueError(f"no such task: {task!r}")
    # exp of a negative number only, so that nothing overflows.
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1, small) / (1 + small)
