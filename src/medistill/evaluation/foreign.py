"""A data set that exported models come to from outside: which labels it shares with them, and what they answer.

It is read by the adapters of `medistill.data` and decoded into each model's own frames; answers come from ONNX Runtime
alone, without torch.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError
from tqdm import tqdm

from medistill.checksums import EXPORT_AGAIN
from medistill.data import provenance
from medistill.data.adapters import formats, read_source
from medistill.data.cache import folder_of
from medistill.data.dataset import Dataset, FrameReader
from medistill.data.ingest import ingest
from medistill.data.reading.source import Source, no_boxes
from medistill.data.settings import Data
from medistill.errors import UserError
from medistill.layout import ExportFolder, Layout
from medistill.records.base import Sealed
from medistill.records.data import LABEL_PREFIX, QUARANTINE_COLUMNS
from medistill.runtime.bundle import Bundle
from medistill.runtime.predictor import Predictor
from medistill.settings import describe_errors
from medistill.text import shortened

_BATCH = 16


@dataclass(frozen=True)
class Place:
    """Where the data set is, and how it is read.

    Attributes:
        root: its folder.
        format: one of `formats()`.
        cache: keeps decoded images; may be deleted.
        options: of the format.
        splits: folder of groups.csv, which says what belongs together; None: there is none.
        workers: processes that decode.
    """

    root: Path
    format: str
    cache: Path
    options: Mapping[str, object] = field(default_factory=dict)
    splits: Path | None = None
    workers: int = 1


@dataclass(frozen=True)
class Foreign:
    """The images of the data set that all models have answered.

    Attributes:
        name: of the data set.
        rows: N rows of its manifest.
        labels: L names, as the models have them.
        targets: float32 (N, L), 1, 0 or NaN where unknown.
        logits: of each model, float32 (N, L).
        unknown: labels of the first model that are not measured.
        unasked: labels of the data set that are not measured.
        left_out: how many images or entries are left out, by reason.
        notes: for the user.
    """

    name: str
    rows: pd.DataFrame
    labels: list[str]
    targets: NDArray[np.float32]
    logits: dict[str, NDArray[np.float32]]
    unknown: list[str]
    unasked: list[str]
    left_out: dict[str, int]
    notes: list[str]


def read_foreign(place: Place, predictors: Mapping[str, Predictor], renamed: Mapping[str, str]) -> Foreign:
    """Read the data set and let the models answer all of its images but those that they were trained on.

    Args:
        place: the data set.
        predictors: the models by name, the first of them the one that is asked about.
        renamed: names of labels of the models -> names of the same in the data set, where these differ.

    Raises:
        UserError: the data set cannot be read, has no label that all models know, or no image is left; or a model
            fails.
    """
    if place.format not in formats():
        raise UserError(f"--format: {place.format!r} is unknown; known are {', '.join(formats())}")
    source = read_source(place.format, place.root, place.options, given="--set")
    if source.copies and place.splits is None:
        raise UserError(
            f"{place.root}: contains augmented copies, and no list says which images are copies of the same picture;"
            f" find them by `medistill check {place.root} --format {place.format} --write-splits splits`, then name the"
            " folder by --splits"
        )
    bundles = [predictor.bundle for predictor in predictors.values()]
    shared = _shared_labels(place, source, bundles, renamed)
    answered = [_answer(place, source, name, one, shared) for name, one in predictors.items()]
    return _joined(answered, list(predictors), bundles[0], source, shared)


# Labels


def _shared_labels(
    place: Place, source: Source, bundles: Sequence[Bundle], renamed: Mapping[str, str]
) -> dict[str, str | None]:
    """Names of labels as all models have them -> names in the data set; None for a class that it does not have."""
    first, *others = bundles
    for ours, theirs in renamed.items():
        if ours not in first.labels:
            raise UserError(f"--map {ours}: is no label of {first.name}; it has {', '.join(first.labels)}")
        if theirs not in source.labels:
            raise UserError(f"--map {ours}={theirs}: {place.root} has no such label; it has {_some(source.labels)}")
    names = {label: renamed.get(label, label) for label in first.labels}
    given = [theirs for theirs in names.values() if theirs in source.labels]
    twice = sorted({theirs for theirs in given if given.count(theirs) > 1})
    if twice:
        raise UserError(f"--map: two labels of {first.name} would be {twice[0]} of {place.root}; rename one of them")
    for other in others:
        if other.task is not first.task:
            raise UserError(f"{other.name} is {other.task}, but {first.name} {first.task}: they cannot be compared")
    if first.task.exclusive:
        return _shared_classes(place, source, bundles, names)
    shared: dict[str, str | None] = {
        ours: theirs
        for ours, theirs in names.items()
        if theirs in source.labels and all(ours in other.labels for other in others)
    }
    if not shared:
        both = " and ".join(bundle.name for bundle in bundles)
        raise UserError(
            f"{place.root}: has no label of {both}: it has {_some(source.labels)}, the model has"
            f" {_some(first.labels)}; say by --map OURS=THEIRS which are the same"
        )
    return shared


def _shared_classes(
    place: Place, source: Source, bundles: Sequence[Bundle], names: Mapping[str, str]
) -> dict[str, str | None]:
    """The same for exclusive classes, all of which a softmax needs."""
    first = bundles[0]
    if not source.task.exclusive:
        raise UserError(f"{place.root}: its labels do not exclude each other, but the classes of {first.name} do")
    for other in bundles[1:]:
        if set(other.labels) != set(first.labels):
            raise UserError(f"{other.name} has other classes than {first.name}: they cannot be compared")
    known = [ours for ours, theirs in names.items() if theirs in source.labels]
    if len(known) < 2:
        raise UserError(
            f"{place.root}: has fewer than two of the classes of {first.name}: it has {_some(source.labels)}, the model"
            f" has {_some(first.labels)}; say by --map OURS=THEIRS which are the same"
        )
    return {ours: theirs if theirs in source.labels else None for ours, theirs in names.items()}


def _some(labels: Sequence[str]) -> str:
    return shortened(", ".join(labels), 300)


# Images


@dataclass(frozen=True)
class _Answered:
    """What one model says of the data set in its own frames.

    Attributes:
        name: of the data set.
        rows: those of the manifest that are not left out.
        targets, logits: (N, L) of them.
        trained_on, related, unlabelled: ids of images that are left out: with pixels that it was trained on, of
            patients or groups that it was trained on, and without a label that is measured.
        unreadable: reason by path of entries that are left out.
        notes: for the user.
    """

    name: str
    rows: pd.DataFrame
    targets: NDArray[np.float32]
    logits: NDArray[np.float32]
    trained_on: frozenset[str]
    related: frozenset[str]
    unlabelled: frozenset[str]
    unreadable: Mapping[str, str]
    notes: list[str]


def _answer(
    place: Place, source: Source, name: str, predictor: Predictor, shared: Mapping[str, str | None]
) -> _Answered:
    bundle = predictor.bundle
    with tempfile.TemporaryDirectory(prefix="medistill-evaluate-") as folder:
        own = Layout(Path(folder))
        data = _settings(place, bundle, own.root / "none")
        pictures = replace(source, rows=source.rows.drop(columns="mask", errors="ignore"), boxes=no_boxes())
        cache = folder_of(place.cache, place.root)
        info = ingest(data, own.processed.folder, cache, source=pictures, allow_empty_splits=True)
        dataset = Dataset.open(own.processed.folder)
        quarantined = pd.read_csv(dataset.files.quarantine, keep_default_na=False, dtype=str)
        rows = dataset.manifest
        targets = _targets(rows, shared)
        ids, note = _trained_on(bundle)
        pixels = provenance.of_pixels(ids, rows)
        related = provenance.of_groups(ids, dataset, rows) & ~pixels
        seen = pixels | related
        unlabelled = np.isnan(targets).all(axis=1) & ~seen
        trained_on, relatives, without = (frozenset(rows["image_id"][k]) for k in (pixels, related, unlabelled))
        kept = np.flatnonzero(~(seen | unlabelled))
        rows, targets = rows.iloc[kept].reset_index(drop=True), targets[kept]
        if rows.empty:
            why = f"{name} was trained on all of them" if seen.all() else "none has a label that is measured"
            raise UserError(f"{place.root}: no image can be measured: {why}")
        logits = _logits(dataset, rows, name, predictor)[:, [bundle.labels.index(label) for label in shared]]
    path, reason = QUARANTINE_COLUMNS
    unreadable = dict(zip(quarantined[path], quarantined[reason], strict=True))
    return _Answered(info.name, rows, targets, logits, trained_on, relatives, without, unreadable, note)


def _settings(place: Place, bundle: Bundle, no_splits: Path) -> Data:
    """The section `data` of an equivalent params.yaml; `no_splits`: a folder that is not there."""
    try:
        return Data(
            format=place.format,
            root=place.root,
            options=dict(place.options),
            split="patient",  # all images are measured, whatever their split
            splits=place.splits or no_splits,
            image_size=bundle.image_size,
            channels=1 if bundle.channels == 1 else 3,
            fit=bundle.fit,
            max_quarantined=1.0,  # what cannot be used is counted
            workers=place.workers,
        )
    except ValidationError as error:
        raise UserError(f"{bundle.name} on {place.root}: {describe_errors(error, Data)}") from None


def _targets(rows: pd.DataFrame, shared: Mapping[str, str | None]) -> NDArray[np.float32]:
    """(N, L); of exclusive classes, images of a class that the model does not have are unknown."""
    columns = [
        np.zeros(len(rows), np.float32) if theirs is None else rows[LABEL_PREFIX + theirs].to_numpy(np.float32)
        for theirs in shared.values()
    ]
    targets = np.stack(columns, axis=1)
    if None in shared.values():
        targets[targets.sum(axis=1) != 1] = np.nan
    return targets


def _trained_on(bundle: Bundle) -> tuple[provenance.TrainIds, list[str]]:
    """What the model was trained on, by its export; and a note where that is not known."""
    export = ExportFolder(bundle.model.parent)
    if not export.train_ids.is_file():
        why = f"its export does not hold {export.train_ids.name}"
        return provenance.NOTHING, [f"{bundle.name}: {why}, so nobody can say whether it was trained on these images"]
    Sealed.read_whole(export.bundle, [export.train_ids.name], EXPORT_AGAIN)
    return provenance.read_ids(export.train_ids), []


def _logits(dataset: Dataset, rows: pd.DataFrame, name: str, predictor: Predictor) -> NDArray[np.float32]:
    """Of all the model's labels, (N, L)."""
    reader, found = FrameReader(dataset, rows), []
    with tqdm(total=len(rows), desc=f"predict {name}", unit="image", disable=None, leave=False) as bar:
        for chosen in _batches(len(rows)):
            logits = predictor.logits(reader[chosen])
            if not np.isfinite(logits).all():
                first = chosen[~np.isfinite(logits).all(axis=1)][0]
                raise UserError(f"{name}: its answer to image {rows['image_id'].iloc[first]} is not finite")
            found.append(logits)
            bar.update(len(chosen))
    return np.concatenate(found)


def _batches(count: int) -> Iterator[NDArray[np.intp]]:
    for start in range(0, count, _BATCH):
        yield np.arange(start, min(start + _BATCH, count))


def _joined(
    answered: Sequence[_Answered],
    names: Sequence[str],
    first: Bundle,
    source: Source,
    shared: Mapping[str, str | None],
) -> Foreign:
    """What all models have answered, in the first one's order."""
    common = set.intersection(*(set(one.rows["image_id"]) for one in answered))
    if not common:
        raise UserError("no image is left that none of the models was trained on")
    rows = answered[0].rows
    kept = rows["image_id"].isin(common).to_numpy()
    rows = rows[kept].reset_index(drop=True)
    logits = {
        name: one.logits[pd.Index(one.rows["image_id"]).get_indexer(pd.Index(rows["image_id"]))]
        for name, one in zip(names, answered, strict=True)
    }
    trained_on = frozenset().union(*(one.trained_on for one in answered))
    related = frozenset().union(*(one.related for one in answered))
    reasons = {
        "trained on by a model": trained_on,
        "of patients or groups that a model was trained on": related - trained_on,
        "without a label that is measured": answered[0].unlabelled - trained_on - related,
        "that cannot be used": frozenset().union(*(one.unreadable for one in answered)),
    }
    return Foreign(
        name=answered[0].name,
        rows=rows,
        labels=list(shared),
        targets=answered[0].targets[kept],
        logits=logits,
        unknown=[label for label in first.labels if shared.get(label) is None],
        unasked=[label for label in source.labels if label not in shared.values()],
        left_out={reason: len(ids) for reason, ids in reasons.items() if ids},
        notes=[*_about(source, rows), *(note for one in answered for note in one.notes)],
    )


def _about(source: Source, rows: pd.DataFrame) -> list[str]:
    """Notes on how the data set was read."""
    notes = [f"{count:,} excluded by options: {what}" for what, count in source.unwanted.items()] + source.notes
    unknown = int(rows["patient_id"].isna().sum())
    if unknown == len(rows) == rows["group_id"].nunique():
        return [*notes, "no patient ids: each image counts as a patient, and intervals are too narrow if it is not"]
    return [*notes, f"{unknown:,} of {len(rows):,} images have no patient id"] if 0 < unknown < len(rows) else notes
