"""Every figure of a model on a split, one row each.

A figure is measured, compared, written to reports and metrics.json, and so shown by the report, MLflow and the model
card, because it is in `FIGURES`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from medistill.evaluation.answers import Answers, Split
from medistill.metrics.intervals import FloatArray, Numbers
from medistill.metrics.reliability import expected_calibration_error, null_calibration_error
from medistill.task import Task


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: in files; the mean over eligible labels of a figure of labels is `macro_<name>`.
        title: for people.
        measure: from a model's answers to (1 + R, L) or (1, L) for a figure of labels, to (1 + R,) for one of all
            classes at once; row 0 is on the data themselves, the others are resamples, and NaN is undefined.
        task: the task it applies to; None: both.
        of_labels: whether each label has one.
        resampled: whether it has an interval.
        compared: whether it is compared between models, which needs an interval; not where neither more nor less of it
            is better.
        left_out: from a model's answers to (1 + B, L), the figure without each block of groups, where the interval of
            its mean over labels is by a jackknife, see `intervals.centred`; None: it is by the resamples.
        summary: whether metrics.json has it, and so the report's table of models, MLflow and the card; a figure that is
            only for comparison with papers is in reports/evaluation/<model>.json alone.
        columns: splits for which the report's table of models shows it.
        tables: splits for which the report shows it label by label.
        plotted: whether the report draws its differences.
        beside: name of another figure that the report's table of models shows below it; empty: none.
        needs: what a split must have, `strata` or `places`; empty: nothing more. What it lacks is not measured.
    """

    name: str
    title: str
    measure: Callable[[Answers], FloatArray]
    task: Task | None = None
    of_labels: bool = True
    resampled: bool = True
    compared: bool = True
    left_out: Callable[[Answers], FloatArray] | None = None
    summary: bool = True
    columns: tuple[str, ...] = ("test",)
    tables: tuple[str, ...] = ()
    plotted: bool = False
    beside: str = ""
    needs: str = ""

    @property
    def key(self) -> str:
        """Its name as one number over all labels."""
        return f"macro_{self.name}" if self.of_labels else self.name

    def applies(self, task: Task) -> bool:
        """Whether models of this task have it."""
        return self.task in (None, task)

    def measurable(self, split: Split) -> bool:
        """Whether a split has what it needs."""
        return self.applies(split.task) and (not self.needs or getattr(split, self.needs) is not None)


def _by_label(measure: Callable[[Numbers, Numbers], float]) -> Callable[[Answers], FloatArray]:
    """A figure without resamples, (1, L), by one of targets (N,) and probabilities (N,)."""
    return lambda answers: np.array([answers.by_label(measure)], dtype=np.float64)


def _judged(name: str, title: str, **keys: Any) -> Figure:
    """A figure of `metrics.probabilities`."""
    return Figure(name, title, lambda answers: answers.judged[name], **keys)


def _decided(name: str, title: str, **keys: Any) -> Figure:
    """A figure of `metrics.classification`."""
    return Figure(name, title, lambda answers: answers.decided[name], Task.MULTICLASS, of_labels=False, **keys)


LEAD = "auroc"
"""The figure that chooses references and is compared label by label."""

WITHIN = "auroc_within"
"""The figure whose mean is over the labels that are eligible within strata."""

_MULTILABEL, _CLASSES = Task.MULTILABEL, Task.MULTICLASS

FIGURES: tuple[Figure, ...] = (
    Figure(LEAD, "AUROC", lambda a: a.ranking[0], columns=("val", "test"), tables=("test", "val"), plotted=True),
    Figure(
        WITHIN,
        "AUROC within strata",
        lambda a: a.ranking_within,
        columns=("val", "test"),
        tables=("test",),
        needs="strata",
    ),
    Figure("auprc", "AUPRC", lambda a: a.ranking[1], left_out=lambda a: a.precision_left_out, tables=("test",)),
    _judged("brier", "Brier score", tables=("test",)),
    _judged("log_loss", "log loss", columns=()),
    _judged("calibration_slope", "calibration slope", compared=False, columns=(), tables=("test",)),
    _judged("calibration_intercept", "calibration intercept", compared=False, columns=(), tables=("test",)),
    _judged("observed_expected", "O/E", compared=False, columns=()),
    Figure("ece", "ECE", _by_label(expected_calibration_error), resampled=False, compared=False, beside="ece_null"),
    Figure(
        "ece_null",
        "ECE if calibrated",
        _by_label(null_calibration_error),
        resampled=False,
        compared=False,
        columns=(),
    ),
    Figure(
        "accuracy", "accuracy", lambda a: a.at_half[:1], _MULTILABEL, resampled=False, compared=False, summary=False
    ),
    Figure("f1", "F1", lambda a: a.at_half[1:2], _MULTILABEL, resampled=False, compared=False, summary=False),
    Figure(
        "f1_weighted",
        "weighted F1",
        lambda a: a.at_half[2:],
        _MULTILABEL,
        resampled=False,
        compared=False,
        summary=False,
    ),
    Figure("aurc", "AURC", lambda a: a.abstention, _MULTILABEL, tables=("test",)),
    _decided("accuracy", "accuracy", plotted=True),
    _decided("balanced_accuracy", "balanced accuracy", plotted=True),
    _decided("macro_f1", "macro F1"),
    _decided("mcc", "MCC"),
    _decided("quadratic_kappa", "quadratic kappa", needs="places"),
    Figure("aurc", "AURC", lambda a: a.abstention[:, 0], _CLASSES, of_labels=False),
)


def figures_of(task: Task) -> list[Figure]:
    """The figures that models of a task have, in order."""
    return [figure for figure in FIGURES if figure.applies(task)]
