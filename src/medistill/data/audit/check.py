"""The command `medistill check`: from a folder to a report on the data set, without a params.yaml."""

import dataclasses
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from pydantic import ValidationError

from medistill.config import Data, describe_error
from medistill.data import splits as sides
from medistill.data.adapters import FORMATS, read_source
from medistill.data.audit.checks import audit, find_groups_of
from medistill.data.dataset import SPLITS, Dataset
from medistill.data.manifest import ingest
from medistill.data.source import Source
from medistill.errors import UserError
from medistill.files import atomic
from medistill.images import ImageError, read

SIZE = 128
"""Height and width in pixels of the frames that are compared."""

FRACTIONS = {"val_fraction": 0.15, "test_fraction": 0.2}
"""Of the split where the data set has none of its own."""

_SHOWN = 5
_PEEKED = 32


def check(
    root: Path,
    format: str,
    *,
    options: dict[str, Any],
    split: str | None,
    splits: Path,
    write_splits: Path | None,
    find_groups: bool,
    workers: int,
    cache: Path,
) -> dict[str, Any]:
    """Read a data set as `ingest` would, and audit it.

    Args:
        root: the data set's folder.
        format: one of `FORMATS`.
        options: of the format.
        split: `official` or `patient`; None: official where the data set has such a split.
        splits: folder with the user's groups.csv and sides.csv.
        write_splits: folder for groups.csv (where groups were looked for) and sides.csv; None: nothing is written.
        find_groups: look for augmented copies even if the format does not say that it holds some.
        workers: processes that decode.
        cache: folder that keeps decoded images.

    Returns:
        A JSON-ready dict: `name`, `format`, `split`, `task`, `entries`, `images`, `groups`, `sides` (split → images and
        groups), `labels` (label → positive and known images), `quarantined` (path and reason each), `findings`,
        `near_duplicates` and `shortcuts` as `audit` gives them, `groups_found` (None where none were looked for), and
        `written`, the files that were written.

    Raises:
        UserError: the data set cannot be read at all.
    """
    if format not in FORMATS:
        raise UserError(f"--format: {format!r} is unknown; known are {', '.join(FORMATS)}")
    source = read_source(format, root, options, given="--set")
    look = find_groups or (source.copies and not (splits / sides.GROUPS_FILE).is_file())
    data = _settings(root, format, options, split, splits, workers, source)
    with tempfile.TemporaryDirectory(prefix="medistill-check-") as folder:
        # groups that nobody knows yet are found below, from the images that ingest decodes
        known = dataclasses.replace(source, copies=source.copies and not look)
        summary = ingest(data, Path(folder) / "processed", cache, source=known)
        dataset = Dataset.open(Path(folder) / "processed")
        quarantined = pd.read_csv(dataset.folder / "quarantine.csv", keep_default_na=False)
        listed = None
        if look:
            listed = find_groups_of(dataset)
            dataset = _regroup(dataset, listed, data)
        found = audit(dataset)
    written = _write_splits(write_splits, dataset, data, listed) if write_splits else []
    manifest, targets = dataset.manifest, dataset.targets(dataset.manifest)
    return {
        "name": dataset.name,
        "format": format,
        "split": data.split,
        "task": dataset.task,
        "entries": summary["entries"],
        "images": len(manifest),
        "groups": int(manifest["group_id"].nunique()),
        "sides": {
            side: {"images": len(part), "groups": int(part["group_id"].nunique())}
            for side, part in ((side, manifest[manifest["split"] == side]) for side in SPLITS)
        },
        "labels": {
            label: {"positive": int((targets[:, k] == 1).sum()), "known": int((~np.isnan(targets[:, k])).sum())}
            for k, label in enumerate(dataset.labels)
        },
        "quarantined": quarantined.to_dict("records"),
        **found,
        "groups_found": None if listed is None else int(listed.nunique()),
        "written": [str(file) for file in written],
    }


def parse_options(settings: list[str]) -> dict[str, Any]:
    """`KEY=VALUE` each, the value as in params.yaml; `A.B=VALUE` is a key within a key.

    Raises:
        UserError: there is no `=`, or the value is not YAML.
    """
    options: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UserError(f"--set {setting}: must be KEY=VALUE")
        *parents, last = key.split(".")
        place = options
        for parent in parents:
            place = place.setdefault(parent, {})
        try:
            place[last] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"--set {setting}: the value is not YAML") from None
    return options


def _settings(
    root: Path, format: str, options: dict[str, Any], split: str | None, splits: Path, workers: int, source: Source
) -> Data:
    has_sides = (splits / sides.SIDES_FILE).is_file()
    try:
        return Data(
            format=format,
            root=root,
            options=options,
            split=split or ("official" if source.official is not None and not has_sides else "patient"),
            splits=splits,
            **FRACTIONS,
            seed=0,
            image_size=SIZE,
            channels=_channels(root, source.rows["path"]),
            fit="pad",
            max_quarantined=1.0,  # what is left out is reported, however much it is
            workers=workers,
        )
    except ValidationError as error:
        raise UserError("; ".join(f"--{describe_error(item)}" for item in error.errors())) from None


def _channels(root: Path, paths: pd.Series) -> int:
    """3 if one of a few images has colour."""
    for path in paths.iloc[:: max(1, len(paths) // _PEEKED)]:
        try:
            image = read(Path(root) / path)
        except ImageError:
            continue
        if image.mode != "L":
            red, green, blue = np.asarray(image).transpose(2, 0, 1)
            if not (np.array_equal(red, green) and np.array_equal(red, blue)):
                return 3
    return 1


def _regroup(dataset: Dataset, listed: pd.Series, data: Data) -> Dataset:
    """The data set with found groups joined to its own, and split by them."""
    manifest = dataset.manifest
    named = pd.Series(listed.to_numpy(), index=manifest["path"])
    groups = sides.merge_groups(manifest["group_id"], manifest["path"], named)
    if data.split == "official":
        return dataclasses.replace(dataset, manifest=manifest.assign(group_id=groups))
    split = sides.by_group(groups, **FRACTIONS, seed=data.seed, sides=_read_sides(data.splits))
    return dataclasses.replace(dataset, manifest=manifest.assign(group_id=groups, split=split))


def _read_sides(folder: Path) -> pd.Series | None:
    file = folder / sides.SIDES_FILE
    return sides.read_sides(file) if file.is_file() else None


def _write_splits(folder: Path, dataset: Dataset, data: Data, listed: pd.Series | None) -> list[Path]:
    manifest = dataset.manifest
    tables = {}
    if listed is not None:
        tables[sides.GROUPS_FILE] = manifest[["path", "group_id"]].sort_values("path")
    drawn = sides.stratified(
        manifest["group_id"], dataset.targets(manifest), **FRACTIONS, seed=data.seed, sides=_read_sides(folder)
    )
    tables[sides.SIDES_FILE] = drawn.rename("split").rename_axis("group_id").reset_index()
    written = []
    for name, table in tables.items():
        with atomic(folder / name) as file:
            table.to_csv(file, index=False, lineterminator="\n")
        written.append(folder / name)
    return written


def describe(report: dict[str, Any]) -> str:
    """The report in a few lines for people."""
    lines = [
        f"{report['name']} ({report['format']}): {report['images']:,} images of {report['groups']:,} groups,"
        f" {len(report['labels'])} labels, {report['task']}"
    ]
    parts = [f"{side} {part['images']:,} ({part['groups']:,})" for side, part in report["sides"].items()]
    lines.append(f"  split {report['split']}, images (groups): {', '.join(parts)}")
    if report["groups_found"] is not None:
        lines.append(f"  groups found by likeness: {report['groups_found']:,}")
    shares = []
    for label, count in report["labels"].items():
        unknown = report["images"] - count["known"]
        shares.append(f"{label} {count['positive']:,}" + (f" ({unknown:,} unknown)" if unknown else ""))
    lines.append(f"  positive: {', '.join(shares)}")
    lines += _describe_quarantine(report)
    for finding in report["findings"]:
        more = finding["count"] - len(finding["examples"])
        examples = finding["examples"] + ([f"and {more:,} more"] if more else [])
        lines.append(f"{finding['severity']}: {finding['message']}" + (f": {'; '.join(examples)}" if examples else ""))
    count = Counter(finding["severity"] for finding in report["findings"])
    lines.append(f"{count['error']} errors, {count['warning']} warnings")
    lines += [f"wrote {file}" for file in report["written"]]
    return "\n".join(lines)


def _describe_quarantine(report: dict[str, Any]) -> list[str]:
    left_out = report["quarantined"]
    if not left_out:
        return [f"  nothing left out of {report['entries']:,} entries"]
    lines = [f"  left out: {len(left_out):,} of {report['entries']:,} entries"]
    lines += [f"    {entry['path']}: {entry['reason']}" for entry in left_out[:_SHOWN]]
    if len(left_out) > _SHOWN:
        lines.append(f"    and {len(left_out) - _SHOWN:,} more (--json lists all)")
    return lines
