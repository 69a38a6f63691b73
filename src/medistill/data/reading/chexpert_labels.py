"""The labels that CheXpert's program reads from reports: those of CheXpert itself and of MIMIC-CXR.

A cell is 1, 0, -1 (uncertain), or blank (not mentioned). How the last two are read is an option,
see `LabelOptions`. `No Finding` is a label like the others, as published: 1 where no other finding is 1 or -1 (`Support
Devices` aside), else blank.
"""

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, field_validator

from medistill.data.reading.uncertainty import DEFAULT, UNCERTAIN, Policy, by_label, value_of
from medistill.errors import UserError
from medistill.settings import Settings

LABELS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""In the order of CheXpert's tables."""

CELLS = {"1": 1, "0": 0, "-1": UNCERTAIN, "": np.nan}


class LabelOptions(Settings):
    """What `data.options` may say of cells that are neither 1 nor 0."""

    uncertainty: dict[str, Policy] = Field(default={DEFAULT: "ignore"})
    """What -1 counts as: `ones`, `zeros`, or `ignore`: unknown. One word for all labels, or a word for some and for the
    others: `{Atelectasis: ones, default: zeros}`; without a `default` it is `ignore`."""
    blank: Literal["zeros", "ignore"] = "zeros"
    """What a blank counts as. `zeros`: a finding that a report does not mention is absent, as in nearly all published
    results. `ignore`: unknown; most cells are then left out, and `No Finding` has no negatives in tables that a
    program made."""

    @field_validator("uncertainty", mode="before")
    @classmethod
    def _by_label(cls, value: Any) -> Any:
        return by_label(value, LABELS)


def read_label(raw: pd.DataFrame, file: Path, label: str, options: LabelOptions) -> pd.Series:
    """The column of a label as float32: 1, 0, or NaN where unknown.

    Args:
        raw: the table, `line` among its columns.
        file: it was read from, for the message.
        label: one of `LABELS`.
        options: what -1 and a blank count as.

    Raises:
        UserError: a cell is none of 1, 0, -1 and blank.
    """
    values = {}
    for cell in raw[label].unique():
        value = CELLS.get(re.sub(r"[.,]0*$", "", cell))
        if value is None:
            line = raw["line"][raw[label] == cell].iloc[0]
            raise UserError(f"{file}: line {line}: column {label!r} has {cell!r}; known are 1, 0, -1 and blank")
        values[cell] = value_of(options.uncertainty, label) if value == UNCERTAIN else value
    values[""] = 0 if options.blank == "zeros" else np.nan
    return raw[label].map(values).astype(np.float32)
