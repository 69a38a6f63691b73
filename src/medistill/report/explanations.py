"""From explained findings to what the gallery shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medistill.data.dataset import Dataset
from medistill.explain.cam import upsample
from medistill.explain.explained import Explained
from medistill.explain.scores import Scores, peak
from medistill.explain.second_look import SHOWN, Doubt, write_doubts
from medistill.explain.selection import Chosen
from medistill.explain.shown import draw
from medistill.files import atomic
from medistill.layout import ExplainFolder
from medistill.records.base import Sealed, write_each
from medistill.records.data import LABEL_PREFIX
from medistill.records.explain import Choice, ModelMaps
from medistill.records.gallery import Gallery, ShownFinding, ShownKind, ShownMap
from medistill.records.models import Role
from medistill.report.gallery import DoubtRow
from medistill.report.pictures import heat_uri, image_uri, outline


@dataclass(frozen=True)
class Explanations:
    """What is known of all explained findings.

    Attributes:
        chosen: the findings.
        images: uint8 (N, C, S, S), the image of each.
        explained: each model's answers about them.
        scores: each model's scores of the measured findings; empty without boxes and masks.
        called: of each model, float64 (N,), see `explain.detection`.
        roles: of the models, in the order of the pages.
    """

    chosen: Chosen
    images: NDArray[np.uint8]
    explained: Mapping[str, Explained]
    scores: Mapping[str, Scores]
    called: Mapping[str, NDArray[np.float64]]
    roles: Mapping[str, Role]


def fill_gallery(dataset: Dataset, all_of: Explanations, student: str, beside: list[str], count: int) -> Gallery:
    """Some findings of each kind, as `explain.shown` draws them, and all those that are absent, with their pictures.

    A model's scale for a label is its largest value on the findings that are present.

    Args:
        dataset: the manifest of the images.
        all_of: the findings.
        student, beside: see `Gallery`.
        count: findings at most, if no more are absent.
    """
    people, chosen = dataset.manifest.set_index("image_id"), all_of.chosen
    first, last = len(chosen.measured), len(chosen.findings)
    hits = all_of.scores[student].hits if chosen.located else np.full(first, np.nan)
    kinds = draw(chosen.measured, dataset.labels, all_of.called[student][:first], hits, count - len(chosen.absent))
    return Gallery(
        student=student,
        beside=beside,
        kinds=[
            ShownKind(
                called=kind.called,
                hit=kind.hit,
                findings=kind.findings,
                shown=[_shown(dataset, people, all_of, at) for at in kind.shown],
            )
            for kind in kinds
        ],
        absent=[_shown(dataset, people, all_of, at) for at in range(first, last)],
    )


def _shown(dataset: Dataset, people: pd.DataFrame, all_of: Explanations, at: int) -> ShownFinding:
    finding, person = all_of.chosen.findings[at], people.loc[all_of.chosen.findings[at].image_id]
    exclusive = dataset.task.exclusive
    truth = [f"true class {label}" for label in dataset.labels if exclusive and person[LABEL_PREFIX + label] == 1]
    return ShownFinding(
        image_id=finding.image_id,
        split=finding.split,
        label=finding.label,
        present=finding.present,
        facts=", ".join([*truth, *_facts(person)]),
        size=dataset.image_size,
        picture=image_uri(all_of.images[at]),
        boxes=[list(box) for box in finding.boxes],
        outline="" if finding.mask is None else outline(finding.mask),
        maps=[_map(dataset, all_of, name, at) for name in all_of.roles],
    )


def _map(dataset: Dataset, all_of: Explanations, name: str, at: int) -> ShownMap:
    finding, answers, called = all_of.chosen.findings[at], all_of.explained[name], all_of.called[name][at]
    same = [k for k, other in enumerate(all_of.chosen.findings) if other.label == finding.label and other.present]
    frame, top = upsample(answers.maps[at : at + 1], dataset.image_size)[0], float(answers.maps[same].max())
    heat, place = frame / top if top > 0 else frame, peak(frame)
    return ShownMap(
        model=name,
        role=all_of.roles[name],
        probability=float(answers.probabilities[at, dataset.labels.index(finding.label)]),
        picture=heat_uri(heat),
        top=float(heat.max()),
        peak=None if place is None else list(place),
        hit=bool(all_of.scores[name].hits[at]) if finding.located else None,
        called=None if np.isnan(called) else bool(called),
        predicted=dataset.labels[answers.probabilities[at].argmax()] if dataset.task.exclusive else None,
    )


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


def write_explanations(
    folder: Path,
    metrics: Mapping[str, ModelMaps],
    choice: Choice,
    shown: Gallery,
    doubts: list[Doubt],
    page: str,
) -> None:
    """Write the files of `layout.ExplainFolder` and their checksums: all of them or none."""
    with atomic(folder) as temporary:
        temporary.mkdir()
        written = ExplainFolder(temporary)
        write_each(written.metrics, metrics)
        choice.write(written.choice)
        shown.write(written.gallery)
        write_doubts(written.second_look, doubts)
        written.page.write_text(page, encoding="utf-8")
        Sealed().write(written.record, temporary.iterdir())
