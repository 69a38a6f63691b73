"""Splits: no group is in two, they are stable when data grows, and their shares are as asked."""

import numpy as np
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


def test_a_group_is_in_one_split_and_never_changes_it_when_data_grows():
    small, large = groups_of(200), groups_of(500, 5)
    before, after = by_group(small).groupby(small).agg(set), by_group(large).groupby(large).agg(set)
    assert after.map(len).eq(1).all()
    assert after.loc[before.index].equals(before)


def test_the_order_of_the_images_does_not_matter():
    groups = groups_of(100)
    shuffled = groups.sample(frac=1, random_state=0)
    assert by_group(shuffled).sort_index().equals(by_group(groups))


def test_another_seed_is_another_split_and_another_validation_share_leaves_the_test_split():
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


def test_official_keeps_the_test_split_and_carves_validation_by_group():
    groups = groups_of(1000)
    lists = pd.Series("train", index=groups.index).where(groups.astype(int) < 700, "test")
    split = official(groups, lists)
    assert (split == "test").equals(lists == "test")
    assert split.groupby(groups).nunique().max() == 1
    val = groups[split == "val"].nunique()
    assert val / 700 == pytest.approx(0.2, abs=0.06)


def test_a_patient_in_two_official_splits_is_named():
    groups = pd.Series(["7", "8", "8"])
    with pytest.raises(UserError, match=r"the lists: group 8 is in two splits, train and test; correct"):
        official(groups, pd.Series(["train", "train", "test"]))


def test_an_empty_split_is_named():
    splits.require_all(pd.Series(["train", "val", "test"]))
    with pytest.raises(UserError, match=r"no image in the split val and test \(of 2 in all\)"):
        splits.require_all(pd.Series(["train", "train"]))


def table(folder, text, name="groups.csv"):
    (folder / name).write_text(text)
    return folder / name


def test_listed_groups_join_and_never_part_what_belonged_together():
    paths = pd.Series(["a", "b", "c", "d", "e", "f"])
    groups = pd.Series(["p1", "p1", "p2", "p3", "p4", "p4"])
    listed = pd.Series({"b": "x", "c": "x", "f": "z", "gone": "y", "d": "y"})
    merged = splits.merge_groups(groups, paths, listed)
    # b and c are listed as one group, which so has all of p1 and p2; e and f are of the same patient
    assert merged.tolist() == ["listed x"] * 3 + ["listed y"] + ["listed z"] * 2
    assert splits.merge_groups(groups, paths, pd.Series({"gone": "y"}, dtype="str")).equals(groups)


def test_chains_of_groups_are_one_and_the_order_does_not_matter():
    paths = pd.Series([f"i{k}" for k in range(8)])
    groups = pd.Series(["p0", "p0", "p1", "p1", "p2", "p2", "p3", "p3"])
    listed = pd.Series({"i1": "b", "i2": "b", "i3": "a", "i4": "a"})
    merged = splits.merge_groups(groups, paths, listed)
    assert merged.tolist() == ["listed a"] * 6 + ["p3"] * 2
    order = groups.sample(frac=1, random_state=1).index
    shuffled = splits.merge_groups(groups[order], paths[order], listed[::-1])
    assert shuffled.sort_index().tolist() == merged.tolist()


def test_a_group_name_in_the_list_may_also_be_a_patients():
    merged = splits.merge_groups(
        pd.Series(["1", "2", "3"]), pd.Series(["a", "b", "c"]), pd.Series({"b": "1", "c": "1"})
    )
    assert merged.tolist() == ["1", "listed 1", "listed 1"]


def test_a_listed_groups_name_does_not_depend_on_who_else_is_there():
    groups, paths = pd.Series(["1", "2"]), pd.Series(["a", "b"])
    listed = pd.Series({"a": "3", "b": "3"})
    before = splits.merge_groups(groups, paths, listed)
    more = splits.merge_groups(pd.Series(["1", "2", "3"]), pd.Series(["a", "b", "c"]), listed)
    assert more.tolist() == [*before, "3"]


def test_names_are_the_same_however_unicode_spells_them(tmp_path):
    file = table(tmp_path, "path,group_id\nr\u00e9.png,g\nz.png,g\n")
    paths = pd.Series(["re\u0301.png", "z.png"])  # decomposed, as macOS stores names
    merged = splits.merge_groups(pd.Series(["1", "2"]), paths, splits.read_groups(file))
    assert merged.tolist() == ["listed g"] * 2


def test_a_split_holds_for_a_group_by_any_of_its_names():
    own = pd.Series(["1", "1", "2", "3", "4"])
    listed = pd.Series(["g", None, "g", None, "1"])  # a listed group may have the name of another patient
    groups = pd.Series(["listed g", "listed g", "listed g", "3", "listed 1"])

    def resolve(**named):
        fixed, unused = splits.split_by_group(pd.Series(named), groups, own, listed)
        return fixed.to_dict(), unused

    assert resolve(**{"2": "test", "3": "val", "9": "train"}) == ({"listed g": "test", "3": "val"}, ["9"])
    assert resolve(**{"g": "test", "2": "test"}) == ({"listed g": "test"}, [])
    assert resolve(**{"listed g": "val"}) == ({"listed g": "val"}, [])
    assert resolve(**{"1": "test"}) == ({"listed g": "test"}, [])  # `1` is the patient, as without groups.csv
    assert resolve(**{"listed 1": "test"}) == ({"listed 1": "test"}, [])
    with pytest.raises(
        UserError, match=r"sides\.csv: 2 in test and g in train, but they are in the same group, listed g"
    ):
        resolve(**{"g": "train", "2": "test"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,group_id\na.png,1\na.png,2\n", r"groups\.csv: line 3: a\.png has a second group_id"),
        ("path,group_id\na.png,\n", r"groups\.csv: line 2: path or group_id is empty"),
        ("path,who\na.png,1\n", r"groups\.csv: column 'group_id' is missing"),
        ("path,group_id\na.png,1\nb, c.png,1\n", r"groups\.csv: line 3 has 3 fields, more than 2"),
        ("path,group_id\na.png\n", r"groups\.csv: line 2 ends before column 'group_id'"),
    ],
)
def test_mistakes_in_the_list_of_groups_are_named(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        splits.read_groups(table(tmp_path, text))


def test_lists_are_read(tmp_path):
    groups = splits.read_groups(table(tmp_path, "file;label;group_id\nx/a.png;n;007\nx/a.png;n;007\n"))
    assert groups.to_dict() == {"x/a.png": "007"}
    drawn = splits.read_splits(table(tmp_path, "group_id,split\n007,test\n8,train\n", "sides.csv"))
    assert drawn.to_dict() == {"007": "test", "8": "train"}
    assert splits.read_splits(table(tmp_path, "group_id,split\n7,test\n8,val,\n", "sides.csv")).tolist() == [
        "test",
        "val",
    ]
    with pytest.raises(UserError, match=r"sides\.csv: group 8 has the split 'holdout'; it must be train, val, test"):
        splits.read_splits(table(tmp_path, "group_id,split\n8,holdout\n", "sides.csv"))


def test_listed_splits_hold_and_the_others_are_dealt_as_before():
    groups = groups_of(100)
    free = by_group(groups)
    moved = {"3": "val", "17": "test", "99": "train"}
    split = splits.by_group(groups, val_fraction=0.15, test_fraction=0.3, seed=0, fixed=pd.Series(moved))
    assert {group: set(split[groups == group]) for group in moved} == {group: {split} for group, split in moved.items()}
    others = ~groups.isin(list(moved))
    assert split[others].equals(free[others])


def test_official_takes_a_validation_split_as_it_is():
    groups = groups_of(30)
    lists = groups.astype(int).map(lambda patient: ("train", "val", "test")[patient % 3])
    assert official(groups, lists).equals(lists.astype("str"))


def rare_labels(patients=200, seed=0):
    """Patients with 1 to 6 images each; labels agree within a patient, with prevalences of 30 % to 2 %."""
    random = np.random.default_rng(seed)
    groups = pd.Series(np.repeat([f"p{k}" for k in range(patients)], random.integers(1, 7, patients)))
    carries = random.random((patients, 4)) < [0.3, 0.1, 0.05, 0.02]
    labels = carries[groups.str[1:].astype(int)].astype(np.float32)
    labels[random.random(labels.shape) < 0.1] = np.nan
    return groups, labels


def surplus(split, labels):
    """Positives of each label in each split beyond its share: (3, L), in images."""
    splits = {"train": 0.5, "val": 0.2, "test": 0.3}
    positive = np.stack([(labels[(split == name).to_numpy()] == 1).sum(axis=0) for name in splits])
    return positive - np.outer(list(splits.values()), positive.sum(axis=0))


@pytest.mark.parametrize("seed", range(5))
def test_stratified_splits_have_about_the_same_share_of_each_label(seed):
    groups, labels = rare_labels(seed=seed)
    drawn = splits.stratified(groups, labels, val_fraction=0.2, test_fraction=0.3, seed=seed)
    split = groups.map(drawn)
    assert split.notna().all()
    assert np.abs(surplus(split, labels)).max() <= 6  # images of one patient
    images = split.value_counts(normalize=True)
    assert images["val"] == pytest.approx(0.2, abs=0.03)
    assert images["test"] == pytest.approx(0.3, abs=0.03)
    hashed = by_group(groups, 0.2, 0.3, seed)
    assert np.abs(surplus(split, labels)).mean() < np.abs(surplus(hashed, labels)).mean() / 2


def test_stratified_splits_stay_when_data_grow():
    groups, labels = rare_labels()
    few = groups.str[1:].astype(int) < 120
    options = {"val_fraction": 0.2, "test_fraction": 0.3, "seed": 0}
    before = splits.stratified(groups[few], labels[few], **options)
    after = splits.stratified(groups, labels, **options, fixed=before)
    assert after[before.index].equals(before)
    assert set(after.index) == set(groups)
    assert np.abs(surplus(groups.map(after), labels)).max() <= 6
    assert splits.stratified(groups[::-1], labels[::-1], **options, fixed=before).equals(after)
