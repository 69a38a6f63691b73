"""Which of the explained findings are shown: some of each kind, told by one student's answers, drawn by a hash."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medistill.explain.selection import Finding, in_turn
from medistill.layout import ModelFolder
from medistill.records.models import Role, TrainingMetrics


@dataclass(frozen=True)
class Kind:
    """Findings of which a student says alike.

    Attributes:
        called: whether it calls the label; None where that has no threshold.
        hit: whether its map points at the finding; None where it is not known where that is.
        findings: how many there are.
        shown: indices of those that are shown.
    """

    called: bool | None
    hit: bool | None
    findings: int
    shown: list[int]


def student_of(roles: Mapping[str, Role], folders: Mapping[str, ModelFolder]) -> str:
    """The distilled student with the highest macro AUROC on validation; without any, the best baseline or teacher.

    Args:
        roles: of the models that are explained.
        folders: of the same.

    Raises:
        UserError: a model's metrics.json is missing or damaged.
    """
    some = next(one for role in ("distilled", "baseline", "teacher") if (one := [m for m in roles if roles[m] == role]))
    figures = {name: TrainingMetrics.read(folders[name].metrics, "run dvc repro") for name in some}
    return max(some, key=lambda name: figures[name].val_macro_auroc or 0.0)


def draw(
    findings: list[Finding],
    labels: list[str],
    called: NDArray[np.float64],
    hits: NDArray[np.float64],
    count: int,
) -> list[Kind]:
    """At most `count` findings on different images: one of each kind in turn, and within a kind of each label.

    Args:
        findings: N findings.
        labels: in the order of the turns.
        called: (N,), 1 where the student calls the label, 0 where not, NaN where it has no threshold.
        hits: (N,), 1 where its map hits, 0 where not; NaN where it is not known where the finding is.
        count: findings at most.

    Returns:
        The kinds that there are: called before not called, hits before misses. Indices are in the order of the labels.
    """
    keys = [(_known(one), _known(other)) for one, other in zip(called, hits, strict=True)]
    kinds = sorted(set(keys), key=lambda key: [(True, False, None).index(known) for known in key])
    waiting = {
        kind: in_turn([f for f, key in zip(findings, keys, strict=True) if key == kind], labels) for kind in kinds
    }
    places = {(finding.image_id, finding.label): at for at, finding in enumerate(findings)}
    chosen: dict[tuple[bool | None, bool | None], list[int]] = {kind: [] for kind in kinds}
    seen: set[str] = set()
    while len(seen) < count and any(waiting.values()):
        for kind in kinds:
            waiting[kind] = [finding for finding in waiting[kind] if finding.image_id not in seen]
            if waiting[kind] and len(seen) < count:
                finding = waiting[kind].pop(0)
                chosen[kind].append(places[finding.image_id, finding.label])
                seen.add(finding.image_id)
    by_label = lambda at: labels.index(findings[at].label)  # noqa: E731
    return [Kind(*kind, keys.count(kind), sorted(chosen[kind], key=by_label)) for kind in kinds]


def _known(value: float) -> bool | None:
    return None if math.isnan(value) else bool(value)
