"""What the checks of the data write: audit.json and validation.json."""

from typing import Literal

from pydantic import JsonValue

from medistill.records.base import Content, JsonObject, Record
from medistill.records.data import UNLABELLED


class AuditFinding(Content):
    """Something that is odd or wrong in a data set.

    Attributes:
        check: what has found it.
        severity: whether it stops a run or is only said.
        message: one line.
        count: how many groups, images or pairs it is about.
        examples: the first of these.
        advice: what helps, where something does.
    """

    check: str
    severity: Literal["error", "warning"]
    message: str
    count: int
    examples: list[str]
    advice: str | None = None


class Pair(Content):
    """Two images of different groups that are nearly the same.

    Attributes:
        image_id, other: the images.
        splits: of the two, in order; one where both are in it.
        correlation: of their pixels.
        kind: how one was made from the other.
    """

    image_id: str
    other: str
    splits: list[str]
    correlation: float
    kind: str

    @property
    def across(self) -> bool:
        """Whether they are in two splits."""
        return len(self.splits) == 2

    @property
    def unlabelled(self) -> str | None:
        """The one that is of `data.unlabelled`, where the other is in val or test."""
        return next((name for name in (self.image_id, self.other) if self.across and name.startswith(UNLABELLED)), None)


class Audit(Record):
    """audit.json: copies across splits, and labels that something else than the finding gives away.

    Attributes:
        findings: for people, and for the gate.
        near_duplicates: confirmed pairs.
        shortcuts: what `probe_shortcuts` measured, one entry per label and cue.
    """

    findings: list[AuditFinding]
    near_duplicates: list[Pair]
    shortcuts: list[JsonObject]


class Expectation(Content):
    """One expectation about a table, and whether it was met.

    Attributes:
        name: of the rule.
        table, column: what it is about; None: the whole table.
        expected: in words.
        severity: whether breaking it stops a run.
        success: whether it was met.
        observed: what was found instead, where there is one such thing.
        unexpected_count: how many rows break it.
        examples: some of these rows.
        message: one line, where it was not met.
    """

    name: str
    table: str
    column: str | None
    expected: str
    severity: Literal["critical", "warning"]
    success: bool
    observed: JsonValue
    unexpected_count: int | None
    examples: list[JsonObject]
    message: str | None = None


class ValidationCounts(Content):
    """How many images were looked at, and how many expectations were evaluated, met and not met."""

    images: int
    evaluated: int
    successful: int
    failed: int
    warnings: int


class Validation(Record):
    """validation.json: the verdict on the data.

    Attributes:
        success: whether nothing critical failed.
        statistics: how many expectations there were.
        failures, warnings: one line for each expectation that was not met.
        expectations: all of them.
    """

    success: bool
    statistics: ValidationCounts
    failures: list[str]
    warnings: list[str]
    expectations: list[Expectation]
