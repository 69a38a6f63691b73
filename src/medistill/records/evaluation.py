"""What `evaluate` writes: metrics.json, evaluation/<model>.json, and comparisons.csv."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ConfigDict

from medistill.files import atomic
from medistill.records.base import Content, Plain
from medistill.records.curves import Curves
from medistill.records.estimate import Estimate
from medistill.records.figures import Figures, Interval, Measures, WithFigures
from medistill.records.models import Role


class ModelNumbers(Content):
    """A model's entry in metrics.json, whose values are numbers: what is undefined is left out.

    Attributes:
        params, macs: of config.json, where they are known.
        val, test: figures over all labels on that split.
    """

    params: int | None = None
    macs: int | None = None
    val: Figures
    test: Figures

    def on(self, split: str) -> Figures:
        """The figures on a split."""
        return {"val": self.val, "test": self.test}[split]

    def figure(self, split: str, key: str) -> Estimate:
        """A figure on a split with its interval; None where it is undefined."""
        return Estimate.read(self.on(split), key)


class LabelFigures(WithFigures):
    """The figures of one label on one split.

    Attributes:
        eligible: whether macro means hold it.
        positives, negatives: numbers of images.
        prevalence: share of the positives among both; None where the label is known of no image.
        groups: of the images of which it is known.
        positive_groups: of the positives.
        figures: of the label.
    """

    eligible: bool
    positives: int
    negatives: int
    prevalence: float | None
    groups: int
    positive_groups: int
    figures: Measures


class Within(Content):
    """Of figures within strata.

    Attributes:
        attribute: what strata are told apart by.
        labels: those that macro means within strata hold.
    """

    attribute: str
    labels: list[str]


class SplitFigures(WithFigures):
    """All figures of a model on one split.

    Attributes:
        images, groups: how many there are.
        resamples: of the bootstrap.
        labels: those that macro means hold.
        skipped: why the others are left out, by label.
        figures: over all labels.
        per_label: of each label.
        confusion: of exclusive classes, numbers of images by class (rows) and answer (columns), in the labels' order.
        within: of figures within strata; None where there are none.
    """

    images: int
    groups: int
    resamples: int
    labels: list[str]
    skipped: dict[str, str]
    figures: Measures
    per_label: dict[str, LabelFigures]
    confusion: list[list[int]] | None = None
    within: Within | None = None


class OperatingPoint(Content):
    """A threshold of one label, what validation promises of it, and what test shows.

    Attributes:
        kind: `sensitivity` or `specificity`, of which something is promised.
        promised: its mean over patients is at least this.
        groups: patients or groups of validation with the label, or without it for a specificity; None: not known.
        threshold: a probability; the label is called from here on. None where nothing can be promised.
        observed: on test, the mean over patients of the share of their images that are called rightly.
        sensitivity, specificity, ppv, npv: shares of test images.
    """

    kind: str
    promised: float
    groups: int | None
    threshold: float | None
    observed: Interval
    sensitivity: Interval
    specificity: Interval
    ppv: Interval
    npv: Interval


class Calibrated(Content):
    """What a calibration that validation fits makes of a model's probabilities.

    A logit z becomes slope × z + intercept, and then a probability as before. The figures before are those of the
    split itself.

    Attributes:
        slopes, intercepts: of each label; 1 and 0 where validation has too few images.
        val: figures on validation, each patient's answers calibrated by a fit to the other patients.
        test: figures on test, by the fit to all of validation.
    """

    slopes: dict[str, float]
    intercepts: dict[str, float]
    val: SplitFigures
    test: SplitFigures


class GapChange(Content):
    """A student's gap minus its baseline's, paired.

    Attributes:
        change: with its interval.
        p, p_holm: two-sided, and adjusted for all groups and baselines of the student; None where undefined.
    """

    change: Interval
    p: float | None
    p_holm: float | None


class Subgroup(Content):
    """A group of test images, held against the rest.

    Attributes:
        attribute: `sex`, `age`, `view` or `source`.
        group: its value.
        images, groups: how many images it has, of how many patients or groups.
        labels: those with enough positives and negatives in the group and in the rest; without one, no AUROC.
        auroc: the mean over these labels within the group.
        gap: minus that of the rest; None for the second of two groups, whose gap is the first one's with another sign.
        missed: share of its images with a label of which none is called.
        missed_gap: minus that of the rest.
        changes: of a distilled student, its gap minus that of each baseline, by name.
    """

    attribute: str
    group: str
    images: int
    groups: int
    labels: list[str]
    auroc: Interval
    gap: Interval
    missed: Interval
    missed_gap: Interval
    changes: dict[str, GapChange]


class SoftenedGap(Content):
    """What a teacher's answers, softened by a temperature, say of a group minus what they say of the rest.

    Attributes:
        temperature: of the softened answers.
        positives: the mean answer about images that have the label, group minus rest; below 0 less is taught there.
        negatives: the same of images without it; above 0 more false evidence is taught there.
        distance: between the mean answers about positives and negatives, the mean of both parts.
    """

    temperature: int
    positives: Interval
    negatives: Interval
    distance: Interval


class Softened(Content):
    """A group of training images in a teacher's softened answers.

    Attributes:
        attribute, group, images, groups: as of `Subgroup`.
        labels: those with enough positives and negatives in the group and in the rest; without one, no gaps.
        gaps: by temperature, means over these labels.
    """

    attribute: str
    group: str
    images: int
    groups: int
    labels: list[str]
    gaps: list[SoftenedGap]


class Evaluation(Plain):
    """evaluation/<model>.json: all figures of one model.

    Attributes:
        model: its name.
        role: of the model in the run.
        seed: of the bootstrap.
        study: how the images of a study became one; None where each image counts for itself.
        val, test: the figures on that split.
        calibration: fitted on validation, and the figures after it.
        operating: the thresholds of each label.
        subgroups: of the test images.
        curves: on test.
        softened: of a teacher, groups of training images in its softened answers.
    """

    model: str
    role: Role
    seed: int
    study: str | None = None
    val: SplitFigures
    test: SplitFigures
    calibration: Calibrated
    operating: dict[str, list[OperatingPoint]]
    subgroups: list[Subgroup]
    curves: Curves = Curves()
    softened: list[Softened] = []

    def on(self, split: str) -> SplitFigures:
        """The figures on a split."""
        return {"val": self.val, "test": self.test}[split]


class Difference(Content):
    """A figure of a model minus that of another, paired.

    Attributes:
        metric: key of the figure, or `label:` and a label, whose AUROC it is.
        estimate, lower, upper: the difference with its 95 % interval; None where undefined.
        p: two-sided; None where there is no interval.
        p_holm: adjusted for testing all that are tested at once.
        resamples, dropped: of the bootstrap, and how many of them were undefined.
    """

    model_config = ConfigDict(strict=False)  # a table's cells are text

    metric: str
    estimate: float | None
    lower: float | None
    upper: float | None
    p: float | None
    p_holm: float | None
    resamples: int
    dropped: int

    @property
    def interval(self) -> Estimate:
        """The difference with its interval."""
        return Estimate(self.estimate, self.lower, self.upper, self.dropped)

    @property
    def label(self) -> str | None:
        """The label that it is of; None: a figure over all labels."""
        return self.metric.removeprefix(LABEL) if self.metric.startswith(LABEL) else None


class Comparison(Difference):
    """A row of comparisons.csv: `model` minus `reference` on a split; `relation` is `baseline` or `teacher`."""

    split: str
    model: str
    reference: str
    relation: str


LABEL = "label:"
"""Before a label's name: the metric of a row that compares one label's AUROC."""

COMPARISON_COLUMNS = ("split", "model", "reference", "relation", *Difference.model_fields)
"""Of comparisons.csv."""


class Compared(Content):
    """What `medistill compare --json` prints.

    Attributes:
        models: the figures of each.
        comparisons: of the others with the first.
        subgroups: of each model.
        notes: what a user should know, a line each.
    """

    models: dict[str, SplitFigures]
    comparisons: list[Comparison]
    subgroups: dict[str, list[Subgroup]]
    notes: list[str]


def write_comparisons(path: Path, rows: Iterable[Comparison]) -> None:
    """Write comparisons.csv, whole or not at all; cells of None are empty."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COMPARISON_COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(row.model_dump() for row in rows)


def read_comparisons(path: Path) -> Sequence[Comparison]:
    """Rows of comparisons.csv, which is known to be whole."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [Comparison.model_validate({key: cell or None for key, cell in row.items()}) for row in rows]
