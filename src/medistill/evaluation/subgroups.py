"""Subgroups of the test images: how well a model ranks in each, whom it misses, and what distillation changed of that.

A group is held against the rest of those of whom the attribute is known, in the same resamples of patients. AUROC is
the mean over labels that are eligible in both parts. *Missed* (Seyyed-Kalantari et al., Nature Medicine 2021) is
the share of images with a label of which none is called, at the thresholds that promise a specificity of 0.90.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medistill.evaluation.answers import Answers, Split
from medistill.metrics.bootstrap import resample
from medistill.metrics.eligibility import ineligibility
from medistill.metrics.intervals import Codes, FloatArray, compare, holm, summarise
from medistill.metrics.means import GroupedMean
from medistill.metrics.ranking import RankedLabel
from medistill.records.estimate import Estimate
from medistill.records.evaluation import GapChange, OperatingPoint, Subgroup
from medistill.text import printable

ATTRIBUTES = ("sex", "age", "view", "source")
"""Columns of the manifest."""

AGES = {"0–39": 0, "40–59": 40, "60 and over": 60}
"""Bands of age in years, fixed before anything is measured, by their lower bound."""

MAX_GROUPS = 8
"""Groups of an attribute, the most frequent ones: more would have few images each."""

RESAMPLES = 1000
"""At most so many are used: every group costs as much as the split."""

_LEAST_ILL = 30
"""Fewest patients with a label in a group whose misses are counted: of ten, one miss is a tenth."""

CALLED_AT = ("specificity", 0.90)
"""The operating point whose thresholds call a label."""


@dataclass(frozen=True)
class Part:
    """A group of images, and the rest.

    Attributes:
        attribute: of `ATTRIBUTES`.
        group: its value or band.
        inside, rest: bool (N,); images of which the attribute is unknown are in neither.
        mirrored: whether it is the last of two groups, right after the other, whose gap is its own with another sign.
    """

    attribute: str
    group: str
    inside: NDArray[np.bool_]
    rest: NDArray[np.bool_]
    mirrored: bool


def parts_of(rows: pd.DataFrame) -> list[Part]:
    """The groups of images by each attribute that has several; the most frequent first, bands of age in order.

    Args:
        rows: N rows of the manifest.
    """
    found = []
    for attribute in ATTRIBUTES:
        values = _bands(rows[attribute]) if attribute == "age" else rows[attribute]
        values = values.where(values.astype("string").str.len() > 0)
        names = list(AGES) if attribute == "age" else list(values.value_counts().sort_index().index)
        names = [name for name in names if (values == name).any()]
        if attribute != "age":
            names = sorted(names, key=lambda name: -int((values == name).sum()))[:MAX_GROUPS]
        if len(names) < 2:
            continue
        known = values.notna().to_numpy()
        for name in names:
            inside = (values == name).fillna(False).to_numpy(bool)
            mirrored = len(names) == 2 and name == names[1]
            found.append(Part(attribute, printable(str(name)), inside, known & ~inside, mirrored))
    return found


def _bands(ages: pd.Series) -> pd.Series:
    edges = [*AGES.values(), np.inf]
    return pd.cut(ages, edges, labels=list(AGES), right=False).astype(object)


@dataclass(frozen=True)
class _Measured:
    """One model on one part: figures of the group and of the rest, each (1 + R,), in the draws `counts` (G, 1 + R)."""

    auroc: tuple[FloatArray, FloatArray]
    missed: tuple[FloatArray, FloatArray]
    counts: Codes

    def mirrored(self) -> "_Measured":
        """The same of the rest and of the group."""
        return _Measured(self.auroc[::-1], self.missed[::-1], self.counts)


def measure_subgroups(
    parts: Sequence[Part],
    answers: Mapping[str, Answers],
    operating: Mapping[str, Mapping[str, Sequence[OperatingPoint]]],
    baselines: Mapping[str, Sequence[str]],
) -> dict[str, list[Subgroup]]:
    """All parts of each model.

    Args:
        parts: of the test images.
        answers: of each model on them.
        operating: each model's thresholds by label; without them nothing is said of what is missed.
        baselines: of each distilled student, those with whose gaps its own are compared; p is adjusted for all parts
            and baselines of a student (Holm).
    """
    split = next(iter(answers.values())).split  # the truth is the same for all models
    known = [_Eligible.of(split, part) for part in parts]
    measured = {
        name: _measure_all(own, parts, known, _thresholds(operating.get(name))) for name, own in answers.items()
    }
    found = {}
    for name in answers:
        changes = _changes(parts, measured, name, baselines.get(name, ()))
        found[name] = [
            _described(split, part, eligible, values, change)
            for part, eligible, values, change in zip(parts, known, measured[name], changes, strict=True)
        ]
    return found


def _thresholds(points: Mapping[str, Sequence[OperatingPoint]] | None) -> FloatArray | None:
    """(L,), above every probability where there is none; None without any points."""
    if points is None:
        return None
    chosen = [next(p for p in own if (p.kind, p.promised) == CALLED_AT) for own in points.values()]
    return np.array([np.inf if point.threshold is None else point.threshold for point in chosen])


@dataclass(frozen=True)
class _Eligible:
    """What can be measured on a part, by its truth.

    Attributes:
        columns: indices of the labels with enough positives and negatives in the group and in the rest.
        missed: whether what is missed is: of labels that do not exclude each other, in both parts often enough.
    """

    columns: list[int]
    missed: bool

    @classmethod
    def of(cls, split: Split, part: Part) -> "_Eligible":
        """Of the truth of a split."""
        both = (part.inside, part.rest)
        columns = [
            k
            for k in range(len(split.labels))
            if not any(ineligibility(split.targets[rows, k], split.groups[rows]) for rows in both)
        ]
        ill = (split.targets == 1).any(axis=1)
        enough = all(len(np.unique(split.groups[ill & rows])) >= _LEAST_ILL for rows in both)
        return cls(columns, not split.task.exclusive and enough)


def _measure_all(
    answers: Answers, parts: Sequence[Part], known: Sequence[_Eligible], thresholds: FloatArray | None
) -> list[_Measured]:
    found: list[_Measured] = []
    for part, eligible in zip(parts, known, strict=True):
        found.append(found[-1].mirrored() if part.mirrored else _measure(answers, part, eligible, thresholds))
    return found


def _measure(answers: Answers, part: Part, known: _Eligible, thresholds: FloatArray | None) -> _Measured:
    columns, counts = known.columns, answers.split.counts[:, : 1 + RESAMPLES]
    undefined = np.full(counts.shape[1], np.nan)
    auroc, missed = [undefined] * 2, [undefined] * 2
    targets, groups = answers.split.targets, answers.split.groups
    scores = answers.scores[:, columns]
    none_called = _missed(answers, thresholds) if thresholds is not None and known.missed else None
    for place, rows in enumerate((part.inside, part.rest)):
        if columns and not np.isnan(scores).any():
            labels = zip(targets[rows][:, columns].T, scores[rows].T, strict=True)
            ranked = [RankedLabel.of(*label, groups[rows], len(counts)) for label in labels]
            auroc[place] = np.mean([resample(one.auroc, counts, rows=one.rows) for one in ranked], axis=0)
        if none_called is not None:
            mean = GroupedMean.of(np.where(rows, none_called, np.nan), groups, len(counts))
            missed[place] = resample(mean.measure, counts)
    return _Measured((auroc[0], auroc[1]), (missed[0], missed[1]), counts)


def _missed(answers: Answers, thresholds: FloatArray) -> FloatArray:
    """(N,), 1 where an image has a label and none is called, 0 where one is; NaN for images without a label."""
    called = (np.nan_to_num(answers.probabilities) >= thresholds).any(axis=1)
    return np.where((answers.split.targets == 1).any(axis=1), ~called, np.nan)


def _changes(
    parts: Sequence[Part], measured: Mapping[str, Sequence[_Measured]], name: str, baselines: Sequence[str]
) -> list[dict[str, GapChange]]:
    """For each part, the student's gap in AUROC minus that of each baseline."""
    pairs = [(k, baseline) for k, part in enumerate(parts) if not part.mirrored for baseline in baselines]
    compared = []
    for k, baseline in pairs:
        own, other = measured[name][k], measured[baseline][k]
        compared.append(compare(_gap(own.auroc), _gap(other.auroc), own.counts))
    adjusted = holm([p for _, p in compared])
    found: list[dict[str, GapChange]] = [{} for _ in parts]
    for (k, baseline), (estimate, p), p_holm in zip(pairs, compared, adjusted, strict=True):
        found[k][baseline] = GapChange(change=estimate, p=p, p_holm=p_holm)
    return found


def _gap(values: tuple[FloatArray, FloatArray]) -> FloatArray:
    return values[0] - values[1]


def _described(
    split: Split, part: Part, known: _Eligible, values: _Measured, changes: dict[str, GapChange]
) -> Subgroup:
    nothing, counts = Estimate(None), values.counts
    return Subgroup(
        attribute=part.attribute,
        group=part.group,
        images=int(part.inside.sum()),
        groups=len(np.unique(split.groups[part.inside])),
        labels=[split.labels[k] for k in known.columns],
        auroc=summarise(values.auroc[0], counts),
        gap=nothing if part.mirrored else compare(*values.auroc, counts)[0],
        missed=summarise(values.missed[0], counts),
        missed_gap=nothing if part.mirrored else compare(*values.missed, counts)[0],
        changes=changes,
    )
