"""Measurements of a data set, as the tables that the rules apply to.

`images`, the manifest with derived columns (comparisons of rows, measures of pixels); `labels`, one row per label and
split; `splits`; and `shortcuts`, one row per label and cue.
"""

import numpy as np
import pandas as pd
from tqdm import tqdm

from medistill.audit.findings import in_several_splits
from medistill.data.dataset import Dataset, count_labels
from medistill.records.audit import Audit, Pair
from medistill.records.data import LABEL_PREFIX, SPLITS

_BATCH = 64
_SAMPLE = 1000
_STRUCTURE = 10.0  # grey levels by which a mean frame's pixels deviate where images show the same part of the body


def tables_of(dataset: Dataset, audit: Audit | None = None) -> dict[str, pd.DataFrame]:
    """The tables that the rules apply to.

    Args:
        dataset: as it was ingested.
        audit: the result of `medistill.audit.findings.audit`; None: columns that need it are left out.
    """
    images = _with_derived(dataset, audit.near_duplicates if audit else None)
    labels = _count_labels(dataset, images)
    tables = {"images": images, "labels": labels, "splits": _count_splits(labels)}
    if audit and audit.shortcuts:
        tables["shortcuts"] = pd.DataFrame(audit.shortcuts)
    return tables


def _with_derived(dataset: Dataset, near_duplicates: list[Pair] | None) -> pd.DataFrame:
    """The manifest with the derived columns that its columns allow."""
    images = dataset.manifest.copy()
    if {"group_id", "split"} <= set(images):
        images["splits_of_group"] = ""
        for group, part in in_several_splits(images, "group_id"):
            splits = " and ".join(str(split) for split in part["split"].unique())
            images.loc[part.index, "splits_of_group"] = f"{group} is in {splits}"
    if {"image_id", "sha256", "split"} <= set(images):
        images["splits_of_pixels"] = images["copies_of_pixels"] = ""
        for _, part in in_several_splits(images, "sha256"):
            first = {split: name for name, split in zip(part["image_id"][::-1], part["split"][::-1], strict=True)}
            for row, split in part["split"].items():
                others = [f"{name} in {other}" for other, name in first.items() if other != split]
                images.loc[row, "splits_of_pixels"] = f"{split}, as {others[-1]}"
        twice = images[images.duplicated(["sha256", "split"], keep=False)]
        for _, part in twice.groupby(["sha256", "split"]):
            names = part["image_id"].tolist()
            images.loc[part.index, "copies_of_pixels"] = [f"as {names[0]}"] * len(part)
            images.loc[part.index[0], "copies_of_pixels"] = f"as {names[1]}"
    if near_duplicates is not None and "image_id" in images:
        like: dict[str, str] = {}
        held_out: dict[str, str] = {}
        for pair in near_duplicates:
            one, other = pair.image_id, pair.other
            if pair.unlabelled:
                held_out.setdefault(pair.unlabelled, f"like {other if pair.unlabelled == one else one}")
            elif pair.across:
                like.setdefault(one, f"like {other}")
                like.setdefault(other, f"like {one}")
        images["near_duplicates"] = [like.get(image_id, "") for image_id in images["image_id"]]
        images["held_out"] = [held_out.get(image_id, "") for image_id in images["image_id"]]
    if {"shard", "row"} <= set(images):
        images = pd.concat([images, measure_pixels(dataset, images)], axis=1)
    return images


def measure_pixels(dataset: Dataset, images: pd.DataFrame) -> pd.DataFrame:
    """Of each frame: `pixel_deviation` in grey levels, `white_share`, and `likeness`, its correlation with the mean.

    `likeness` is 1 for all if the mean of up to 1,000 frames is nearly uniform, as with histology. A few frames
    are in memory at once.
    """
    mean = np.zeros((dataset.image_size, dataset.image_size))
    sample = images.iloc[:: -(-len(images) // _SAMPLE)]
    for start in range(0, len(sample), _BATCH):
        mean += dataset.images(sample.iloc[start : start + _BATCH]).mean(axis=1).sum(axis=0, dtype=np.float64)
    mean = (mean / len(sample) - (mean / len(sample)).mean()).ravel()
    measured = np.empty((len(images), 3))
    with tqdm(total=len(images), desc="measure", unit="image", disable=None) as bar:
        for start in range(0, len(images), _BATCH):
            frames = dataset.images(images.iloc[start : start + _BATCH]).reshape(-1, dataset.channels, mean.size)
            grey = frames.mean(axis=1, dtype=np.float32)
            grey -= grey.mean(axis=1, keepdims=True)
            norms = np.linalg.norm(grey, axis=1) * np.linalg.norm(mean)
            here = slice(start, start + len(frames))
            measured[here, 0] = frames.std(axis=(1, 2))
            measured[here, 1] = (frames == 255).all(axis=1).mean(axis=1)
            measured[here, 2] = np.divide(grey @ mean, norms, out=np.ones(len(frames)), where=norms > 0)
            bar.update(len(frames))
    if mean.std() < _STRUCTURE:
        measured[:, 2] = 1
    return pd.DataFrame(measured, columns=["pixel_deviation", "white_share", "likeness"], index=images.index)


def _count_labels(dataset: Dataset, images: pd.DataFrame) -> pd.DataFrame:
    """One row per label and split: `positives`, `negatives`, and `prevalence` among those that are known."""
    rows = []
    for label in dataset.labels:
        values = images.get(LABEL_PREFIX + label, pd.Series(np.nan, index=images.index))
        for split in SPLITS:
            here = values[images["split"] == split] if "split" in images else values[:0]
            positives, negatives = map(int, count_labels(here.to_numpy()))
            # constant labels and empty splits break rules of their own
            share = positives / (positives + negatives) if positives and negatives else None
            counts = (positives, negatives) if len(here) else (None, None)
            rows.append((label, split, *counts, share))
    return pd.DataFrame(rows, columns=["label", "split", "positives", "negatives", "prevalence"])


def _count_splits(labels: pd.DataFrame) -> pd.DataFrame:
    """One row per split that has images: the number of labels with both positives and negatives."""
    filled = labels[labels["positives"].notna()]
    both = (filled["positives"] > 0) & (filled["negatives"] > 0)
    return both.groupby(filled["split"], sort=False).sum().rename("with_both").reset_index()
