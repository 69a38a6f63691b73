"""The curves of every model on test: precision–recall, reliability, net benefit, and risk by coverage."""

from collections.abc import Mapping

import numpy as np

from medistill.evaluation.answers import Answers, Validation
from medistill.metrics.abstention import LEVELS, risk_coverage
from medistill.metrics.decisions import net_benefit
from medistill.metrics.intervals import FloatArray
from medistill.metrics.intervals import compare as compare_values
from medistill.metrics.ranking import macro_precision_recall
from medistill.metrics.reliability import reliability
from medistill.records.curves import Curves, Decision, Points, ReliabilityBin
from medistill.records.estimate import Estimate

STEPS = 20
"""Steps of the thresholds at which net benefit is measured, from the lowest to the highest."""


def curves_of(
    val: Mapping[str, Validation],
    test: Mapping[str, Answers],
    teacher: str | None,
    students: list[str],
    thresholds: tuple[float, float] | None,
) -> dict[str, Curves]:
    """The curves of each model, over the eligible labels of test.

    Args:
        val: answers on validation, by model; calibrations are fitted on these.
        test: on test, by model.
        teacher: from whom students' net benefit is subtracted; None: from nobody.
        students: names of the students.
        thresholds: the lowest and the highest probability from which on a label is called; None: net benefit is not
            measured.
    """
    split = next(iter(test.values())).split  # the truth is the same for all models
    columns = split.columns()
    able = [name for name, own in test.items() if columns and not np.isnan(own.logits[:, columns]).any()]
    at = [] if thresholds is None else np.linspace(*thresholds, STEPS + 1).round(6).tolist()
    calibrated = {name: val[name].calibration.probabilities(test[name].logits)[:, columns] for name in able}
    targets, groups, counts = split.targets[:, columns], split.groups, split.counts
    names = [split.labels[k] for k in columns]

    def benefits(probabilities: FloatArray, counted: np.ndarray) -> FloatArray:
        """(T, L, 1 + R)."""
        labels = zip(targets.T, probabilities.T, strict=True)
        return np.stack([net_benefit(truth, given, at, groups, counted) for truth, given in labels], axis=1)

    worth = {name: benefits(given, counts) for name, given in calibrated.items()} if at else {}
    macro = {name: own.mean(axis=1) for name, own in worth.items()}
    found = {name: Curves() for name in test}
    once = np.ones((len(counts), 1), int)
    everyone = benefits(np.ones_like(targets), once)[..., 0] if at and columns else None
    for name in able:
        decisions = []
        if everyone is not None:
            reference = macro[teacher] if name in students and teacher in macro else None
            own = worth[name][..., 0]
            decisions = [
                Decision(
                    threshold=threshold,
                    benefit=float(own[k].mean()),
                    all=float(everyone[k].mean()),
                    labels=_named(names, own[k]),
                    all_labels=_named(names, everyone[k]),
                    difference=Estimate(None)
                    if reference is None
                    else compare_values(macro[name][k], reference[k], counts)[0],
                )
                for k, threshold in enumerate(at)
            ]
        found[name] = _of_one(test[name], columns, calibrated[name], decisions)
    return found


def _named(names: list[str], values: FloatArray) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))


def _of_one(answers: Answers, columns: list[int], calibrated: FloatArray, decisions: list[Decision]) -> Curves:
    targets = answers.split.targets[:, columns]
    bins = reliability(targets.ravel(), answers.probabilities[:, columns].ravel())
    again = reliability(targets.ravel(), calibrated.ravel(), draws=1)
    return Curves(
        precision_recall=_points(*macro_precision_recall(targets, answers.scores[:, columns])),
        reliability=[
            ReliabilityBin(
                answers=int(size), probability=float(at), rate=float(rate), lower=float(lower), upper=float(upper)
            )
            for size, at, rate, lower, upper in zip(
                bins.answers, bins.probability, bins.rate, bins.lower, bins.upper, strict=True
            )
        ],
        recalibrated=_points(again.probability, again.rate),
        decisions=decisions,
        risk_coverage=_risk_coverage(answers, columns),
    )


def _risk_coverage(answers: Answers, columns: list[int]) -> Points:
    """Of classes that exclude each other one curve, of labels the mean of theirs."""
    wrong, confidence = answers.calls
    shown = slice(None) if answers.split.task.exclusive else columns
    of_labels = [risk_coverage(wrong[:, k], confidence[:, k]) for k in np.arange(wrong.shape[1])[shown]]
    return _points(np.arange(1, LEVELS + 1) / LEVELS, np.mean(of_labels, axis=0))


def _points(across: FloatArray, up: FloatArray) -> Points:
    return list(zip(across.round(6).tolist(), up.round(6).tolist(), strict=True))
