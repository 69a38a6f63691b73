"""The truth of one split, and one model's answers on it, from which figures are measured."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from medistill.metrics.abstention import measure_abstention
from medistill.metrics.bootstrap import draw, leave_out
from medistill.metrics.calibration import fit_calibration
from medistill.metrics.classification import FIGURES as DECISIONS
from medistill.metrics.classification import CountedClasses, measure_classes, metrics_at_half
from medistill.metrics.eligibility import MIN_IMAGES, fewer_groups, ineligibility
from medistill.metrics.intervals import Codes, FloatArray, Numbers
from medistill.metrics.probabilities import FIGURES as PROBABILITIES
from medistill.metrics.probabilities import measure_probabilities
from medistill.metrics.ranking import measure_ranking
from medistill.metrics.strata import ineligibility_within, measure_within
from medistill.task import Calibration, Task

Value = TypeVar("Value")


@dataclass(frozen=True)
class Strata:
    """What images of a split are told apart by, so that a model is asked about pairs of like images.

    Attributes:
        attribute: its name.
        codes: (N,) int, the stratum of each image, or `NO_STRATUM`.
        skipped: why a label is not eligible within strata, by name.
    """

    attribute: str
    codes: Codes
    skipped: dict[str, str]


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
        name: `val`, `test`, or empty where there is but one.
        places: (L,), the place of each class where they are ordered; None where they are not.
        strata: None where images are not told apart.
    """

    labels: list[str]
    targets: NDArray[np.floating]
    groups: Codes
    counts: Codes
    skipped: dict[str, str]
    rests_on: list[int]
    task: Task
    name: str = ""
    places: FloatArray | None = None
    strata: Strata | None = None

    @classmethod
    def of(
        cls,
        labels: list[str],
        targets: NDArray[np.floating],
        group_ids: NDArray[np.generic],
        resamples: int,
        seed: int,
        task: Task = Task.MULTILABEL,
        name: str = "",
    ) -> "Split":
        """Draw the resamples of a split and find its eligible labels.

        Args:
            labels: L names.
            targets: (N, L) float, 1, 0, or NaN where unknown; of exclusive classes, a row with a NaN is unknown.
            group_ids: (N,), the group (patient) of each image.
            resamples: R.
            seed: of the draws.
            task: whether the labels exclude each other.
            name: of the split.
        """
        if task.exclusive:
            targets = np.where(np.isnan(targets).any(axis=1, keepdims=True), np.nan, targets)
        names, groups = np.unique(group_ids, return_inverse=True)
        reasons = {label: ineligibility(targets[:, k], groups) for k, label in enumerate(labels)}
        skipped = {label: reason for label, reason in reasons.items() if reason}
        rests_on = [fewer_groups(targets[:, k], groups) for k in range(len(labels))]
        return cls(labels, targets, groups, draw(len(names), resamples, seed), skipped, rests_on, task, name)

    def ordered(self, names: list[str]) -> "Split":
        """The same split, whose classes are in this order; names are all labels."""
        return replace(self, places=np.array([names.index(label) for label in self.labels], np.float64))

    def within(self, attribute: str, codes: Codes) -> "Split":
        """The same split, whose images (N,) are of these strata, or of `NO_STRATUM`."""
        reasons = [ineligibility_within(targets, self.groups, codes) for targets in self.targets.T]
        skipped = {label: reason for label, reason in zip(self.labels, reasons, strict=True) if reason}
        return replace(self, strata=Strata(attribute, codes, skipped))

    @property
    def eligible(self) -> list[str]:
        """Labels with enough positives and negatives from enough groups, in order."""
        return [label for label in self.labels if label not in self.skipped]

    def columns(self) -> list[int]:
        """Indices of the eligible labels."""
        return [k for k, label in enumerate(self.labels) if label not in self.skipped]

    def columns_within(self) -> list[int]:
        """Indices of the labels that are eligible within strata."""
        skipped = self.strata.skipped if self.strata else self.labels
        return [k for k, label in enumerate(self.labels) if label not in skipped]

    @property
    def resamples(self) -> int:
        """R."""
        drawn: int = self.counts.shape[1]  # the data themselves come first
        return drawn - 1


@dataclass(frozen=True)
class Answers:
    """One model's answers on one split; work that several figures share is done once.

    Attributes:
        split: the truth.
        logits: (N, L), rows as in `split.targets`; finite, or NaN for a whole label that the model does not know.
        probabilities: (N, L), calibrated.
        on_label: called L times while the resamples are ranked.
    """

    split: Split
    logits: NDArray[np.floating]
    probabilities: FloatArray
    on_label: Callable[[], object] | None = None

    @property
    def scores(self) -> NDArray[np.floating]:
        """(N, L), the scores that rank the images: the logits of multilabel data, the softmax of classes."""
        return self.probabilities if self.split.task.exclusive else self.logits

    @cached_property
    def _rankable(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Targets (N, L), NaN also where the model does not know a label, and finite scores (N, L)."""
        return np.where(np.isnan(self.scores), np.nan, self.split.targets), np.nan_to_num(self.scores)

    @cached_property
    def ranking(self) -> tuple[FloatArray, FloatArray]:
        """AUROC and average precision of each label, (1 + R, L), row 0 on the data themselves."""
        return measure_ranking(*self._rankable, self.split.groups, self.split.counts, self.on_label)

    @cached_property
    def precision_left_out(self) -> FloatArray:
        """Average precision of each label without each block of groups, (1 + B, L), row 0 on the data themselves."""
        return measure_ranking(*self._rankable, self.split.groups, leave_out(len(self.split.counts)))[1]

    @cached_property
    def ranking_within(self) -> FloatArray:
        """AUROC of each label over pairs of one stratum, (1 + R, L); NaN for labels that are not eligible there."""
        split, strata = self.split, self.split.strata
        found = np.full((split.counts.shape[1], len(split.labels)), np.nan)
        columns = split.columns_within()
        if strata is None or not columns:
            return found
        targets, scores = (each[:, columns] for each in self._rankable)
        found[:, columns] = measure_within(targets, scores, split.groups, strata.codes, split.counts)
        return found

    @cached_property
    def decided(self) -> dict[str, FloatArray]:
        """Each figure of `metrics.classification`, (1 + R,); NaN for a model that lacks a class."""
        split = self.split
        if np.isnan(self.logits).any():
            return dict.fromkeys(DECISIONS, np.full(split.counts.shape[1], np.nan))
        values = measure_classes(split.targets, self.logits, split.groups, split.counts, split.places)
        return dict(zip(DECISIONS, values, strict=True))

    @property
    def confusion(self) -> list[list[int]] | None:
        """Numbers of images by class (rows) and answer (columns); None where there are none of exclusive classes."""
        if not self.split.task.exclusive or np.isnan(self.logits).any():
            return None
        split = self.split
        counted = CountedClasses.of(split.targets, self.logits, split.groups, len(split.counts))
        cells: list[list[int]] = counted.confusion.astype(int).tolist()
        return cells

    @cached_property
    def judged(self) -> dict[str, FloatArray]:
        """Each figure of `metrics.probabilities` of each label, (1 + R, L)."""
        split = self.split
        values = self.by_label(lambda truth, given: measure_probabilities(truth, given, split.groups, split.counts))
        if not values:
            return dict.fromkeys(PROBABILITIES, np.empty((split.counts.shape[1], 0)))
        return dict(zip(PROBABILITIES, np.stack(values, axis=-1), strict=True))

    @cached_property
    def calls(self) -> tuple[FloatArray, FloatArray]:
        """Whether calls are wrong, and how sure the model is of them, (N, L) each; of classes (N, 1), the image's.

        A label is called where its probability exceeds one half, and the surer, the farther it is from there; of
        classes the most probable one is. Wrong: 1 or 0, NaN where the truth or the answer is unknown.
        """
        given, truth = np.nan_to_num(self.probabilities), self.split.targets
        unknown = np.isnan(truth) | np.isnan(self.probabilities)
        if not self.split.task.exclusive:
            return np.where(unknown, np.nan, (given > 0.5) != (truth == 1)), np.abs(given - 0.5)
        wrong = np.where(unknown.any(axis=1), np.nan, given.argmax(axis=1) != np.nan_to_num(truth).argmax(axis=1))
        return wrong[:, None], given.max(axis=1, keepdims=True)

    @cached_property
    def abstention(self) -> FloatArray:
        """Area under the risk–coverage curve of each column of `calls`, (1 + R, L) or (1 + R, 1)."""
        if not self.split.labels:
            return np.empty((self.split.counts.shape[1], 0))
        groups, counts = self.split.groups, self.split.counts
        columns = zip(*(each.T for each in self.calls), strict=True)
        areas = [measure_abstention(wrong, sure, groups, counts) for wrong, sure in columns]
        return np.stack(areas, axis=1)

    @cached_property
    def at_half(self) -> FloatArray:
        """Accuracy, F1 and weighted F1 of each label at a probability of one half, (3, L)."""
        return np.stack(self.by_label(metrics_at_half), axis=1) if self.split.labels else np.empty((3, 0))

    def calibrated(self, calibration: Calibration) -> "Answers":
        """The same answers with the probabilities that a calibration makes of their logits."""
        return replace(self, probabilities=calibration.probabilities(self.logits))

    def by_label(self, measure: Callable[[Numbers, Numbers], Value]) -> list[Value]:
        """A figure of targets (N,) and probabilities (N,) for each label; all unknown where the model has no answer."""
        return [
            measure(np.where(np.isnan(probability), np.nan, targets), np.nan_to_num(probability))
            for targets, probability in zip(self.split.targets.T, self.probabilities.T, strict=True)
        ]


VALIDATION = "val"
"""The split on which thresholds and calibrations are fitted."""


@dataclass(frozen=True)
class Validation:
    """A model's answers on validation: all that thresholds and calibrations are fitted on.

    What fits takes this type, and answers on another split cannot be made into one, so no test label gets there.

    Attributes:
        answers: on validation.

    Raises:
        ValueError: the answers are on another split.
    """

    answers: Answers

    def __post_init__(self) -> None:
        """Look at the split's name, which it has from the data set."""
        if self.answers.split.name != VALIDATION:
            raise ValueError(f"fitted on {VALIDATION} alone, never on {self.answers.split.name or 'an unnamed split'}")

    @cached_property
    def calibration(self) -> Calibration:
        """The model's calibration, see `metrics.calibration.fit_calibration`; labels of `MIN_IMAGES` have one.

        These are as few as an eligible label has: the prior holds what they do not.
        """
        return fit_calibration(self.answers.split.targets, self.answers.logits, self.answers.split.task, MIN_IMAGES)

    @cached_property
    def calibrated(self) -> Answers:
        """The answers with calibrated probabilities, those that a device shows and on which thresholds are."""
        return self.answers.calibrated(self.calibration)
