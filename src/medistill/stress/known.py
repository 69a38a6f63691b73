"""How well a student tells images of other kinds from test images, and what its AUROC is on those that it knows."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from medistill.evaluation.answers import Split
from medistill.evaluation.comparison import Measured
from medistill.evaluation.figures import LEAD
from medistill.metrics.bootstrap import draw
from medistill.metrics.eligibility import fewer_groups, ineligibility
from medistill.metrics.intervals import Codes, FloatArray, compare, summarise
from medistill.metrics.means import share_interval
from medistill.metrics.ranking import measure_ranking
from medistill.records.estimate import Estimate
from medistill.records.stress import Kind, Known
from medistill.stress.answered import ModelAnswers
from medistill.stress.shifts import INVERSION, MADE
from medistill.stress.unlike import Unlike

KINDS = {INVERSION: "test images, as negatives", **{change.name: change.what for change in MADE}}
"""Kinds that are made of the test images, by the name of the change."""


def fit_unlike(answers: ModelAnswers, validation_groups: Codes) -> Unlike:
    """Fit to what a student says of training and validation images."""
    assert answers.training is not None
    assert answers.mirrored is not None
    assert answers.validation is not None
    return Unlike.fit(
        answers.training.features, answers.mirrored.features, answers.validation.features, validation_groups
    )


def marked_by_shift(unlike: Unlike, answers: ModelAnswers, groups: Codes) -> dict[str, Estimate]:
    """Share of changed test images that are marked, by change, with Wilson's interval by group."""
    return {
        name: share_interval(unlike.marks(changed.features).astype(np.float64), groups)
        for name, changed in answers.changed.items()
    }


def describe_known(
    unlike: Unlike, answers: ModelAnswers, split: Split, validation_groups: Codes, what: Mapping[str, str]
) -> Known:
    """What `unlike` says of test images and of images of other kinds.

    Args:
        unlike: fitted.
        answers: of the student.
        split: the truth of the test images that were asked about.
        validation_groups: (M,), of the validation images.
        what: in words, of each kind of `answers.others`.
    """
    assert answers.training is not None
    assert answers.validation is not None
    assert answers.others is not None
    scores, marks = unlike.scores(answers.plain.features), unlike.marks(answers.plain.features)
    kinds = {}
    for name, words in KINDS.items():
        kinds[name] = _kind(unlike, words, scores, answers.changed[name].features, split, split.groups)
    for name, other in answers.others.items():
        alone = len(split.counts) + np.arange(len(other.features))  # each is a group of its own
        kinds[name] = _kind(unlike, what[name], scores, other.features, split, alone)
    by_group = np.bincount(split.groups, marks, minlength=len(split.counts)) > 0
    kept, gain = _kept(split, answers, marks)
    return Known(
        features=len(unlike.mean),
        components=len(unlike.components),
        training_images=len(answers.training.features),
        validation_images=len(validation_groups),
        validation_groups=len(np.unique(validation_groups)),
        usual=float(unlike.scores(answers.validation.features).mean()),
        marked=share_interval(marks.astype(np.float64), split.groups),
        marked_groups=share_interval(by_group.astype(np.float64), np.arange(len(by_group))),
        auroc_kept=kept,
        gain=gain,
        kinds=kinds,
    )


def _kind(
    unlike: Unlike, what: str, usual: FloatArray, features: NDArray[np.floating], split: Split, groups: Codes
) -> Kind:
    """One kind against the test images, whose scores are `usual` (N,); `groups` (M,) of the kind's images."""
    scores, marks = unlike.scores(features), unlike.marks(features)
    truth = np.concatenate([np.zeros(len(usual)), np.ones(len(scores))])[:, None]
    both = np.concatenate([split.groups, groups])
    counts = draw(int(both.max()) + 1, split.resamples)
    values = measure_ranking(truth, np.concatenate([usual, scores])[:, None], both, counts)[0][:, 0]
    return Kind(
        what=what,
        images=len(scores),
        auroc=summarise(values, counts, groups=fewer_groups(truth[:, 0], both)),
        marked=share_interval(marks.astype(np.float64), groups),
    )


def _kept(split: Split, answers: ModelAnswers, marks: NDArray[np.bool_]) -> tuple[Estimate, Estimate]:
    """Mean AUROC without marked images, and that minus the one on all, over labels that are eligible without them."""
    kept = np.where(marks[:, None], np.nan, split.targets)
    columns = [k for k in split.columns() if not ineligibility(kept[:, k], split.groups)]
    if not columns:
        return Estimate(None), Estimate(None)
    without = Split(split.labels, kept, split.groups, split.counts, split.skipped, split.rests_on, split.task)
    both = (Measured.of(truth, answers.plain.logits, names=[LEAD]) for truth in (without, split))
    own, all_ = (measured.values[LEAD][:, columns].mean(axis=1) for measured in both)
    return summarise(own, split.counts), compare(own, all_, split.counts)[0] if marks.any() else Estimate(0.0)
