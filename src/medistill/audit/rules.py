"""Rules that a data set must keep to be trained on: one table, for `medistill check` and for the gate of the pipeline.

The rules apply to the tables of `medistill.audit.quality`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from medistill.audit.findings import SHORTCUT, finding
from medistill.data.dataset import Dataset
from medistill.data.settings import quarantine_limit
from medistill.records.audit import AuditFinding
from medistill.records.data import LABEL_PREFIX, MANIFEST_COLUMNS, SPLITS
from medistill.text import pluralise

BLANK = 1.0
"""Grey levels (of 255): a frame whose pixels deviate by less is blank."""

SATURATED = 0.5
"""Most of a frame's pixels that may be white, as a share: more indicates a failed export."""

INVERTED = -0.3
"""Least correlation of a frame with the mean frame: below it the frame is probably inverted."""

PREVALENCE = (0.0005, 0.95)
"""Least and highest prevalence: a rarer label can hardly be learnt, a more frequent one is often inverted."""

AGES = (0, 120)
"""Years."""

SEXES = ("F", "M")

VIEWS = ("AP", "PA", "L", "LL", "RL")
"""Frontal, and lateral from either side."""

KEYS = {"images": ["image_id"], "labels": ["label", "split"], "splits": ["split"], "shortcuts": ["label", "cue"]}
"""Columns that identify a row, by table."""

LEFT_OUT = "few_left_out"
"""The rule that applies `data.max_quarantined`."""

_COUNTS = ("positives", "negatives", "with_both")
"""Columns whose cells are 0 where they break a rule."""

_DEAL = (
    "change data.split, data.val_fraction, data.test_fraction or data.seed, or draw stratified splits by --write-splits"
)


@dataclass(frozen=True)
class Rule:
    """A rule for a column of a table, or for a table as a whole. Empty cells only break rules of kind `known`.

    Attributes:
        name: of the rule.
        table: one of `KEYS`.
        kind: `known`: no cell is empty; `unique`: no value occurs twice; `among`: each is one of `values`; `between`:
            each is `least` to `most`; `contains`: each of `values` is in the column; `rows`: the table has `least` to
            `most` rows; `columns`: it has all of `values`.
        column: None for a rule of the table as a whole.
        expected: what the rule asks for.
        fault: describes rows that break it, after their number: `3 images <fault>`.
        critical: whether no model may be trained on a data set that breaks it; else it is worth a warning.
        advice: what to do.
        audited: `audit` reports what breaks it, in more detail.
    """

    name: str
    table: str
    kind: Literal["known", "unique", "among", "between", "contains", "rows", "columns"]
    column: str | None
    expected: str
    fault: str
    critical: bool = True
    values: tuple[Any, ...] = ()
    least: float | None = None
    most: float | None = None
    advice: str = ""
    audited: bool = False

    def applies(self, table: pd.DataFrame) -> bool:
        """Whether the table has the column; a missing column breaks a rule of its own."""
        return self.column is None or self.column in table

    def broken(self, table: pd.DataFrame) -> list[str]:
        """The rows that break the rule, one line each by their `KEYS`, with the cell where that helps."""
        if self.kind in ("contains", "columns"):
            there = set(table) if self.kind == "columns" else set(table[self.column])
            return [str(value) for value in self.values if value not in there]
        if self.kind == "rows":
            return [] if _or(self.least, -np.inf) <= len(table) <= _or(self.most, np.inf) else [f"{len(table)} rows"]
        cells = table[self.column]
        wrong = {
            "known": lambda: cells.isna(),
            "unique": lambda: cells.duplicated(keep=False) & cells.notna(),
            "among": lambda: ~cells.isin(self.values) & cells.notna(),
            "between": lambda: (cells < _or(self.least, -np.inf)) | (cells > _or(self.most, np.inf)),
        }[self.kind]()
        first, *second = KEYS[self.table]
        says_more = self.kind not in ("known", "unique") and self.column not in _COUNTS
        found: dict[str, list[str]] = {}
        for name, cell, *where in zip(*(table.loc[wrong, key] for key in (first, self.column, *second)), strict=True):
            found.setdefault(str(name), []).append(" ".join(where + [f"({_shown(cell)})"] * says_more))
        between = " in " if second else " "
        return [f"{name}{between}{', '.join(parts)}".rstrip() for name, parts in found.items()]


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _shown(cell: Any) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)


def rules_of(dataset: Dataset, entries: int, max_quarantined: float) -> list[Rule]:
    """The rules for a data set.

    Args:
        dataset: as it was ingested.
        entries: number of entries of its source: rows of its tables, and files that no row names.
        max_quarantined: share of them that may be left out.
    """
    labels = [LABEL_PREFIX + label for label in dataset.labels]
    fewest = entries - quarantine_limit(max_quarantined, entries)
    return [
        Rule(
            "columns",
            "images",
            "columns",
            None,
            "The manifest has all its columns",
            "columns missing",
            values=(*MANIFEST_COLUMNS, *labels),
        ),
        Rule(
            LEFT_OUT,
            "images",
            "rows",
            None,
            "Ingest left out no larger share than data.max_quarantined allows",
            f"of {entries:,} entries are left out, more than data.max_quarantined ({max_quarantined:g}) allows",
            least=fewest,
            most=entries,
        ),
        *_IMAGES,
        *(
            Rule(
                "label_values",
                "images",
                "among",
                column,
                "A label is 0, 1, or empty where it is unknown",
                f"with a label that is neither 0 nor 1: {column}",
                values=(0.0, 1.0),
            )
            for column in labels
        ),
        *_DETAILS,
        *_LABELS,
        *_SPLITS,
        *_SHORTCUTS,
    ]


_IMAGES = (
    Rule("id_known", "images", "known", "image_id", "Every image has an id", "without an id"),
    Rule("id_once", "images", "unique", "image_id", "Every image_id occurs once", "with an id that another image has"),
    Rule("group_known", "images", "known", "group_id", "Every image belongs to a group", "without a group"),
    Rule("split_known", "images", "known", "split", "Every image has a split", "without a split"),
    Rule(
        "split_named",
        "images",
        "among",
        "split",
        f"The split is one of {', '.join(SPLITS)}",
        f"in a split that is none of {', '.join(SPLITS)}",
        values=SPLITS,
    ),
    Rule(
        "split_filled",
        "images",
        "contains",
        "split",
        "Each split has at least one image",
        "without an image",
        values=SPLITS,
        advice=_DEAL,
    ),
    # no patient in two splits: the model would be tested on patients that it was trained on
    Rule(
        "group_in_one_split",
        "images",
        "among",
        "splits_of_group",
        "Every patient (group) is in one split only",
        "of a group in two splits",
        values=("",),
        audited=True,
    ),
    Rule(
        "pixels_in_one_split",
        "images",
        "among",
        "splits_of_pixels",
        "Images that are identical pixel for pixel are in one split only",
        "identical to one in another split",
        values=("",),
        audited=True,
    ),
    Rule(
        "pixels_once",
        "images",
        "among",
        "copies_of_pixels",
        "No split has an image twice, pixel for pixel",
        "identical to one in the same split",
        critical=False,
        values=("",),
        audited=True,
    ),
    # copies that were scaled, cropped or compressed again leak from split to split as well as identical ones
    Rule(
        "no_near_duplicates",
        "images",
        "among",
        "near_duplicates",
        "No image is nearly the same as one of another group in another split",
        "nearly the same as one of another group in another split",
        critical=False,
        values=("",),
        audited=True,
    ),
    # nobody can know of whom an image without a name is, so a copy in val or test is all that can be found
    Rule(
        "unlabelled_not_held_out",
        "images",
        "among",
        "held_out",
        "No image of data.unlabelled is nearly the same as one of val or test; remove such files from that folder",
        "of data.unlabelled nearly the same as one of val or test",
        values=("",),
        audited=True,
    ),
)

_DETAILS = (
    Rule(
        "age",
        "images",
        "between",
        "age",
        f"Ages are {AGES[0]} to {AGES[1]} years",
        f"with an age outside of {AGES[0]} to {AGES[1]} years",
        critical=False,
        least=AGES[0],
        most=AGES[1],
    ),
    Rule(
        "sex",
        "images",
        "among",
        "sex",
        f"Sex is {', '.join(SEXES)} or empty",
        f"with a sex that is neither {' nor '.join(SEXES)}",
        critical=False,
        values=SEXES,
    ),
    Rule(
        "view",
        "images",
        "among",
        "view",
        f"The view is {', '.join(VIEWS)} or empty",
        f"with a view that is none of {', '.join(VIEWS)}",
        critical=False,
        values=VIEWS,
    ),
    Rule(
        "not_blank",
        "images",
        "between",
        "pixel_deviation",
        f"No frame is blank: its pixels' standard deviation is at least {BLANK:g} grey level",
        f"blank: pixels deviate by less than {BLANK:g} grey level",
        critical=False,
        least=BLANK,
    ),
    Rule(
        "not_saturated",
        "images",
        "between",
        "white_share",
        f"No frame is saturated: at most {SATURATED:.0%} of its pixels are white",
        f"saturated: more than {SATURATED:.0%} of the pixels are white",
        critical=False,
        most=SATURATED,
    ),
    Rule(
        "not_inverted",
        "images",
        "between",
        "likeness",
        f"No frame is inverted: its correlation with the mean frame is at least {INVERTED:g}",
        "inverted, by the correlation with the mean frame",
        critical=False,
        least=INVERTED,
    ),
)

_LABELS = (
    Rule(
        "positives",
        "labels",
        "between",
        "positives",
        "No label is constant in a split: each split has an image with it",
        "without a positive in a split",
        critical=False,
        least=1,
    ),
    Rule(
        "negatives",
        "labels",
        "between",
        "negatives",
        "No label is constant in a split: each split has an image without it",
        "without a negative in a split",
        critical=False,
        least=1,
    ),
    Rule(
        "prevalence",
        "labels",
        "between",
        "prevalence",
        f"Labels are neither very rare nor very frequent: prevalence {PREVALENCE[0]:g} to {PREVALENCE[1]:g}",
        f"rarer than {PREVALENCE[0]:g} or more frequent than {PREVALENCE[1]:g} in a split",
        critical=False,
        least=PREVALENCE[0],
        most=PREVALENCE[1],
    ),
)

_SPLITS = (
    # without such a label train teaches nothing, val cannot choose an epoch, and test measures nothing
    Rule(
        "label_with_both",
        "splits",
        "between",
        "with_both",
        "Each split has a label with a positive and a negative",
        "in which every label is constant",
        least=1,
        advice=_DEAL,
    ),
)

_SHORTCUTS = (
    Rule(
        "no_shortcut",
        "shortcuts",
        "between",
        "lower",
        f"No label can be predicted from a cue other than the finding: lower bound of the AUROC at most {SHORTCUT}",
        "that can be predicted from a cue other than the finding",
        critical=False,
        most=SHORTCUT,
        audited=True,
    ),
)


def judge(rules: Sequence[Rule], tables: Mapping[str, pd.DataFrame]) -> list[AuditFinding]:
    """A finding for each rule that is broken, as `audit` gives them; of rules that it looks after itself, none."""
    findings = []
    for rule in rules:
        table = tables.get(rule.table)
        if table is None or rule.audited or not rule.applies(table):
            continue
        broken = rule.broken(table)
        if not broken:
            continue
        if rule.kind == "rows" and rule.most is not None:
            message, broken = f"{int(rule.most) - len(table):,} {rule.fault}", []
        else:
            noun = {"contains": "split", "columns": "column"}.get(rule.kind, rule.table.removesuffix("s"))
            message = f"{pluralise(len(broken), noun)} {rule.fault}"
        severity: Literal["error", "warning"] = "error" if rule.critical else "warning"
        findings.append(finding(rule.name, severity, message, broken, advice=rule.advice))
    return findings
