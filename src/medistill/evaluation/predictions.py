"""Reading what models predicted, checked against the manifest."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medistill.errors import UserError

LOGIT_PREFIX = "logit:"


def read_logits(path: Path, model: str, labels: list[str], *, known: Collection[str] | None = None) -> pd.DataFrame:
    """Read the `predictions.parquet` of a model.

    Args:
        path: the file: `image_id`, `split`, and a float column `logit:<label>` each.
        model: its name, for messages.
        labels: the data set's.
        known: those that the model answers for; None: all. A teacher that was taken as it is may lack some.

    Returns:
        float32 columns, one a label in the given order, indexed by `split` and `image_id`; NaN for labels that are not
        known.

    Raises:
        UserError: the file is missing or damaged, a label is missing, or a logit is not finite.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; train {model} first")
    columns = [LOGIT_PREFIX + label for label in labels if known is None or label in known]
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise UserError(f"{path}: not a parquet file ({' '.join(str(error).split())})") from None
    for column in ("image_id", "split", *columns):
        if column not in frame:
            raise UserError(f"{path}: model {model} has no column {column!r}; train it again on this data set")
    table = frame.set_index(["split", "image_id"])[columns].astype(np.float32)
    bad = ~np.isfinite(table.to_numpy()).all(axis=1)
    if bad.any():
        count, first = int(bad.sum()), table.index[bad.argmax()][1]
        raise UserError(f"{path}: model {model} has a logit that is not finite for {count} images, first {first}")
    return table.reindex(columns=[LOGIT_PREFIX + label for label in labels])


def align(table: pd.DataFrame, split: str, image_ids: pd.Series, path: Path, model: str) -> NDArray[np.float32]:
    """Logits of one split in the manifest's order.

    Args:
        table: from `read_logits`.
        split: its name.
        image_ids: (N,), the split's images in the manifest's order.
        path, model: for messages.

    Returns:
        (N, L) float32.

    Raises:
        UserError: the model predicted other images than the manifest has, or one twice; the message names the first.
    """
    rows = table.loc[table.index.get_level_values("split") == split].droplevel("split")
    repeated = rows.index[rows.index.duplicated()]
    if len(repeated):
        raise UserError(f"{path}: model {model} predicted {split} image {repeated[0]} more than once")
    expected = pd.Index(image_ids)
    for ids, what in ((expected.difference(rows.index), "lacks"), (rows.index.difference(expected), "has unknown")):
        if len(ids):
            raise UserError(
                f"{path}: model {model} {what} {len(ids)} {split} images of data/processed/manifest.parquet, "
                f"first {ids[0]}; train it again on this data set"
            )
    return rows.loc[expected].to_numpy()
