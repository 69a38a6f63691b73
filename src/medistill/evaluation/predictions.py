"""Reading models' predictions, checked against the manifest, and combining those of the images of a study."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logsumexp

from medistill.checksums import reading
from medistill.errors import UserError
from medistill.records.models import LOGIT_PREFIX
from medistill.task import Task


def read_logits(path: Path, model: str, labels: list[str], *, known: Collection[str] | None = None) -> pd.DataFrame:
    """Read the `predictions.parquet` of a model.

    Args:
        path: the file: `image_id`, `split`, and a float column `logit:<label>` each.
        model: its name, for messages.
        labels: the data set's.
        known: labels that the model knows; None: all. A frozen teacher may lack some.

    Returns:
        float32 columns, one per label in the given order, index `split` and `image_id`; NaN for labels that are not
        known.

    Raises:
        UserError: the file is missing or damaged, a label is missing, or a logit is not finite.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; train {model} first")
    columns = [LOGIT_PREFIX + label for label in labels if known is None or label in known]
    with reading(path, f"train {model} again"):
        frame = pd.read_parquet(path)
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
    logits: NDArray[np.float32] = rows.loc[expected].to_numpy()
    return logits


@dataclass(frozen=True)
class Studies:
    """Which images are views of one examination: those of one patient that have the same study id.

    Attributes:
        names: M names, for messages.
        of_image: (N,) int, the study of each image; one without a study id is alone in its own.
        first: (M,) int, the first image of each study.
    """

    names: list[str]
    of_image: NDArray[np.intp]
    first: NDArray[np.intp]

    @classmethod
    def of(cls, rows: pd.DataFrame) -> "Studies":
        """Find the studies of some rows of a manifest.

        Raises:
            UserError: no image has a study id, or a study has images of several groups.
        """
        if rows["study_id"].isna().all():
            raise UserError("evaluate.study: no image of data/processed has a study id; set it to none")
        named = rows["patient_id"].fillna("") + "\t" + rows["study_id"]
        of_image, found = pd.factorize(named.fillna("\t\t" + rows["image_id"]))
        several = rows.groupby(of_image)["group_id"].nunique() > 1
        names = [name.strip("\t").replace("\t", ", ") for name in found]
        if several.any():
            raise UserError(
                f"evaluate.study: study {names[several.argmax()]} has images of several groups, but resampling is by"
                " group; give the images of a study the same patient or group, or set evaluate.study: none"
            )
        _, first = np.unique(of_image, return_index=True)
        return cls(names, of_image, first)

    def targets(self, targets: NDArray[np.floating]) -> NDArray[np.floating]:
        """Labels of each study, (M, L), from those of its images, (N, L).

        Raises:
            UserError: the images of a study have different labels.
        """
        own = targets[self.first]
        differ = ~((targets == own[self.of_image]) | (np.isnan(targets) & np.isnan(own[self.of_image]))).all(axis=1)
        if differ.any():
            name = self.names[self.of_image[differ.argmax()]]
            raise UserError(
                f"evaluate.study: the images of study {name} have different labels; set evaluate.study: none"
            )
        return own

    def combine(self, logits: NDArray[np.floating], how: str, task: Task) -> NDArray[np.floating]:
        """Logits of each study, (M, L), whose probability is the highest or the mean of those of its images.

        Args:
            logits: (N, L), NaN for a label that the model does not know.
            how: `max` or `mean`.
            task: of the data set.

        Raises:
            UserError: `max` of exclusive classes, since the highest probability of each need not sum to 1.
        """
        if how == "max":
            if task.exclusive:
                raise UserError("evaluate.study: max is for labels that do not exclude each other; set it to mean")
            combined = np.full((len(self.first), logits.shape[1]), -np.inf, logits.dtype)
            np.maximum.at(combined, self.of_image, logits)
            return combined
        wide = logits.astype(np.float64)
        with np.errstate(invalid="ignore"):  # a label that the model does not know
            if task.exclusive:
                combined = self._log_sum(wide - logsumexp(wide, axis=1, keepdims=True))
            else:  # log(p / (1 - p)), each of the two from its own logarithms: neither becomes 0
                combined = self._log_sum(-np.logaddexp(0, -wide)) - self._log_sum(-np.logaddexp(0, wide))
        alone = np.bincount(self.of_image)[:, None] == 1
        return np.where(alone, logits[self.first], combined).astype(logits.dtype)

    def _log_sum(self, logs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log-sum-exp over the images of each study: (N, L) to (M, L)."""
        highest = np.full((len(self.first), logs.shape[1]), -np.inf)
        np.maximum.at(highest, self.of_image, logs)
        total = np.zeros_like(highest)
        np.add.at(total, self.of_image, np.exp(logs - highest[self.of_image]))
        return highest + np.log(total)
