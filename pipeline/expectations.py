"""The gate between data and training: Great Expectations suites over what `ingest` wrote.

Two tables are checked: `images`, the manifest, an image a row, and `labels`, a row for each label and side. Rules that
span rows or need pixels are columns derived here first, as Great Expectations has no such rules for pandas. Its import
takes 4 s: import this module only where data is validated.
"""

import html
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import great_expectations as gx
import numpy as np
import pandas as pd
from great_expectations import expectations as gxe
from great_expectations.data_context.types.base import ProgressBarsConfig
from tqdm import tqdm

from medistill.data import provenance
from medistill.data.audit.checks import SHORTCUT, torn
from medistill.data.dataset import LABEL_PREFIX, SPLITS, Dataset
from medistill.data.manifest import COLUMNS, quarantine_limit
from medistill.document import POLICY, document
from medistill.files import atomic, read_json

BLANK = 1.0
"""Grey levels (of 255): a frame whose pixels deviate by less is blank."""

SATURATED = 0.5
"""Share of a frame's pixels that are white: more is a failed export."""

INVERTED = -0.3
"""Correlation of a frame with the mean frame: less and black is probably white."""

PREVALENCE = (0.0005, 0.95)
"""A label that is rarer can hardly be learnt; one that is more frequent is often its own complement."""

VIEWS = ("AP", "PA", "L", "LL", "RL")
"""Frontal, and lateral from either side."""

_EXAMPLES = 5
_SAMPLE = 1000
_BATCH = 64
_STRUCTURE = 10.0  # grey levels by which a mean frame's pixels deviate where images show the same part of the body


class ExpectGroupOnOneSide(gxe.ExpectColumnValuesToBeInSet):
    """No patient on two sides: what is learnt of her would be tested on her."""

    column: str = "sides_of_group"
    value_set: list = [""]  # noqa: RUF012  (a pydantic field)
    description: str = "Every patient (group) is in one split only"


class ExpectPixelsOnOneSide(gxe.ExpectColumnValuesToBeInSet):
    """No image on two sides under two names."""

    column: str = "sides_of_pixels"
    value_set: list = [""]  # noqa: RUF012
    description: str = "Images that are identical pixel for pixel are in one split only"


class ExpectPixelsOnce(gxe.ExpectColumnValuesToBeInSet):
    """An image that is there twice counts twice."""

    column: str = "copies_of_pixels"
    value_set: list = [""]  # noqa: RUF012
    description: str = "No side has an image twice, pixel for pixel"


class ExpectNoNearDuplicates(gxe.ExpectColumnValuesToBeInSet):
    """Copies that were scaled, cropped or compressed again leak from side to side as well as identical ones."""

    column: str = "near_duplicates"
    value_set: list = [""]  # noqa: RUF012
    description: str = "No image is nearly the same as one of another group on another side"


class ExpectFewQuarantined(gxe.ExpectTableRowCountToBeBetween):
    """Many left-out files mean that something is wrong with the source."""

    description: str = "Ingest left out no larger share than data.max_quarantined allows"


class ExpectFramesNotBlank(gxe.ExpectColumnValuesToBeBetween):
    """A frame of one colour is a failed export."""

    column: str = "pixel_deviation"
    min_value: float = BLANK
    description: str = f"No frame is blank: its pixels' standard deviation is at least {BLANK:g} grey level"


class ExpectFramesNotSaturated(gxe.ExpectColumnValuesToBeBetween):
    """A frame that is largely white has lost what was there."""

    column: str = "white_share"
    max_value: float = SATURATED
    description: str = f"No frame is saturated: at most {SATURATED:.0%} of its pixels are white"


class ExpectFramesNotInverted(gxe.ExpectColumnValuesToBeBetween):
    """Where all images show the same part of the body, one that looks like its negative is one."""

    column: str = "likeness"
    min_value: float = INVERTED
    description: str = f"No frame is inverted: its correlation with the mean frame is at least {INVERTED:g}"


class ExpectPrevalence(gxe.ExpectColumnValuesToBeBetween):
    """How many of the images on a side for which a label is known have it."""

    column: str = "prevalence"
    min_value: float = PREVALENCE[0]
    max_value: float = PREVALENCE[1]
    description: str = f"Labels are neither very rare nor the rule: prevalence {PREVALENCE[0]:g} to {PREVALENCE[1]:g}"


class ExpectNoShortcut(gxe.ExpectColumnValuesToBeBetween):
    """A label that view, size, source or border give away may be learnt from them in place of the finding."""

    column: str = "lower"
    max_value: float = SHORTCUT
    description: str = (
        f"No label can be told from a cue that is not the finding: AUROC's lower bound at most {SHORTCUT}"
    )


class ExpectWeightsUnseen(gxe.ExpectColumnValuesToBeInSet):
    """A network that has seen the test side cannot be tested there."""

    column: str = "seen"
    value_set: list = [""]  # noqa: RUF012
    description: str = "A user's own weights were trained on no group and no image of the val and test side"


class ExpectWeightsKnown(gxe.ExpectColumnValuesToNotBeNull):
    """Without train_ids.npz beside the weights nobody can say what they have seen."""

    column: str = "seen"
    description: str = "A user's own weights have a train_ids.npz beside them, which says what they have seen"


class ExpectPositives(gxe.ExpectColumnValuesToBeBetween):
    """A label that is constantly absent on a side can be neither learnt nor measured there."""

    column: str = "positives"
    min_value: int = 1
    description: str = "No label is constant on a side: each split has an image with it"


class ExpectNegatives(gxe.ExpectColumnValuesToBeBetween):
    """A label that is constantly present on a side can be neither learnt nor measured there."""

    column: str = "negatives"
    min_value: int = 1
    description: str = "No label is constant on a side: each split has an image without it"


def validate(
    folder: Path,
    docs: Path,
    *,
    max_quarantined: float,
    audit: Mapping[str, Any] | None = None,
    weights: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Check an ingested data set, and write Data Docs about it.

    Args:
        folder: data/processed.
        docs: folder for the HTML pages; an older one is replaced.
        max_quarantined: share of the entries that ingest may have left out.
        audit: what `medistill.data.audit.checks.audit` found there.
        weights: network -> file of a user's own weights.

    Returns:
        What validation.json holds, free of times: `success` (nothing critical failed), `statistics`, `failures` and
        `warnings` (a line for each expectation that failed), and `expectations` (name, column, expected, severity,
        success, observed, unexpected_count, examples of each, and the line as message where it failed).

    Raises:
        UserError: a file of the data set is missing or damaged.
    """
    dataset = Dataset.open(folder)
    entries = read_json(Path(folder) / "dataset.json")["entries"]
    fewest = entries - quarantine_limit(max_quarantined, entries)
    images = _images(dataset, (audit or {}).get("near_duplicates"))
    suites = [
        ("images", images, ["image_id"], _EXAMPLES, _expect_images(dataset, images, fewest, entries)),
        ("labels", *_labels(dataset, images)),
    ]
    if audit and audit["shortcuts"]:
        shortcuts = pd.DataFrame(audit["shortcuts"])
        suites.append(
            ("shortcuts", shortcuts, ["label", "cue"], len(shortcuts), [ExpectNoShortcut(severity="warning")])
        )
    if weights:
        suites.append(("weights", *_weights(dataset, weights)))
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    for site in list(context.variables.data_docs_sites or {}):
        context.delete_data_docs_site(site)  # the default one lies in the system's temporary folder
    with atomic(docs) as temporary:
        temporary.mkdir()
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(temporary.resolve())}
        site = {"class_name": "SiteBuilder", "show_how_to_buttons": False, "store_backend": store}
        context.add_data_docs_site("local", site)
        checked = [entry for suite in suites for entry in _run(context, *suite)]
        _make_offline(temporary)
    failed = [entry for entry in checked if not entry["success"]]
    failures = [entry["message"] for entry in failed if entry["severity"] == "critical"]
    warnings = [entry["message"] for entry in failed if entry["severity"] != "critical"]
    return {
        "success": not failures,
        "statistics": {
            "images": len(images),
            "evaluated": len(checked),
            "successful": len(checked) - len(failed),
            "failed": len(failures),
            "warnings": len(warnings),
        },
        "failures": failures,
        "warnings": warnings,
        "expectations": checked,
    }


def _images(dataset: Dataset, near_duplicates: list[dict[str, Any]] | None) -> pd.DataFrame:
    """The manifest with the derived columns that its columns allow."""
    images = dataset.manifest.copy()
    if {"group_id", "split"} <= set(images):
        images["sides_of_group"] = ""
        for group, part in torn(images, "group_id"):
            sides = " and ".join(str(side) for side in part["split"].unique())
            images.loc[part.index, "sides_of_group"] = f"{group} is in {sides}"
    if {"image_id", "sha256", "split"} <= set(images):
        images["sides_of_pixels"] = images["copies_of_pixels"] = ""
        for _, part in torn(images, "sha256"):
            first = {side: name for name, side in zip(part["image_id"][::-1], part["split"][::-1], strict=True)}
            for row, side in part["split"].items():
                others = [f"{name} in {other}" for other, name in first.items() if other != side]
                images.loc[row, "sides_of_pixels"] = f"{side}, as {others[-1]}"
        twice = images[images.duplicated(["sha256", "split"], keep=False)]
        for _, part in twice.groupby(["sha256", "split"]):
            names = part["image_id"].tolist()
            images.loc[part.index, "copies_of_pixels"] = [f"as {names[0]}"] * len(part)
            images.loc[part.index[0], "copies_of_pixels"] = f"as {names[1]}"
    if near_duplicates is not None and "image_id" in images:
        like: dict[str, str] = {}
        for pair in near_duplicates:
            if len(pair["splits"]) == 2:
                one, other = pair["image_id"], pair["other"]
                like.setdefault(one, f"like {other}")
                like.setdefault(other, f"like {one}")
        images["near_duplicates"] = images["image_id"].map(like).fillna("")
    if {"shard", "row"} <= set(images):
        images = pd.concat([images, _measure_pixels(dataset, images)], axis=1)
    return images


def _measure_pixels(dataset: Dataset, images: pd.DataFrame) -> pd.DataFrame:
    """Of each frame: `pixel_deviation` in grey levels, `white_share`, and `likeness`, its correlation with the mean.

    `likeness` is 1 for all where the mean of up to 1,000 frames shows next to nothing, as with histology. A few frames
    are in memory at once.
    """
    mean = np.zeros((dataset.image_size, dataset.image_size))
    sample = images.iloc[:: -(-len(images) // _SAMPLE)]
    for start in range(0, len(sample), _BATCH):
        mean += dataset.images(sample.iloc[start : start + _BATCH]).mean(axis=1).sum(axis=0, dtype=np.float64)
    mean = (mean / len(sample) - (mean / len(sample)).mean()).ravel()
    measured = np.empty((len(images), 3))
    with tqdm(total=len(images), desc="measure", unit="image", disable=None) as bar:
        for start in range(0, len(images), _BATCH):
            frames = dataset.images(images.iloc[start : start + _BATCH]).reshape(-1, dataset.channels, mean.size)
            grey = frames.mean(axis=1, dtype=np.float32)
            grey -= grey.mean(axis=1, keepdims=True)
            norms = np.linalg.norm(grey, axis=1) * np.linalg.norm(mean)
            here = slice(start, start + len(frames))
            measured[here, 0] = frames.std(axis=(1, 2))
            measured[here, 1] = (frames == 255).all(axis=1).mean(axis=1)
            measured[here, 2] = np.divide(grey @ mean, norms, out=np.ones(len(frames)), where=norms > 0)
            bar.update(len(frames))
    if mean.std() < _STRUCTURE:
        measured[:, 2] = 1
    return pd.DataFrame(measured, columns=["pixel_deviation", "white_share", "likeness"], index=images.index)


def _weights(
    dataset: Dataset, weights: Mapping[str, Path]
) -> tuple[pd.DataFrame, list[str], int, list[gxe.Expectation]]:
    """The table `weights`, a row a network with weights of the user's own; see `_labels`."""
    rows = []
    for network, file in weights.items():
        ids = Path(file).parent / provenance.FILE
        found = provenance.overlaps(provenance.read_ids(ids), dataset) if ids.exists() else None
        rows.append((network, None if found is None else provenance.describe_overlaps(found)))
    table = pd.DataFrame(rows, columns=["network", "seen"])
    suite = [ExpectWeightsUnseen(), ExpectWeightsKnown(severity="warning")]
    return table, ["network"], len(table), suite


def _labels(dataset: Dataset, images: pd.DataFrame) -> tuple[pd.DataFrame, list[str], int, list[gxe.Expectation]]:
    """The table `labels`, the columns that name its rows, how many examples to show, and its suite."""
    rows = []
    for label in dataset.labels:
        values = images.get(LABEL_PREFIX + label, pd.Series(np.nan, index=images.index))
        for side in SPLITS:
            here = values[images["split"] == side] if "split" in images else values[:0]
            positives, negatives = int((here == 1).sum()), int((here == 0).sum())
            # a constant label breaks a rule of its own
            share = positives / (positives + negatives) if positives and negatives else None
            rows.append((label, side, positives, negatives, share))
    table = pd.DataFrame(rows, columns=["label", "split", "positives", "negatives", "prevalence"])
    suite = [
        ExpectPositives(severity="warning"),
        ExpectNegatives(severity="warning"),
        ExpectPrevalence(severity="warning"),
    ]
    return table, ["label", "split"], len(table), suite


def _expect_images(dataset: Dataset, images: pd.DataFrame, fewest: int, most: int) -> list[gxe.Expectation]:
    label_columns = [LABEL_PREFIX + label for label in dataset.labels]
    suite = [
        gxe.ExpectTableColumnsToMatchSet(
            column_set=[*COLUMNS, *label_columns],
            exact_match=False,
            description="The manifest has all its columns",
        ),
        ExpectFewQuarantined(min_value=fewest, max_value=most),
        gxe.ExpectColumnValuesToNotBeNull(column="image_id", description="Every image has an id"),
        gxe.ExpectColumnValuesToBeUnique(column="image_id", description="Every image_id occurs once"),
        gxe.ExpectColumnValuesToNotBeNull(column="group_id", description="Every image belongs to a group"),
        gxe.ExpectColumnValuesToNotBeNull(column="split", description="Every image has a split"),
        gxe.ExpectColumnValuesToBeInSet(
            column="split", value_set=list(SPLITS), description=f"The split is one of {', '.join(SPLITS)}"
        ),
        gxe.ExpectColumnDistinctValuesToContainSet(
            column="split", value_set=list(SPLITS), description="Each split has at least one image"
        ),
        ExpectGroupOnOneSide(),
        ExpectPixelsOnOneSide(),
        ExpectPixelsOnce(severity="warning"),
        ExpectNoNearDuplicates(severity="warning"),
        *(
            gxe.ExpectColumnValuesToBeInSet(
                column=column, value_set=[0.0, 1.0], description="A label is 0, 1, or empty where it is unknown"
            )
            for column in label_columns
        ),
        gxe.ExpectColumnValuesToBeBetween(
            column="age", min_value=0, max_value=120, severity="warning", description="Ages are 0 to 120 years"
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="sex", value_set=["F", "M"], severity="warning", description="Sex is F, M or empty"
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="view",
            value_set=list(VIEWS),
            severity="warning",
            description=f"The view is {', '.join(VIEWS)} or empty",
        ),
        ExpectFramesNotBlank(severity="warning"),
        ExpectFramesNotSaturated(severity="warning"),
        ExpectFramesNotInverted(severity="warning"),
    ]
    # A column that is not there is reported once, by the first expectation
    return [expectation for expectation in suite if getattr(expectation, "column", None) in {None, *images.columns}]


def _run(
    context: Any, name: str, table: pd.DataFrame, keys: list[str], examples: int, suite: list[gxe.Expectation]
) -> list[dict[str, Any]]:
    """Check one table, add it to the Data Docs, and return a compact result per expectation in the suite's order."""
    batch = (
        context.data_sources.add_or_update_pandas("processed")
        .add_dataframe_asset(name)
        .add_batch_definition_whole_dataframe("all")
    )
    suite = context.suites.add(gx.ExpectationSuite(name, expectations=suite))
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name=name,
            validation_definitions=[definition],
            actions=[gx.checkpoint.UpdateDataDocsAction(name="docs", site_names=["local"])],
            result_format={
                "result_format": "SUMMARY",
                "unexpected_index_column_names": keys,
                "partial_unexpected_count": examples,
            },
        )
    )
    (outcome,) = checkpoint.run(batch_parameters={"dataframe": table}).run_results.values()
    results = {result.expectation_config.id: result for result in outcome.results}
    return [_compact(name, keys, expectation, results[expectation.id]) for expectation in suite.expectations]


def _compact(table: str, keys: list[str], expectation: gxe.Expectation, result: Any) -> dict[str, Any]:
    found = result.to_json_dict()["result"]
    missing = found.get("details", {}).get("mismatched", {}).get("missing", found.get("partial_missing_list"))
    observed = f"missing: {', '.join(map(str, missing))}" if missing else _plain(found.get("observed_value"))
    observed = _errors(result.exception_info) or observed  # Great Expectations raises nothing, it notes what was raised
    entry = {
        "name": type(expectation).__name__,
        "table": table,
        "column": getattr(expectation, "column", None),
        "expected": expectation.description,
        "severity": str(getattr(expectation.severity, "value", expectation.severity)),
        "success": bool(result.success),
        "observed": observed,
        "unexpected_count": found.get("unexpected_count"),
        "examples": [
            {str(key): _plain(value) for key, value in sorted(example.items())}
            for example in found.get("partial_unexpected_index_list") or []
        ],
    }
    return entry if entry["success"] else entry | {"message": _line(entry, keys)}


def _errors(info: dict[str, Any]) -> str | None:
    """The message in `exception_info`, which is flat or keyed by metric."""
    entries = [info] if "raised_exception" in info else list(info.values())
    messages = sorted({str(entry["exception_message"]) for entry in entries if entry.get("raised_exception")})
    return "; ".join(messages) or None


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it: lists, which name columns, say no more than their absence, and NaN is nothing."""
    if isinstance(value, list) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


_BETWEEN = {"labels": " in ", "shortcuts": " by "}  # a row's keys: label in split, label by cue


def _line(entry: dict[str, Any], keys: list[str]) -> str:
    """One line for people: column, what was expected, how many break it, and five of them."""
    line = f"{entry['column'] or entry['table']}: expected: {entry['expected']}"
    if entry["unexpected_count"]:
        line += f"; {entry['unexpected_count']} break it"
    if entry["observed"] is not None:
        line += f"; found {entry['observed']}"
    names = []
    for example in entry["examples"]:
        value = example.get(entry["column"])
        value = round(value, 3) if isinstance(value, float) else value
        name = _BETWEEN.get(entry["table"], " ").join(str(example[key]) for key in keys)
        # positives and negatives are 0 where they break a rule; None is what must not be there
        says_more = value is not None and entry["column"] not in {*keys, "positives", "negatives"}
        names.append(f"{name} ({value})" if says_more else name)
    return f"{line}: {'; '.join(names)}" if names else line


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: .5em 0; }
td, th { border: 1px solid #ccc; padding: .3em .6em; text-align: left; }
.alert { background: #eef1f4; padding: .5em 1em; } .badge { background: #dde3ea; border-radius: 4px; padding: 0 .3em; }
.fa-check-circle::before { content: "\\2714"; color: #17753a; } .fa-times::before { content: "\\2718"; color: #b3261e; }
.fa-exclamation-triangle::before { content: "\\26a0"; color: #8a5a00; } .navbar, .sticky, .modal { display: none; }
"""
_REMOTE = re.compile(r"<script\b.*?</script>|<footer\b.*?</footer>|<(?:link|img)\b[^>]*>|url\([^)]*\)", re.DOTALL)


def _make_offline(docs: Path) -> None:
    """Make Data Docs readable without a network, and keep them from loading or running anything.

    As Great Expectations writes them they fetch styles and scripts from five hosts, and their index is empty without.
    """
    for page in docs.rglob("*.html"):
        text = _REMOTE.sub("", page.read_text(encoding="utf-8"))
        page.write_text(text.replace("<head>", f"<head>{POLICY}<style>{_STYLE}</style>", 1), encoding="utf-8")
    shutil.rmtree(docs / "static", ignore_errors=True)  # 4 MB of fonts that the pages no longer name
    items = []
    for kind, title in (("validations", "Results"), ("expectations", "Expectations")):
        for page in sorted((docs / kind).rglob("*.html")):
            link, name = page.relative_to(docs).as_posix(), page.relative_to(docs / kind).parts[0].removesuffix(".html")
            items.append(f'<li><a href="{html.escape(link)}">{title}: {html.escape(name)}</a></li>')
    (docs / "index.html").write_text(
        document("Data validation", _STYLE, f"<h1>Data validation</h1><ul>{''.join(items)}</ul>"),
        encoding="utf-8",
    )
