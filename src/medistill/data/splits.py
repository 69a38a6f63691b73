"""Which images belong together, and in which split each such group is: train, val or test; never two."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from medistill.data.reading.folders import compose
from medistill.data.reading.tables import read_table
from medistill.errors import UserError
from medistill.records.data import SPLITS

GROUPS_FILE = "groups.csv"
SPLITS_FILE = "sides.csv"

LISTED = "listed "
"""Prefix of the names of groups from groups.csv: that table may number its groups 1, 2, 3 as the data set numbers its
patients, and a group's name must not depend on which other groups exist."""


def read_groups(file: Path) -> pd.Series:
    """Read which images belong together.

    Args:
        file: columns `path` (also `file`; relative to the data set's root) and `group_id`.

    Returns:
        str, group by path; paths in Unicode's composed form (NFC).

    Raises:
        UserError: a column is missing, a field is empty, a path has two groups.
    """
    return _read_map(file, {"path": ("file", "image"), "group_id": ("group",)})


def read_splits(file: Path) -> pd.Series:
    """Read in which split each group is.

    Args:
        file: columns `group_id` and `split`.

    Returns:
        `train`, `val` or `test` by group.

    Raises:
        UserError: a column is missing, a group has two splits, or a split is none of the three.
    """
    split = _read_map(file, {"group_id": ("group",), "split": ("side",)})
    wrong = split[~split.isin(SPLITS)]
    if len(wrong):
        raise UserError(
            f"{file}: group {wrong.index[0]} has the split {wrong.iloc[0]!r}; it must be {', '.join(SPLITS)}"
        )
    return split


def _read_map(file: Path, columns: dict[str, tuple[str, ...]]) -> pd.Series:
    key, value = columns
    table = read_table(file, columns)
    table[key] = table[key].map(compose)
    table = table.drop_duplicates(list(columns))
    empty = table[(table[key] == "") | (table[value] == "")]
    if len(empty):
        raise UserError(f"{file}: line {empty['line'].iloc[0]}: {key} or {value} is empty")
    twice = table[table[key].duplicated()]
    if len(twice):
        raise UserError(f"{file}: line {twice['line'].iloc[0]}: {twice[key].iloc[0]} has a second {value}")
    return table.set_index(key)[value]


def merge_groups(groups: pd.Series, paths: pd.Series, listed: pd.Series) -> pd.Series:
    """Join groups that share an image's group in a list: neither a patient nor a listed group is ever split up.

    Args:
        groups: str (N,), the group of each image as the data set knows it.
        paths: str (N,), the path of each image, same index.
        listed: group by path, as `read_groups` gives it; paths that are not in `paths` are ignored.

    Returns:
        str (N,) with the index of `groups`: where an image is listed, the group's name is `LISTED` and the first (in
        order of text) of the listed groups that are joined to it.
    """
    other = paths.map(compose).map(listed)
    there = other.notna()
    if not there.any():
        return groups
    code, names = pd.factorize(groups)
    second, others = pd.factorize(other[there])
    size = len(names) + len(others)
    edges = coo_matrix((np.ones(len(second)), (code[there], len(names) + second)), shape=(size, size))
    _, component = connected_components(edges, directed=False)
    name_of = pd.Series(others, index=component[len(names) :]).groupby(level=0).min()
    joined = LISTED + pd.Series(component[code], index=groups.index).map(name_of)
    return joined.fillna(groups).astype("str")


def split_by_group(fixed: pd.Series, groups: pd.Series, *others: pd.Series) -> tuple[pd.Series, list[str]]:
    """The split that sides.csv fixes for each group, whichever of its names the table uses.

    Args:
        fixed: split by name, as `read_splits` gives it.
        groups: str (N,), the group of each image.
        others: str (N,) each, same index: other names of it (its patient, its group in a list), null where there is
            none. A name that could mean several groups is looked up in this order.

    Returns:
        Split by group, and the names in `fixed` that belong to no group.

    Raises:
        UserError: a group is fixed in two splits.
    """
    left = fixed
    found = [pd.DataFrame({"group": [], "name": []}, dtype="str")]
    names_of = (groups, *others)
    for names in (*names_of, *(names.str.removeprefix(LISTED) for names in names_of)):
        here = names.isin(left.index)
        found.append(pd.DataFrame({"group": groups[here], "name": names[here]}).drop_duplicates())
        left = left.drop(names[here].unique())
    table = pd.concat(found)
    table["split"] = table["name"].map(fixed)
    for group, part in table.groupby("group"):
        if part["split"].nunique() > 1:
            told = " and ".join(f"{name} in {split}" for name, split in zip(part["name"], part["split"], strict=True))
            raise UserError(f"{SPLITS_FILE}: {told}, but they are in the same group, {group}; give them the same split")
    return table.drop_duplicates("group").set_index("group")["split"], left.index.tolist()


def by_group(
    groups: pd.Series, *, val_fraction: float, test_fraction: float, seed: int, fixed: pd.Series | None = None
) -> pd.Series:
    """Split by a seeded hash of the group alone: added images or groups never move one that was there.

    The hash ignores labels: their shares differ between splits by chance. For a small data set a list of splits can be
    drawn up instead (`stratified`), which then fixes the groups that it names.

    Args:
        groups: str (N,), the group of each image.
        val_fraction: expected share of the groups that validates.
        test_fraction: expected share of the groups that tests; 0 for none.
        seed: another seed is another split.
        fixed: split by group, for the groups whose split is fixed.

    Returns:
        str (N,), `train`, `val` or `test`, with the index of `groups`.

    Raises:
        UserError: the fractions leave nothing to train on.
    """
    held_out = val_fraction + test_fraction
    if held_out >= 1:
        raise UserError(
            f"data.val_fraction + data.test_fraction is {held_out:g}; it must be below 1, as the rest is for training"
        )
    place = {group: _uniform(group, seed) for group in groups.unique()}
    # test first: a changed val_fraction leaves the test split as it was
    split = {group: "test" if u < test_fraction else "val" if u < held_out else "train" for group, u in place.items()}
    return groups.map(split | (fixed.to_dict() if fixed is not None else {})).astype("str")


def stratified(
    groups: pd.Series,
    labels: np.ndarray,
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
    fixed: pd.Series | None = None,
) -> pd.Series:
    """Draw up splits in which every label has about the same share.

    The rarest label is dealt first, its largest groups first, each to the split that lacks most of it (Sechidis et al.
    2011, over groups in place of images).

    Args:
        groups: str (N,), the group of each image.
        labels: (N, L) of 1, 0 and NaN.
        val_fraction: share of the images that validates.
        test_fraction: share of the images that tests.
        seed: decides between groups of the same size and labels.
        fixed: split by group of an earlier list; they stay.

    Returns:
        Split by group, sorted by group; groups of `fixed` that have no image here are kept.
    """
    drawn = {} if fixed is None else fixed.to_dict()
    share = dict(zip(SPLITS, (1 - val_fraction - test_fraction, val_fraction, test_fraction), strict=True))
    codes, found = pd.factorize(groups, sort=True)
    names: list[str] = found.tolist()
    # the last column counts all images, by which groups without any label are dealt
    counts = np.zeros((len(names), labels.shape[1] + 1))
    np.add.at(counts, codes, np.hstack([labels == 1, np.ones((len(labels), 1))]))
    missing = {split: share[split] * counts.sum(axis=0) for split in SPLITS}
    waiting: dict[int, None] = {}
    for index in sorted(range(len(names)), key=lambda index: _uniform(names[index], seed)):
        if names[index] in drawn:
            missing[drawn[names[index]]] = missing[drawn[names[index]]] - counts[index]
        else:
            waiting[index] = None
    while waiting:
        left = counts[list(waiting)].sum(axis=0)
        present = np.flatnonzero(left)
        label = min(present, key=lambda column: (left[column], column))
        holders = sorted((index for index in waiting if counts[index, label]), key=lambda index: -counts[index, label])
        for index in holders:
            split = max(SPLITS, key=lambda split: (missing[split][label], missing[split][-1]))
            drawn[names[index]] = split
            missing[split] = missing[split] - counts[index]
            del waiting[index]
    return pd.Series(drawn, dtype="str").sort_index()


def official(groups: pd.Series, lists: pd.Series, *, val_fraction: float, seed: int, files: str) -> pd.Series:
    """Take the data set's own splits; if it has no validation split, draw one from training by group.

    Args:
        groups: str (N,), the group of each image.
        lists: str (N,), `train`, `val` or `test`, same index.
        val_fraction: expected share of the training split's groups that validates.
        seed: another seed is another validation split.
        files: where `lists` come from, for the message.

    Returns:
        str (N,), `train`, `val` or `test`, with the index of `groups`.

    Raises:
        UserError: the lists put a group in two splits.
    """
    counts = lists.groupby(groups).nunique()
    torn = counts.index[counts > 1]
    if len(torn):
        more = f", and so are {len(torn) - 1} more" if len(torn) > 1 else ""
        found = " and ".join(split for split in SPLITS if split in set(lists[groups == torn[0]]))
        raise UserError(
            f"{files}: group {torn[0]} is in two splits, {found}{more}; correct the lists, or set data.split: patient"
        )
    if (lists == "val").any():
        return lists.astype("str")
    return by_group(groups, val_fraction=val_fraction, test_fraction=0, seed=seed).where(lists == "train", lists)


def require_all(split: pd.Series) -> None:
    """Raise `UserError` if one of train, val and test has no image."""
    empty = [name for name in SPLITS if not (split == name).any()]
    if empty:
        raise UserError(
            f"no image in the split {' and '.join(empty)} (of {len(split)} in all);"
            " change data.split, data.val_fraction, data.test_fraction or data.seed in params.yaml"
        )


def _uniform(group: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but the group and the seed."""
    digest = hashlib.blake2b(f"{seed}:{group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
