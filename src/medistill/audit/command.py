"""The command `medistill check`: from a folder to a report on the data set, without a params.yaml."""

import dataclasses
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import pandas as pd
import yaml
from pydantic import ValidationError

from medistill.audit.findings import audit, find_groups_of, finding
from medistill.audit.left_out import advise, describe_kinds
from medistill.audit.quality import tables_of
from medistill.audit.rules import LEFT_OUT, judge, rules_of
from medistill.data import splits
from medistill.data.adapters import formats, read_source
from medistill.data.cache import folder_of
from medistill.data.dataset import Dataset, count_labels
from medistill.data.ingest import ingest
from medistill.data.reading.arrays import read_picture
from medistill.data.reading.folders import compose
from medistill.data.reading.source import Source
from medistill.data.settings import MAX_QUARANTINED, Data
from medistill.errors import UserError
from medistill.files import atomic
from medistill.images.errors import ImageError
from medistill.layout import Layout
from medistill.plain_yaml import parse_yaml
from medistill.records.audit import Audit, AuditFinding
from medistill.records.data import SPLITS
from medistill.settings import describe_errors
from medistill.task import Task
from medistill.text import pluralise, printable, shortened

SIZE = 128
"""Height and width in pixels of the frames that are compared."""


class _Fractions(TypedDict):
    val_fraction: float
    test_fraction: float


FRACTIONS: _Fractions = {"val_fraction": 0.15, "test_fraction": 0.2}
"""Of the split where the data set has none of its own."""

_UNWRITTEN = finding(
    "copies",
    "error",
    "the data set contains augmented copies, and no list says which images are copies of the same picture",
    advice="run again with --write-splits splits, which writes groups.csv for ingest",
)

_SHOWN = 5
_PEEKED = 32


class SplitSize(TypedDict):
    """How much is in one split."""

    images: int
    groups: int


class LabelCount(TypedDict):
    """How many images a label is known of, and how many of these have it."""

    positive: int
    known: int


class LeftOut(TypedDict):
    """An entry of the source that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `medistill check` says of a data set.

    Attributes:
        name, task: of the data set.
        format: as which it was read.
        split: by which it is split, `official` or `patient`.
        entries: number of entries of the source.
        images, groups, masks, boxes: how many there are.
        splits: how much is in each split.
        labels: how often each label is known and positive.
        notes: a sentence each.
        quarantined: the entries that were left out.
        audited: what `audit` found, and among its findings those of `judge`.
        groups_found: of more than one image; None where none were looked for.
        written: the files that were written.
    """

    name: str
    format: str
    split: str
    task: Task
    entries: int
    images: int
    groups: int
    splits: dict[str, SplitSize]
    labels: dict[str, LabelCount]
    masks: int
    boxes: int
    notes: list[str]
    quarantined: list[LeftOut]
    audited: Audit
    groups_found: int | None
    written: list[str]

    def to_json(self) -> dict[str, object]:
        """The same for programs: `findings`, `near_duplicates` and `shortcuts` as in audit.json, beside all else."""
        said = {each.name: getattr(self, each.name) for each in dataclasses.fields(self) if each.name != "audited"}
        last = {key: said.pop(key) for key in ("groups_found", "written")}
        return {**said, **self.audited.to_json(), **last}


@dataclass(frozen=True)
class Request:
    """The arguments of `medistill check`.

    Attributes:
        root: the data set's folder.
        format: one of `formats()`.
        cache: folder that keeps decoded images.
        options: of the format.
        split: `official` or `patient`; None: official where the data set has such a split.
        splits: folder with the user's groups.csv and sides.csv; None: `write_splits`, else `splits`.
        write_splits: folder for sides.csv, and for groups.csv where images were joined; None: nothing is written.
        find_groups: look for augmented copies even if the format does not say that it holds some.
        workers: processes that decode.
    """

    root: Path
    format: str
    cache: Path
    options: dict[str, object] = field(default_factory=dict)
    split: str | None = None
    splits: Path | None = None
    write_splits: Path | None = None
    find_groups: bool = False
    workers: int = 1

    @property
    def own_splits(self) -> Path:
        """The folder that groups.csv and sides.csv are read from, if they are there."""
        return self.splits or self.write_splits or Path("splits")

    def require_possible(self) -> None:
        """Raise `UserError` if the output files could not be written, or the format is unknown."""
        if self.format not in formats():
            raise UserError(f"--format: {self.format!r} is unknown; known are {', '.join(formats())}")
        _require_free("--write-splits", self.write_splits)
        _require_free("--cache", self.cache)
        written = self.write_splits
        if written and written.resolve() != self.own_splits.resolve() and (written / splits.SPLITS_FILE).exists():
            raise UserError(
                f"{written / splits.SPLITS_FILE}: exists already; to keep its splits use --splits {written}"
            )

    def finds_groups(self, source: Source) -> bool:
        """Whether augmented copies are looked for."""
        return self.find_groups or (source.copies and not (self.own_splits / splits.GROUPS_FILE).is_file())


def check(request: Request) -> Report:
    """Read a data set as `ingest` would, audit it, and judge it by the rules of the gate.

    An issue that would stop `ingest` or the gate is an error, the gate's warnings are warnings; `data.max_quarantined`
    is `MAX_QUARANTINED`. If splits are written, the data set is audited with these.

    Raises:
        UserError: the data set cannot be read at all.
    """
    request.require_possible()
    source = read_source(request.format, request.root, request.options, given="--set")
    look, write = request.finds_groups(source), request.write_splits
    data = _settings(request, source)
    with tempfile.TemporaryDirectory(prefix="medistill-check-") as folder:
        # unknown groups are found below, from the images that ingest decodes
        known = dataclasses.replace(source, copies=source.copies and not look)
        own_cache = folder_of(request.cache, request.root)
        info = ingest(data, Layout(Path(folder)).processed.folder, own_cache, source=known, allow_empty_splits=True)
        dataset = Dataset.open(Layout(Path(folder)).processed.folder)
        quarantined = pd.read_csv(dataset.files.quarantine, keep_default_na=False, dtype=str)
        own, found_groups = dataset.manifest["group_id"], None
        tables: dict[str, pd.DataFrame] = {}
        if look:
            listed = find_groups_of(dataset)
            found_groups = int((listed.value_counts() > 1).sum())
            dataset = _regroup(dataset, listed, data, source)
        if write:
            # copies of a picture stay together, else ingest would refuse the splits that are written
            dataset = _regroup(dataset, _first_of(dataset.manifest, "sha256"), data, source)
            dataset, tables = _draw_splits(dataset, own, data, write, whole=source.copies)
        found = audit(dataset)
        findings = [*found.findings, *_judge(dataset, found, info.entries, quarantined)]
        if source.copies and look and not write:
            findings.append(_UNWRITTEN)
        found = found.model_copy(update={"findings": findings})
    manifest = dataset.manifest
    positives, negatives = count_labels(dataset.targets(manifest))
    return Report(
        name=dataset.name,
        format=request.format,
        split="patient" if write else data.split,
        task=dataset.task,
        entries=info.entries,
        images=len(manifest),
        groups=int(manifest["group_id"].nunique()),
        splits={split: _size_of(manifest[manifest["split"] == split]) for split in SPLITS},
        labels={
            label: {"positive": int(positives[k]), "known": int(positives[k] + negatives[k])}
            for k, label in enumerate(dataset.labels)
        },
        masks=int((manifest["mask_row"] >= 0).sum()),
        boxes=info.boxes,
        notes=[*info.notes, *_notes(request, source)],
        quarantined=[{"path": path, "reason": reason} for path, reason in _left_out_of(quarantined)],
        audited=found,
        groups_found=found_groups,
        written=[str(file) for file in _write_tables(write, tables)] if write else [],
    )


def _size_of(rows: pd.DataFrame) -> SplitSize:
    return {"images": len(rows), "groups": int(rows["group_id"].nunique())}


def _notes(request: Request, source: Source) -> list[str]:
    """Notes on how the data set is split."""
    notes = []
    if request.split is None and source.official is None:
        notes.append(f"split by patient: {source.official_files} are not there")
    if request.write_splits and source.official is not None:
        notes.append("splits are drawn anew; the official split is not used")
    return notes


def _left_out_of(quarantined: pd.DataFrame) -> list[tuple[str, str]]:
    """Path and reason of each entry of quarantine.csv."""
    return list(zip(quarantined["path"].tolist(), quarantined["reason"].tolist(), strict=True))


def _judge(dataset: Dataset, audited: Audit, entries: int, quarantined: pd.DataFrame) -> list[AuditFinding]:
    """Findings of the rules of the gate, with what would help."""
    findings = judge(rules_of(dataset, entries, MAX_QUARANTINED), tables_of(dataset, audited))
    left_out = _left_out_of(quarantined)
    for number, found in enumerate(findings):
        if found.check == LEFT_OUT:
            findings[number] = found.model_copy(update={"advice": advise(left_out, entries)})
    return findings


def parse_options(settings: list[str]) -> dict[str, object]:
    """`KEY=VALUE` each, the value as in params.yaml; `A.B=VALUE` is a key within a key.

    Raises:
        UserError: there is no `=`, the value is not YAML, or a key is both a value and a parent.
    """
    options: dict[str, object] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise UserError(f"--set {setting}: must be KEY=VALUE")
        *parents, last = key.split(".")
        place = options
        for parent in parents:
            inner = place.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise UserError(f"--set {setting}: {parent} already has a value")
            place = inner
        try:
            parsed = parse_yaml(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {shortened(setting, 80)}: {getattr(error, 'problem', 'is not YAML')}") from None
        place[last] = value if parsed in (None, "") else parsed  # `|` alone is YAML for an empty text
    return options


def _settings(request: Request, source: Source) -> Data:
    """The section `data` of an equivalent params.yaml."""
    has_splits_file = (request.own_splits / splits.SPLITS_FILE).is_file()
    split = request.split or ("official" if source.official is not None and not has_splits_file else "patient")
    try:
        return Data(
            format=request.format,
            root=request.root,
            options=request.options,
            split=split,  # type: ignore[arg-type]  # `Data` refuses a word that is neither
            splits=request.own_splits,
            **FRACTIONS,
            seed=0,
            image_size=SIZE,
            channels=_channels(request.root, source.rows["path"]),
            fit="pad",
            max_quarantined=1.0,  # any number of entries may be left out: they are reported
            workers=request.workers,
        )
    except ValidationError as error:
        raise UserError(describe_errors(error, Data, prefix="--")) from None


def _channels(root: Path, paths: pd.Series) -> Literal[1, 3]:
    """3 if one of a few images has colour."""
    for path in paths.iloc[:: max(1, len(paths) // _PEEKED)]:
        try:
            image = read_picture(Path(root), path)
        except ImageError:
            continue
        if image.mode != "L":
            red, green, blue = np.asarray(image).transpose(2, 0, 1)
            if not (np.array_equal(red, green) and np.array_equal(red, blue)):
                return 3
    return 1


def _require_free(option: str, folder: Path | None) -> None:
    """Raise `UserError` if a file exists where a folder is to be written."""
    for place in (folder, *folder.parents) if folder else ():
        if place.exists():
            if not place.is_dir():
                raise UserError(f"{option} {folder}: {place} is not a folder")
            return


def _first_of(manifest: pd.DataFrame, column: str) -> pd.Series:
    """For each image, the first image (in order of `image_id`) with the same value: str (N,)."""
    return manifest.groupby(column)["image_id"].transform("min").astype("str")


def _regroup(dataset: Dataset, found: pd.Series, data: Data, source: Source) -> Dataset:
    """The data set with found groups, str (N,), joined to its own, and split by them unless its split is official.

    An image that is alone in its found group keeps the name of its own group.
    """
    manifest = dataset.manifest
    listed = found.set_axis(manifest["path"].map(compose))
    groups = splits.merge_groups(manifest["group_id"], manifest["path"], listed[listed.duplicated(keep=False)])
    if source.copies:
        groups = groups.str.removeprefix(splits.LISTED)  # as ingest will name them
    if data.split == "official":
        return dataclasses.replace(dataset, manifest=manifest.assign(group_id=groups))
    split = splits.by_group(groups, **FRACTIONS, seed=data.seed, fixed=_fixed_splits(data.splits, manifest, groups))
    return dataclasses.replace(dataset, manifest=manifest.assign(group_id=groups, split=split))


def _fixed_splits(folder: Path, manifest: pd.DataFrame, groups: pd.Series) -> pd.Series | None:
    """Splits that sides.csv in `folder` fixes, by group."""
    file = folder / splits.SPLITS_FILE
    if not file.is_file():
        return None
    others = [manifest[column] for column in ("group_id", "image_id", "patient_id")]
    return splits.split_by_group(splits.read_splits(file), groups, *others)[0]


def _draw_splits(
    dataset: Dataset, own: pd.Series, data: Data, folder: Path, *, whole: bool
) -> tuple[Dataset, dict[str, pd.DataFrame]]:
    """The data set with newly drawn splits, and the tables to write, by file name.

    Args:
        dataset: the data set with its groups.
        own: str (N,), its groups before any were joined.
        data: settings; splits that `data.splits` fixes are kept.
        folder: where the tables will be written; rows of an older groups.csv there are kept if their images are not
            here.
        whole: list the images that were not joined to others, too.
    """
    manifest = dataset.manifest
    groups, tables = manifest["group_id"], {}
    joined = manifest[(groups != own) | groups.str.startswith(splits.LISTED) | whole]
    if len(joined):
        names = joined["group_id"].str.removeprefix(splits.LISTED)
        table = pd.DataFrame({"path": joined["path"], "group_id": names})
        for file in (folder / splits.GROUPS_FILE, data.splits / splits.GROUPS_FILE):
            if file.is_file():
                older = splits.read_groups(file)
                older = older[~older.index.isin(manifest["path"].map(compose))]
                table = pd.concat([table, older.rename_axis("path").reset_index()]).drop_duplicates("path")
        tables[splits.GROUPS_FILE] = table.sort_values("path")
    fixed = _fixed_splits(data.splits, manifest, groups)
    drawn = splits.stratified(groups, dataset.targets(manifest), **FRACTIONS, seed=data.seed, fixed=fixed)
    tables[splits.SPLITS_FILE] = drawn.rename("split").rename_axis("group_id").reset_index()
    return dataclasses.replace(dataset, manifest=manifest.assign(split=groups.map(drawn))), tables


def _write_tables(folder: Path, tables: dict[str, pd.DataFrame]) -> list[Path]:
    for name, table in tables.items():
        with atomic(folder / name) as file:
            table.to_csv(file, index=False, lineterminator="\n")
    return [folder / name for name in tables]


def report_text(report: Report) -> str:
    """The report in a few lines for people."""
    lines = [
        f"{report.name} ({report.format}): {pluralise(report.images, 'image')} of"
        f" {pluralise(report.groups, 'group')}, {pluralise(len(report.labels), 'label')}, {report.task}"
    ]
    parts = [f"{split} {part['images']:,} ({part['groups']:,})" for split, part in report.splits.items()]
    lines.append(f"  split {report.split}, images (groups): {', '.join(parts)}")
    if report.groups_found is not None:
        lines.append(f"  groups of similar images: {report.groups_found:,}")
    shares = []
    for label, count in report.labels.items():
        unknown = report.images - count["known"]
        shares.append(f"{label} {count['positive']:,}" + (f" ({unknown:,} unknown)" if unknown else ""))
    lines.append(f"  positive: {', '.join(shares)}")
    if report.masks or report.boxes:
        lines.append(f"  {pluralise(report.masks, 'mask')}, {pluralise(report.boxes, 'box')}")
    lines += _describe_quarantine(report)
    lines += [f"  note: {note}" for note in report.notes]
    for found in sorted(report.audited.findings, key=lambda found: found.severity):  # errors first
        more = found.count - len(found.examples)
        examples = found.examples + ([f"and {more:,} more"] if more else [])
        lines.append(f"{found.severity}: {found.message}" + (f": {'; '.join(examples)}" if examples else ""))
        lines += [f"  what helps: {found.advice}"] if found.advice else []
    severities = Counter(found.severity for found in report.audited.findings)
    lines.append(f"{pluralise(severities['error'], 'error')}, {pluralise(severities['warning'], 'warning')}")
    lines += [f"wrote {file}" for file in report.written]
    return "\n".join(map(printable, lines))


def _describe_quarantine(report: Report) -> list[str]:
    left_out = report.quarantined
    if not left_out:
        return [f"  nothing left out of {report.entries:,} entries"]
    lines = [f"  left out: {len(left_out):,} of {report.entries:,} entries (--json lists all)"]
    kinds = describe_kinds([(entry["path"], entry["reason"]) for entry in left_out])
    lines += [f"    {kind}" for kind in kinds[:_SHOWN]]
    if len(kinds) > _SHOWN:
        lines.append(f"    and for {pluralise(len(kinds) - _SHOWN, 'reason')} more")
    return lines
