"""One offline page: images with their boxes, every model's map over them, and the figures on top."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from medistill.data.dataset import Dataset
from medistill.explain.second_look import Doubt
from medistill.metrics.eligibility import MIN_GROUPS
from medistill.metrics.intervals import CONFIDENCE
from medistill.records.explain import REFERENCES, Choice, ModelMaps
from medistill.records.gallery import Gallery
from medistill.records.models import Role
from medistill.report.html import render_page
from medistill.report.pictures import image_uri, stops

STUDENT_WORDS = {
    "distilled": "the distilled student that is best on validation",
    "baseline": "the student that is best on validation",
    "teacher": "the teacher that is best on validation",
}
"""Which model tells kinds of findings, see `explain.shown.student_of`."""


@dataclass(frozen=True)
class DoubtRow:
    """A label that the teachers contradict, with its image.

    Attributes:
        doubt: the label.
        pixels: uint8 (C, S, S).
        facts: further facts about the image.
    """

    doubt: Doubt
    pixels: NDArray[np.uint8]
    facts: str

    @property
    def picture(self) -> str:
        """The image as the data URI of a picture."""
        return image_uri(self.pixels)


def render(
    dataset: Dataset,
    roles: Mapping[str, Role],
    metrics: Mapping[str, ModelMaps],
    choice: Choice,
    shown: Gallery,
    doubts: list[DoubtRow],
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The page as one self-contained HTML text; everything that comes from data is escaped.

    Args:
        dataset: its name, task and labels.
        roles: role of each model (`teacher`, `baseline`, `distilled`), in the order of the page.
        metrics: content of metrics.json, by model.
        choice: how the way to make maps was chosen.
        shown: the images.
        doubts: labels that the teachers contradict, the worst first.
        left_out: models that are not on the page, each with the reason.
    """
    first = metrics[next(iter(roles))]
    return render_page(
        "gallery",
        title=f"Where the models look: {dataset.name}",
        dataset=dataset.name,
        exclusive=dataset.task.exclusive,
        labels=[label for label in dataset.labels if label in first.labels],
        roles=roles,
        metrics=metrics,
        counts=first,
        located=any(entry.boxes or entry.masks for entry in metrics.values()),
        references=REFERENCES,
        agreements=any(entry.agreement_teacher for entry in metrics.values()),
        confidence=CONFIDENCE,
        choice=choice,
        min_groups=MIN_GROUPS,
        stops=stops(),
        shown=shown,
        student_words=STUDENT_WORDS[roles[shown.student]],
        doubts=doubts,
        left_out=left_out,
    )
