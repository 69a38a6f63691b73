"""Removed pixels: the imputation against a dense solution, drops of a network that is known to use one corner."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from torch import nn

from medistill.explain.road import SHARES, Drops, Removed, impute, measure_drops, removals, summarise
from medistill.explain.selection import Finding
from medistill.metrics.means import mean_interval
from medistill.models.classifier import Classifier
from medistill.task import Task

SIZE = 16
LABELS = ["Mass", "Nodule"]


def dense(image: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """The same equations for every pixel, one after the other, solved at once."""
    rows, columns = gone.shape
    matrix, right = np.eye(gone.size), image.ravel().astype(float)
    for row in range(rows):
        for column in range(columns):
            if not gone[row, column]:
                continue
            place, weights = row * columns + column, {}
            for r in range(max(0, row - 1), min(rows, row + 2)):
                for c in range(max(0, column - 1), min(columns, column + 2)):
                    if (r, c) != (row, column):
                        weights[r * columns + c] = 1 / 6 if r == row or c == column else 1 / 12
            right[place] = 0
            for other, weight in weights.items():
                matrix[place, other] = -weight / sum(weights.values())
    return np.linalg.solve(matrix, right).reshape(gone.shape)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_imputation_is_that_of_a_dense_solution(share):
    rng = np.random.default_rng(0)
    image = rng.random((2, 9, 9)).astype(np.float32)
    gone = rng.random((9, 9)) < share
    gone[:4, :4] = True  # a hole, and one at the border
    filled = impute(image, gone)
    for channel in range(2):
        np.testing.assert_allclose(filled[channel], dense(image[channel], gone), atol=5e-4)
    np.testing.assert_array_equal(filled[:, ~gone], image[:, ~gone])


def test_a_plane_is_filled_as_a_plane():
    """In the middle of a plane every pixel is the mean of its neighbours, so nothing is seen of the hole."""
    rows, columns = np.mgrid[:SIZE, :SIZE] / (2 * SIZE)
    image = (rows + columns)[None].astype(np.float32)
    gone = np.zeros((SIZE, SIZE), bool)
    gone[3:9, 4:12] = True
    np.testing.assert_allclose(impute(image, gone), image, atol=1e-3)
    np.testing.assert_array_equal(impute(image, np.zeros_like(gone)), image)


def test_the_pixels_that_the_map_shows_most_go_first():
    rng = np.random.default_rng(0)
    image, frame = rng.random((1, SIZE, SIZE)).astype(np.float32), rng.random((SIZE, SIZE)).astype(np.float32)
    without = removals(image, frame, seed=3)
    for share, own in zip(SHARES, without[:, 0], strict=True):
        count = round(share * SIZE**2)
        least = np.sort(frame, axis=None)[-count]
        np.testing.assert_array_equal(own == image[0], frame < least)
    np.testing.assert_array_equal(without, removals(image, frame, seed=3))
    tied = np.zeros_like(frame)
    gone = [removals(image, tied, seed=seed)[0, 0] != image[0] for seed in (3, 4)]
    assert gone[0].sum() == gone[1].sum() == round(0.2 * SIZE**2)
    assert (gone[0] != gone[1]).any()  # no corner goes first because it comes first


class Corner(nn.Module):
    """The first label's logit is 8 times the mean of the top left quarter, the second's always 0."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        half = features.shape[-1] // 2
        own = self.scale * features[:, :, :half, :half].mean(dim=(1, 2, 3))
        return torch.stack([own, 0 * own], dim=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(images))


def test_a_network_misses_the_corner_that_it_uses_and_nothing_else():
    images = np.full((3, 1, SIZE, SIZE), 26, np.uint8)
    images[:, :, : SIZE // 2, : SIZE // 2] = 230
    findings = [Finding(f"i{k}", label, f"p{k}", "test") for k, label in enumerate(["Mass", "Nodule", "Mass"])]
    maps = np.zeros((3, 2, 2), np.float32)
    maps[:, 0, 0] = 1
    removed = Removed(findings, images, [0, 1])
    model = Classifier(Corner(), {"mean": [0.0], "std": [1.0], "labels": LABELS})
    drops = measure_drops(model, Task.MULTILABEL, LABELS, removed, maps[:2])
    whole, dark = expit(8 * 230 / 255), expit(8 * 26 / 255)
    assert drops.most[0, 1:] == pytest.approx(whole - dark, abs=0.03)  # 40 % are more than the quarter
    assert 0.001 < drops.most[0, 0] < whole - dark
    np.testing.assert_allclose(drops.least[0, :2], 0, atol=0.01)
    np.testing.assert_array_equal(drops.most[1], 0)
    assert drops.least[0].mean() < drops.random[0].mean() < drops.most[0].mean()


def test_drops_are_the_means_over_images_and_compared_image_by_image():
    most, least, random = np.random.default_rng(0).normal(size=(3, 20, 4))
    groups = np.arange(20) // 2
    found = summarise(Drops(most, least, random), groups)
    assert found.images == 20
    assert found.most.estimate == pytest.approx(most.mean())
    lead = (most - random).mean(axis=1)
    assert found.most_minus_random == mean_interval(most.mean(1) - random.mean(1), groups, difference=True)
    assert found.most_minus_random.estimate == pytest.approx(lead.mean())
    assert found.random_minus_least.estimate == pytest.approx(random.mean() - least.mean())
    assert found.by_share["40%"] == pytest.approx([of[:, 1].mean() for of in (most, least, random)])
