"""From explained findings to the rows of the gallery."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medistill.data.dataset import Dataset
from medistill.explain.cam import upsample
from medistill.explain.explained import Explained
from medistill.explain.scores import Scores, peak
from medistill.explain.second_look import SHOWN, Doubt
from medistill.explain.selection import Chosen
from medistill.records.data import LABEL_PREFIX
from medistill.report.gallery import DoubtRow, Overlay, Row


def gallery_rows(
    dataset: Dataset,
    chosen: Chosen,
    images: NDArray[np.uint8],
    explained: Mapping[str, Explained],
    scores: Mapping[str, Scores],
) -> list[Row]:
    """The rows of the gallery; a model's scale for a label is its largest value on the findings that are present.

    Args:
        dataset: the manifest of the images.
        chosen: the findings.
        images: uint8 (N, C, S, S), the image of each finding.
        explained: each model's answers about them.
        scores: each model's scores of the measured findings; empty without boxes and masks.
    """
    people, exclusive = dataset.manifest.set_index("image_id"), dataset.task.exclusive
    rows = []
    for at in chosen.shown:
        finding = chosen.findings[at]
        same = [k for k, other in enumerate(chosen.findings) if other.label == finding.label and other.present]
        overlays = []
        for name, answers in explained.items():
            frame = upsample(answers.maps[at : at + 1], dataset.image_size)[0]
            top = float(answers.maps[same].max())
            overlays.append(
                Overlay(
                    model=name,
                    probability=float(answers.probabilities[at, dataset.labels.index(finding.label)]),
                    heat=frame / top if top > 0 else frame,
                    peak=peak(frame),
                    hit=bool(scores[name].hits[at]) if finding.located else None,
                    predicted=dataset.labels[answers.probabilities[at].argmax()] if exclusive else None,
                )
            )
        person = people.loc[finding.image_id]
        truth = [f"true class {label}" for label in dataset.labels if exclusive and person[LABEL_PREFIX + label] == 1]
        rows.append(Row(finding, images[at], ", ".join([*truth, *_facts(person)]), overlays))
    return rows


def _facts(person: Any) -> list[str]:
    age = f"{person['age']:.0f} years" if person["age"] == person["age"] else None
    return [fact for fact in (person["sex"], age, person["view"]) if isinstance(fact, str)]


def doubt_rows(dataset: Dataset, doubts: Sequence[Doubt]) -> list[DoubtRow]:
    """The first doubts with their images."""
    shown = list(doubts[:SHOWN])
    people = dataset.manifest.set_index("image_id")
    rows = people.loc[[doubt.image_id for doubt in shown]].reset_index()
    return [
        DoubtRow(doubt, pixels, ", ".join(_facts(people.loc[doubt.image_id])))
        for doubt, pixels in zip(shown, dataset.images(rows), strict=True)
    ]
