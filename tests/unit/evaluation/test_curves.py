"""Curves of a run: over eligible labels, calibrated where a threshold is a probability, and paired with the teacher."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from medistill.evaluation.answers import Split, Validation
from medistill.evaluation.comparison import Measured
from medistill.evaluation.curves import curves_of
from medistill.evaluation.settings import Evaluate
from medistill.metrics.calibration import fit_calibration
from medistill.metrics.decisions import net_benefit
from medistill.metrics.intervals import summarise
from medistill.records.curves import Curves
from medistill.task import Task


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, Measured]]:
    """A teacher and a student that is too sure, on two labels and a third of which next to nothing is known."""
    random = np.random.default_rng(0)
    found = {}
    for split_name in ("val", "test"):
        signal = random.normal(size=(200, 3))
        targets = (random.random((200, 3)) < expit(signal)).astype(float)
        targets[3:, 2] = np.nan
        split = Split.of(["a", "b", "c"], targets, np.arange(200) // 2, 200, 0, name=split_name)
        student = 3 * (signal + random.normal(size=(200, 3)))
        found[split_name] = {"teacher": Measured.of(split, signal), "student": Measured.of(split, student)}
    return found


@pytest.fixture(scope="module")
def curves(measured) -> dict[str, Curves]:
    val = {name: Validation(one.answers) for name, one in measured["val"].items()}
    test = {name: one.answers for name, one in measured["test"].items()}
    return curves_of(val, test, "teacher", ["student"], (0.1, 0.5))


def test_net_benefit_is_of_calibrated_probabilities_and_paired_with_the_teacher(measured, curves):
    benefit = {}
    for name in ("teacher", "student"):
        val, test = (measured[split][name].answers for split in ("val", "test"))
        fitted = fit_calibration(val.split.targets, val.logits, Task.MULTILABEL, least=10)
        given = fitted.probabilities(test.logits)
        split = test.split
        labels = [net_benefit(split.targets[:, k], given[:, k], [0.3], split.groups, split.counts) for k in (0, 1)]
        benefit[name] = np.mean(labels, axis=0)[0]
        (shown,) = [row for row in curves[name].decisions if row.threshold == 0.3]
        assert shown.benefit == pytest.approx(benefit[name][0], abs=1e-12)
        assert shown.labels == pytest.approx({"a": labels[0][0, 0], "b": labels[1][0, 0]}, abs=1e-12)
    difference = benefit["student"] - benefit["teacher"]
    (shown,) = [row.difference for row in curves["student"].decisions if row.threshold == 0.3]
    known = summarise(difference, split.counts, difference=True)
    expected = [difference[0], known.lower, known.upper]
    np.testing.assert_allclose([shown.estimate, shown.lower, shown.upper], expected, atol=1e-12)
    assert {row.difference.estimate for row in curves["teacher"].decisions} == {None}


def test_reliability_shows_what_the_model_answers_and_what_calibration_makes_of_it(curves):
    def gap(points: list[tuple[float, float]]) -> float:
        return float(np.mean([abs(probability - rate) for probability, rate in points]))

    bins = curves["student"].reliability
    outside = sum(not row.lower <= row.rate <= row.upper for row in bins)
    assert outside >= 5  # it is far too sure
    assert sum(row.answers for row in bins) == 400
    assert gap(curves["student"].recalibrated) < gap([(row.probability, row.rate) for row in bins]) / 2


def test_risk_is_the_mean_over_labels_and_ends_at_the_share_of_wrong_calls(measured, curves):
    answers = measured["test"]["student"].answers
    wrong = ((answers.logits > 0) != (answers.split.targets == 1))[:, :2]
    coverage, risk = curves["student"].risk_coverage[-1]
    assert (coverage, risk) == (1.0, pytest.approx(wrong.mean(), abs=1e-6))


def test_of_classes_the_most_probable_one_is_called():
    random = np.random.default_rng(1)
    logits, truth = random.normal(size=(90, 3)), np.eye(3)[np.arange(90) % 3]
    truth[0] = np.nan
    split = Split.of(["a", "b", "c"], truth, np.arange(90), 100, 0, Task.MULTICLASS, "val")
    measured = Measured.of(split, logits)
    right = softmax(logits, axis=1).argmax(axis=1)[1:] == np.arange(1, 90) % 3
    found = curves_of({"m": Validation(measured.answers)}, {"m": measured.answers}, None, [], None)["m"]
    assert found.risk_coverage[-1][1] == pytest.approx(1 - right.mean(), abs=1e-6)
    assert found.decisions == []
    order = np.argsort(-softmax(logits, axis=1).max(axis=1)[1:])
    risks = np.cumsum(~right[order]) / np.arange(1, 90)
    assert measured.describe().figure("aurc").estimate == pytest.approx(risks.mean(), abs=0.01)


def test_without_an_eligible_label_and_without_an_answer_curves_are_empty():
    targets = np.zeros((6, 1))
    split = Split.of(["a"], targets, np.arange(6), 10, 0, name="val")
    answers = {"m": Measured.of(split, np.zeros((6, 1))).answers}
    assert curves_of({"m": Validation(answers["m"])}, answers, None, [], (0.1, 0.5)) == {"m": Curves()}
    split = Split.of(["a"], np.arange(80)[:, None] % 2.0, np.arange(80), 10, 0, name="val")
    answers = {"m": Measured.of(split, np.full((80, 1), np.nan)).answers}
    assert curves_of({"m": Validation(answers["m"])}, answers, None, [], (0.1, 0.5)) == {"m": Curves()}


def test_thresholds_rise():
    assert Evaluate.model_validate({"net_benefit": [0.1, 0.5]}).net_benefit == (0.1, 0.5)
    for wrong in ([0.5, 0.1], [0.0, 0.5], [0.1]):
        with pytest.raises(ValueError, match="net_benefit"):
            Evaluate.model_validate({"net_benefit": wrong})
