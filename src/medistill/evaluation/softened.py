"""Gaps of subgroups in a teacher's softened answers, by temperature: what students are taught about each group.

A student learns the teacher's answers to the training images at a temperature, σ(z / T) or softmax(z / T). They say of
the images that have a label how much of it the student is told to see, and of the others how much that is not there. A
higher temperature draws both to the middle, gaps with them: so the distance between both stands beside the gaps.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import expit, softmax

from medistill.data.dataset import Dataset
from medistill.evaluation.subgroups import RESAMPLES, Part, parts_of
from medistill.layout import KnowledgeFolder
from medistill.metrics.bootstrap import draw, resample
from medistill.metrics.eligibility import ineligibility
from medistill.metrics.intervals import FloatArray, summarise
from medistill.records.evaluation import Softened, SoftenedGap
from medistill.records.models import KnowledgeRecord

TEMPERATURES = (1, 2, 4, 8)


def soften_answers(dataset: Dataset, files: KnowledgeFolder, resamples: int, seed: int) -> list[Softened]:
    """What a teacher's cached answers say of each group of training images; empty without any, or if it lacks a label.

    Args:
        dataset: the truth and the attributes.
        files: the teacher's answers.
        resamples: of the bootstrap over patients, 1,000 at most.
        seed: of the bootstrap.

    Raises:
        UserError: the answers are damaged.
    """
    if not files.record.is_file():
        return []
    names = [files.answers("logits").name, files.image_ids.name]
    record = KnowledgeRecord.read_whole(files.record, names)
    if not set(dataset.labels) <= set(record.labels):
        return []
    logits = np.load(files.answers("logits"), mmap_mode="r")  # (V, N, L)
    logits = logits[..., [record.labels.index(label) for label in dataset.labels]].astype(np.float64)
    known = ~np.isnan(logits).any(axis=(0, 2))
    rows = dataset.manifest.set_index("image_id").loc[np.load(files.image_ids)[known]].reset_index()
    return softened_gaps(
        rows, dataset.targets(rows), dataset.labels, logits[:, known], dataset.task.exclusive, resamples, seed
    )


def softened_gaps(
    rows: pd.DataFrame,
    targets: FloatArray,
    labels: Sequence[str],
    logits: FloatArray,
    exclusive: bool,
    resamples: int,
    seed: int,
) -> list[Softened]:
    """The same of arrays.

    Args:
        rows: (N,), of the manifest.
        targets: (N, L), 1, 0, or NaN where unknown.
        labels: L names.
        logits: (V, N, L), of V views; the mean over views of the softened answers counts.
        exclusive: whether labels are classes, whose softmax is taken.
        resamples, seed: as of `soften_answers`.
    """
    soften = (lambda z: softmax(z, axis=-1)) if exclusive else expit
    answers = np.stack([soften(logits / temperature).mean(axis=0) for temperature in TEMPERATURES])
    groups = np.unique(rows["group_id"], return_inverse=True)[1]
    counts = draw(int(groups.max()) + 1, min(resamples, RESAMPLES), seed) if len(rows) else np.ones((0, 1), np.uint16)
    return [_softened(part, targets, labels, answers, groups, counts) for part in parts_of(rows) if not part.mirrored]


def _softened(
    part: Part,
    targets: FloatArray,
    labels: Sequence[str],
    answers: FloatArray,
    groups: np.ndarray,
    counts: np.ndarray,
) -> Softened:
    columns = [
        k
        for k in range(len(labels))
        if not any(ineligibility(targets[rows, k], groups[rows]) for rows in (part.inside, part.rest))
    ]
    gaps = []
    if columns:
        levels = [
            _levels(answers[..., columns], targets[:, columns] == value, inside, groups, counts)
            for value in (1, 0)
            for inside in (part.inside, part.rest)
        ]
        for place, temperature in enumerate(TEMPERATURES):
            positives, other_positives, negatives, other_negatives = (level[place] for level in levels)
            distance = (positives + other_positives - negatives - other_negatives) / 2
            gaps.append(
                SoftenedGap(
                    temperature=temperature,
                    positives=summarise(positives - other_positives, difference=True),
                    negatives=summarise(negatives - other_negatives, difference=True),
                    distance=summarise(distance, difference=True),
                )
            )
    return Softened(
        attribute=part.attribute,
        group=part.group,
        images=int(part.inside.sum()),
        groups=len(np.unique(groups[part.inside])),
        labels=[labels[k] for k in columns],
        gaps=gaps,
    )


def _levels(
    answers: FloatArray, chosen: np.ndarray, inside: np.ndarray, groups: np.ndarray, counts: np.ndarray
) -> FloatArray:
    """Mean answer (T, N, K) of the chosen (N, K) within a part (N,), the mean over K labels: (T, 1 + R)."""
    wanted = chosen & inside[:, None]
    sums, numbers = (
        np.stack([np.bincount(groups, values, minlength=len(counts)) for values in arrays])
        for arrays in ((answers * wanted).transpose(0, 2, 1).reshape(-1, len(groups)), wanted.T.astype(np.float64))
    )
    shape = (len(answers), answers.shape[-1], -1)

    def mean(weights: FloatArray) -> FloatArray:
        with np.errstate(invalid="ignore"):
            means: FloatArray = ((sums @ weights).reshape(shape) / (numbers @ weights)).mean(axis=1)
        return means

    return resample(mean, counts)
