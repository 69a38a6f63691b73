"""Splits: no group on two sides, stable when data grows, shares as asked."""

import pandas as pd
import pytest

from medistill.data import splits
from medistill.errors import UserError


def groups_of(patients, images_each=3):
    return pd.Series([str(patient) for patient in range(patients) for _ in range(images_each)])


def by_group(groups, val_fraction=0.15, test_fraction=0.3, seed=0):
    return splits.by_group(groups, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)


def test_shares_of_the_groups_are_as_asked():
    groups = groups_of(20_000, 1)
    share = by_group(groups).value_counts(normalize=True)
    assert share["val"] == pytest.approx(0.15, abs=0.01)  # four standard errors
    assert share["test"] == pytest.approx(0.3, abs=0.013)


def test_a_group_is_on_one_side_and_never_changes_it_when_data_grows():
    small, large = groups_of(200), groups_of(500, 5)
    before, after = by_group(small).groupby(small).agg(set), by_group(large).groupby(large).agg(set)
    assert after.map(len).eq(1).all()
    assert after.loc[before.index].equals(before)


def test_the_order_of_the_images_does_not_matter():
    groups = groups_of(100)
    shuffled = groups.sample(frac=1, random_state=0)
    assert by_group(shuffled).sort_index().equals(by_group(groups))


def test_another_seed_is_another_split_and_another_validation_share_leaves_the_test_side():
    groups = groups_of(300)
    assert not by_group(groups, seed=1).equals(by_group(groups))
    wider = by_group(groups, val_fraction=0.4)
    assert (wider == "test").equals(by_group(groups) == "test")
    assert (wider == "val").sum() > (by_group(groups) == "val").sum()


def test_fractions_must_leave_something_to_train_on():
    with pytest.raises(UserError, match=r"data\.val_fraction \+ data\.test_fraction is 1\.1"):
        by_group(groups_of(10), val_fraction=0.6, test_fraction=0.5)


def official(groups, lists, val_fraction=0.2):
    return splits.official(groups, lists, val_fraction=val_fraction, seed=0, files="the lists")


def test_official_keeps_the_test_side_and_carves_validation_by_group():
    groups = groups_of(1000)
    lists = pd.Series("train", index=groups.index).where(groups.astype(int) < 700, "test")
    split = official(groups, lists)
    assert (split == "test").equals(lists == "test")
    assert split.groupby(groups).nunique().max() == 1
    val = groups[split == "val"].nunique()
    assert val / 700 == pytest.approx(0.2, abs=0.06)


def test_a_patient_whom_the_lists_tear_apart_is_named():
    groups = pd.Series(["7", "8", "8"])
    with pytest.raises(UserError, match=r"the lists: patient 8 is on two sides"):
        official(groups, pd.Series(["train", "train", "test"]))


def test_an_empty_side_is_named():
    splits.require_all(pd.Series(["train", "val", "test"]))
    with pytest.raises(UserError, match=r"the val and test split is empty \(2 images in all\)"):
        splits.require_all(pd.Series(["train", "train"]))
