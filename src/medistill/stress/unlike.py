"""How unlike the training images an image is, by an early map that a network makes of it: torch-free.

**Features.** The map (K, h, w) after the network's last stage with a cell for each 8 x 8 pixels (`stage_at(model,
STRIDE)`), the last map where it has no such stage: of each of its K channels the mean over each quarter of the map, top
left, top right, bottom left, bottom right; D = 4K. Halves of an odd number of cells share the middle one. Of a network
without maps they are its K pooled features. `tap.py` has them in torch.

**Score.** With c = features - `mean` and t = `components` c: the sum of `scales[i]` t[i]² over the k components, plus
`scales[k]` times what is left of the squared distance, |c - componentsᵀ t|²; or `side` · c, where that is more. Above
1.0 an image is marked.

The first is the squared Mahalanobis distance under the shrunk covariance of Ledoit and Wolf (J. Multivar. Anal. 88,
2004), of which all but the first 64 principal components have their mean variance (Tipping and Bishop, J. R. Stat. Soc.
B 61, 1999). The second is Fisher's linear discriminant (Ann. Eugen. 7, 1936), of the same covariance, between training
images and the same ones mirrored: a mirrored chest differs from others in too few directions for a distance. Each is
divided by a threshold of its own, so that both have a say. Sources: Lee et al., NeurIPS 2018 (Mahalanobis distances of
features of all stages); Rippel et al., ICPR 2020 (of networks that were trained for another task).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from medistill.metrics.intervals import Codes, FloatArray, Numbers

STRIDE = 8
"""Pixels of the network's input, in each direction, for a cell of the map."""

COMPONENTS = 64
"""Principal components at most."""

PERCENTILE = 0.99
"""Share of validation patients none of whose images is marked."""

_ROUNDING = 1e-6
"""Deviations below this share of the largest feature are rounding."""

_ABOVE = 1e-6
"""By how much of itself the threshold lies above the patient who sets it, so that float32 does not mark that one."""

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Unlike:
    """What a network's features of training and validation images were, fitted once; a score is two matrix products.

    Attributes:
        mean: float32 (D,), of the training images' features.
        components: float32 (k, D), orthonormal, k ≤ 64.
        scales: float32 (k + 1,), what the squared coordinates along the components, and the squared rest, are
            multiplied by before they are added.
        side: float32 (D,), what c is multiplied by to tell mirrored images; 0 where these have the same features.
    """

    mean: Float32
    components: Float32
    scales: Float32
    side: Float32

    @classmethod
    def fit(cls, training: Numbers, mirrored: Numbers, validation: Numbers, groups: Codes) -> "Unlike":
        """Fit to features.

        The threshold is the score that at most 1 % of new patients like those of validation exceed with any image: of n
        patients' largest scores the one at place ⌈0.99 (n + 1)⌉, or the largest of all where n < 99.

        Args:
            training: (N, D).
            mirrored: (N, D), of the training images with left and right exchanged.
            validation: (M, D).
            groups: (M,), the patient or other group of each validation image.
        """
        mean = training.mean(axis=0, dtype=np.float64)
        centred = training - mean
        _, singular, rows = np.linalg.svd(centred, full_matrices=False)
        variances = np.zeros(centred.shape[1])
        variances[: len(singular)] = np.square(singular) / len(centred)
        shrinkage = _shrinkage(centred, variances)
        variances = (1 - shrinkage) * variances + shrinkage * variances.mean()
        variances = np.maximum(variances, max(_ROUNDING * np.abs(training).max(), _ROUNDING**2) ** 2)
        count = min(COMPONENTS, len(rows))
        rest = variances[count:].mean() if count < len(variances) else np.inf
        scales = 1 / np.append(variances[:count], rest)
        moved = mirrored.mean(axis=0, dtype=np.float64) - mean
        along = rows[:count] @ moved
        side = rows[:count].T @ (scales[:-1] * along) + scales[-1] * (moved - rows[:count].T @ along)

        def scaled(distance: float, turn: float) -> Unlike:
            arrays = (mean, rows[:count], scales / distance, side / turn)
            return cls(*(array.astype(np.float32) for array in arrays))

        distances, sides = scaled(1, 1)._parts(validation)
        distance = _threshold(distances, groups) or 1.0  # features that are all the same: any others are marked
        turn = max(_threshold(sides, groups), 0.0) or np.inf
        both = _threshold(scaled(distance, turn).scores(validation), groups) or 1.0
        return scaled(distance * both, turn * both)

    def _parts(self, features: Numbers) -> tuple[FloatArray, FloatArray]:
        """The distance of each image and where it lies between the sides, each (N,)."""
        components = self.components.astype(np.float64)
        centred: FloatArray = features.astype(np.float64) - self.mean
        along = centred @ components.T
        rest = np.square(centred - along @ components).sum(axis=1)
        distances = np.square(along) @ self.scales[:-1].astype(np.float64) + self.scales[-1] * rest
        return distances, centred @ self.side.astype(np.float64)

    def scores(self, features: Numbers) -> FloatArray:
        """The score of each image: (N,) of features (N, D); 1 is the threshold."""
        scores: FloatArray = np.maximum(*self._parts(features))
        return scores

    def marks(self, features: Numbers) -> NDArray[np.bool_]:
        """Whether each image is marked as unlike those that the network knows: (N,) of features (N, D)."""
        return self.scores(features) > 1

    def write(self, path: Path, metadata: Mapping[str, str]) -> None:
        """Write a safetensors file of `mean`, `components`, `scales` and `side`."""
        tensors = {"mean": self.mean, "components": self.components, "scales": self.scales, "side": self.side}
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path, dict(metadata))

    @classmethod
    def read(cls, path: Path) -> "Unlike":
        """What `write` wrote."""
        return cls(**load_file(path))


def _threshold(scores: FloatArray, groups: Codes) -> float:
    """What at most 1 % of new groups exceed with any image, of scores (M,) of images of groups (M,)."""
    largest = np.sort([scores[groups == group].max() for group in np.unique(groups)])
    place = min(int(np.ceil(PERCENTILE * (len(largest) + 1))), len(largest))
    return float((1 + _ABOVE) * largest[place - 1])


def _shrinkage(centred: FloatArray, variances: FloatArray) -> float:
    """How much of each principal variance is replaced by their mean: Ledoit and Wolf (2004), §3.3, b²/d².

    Args:
        centred: (N, D), features minus their mean.
        variances: (D,), their principal variances.
    """
    squared = np.square(variances).sum()
    apart = squared - np.square(variances.sum()) / len(variances)  # D d²: of the covariance from a multiple of unity
    error = (np.square(np.square(centred).sum(axis=1)).mean() - squared) / len(centred)  # D b²
    return float(min(error, apart) / apart) if apart > 0 else 1.0
