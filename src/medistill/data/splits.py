"""Which side every patient is on: train, val or test; never two."""

import hashlib

import pandas as pd

from medistill.data.dataset import SPLITS
from medistill.errors import UserError


def by_group(groups: pd.Series, *, val_fraction: float, test_fraction: float, seed: int) -> pd.Series:
    """Split by a seeded hash of the group alone: added images or groups never move one that was there.

    Args:
        groups: str (N,), the group of each image.
        val_fraction: expected share of the groups that validates.
        test_fraction: expected share of the groups that tests; 0 for none.
        seed: another seed is another split.

    Returns:
        str (N,), `train`, `val` or `test`, with the index of `groups`.

    Raises:
        UserError: the fractions leave nothing to train on.
    """
    held_out = val_fraction + test_fraction
    if held_out >= 1:
        raise UserError(f"data.val_fraction + data.test_fraction is {held_out:g}; it must be below 1, the rest trains")
    place = {group: _uniform(group, seed) for group in groups.unique()}
    # test first: a changed val_fraction leaves the test side as it was
    side = {group: "test" if u < test_fraction else "val" if u < held_out else "train" for group, u in place.items()}
    return groups.map(side).astype("str")


def official(groups: pd.Series, lists: pd.Series, *, val_fraction: float, seed: int, files: str) -> pd.Series:
    """Take the data set's own test side, and carve validation from its training side by group.

    Args:
        groups: str (N,), the group of each image.
        lists: str (N,), `train` or `test`, same index.
        val_fraction: expected share of the training side's groups that validates.
        seed: another seed is another validation side.
        files: where `lists` come from, for the message.

    Returns:
        str (N,), `train`, `val` or `test`, with the index of `groups`.

    Raises:
        UserError: the lists put a group on two sides.
    """
    split = by_group(groups, val_fraction=val_fraction, test_fraction=0, seed=seed).where(lists == "train", lists)
    sides = lists.groupby(groups).nunique()
    torn = sides.index[sides > 1]
    if len(torn):
        more = f" and {len(torn) - 1} more" if len(torn) > 1 else ""
        raise UserError(
            f"{files}: patient {torn[0]}{more} is on two sides, train and test;"
            " mend the lists or set data.split: patient"
        )
    return split


def require_all(split: pd.Series) -> None:
    """Raise `UserError` if one of train, val and test has no image."""
    empty = [side for side in SPLITS if not (split == side).any()]
    if empty:
        raise UserError(
            f"the {' and '.join(empty)} split is empty ({len(split)} images in all);"
            " change data.split, data.val_fraction, data.test_fraction or data.seed in params.yaml"
        )


def _uniform(group: str, seed: int) -> float:
    """A number in [0, 1) that depends on nothing but the group and the seed."""
    digest = hashlib.blake2b(f"{seed}:{group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
