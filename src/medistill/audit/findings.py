"""All checks of the audit on an ingested data set, as `medistill check` prints and the gate reads them."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from tqdm import tqdm

from medistill.audit.duplicates import near_duplicates
from medistill.audit.shortcuts import CUES, border_features, probe_shortcuts
from medistill.data.dataset import Dataset
from medistill.records.audit import Audit, AuditFinding, Pair
from medistill.records.base import JsonObject
from medistill.records.data import SPLITS
from medistill.text import pluralise

SHORTCUT = 0.65
"""A label whose AUROC from a cue alone is above this, at the lower end of its interval, is worth a warning."""

EXAMPLES = 5

_TOGETHER = "--write-splits keeps them together if data.split is patient; or remove all but one from data.root"

_REMOVE = "remove these files from the folder of data.unlabelled"

_BATCH = 256


def audit(dataset: Dataset) -> Audit:
    """Look for copies across splits and for shortcuts.

    Issues are of the checks `groups`, `identical_pixels`, `near_duplicates` and `shortcut`.
    """
    manifest = dataset.manifest
    pairs = _pairs(dataset)
    shortcuts = probe_shortcuts(manifest, dataset.targets(manifest), dataset.labels, _borders(dataset))
    return Audit(
        findings=[*_groups_in_several_splits(manifest), *_identical(manifest), *_near(pairs), *_shortcuts(shortcuts)],
        near_duplicates=pairs,
        shortcuts=[_plain(row) for row in shortcuts.to_dict("records")],
    )


def find_groups_of(dataset: Dataset) -> pd.Series:
    """Groups of augmented copies: str (N,) with the index of the manifest.

    A group has the name of its first image, in order of `image_id`.
    """
    from medistill.audit.groups import discover_groups

    found = discover_groups(_frames(dataset), len(dataset.manifest))
    first = dataset.manifest["image_id"].groupby(found).transform("min")
    return first.set_axis(dataset.manifest.index).astype("str")


def _frames(dataset: Dataset) -> Callable[[np.ndarray], np.ndarray]:
    return lambda chosen: dataset.images(dataset.manifest.iloc[chosen])


def _borders(dataset: Dataset) -> np.ndarray:
    frames, count = _frames(dataset), len(dataset.manifest)
    with tqdm(total=count, desc="borders", unit="image", disable=None) as bar:
        parts = []
        for start in range(0, count, _BATCH):
            parts.append(border_features(frames(np.arange(start, min(start + _BATCH, count)))))
            bar.update(len(parts[-1]))
    return np.concatenate(parts)


def in_several_splits(manifest: pd.DataFrame, column: str) -> Iterator[tuple[Hashable, pd.DataFrame]]:
    """Each value of a column that occurs in several splits, and its images."""
    yield from manifest[manifest.groupby(column)["split"].transform("nunique") > 1].groupby(column)


def _groups_in_several_splits(manifest: pd.DataFrame) -> list[AuditFinding]:
    """Groups with images in two splits."""
    named = [
        f"{group}: {', '.join(f'{row.image_id} ({row.split})' for row in rows.drop_duplicates('split').itertuples())}"
        for group, rows in in_several_splits(manifest, "group_id")
    ]
    text = f"{pluralise(len(named), 'group')} in two splits"
    return [finding("groups", "error", text, named, advice=_TOGETHER)] if named else []


def _identical(manifest: pd.DataFrame) -> list[AuditFinding]:
    """Images that are the same pixel for pixel: an error in two splits, else a warning, as they count twice."""
    copies = manifest[manifest["sha256"].duplicated(keep=False)]
    splits = copies.groupby("sha256")["split"].transform("nunique")
    findings = []
    for across, where in ((True, "in two splits"), (False, "in one split")):
        part = copies[(splits > 1) == across]
        sets = list(part.groupby("sha256", sort=False))
        if sets:
            named = [", ".join(f"{row.image_id} ({row.split})" for row in rows.itertuples()) for _, rows in sets]
            severity: Literal["error", "warning"] = "error" if across else "warning"
            text = f"{len(part)} images in {pluralise(len(sets), 'set')} are identical pixel for pixel and {where}"
            findings.append(finding("identical_pixels", severity, text, named, advice=_TOGETHER if across else ""))
    return findings


def _pairs(dataset: Dataset) -> list[Pair]:
    manifest = dataset.manifest
    found = near_duplicates(_frames(dataset), len(manifest))
    one, other = manifest.iloc[found["i"].to_numpy()], manifest.iloc[found["j"].to_numpy()]
    # one patient's images may look alike, and identical pixels are an issue of their own
    kept = (one["group_id"].to_numpy() != other["group_id"].to_numpy()) & (
        one["sha256"].to_numpy() != other["sha256"].to_numpy()
    )
    return [
        Pair(
            image_id=a,
            other=b,
            splits=sorted({s, t}, key=SPLITS.index),
            correlation=round(float(r), 4),
            kind=kind,
        )
        for a, b, s, t, r, kind in zip(
            one["image_id"][kept],
            other["image_id"][kept],
            one["split"][kept],
            other["split"][kept],
            found["correlation"].to_numpy()[kept],
            found["kind"].to_numpy()[kept],
            strict=True,
        )
    ]


def _near(pairs: list[Pair]) -> list[AuditFinding]:
    findings = []
    held_out = [pair for pair in pairs if pair.unlabelled]
    if held_out:
        text = f"{pluralise(len(held_out), 'image')} of data.unlabelled nearly the same as images of val or test"
        findings.append(finding("unlabelled", "error", text, list(map(_named, held_out)), advice=_REMOVE))
    for across, where in ((True, "in two splits"), (False, "in one split")):
        part = [pair for pair in pairs if pair.across == across and not pair.unlabelled]
        if part:
            text = f"{pluralise(len(part), 'pair')} of images of different groups are nearly the same and {where}"
            findings.append(finding("near_duplicates", "warning", text, list(map(_named, part))))
    return findings


def _named(pair: Pair) -> str:
    return f"{pair.image_id} and {pair.other} ({pair.kind}, {' and '.join(pair.splits)})"


def _shortcuts(table: pd.DataFrame) -> list[AuditFinding]:
    findings = []
    for row in table[table["lower"] > SHORTCUT].itertuples():
        text = (
            f"{row.label} can be predicted from a cue alone, {CUES[str(row.cue)]}:"
            f" AUROC {row.auroc:.2f} [{row.lower:.2f}, {row.upper:.2f}], {row.images} images"
        )
        findings.append(finding("shortcut", "warning", text))
    return findings


def finding(
    check: str,
    severity: Literal["error", "warning"],
    message: str,
    examples: Sequence[str] = (),
    *,
    advice: str = "",
) -> AuditFinding:
    """A finding of all its examples; `advice`, where there is some, says what helps."""
    return AuditFinding(
        check=check,
        severity=severity,
        message=message,
        count=len(examples),
        examples=list(examples[:EXAMPLES]),
        advice=advice or None,
    )


def _plain(row: Mapping[Hashable, Any]) -> JsonObject:
    """Numbers for JSON; undefined ones are null."""
    plain = {str(key): value.item() if isinstance(value, np.generic) else value for key, value in row.items()}
    return {key: None if value != value else value for key, value in plain.items()}
