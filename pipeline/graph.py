"""DVC's own graph, dvc.lock and cache. The only module that imports DVC, whose Python API is undocumented."""

import contextlib
import dataclasses
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from medistill.errors import UserError, remedy, system_error
from medistill.layout import Layout
from medistill.text import error_line

ANEW = "bring it back from git, or delete it and run `dvc repro`, which restores earlier runs from its cache"
"""What to do about an unusable dvc.lock."""

META_KEYS = ("retries", "retry_delay_seconds", "timeout_seconds", "resource")


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml as the orchestrator sees it.

    Attributes:
        name: as `dvc repro` takes it, `distill@eeea_net_c2-kd-0`.
        desc: its description in dvc.yaml, may be empty.
        upstream: names of the stages whose outputs it reads.
        retries: how often it is tried again after a failure.
        retry_delay_seconds: pause before each retry.
        timeout_seconds: limit of one try in seconds; None: unlimited.
        resource: used by one stage at a time, `accelerator` or None.
    """

    name: str
    desc: str
    upstream: tuple[str, ...]
    retries: int = 0
    retry_delay_seconds: float = 0.0
    timeout_seconds: float | None = None
    resource: str | None = None


class Out(BaseModel):
    """An output as dvc.lock records it; `md5` is of the file, or of the list of a folder's files and ends in `.dir`."""

    path: str
    md5: str | None = None


_Section = Annotated[Mapping[str, object], BeforeValidator(lambda given: {} if given is None else given)]


class Ran(BaseModel):
    """A stage as dvc.lock records it: its outputs and its settings (file → key → value)."""

    outs: list[Out] = []
    params: dict[str, _Section] = {}


class _Lock(BaseModel):
    version: Literal["2.0"] = Field(alias="schema")
    stages: dict[str, Ran]


_SAID = {
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "string_type": "must be text",
    "missing": "is missing",
}
"""Words for pydantic's errors."""


def read_lock(root: Path) -> dict[str, Ran]:
    """The stages of dvc.lock by name.

    Raises:
        UserError: there is none (nothing has run yet), it cannot be read, or it is not what DVC writes.
    """
    path = Layout(root).dvc_lock
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        return _Lock.model_validate(yaml.safe_load(text)).stages
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro` in the repository's root first") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; {ANEW}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ": ".join([str(path), *map(str, first["loc"][:5])])
        what = _SAID.get(first["type"], first["msg"])
        raise UserError(f"{where}: {what}; it was not written by DVC; {ANEW}") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:  # YAML's own constructors
        conflict = next((number for number, line in enumerate(text.split("\n"), 1) if line.startswith("<<<<<<<")), None)
        if conflict:
            raise UserError(f"{path}: line {conflict}: an unresolved git conflict; resolve it, or {ANEW}") from None
        raise UserError(f"{path}: not YAML ({error_line(error)}); {ANEW}") from None


def read_graph(root: Path) -> list[Stage]:
    """Every stage of dvc.yaml, upstream before downstream.

    Raises:
        UserError: `root` is no DVC repository, dvc.yaml is missing or invalid, dvc.lock cannot be read, or a `meta:`
            key is unknown or not a number where one is needed.
    """
    import networkx as nx

    repo = _open(root)
    graph = _index(repo).graph  # edges point from a stage to what it depends on
    order = nx.lexicographical_topological_sort(graph.reverse(), key=lambda stage: _name(repo, stage))
    stages = [
        _stage(_name(repo, node), node, tuple(sorted(_name(repo, up) for up in graph.successors(node) if up.cmd)))
        for node in order
        if node.cmd  # files under `dvc add` are nodes without a command
    ]
    if not stages:
        raise UserError(f"{root / 'dvc.yaml'}: no stages; run this in the repository's root")
    return stages


@dataclasses.dataclass(frozen=True)
class Altered:
    """An output whose bytes differ from those that dvc.lock records, which DVC does not notice.

    Attributes:
        out: path of the output, relative to the root.
        file: the file in it that differs; the output itself if DVC's list of its files is lost.
        objects: files in DVC's cache whose content does not match their name (a hash), relative to the root.
    """

    out: str
    file: str
    objects: tuple[str, ...]


def examine(root: Path, names: Iterable[str]) -> tuple[dict[str, list[str]], list[Altered]]:
    """Stages whose outputs no longer match the files on disk, and outputs whose bytes DVC wrongly believes unchanged.

    Only data counts: an output that was changed or deleted since the stage ran, or an input made by another stage
    that has changed since. Edited code and settings do not count, since the files on disk still fit together. DVC
    trusts a file whose size and time it knows, and files restored from its cache; so outputs are read once more.

    Args:
        root: the repository's root.
        names: stages to look at; those that DVC has never run are looked at too.

    Returns:
        Stage name → paths relative to `root`, with the reason: `models/students (modified)`; stages that are up
        to date are left out. And the outputs whose bytes differ.

    Raises:
        UserError: as `read_graph`, or dvc.yaml has no stage of that name.
    """
    repo = _open(root)
    stale: dict[str, list[str]] = {}
    altered: list[Altered] = []
    with _dvc_errors(repo), _locked(repo):
        known = {_name(repo, stage): stage for stage in _index(repo).stages if stage.cmd}
        made = [Path(out.fs_path) for stage in known.values() for out in stage.outs]
        for name in names:
            if name not in known:
                raise UserError(f"{root / 'dvc.yaml'}: no stage {name}; params.yaml and dvc.yaml do not match")
            stage = known[name]
            entries = stage.outs + [dep for dep in stage.deps if _touches(Path(dep.fs_path), made)]
            changed = [f"{path} ({what})" for entry in entries for path, what in entry.workspace_status().items()]
            if changed:
                stale[name] = changed
            else:
                altered += filter(None, (_altered(repo, out) for out in stage.outs))
    return stale, altered


def _altered(repo: Any, out: Any) -> Altered | None:
    """The mismatch of an output with dvc.lock; None if its bytes are those that dvc.lock records."""
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.db import HashFileDB
    from dvc_data.hashfile.tree import Tree

    forgetful = HashFileDB(out.fs, repo.tmp_dir)  # without DVC's memory of sizes and times
    _, _, present = build(forgetful, out.fs_path, out.fs, out.hash_name, ignore=out.dvcignore, dry_run=True)
    recorded, cache = out.hash_info, repo.cache.local
    if present.hash_info == recorded:
        return None
    path = Path(os.path.relpath(out.fs_path, repo.root_dir)).as_posix()
    file: tuple[str, ...] = ()
    objects = [recorded.value]
    if recorded.isdir and isinstance(present, Tree) and _is_whole(cache, recorded.value):
        wanted = {key: info.value for key, _, info in Tree.load(cache, recorded)}
        here = {key: info.value for key, _, info in present}
        file = min((key for key in wanted.keys() | here.keys() if wanted.get(key) != here.get(key)), default=())
        objects += filter(None, [wanted.get(file)])
    damaged = [cache.oid_to_path(oid) for oid in objects if _is_whole(cache, oid) is False]
    return Altered(path, "/".join([path, *file]), tuple(os.path.relpath(item, repo.root_dir) for item in damaged))


def _is_whole(cache: Any, oid: str) -> bool | None:
    """Whether the content of an object in DVC's cache matches its name (a hash); None if the object is missing."""
    from dvc_data.hashfile.hash import file_md5

    path = cache.oid_to_path(oid)
    return file_md5(path, cache.fs) == oid.removesuffix(".dir") if os.path.isfile(path) else None


@contextlib.contextmanager
def _locked(repo: Any) -> Iterator[None]:
    from dvc.lock import LockError

    try:
        repo.lock.lock()
    except LockError:
        raise UserError(f"{repo.root_dir}: another DVC command is at work; try again when it has ended") from None
    try:
        yield
    finally:
        repo.lock.unlock()


@contextlib.contextmanager
def _dvc_errors(repo: Any) -> Iterator[None]:
    """Turn DVC's errors about its own files into one line (`UserError`)."""
    from dvc.exceptions import DvcException
    from dvc_objects.errors import ObjectFormatError

    try:
        yield
    except (DvcException, ObjectFormatError, OSError, UnicodeError, sqlite3.Error) as error:
        if (known := system_error(error)) is not None:
            raise UserError(f"{known.filename or repo.root_dir}: {remedy(known)}") from None
        raise UserError(f"{repo.root_dir}: DVC: {error_line(error)}") from None


def _open(root: Path) -> Any:
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    try:
        return Repo(os.fspath(root))
    except NotDvcRepoError as error:
        if Layout(root).dvc.is_dir():  # it needs git as well
            raise UserError(f"{error_line(error)}; run this in a clone that git made") from None
        raise UserError(f"{root}: not a DVC repository; run this in the repository's root") from None
    except (DvcException, OSError, UnicodeError) as error:
        raise UserError(f"{Layout(root).dvc}: DVC cannot open it: {error_line(error)}") from None


def _index(repo: Any) -> Any:
    from dvc.exceptions import DvcException

    root = Path(repo.root_dir)
    try:
        index = repo.index
        index.graph  # noqa: B018  reads and checks every dvc.yaml
    except (DvcException, OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        lock = Layout(root).dvc_lock
        if lock.exists():
            read_lock(root)  # its message is more specific than DVC's
        if lock.name in (said := error_line(error)):
            raise UserError(f"{lock}: {said}; {ANEW}") from None
        raise UserError(f"{root / 'dvc.yaml'}: {said}") from None
    return index


def _name(repo: Any, stage: Any) -> str:
    """The stage's name for `dvc repro` in the repository's root; DVC's `addressing` depends on the current folder."""
    path = Path(stage.path).relative_to(repo.root_dir).as_posix()
    return stage.name if path == "dvc.yaml" and stage.cmd else f"{path}:{getattr(stage, 'name', '')}"


def _touches(path: Path, made: list[Path]) -> bool:
    return any(path == out or path in out.parents or out in path.parents for out in made)


def _stage(name: str, node: Any, upstream: tuple[str, ...]) -> Stage:
    meta = node.meta or {}
    unknown = sorted(set(meta) - set(META_KEYS))
    if unknown:
        raise UserError(f"dvc.yaml: {name}: meta has {unknown[0]!r}; known are {', '.join(META_KEYS)}")
    for key in META_KEYS[:3]:
        value = meta.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise UserError(f"dvc.yaml: {name}: meta.{key} must be a number of at least 0, not {value!r}")
    if meta.get("resource") not in (None, "accelerator"):
        raise UserError(f"dvc.yaml: {name}: meta.resource must be accelerator, not {meta['resource']!r}")
    return Stage(
        name=name,
        desc=node.desc or "",
        upstream=upstream,
        retries=int(meta.get("retries", 0)),
        retry_delay_seconds=float(meta.get("retry_delay_seconds", 0)),
        timeout_seconds=meta.get("timeout_seconds"),
        resource=meta.get("resource"),
    )
