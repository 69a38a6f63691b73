"""The model registry: the gate's verdicts, the alias `champion`, and the way back.

MLflow's registry holds every student that passed the gate as an ONNX version (versions.py); the alias `champion` says
which one ships and `previous` which one `rollback` returns to. registry/history.jsonl (history.py) outlives the
registry: where mlflow.db is lost, `promote` puts the champion back from it as long as its export is on disk.
"""

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medistill.errors import UserError
from medistill.gate.facts import Shipped, collect_facts, release_of
from medistill.gate.rules import Verdict, add_shipping_rules, evaluate_candidates, rank
from medistill.layout import Layout
from medistill.params import Params
from medistill.records.gate import JudgedRelease, Promotion, Release
from pipeline.history import TOOK_OVER, Line, append, champions, read_history, withdrawn
from pipeline.locks import exclusive
from pipeline.store import is_users, open_store, store_errors
from pipeline.tracking import project, track
from pipeline.versions import NAME, SHA, forgotten, mend, register, versions

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION, PREVIOUS = "champion", "previous"


def promote(params: Params, root: Path, *, dry_run: bool = False) -> Promotion:
    """Judge every student by the gate and against the champion, register those that pass, make the best one champion.

    Args:
        params: the settings: `promote` has the limits, the roster says who is a candidate.
        root: the repository's root.
        dry_run: say what would happen and write nothing.

    Raises:
        UserError: a stage has not run or is out of date, a file is not what DVC or the history say, or MLflow cannot be
            reached.
    """
    if dry_run:
        project(params, root)  # refuses figures that are out of date
    else:
        runs = track(params, root).runs
    with exclusive(root, "promotion", wait=True), store_errors(root):
        if not dry_run:
            shutil.rmtree(Layout(root).version_files, ignore_errors=True)
        client = open_store(root) if not dry_run or _has_store(root) else None
        verdicts = evaluate_candidates(collect_facts(params.candidates(), Layout(root)), params.promote)
        models = {verdict.model: release_of(verdict.facts, Layout(root)) for verdict in verdicts}
        history = read_history(root)
        warnings: list[str] = []
        if dry_run:
            champion = _current(client, history)
        else:
            assert client is not None  # only a dry run may be without a store
            for verdict in verdicts:
                if verdict.passed:
                    models[verdict.model] = _registered(client, root, models[verdict.model], runs[verdict.model])
            champion = _settled(client, root, models, runs)
            history = read_history(root)
            if champion is not None and champion.version is not None and not mend(client, root, champion):
                warnings = [f"the champion {_lost(champion)}"]
            warnings += [
                f"logged model {model} in MLflow has no version, probably since `promote` was killed; delete it"
                for model in forgotten(client, next(iter(runs.values())))
            ]
        judged = add_shipping_rules(verdicts, models, Shipped(champion, withdrawn(history)))
        promotion = _decide(judged, models, champion, dry_run).model_copy(update={"warnings": warnings})
        if not dry_run:
            assert client is not None  # as above
            if promotion.outcome == "promoted" and promotion.champion:
                _point(client, promotion.champion, champion)
            _tag(client, judged, models, promotion)
            _record(root, promotion, models)
            promotion.write(Layout(root).reports.promotion)
        return promotion


def mend_champion(root: Path) -> str | None:
    """Log the champion's files again if they are missing or changed; returns warnings if that is impossible.

    Raises:
        UserError: MLflow cannot be reached.
    """
    with exclusive(root, "promotion", wait=True), store_errors(root):
        client = open_store(root)
        champion = _current(client, [])
        return None if champion is None or mend(client, root, champion) else f"the champion {_lost(champion)}"


def rollback(root: Path) -> tuple[Release, Release]:
    """Make the champion before the present one champion again; `promote` never takes the withdrawn one again.

    Returns:
        The champion now, and the model that was withdrawn.

    Raises:
        UserError: there is no champion, no earlier one in the registry, or its files are lost.
    """
    with exclusive(root, "promotion", wait=True), store_errors(root):
        client = open_store(root) if _has_store(root) else None
        bad = _settled(client, root, {}, {}) if client else None
        if client is None or bad is None or bad.version is None:
            raise UserError("the registry has no champion; run `python -m pipeline promote` first")
        earlier = [model for model in _registered_champions(client, root) if model.onnx_sha256 != bad.onnx_sha256]
        if not earlier:
            raise UserError(f"{bad.model} (version {bad.version}) is the champion, and the registry has no earlier one")
        champion = earlier[-1]
        if not mend(client, root, champion):
            raise UserError(_lost(champion))
        # The history first: if the process is killed after this line, `_settled` completes the withdrawal.
        append(root, Line.now("rolled_back", champion, previous=bad))
        _return(client, earlier, bad)
        return champion, bad


def _registered_champions(client: "MlflowClient", root: Path) -> list[Release]:
    """The champions of the history that are in the registry, in their order, with their versions."""
    known = versions(client)
    return [
        model.model_copy(update={"version": known[model.onnx_sha256]})
        for model in champions(read_history(root))
        if model.onnx_sha256 in known
    ]


def _return(client: "MlflowClient", earlier: list[Release], bad: Release) -> None:
    """Let the aliases point at the last two of `earlier`, and say why."""
    champion = earlier[-1]
    _point(client, champion, earlier[-2] if len(earlier) > 1 else None)
    client.set_model_version_tag(NAME, bad.version, "verdict", "withdrawn")
    client.set_model_version_tag(NAME, bad.version, "reason", f"rolled back to version {champion.version}")
    client.set_model_version_tag(NAME, champion.version, "verdict", "champion")
    client.set_model_version_tag(NAME, champion.version, "reason", f"rolled back from version {bad.version}")


def _decide(judged: list[Verdict], models: dict[str, Release], champion: Release | None, dry_run: bool) -> Promotion:
    ranking = [verdict.model for verdict in rank(verdict for verdict in judged if verdict.passed)]
    best = models[ranking[0]] if ranking else None
    previous: Release | None = None
    outcome: Literal["promoted", "kept", "refused"]
    if best is None:
        outcome = "refused"
    elif champion is not None and best.onnx_sha256 == champion.onnx_sha256:
        outcome = "kept"
    else:
        outcome, previous, champion = "promoted", champion, best
    return Promotion(
        outcome=outcome,
        champion=champion,
        previous=previous,
        candidates=[JudgedRelease(**dict(verdict.record) | dict(models[verdict.model])) for verdict in judged],
        ranking=ranking,
        dry_run=dry_run,
    )


def promotion_lines(promotion: Promotion) -> list[str]:
    """Lines for a person: each candidate, every rule that it did not pass, and the outcome."""
    lines = []
    for candidate in promotion.candidates:
        auroc = candidate.val_macro_auroc
        figure = "" if auroc is None else f"  validation macro AUROC {auroc:.4f}"
        lines.append(f"{candidate.model}: {'passed' if candidate.passed else 'refused'}{figure}")
        lines += [f"    {reason}" for reason in candidate.reasons]
    champion = promotion.champion.model if promotion.champion else "none"
    before = promotion.previous.model if promotion.previous else "none"
    would = "would be " if promotion.dry_run else ""
    lines += [f"warning: {warning}" for warning in promotion.warnings]
    return (
        lines
        + {
            "promoted": [f"{would}promoted: {champion} ({_reason(promotion)}); champion before: {before}"],
            "kept": [f"unchanged: {champion} is still the best"],
            "refused": [f"refused: no student passed every rule; champion: {champion}"],
        }[promotion.outcome]
    )


# The registry


def _has_store(root: Path) -> bool:
    return is_users() or Layout(root).mlflow_database.is_file()


def _current(client: "MlflowClient | None", history: list[Line]) -> Release | None:
    """The champion: by the alias, else (the registry was lost) by the history, then without a version."""
    from mlflow.exceptions import MlflowException

    if client is not None:
        try:
            version = client.get_model_version_by_alias(NAME, CHAMPION)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
        else:
            tags = version.tags
            if SHA not in tags:
                raise UserError(
                    f"version {version.version} of {NAME} has the alias {CHAMPION}, but was not registered by"
                    " `promote`; move the alias to a version that was"
                )
            auroc = float(tags["val_macro_auroc"]) if "val_macro_auroc" in tags else None
            return Release(
                model=tags["model"],
                onnx_sha256=tags[SHA],
                val_macro_auroc=auroc,
                dataset_fingerprint=tags["dataset_fingerprint"],
                version=str(version.version),
            )
    known = champions(history)
    return known[-1].model_copy(update={"version": None}) if known else None


def _settled(client: "MlflowClient", root: Path, models: dict[str, Release], runs: dict[str, str]) -> Release | None:
    """The champion, after registry and history have been reconciled.

    A lost registry gets its champion back if the export is among `models`; an alias that was moved by hand, or before a
    crash, is written into the history; an interrupted rollback is finished.
    """
    history = read_history(root)
    champion = _current(client, history)
    if champion is None:
        return None
    known = champions(history)
    if champion.version is None:
        found = next((model for model in models.values() if model.onnx_sha256 == champion.onnx_sha256), None)
        if found is None:
            return champion
        champion = _registered(client, root, found, runs[found.model])
        _be_champion(client, champion)
        append(root, Line.now("restored", champion))
    elif not known or known[-1].onnx_sha256 != champion.onnx_sha256:
        last = next((line for line in reversed(history) if line.action in TOOK_OVER), None)
        withdrawn_last = last.previous if last and last.action == "rolled_back" else None
        if withdrawn_last and withdrawn_last.onnx_sha256 == champion.onnx_sha256:
            earlier = _registered_champions(client, root)
            _return(client, earlier, champion)
            return earlier[-1]
        append(root, Line.now("recorded", champion))
    return champion


def _registered(client: "MlflowClient", root: Path, model: Release, run: str) -> Release:
    """The model with its version, which is made where there is none yet; its files are whole."""
    model = model.model_copy(update={"version": register(client, root, model, run)})
    if not mend(client, root, model):
        raise UserError(_lost(model))
    return model


def _lost(model: Release) -> str:
    return (
        f"{model.model} (version {model.version}) cannot be loaded: its files in MLflow are gone or changed, "
        f"and no export has the same model.onnx (sha256 {model.onnx_sha256})"
    )


def _point(client: "MlflowClient", champion: Release, previous: Release | None) -> None:
    """Move the aliases; `champion` last, so that `previous` always holds the champion before."""
    if previous is not None and previous.version is not None:
        client.set_registered_model_alias(NAME, PREVIOUS, previous.version)
    else:
        client.delete_registered_model_alias(NAME, PREVIOUS)
    _be_champion(client, champion)


def _be_champion(client: "MlflowClient", model: Release) -> None:
    assert model.version is not None  # it is in the registry
    client.set_registered_model_alias(NAME, CHAMPION, model.version)


def _tag(client: "MlflowClient", judged: list[Verdict], models: dict[str, Release], promotion: Promotion) -> None:
    """Note the decision and its reason on each candidate's version, and on the replaced one."""
    said: dict[str | None, tuple[str, str]] = {}
    if promotion.previous is not None and promotion.champion is not None:
        said[promotion.previous.version] = ("replaced", f"replaced by {promotion.champion.model}")
    for verdict in judged:
        if promotion.champion is not None and models[verdict.model].onnx_sha256 == promotion.champion.onnx_sha256:
            reason = "; ".join(verdict.reasons) or _reason(promotion)
            said[promotion.champion.version] = ("champion", reason)
        elif verdict.passed:
            said[models[verdict.model].version] = ("passed", f"{promotion.ranking[0]} ranked first")
        else:
            said[models[verdict.model].version] = ("refused", "; ".join(verdict.reasons))
    for version, (decision, reason) in said.items():
        if version is not None:
            client.set_model_version_tag(NAME, version, "verdict", decision)
            client.set_model_version_tag(NAME, version, "reason", reason)


def _reason(promotion: Promotion) -> str:
    """Why the champion is the champion, in a sentence."""
    if promotion.outcome == "refused" or promotion.champion is None:
        return "no candidate passed"
    auroc = promotion.champion.val_macro_auroc
    of = f"of {len(promotion.ranking)} that passed" if len(promotion.ranking) > 1 else "the only one that passed"
    return f"ranked first, {of}" + ("" if auroc is None else f"; validation macro AUROC {auroc:.4f}")


def _record(root: Path, promotion: Promotion, models: dict[str, Release]) -> None:
    """Append the verdict, unless it repeats the last one (a second call, a night without changes)."""
    shas = sorted(model.onnx_sha256 or model.model for model in models.values())
    line = Line.now(
        promotion.outcome,
        promotion.champion,
        previous=promotion.previous,
        reason=_reason(promotion),
        refused=promotion.reasons,
        evidence=hashlib.sha256(" ".join(shas).encode()).hexdigest(),
        data=next(iter(models.values())).dataset_fingerprint,
    )
    last = next((entry for entry in reversed(read_history(root)) if entry.evidence is not None), None)
    if promotion.outcome == "promoted" or last is None or _gist(line) != _gist(last):
        append(root, line)


def _gist(line: Line) -> tuple[str | bool | None, ...]:
    """The parts in which a verdict may differ from the last one: models, data, champion, refusals."""
    champion = line.champion.onnx_sha256 if line.champion else None
    return line.evidence, line.data, champion, line.action == "refused"
