"""Can a label be predicted from something other than the finding?

A network that reads the scanner's corner marker instead of the lung does well on its own test set and fails elsewhere
(Zech et al., PLOS Medicine 2018; DeGrave et al., Nature Machine Intelligence 2021). So a simple probe is given one cue
alone, and its AUROC for each label is measured on patients that it was not fitted to.

A high AUROC says that the label is associated with the cue in this data set, not why. Bedridden patients are imaged AP
and have more oedema: a true association, and yet a network may learn the bed. A border is irrelevant only if images
have a background: a histology tile or a close crop is tissue up to its edge, so that its border holds content.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from medistill.metrics.bootstrap import draw, resample
from medistill.metrics.eligibility import fewer_groups, ineligibility
from medistill.metrics.intervals import Codes, FloatArray, Numbers, summarise
from medistill.metrics.strata import StratifiedLabel

CUES = {
    "view": "the view position",
    "size": "the width and height of the image file",
    "source": "the scanner, hospital or collection",
    "border": "the outer 8 pixels of the frame, which hold content where images have no background",
}
"""The cues that a label is predicted from, in words."""

MAX_IMAGES = 20_000
"""Larger data sets are probed on a random sample of their groups."""

FOLDS = 5

_MIDDLE = 4
"""Parts of a side of the frame between two corners."""


def border_features(frames: NDArray[np.uint8], width: int = 8) -> NDArray[np.float32]:
    """Describe the outer `width` pixels of frames by the mean and the standard deviation of 48 cells per channel.

    Both axes are cut at half the width, at the width, into four equal parts between, and likewise from the other end;
    the cells that touch the edge or those next to it are kept. So corners, where markers are, have the finest cells
    (4 x 4 pixels), and the outer and the inner half of the border are told apart.

    The width is in pixels of the frame, whatever its size: 8 pixels are 12 % of the area at 256 px, 23 % at 128,
    44 % at 64 and 75 % at 32, where a border is most of the image and a finding may well lie in it. Bars that pad an
    image to a square are part of the border: they reveal the shape of the file.

    Args:
        frames: (N, C, S, S). Frames do not depend on each other: large data sets are described batch by batch.
        width: even, and at most S / 2 − 2.

    Returns:
        (N, 96 C), in grey levels, 0..255.
    """
    size = frames.shape[-1]
    middle = np.linspace(width, size - width, _MIDDLE, endpoint=False).astype(int)
    if width < 2 or width % 2 or size < 2 * width + _MIDDLE:
        raise ValueError(f"a border of {width} pixels does not fit into frames of {size} pixels")
    corner = np.array([0, width // 2, width, width * 3 // 2])  # starts of cells once both ends are side by side
    lines = np.concatenate([[0, width // 2], middle, [size - width, size - width // 2]])
    ends = np.r_[:width, size - width : size]
    top_and_bottom = _cells(frames[:, :, ends, :], corner, lines)
    left_and_right = _cells(frames[:, :, width:-width][..., ends], middle - width, corner)
    return np.concatenate([top_and_bottom, left_and_right], axis=1)


def _cells(part: NDArray[np.uint8], rows: NDArray[np.int_], columns: NDArray[np.int_]) -> NDArray[np.float32]:
    """Mean and standard deviation of each cell of a grid, given the starts of its rows and columns."""

    def sums(values: NDArray[np.unsignedinteger]) -> NDArray[np.float64]:
        strips = np.add.reduceat(values, rows, axis=2, dtype=np.uint32)  # whole numbers: exact
        return np.add.reduceat(strips, columns, axis=3).reshape(len(values), -1).astype(np.float64)

    area = sums(np.ones_like(part[:1]))
    mean = sums(part) / area
    variance = sums(np.square(part, dtype=np.uint16)) / area - mean**2
    return np.hstack([mean, np.sqrt(np.maximum(variance, 0))]).astype(np.float32)


def probe_shortcuts(
    rows: pd.DataFrame, targets: Numbers, labels: list[str], borders: NDArray[np.float32]
) -> pd.DataFrame:
    """Measure how well each label can be told from each cue alone.

    The AUROC is that of five-fold cross-validation, no group in both parts of a fold, with a 95 % interval by a
    bootstrap over groups. The interval ignores how scores vary with the probe's training: without any
    association it excludes 0.5 in one test of eight, not of twenty. Hence a warning requires much more than 0.5: of
    6,656 tests on shuffled labels with 20 positives or more among 400 images, none had a lower bound above 0.65; of
    those with 10 to 15, fewer than one in 600 had.

    Images whose label is unknown are left out for that label. A missing view or source is a value of its own,
    as it may be associated with a label, too. Of more than `MAX_IMAGES` images a random sample of the groups is taken,
    the same for all labels and in each run.

    Args:
        rows: N rows with the columns `group_id`, `view`, `width`, `height` and, if there is one, `source`.
        targets: (N, L), 1, 0, or NaN where unknown.
        labels: L names.
        borders: (N, F), from `border_features`.

    Returns:
        One row per label and cue: `label`, `cue` (one of `CUES`), `auroc`, `lower`, `upper` (NaN where more than 5 %
        of the resamples were undefined), and the number of known `images` and of `positives` among them. There is no
        row for a cue that is the same in all of them, nor for a label with fewer than 10 positives or 10 negatives, or
        with either from fewer than 10 groups.
    """
    groups, names = pd.factorize(rows["group_id"])
    count = len(names)
    if len(rows) > MAX_IMAGES:
        sample = _sample_groups(groups)
        rows, targets, borders, groups = rows[sample], targets[sample], borders[sample], groups[sample]
        groups, sampled = pd.factorize(groups)
        count = len(sampled)
    cues = _cues(rows, borders)
    counts = draw(count)
    found = []
    # on matrices this small BLAS' threads wait for each other, ten times as long
    with threadpool_limits(limits=1):
        for k, label in enumerate(tqdm(labels, desc="shortcuts", unit="label", disable=None)):
            known = np.flatnonzero(~np.isnan(targets[:, k]))
            here, target = groups[known], targets[known, k]
            if ineligibility(target, here):
                continue
            folds = deal_folds(target, here)
            scores = {}
            for cue, features in cues.items():
                if (features[known] != features[known[0]]).any():
                    scores[cue] = _scores(cue, features[known], target, folds)
            for cue, auroc in _auroc_of_cues(target, scores, here, folds, counts).items():
                value = summarise(auroc, counts, groups=fewer_groups(target, here))
                found.append((label, cue, value.estimate, value.lower, value.upper, len(known), int(target.sum())))
    numbers = dict.fromkeys(["auroc", "lower", "upper"], "float64") | dict.fromkeys(["images", "positives"], "int64")
    return pd.DataFrame(found, columns=["label", "cue", *numbers]).astype({"label": "str", "cue": "str"} | numbers)


def _sample_groups(groups: Codes) -> NDArray[np.bool_]:
    """Images of random groups, as many groups as it takes to have `MAX_IMAGES`."""
    sizes = np.bincount(groups)
    order = np.random.default_rng(0).permutation(len(sizes))
    before = np.cumsum(sizes[order]) - sizes[order]
    return np.isin(groups, order[before < MAX_IMAGES])


def _cues(rows: pd.DataFrame, borders: NDArray[np.float32]) -> dict[str, Numbers]:
    """Features of each cue, (N, features)."""
    width, height = rows["width"].to_numpy(np.float64), rows["height"].to_numpy(np.float64)
    cues: dict[str, Numbers] = {"size": np.column_stack([width, height, width / height]), "border": borders}
    for cue in ("view", "source"):
        if cue in rows:
            cues[cue] = pd.factorize(rows[cue])[0][:, None]  # −1 where it is not given
    return {cue: cues[cue] for cue in CUES if cue in cues}


def _probe(cue: str) -> ClassifierMixin:
    """The model that predicts a label from a cue: simple, and never tuned to a data set."""
    if cue == "size":
        # A scanner is one size among others, smaller and larger. Bins of equal counts would put a rare size and the
        # usual one together.
        return DecisionTreeClassifier(max_leaf_nodes=16, min_samples_leaf=5, random_state=0)
    if cue == "border":
        # Many features for few positives: with C = 1, a tag planted on 300 X-rays is found at an AUROC of 0.82, with
        # C = 0.01 at 0.88, where 0.875 is the best possible. The solver is by far the fastest for so few features.
        return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, solver="newton-cholesky"))
    # a rare source may be in no training part
    return make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression())


def deal_folds(target: Numbers, groups: Codes) -> NDArray[np.int_]:
    """Assign images to folds, a group as a whole, like cards.

    Groups are sorted by whether they have positives, negatives or both, and by size, and dealt out in turn: so an
    eligible label has positives and negatives in each fold's training part. (scikit-learn's StratifiedGroupKFold
    balances as well, but one group at a time, which takes 40 s for 14 labels of 20,000 patients.)

    Args:
        target: (N,) of 1 and 0.
        groups: (N,) int.

    Returns:
        (N,), 0..`FOLDS` − 1.
    """
    names, groups = np.unique(groups, return_inverse=True)
    sizes = np.bincount(groups)
    positives = np.bincount(groups, weights=target)
    kinds = 2 * (positives > 0) + (positives < sizes)
    shuffled = np.random.default_rng(0).permutation(len(names))
    fold_of_group = np.empty(len(names), int)
    fold_of_group[np.lexsort([shuffled, sizes, kinds])] = np.arange(len(names)) % FOLDS
    return fold_of_group[groups]


def _scores(cue: str, features: Numbers, target: Numbers, folds: Codes) -> FloatArray:
    """Score of each image by a probe that was fitted to the other folds."""
    likely = cross_val_predict(_probe(cue), features, target, cv=PredefinedSplit(folds), method="predict_proba")
    scores: FloatArray = likely[:, 1]
    return scores


def _auroc_of_cues(
    target: Numbers, scores: dict[str, FloatArray], groups: Codes, folds: Codes, counts: Codes
) -> dict[str, FloatArray]:
    """AUROC of each cue over the pairs of a positive and a negative of the same fold, in each resample: (1 + R,)."""
    if not scores:
        return {}
    labels = [StratifiedLabel.of(target, score, groups, len(counts), folds) for score in scores.values()]
    aurocs = resample(
        lambda weights: np.stack([label.auroc(weights) for label in labels]),
        counts,
        rows=max(label.rows for label in labels),
    )
    return dict(zip(scores, aurocs, strict=True))
