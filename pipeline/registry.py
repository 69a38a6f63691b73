"""The model registry: the gate's verdicts, the alias `champion`, and the way back.

MLflow's registry holds every student that passed the gate as an ONNX version; the alias `champion` says which one ships
and `previous` which one `rollback` returns to. `registry/history.jsonl` is append-only and outlives the registry: where
mlflow.db is lost, `promote` puts the champion back from it as long as its export is on disk.
"""

import dataclasses
import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medistill.config import Params
from medistill.errors import UserError
from medistill.evaluation.gate import RuleVerdict, Verdict, collect_facts, evaluate_candidates, rank
from medistill.files import read_json, sha256, write_json
from pipeline.locks import exclusive
from pipeline.tracking import open_store, project, store_errors, track

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME = "medistill"
"""The registered model; its versions are students."""
CHAMPION, PREVIOUS = "champion", "previous"
HISTORY = Path("registry/history.jsonl")
PROMOTION = Path("reports/promotion.json")
SHA = "onnx_sha256"
"""Tag that identifies a version: the bytes of the exported file, whatever was measured on it, and whenever."""
LOOKS = 20
"""Verdicts on different models after which a test set has been looked at too often."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A student as the history and a version's tags describe it.

    Attributes:
        model: its name, `<student>-<recipe>-<seed>`.
        onnx_sha256: of model.onnx; None where it was not exported.
        val_macro_auroc: on validation; None where undefined.
        dataset_fingerprint: of the data it was trained and measured on.
        version: in the registry; None where it is not in it.
    """

    model: str
    onnx_sha256: str | None
    val_macro_auroc: float | None
    dataset_fingerprint: str
    version: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Promotion:
    """The outcome of `promote`.

    Attributes:
        outcome: `promoted` (the alias moved), `kept` (the champion is still the best) or `refused` (nothing passed).
        champion: who is champion now; None where there has never been one.
        previous: who was champion before; None where there was none or the alias did not move.
        candidates: the gate's entry of each candidate, with the champion's rules added.
        ranking: names of those that passed every rule, best first.
        dry_run: whether nothing was written.
    """

    outcome: str
    champion: Model | None
    previous: Model | None
    candidates: list[dict[str, Any]]
    ranking: list[str]
    dry_run: bool

    @property
    def reasons(self) -> list[str]:
        """`model: rule: reason` of every rule that was not passed."""
        return [
            f"{candidate['model']}: {rule['rule']}: {rule['reason']}"
            for candidate in self.candidates
            for rule in candidate["rules"]
            if not rule["passed"]
        ]

    def to_dict(self) -> dict[str, Any]:
        """What `reports/promotion.json` says."""
        return dataclasses.asdict(self)


def promote(params: Params, root: Path, *, dry_run: bool = False) -> Promotion:
    """Hold every student against the gate and the champion, register those that pass, make the best one champion.

    Args:
        params: the settings: `promote` has the limits, the roster says who is a candidate.
        root: the repository's root.
        dry_run: say what would happen and write nothing.

    Raises:
        UserError: a stage has not run or is out of date, or MLflow cannot be reached.
    """
    if dry_run:
        project(params, root)  # refuses figures that are out of date
    else:
        runs = track(params, root).runs
    with exclusive(root, "promotion", wait=True), store_errors(root):
        client = open_store(root) if not dry_run or _has_store(root) else None
        verdicts = evaluate_candidates(collect_facts(params, root), params.promote)
        models = {verdict.model: _model(verdict, root) for verdict in verdicts}
        history = read_history(root)
        if dry_run:
            champion = _current(client, history)
        else:
            for verdict in verdicts:
                if verdict.passed:
                    version = _register(client, root, models[verdict.model], runs[verdict.model])
                    models[verdict.model] = dataclasses.replace(models[verdict.model], version=version)
            champion = _settled(client, root, models, runs)
            history = read_history(root)
        judged = add_champion_rules(verdicts, models, champion, withdrawn(history))
        promotion = _decide(judged, models, champion, dry_run)
        if not dry_run:
            if promotion.outcome == "promoted":
                _point(client, promotion.champion, champion)
            _tag(client, judged, models, promotion)
            _record(root, promotion, models)
            write_json(root / PROMOTION, promotion.to_dict())
        return promotion


def rollback(root: Path) -> tuple[Model, Model]:
    """Make the champion before the present one champion again; `promote` never takes the withdrawn one any more.

    Returns:
        The champion now, and the model that was withdrawn.

    Raises:
        UserError: there is no champion, or no earlier one in the registry.
    """
    with exclusive(root, "promotion", wait=True), store_errors(root):
        client = open_store(root) if _has_store(root) else None
        bad = _settled(client, root, {}, {}) if client else None
        if bad is None or bad.version is None:
            raise UserError("the registry has no champion; run `python -m pipeline promote` first")
        versions = _versions(client)
        earlier = [
            dataclasses.replace(model, version=versions[model.onnx_sha256])
            for model in champions(read_history(root))
            if model.onnx_sha256 in versions and model.onnx_sha256 != bad.onnx_sha256
        ]
        if not earlier:
            raise UserError(
                f"{bad.model} (version {bad.version}) is champion, and no earlier champion is in the registry"
            )
        champion = earlier[-1]
        _point(client, champion, earlier[-2] if len(earlier) > 1 else None)
        client.set_model_version_tag(NAME, bad.version, "verdict", "withdrawn")
        client.set_model_version_tag(NAME, bad.version, "reason", f"rolled back to version {champion.version}")
        client.set_model_version_tag(NAME, champion.version, "verdict", "champion")
        reason = f"rolled back from version {bad.version}"
        client.set_model_version_tag(NAME, champion.version, "reason", reason)
        _append(root, {"action": "rolled_back", "champion": champion.to_dict(), "previous": bad.to_dict()})
        return champion, bad


def add_champion_rules(
    verdicts: list[Verdict], models: dict[str, Model], champion: Model | None, withdrawn: dict[str, str]
) -> list[Verdict]:
    """Add the two rules that need to know what was shipped before to the gate's own.

    `champion`: on the same data a candidate must not be worse than the champion on validation macro AUROC. A champion
    that is a candidate itself and fails today's gate holds nobody up. `withdrawn`: what was rolled back stays out.

    Args:
        verdicts: the gate's.
        models: the candidates by name.
        champion: the present one; None where there is none.
        withdrawn: sha256 of every model that was rolled back → when.
    """
    # Of a champion that is still a candidate, today's figures count.
    again = next((v for v in verdicts if champion and models[v.model].onnx_sha256 == champion.onnx_sha256), None)
    judged = []
    for verdict in verdicts:
        model = models[verdict.model]
        rules = (
            _not_worse(model, champion, None if again is None else models[again.model], again is None or again.passed),
            _not_withdrawn(model, withdrawn),
        )
        judged.append(dataclasses.replace(verdict, rules=verdict.rules + rules))
    return judged


def _not_worse(model: Model, champion: Model | None, today: Model | None, holds: bool) -> RuleVerdict:
    rule, value = "champion", model.val_macro_auroc
    if champion is None:
        return RuleVerdict(rule, value, None, True, "there is no champion yet")
    name = champion.model if champion.version is None else f"{champion.model} (version {champion.version})"
    if model.onnx_sha256 == champion.onnx_sha256:
        return RuleVerdict(rule, value, None, True, "it is the champion")
    if model.dataset_fingerprint != champion.dataset_fingerprint:
        reason = f"the champion {name} was measured on other data, so the two are not compared"
        return RuleVerdict(rule, value, None, True, reason)
    if not holds:
        return RuleVerdict(rule, value, None, True, f"the champion {name} does not pass the gate itself any more")
    limit = (today or champion).val_macro_auroc
    if value is None or limit is None:
        who = "the candidate" if value is None else f"the champion {name}"
        return RuleVerdict(rule, value, limit, value is not None, f"{who} has no validation macro AUROC")
    relation = "not below" if value >= limit else "below"
    reason = f"validation macro AUROC is {value:.4f}, {relation} the champion's {limit:.4f} ({name})"
    return RuleVerdict(rule, value, limit, value >= limit, reason)


def _not_withdrawn(model: Model, withdrawn: dict[str, str]) -> RuleVerdict:
    when = withdrawn.get(model.onnx_sha256 or "")
    reason = f"it was rolled back at {when}" if when else "it was never rolled back"
    return RuleVerdict("withdrawn", None, None, when is None, reason)


def _decide(judged: list[Verdict], models: dict[str, Model], champion: Model | None, dry_run: bool) -> Promotion:
    ranking = [verdict.model for verdict in rank(verdict for verdict in judged if verdict.passed)]
    best = models[ranking[0]] if ranking else None
    previous = None
    if best is None:
        outcome = "refused"
    elif champion is not None and best.onnx_sha256 == champion.onnx_sha256:
        outcome = "kept"
    else:
        outcome, previous, champion = "promoted", champion, best
    candidates = [{**verdict.to_dict(), **models[verdict.model].to_dict()} for verdict in judged]
    return Promotion(outcome, champion, previous, candidates, ranking, dry_run)


def describe(promotion: Promotion) -> list[str]:
    """Lines for a person: each candidate, every rule that it did not pass, and the outcome."""
    lines = []
    for candidate in promotion.candidates:
        auroc = candidate["val_macro_auroc"]
        figure = "" if auroc is None else f"  validation macro AUROC {auroc:.4f}"
        passed = all(rule["passed"] for rule in candidate["rules"])
        lines.append(f"{candidate['model']}: {'passed' if passed else 'refused'}{figure}")
        lines += [f"    {rule['rule']}: {rule['reason']}" for rule in candidate["rules"] if not rule["passed"]]
    champion = promotion.champion.model if promotion.champion else "none"
    before = promotion.previous.model if promotion.previous else "none"
    would = "would be " if promotion.dry_run else ""
    return (
        lines
        + {
            "promoted": [f"{would}promoted: {champion} ({_reason(promotion)}); champion before: {before}"],
            "kept": [f"nothing moves: {champion} is champion and still the best"],
            "refused": [f"refused: no student passed every rule; champion: {champion}"],
        }[promotion.outcome]
    )


# The registry


def _has_store(root: Path) -> bool:
    return "MLFLOW_TRACKING_URI" in os.environ or (root / "mlflow.db").is_file()


def _model(verdict: Verdict, root: Path) -> Model:
    onnx = root / "exports" / verdict.model / "model.onnx"
    config = read_json(root / "models" / "students" / verdict.model / "config.json")
    return Model(
        model=verdict.model,
        onnx_sha256=sha256(onnx),
        val_macro_auroc=verdict.facts.validation.get("macro_auroc"),
        dataset_fingerprint=config["dataset_fingerprint"],
    )


def _versions(client: "MlflowClient") -> dict[str, str]:
    """Version by sha256 of its ONNX file."""
    versions, token = {}, None
    while True:
        page = client.search_model_versions(f"name = '{NAME}'", page_token=token)
        versions |= {version.tags[SHA]: str(version.version) for version in page if SHA in version.tags}
        token = page.token
        if not token:
            return versions


def _current(client: "MlflowClient | None", history: list[dict[str, Any]]) -> Model | None:
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
                    f"version {version.version} of {NAME} has the alias {CHAMPION}, but `promote` did not register it; "
                    "move the alias to one that it did"
                )
            auroc = float(tags["val_macro_auroc"]) if "val_macro_auroc" in tags else None
            return Model(tags["model"], tags[SHA], auroc, tags["dataset_fingerprint"], str(version.version))
    known = champions(history)
    return dataclasses.replace(known[-1], version=None) if known else None


def _settled(client: "MlflowClient", root: Path, models: dict[str, Model], runs: dict[str, str]) -> Model | None:
    """The champion, after registry and history were brought to agree.

    A lost registry gets its champion back where the export is among `models`; an alias that was moved by hand, or
    before a crash, is written into the history.
    """
    history = read_history(root)
    champion = _current(client, history)
    if champion is None:
        return None
    if champion.version is None:
        found = next((model for model in models.values() if model.onnx_sha256 == champion.onnx_sha256), None)
        if found is None:
            return champion
        champion = dataclasses.replace(champion, version=_register(client, root, found, runs[found.model]))
        client.set_registered_model_alias(NAME, CHAMPION, champion.version)
        _append(root, {"action": "restored", "champion": champion.to_dict(), "previous": None})
    elif not (known := champions(history)) or known[-1].onnx_sha256 != champion.onnx_sha256:
        _append(root, {"action": "recorded", "champion": champion.to_dict(), "previous": None})
    return champion


def _register(client: "MlflowClient", root: Path, model: Model, run: str) -> str:
    """Version of `model`; created, with the ONNX file logged in the model's run, where there is none yet."""
    known = _versions(client)
    if model.onnx_sha256 in known:
        return known[model.onnx_sha256]
    import mlflow
    import onnx
    import onnxruntime
    from mlflow.exceptions import MlflowException

    folder = root / "exports" / model.model
    network = onnx.load(folder / "model.onnx")
    extra = [folder / name for name in ("bundle.json", "MODEL_CARD.md")]
    with mlflow.start_run(run_id=run):
        logged = mlflow.onnx.log_model(
            network,
            name=model.model,
            signature=_signature(network),
            pip_requirements=[f"onnx=={onnx.__version__}", f"onnxruntime=={onnxruntime.__version__}"],
            onnx_execution_providers=["CPUExecutionProvider"],
            save_as_external_data=False,  # one file, as it goes to the device
            extra_files=[str(path) for path in extra if path.is_file()],
        )
    try:
        client.create_registered_model(NAME, description="Students that passed the gate. Not a medical device.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {
        "model": model.model,
        SHA: model.onnx_sha256,
        "dataset_fingerprint": model.dataset_fingerprint,
        **({} if model.val_macro_auroc is None else {"val_macro_auroc": repr(model.val_macro_auroc)}),
    }
    version = client.create_model_version(NAME, f"models:/{logged.model_id}", run_id=run, tags=tags)
    return str(version.version)


def _signature(network: Any) -> Any:
    """MLflow's signature from the ONNX graph's own inputs and outputs."""
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def specs(values: Any) -> list[TensorSpec]:
        return [
            TensorSpec(
                onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type),
                tuple(d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim),
                value.name,
            )
            for value in values
        ]

    return ModelSignature(Schema(specs(network.graph.input)), Schema(specs(network.graph.output)))


def _point(client: "MlflowClient", champion: Model, previous: Model | None) -> None:
    """Move the aliases; `champion` last, so that it never points at what `previous` does not yet remember."""
    if previous is not None and previous.version is not None:
        client.set_registered_model_alias(NAME, PREVIOUS, previous.version)
    else:
        client.delete_registered_model_alias(NAME, PREVIOUS)
    client.set_registered_model_alias(NAME, CHAMPION, champion.version)


def _tag(client: "MlflowClient", judged: list[Verdict], models: dict[str, Model], promotion: Promotion) -> None:
    """Say on each candidate's version, and on the one that was replaced, what was decided and why."""
    said = {}
    if promotion.previous is not None:
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
    if promotion.outcome == "refused":
        return "no candidate passed"
    auroc = promotion.champion.val_macro_auroc
    of = f"of {len(promotion.ranking)} that passed" if len(promotion.ranking) > 1 else "the only one that passed"
    return f"ranked first, {of}" + ("" if auroc is None else f"; validation macro AUROC {auroc:.4f}")


# The history


def read_history(root: Path) -> list[dict[str, Any]]:
    """Lines of registry/history.jsonl, oldest first; empty where there is no such file.

    Raises:
        UserError: a line is damaged; the message names it.
    """
    path = root / HISTORY
    if not path.is_file():
        return []
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            lines.append(json.loads(line))
        except ValueError:
            raise UserError(f"{path}: line {number} is not JSON; mend or remove that line") from None
    return lines


def champions(history: list[dict[str, Any]]) -> list[Model]:
    """Champions that were not withdrawn, in the order in which they took over; the last one is the present one."""
    stack: list[Model] = []
    for line in history:
        if line["action"] == "rolled_back":
            stack = [model for model in stack if model.onnx_sha256 != line["previous"]["onnx_sha256"]]
        if line["action"] in ("promoted", "restored", "recorded", "rolled_back"):
            champion = Model(**line["champion"])
            if not stack or stack[-1].onnx_sha256 != champion.onnx_sha256:
                stack.append(champion)
    return stack


def withdrawn(history: list[dict[str, Any]]) -> dict[str, str]:
    """Sha256 of every model that was rolled back → when."""
    return {line["previous"]["onnx_sha256"]: line["time"] for line in history if line["action"] == "rolled_back"}


def looks(history: list[dict[str, Any]]) -> int:
    """How many different sets of models were judged on the data of the last verdict, each a look at its test set."""
    judged = [line for line in history if "evidence" in line]
    return len({line["evidence"] for line in judged if line["data"] == judged[-1]["data"]})


def _record(root: Path, promotion: Promotion, models: dict[str, Model]) -> None:
    """Append the verdict, unless it is the last one again (a second call, a night without news)."""
    shas = sorted(model.onnx_sha256 or model.model for model in models.values())
    line = {
        "action": promotion.outcome,
        "champion": promotion.champion and promotion.champion.to_dict(),
        "previous": promotion.previous and promotion.previous.to_dict(),
        "reason": _reason(promotion),
        "refused": promotion.reasons,
        "evidence": hashlib.sha256(" ".join(shas).encode()).hexdigest(),
        "data": next(iter(models.values())).dataset_fingerprint,
    }
    last = next((entry for entry in reversed(read_history(root)) if "evidence" in entry), None)
    if promotion.outcome == "promoted" or last is None or _gist(line) != _gist(last):
        _append(root, line)


def _gist(line: dict[str, Any]) -> tuple[Any, ...]:
    """What makes a verdict news: other models, other data, another champion, or a refusal."""
    champion = line["champion"] and line["champion"]["onnx_sha256"]
    return line["evidence"], line["data"], champion, line["action"] == "refused"


def _append(root: Path, line: dict[str, Any]) -> None:
    path = root / HISTORY
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **line})
    with path.open("a", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
