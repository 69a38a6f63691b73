"""A teacher that always gives the same answers, and a batch and a recipe for it."""

import numpy as np
import torch

from medistill.distillation.settings import Recipe
from medistill.training.batches import Batch


class Answers:
    """A teacher that always gives the same answers."""

    def __init__(self, logits: np.ndarray, **more: np.ndarray) -> None:
        self.said = {"logits": logits} | more
        maps = more.get("attention", more.get("cams"))
        width = more["features"].shape[1] if "features" in more else 0
        self.map_shape = (width, *(maps.shape[-2:] if maps is not None else (7, 7)))
        self.unknown = [str(label) for label in np.flatnonzero(np.isnan(logits).all(axis=0))]

    def answer(self, batch, needs):
        return {name: torch.from_numpy(self.said[name]) for name in {"logits", *needs}}


def batch(targets: torch.Tensor) -> Batch:
    return Batch([str(number) for number in range(len(targets))], 0, targets)


def recipe(*terms: dict, teachers: int = 1) -> Recipe:
    return Recipe(teachers=["a", "b", "c"][:teachers], terms=list(terms))
