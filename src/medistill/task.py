"""Whether labels exclude each other, and how logits become probabilities: for training and on the device.

This is the one place that has a task's link function. numpy is imported when called, as `medistill --help` reads this.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Task(StrEnum):
    """The kind of labels of a data set; written to files as its value."""

    MULTILABEL = "multilabel"
    """An image has any number of the labels, or none."""
    MULTICLASS = "multiclass"
    """An image has exactly one of the labels."""

    @property
    def exclusive(self) -> bool:
        """Whether an image has exactly one of the labels."""
        return self is Task.MULTICLASS

    def probabilities(self, logits: "NDArray[Any]") -> "NDArray[np.float64]":
        """Probabilities of logits, without overflow: one sigmoid per label, or a softmax over exclusive classes.

        Args:
            logits: (N, L).

        Returns:
            float64 (N, L), 0..1; with exclusive classes each row sums to 1.
        """
        import numpy as np

        logits = np.asarray(logits, np.float64)
        answers: NDArray[np.float64]
        if self.exclusive:
            exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
            answers = exponents / exponents.sum(axis=1, keepdims=True)
            return answers
        # exp of a negative number only, so that nothing overflows.
        small = np.exp(-np.abs(logits))
        answers = np.where(logits >= 0, 1, small) / (1 + small)
        return answers


@dataclass(frozen=True)
class Calibration:
    """From a model's logits to the probabilities it answers with: a slope and an intercept per label, the task's link.

    `Calibration(task)` changes no logit.

    Attributes:
        task: whose link function is applied.
        slopes: L; None where all are 1.
        intercepts: L; None where all are 0.
    """

    task: Task
    slopes: Sequence[float] | None = None
    intercepts: Sequence[float] | None = None

    def written_out(self, labels: int) -> dict[str, list[float]]:
        """`slopes` and `intercepts` of so many labels, as files have them."""
        slopes, intercepts = self.slopes or [1.0] * labels, self.intercepts or [0.0] * labels
        return {"slopes": list(map(float, slopes)), "intercepts": list(map(float, intercepts))}

    def logits(self, logits: "NDArray[Any]") -> "NDArray[Any]":
        """Calibrated logits (N, L) of logits (N, L); the same array without calibration."""
        import numpy as np

        if self.slopes is not None:
            logits = np.asarray(self.slopes) * np.asarray(logits, np.float64)
        return logits if self.intercepts is None else np.asarray(logits, np.float64) + np.asarray(self.intercepts)

    def probabilities(self, logits: "NDArray[Any]") -> "NDArray[np.float64]":
        """Calibrated probabilities of logits, float64 (N, L) of (N, L)."""
        return self.task.probabilities(self.logits(logits))
