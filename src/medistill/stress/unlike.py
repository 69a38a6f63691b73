"""How unlike the training images an image is, by the pooled features that a network makes of it.

In the directions in which the training images' features vary most (their first 64 principal components), the squared
Mahalanobis distance from their mean; and what is left of the squared distance outside of these directions. Each is
divided by its mean over validation images, and the mean of both is the score: 1 is usual. Sources: Lee et al., NeurIPS
2018 (Mahalanobis distances of features); Ndiour et al., arXiv 2012.04250 (the rest outside of principal components).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from medistill.metrics.intervals import Codes, FloatArray, Numbers

COMPONENTS = 64
"""Principal components at most."""

PERCENTILE = 0.99
"""Share of validation patients none of whose images is marked."""

_LEAST = 1e-6
"""Variances below this share of the largest are rounding, or directions that the training images do not fill."""

_LEAST_REST = 1e-3
"""Shares of the variance outside of the components below which that is not counted: in float32 it would be rounding."""

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Unlike:
    """What a network's features of training and validation images were, fitted once; a score is one matrix product.

    Attributes:
        mean: float32 (K,), of the training images' features.
        components: float32 (k, K), orthonormal, k ≤ 64.
        scales: float32 (k + 1,), what the squared coordinates along the components, and the squared rest, are
            multiplied by before they are added.
        threshold: scores above it are marked.
    """

    mean: Float32
    components: Float32
    scales: Float32
    threshold: float

    @classmethod
    def fit(cls, training: Numbers, validation: Numbers, groups: Codes) -> "Unlike":
        """Fit to pooled features.

        The threshold is the score that at most 1 % of new patients like those of validation exceed with any image: of n
        patients' largest scores the one at place ⌈0.99 (n + 1)⌉, or the largest of all where n < 99.

        Args:
            training: (N, K).
            validation: (M, K).
            groups: (M,), the patient or other group of each validation image.
        """
        mean = training.mean(axis=0, dtype=np.float64)
        _, singular, rows = np.linalg.svd(training - mean, full_matrices=False)
        variances = singular**2 / max(1, len(training) - 1)
        count = min(COMPONENTS, int((variances > _LEAST * variances[0]).sum()))
        fitted = cls(
            mean.astype(np.float32),
            rows[:count].astype(np.float32),
            np.concatenate([1 / variances[:count], [1.0]]).astype(np.float32),
            np.inf,
        )
        inside, outside = fitted._parts(validation)
        rest = outside.mean() > _LEAST_REST * variances.sum()
        scales = np.concatenate([fitted.scales[:count] / inside.mean(), [1 / outside.mean() if rest else 0]])
        scales = (scales / (2 if rest else 1)).astype(np.float32)
        scores = cls(fitted.mean, fitted.components, scales, np.inf).scores(validation)
        largest = np.sort([scores[groups == group].max() for group in np.unique(groups)])
        place = int(np.ceil(PERCENTILE * (len(largest) + 1)))
        return cls(fitted.mean, fitted.components, scales, float(largest[min(place, len(largest)) - 1]))

    def _parts(self, features: Numbers) -> tuple[FloatArray, FloatArray]:
        """What lies along the components, scaled, and the rest, each (N,)."""
        centred = features - self.mean.astype(np.float64)
        along = centred @ self.components.T.astype(np.float64)
        rest = np.maximum(np.square(centred).sum(axis=1) - np.square(along).sum(axis=1), 0)
        return np.square(along) @ self.scales[:-1].astype(np.float64), self.scales[-1] * rest

    def scores(self, features: Numbers) -> FloatArray:
        """The score of each image: (N,) of features (N, K); 1 on average over validation images."""
        inside, outside = self._parts(features)
        return inside + outside

    def marks(self, features: Numbers) -> NDArray[np.bool_]:
        """Whether each image is marked as unlike those that the network knows: (N,) of features (N, K)."""
        return self.scores(features) > self.threshold

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write a safetensors file of `mean`, `components`, `scales` and `threshold` (1,)."""
        threshold = np.array([self.threshold], np.float32)
        tensors = {"mean": self.mean, "components": self.components, "scales": self.scales, "threshold": threshold}
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path, dict(metadata))
