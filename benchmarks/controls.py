"""A teacher that says nothing about the image: each gets the answer about another one."""

import hashlib
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from medistill.data.dataset import Dataset
from medistill.distillation.teachers import ChangedTeacher, Teacher
from medistill.training.batches import Batch


@dataclass(frozen=True)
class Shuffled(ChangedTeacher):
    """The answers of a teacher, each given to another image; how they are distributed stays the same.

    Attributes:
        teacher: whose answers they are.
        other: of each image's id, the id of the image whose answer it gets.
    """

    teacher: Teacher
    other: dict[str, str]

    @property
    def checksum(self) -> str:
        """Of the answers and of who gets which."""
        return hashlib.sha256(f"{self.teacher.checksum} {self.other}".encode()).hexdigest()

    def answer(self, batch: Batch, needs: AbstractSet[str]) -> dict[str, Tensor]:
        """The teacher's answers about other images, in the same view."""
        others = [self.other[image_id] for image_id in batch.image_ids]
        return self.teacher.answer(replace(batch, image_ids=others), needs)


def derangement(count: int, seed: int) -> np.ndarray:
    """A permutation (count,) in which nothing stays in its place: one random cycle through all (Sattolo 1986)."""
    order = np.random.default_rng(seed).permutation(count)
    places = np.empty(count, int)
    places[order] = np.roll(order, 1)
    return places


def shuffle(teacher: Teacher, dataset: Dataset, seed: int) -> Shuffled:
    """Give each training image the teacher's answer about another training image."""
    names = dataset.split("train")["image_id"].to_numpy(str)
    others = names[derangement(len(names), seed)]
    return Shuffled(teacher, dict(zip(names.tolist(), others.tolist(), strict=True)))
