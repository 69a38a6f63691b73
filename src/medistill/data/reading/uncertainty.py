"""What a label counts as that its table leaves uncertain: the cell -1."""

from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np

Policy = Literal["ones", "zeros", "ignore"]

DEFAULT = "default"
"""Stands for all labels that have no word of their own."""

UNCERTAIN = -1

_VALUES = {"ones": 1, "zeros": 0, "ignore": np.nan}


def by_label(given: Any, labels: Collection[str]) -> Any:
    """One word for all labels, or a word for some and for the others, as a mapping; pydantic checks the words.

    `_` may stand for a blank in the name of a label, where no label has that name itself.

    Raises:
        ValueError: a key is no label.
    """
    if not isinstance(given, dict):
        return {DEFAULT: given} if isinstance(given, str) else given
    policies = {}
    for key, policy in given.items():
        name = str(key) if key in labels else str(key).replace("_", " ")
        if name not in (DEFAULT, *labels):
            raise ValueError(f"{key!r} is no label; known are {', '.join(labels)} and {DEFAULT}")
        policies[name] = policy
    return policies


def value_of(policies: Mapping[str, Policy], label: str) -> float:
    """What -1 counts as in the column of `label`: 1, 0 or NaN, which is unknown."""
    return _VALUES[policies.get(label, policies.get(DEFAULT, "ignore"))]
