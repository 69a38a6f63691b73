"""The figures of all models' maps: the content of reports/explain/metrics.json."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from medistill.explain import localisation, road
from medistill.explain.agreement import agreement
from medistill.explain.cam import upsample
from medistill.explain.explained import Explained
from medistill.explain.lungs import Lungs
from medistill.explain.scores import Scores, score
from medistill.explain.selection import Chosen
from medistill.explain.targets import targets
from medistill.records.explain import Agreement, ModelMaps

COMPARED_SIZE = 64
"""Maps of two networks are compared in frames of at most this many pixels, finer than any map."""


def measure(
    chosen: Chosen,
    explained: Mapping[str, Explained],
    called: Mapping[str, NDArray[np.float64]],
    references: Mapping[str, Sequence[str]],
    size: int,
    lungs: Lungs | None = None,
) -> tuple[dict[str, ModelMaps], dict[str, Scores]]:
    """Hold each model's maps against the boxes or masks, chance and its teachers.

    Args:
        chosen: the findings.
        explained: each model's maps of them, teachers first.
        called: float64 (N,) for each model, see `localisation.Maps`.
        references: the teachers that a model is compared with.
        size: height and width of the frames in pixels.
        lungs: where they are on the images of the measured findings, if that is known.

    Returns:
        The figures of each model, and its scores of each measured finding where there are boxes or masks.
    """
    findings = chosen.measured
    count = len(findings)
    where = targets(findings, size) if chosen.located else None
    figures: dict[str, ModelMaps] = {}
    scores: dict[str, Scores] = {}
    in_lungs: dict[str, Scores] = {}
    for name, answers in explained.items():
        map_size = answers.maps.shape[1:]
        located = localisation.NO_TRUTH
        if where:
            own, wrong, random = (
                score(upsample(np.nan_to_num(maps), size), where.masks)
                for maps in (answers.maps[:count], answers.wrong_maps, answers.random_maps)
            )
            missing = np.isnan(answers.wrong_maps)[:, 0, 0]
            wrong = wrong.unknown_where(missing)
            scores[name] = own
            located = localisation.localise(
                findings, where, localisation.Maps(own, wrong, random, map_size, called[name][:count])
            )
        teachers = references.get(name, [])
        if lungs:
            in_lungs[name] = lungs.score(upsample(answers.maps[:count], size))
        figures[name] = ModelMaps(
            **dict(located),
            method=answers.way.method,
            layer=answers.way.layer,
            map_size=list(map_size),
            removal=road.summarise(answers.drops, np.array([findings[k].group_id for k in chosen.removed])),
            agreement_teacher={
                teacher: _agreement(chosen, answers, explained[teacher], min(size, COMPARED_SIZE))
                for teacher in teachers
            },
            difference_teacher={
                teacher: localisation.difference(findings, scores[name], scores[teacher])
                for teacher in teachers
                if where
            },
            lungs=lungs.measure(in_lungs[name], {one: in_lungs[one] for one in teachers}) if lungs else None,
        )
    return figures, scores


def _agreement(chosen: Chosen, student: Explained, teacher: Explained, size: int) -> Agreement:
    count = len(chosen.measured)
    groups = np.array([finding.group_id for finding in chosen.measured])
    return agreement(upsample(student.maps[:count], size), upsample(teacher.maps[:count], size), groups)
