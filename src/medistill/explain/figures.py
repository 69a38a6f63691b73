"""The figures of all models' maps: the content of reports/explain/metrics.json."""

from collections.abc import Mapping, Sequence

import numpy as np

from medistill.explain import localisation
from medistill.explain.agreement import agreement
from medistill.explain.cam import upsample
from medistill.explain.explained import Explained
from medistill.explain.selection import Chosen
from medistill.records.explain import ModelMaps


def measure(
    chosen: Chosen, explained: Mapping[str, Explained], references: Mapping[str, Sequence[str]], size: int
) -> tuple[dict[str, ModelMaps], dict[str, localisation.Scores]]:
    """Hold each model's maps against the boxes, chance and its teachers.

    Args:
        chosen: the findings.
        explained: each model's maps of them, teachers first.
        references: the teachers that a model is compared with.
        size: height and width of the frames in pixels.

    Returns:
        The figures of each model, and its scores of each measured finding where there are boxes.
    """
    findings = chosen.measured
    count = len(findings)
    groups = np.array([finding.group_id for finding in findings])
    where = localisation.targets(findings, size) if chosen.with_boxes else None
    figures: dict[str, ModelMaps] = {}
    scores: dict[str, localisation.Scores] = {}
    for name, answers in explained.items():
        frames = upsample(answers.maps[:count], size)
        map_size = answers.maps.shape[1:]
        located = localisation.NO_BOXES
        if where:
            scores[name] = localisation.score(frames, where.masks)
            wrong, random = (
                localisation.score(upsample(np.nan_to_num(maps), size), where.masks).hits
                for maps in (answers.wrong_maps, answers.random_maps)
            )
            wrong[np.isnan(answers.wrong_maps).any(axis=(1, 2))] = np.nan
            nulls = localisation.Nulls(wrong_label=wrong, random_weights=random)
            located = localisation.localise(findings, where, scores[name], map_size, nulls)
        teachers = references.get(name, [])
        figures[name] = ModelMaps(
            **dict(located),
            method=answers.way.method,
            layer=answers.way.layer,
            map_size=list(map_size),
            agreement_teacher={
                teacher: agreement(frames, upsample(explained[teacher].maps[:count], size), groups)
                for teacher in teachers
            },
            difference_teacher={
                teacher: localisation.difference(findings, scores[name], scores[teacher])
                for teacher in teachers
                if where
            },
        )
    return figures, scores
