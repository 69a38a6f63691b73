"""The data of the run: counts, validation, and entries that were left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medistill.records.audit import Validation
from medistill.records.data import Origin, SplitCounts, UnlabelledFolder
from medistill.report.content import Content

MAX_QUARANTINED = 50
"""Rows of the quarantine list on the page; the file has them all."""


@dataclass(frozen=True)
class Data:
    """Counts by split, the verdict on the data, and (path, reason) of entries that were left out.

    Attributes:
        images, groups: by split.
        unlabelled: the images of `data.unlabelled`, which are among those of the train split.
        labels: (positive images, percentage of the known ones or None) by label, one pair per split.
    """

    images: Mapping[str, int]
    groups: Mapping[str, int]
    unlabelled: UnlabelledFolder
    labels: Mapping[str, list[tuple[int, float | None]]]
    source: Origin
    fingerprint: str
    validation: Validation
    quarantine: Sequence[tuple[str, str]]
    quarantined: int


def build(content: Content) -> Data:
    """The data set of a run."""
    dataset, counts = content.dataset, content.dataset.counts
    return Data(
        images={name: split.images for name, split in counts.items()},
        groups={name: split.groups for name, split in counts.items()},
        unlabelled=dataset.unlabelled,
        labels={label: [_positives(split, label) for split in counts.values()] for label in dataset.labels},
        source=dataset.source,
        fingerprint=dataset.fingerprint,
        validation=content.validation,
        quarantine=content.quarantine[:MAX_QUARANTINED],
        quarantined=len(content.quarantine),
    )


def _positives(split: SplitCounts, label: str) -> tuple[int, float | None]:
    positives = split.positives.get(label, 0)
    known = positives + split.negatives.get(label, 0)
    return positives, 100 * positives / known if known else None
