"""The curves of one model on test, a part of evaluation/<model>.json."""

from typing import Annotated

from pydantic import Field

from medistill.records.base import Content
from medistill.records.figures import Interval

Points = list[Annotated[tuple[float, float], Field(strict=False)]]  # JSON has lists alone
"""(x, y), from left to right."""


class ReliabilityBin(Content):
    """Probabilities of one bin, held against the truth.

    Attributes:
        answers: how many there are, one per image and label.
        probability: their mean.
        rate: share of them where the label is present.
        lower, upper: where 95 % of such rates lie if each probability is right.
    """

    answers: int
    probability: float
    rate: float
    lower: float
    upper: float


class Decision(Content):
    """The net benefit of calling a label from one probability on.

    Attributes:
        threshold: the probability, 0..1.
        benefit: the mean over eligible labels, in true positives per image.
        all: the same where every image is called; where none is, it is 0.
        labels: of each eligible label, by name.
        all_labels: the same where every image is called.
        difference: minus that of the best teacher on validation, paired; None for a teacher.
    """

    threshold: float
    benefit: float
    all: float
    labels: dict[str, float]
    all_labels: dict[str, float]
    difference: Interval


class Curves(Content):
    """The curves of one model on test; those are empty that cannot be measured.

    Attributes:
        precision_recall: (recall, precision), the mean over eligible labels.
        reliability: of the probabilities of all eligible labels, as the model answers.
        recalibrated: (mean probability, rate) of bins, once calibrated on validation.
        decisions: by threshold; probabilities are calibrated on validation.
        risk_coverage: (share of images that are kept, share of wrong calls among them), the mean over eligible labels.
    """

    precision_recall: Points = []
    reliability: list[ReliabilityBin] = []
    recalibrated: Points = []
    decisions: list[Decision] = []
    risk_coverage: Points = []
