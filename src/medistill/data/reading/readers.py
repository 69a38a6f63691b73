"""Several readers of one image: the label that they vote for."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from medistill.text import pluralise

Vote = Literal["majority", "mean", "any", "all"]
"""How answers of several readers become one label. A reader who leaves a label blank does not vote; without any vote it
is unknown.

`majority`: the value of more than half of them; a tie is unknown. `mean`: 1 if at least half of them say 1, so that a
tie is 1. `any`: 1 if one says 1. `all`: 1 if nobody says 0."""


@dataclass(frozen=True)
class Verdict:
    """The labels of each image by vote of its readers.

    Attributes:
        values: float32, one row per image in the order of their names, one column per label: 1, 0, NaN where unknown.
        notes: sentences for the user.
    """

    values: pd.DataFrame
    notes: list[str]


def vote(values: pd.DataFrame, images: pd.Series, readers: pd.Series, how: Vote) -> Verdict:
    """Let the readers of each image vote, label by label.

    Args:
        values: float (N, L), 1, 0 or NaN where blank. A reader with several rows of an image, one per finding, affirms
            a label if one of these rows does.
        images: str (N,), the image of each row, same index.
        readers: str (N,), its reader, same index.
        how: see `Vote`.
    """
    answers = values.groupby([images.rename("image"), readers.rename("reader")]).max()
    given = answers.notna().groupby(level="image").sum()
    ones = answers.eq(1).groupby(level="image").sum()
    tied = (2 * ones == given) & (given > 0)
    yes = {"majority": 2 * ones > given, "mean": 2 * ones >= given, "any": ones > 0, "all": ones == given}[how]
    unknown = (given == 0) | (tied if how == "majority" else False)
    voted = yes.astype(np.float32).mask(unknown)

    each = answers.groupby(level="image").size()
    divided = int(((ones > 0) & (ones < given)).any(axis=1).sum())
    notes = [
        f"{pluralise(len(answers), 'answer')} of readers about {pluralise(len(each), 'image')}, vote: {how}; they"
        f" disagree about a label of {pluralise(divided, 'image')}"
    ]
    if how == "majority" and tied.any(axis=None):
        count = int(tied.any(axis=1).sum())
        notes.append(f"{pluralise(count, 'image')} with a tie between readers for a label: the label is unknown there")
    if each.min() < each.max():
        fewer = int((each < each.max()).sum())
        notes.append(f"{pluralise(fewer, 'image')} with fewer than {each.max()} readers (at least {each.min()})")
    return Verdict(voted, notes)
