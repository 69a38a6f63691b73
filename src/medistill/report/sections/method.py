"""How the figures were made."""

from dataclasses import dataclass

from medistill.metrics import eligibility, intervals, reliability
from medistill.report.content import Content
from medistill.report.sections.differences import ALPHA


@dataclass(frozen=True)
class Method:
    """The facts about the figures of the page.

    Attributes:
        study: how a study's probability is made from those of its images; empty if figures are per image.
        resamples: of the bootstrap.
        exclusive: whether labels are exclusive classes.
        confidence, max_dropped: of the intervals, as shares.
        min_images, min_groups: of an eligible label.
        bins: of the calibration error.
        alpha: significance level of p-values.
    """

    study: str
    resamples: int
    exclusive: bool
    confidence: float = intervals.CONFIDENCE
    max_dropped: float = intervals.MAX_DROPPED
    min_images: int = eligibility.MIN_IMAGES
    min_groups: int = eligibility.MIN_GROUPS
    bins: int = reliability.BINS
    alpha: float = ALPHA


def build(content: Content) -> Method:
    """The method of a run."""
    evaluation = content.models[0].evaluation
    return Method(
        study={"max": "highest", "mean": "mean"}.get(evaluation.study or "", ""),
        resamples=evaluation.test.resamples,
        exclusive=content.exclusive,
    )
