"""What weighs more or less in a loss: labels, classes, groups of images, and answers that contradict the label."""

import numpy as np
import torch
from torch import Tensor

from medistill.data.dataset import Dataset, count_labels
from medistill.distillation.terms import Group, HardTerm
from medistill.errors import UserError
from medistill.training.batches import training_rows


def balance(term: HardTerm, dataset: Dataset) -> dict[str, Tensor]:
    """Weights from the training labels; a label without positives or negatives weighs 1."""
    targets = dataset.targets(dataset.split("train"))
    positive, negative = count_labels(targets)
    if term.balances == "classes":
        weight = positive.sum() / np.maximum(positive, 1) / len(positive)
        return {"class_weight": torch.from_numpy(np.where(positive > 0, weight, 1).astype(np.float32))}
    weight = np.where((positive > 0) & (negative > 0), negative / np.maximum(positive, 1), 1)
    return {"positive_weight": torch.from_numpy(weight.astype(np.float32))}


def group_weights(dataset: Dataset, column: Group) -> dict[str, float]:
    """Weight of each labelled training image, by which every group of `column` counts the same.

    N/(G · n) for an image of a group of n, where N images are of G known groups; 1 where the group is unknown. So the
    mean weight is 1, and a loss keeps its size.

    Args:
        dataset: its manifest has the column.
        column: `sex`, `view` or `source`.

    Returns:
        By image id.

    Raises:
        UserError: no training image has a group in this column.
    """
    rows = training_rows(dataset, unlabelled=False)
    count = rows[column].map(rows[column].value_counts())
    if count.isna().all():
        known = [name for name in ("sex", "view", "source") if rows[name].notna().any()]
        instead = f"known here: {', '.join(known)}" if known else "nor any other; leave it out"
        raise UserError(f"group_weights: the training images have no {column}; {instead}")
    weight = count.notna().sum() / (rows[column].nunique() * count)
    return dict(zip(rows["image_id"], weight.fillna(1.0), strict=True))


def trust(teacher: Tensor, target: Tensor, *, exclusive: bool) -> Tensor:
    """Weight of the teacher's answers: p where the label is known and the teacher gives it p < 0.5, else 1.

    p is the probability that the teacher gives to the label: σ(teacher) where it is present and 1 − σ(teacher) where it
    is absent, label by label; of exclusive classes softmax(teacher) of the image's class, for all of its logits.

    Args:
        teacher: logits (N, L).
        target: (N, L): 1, 0, or NaN where unknown.
        exclusive: labels are exclusive classes.

    Returns:
        float32 (N, L), without gradient.

    Example:
        >>> teacher, target = torch.tensor([[2.0, 2.0, -1.0]]), torch.tensor([[1.0, 0.0, torch.nan]])
        >>> [round(weight, 3) for weight in trust(teacher, target, exclusive=False)[0].tolist()]
        [1.0, 0.119, 1.0]
    """
    teacher, known = teacher.detach().float(), ~torch.isnan(target)
    if exclusive:
        known = known.all(1, keepdim=True).expand_as(target)
        p = (teacher.softmax(1) * torch.where(known, target, 0)).sum(1, keepdim=True).expand_as(teacher)
    else:
        p = torch.sigmoid(torch.where(target == 1, teacher, -teacher))
    return torch.where(known & (p < 0.5), p, 1.0)
