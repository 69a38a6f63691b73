"""Every model on every split, and every student against its baselines and the teachers, from the same resamples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medistill.data.dataset import count_labels
from medistill.metrics.bootstrap import draw
from medistill.metrics.calibration import expected_calibration_error
from medistill.metrics.classification import measure_accuracy, metrics_at_half
from medistill.metrics.eligibility import fewer_groups, ineligibility
from medistill.metrics.intervals import Estimate, FloatArray, holm, summarise
from medistill.metrics.intervals import compare as compare_values
from medistill.metrics.ranking import macro_roc, measure_ranking
from medistill.task import Calibration, Task

COLUMNS = (
    "split", "model", "reference", "relation", "metric",
    "estimate", "lower", "upper", "p", "p_holm", "resamples", "dropped",
)  # fmt: skip
"""Columns of `reports/comparisons.csv`."""

MULTICLASS_FIGURES = ("accuracy", "balanced_accuracy")
"""Figures over all classes at once, where these are exclusive."""

FIGURES_AT_HALF = ("accuracy", "f1", "f1_weighted")
"""Figures of each label and their means, where labels are not exclusive; see `metrics_at_half`."""


@dataclass(frozen=True)
class Split:
    """The truth of one split, and the groups drawn from it.

    Attributes:
        labels: L names.
        targets: (N, L) float, 1, 0, or NaN where unknown.
        groups: (N,) int, 0..G-1.
        counts: (G, 1 + R), from `metrics.bootstrap.draw`.
        skipped: why a label is not eligible, by name.
        rests_on: of each label, the number of groups with a positive, or with a negative where these are fewer.
        task: whether the labels exclude each other.
    """

    labels: list[str]
    targets: NDArray
    groups: NDArray
    counts: NDArray
    skipped: dict[str, str]
    rests_on: list[int]
    task: Task

    @classmethod
    def of(
        cls,
        labels: list[str],
        targets: NDArray,
        group_ids: NDArray,
        resamples: int,
        seed: int,
        task: Task = Task.MULTILABEL,
    ) -> "Split":
        """Draw the resamples of a split and find its eligible labels.

        Args:
            labels: L names.
            targets: (N, L) float, 1, 0, or NaN where unknown; of exclusive classes, a row with a NaN is unknown.
            group_ids: (N,), the group (patient) of each image.
            resamples: R.
            seed: of the draws.
            task: whether the labels exclude each other.
        """
        if task.exclusive:
            targets = np.where(np.isnan(targets).any(axis=1, keepdims=True), np.nan, targets)
        names, groups = np.unique(group_ids, return_inverse=True)
        reasons = {label: ineligibility(targets[:, k], groups) for k, label in enumerate(labels)}
        skipped = {label: reason for label, reason in reasons.items() if reason}
        rests_on = [fewer_groups(targets[:, k], groups) for k in range(len(labels))]
        return cls(labels, targets, groups, draw(len(names), resamples, seed), skipped, rests_on, task)

    @property
    def eligible(self) -> list[str]:
        """Labels with enough positives and negatives from enough groups, in order."""
        return [label for label in self.labels if label not in self.skipped]

    def columns(self) -> list[int]:
        """Where the eligible labels are among the labels."""
        return [k for k, label in enumerate(self.labels) if label not in self.skipped]

    @property
    def resamples(self) -> int:
        """R."""
        return self.counts.shape[1] - 1


@dataclass(frozen=True)
class Measured:
    """One model on one split.

    Attributes:
        split: the truth.
        logits: (N, L).
        probabilities: (N, L), calibrated.
        scores: (N, L), what ranks the images: the logits, which a sigmoid keeps in order; of exclusive classes the
            softmax probabilities.
        auroc: (1 + R, L), row 0 on the data themselves.
        auprc: (1 + R, L), average precision.
        overall: of exclusive classes `accuracy` and `balanced_accuracy`, (1 + R,) each; else empty.
    """

    split: Split
    logits: NDArray
    probabilities: NDArray
    scores: NDArray
    auroc: FloatArray
    auprc: FloatArray
    overall: dict[str, FloatArray]

    @classmethod
    def of(
        cls,
        split: Split,
        logits: NDArray,
        calibration: Calibration | None = None,
        on_label: Callable[[], object] | None = None,
    ) -> "Measured":
        """Measure one model.

        Args:
            split: the truth.
            logits: (N, L), rows as in `split.targets`; finite, or NaN for a whole label that the model does not know:
                its figures are undefined, and so are means over labels that it is among; of exclusive classes all are.
            calibration: of the model; None: its probabilities are those of its logits as they are.
            on_label: called L times while the work goes on.
        """
        scores, overall = logits, {}
        probabilities = (calibration or Calibration(split.task)).probabilities(logits)
        if split.task.exclusive:
            scores = probabilities
            accuracies = np.full((2, len(split.counts.T)), np.nan)
            if not np.isnan(logits).any():
                accuracies = measure_accuracy(split.targets, logits, split.groups, split.counts)
            overall = dict(zip(MULTICLASS_FIGURES, accuracies, strict=True))
        targets = np.where(np.isnan(scores), np.nan, split.targets)
        auroc, auprc = measure_ranking(targets, np.nan_to_num(scores), split.groups, split.counts, on_label)
        return cls(split, logits, probabilities, scores, auroc, auprc, overall)

    def macro(self, metric: str) -> FloatArray:
        """Mean of `auroc` or `auprc` over eligible labels, (1 + R,); NaN where one is undefined or there is none."""
        values = getattr(self, metric)[:, self.split.columns()]
        return values.mean(axis=1) if values.shape[1] else np.full(len(values), np.nan)

    def describe(self) -> dict[str, Any]:
        """All figures, for `reports/evaluation/<model>.json`: macro, which labels they hold, and per label.

        Exclusive classes have `accuracy` and `balanced_accuracy` as well, other labels what is in `FIGURES_AT_HALF`.
        """
        split = self.split
        probability = self.probabilities
        at_half = () if split.task.exclusive else FIGURES_AT_HALF
        labels = {}
        for k, label in enumerate(split.labels):
            targets = split.targets[:, k]
            positive, negative = targets == 1, targets == 0
            positives, negatives = map(int, count_labels(targets))
            known = positives + negatives
            answered = not np.isnan(probability[:, k]).any()
            ece = expected_calibration_error(targets, probability[:, k]) if answered else None
            labels[label] = {
                "eligible": label not in split.skipped,
                "positives": positives,
                "negatives": negatives,
                "prevalence": positives / known if known else None,
                "groups": len(np.unique(split.groups[positive | negative])),
                "positive_groups": len(np.unique(split.groups[positive])),
                "auroc": summarise(self.auroc[:, k], groups=split.rests_on[k]).to_dict(),
                "auprc": summarise(self.auprc[:, k], groups=split.rests_on[k]).to_dict(),
                "ece": ece if known else None,
            }
            if at_half:
                figures = metrics_at_half(targets, probability[:, k]) if answered else (np.nan,) * 3
                labels[label] |= {
                    name: None if np.isnan(value) else value for name, value in zip(at_half, figures, strict=True)
                }

        def mean(name: str) -> float | None:
            values = [labels[label][name] for label in split.eligible]
            return float(np.mean(values)) if values and None not in values else None

        return {
            "images": len(split.targets),
            "groups": len(split.counts),
            "resamples": split.resamples,
            "labels": split.eligible,
            "skipped": split.skipped,
            "macro_auroc": summarise(self.macro("auroc")).to_dict(),
            "macro_auprc": summarise(self.macro("auprc"), reflected=True).to_dict(),
            **{f"macro_{name}": mean(name) for name in ("ece", *at_half)},
            **{name: summarise(values).to_dict() for name, values in self.overall.items()},
            "per_label": labels,
        }

    def roc(self) -> tuple[FloatArray, FloatArray]:
        """Macro-average ROC curve over eligible labels, see `metrics.ranking.macro_roc`; empty where there are none.

        Also where the model does not know one of them.
        """
        columns = self.split.columns()
        if np.isnan(self.logits[:, columns]).any():
            columns = []
        return macro_roc(self.split.targets[:, columns], self.scores[:, columns])


def difference(model: Measured, reference: Measured, metric: str) -> tuple[Estimate, float | None]:
    """Paired difference of the macro `auroc` or `auprc` of two models on the same split, and its p-value."""
    return compare_values(model.macro(metric), reference.macro(metric))


def compare(model: Measured, reference: Measured) -> list[dict[str, Any]]:
    """Paired differences model − reference: macro AUROC, macro AUPRC, then AUROC of each eligible label.

    Of exclusive classes accuracy and balanced accuracy stand before the labels.

    p-values of labels are adjusted for testing all eligible labels (Holm); the rows before get their `p_holm` from
    `adjust`, once all pairs of models are compared.

    Returns:
        Rows with the columns `metric` to `dropped` of `COLUMNS`; where no label is eligible only those of accuracy.
    """
    split = model.split
    metrics = ("auroc", "auprc") if split.eligible else ()
    pairs = {f"macro_{metric}": (model.macro(metric), reference.macro(metric)) for metric in metrics}
    pairs |= {name: (own, reference.overall[name]) for name, own in model.overall.items()}
    rows = [_row(split, name, *compare_values(*pair), None) for name, pair in pairs.items()]
    per_label = [
        compare_values(model.auroc[:, k], reference.auroc[:, k], groups=split.rests_on[k]) for k in split.columns()
    ]
    adjusted = holm([p for _, p in per_label])
    for label, (estimate, p), p_holm in zip(split.eligible, per_label, adjusted, strict=True):
        rows.append(_row(split, f"label:{label}", estimate, p, p_holm))
    return rows


def adjust(rows: list[dict[str, Any]]) -> None:
    """Fill in `p_holm` of figures over all labels: adjusted for testing all pairs of models in that figure (Holm).

    Args:
        rows: of `compare`, of all pairs of models on one split.
    """
    for metric in ("macro_auroc", "macro_auprc", *MULTICLASS_FIGURES):
        same = [row for row in rows if row["metric"] == metric]
        for row, p in zip(same, holm([row["p"] for row in same]), strict=True):
            row["p_holm"] = p


def _row(split: Split, metric: str, estimate: Estimate, p: float | None, p_holm: float | None) -> dict[str, Any]:
    return {
        "metric": metric,
        "estimate": estimate.estimate,
        "lower": estimate.lower,
        "upper": estimate.upper,
        "p": p,
        "p_holm": p_holm,
        "resamples": split.resamples,
        "dropped": estimate.dropped,
    }


def best(measured: Mapping[str, Measured], names: Sequence[str]) -> str | None:
    """The model of highest macro AUROC among `names`; the first of equals; None where it is undefined for all."""
    scores = {name: measured[name].macro("auroc")[0] for name in names}
    defined = [name for name in names if not np.isnan(scores[name])]
    return max(defined, key=lambda name: scores[name]) if defined else None
