"""Data sets and logits of the tests of distillation."""

import numpy as np
import pytest
import torch

from medistill.data.dataset import Dataset
from medistill.task import Task


@pytest.fixture
def classes(tiny_dataset):
    """The tiny data set with three exclusive classes, rare ones and common ones."""
    manifest = tiny_dataset.manifest.drop(columns=[f"label:{label}" for label in tiny_dataset.labels])
    number = np.array([0, 0, 0, 1, 1, 2] * len(manifest))[: len(manifest)]
    manifest = manifest.assign(**{f"label:{name}": (number == k).astype(np.float32) for k, name in enumerate("abc")})
    return Dataset(**(vars(tiny_dataset) | {"manifest": manifest, "labels": list("abc"), "task": Task.MULTICLASS}))


@pytest.fixture
def logits():
    """Of a student and a teacher, (16, 5)."""
    generator = torch.Generator().manual_seed(0)
    return tuple(3 * torch.randn(16, 5, generator=generator) for _ in range(2))
