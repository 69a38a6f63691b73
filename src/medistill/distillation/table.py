"""Tables of answers: what somebody else's model has said about images, read once, the same for every view."""

import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medistill.checksums import TRAIN_AGAIN, reading
from medistill.data.dataset import Dataset, label_columns
from medistill.data.reading.tables import describe_header, identifiers, read_table
from medistill.distillation.outside import Outside, are_no_probabilities, logits_of, require_probabilities, write_folder
from medistill.distillation.settings import TableTeacher
from medistill.errors import UserError
from medistill.layout import ModelFolder
from medistill.records.models import LOGIT_PREFIX, ModelRecord
from medistill.text import pluralise
from medistill.training.outputs import predicted_rows
from medistill.training.run import ids_of_weights

LARGEST = 1000.0
"""Size of a logit that a table may hold: float16, in which answers are kept, ends at 65,504, and its steps at 1,000 are
0.5."""


def read_answers(network: TableTeacher, dataset: Dataset) -> pd.DataFrame:
    """A table's logits about images of a data set.

    Ids are those of the data set, or the names of its files without their endings; rows about other images are
    passed over.

    Args:
        network: file and columns.
        dataset: its image ids, and whether its labels exclude each other.

    Returns:
        float32 columns, one per label of `network.labels` in their order; index: image ids.

    Raises:
        UserError: the file is missing or no such table, a column is missing, a value is no number or no probability, an
            id is there twice, no row is about an image of the data set, or none of the labels is the data set's.
    """
    label_columns(list(network.labels), dataset.labels, "labels")
    ids, values = read_values(network)
    places = _match(ids, dataset.manifest["image_id"].tolist(), network.answers)
    found = values[list(places.values())].astype(np.float32)
    if network.values == "probabilities":
        found = logits_of(values[list(places.values())], exclusive=dataset.task.exclusive)
    index = pd.Index(list(places), name="image_id")
    return pd.DataFrame(found, index=index, columns=list(network.labels))


def read_values(network: TableTeacher) -> tuple[list[str], NDArray[np.float64]]:
    """All ids of a table and the values beside them, (N, L) in the order of `network.labels`.

    Raises:
        UserError: the file is missing or no such table, a column is missing, a value is no number or no probability, or
            an id is there twice.
    """
    file, columns = network.answers, list(network.labels.values())
    if network.id in columns:
        raise UserError(f"{file}: column {network.id!r} cannot be both the id and a label's")
    if file.suffix.lower() == ".parquet":
        table = _read_parquet(file, [network.id, *columns])
        where = pd.Series([f"row {place}" for place in range(1, len(table) + 1)])
    else:
        table = read_table(file, dict.fromkeys([network.id, *columns], ()))
        table[network.id] = identifiers(table[network.id], file, network.id)
        where = "line " + table["line"].astype(str)
    if table[network.id].isna().any():
        raise UserError(f"{file}: {where[table[network.id].isna()].iloc[0]}: column {network.id!r} is empty")
    repeated = table[network.id].duplicated()
    if repeated.any():
        raise UserError(f"{file}: has the id {table[network.id][repeated].iloc[0]} more than once")
    values = np.empty((len(table), len(columns)))
    for place, column in enumerate(columns):
        values[:, place] = pd.to_numeric(table[column], errors="coerce")
        at = f"{file}: {{}}: column {column!r}"
        bad = ~np.isfinite(values[:, place])
        if bad.any():
            given = table[column][bad].iloc[0]
            raise UserError(f"{at.format(where[bad].iloc[0])}: {given!r} is no number; leave out such rows")
        _require_range(network, values[:, place], at, where)
    return table[network.id].tolist(), values


def import_table(folder: Path, name: str, network: TableTeacher, dataset: Dataset) -> None:
    """Write the folder of a table of answers: its logits about all images of the data set, and those on val and test.

    Args:
        folder: the model's folder, replaced as a whole.
        name: of the model.
        network: its settings.
        dataset: whose images it is about. It has figures if it answers all of val and test.

    Raises:
        UserError: as `read_answers`, or the model was trained on images or groups of val or test.
    """
    seen = ids_of_weights(network.file, dataset)
    answers = read_answers(network, dataset)
    stored = io.BytesIO()
    answers.rename(columns=LOGIT_PREFIX.__add__).reset_index().to_parquet(stored, index=False)
    outside = Outside(
        name=name,
        network=network,
        labels=list(network.labels),
        params=None,
        versions={"pandas": pd.__version__},
        stored=(ModelFolder(folder).answers.name, stored.getvalue()),
    )
    rows = predicted_rows(dataset)
    write_folder(folder, outside, dataset, answers.reindex(rows["image_id"]).to_numpy(np.float32), seen)


def read_imported(folder: Path) -> tuple[ModelRecord, pd.DataFrame]:
    """What `import_table` has written: the record, and the logits as from `read_answers`.

    Raises:
        UserError: a file is missing or damaged.
    """
    files = ModelFolder(folder)
    record = ModelRecord.read_whole(files.config)
    with reading(files.answers, TRAIN_AGAIN):
        table = pd.read_parquet(files.answers)
    return record, table.set_index("image_id")[[LOGIT_PREFIX + label for label in record.labels]]


def _read_parquet(file: Path, columns: list[str]) -> pd.DataFrame:
    """Columns of a Parquet file, the first one as text."""
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    with reading(file, "save the table again"):
        table = pd.read_parquet(file)
    for column in columns:
        if column not in table:
            raise UserError(
                f"{file}: column {column!r} is missing; it has {describe_header([*map(str, table.columns)])}"
            )
    table = table[columns].reset_index(drop=True)
    if table.empty:
        raise UserError(f"{file}: has no rows")
    ids = table[columns[0]]
    return table.assign(**{columns[0]: ids.astype(str).where(ids.notna(), None)})


def _require_range(network: TableTeacher, values: NDArray[np.float64], at: str, where: pd.Series) -> None:
    """Refuse values of a column that are not what the table is said to hold."""
    bad = are_no_probabilities(values) if network.values == "probabilities" else np.abs(values) > LARGEST
    if not bad.any():
        return
    at = at.format(where[bad].iloc[0])
    if network.values == "probabilities":
        require_probabilities(values[bad][:1], at, "set values: logits if these are logits")
    raise UserError(f"{at}: {values[bad][0]:g} is no logit that can be kept; they lie within ±{LARGEST:g}")


def _match(ids: Sequence[str], image_ids: Sequence[str], file: Path) -> dict[str, int]:
    """Image id -> place in `ids`, of the images that a table is about."""
    known, by_stem = set(image_ids), defaultdict(list)
    for image_id in image_ids:
        by_stem[PurePosixPath(image_id).stem].append(image_id)
    found: dict[str, int] = {}
    for place, given in enumerate(ids):
        images = [given] if given in known else by_stem.get(given, [])
        if len(images) > 1:
            raise UserError(f"{file}: id {given} could be {' or '.join(images[:2])}; use the ids of the data set")
        for image_id in images:
            if image_id in found:
                raise UserError(f"{file}: {ids[found[image_id]]} and {given} are the same image; keep one row")
            found[image_id] = place
    if not found:
        raise UserError(
            f"{file}: none of its {pluralise(len(ids), 'row')} is about an image of the data set; its ids are such as"
            f" {ids[0]}, the data set's such as {image_ids[0]}"
        )
    return found
