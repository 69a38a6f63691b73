"""DVC's own graph, read for the orchestrator. The only module that imports `dvc.repo`, which is no documented API."""

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medistill.errors import UserError

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
        resource: what it must not share with others, `accelerator` or None.
    """

    name: str
    desc: str
    upstream: tuple[str, ...]
    retries: int = 0
    retry_delay_seconds: float = 0.0
    timeout_seconds: float | None = None
    resource: str | None = None


def read_graph(root: Path) -> list[Stage]:
    """Every stage of dvc.yaml, upstream before downstream.

    Raises:
        UserError: `root` is no DVC repository, dvc.yaml is missing or invalid, or a `meta:` key is unknown or not a
            number where one is needed.
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


def out_of_date(root: Path, names: Iterable[str]) -> dict[str, list[str]]:
    """Which stages' outputs no longer fit the files on disk.

    Only data counts: an output that was changed or deleted since the stage ran, or an input made by another stage
    that has changed since. Edited code and settings do not, since what lies on disk still fits together.

    Args:
        root: the repository's root.
        names: stages to look at; those that DVC has never run are looked at too.

    Returns:
        Stage name → paths relative to `root`, with what is the matter: `models/students (modified)`; stages that are
        up to date are left out.

    Raises:
        UserError: as `read_graph`, or dvc.yaml has no stage of that name.
    """
    repo = _open(root)
    with _locked(repo):
        stages = {_name(repo, stage): stage for stage in _index(repo).stages if stage.cmd}
        made = [Path(out.fs_path) for stage in stages.values() for out in stage.outs]
        result = {}
        for name in names:
            if name not in stages:
                raise UserError(f"{root / 'dvc.yaml'}: no stage {name}; params.yaml and dvc.yaml do not fit together")
            stage = stages[name]
            entries = stage.outs + [dep for dep in stage.deps if _touches(Path(dep.fs_path), made)]
            changed = [f"{path} ({what})" for entry in entries for path, what in entry.workspace_status().items()]
            if changed:
                result[name] = changed
    return result


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


def _open(root: Path) -> Any:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        return Repo(os.fspath(root))
    except DvcException:
        raise UserError(f"{root}: not a DVC repository; run this in the repository's root") from None


def _index(repo: Any) -> Any:
    from dvc.exceptions import DvcException

    try:
        index = repo.index
        index.graph  # noqa: B018  reads and checks every dvc.yaml
    except DvcException as error:
        raise UserError(f"{Path(repo.root_dir) / 'dvc.yaml'}: {' '.join(str(error).split())}") from None
    return index


def _name(repo: Any, stage: Any) -> str:
    """As `dvc repro` takes it in the repository's root; DVC's own `addressing` depends on the current folder."""
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
