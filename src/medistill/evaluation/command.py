"""The command `medistill compare`: anybody's predictions in tables, measured and compared like a run's models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logit

from medistill.data.reading.tables import describe_header, identifiers, read_header, read_table
from medistill.errors import UserError
from medistill.evaluation.answers import Split
from medistill.evaluation.comparison import adjust, compare_pair, measure_each
from medistill.evaluation.subgroups import ATTRIBUTES, measure_subgroups, parts_of
from medistill.records.evaluation import Compared
from medistill.task import Task
from medistill.text import pluralise

_INNERMOST = 1e-15
"""Probabilities closer to 0 or 1 count as this close, since their logit must be finite."""


@dataclass(frozen=True)
class Request:
    """What to compare.

    Attributes:
        predictions: tables, one of each model; the others are compared with the first.
        truth: the table of the truth.
        id: the column of image ids, in all tables; None: the first of the truth's.
        group: the truth's column of patients, which are drawn together; None: each image is one of its own.
        by: columns of the truth, of `ATTRIBUTES`, whose groups are compared.
        exclusive: whether an image has exactly one of the labels.
        logits: whether the tables hold logits in place of probabilities.
        resamples, seed: of the bootstrap.
    """

    predictions: Sequence[Path]
    truth: Path
    id: str | None = None
    group: str | None = None
    by: Sequence[str] = ()
    exclusive: bool = False
    logits: bool = False
    resamples: int = 2000
    seed: int = 0


def compare_tables(request: Request) -> Compared:
    """Read the tables, and measure and compare the models in the same resamples.

    Args:
        request: what to compare.

    Raises:
        UserError: a table is missing or no such table, lacks a column or an image, or has a value that it may not have;
            the message names file, line and column.
    """
    names = _names(request.predictions)
    truth = _read_truth(request)
    answers = {name: _read_answers(path, truth, request) for name, path in names.items()}
    groups = truth.ids if request.group is None else truth.groups
    task = Task.MULTICLASS if request.exclusive else Task.MULTILABEL
    split = Split.of(truth.labels, truth.targets, groups.to_numpy(str), request.resamples, request.seed, task)
    models = measure_each(split, answers, "compare")
    first, *others = models
    rows = [row for name in others for row in compare_pair(models, "test", name, first, "baseline")]
    subgroups = measure_subgroups(
        parts_of(truth.about),
        {name: own.answers for name, own in models.items()},
        {},
        {name: [first] for name in others},
    )
    notes = list(truth.notes)
    if request.group is None:
        notes.append("no --group: each image counts as a patient of its own, and intervals are too narrow if it is not")
    described = {name: own.describe() for name, own in models.items()}
    return Compared(models=described, comparisons=adjust(rows), subgroups=subgroups, notes=notes)


def _names(paths: Sequence[Path]) -> dict[str, Path]:
    names = {path.name.partition(".")[0]: path for path in paths}
    if len(names) < len(paths):
        raise UserError("two predictions have the same file name, by which models are told apart; rename one")
    return names


# The truth


@dataclass(frozen=True)
class _Truth:
    """The truth of N images.

    Attributes:
        ids: (N,) of str.
        groups: (N,) of str; those of `ids` where none are named.
        labels: L names.
        targets: float64 (N, L), 1, 0 or NaN.
        about: (N rows), the columns of `ATTRIBUTES`.
        notes: for the user.
    """

    ids: pd.Series
    groups: pd.Series
    labels: list[str]
    targets: NDArray[np.float64]
    about: pd.DataFrame
    notes: list[str]


def _read_truth(request: Request) -> _Truth:
    path = request.truth
    unknown = [name for name in request.by if name not in ATTRIBUTES]
    if unknown:
        raise UserError(f"--by {unknown[0]}: known are {', '.join(ATTRIBUTES)}")
    header = read_header(path)
    id_ = request.id or header[0]
    apart = [name for name in (id_, request.group, *request.by) if name is not None]
    for name in apart:
        if name not in header:
            raise UserError(f"{path}: has no column {name!r}; it has {describe_header(header)}")
    predicted = [read_header(file) for file in request.predictions]
    labels = [name for name in header if name not in apart and any(name in other for other in predicted)]
    if not labels:
        raise UserError(
            f"{path}: no column but {', '.join(apart)} is in {request.predictions[0]}, so no label is known"
        )
    left = [name for name in header if name not in (*apart, *labels)]
    table = read_table(path, {name: () for name in [*apart, *labels]})
    ids = _unique_ids(table, path, id_)
    groups = ids
    if request.group is not None:
        groups = identifiers(table[request.group], path, request.group)
        _refuse(table, path, request.group, groups.isna(), "is empty")
    about = pd.DataFrame({name: table[name] if name in request.by else None for name in ATTRIBUTES}, index=table.index)
    about["age"] = pd.to_numeric(about["age"], errors="coerce")
    targets = np.stack([_targets(table, path, name) for name in labels], axis=1)
    if request.exclusive:
        known = ~np.isnan(targets).any(axis=1)
        one = np.where(known, np.nan_to_num(targets).sum(axis=1), 1) == 1
        _refuse(table, path, labels[0], pd.Series(~one), "and the other labels: an image has exactly one class")
    notes = [f"{path}: {pluralise(len(left), 'column')} in no prediction: {', '.join(left)}"] if left else []
    return _Truth(ids, groups, labels, targets, about, notes)


def _targets(table: pd.DataFrame, path: Path, label: str) -> NDArray[np.float64]:
    values = pd.to_numeric(table[label].replace("", np.nan), errors="coerce")
    wrong = ~(values.isin([0, 1]) | (table[label] == ""))
    _refuse(table, path, label, wrong, "is neither 1, 0 nor empty (unknown)")
    return values.to_numpy(np.float64)


def _unique_ids(table: pd.DataFrame, path: Path, column: str) -> pd.Series:
    ids = identifiers(table[column], path, column)
    _refuse(table, path, column, ids.isna(), "is empty")
    _refuse(table, path, column, ids.duplicated(), "is there a second time")
    return ids


def _refuse(table: pd.DataFrame, path: Path, column: str, wrong: pd.Series, why: str) -> None:
    """Refuse the first row that is wrong."""
    if wrong.any():
        place = int(wrong.to_numpy(bool).argmax())
        value = table[column].iloc[place]
        shown = f" {value!r}" if value else ""
        raise UserError(f"{path}: line {table['line'].iloc[place]}: column {column!r}{shown} {why}")


# Predictions


def _read_answers(path: Path, truth: _Truth, request: Request) -> NDArray[np.float64]:
    """Logits (N, L) in the truth's order; NaN for labels that the table does not have."""
    header = read_header(path)
    id_ = str(truth.ids.name)
    known = [label for label in truth.labels if label in header]
    if id_ not in header:
        raise UserError(f"{path}: has no column {id_!r}; it has {describe_header(header)}")
    if not known:
        raise UserError(f"{path}: has none of the labels {', '.join(truth.labels)}")
    table = read_table(path, {name: () for name in [id_, *known]})
    ids = _unique_ids(table, path, id_)
    places = pd.Index(ids).get_indexer(pd.Index(truth.ids))
    if (places < 0).any():
        missing = truth.ids[places < 0]
        raise UserError(f"{path}: lacks {pluralise(len(missing), 'image')} of {request.truth}, first {missing.iloc[0]}")
    found = np.full((len(places), len(truth.labels)), np.nan)
    for label in known:
        values = pd.to_numeric(table[label], errors="coerce")
        _refuse(table, path, label, ~np.isfinite(values), "is no finite number")
        if not request.logits:
            _refuse(table, path, label, (values < 0) | (values > 1), "is no probability; logits need --logits")
        found[:, truth.labels.index(label)] = values.to_numpy(np.float64)[places]
    if request.logits:
        return found
    if request.exclusive:
        logarithms: NDArray[np.float64] = np.log(np.clip(found, _INNERMOST, 1))
        return logarithms
    logits: NDArray[np.float64] = logit(np.clip(found, _INNERMOST, 1 - _INNERMOST))
    return logits
