"""Exclusive classes: one against the rest on the softmax, accuracy, and no effect of a constant per image."""

import json

import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    matthews_corrcoef,
    roc_auc_score,
)

from medistill.evaluation.answers import Split
from medistill.evaluation.comparison import Measured, best, compare, difference, paired_cluster_bootstrap
from medistill.evaluation.figures import figures_of
from medistill.metrics.bootstrap import draw
from medistill.metrics.intervals import summarise
from medistill.metrics.reliability import expected_calibration_error
from medistill.metrics.strata import NO_STRATUM
from medistill.records.evaluation import SplitFigures
from medistill.task import Task

LABELS = ["a", "b", "c"]


def problem(images: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """True classes, one-hot targets, patients of two images each, and logits with a constant of its own per image."""
    random = np.random.default_rng(seed)
    truth = random.choice(3, images, p=[0.5, 0.3, 0.2])
    targets = np.eye(3, dtype=np.float32)[truth]
    logits = 1.5 * targets + random.normal(size=targets.shape) + random.normal(0, 6, (images, 1))
    return truth, targets, np.arange(images) // 2, logits.astype(np.float32)


def compared(task: Task) -> list[str]:
    """Keys of the figures over all labels in which models of this task are compared."""
    return [figure.key for figure in figures_of(task) if figure.compared and not figure.needs]


def measure(targets, patients, logits, task: str = "multiclass", resamples: int = 200) -> Measured:
    return Measured.of(Split.of(LABELS, targets, patients, resamples, 0, Task(task)), logits)


def test_figures_are_those_of_scikit_learn():
    truth, targets, patients, logits = problem()
    report = measure(targets, patients, logits).describe().to_json()
    chances = softmax(logits.astype(np.float64), axis=1)
    expected = roc_auc_score(truth, chances, multi_class="ovr", average="macro")
    assert report["macro_auroc"]["estimate"] == pytest.approx(expected, abs=1e-12)
    assert report["macro_auprc"]["estimate"] == pytest.approx(average_precision_score(targets, chances), abs=1e-12)
    predicted = chances.argmax(axis=1)
    assert report["accuracy"]["estimate"] == pytest.approx(accuracy_score(truth, predicted), abs=1e-12)
    assert report["balanced_accuracy"]["estimate"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    for k, label in enumerate(LABELS):
        entry = report["per_label"][label]
        assert entry["auroc"]["estimate"] == pytest.approx(roc_auc_score(targets[:, k], chances[:, k]), abs=1e-12)
        assert entry["prevalence"] == pytest.approx((truth == k).mean())
        assert entry["ece"] == pytest.approx(expected_calibration_error(targets[:, k], chances[:, k]), abs=1e-12)
    assert report["macro_ece"] == pytest.approx(np.mean([entry["ece"] for entry in report["per_label"].values()]))


def test_labels_that_are_not_exclusive_have_thresholded_figures():
    _, targets, patients, logits = problem()
    targets = targets.copy()
    targets[::7, 1] = np.nan
    report = measure(targets, patients, logits, "multilabel").describe().to_json()
    for name, options in {"accuracy": None, "f1": {}, "f1_weighted": {"average": "weighted"}}.items():
        expected = []
        for k, label in enumerate(LABELS):
            known = ~np.isnan(targets[:, k])
            truth, called = targets[known, k], logits[known, k] > 0
            score = accuracy_score(truth, called) if options is None else f1_score(truth, called, **options)
            assert report["per_label"][label][name] == pytest.approx(score, abs=1e-12)
            expected.append(score)
        assert report[f"macro_{name}"] == pytest.approx(np.mean(expected), abs=1e-12)
    assert not {"f1", "accuracy"} & set(measure(targets, patients, logits).describe().to_json()["per_label"]["a"])


def test_a_constant_added_to_an_image_changes_no_figure():
    _, targets, patients, logits = problem()
    moved = logits.astype(np.float64) + np.random.default_rng(5).normal(0, 20, (len(logits), 1))
    first, second = measure(targets, patients, logits), measure(targets, patients, moved)
    np.testing.assert_allclose(second.values["auroc"], first.values["auroc"], atol=1e-9)
    np.testing.assert_allclose(second.values["auprc"], first.values["auprc"], atol=1e-9)
    for name in ("accuracy", "balanced_accuracy"):
        np.testing.assert_array_equal(second.values[name], first.values[name])
    np.testing.assert_allclose(second.roc(), first.roc(), atol=1e-9)
    # If labels were not exclusive, the constants would change the ranking of the images.
    assert np.abs(measure(targets, patients, moved, "multilabel").macro("auroc") - first.macro("auroc")).max() > 0.05


def test_an_image_of_unknown_class_is_left_out():
    _, targets, patients, logits = problem()
    unknown = np.random.default_rng(1).random(len(targets)) < 0.2
    partly = targets.copy()
    partly[unknown, 0] = np.nan
    report = measure(partly, patients, logits).describe().to_json()
    expected = measure(targets[~unknown], patients[~unknown], logits[~unknown]).describe().to_json()
    for key in ("macro_auroc", "macro_auprc", "accuracy", "balanced_accuracy"):
        assert report[key]["estimate"] == pytest.approx(expected[key]["estimate"], abs=1e-12)
    assert report["macro_ece"] == pytest.approx(expected["macro_ece"], abs=1e-12)
    assert [entry["positives"] for entry in report["per_label"].values()] == [
        entry["positives"] for entry in expected["per_label"].values()
    ]


def test_the_interval_of_accuracy_is_over_patients():
    """Each of 30 patients has eight images, all right or all wrong: Student's interval of 30 coin tosses."""
    random = np.random.default_rng(2)
    truth = np.tile([0, 1, 2, 0, 1, 2, 0, 1], 30)
    patients = np.repeat(np.arange(30), 8)
    right = random.permutation(np.repeat([True, False], 15))[patients]
    logits = np.eye(3)[np.where(right, truth, (truth + 1) % 3)]
    figure = measure(np.eye(3)[truth], patients, logits, resamples=2000).describe().to_json()["accuracy"]
    assert figure["estimate"] == 0.5
    assert figure["upper"] - figure["lower"] == pytest.approx(2 * 2.045 * (0.25 / 29) ** 0.5, abs=0.04)


def test_models_are_compared_in_accuracy_on_the_same_resamples():
    _, targets, patients, logits = problem()
    split = Split.of(LABELS, targets, patients, 200, 0, Task.MULTICLASS)
    other = problem(seed=3)[3] + 2 * targets
    first, second = Measured.of(split, logits), Measured.of(split, other)
    rows = {row.metric: row for row in compare(second, first)}
    assert list(rows) == [*compared(Task.MULTICLASS), "label:a", "label:b", "label:c"]
    assert {"macro_auroc", "macro_auprc", "accuracy", "balanced_accuracy"} <= rows.keys()
    for name in ("accuracy", "balanced_accuracy"):
        values = second.values[name] - first.values[name]
        assert rows[name].estimate == values[0]
        expected = summarise(values, split.counts, difference=True)
        assert (rows[name].lower, rows[name].upper) == (expected.lower, expected.upper)
        assert rows[name].p_holm is None
    assert rows["macro_auroc"].estimate == difference(second, first, "auroc")[0].estimate
    same = {row.metric: row for row in compare(first, first)}
    assert (same["accuracy"].estimate, same["accuracy"].p) == (0, 1)


def jackknife(targets: np.ndarray, patients: np.ndarray, logits: np.ndarray) -> tuple[float, float]:
    """Of macro average precision, leaving out one patient at a time."""
    without = np.array(
        [average_precision_score(targets[patients != one], logits[patients != one]) for one in np.unique(patients)]
    )
    whole, count = average_precision_score(targets, logits), len(without)
    few = min(len(set(patients[column == value])) for column in targets.T for value in (1, 0))
    centre = whole - (count - 1) * (without.mean() - whole)
    freedom = 2 / (2 / (count - 1) + max(stats.kurtosis(without), 0) / count)
    half = stats.t.ppf(0.975, min(few - 1, freedom)) * np.sqrt((count - 1) * without.var())
    return centre - half, centre + half


def test_each_figure_has_the_interval_of_its_kind():
    """Expanded, of a label by no more patients than have it; by a jackknife for macro AUPRC."""
    _, targets, patients, logits = problem(images=120)
    split = Split.of(LABELS, targets, patients, 500, 0)
    model, other = Measured.of(split, logits), Measured.of(split, problem(120, seed=3)[3] + targets)
    report = model.describe().to_json()

    def bounds(figure: dict) -> tuple[float, float]:
        return figure["lower"], figure["upper"]

    def expanded(values: np.ndarray, groups: int | None = None) -> tuple[float, float]:
        found = summarise(values, split.counts, groups=groups, difference=True)
        return found.lower, found.upper

    rows = {row.metric: row for row in compare(model, other)}
    for k, label in enumerate(LABELS):
        have = [set(patients[targets[:, k] == value]) for value in (1, 0)]
        few = min(map(len, have))
        assert 10 < few < 45
        for metric in ("auroc", "auprc"):
            values = model.values[metric][:, k]
            assert bounds(report["per_label"][label][metric]) == pytest.approx(expanded(values, few))
        values = model.values["auroc"][:, k] - other.values["auroc"][:, k]
        assert bounds(rows[f"label:{label}"].to_json()) == pytest.approx(expanded(values, few))
        plain = min(1, 2 * (1 + min((values[1:] <= 0).sum(), (values[1:] >= 0).sum())) / 501)
        assert rows[f"label:{label}"].p > plain or plain == 1
    for metric in ("auroc", "auprc"):
        expected = expanded(model.macro(metric))
        if metric == "auprc":
            expected = jackknife(targets, patients, logits)
        assert bounds(report[f"macro_{metric}"]) == pytest.approx(tuple(expected))
        values = model.macro(metric) - other.macro(metric)
        assert bounds(rows[f"macro_{metric}"].to_json()) == pytest.approx(expanded(values))


def test_accuracy_is_compared_where_no_class_is_eligible():
    _, targets, patients, logits = problem(images=18)  # nine patients
    model = measure(targets, patients, logits)
    assert model.split.eligible == []
    assert [row.metric for row in compare(model, model)] == ["accuracy", "balanced_accuracy", "macro_f1", "mcc", "aurc"]
    assert compare(*[measure(targets, patients, logits, "multilabel")] * 2) == []


def test_labels_that_are_not_exclusive_have_no_accuracy():
    _, targets, patients, logits = problem()
    model = measure(targets, patients, logits, "multilabel")
    assert all(values.ndim == 2 for values in model.values.values())
    assert "accuracy" not in model.describe().to_json()
    found = [row.metric for row in compare(model, model)]
    assert found == [*compared(Task.MULTILABEL), "label:a", "label:b", "label:c"]
    assert {"macro_auroc", "macro_auprc"} <= set(found)
    assert not {"accuracy", "balanced_accuracy"} & set(found)
    chances = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert model.describe().to_json()["per_label"]["a"]["ece"] == pytest.approx(
        expected_calibration_error(targets[:, 0], chances[:, 0])
    )


def test_classes_have_their_confusion_and_where_they_are_ordered_a_kappa():
    truth, targets, patients, logits = problem()
    split = Split.of(LABELS, targets, patients, 100, 0, Task.MULTICLASS)
    names, predicted = np.array(LABELS), logits.argmax(axis=1)
    plain, ordered = (Measured.of(one, logits).describe() for one in (split, split.ordered(["c", "a", "b"])))
    assert plain.confusion == confusion_matrix(truth, predicted).tolist()
    assert "quadratic_kappa" not in plain.figures
    expected = cohen_kappa_score(names[truth], names[predicted], labels=["c", "a", "b"], weights="quadratic")
    kappa = ordered.figure("quadratic_kappa")
    assert kappa.estimate == pytest.approx(expected, abs=1e-12)
    assert kappa.lower < expected < kappa.upper
    assert ordered.figure("mcc").estimate == pytest.approx(matthews_corrcoef(truth, predicted), abs=1e-12)
    assert ordered.figure("macro_f1").estimate == pytest.approx(f1_score(truth, predicted, average="macro"), abs=1e-12)
    assert measure(targets, patients, logits, "multilabel").describe().confusion is None
    again = SplitFigures.model_validate(json.loads(json.dumps(ordered.to_json())))
    assert again.confusion == ordered.confusion
    assert "confusion" not in measure(targets, patients, logits, "multilabel").describe().to_json()


def test_pairs_within_strata_are_counted_where_a_label_is_eligible_there():
    """The second hospital's scores are higher; a label that it never has, and the first always, has no pair."""
    random = np.random.default_rng(4)
    hospital = random.integers(0, 2, 300)
    targets = (random.random((300, 3)) < [0.3, 0.4, 0.5]).astype(float)
    targets[:, 2] = hospital == 0
    logits = targets + random.normal(size=(300, 3)) + 5 * hospital[:, None]
    unknown = random.random(300) < 0.1
    codes = np.where(unknown, NO_STRATUM, hospital)
    split = Split.of(LABELS, targets, np.arange(300) // 2, 100, 0)
    model = Measured.of(split.within("source", codes), logits)
    found = model.describe()
    assert (found.within.attribute, found.within.labels, found.labels) == ("source", ["a", "b"], LABELS)
    of_labels = []
    for k in (0, 1):
        right = pairs = 0
        for one in (0, 1):
            rows = codes == one
            positive, negative = (logits[rows & (targets[:, k] == value), k] for value in (1, 0))
            right += (positive[:, None] > negative).sum()
            pairs += len(positive) * len(negative)
        of_labels.append(right / pairs)
        assert found.per_label[LABELS[k]].figure("auroc_within").estimate == pytest.approx(right / pairs, abs=1e-12)
    assert found.per_label["c"].figure("auroc_within").estimate is None
    within = found.figure("macro_auroc_within")
    assert within.estimate == pytest.approx(np.mean(of_labels), abs=1e-12)
    assert within.lower < within.estimate < within.upper
    assert "macro_auroc_within" in [row.metric for row in compare(model, model)]
    assert "macro_auroc_within" not in Measured.of(split, logits).describe().figures


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_a_label_that_a_model_does_not_know_has_no_figure(task):
    truth, targets, patients, logits = problem()
    partial = logits.copy()
    partial[:, 1] = np.nan
    whole, part = (measure(targets, patients, answers, task) for answers in (logits, partial))
    report = part.describe().to_json()
    estimates = [report["per_label"][label]["auroc"]["estimate"] for label in LABELS]
    if task == "multilabel":
        expected = [roc_auc_score(targets[:, k], logits[:, k]) for k in (0, 2)]
        assert [estimates[0], estimates[2]] == pytest.approx(expected, abs=1e-12)
        assert estimates[1] is None
        assert report["per_label"]["a"]["ece"] is not None
        assert report["per_label"]["a"]["f1"] is not None
        assert report["per_label"]["b"]["f1"] is None
        assert report["macro_f1"] is None
    else:  # a class without answers leaves the softmax over all classes undefined
        assert estimates == [None] * 3
        assert report["accuracy"]["estimate"] is None
    assert report["per_label"]["b"]["ece"] is None
    assert report["per_label"]["b"]["positives"] == (truth == 1).sum()
    assert report["macro_auroc"]["estimate"] is None
    assert report["macro_ece"] is None
    assert part.roc()[0].size == 0
    rows = {row.metric: row for row in compare(whole, part)}
    assert rows["macro_auroc"].estimate is None
    assert rows["macro_auroc"].p is None
    assert best({"part": part, "whole": whole}, ["part", "whole"]) == "whole"
    assert best({"part": part}, ["part"]) is None


def test_anybodys_arrays_are_compared_as_a_loop_over_resamples_would():
    generator = np.random.default_rng(3)
    groups = np.repeat(generator.permutation(60), 2)
    targets = generator.integers(0, 2, (120, 2)).astype(float)
    first = targets + generator.normal(0, 1, targets.shape).round(1)  # with ties
    second = targets + generator.normal(0, 2, targets.shape).round(1)
    targets[generator.random(targets.shape) < 0.1] = np.nan

    own, other, rows = paired_cluster_bootstrap(targets, first, second, groups, resamples=200, seed=5)

    weights = draw(60, 200, 5)[groups]
    looped = np.empty((2, 2, 201))  # model, label, resample
    for label, known in enumerate(~np.isnan(targets).T):
        for model, scores in enumerate((first, second)):
            looped[model, label] = [
                roc_auc_score(targets[known, label], scores[known, label], sample_weight=weights[known, column])
                for column in range(201)
            ]
    for found, macro in zip((own, other), looped.mean(axis=1), strict=True):
        interval = found.figure("macro_auroc")
        known = summarise(macro, draw(60, 200, 5))
        expected = [macro[0], known.lower, known.upper]
        assert [interval.estimate, interval.lower, interval.upper] == pytest.approx(expected, abs=1e-12)
    (row,) = (row for row in rows if row.metric == "macro_auroc")
    gains = looped[0].mean(axis=0) - looped[1].mean(axis=0)
    known = summarise(gains, draw(60, 200, 5), difference=True)
    expected = [gains[0], known.lower, known.upper]
    assert [row.estimate, row.lower, row.upper] == pytest.approx(expected, abs=1e-12)
    gains = looped[0, 1] - looped[1, 1]
    assert next(row.estimate for row in rows if row.metric == "label:1") == pytest.approx(gains[0], abs=1e-12)
    assert own.per_label["0"].figures.keys() == {"auroc", "auprc"}
