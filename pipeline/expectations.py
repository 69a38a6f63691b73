"""The gate between data and training: Great Expectations suites over what `ingest` wrote.

The rules are those of `medistill.audit.rules` and the tables those of `medistill.audit.quality`, as for
`medistill check`; rules about the user's own weights, which that command does not know, are added here. The import of
Great Expectations takes 4 s: import this module only where data is validated.
"""

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import great_expectations as gx
import pandas as pd
from great_expectations import expectations as gxe
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.metadata_types import FailureSeverity

from medistill.audit.quality import tables_of
from medistill.audit.rules import KEYS, Rule, rules_of
from medistill.data import provenance
from medistill.data.dataset import Dataset
from medistill.files import atomic
from medistill.records.audit import Audit, Expectation, Validation, ValidationCounts
from medistill.records.data import DatasetInfo
from medistill.text import pluralise
from pipeline.data_docs import as_html, as_text, make_offline, raise_what_is_logged

_KEYS = KEYS | {"weights": ["network"]}
_EXAMPLES = 5  # of the images that break a rule; of the other tables, which are small, all rows are named

_WEIGHTS = (
    Rule(
        "weights_unseen",  # a network that was trained on the test split cannot be tested on it
        "weights",
        "among",
        "seen",
        "A user's own weights were trained on no group and no image of the val and test split",
        "trained on images or groups of val or test",
        values=("",),
    ),
    Rule(
        "weights_known",
        "weights",
        "known",
        "seen",
        "A user's own weights have a train_ids.npz beside them that says which images they were trained on",
        "without train_ids.npz",
        critical=False,
    ),
)


def validate(
    folder: Path,
    docs: Path,
    *,
    max_quarantined: float,
    audit: Audit | None = None,
    weights: Mapping[str, Path] | None = None,
) -> Validation:
    """Check an ingested data set, and write Data Docs about it.

    Args:
        folder: data/processed.
        docs: folder for the HTML pages; an older one is replaced.
        max_quarantined: share of the entries that ingest may have left out.
        audit: the result of `medistill.audit.findings.audit`.
        weights: network -> file of a user's own weights.

    Returns:
        The content of validation.json, without times.

    Raises:
        UserError: a file of the data set is missing or damaged.
    """
    dataset = Dataset.open(folder)
    entries = DatasetInfo.read(dataset.files.record).entries
    rules = [*rules_of(dataset, entries, max_quarantined), *_WEIGHTS]
    tables = tables_of(dataset, audit) | ({"weights": _weights(dataset, weights)} if weights else {})
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    for site in list(context.variables.data_docs_sites or {}):
        context.delete_data_docs_site(site)  # the default one lies in the system's temporary folder
    with atomic(docs) as temporary, raise_what_is_logged():
        temporary.mkdir()
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(temporary.resolve())}
        site = {"class_name": "SiteBuilder", "show_how_to_buttons": False, "store_backend": store}
        context.add_data_docs_site("local", site)  # type: ignore[arg-type]  # a site needs no `site_index_builder`
        checked = []
        for name, table in tables.items():
            about = [rule for rule in rules if rule.table == name and rule.applies(table)]
            checked += _run(context, name, table, about)
        make_offline(temporary)
    failures = [entry.message or "" for entry in checked if not entry.success and entry.severity == "critical"]
    warnings = [entry.message or "" for entry in checked if not entry.success and entry.severity != "critical"]
    return Validation(
        success=not failures,
        statistics=ValidationCounts(
            images=len(dataset.manifest),
            evaluated=len(checked),
            successful=len(checked) - len(failures) - len(warnings),
            failed=len(failures),
            warnings=len(warnings),
        ),
        failures=failures,
        warnings=warnings,
        expectations=checked,
    )


def _weights(dataset: Dataset, weights: Mapping[str, Path]) -> pd.DataFrame:
    """One row per network with the user's own weights: `network`, and the part of val and test they have `seen`."""
    rows = []
    for network, file in weights.items():
        ids = Path(file).parent / provenance.FILE
        found = provenance.overlaps(provenance.read_ids(ids), dataset) if ids.exists() else None
        rows.append((network, None if found is None else provenance.describe_overlaps(found)))
    return pd.DataFrame(rows, columns=["network", "seen"])


def _severity(rule: Rule) -> Literal["critical", "warning"]:
    return "critical" if rule.critical else "warning"


class _Common(TypedDict):
    """What every expectation of Great Expectations takes."""

    severity: FailureSeverity
    description: str


def _expect(rule: Rule) -> gxe.Expectation:
    """A rule as an expectation, for a table made by `as_html`."""
    common: _Common = {"severity": FailureSeverity(_severity(rule)), "description": rule.expected}
    values = [html.escape(value) if isinstance(value, str) else value for value in rule.values]
    if rule.kind == "columns":
        return gxe.ExpectTableColumnsToMatchSet(column_set=values, exact_match=False, **common)
    if rule.kind == "rows":
        least, most = (None if bound is None else int(bound) for bound in (rule.least, rule.most))
        return gxe.ExpectTableRowCountToBeBetween(min_value=least, max_value=most, **common)
    column = html.escape(rule.column or "")
    if rule.kind == "known":
        return gxe.ExpectColumnValuesToNotBeNull(column=column, **common)
    if rule.kind == "unique":
        return gxe.ExpectColumnValuesToBeUnique(column=column, **common)
    if rule.kind == "between":
        return gxe.ExpectColumnValuesToBeBetween(column=column, min_value=rule.least, max_value=rule.most, **common)
    if rule.kind == "contains":
        return gxe.ExpectColumnDistinctValuesToContainSet(column=column, value_set=values, **common)
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=values, **common)


def _run(context: Any, name: str, table: pd.DataFrame, rules: Sequence[Rule]) -> list[Expectation]:
    """Check one table, add it to the Data Docs, and return a compact result per rule."""
    batch = (
        context.data_sources.add_or_update_pandas("processed")
        .add_dataframe_asset(name)
        .add_batch_definition_whole_dataframe("all")
    )
    suite = gx.ExpectationSuite(name, expectations=[_expect(rule) for rule in rules])
    suite = context.suites.add(suite)
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name=name,
            validation_definitions=[definition],
            actions=[gx.checkpoint.UpdateDataDocsAction(name="docs", site_names=["local"])],
            result_format={
                "result_format": "SUMMARY",
                "unexpected_index_column_names": _KEYS[name],
                "partial_unexpected_count": _EXAMPLES if name == "images" else len(table),
            },
        )
    )
    (outcome,) = checkpoint.run(batch_parameters={"dataframe": as_html(table)}).run_results.values()
    results = {result.expectation_config.id: result for result in outcome.results}
    found = [results[expectation.id] for expectation in suite.expectations]
    return [_compact(rule, result) for rule, result in zip(rules, found, strict=True)]


def _compact(rule: Rule, result: Any) -> Expectation:
    found = as_text(result.to_json_dict()["result"])
    missing = found.get("details", {}).get("mismatched", {}).get("missing", found.get("partial_missing_list"))
    observed = f"missing: {', '.join(map(str, missing))}" if missing else _plain(found.get("observed_value"))
    # Great Expectations does not raise exceptions, it records them
    observed = _errors(result.exception_info) or observed
    entry = Expectation(
        name=rule.name,
        table=rule.table,
        column=rule.column,
        expected=rule.expected,
        severity=_severity(rule),
        success=bool(result.success),
        observed=observed,
        unexpected_count=found.get("unexpected_count"),
        examples=[
            {str(key): _plain(value) for key, value in sorted(example.items())}
            for example in found.get("partial_unexpected_index_list") or []
        ],
    )
    return entry if entry.success else entry.model_copy(update={"message": _line(entry, _KEYS[rule.table])})


def _errors(info: Mapping[str, Any]) -> str | None:
    """The message in `exception_info`, which is flat or keyed by metric."""
    entries = [info] if "raised_exception" in info else list(info.values())
    messages = sorted({str(entry["exception_message"]) for entry in entries if entry.get("raised_exception")})
    return "; ".join(messages) or None


def _plain(value: Any) -> Any:
    """`value` for JSON: lists of columns and NaN become None."""
    if isinstance(value, list) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


_BETWEEN = {"labels": " in ", "shortcuts": " by "}  # a row's keys: label in split, label by cue


def _line(entry: Expectation, keys: list[str]) -> str:
    """One line for people: column, what was expected, how many rows break it, and five of these."""
    line = f"{entry.column or entry.table}: expected: {entry.expected}"
    if entry.unexpected_count:
        line += f"; violated by {pluralise(entry.unexpected_count, 'row')}"
    if entry.observed is not None:
        line += f"; found {entry.observed}"
    names = []
    for example in entry.examples:
        value = example.get(entry.column or "")
        value = round(value, 3) if isinstance(value, float) else value
        name = _BETWEEN.get(entry.table, " ").join(str(example[key]) for key in keys)
        # positives and negatives are 0 where they break a rule; None is what must not be there
        says_more = value is not None and entry.column not in {*keys, "positives", "negatives"}
        names.append(f"{name} ({value})" if says_more else name)
    return f"{line}: {'; '.join(names)}" if names else line
