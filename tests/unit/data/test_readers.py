"""Several readers of an image vote, label by label."""

import itertools

import numpy as np
import pandas as pd
import pytest

from medistill.data.reading.readers import vote

NAN = float("nan")
LABELS = ["label:Mass", "label:Edema"]


def by_hand(answers, how):
    """The readers' joint answer for one image and label; `answers`: those that are not blank."""
    if not answers:
        return NAN
    yes, no = answers.count(1), answers.count(0)
    if how == "any":
        return 1 if yes else 0
    if how == "all":
        return 0 if no else 1
    if how == "mean":
        return 1 if sum(answers) / len(answers) >= 0.5 else 0
    return NAN if yes == no else 1 if yes > no else 0


@pytest.mark.parametrize("how", ["majority", "mean", "any", "all"])
def test_every_combination_of_up_to_four_readers_is_counted_by_hand(how):
    combinations = [cells for n in range(1, 5) for cells in itertools.product((0, 1, NAN), repeat=n)]
    rows = [(f"{k:03d}", f"R{n}", cell) for k, cells in enumerate(combinations) for n, cell in enumerate(cells)]
    table = pd.DataFrame(rows, columns=["image", "reader", "label:Mass"]).sample(frac=1, random_state=0)
    found = vote(table[["label:Mass"]], table["image"], table["reader"], how).values["label:Mass"]
    assert found.dtype == np.float32
    expected = [by_hand([cell for cell in cells if cell == cell], how) for cells in combinations]
    np.testing.assert_array_equal(found.loc[[f"{k:03d}" for k in range(len(combinations))]], expected)


def test_a_reader_with_a_row_for_each_finding_has_one_vote():
    rows = [("a", "R1", 1, 0), ("a", "R1", 0, 1), ("a", "R1", 1, 0), ("a", "R2", 0, 0), ("a", "R3", 0, 1)]
    table = pd.DataFrame(rows, columns=["image", "reader", *LABELS])
    found = vote(table[LABELS], table["image"], table["reader"], "majority")
    assert found.values.to_numpy().tolist() == [[0, 1]]
    assert found.notes == ["3 answers of readers about 1 image, vote: majority; they disagree about a label of 1 image"]


def test_notes_count_images_on_which_readers_disagree_are_tied_or_few():
    rows = [
        *[("agreed", reader, 1, 0) for reader in ("R1", "R2", "R3")],
        *[("divided", "R1", 1, 0), ("divided", "R2", 0, 0), ("divided", "R3", 0, 1)],
        *[("tied", "R1", 1, 0), ("tied", "R2", 0, 0)],
        *[("blank", "R1", 1, NAN)],
    ]
    table = pd.DataFrame(rows, columns=["image", "reader", *LABELS])
    found = vote(table[LABELS], table["image"], table["reader"], "majority")
    np.testing.assert_array_equal(
        found.values.loc[["agreed", "divided", "tied", "blank"]], [[1, 0], [0, 0], [NAN, 0], [1, NAN]]
    )
    assert found.notes == [
        "9 answers of readers about 4 images, vote: majority; they disagree about a label of 2 images",
        "1 image with a tie between readers for a label: the label is unknown there",
        "2 images with fewer than 3 readers (at least 1)",
    ]
    assert len(vote(table[LABELS], table["image"], table["reader"], "mean").notes) == 2  # `mean` has no ties
