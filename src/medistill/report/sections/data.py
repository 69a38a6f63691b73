"""What the models were trained and measured on: counts, validation of the data, and what was left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medistill.report.content import Content

MAX_QUARANTINED = 50
"""Rows of the quarantine list on the page; the file has them all."""


@dataclass(frozen=True)
class Expectation:
    """A rule of the gate between data and training, as Data Docs list it; `found` is what breaks it."""

    column: str
    expected: str
    met: bool
    broken: str
    found: str


@dataclass(frozen=True)
class Data:
    """Counts by split, the verdict on the data, and (path, reason) of what was left out.

    Attributes:
        images, groups: by split.
        labels: (positive images, percentage of the known ones or None) by label, one pair per split.
        source: what the data set is said to come from, in words.
    """

    images: Mapping[str, int]
    groups: Mapping[str, int]
    labels: Mapping[str, list[tuple[int, float | None]]]
    source: str
    fingerprint: str
    valid: bool
    statistics: str
    warnings: list[str]
    expectations: list[Expectation]
    quarantine: Sequence[tuple[str, str]]
    quarantined: int


def build(content: Content) -> Data:
    """The data set of a run."""
    counts, validation = content.dataset["counts"], content.validation
    source = content.dataset.get("source") or {}
    return Data(
        images={name: split["images"] for name, split in counts.items()},
        groups={name: split["groups"] for name, split in counts.items()},
        labels={label: [_positives(split, label) for split in counts.values()] for label in content.labels},
        source=_facts(source, str),
        fingerprint=content.dataset.get("fingerprint", ""),
        valid=bool(validation.get("success")),
        statistics=_facts(validation.get("statistics") or {}, (int, float, str)),
        warnings=[_line(warning) for warning in validation.get("warnings") or []],
        expectations=[_expectation(entry) for entry in validation.get("expectations") or []],
        quarantine=content.quarantine[:MAX_QUARANTINED],
        quarantined=len(content.quarantine),
    )


def _positives(split: Mapping[str, Any], label: str) -> tuple[int, float | None]:
    positives = split["positives"].get(label, 0)
    known = positives + split["negatives"].get(label, 0)
    return positives, 100 * positives / known if known else None


def _facts(record: Mapping[str, Any], kinds: type | tuple[type, ...]) -> str:
    """The plain values of a record in one line."""
    return ", ".join(f"{key} {value}" for key, value in record.items() if isinstance(value, kinds))


def _line(warning: Any) -> str:
    """A warning as one line, whether it is text or a record."""
    return ", ".join(f"{k}: {v}" for k, v in warning.items()) if isinstance(warning, Mapping) else str(warning)


def _expectation(entry: Mapping[str, Any]) -> Expectation:
    return Expectation(
        column=f"{entry['table']}: {entry['column'] or 'as a whole'}",
        expected=entry["expected"],
        met=entry["success"],
        broken="failed" if entry["severity"] == "critical" else "warning",
        found=(entry.get("message") or "").partition("; ")[2],
    )
