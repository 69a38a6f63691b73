"""From a recipe to the loss of a batch."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medistill.config import Recipe
from medistill.distillation.functional import binary_cross_entropy, sigmoid_kd
from medistill.distillation.knowledge import Knowledge
from medistill.training.loop import Batch, Objective


def supervised(logits: Tensor, batch: Batch) -> dict[str, Tensor]:
    """The hard loss alone: binary cross-entropy against the known labels."""
    return {"loss": binary_cross_entropy(logits, batch.targets)}


def distilled(recipe: Recipe, teachers: Sequence[Knowledge]) -> Objective:
    """(1 − weight) · hard loss + weight · distillation towards the mean of the teachers' logits."""

    def objective(logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        answers = np.mean([teacher.logits(batch.image_ids, batch.view) for teacher in teachers], axis=0)
        teacher = torch.from_numpy(answers).to(logits.device)
        hard = binary_cross_entropy(logits, batch.targets)
        soft = sigmoid_kd(logits, teacher, temperature=recipe.temperature)
        return {"loss": (1 - recipe.weight) * hard + recipe.weight * soft, "hard": hard, "distillation": soft}

    return objective
