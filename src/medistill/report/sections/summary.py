"""The data and the outcome in two or three sentences."""

from dataclasses import dataclass

from medistill.records.estimate import Estimate
from medistill.report.content import Content, Model


@dataclass(frozen=True)
class Summary:
    """Numbers of images and groups in all splits; the first in rank, or None if no student passes."""

    name: str
    images: int
    groups: int
    labels: int
    exclusive: bool
    image_size: int
    students: int
    passed: int
    first: Model | None
    against: list[tuple[str, Estimate]]
    """The reference of the first in rank, and the difference on test."""


def build(content: Content) -> Summary:
    """The summary of a run."""
    counts = content.dataset.counts.values()
    first = next((model for model in content.models if model.name in content.ranking[:1]), None)
    references = (("the best teacher", "difference_teacher"), ("its baseline", "difference_baseline"))
    against = [(words, first.figure("test", key)) for words, key in references if first and key in first.numbers.test]
    return Summary(
        name=content.dataset.name,
        images=sum(split.images for split in counts),
        groups=sum(split.groups for split in counts),
        labels=len(content.dataset.labels),
        exclusive=content.exclusive,
        image_size=content.dataset.image_size,
        students=len(content.verdicts),
        passed=len(content.ranking),
        first=first,
        against=[(words, difference) for words, difference in against if difference.estimate is not None],
    )
