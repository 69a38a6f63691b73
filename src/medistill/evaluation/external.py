"""The command `medistill evaluate`: an exported model on another hospital's images, with nothing fitted anew."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.special import logsumexp

from medistill.errors import UserError
from medistill.evaluation.answers import Answers, Split
from medistill.evaluation.calibration import FIGURES_AFTER
from medistill.evaluation.comparison import Measured, adjust, compare_pair, measure_each
from medistill.evaluation.foreign import Foreign, Place, read_foreign
from medistill.evaluation.operating import Known, observe
from medistill.evaluation.subgroups import CALLED_AT, measure_subgroups, parts_of
from medistill.evaluation.verdict import judge
from medistill.metrics.intervals import FloatArray, Numbers
from medistill.records.estimate import Estimate
from medistill.records.evaluation import OperatingPoint, SplitFigures
from medistill.records.external import External, Recalibration, Shift
from medistill.runtime.bundle import Bundle
from medistill.runtime.predictor import Predictor
from medistill.task import Calibration

_NAME = "test"
"""Of the split: nothing is fitted on it."""


@dataclass(frozen=True)
class Request:
    """What to evaluate.

    Attributes:
        model: folder of an exported model.
        place: the data set.
        renamed: labels of the model -> the same in the data set, where names differ.
        against: folders of exported models to compare it with.
        resamples, seed: of the bootstrap.
    """

    model: Path
    place: Place
    renamed: Mapping[str, str] = field(default_factory=dict)
    against: Sequence[Path] = ()
    resamples: int = 2000
    seed: int = 0


def evaluate(request: Request) -> External:
    """Let the models answer all images of the data set, and measure and compare them in the same resamples.

    Args:
        request: what to evaluate.

    Raises:
        UserError: an export or the data set cannot be read, they share no label, or none is there with and without.
    """
    predictors = _open([request.model, *request.against])
    first, *others = predictors
    read = read_foreign(request.place, predictors, request.renamed)
    _require_both(read, request.place.root)
    bundles = {name: predictor.bundle for name, predictor in predictors.items()}
    task, groups = bundles[first].task, read.rows["group_id"].to_numpy(str)
    split = Split.of(read.labels, read.targets, groups, request.resamples, request.seed, task, _NAME)
    models = measure_each(split, read.logits, "measure")
    rows = [row for name in others for row in compare_pair(models, _NAME, first, name, "baseline")]
    fitted = {name: _calibration(bundle, split.labels) for name, bundle in bundles.items()}
    answers = {name: own.answers.calibrated(fitted[name]) for name, own in models.items()}  # thresholds are on these
    operating = {name: _operating(bundle, answers[name]) for name, bundle in bundles.items()}
    described = {name: own.describe() for name, own in models.items()}
    calibrated = {name: _calibrated(fitted[name], own) for name, own in models.items()}
    own_auroc = _own_auroc(bundles[first], described[first].labels)
    do_not_use, verdict = judge(first, described[first], own_auroc, operating[first])
    return External(
        models=described,
        comparisons=adjust(rows),
        subgroups=measure_subgroups(parts_of(read.rows), answers, _called(operating), {first: others}),
        notes=read.notes,
        dataset=read.name,
        format=request.place.format,
        evaluated=first,
        do_not_use=do_not_use,
        verdict=verdict,
        own_auroc=own_auroc,
        unknown_labels=read.unknown,
        unasked_labels=read.unasked,
        left_out=read.left_out,
        calibrated=calibrated,
        operating=operating,
        recalibration={name: recalibrate(own, described[name]) for name, own in models.items()},
    )


def _open(folders: Sequence[Path]) -> dict[str, Predictor]:
    """The models by their names, or by their folders where two have the same name."""
    opened = [Predictor(folder) for folder in folders]
    names = [predictor.bundle.name for predictor in opened]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise UserError("--against: a model cannot be compared with itself; name another export")
    return dict(zip(names, opened, strict=True))


def _require_both(read: Foreign, root: Path) -> None:
    """Refuse a data set in which nothing can be told apart."""
    if not any({0.0, 1.0} <= set(np.unique(column).tolist()) for column in read.targets.T):
        labels = ", ".join(read.labels)
        raise UserError(
            f"{root}: of none of the labels {labels} it has images with and without it, so none is measured"
        )


def _own_auroc(bundle: Bundle, labels: Sequence[str]) -> float | None:
    """The model's mean AUROC over these labels on its own test images; None where its export does not say."""
    known = [bundle.test_auroc.get(label) for label in labels]
    values = [value for value in known if value is not None]
    return float(np.mean(values)) if values and len(values) == len(known) else None


# Thresholds and calibration of the bundle


def _operating(bundle: Bundle, answers: Answers) -> dict[str, list[OperatingPoint]]:
    """What is seen here of each threshold."""
    found = {}
    for k, label in enumerate(answers.split.labels):
        here = Known.of(answers, k)
        found[label] = [observe(here, at.kind, at.promised, at.thresholds[label], None) for at in bundle.points]
    return found


def _called(operating: Mapping[str, dict[str, list[OperatingPoint]]]) -> dict[str, dict[str, list[OperatingPoint]]]:
    """The models of which it is known what they call: those whose bundle has the thresholds that subgroups need."""
    return {
        name: points
        for name, points in operating.items()
        if all(CALLED_AT in [(point.kind, point.promised) for point in own] for own in points.values())
    }


def _calibration(bundle: Bundle, labels: Sequence[str]) -> Calibration:
    """The bundle's, of these labels."""
    columns = [bundle.labels.index(label) for label in labels]
    fitted = bundle.calibration.written_out(len(bundle.labels))
    return Calibration(bundle.task, **{name: [values[k] for k in columns] for name, values in fitted.items()})


def _calibrated(calibration: Calibration, own: Measured) -> SplitFigures:
    """Figures once the bundle's calibration is applied."""
    return Measured.of(own.split, own.answers.logits, calibration, names=FIGURES_AFTER).describe()


# Recalibration in the large


def recalibrate(own: Measured, described: SplitFigures) -> Recalibration:
    """What a constant for each label, added to its logits, would do: the calibration intercept as a remedy.

    It is fitted on the images that it is judged on, so that other images would gain less. Of exclusive classes the
    constants are fitted together, so that the mean probability of each class is its share.

    Args:
        own: a model.
        described: the same.
    """
    split = own.split
    labels = described.per_label
    intercepts = {label: figures.figure("calibration_intercept") for label, figures in labels.items()}
    macro = described.figure("macro_calibration_intercept")
    if split.task.exclusive:
        shifts = _class_shifts(split.targets, own.answers.logits)
        intercepts = {label: Estimate(float(shift)) for label, shift in zip(labels, shifts, strict=True)}
        macro = Estimate(None)  # the constants of classes are known but for one that is common to all
    else:
        shifts = np.array([found.estimate or 0.0 for found in intercepts.values()])
    after = Measured.of(
        replace(split, counts=split.counts[:, :1]),
        own.answers.logits,
        Calibration(split.task, intercepts=shifts.tolist()),
        names=_SCORES,
    )
    columns = split.columns()
    per_label = {
        label: _shift(intercepts[label], [figures.figure(name).estimate for name in _SCORES], after, [k])
        for k, (label, figures) in enumerate(labels.items())
    }
    means = [described.figure(f"macro_{name}").estimate for name in _SCORES]
    return Recalibration(macro=_shift(macro, means, after, columns), per_label=per_label)


_SCORES = ("brier", "log_loss")


def _shift(intercept: Estimate, before: Sequence[float | None], after: Measured, columns: Sequence[int]) -> Shift:
    """The mean over the labels in these columns."""
    found = [float(after.values[name][0, columns].mean()) if len(columns) else np.nan for name in _SCORES]
    brier_after, log_loss_after = (None if np.isnan(value) else value for value in found)
    brier, log_loss = before
    return Shift(
        intercept=intercept,
        brier=brier,
        log_loss=log_loss,
        brier_after=brier_after,
        log_loss_after=log_loss_after,
    )


def _class_shifts(targets: Numbers, logits: Numbers) -> FloatArray:
    """Constants (L,) of mean 0 with which each class's mean softmax is its share; of classes that are not there, 0.

    By iterative scaling: each step adds log(share / mean probability), which never lowers the likelihood.
    """
    known = ~np.isnan(targets).any(axis=1)
    truth, given = targets[known].astype(np.float64), logits[known].astype(np.float64)
    there = truth.any(axis=0)
    shifts = np.zeros(truth.shape[1])
    share = truth[:, there].mean(axis=0)
    for _ in range(1000):
        answers = given + shifts
        means = np.exp(answers - logsumexp(answers, axis=1, keepdims=True))[:, there].mean(axis=0)
        step = np.log(share) - np.log(means)
        step -= step.mean()
        shifts[there] += step
        if np.abs(step).max() < 1e-10:
            break
    return shifts
