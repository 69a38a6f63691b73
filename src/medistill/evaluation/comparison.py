"""Every model on every split, and every student against its baselines and the teachers, from the same resamples."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from medistill.data.dataset import count_labels
from medistill.evaluation.answers import Answers, Split
from medistill.evaluation.figures import LEAD, WITHIN, Figure, figures_of
from medistill.metrics.bootstrap import RESAMPLES
from medistill.metrics.intervals import FloatArray, centred, holm, summarise
from medistill.metrics.intervals import compare as compare_values
from medistill.metrics.ranking import macro_roc
from medistill.records.estimate import Estimate
from medistill.records.evaluation import LABEL, Comparison, Difference, LabelFigures, SplitFigures, Within
from medistill.records.figures import Measures
from medistill.task import Calibration

RANKING = ("auroc", "auprc")
"""Figures of scores whatever their scale, which need no probabilities."""


@dataclass(frozen=True)
class Measured:
    """One model on one split.

    Attributes:
        answers: of the model.
        values: of each figure, by name, as `Figure.measure` gives them.
    """

    answers: Answers
    values: Mapping[str, FloatArray]

    @classmethod
    def of(
        cls,
        split: Split,
        logits: NDArray[np.floating],
        calibration: Calibration | None = None,
        on_label: Callable[[], object] | None = None,
        names: Collection[str] | None = None,
    ) -> "Measured":
        """Measure one model.

        Args:
            split: the truth.
            logits: (N, L), rows as in `split.targets`; finite, or NaN for a whole label that the model does not know:
                its figures are undefined, and so are means over labels that it is among; of exclusive classes all are.
            calibration: of the model; None: the logits are not calibrated.
            on_label: called L times while the work goes on.
            names: of the figures to measure; None: all.
        """
        probabilities = (calibration or Calibration(split.task)).probabilities(logits)
        answers = Answers(split, logits, probabilities, on_label)
        figures = [figure for figure in figures_of(split.task) if figure.measurable(split)]
        chosen = [figure for figure in figures if names is None or figure.name in names]
        return cls(answers, {figure.name: figure.measure(answers) for figure in chosen})

    @property
    def split(self) -> Split:
        """The truth."""
        return self.answers.split

    @property
    def figures(self) -> list[Figure]:
        """The figures that were measured, in order."""
        return [figure for figure in figures_of(self.split.task) if figure.name in self.values]

    def macro(self, name: str) -> FloatArray:
        """Mean of a figure of labels over the eligible ones, (1 + R,); NaN where one is undefined or there is none."""
        columns = self.split.columns_within() if name == WITHIN else self.split.columns()
        values = self.values[name][:, columns]
        return values.mean(axis=1) if values.shape[1] else np.full(len(values), np.nan)

    def overall(self, figure: Figure) -> FloatArray:
        """A figure over all labels, (1 + R,) or (1,): of labels their mean, see `macro`."""
        return self.macro(figure.name) if figure.of_labels else self.values[figure.name]

    def describe(self) -> SplitFigures:
        """All figures, for `reports/evaluation/<model>.json`: macro, which labels they hold, and per label."""
        split = self.split
        found: Measures = {}
        for figure in self.figures:
            found[figure.key] = self._describe_overall(figure)
        within = [split.labels[k] for k in split.columns_within()]
        return SplitFigures(
            images=len(split.targets),
            groups=len(split.counts),
            resamples=split.resamples,
            labels=split.eligible,
            skipped=split.skipped,
            figures=found,
            per_label={label: self._describe_label(k) for k, label in enumerate(split.labels)},
            confusion=self.answers.confusion,
            within=None if split.strata is None else Within(attribute=split.strata.attribute, labels=within),
        )

    def _describe_overall(self, figure: Figure) -> Estimate | float | None:
        columns = self.split.columns()
        if figure.left_out and columns:
            means = figure.left_out(self.answers)[:, columns].mean(axis=1)
            return centred(means, min(self.split.rests_on[k] for k in columns))
        values = self.overall(figure)
        return summarise(values, self.split.counts) if figure.resampled else _number(values[0])

    def _describe_label(self, k: int) -> LabelFigures:
        split, targets = self.split, self.split.targets[:, k]
        positive, negative = targets == 1, targets == 0
        positives, negatives = map(int, count_labels(targets))
        known = positives + negatives
        figures: Measures = {
            figure.name: summarise(self.values[figure.name][:, k], split.counts, groups=split.rests_on[k])
            if figure.resampled
            else _number(self.values[figure.name][0, k])
            for figure in self.figures
            if figure.of_labels
        }
        return LabelFigures(
            eligible=split.labels[k] not in split.skipped,
            positives=positives,
            negatives=negatives,
            prevalence=positives / known if known else None,
            groups=len(np.unique(split.groups[positive | negative])),
            positive_groups=len(np.unique(split.groups[positive])),
            figures=figures,
        )

    def roc(self) -> tuple[FloatArray, FloatArray]:
        """Macro-average ROC curve over eligible labels, see `metrics.ranking.macro_roc`; empty where there are none.

        It is also empty if the model does not know one of them.
        """
        columns = self.split.columns()
        if np.isnan(self.answers.logits[:, columns]).any():
            columns = []
        return macro_roc(self.split.targets[:, columns], self.answers.scores[:, columns])


def _number(value: float) -> float | None:
    """A figure without an interval; None where it is undefined."""
    return None if np.isnan(value) else float(value)


def difference(model: Measured, reference: Measured, name: str) -> tuple[Estimate, float | None]:
    """Paired difference of the macro mean of a figure of two models on the same split, and its p-value."""
    return compare_values(model.macro(name), reference.macro(name), model.split.counts)


def compare(model: Measured, reference: Measured) -> list[Difference]:
    """Paired differences model − reference: every figure that is compared, over all labels, then AUROC label by label.

    p-values of labels are adjusted for testing all eligible labels (Holm); the rows before get their `p_holm` from
    `adjust`, once all pairs of models are compared.

    Returns:
        Where no label is eligible only those of figures of all classes at once.
    """
    split = model.split
    rows = []
    for figure in model.figures:
        if figure.compared and (split.eligible or not figure.of_labels):
            compared = compare_values(model.overall(figure), reference.overall(figure), split.counts)
            rows.append(_row(split, figure.key, *compared, None))
    own, other = model.values[LEAD], reference.values[LEAD]
    per_label = [
        compare_values(own[:, k], other[:, k], split.counts, groups=split.rests_on[k]) for k in split.columns()
    ]
    adjusted = holm([p for _, p in per_label])
    for label, (estimate, p), p_holm in zip(split.eligible, per_label, adjusted, strict=True):
        rows.append(_row(split, LABEL + label, estimate, p, p_holm))
    return rows


def measure_each(split: Split, logits: Mapping[str, NDArray[np.floating]], what: str) -> dict[str, Measured]:
    """Measure models by name, with a progress bar that says `what` is done."""
    with tqdm(total=len(logits) * len(split.labels), desc=what, unit="label", disable=None, leave=False) as bar:
        return {name: Measured.of(split, own, on_label=bar.update) for name, own in logits.items()}


def compare_pair(
    models: Mapping[str, Measured], split_name: str, model: str, reference: str, relation: str
) -> list[Comparison]:
    """The rows of `compare` of two models by name; `relation`: what the reference is to the model."""
    return [
        Comparison(split=split_name, model=model, reference=reference, relation=relation, **dict(row))
        for row in compare(models[model], models[reference])
    ]


def paired_cluster_bootstrap(
    targets: NDArray[np.floating],
    scores: NDArray[np.floating],
    reference: NDArray[np.floating],
    groups: NDArray[np.generic],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[SplitFigures, SplitFigures, list[Difference]]:
    """AUROC and average precision of two models on the same images, and their differences, by a bootstrap over groups.

    For anybody's arrays: what a run does for each of its pairs of models. Both models are measured in the same draws
    of whole groups, since images of one patient are alike. docs/intervals.md says how often the intervals hold the
    truth.

    Args:
        targets: (N, L), 1, 0, or NaN where unknown.
        scores: (N, L), finite; higher where the model thinks a label more probable.
        reference: (N, L), those of the other model.
        groups: (N,), the patient of each image.
        resamples: of the bootstrap.
        seed: of its draws.

    Returns:
        Figures of `scores` and of `reference`, macro and label by label (labels are `0`, `1`, …; macro means hold those
        with enough images and patients), and the differences `scores` − `reference`, whose p of labels are adjusted
        (Holm).

    Example:
        >>> generator = np.random.default_rng(0)
        >>> targets = generator.integers(0, 2, (200, 2)).astype(float)
        >>> good, poor = (targets + generator.normal(0, spread, targets.shape) for spread in (0.5, 2.0))
        >>> own, other, differences = paired_cluster_bootstrap(targets, good, poor, np.arange(200) // 2, resamples=500)
        >>> own.figure("macro_auroc").estimate > other.figure("macro_auroc").estimate
        True
        >>> [(row.metric, row.lower > 0) for row in differences]
        [('macro_auroc', True), ('macro_auprc', True), ('label:0', True), ('label:1', True)]
    """
    split = Split.of([str(k) for k in range(targets.shape[1])], targets, groups, resamples, seed)
    own, other = (Measured.of(split, given, names=RANKING) for given in (scores, reference))
    return own.describe(), other.describe(), compare(own, other)


def adjust(rows: list[Comparison]) -> list[Comparison]:
    """Fill in `p_holm` of figures over all labels: adjusted for testing all pairs of models in that figure (Holm).

    Args:
        rows: of `compare`, of all pairs of models on one split.

    Returns:
        The same rows, in the same order.
    """
    adjusted = list(rows)
    for metric in dict.fromkeys(row.metric for row in rows if row.label is None):
        places = [k for k, row in enumerate(rows) if row.metric == metric]
        for k, p in zip(places, holm([rows[k].p for k in places]), strict=True):
            adjusted[k] = rows[k].model_copy(update={"p_holm": p})
    return adjusted


def _row(split: Split, metric: str, estimate: Estimate, p: float | None, p_holm: float | None) -> Difference:
    return Difference(
        metric=metric,
        estimate=estimate.estimate,
        lower=estimate.lower,
        upper=estimate.upper,
        p=p,
        p_holm=p_holm,
        resamples=split.resamples,
        dropped=estimate.dropped,
    )


def best(measured: Mapping[str, Measured], names: Sequence[str]) -> str | None:
    """The model of highest macro AUROC among `names`; the first of equals; None where it is undefined for all."""
    scores = {name: measured[name].macro(LEAD)[0] for name in names}
    defined = [name for name in names if not np.isnan(scores[name])]
    return max(defined, key=lambda name: scores[name]) if defined else None
