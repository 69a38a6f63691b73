"""How a label that its table leaves uncertain (-1) is read."""

from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np

Policy = Literal["ones", "zeros", "ignore"]

DEFAULT = "default"
"""The key for all labels that are not named."""

UNCERTAIN = -1

_VALUES = {"ones": 1, "zeros": 0, "ignore": np.nan}


def by_label(given: Any, labels: Collection[str]) -> Any:
    """One word for all labels, or a mapping from labels to words with a default; pydantic checks the words.

    `_` may replace a blank in the name of a label, unless another label has that name.

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
