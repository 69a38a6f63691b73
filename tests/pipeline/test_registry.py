"""The champion: promoted, refused by each rule, kept, rolled back, and restored after the registry is lost."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_graph
import numpy as np
import pytest

from medistill.errors import UserError
from medistill.files import sha256
from medistill.gate.settings import Promote
from medistill.params import Params, load_params
from pipeline.history import read_history
from pipeline.registry import mend_champion, promote, promotion_lines, rollback
from pipeline.store import open_store
from pipeline.tracking import EXPERIMENT
from pipeline.versions import NAME

RULES = list(Promote.model_fields)


def aliases(root: Path) -> dict[str, str]:
    """Alias → model, as MLflow's own client sees them."""
    client = open_store(root)
    found = client.search_registered_models(f"name = '{NAME}'")
    return {a: client.get_model_version(NAME, v).tags["model"] for model in found for a, v in model.aliases.items()}


def auroc(root: Path, **values: float) -> None:
    """Retrain the fake students with these validation macro AUROCs: `kd=0.9`, `baseline=0.7`."""
    fake_graph.set_numbers(root, **{f"small-{recipe}-0": {"val": value} for recipe, value in values.items()})
    fake_graph.repro(root)


@pytest.fixture
def champion(repository: Path, settings: Callable[[], Params]) -> Path:
    """The repository after its first promotion: `small-kd-0` (0.83) is champion."""
    promote(settings(), repository)
    return repository


def test_the_best_is_promoted_and_can_be_loaded(repository: Path, settings: Callable[[], Params]) -> None:
    import mlflow

    promotion = promote(settings(), repository)

    assert (promotion.outcome, promotion.champion.model, promotion.previous) == ("promoted", "small-kd-0", None)
    assert promotion.ranking == ["small-kd-0", "small-baseline-0"]
    assert aliases(repository) == {"champion": "small-kd-0"}
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), np.uint8)
    logits = model.predict({"image": images})["logits"]
    assert logits == pytest.approx(images.reshape(3, -1).mean(axis=1, keepdims=True) + 0.83, rel=1e-5)
    version = open_store(repository).get_model_version_by_alias(NAME, "champion")
    assert {"model": "small-kd-0", "verdict": "champion", "val_macro_auroc": "0.83"}.items() <= version.tags.items()
    assert "ranked first" in version.tags["reason"]
    assert open_store(repository).get_run(version.run_id).info.run_name == "small-kd-0"


def test_every_rule_is_written_with_value_limit_and_verdict(champion: Path, settings: Callable[[], Params]) -> None:
    written = json.loads((champion / "reports/promotion.json").read_text())

    assert written["outcome"] == "promoted"
    assert written["champion"]["model"] == "small-kd-0"
    student = next(candidate for candidate in written["candidates"] if candidate["model"] == "small-kd-0")
    assert [rule["rule"] for rule in student["rules"]] == [*RULES, "champion", "withdrawn"]
    assert all(set(rule) == {"rule", "value", "limit", "verdict", "reason"} for rule in student["rules"])
    rule = next(rule for rule in student["rules"] if rule["rule"] == "max_params")
    assert (rule["value"], rule["limit"], rule["verdict"]) == (1000, 5000, "passed")


LIMITS: list[tuple[str, dict[str, Any]]] = [
    ("max_params", {"max_params": 999}),
    ("max_macs", {"max_macs": 9_999}),
    ("max_onnx_mb", {"max_onnx_mb": 1e-5}),
    ("margin_teacher", {"margin_teacher": 0.05}),
    ("max_ece", {"max_ece": 0.04}),
]
FIGURES: list[tuple[str, dict[str, Any]]] = [
    ("require_baseline", {"small-kd-0": {"difference_baseline": -0.01}, "small-baseline-0": {"parity": 1.0}}),
    ("require_parity", {"small-kd-0": {"parity": 2e-4}, "small-baseline-0": {"parity": 2e-4}}),
    ("champion", {"small-kd-0": {"val": 0.82}, "small-baseline-0": {"val": 0.81}}),
]


@pytest.mark.parametrize(("rule", "limits"), LIMITS, ids=[rule for rule, _ in LIMITS])
def test_a_limit_refuses(champion: Path, settings: Callable[[], Params], rule: str, limits: dict[str, Any]) -> None:
    fake_graph.set_params(champion, "promote", **limits)

    check_refusal(champion, settings(), rule)


@pytest.mark.parametrize(("rule", "figures"), FIGURES, ids=[rule for rule, _ in FIGURES])
def test_a_figure_refuses(champion: Path, settings: Callable[[], Params], rule: str, figures: dict[str, Any]) -> None:
    fake_graph.set_numbers(champion, **figures)
    fake_graph.repro(champion)

    check_refusal(champion, settings(), rule)


def check_refusal(root: Path, params: Params, rule: str) -> None:
    """No alias moves; the result, the file and the history name the rule and its reason for `small-kd-0`."""
    before = aliases(root)

    promotion = promote(params, root)

    assert promotion.outcome == "refused"
    assert aliases(root) == before == {"champion": "small-kd-0"}
    assert promotion.champion.val_macro_auroc == 0.83
    written = json.loads((root / "reports/promotion.json").read_text())
    assert written["outcome"] == "refused"
    student = next(candidate for candidate in written["candidates"] if candidate["model"] == "small-kd-0")
    assert [item["rule"] for item in student["rules"] if item["verdict"] == "failed"] == [rule]
    last = read_history(root)[-1]
    assert last.action == "refused"
    assert any(reason.startswith(f"small-kd-0: {rule}: ") for reason in last.refused)


def test_a_refusal_before_there_was_a_champion_leaves_none(repository: Path, settings: Callable[[], Params]) -> None:
    fake_graph.set_params(repository, "promote", max_params=1)

    promotion = promote(settings(), repository)

    assert (promotion.outcome, promotion.champion) == ("refused", None)
    assert aliases(repository) == {}


def test_a_second_call_moves_nothing_and_adds_nothing(champion: Path, settings: Callable[[], Params]) -> None:
    def state() -> tuple[Any, ...]:
        versions = open_store(champion).search_model_versions(f"name = '{NAME}'")
        return aliases(champion), len(versions)

    before = state()
    again = promote(settings(), champion)
    history = read_history(champion)

    assert (again.outcome, again.champion.model) == ("kept", "small-kd-0")
    assert [rule.reason for rule in again.candidates[1].rules if rule.rule == "champion"] == ["it is the champion"]
    assert state() == before
    assert promote(settings(), champion).outcome == "kept"
    assert read_history(champion) == history


def test_the_champion_stays_where_the_new_ones_are_worse(champion: Path, settings: Callable[[], Params]) -> None:
    auroc(champion, kd=0.83, baseline=0.825)  # the champion is still a candidate, the baseline is new

    promotion = promote(settings(), champion)

    assert (promotion.outcome, promotion.champion.model) == ("kept", "small-kd-0")
    rule = next(rule for rule in promotion.candidates[0].rules if rule.rule == "champion")
    assert (rule.value, rule.limit, rule.verdict) == (0.825, 0.83, "failed")
    assert "below the champion's 0.8300" in rule.reason


def test_a_better_one_replaces_the_champion(champion: Path, settings: Callable[[], Params]) -> None:
    auroc(champion, baseline=0.86)

    promotion = promote(settings(), champion)

    assert (promotion.outcome, promotion.previous.model) == ("promoted", "small-kd-0")
    assert aliases(champion) == {"champion": "small-baseline-0", "previous": "small-kd-0"}
    assert [line.action for line in read_history(champion)] == ["promoted", "promoted"]


@pytest.mark.slow
def test_a_champion_of_other_data_is_not_compared(champion: Path, settings: Callable[[], Params]) -> None:
    fake_graph.set_numbers(champion, fingerprint="e" * 64)
    auroc(champion, kd=0.7, baseline=0.6)

    promotion = promote(settings(), champion)

    assert promotion.outcome == "promoted"
    reasons = [rule.reason for rule in promotion.candidates[0].rules if rule.rule == "champion"]
    assert "other data" in reasons[0]


@pytest.mark.slow
def test_a_champion_that_now_fails_the_gate_does_not_block_candidates(
    champion: Path, settings: Callable[[], Params]
) -> None:
    fake_graph.set_numbers(champion, **{"small-kd-0": {"params": 4_000}, "small-baseline-0": {"val": 0.9}})
    fake_graph.repro(champion)
    promote(settings(), champion)
    assert aliases(champion)["champion"] == "small-baseline-0"
    fake_graph.set_numbers(champion, **{"small-baseline-0": {"parity": 1.0}})
    fake_graph.repro(champion)

    promotion = promote(settings(), champion)

    # The baseline's ONNX file is the same; only its parity is no longer proven.
    assert (promotion.outcome, promotion.champion.model) == ("promoted", "small-kd-0")


def test_rollback_returns_and_the_withdrawn_one_stays_out(champion: Path, settings: Callable[[], Params]) -> None:
    auroc(champion, baseline=0.86)
    promote(settings(), champion)

    now, bad = rollback(champion)

    assert (now.model, bad.model) == ("small-kd-0", "small-baseline-0")
    assert aliases(champion) == {"champion": "small-kd-0"}
    assert read_history(champion)[-1].action == "rolled_back"
    again = promote(settings(), champion)
    assert (again.outcome, again.champion.model) == ("kept", "small-kd-0")
    assert any("withdrawn" in reason for reason in again.reasons)
    assert aliases(champion) == {"champion": "small-kd-0"}
    with pytest.raises(UserError, match="the registry has no earlier one"):
        rollback(champion)


def test_rollback_without_a_champion_says_what_to_do(repository: Path, settings: Callable[[], Params]) -> None:
    with pytest.raises(UserError, match="pipeline promote"):
        rollback(repository)


def test_an_alias_that_was_moved_by_hand_is_respected_and_recorded(
    champion: Path, settings: Callable[[], Params]
) -> None:
    client = open_store(champion)
    other = next(v for v in client.search_model_versions(f"name = '{NAME}'") if v.tags["model"] == "small-baseline-0")
    client.set_registered_model_alias(NAME, "champion", other.version)

    promotion = promote(settings(), champion)

    assert (promotion.previous.model, promotion.champion.model) == ("small-baseline-0", "small-kd-0")
    assert [line.action for line in read_history(champion)] == ["promoted", "recorded", "promoted"]


def lose_registry(root: Path, empty_store: Path) -> Path:
    """Delete mlflow.db and mlruns, and rename the repository, as this process still has the lost file open."""
    (root / "mlflow.db").unlink()
    shutil.rmtree(root / "mlruns")
    moved = root.rename(root.with_name("moved"))
    shutil.copy(empty_store, moved / "mlflow.db")
    return moved


def test_a_lost_registry_gets_its_champion_back(champion: Path, empty_store: Path) -> None:
    moved = lose_registry(champion, empty_store)

    promotion = promote(load_params(moved / "params.yaml"), moved)

    assert (promotion.outcome, promotion.champion.model) == ("kept", "small-kd-0")
    assert aliases(moved) == {"champion": "small-kd-0"}
    assert [line.action for line in read_history(moved)] == ["promoted", "restored"]


@pytest.mark.slow
def test_a_champion_that_is_lost_for_good_still_sets_the_limit(champion: Path, empty_store: Path) -> None:
    auroc(champion, kd=0.82, baseline=0.81)
    moved = lose_registry(champion, empty_store)

    promotion = promote(load_params(moved / "params.yaml"), moved)

    assert (promotion.outcome, promotion.champion.val_macro_auroc) == ("refused", 0.83)
    assert aliases(moved) == {}


def test_a_dry_run_writes_nothing(repository: Path, settings: Callable[[], Params]) -> None:
    (repository / "mlflow.db").unlink()
    before = sorted(path for path in repository.rglob("*") if ".dvc/tmp" not in path.as_posix())

    promotion = promote(settings(), repository, dry_run=True)

    assert (promotion.outcome, promotion.champion.model, promotion.dry_run) == ("promoted", "small-kd-0", True)
    assert sorted(path for path in repository.rglob("*") if ".dvc/tmp" not in path.as_posix()) == before


def test_a_dry_run_measures_against_the_present_champion(champion: Path, settings: Callable[[], Params]) -> None:
    auroc(champion, kd=0.82, baseline=0.81)
    history = read_history(champion)

    assert promote(settings(), champion, dry_run=True).outcome == "refused"
    assert read_history(champion) == history
    assert len(open_store(champion).search_model_versions(f"name = '{NAME}'")) == 2


def files_of(root: Path, alias: str) -> Path:
    """The folder in which MLflow keeps the files of the version with this alias."""
    client = open_store(root)
    model_id = client.get_model_version_by_alias(NAME, alias).source.removeprefix("models:/")
    return Path(client.get_logged_model(model_id).artifact_location.removeprefix("file://").replace("%20", " "))


def answer(root: Path) -> float:
    """The champion's logit of a black image, as whoever loads it from MLflow gets it."""
    import mlflow

    open_store(root)
    model = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    return float(model.predict({"image": np.zeros((1, 1, 8, 8), np.uint8)})["logits"][0, 0])


def other_network(folder: Path) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes().replace(np.float32(0.83).tobytes(), np.float32(0.99).tobytes()))


@pytest.mark.parametrize(
    "lose",
    [lambda folder: shutil.rmtree(folder.parents[2]), lambda folder: (folder / "MLmodel").unlink(), other_network],
    ids=["mlruns", "a file", "another network"],
)
def test_files_of_the_champion_that_are_gone_or_others_come_back(
    champion: Path, settings: Callable[[], Params], lose: Callable[[Path], object]
) -> None:
    folder = files_of(champion, "champion")
    versions = len(open_store(champion).search_model_versions(f"name = '{NAME}'"))
    lose(folder)

    promotion = promote(settings(), champion)

    assert (promotion.outcome, promotion.warnings) == ("kept", [])
    assert sha256(folder / "model.onnx") == promotion.champion.onnx_sha256
    assert answer(champion) == pytest.approx(0.83, rel=1e-6)
    assert len(open_store(champion).search_model_versions(f"name = '{NAME}'")) == versions


def test_track_brings_the_champions_files_back_as_well(champion: Path) -> None:
    folder = files_of(champion, "champion")
    shutil.rmtree(champion / "mlruns")

    assert mend_champion(champion) is None
    assert (folder / "model.onnx").is_file()


@pytest.mark.slow
def test_a_champion_whose_files_are_lost_for_good_is_named(champion: Path, settings: Callable[[], Params]) -> None:
    auroc(champion, kd=0.82, baseline=0.81)  # trained anew: no export has the champion's bytes any more
    shutil.rmtree(files_of(champion, "champion"))

    promotion = promote(settings(), champion)

    lost = "the champion small-kd-0 (version 2) cannot be loaded: its files in MLflow are gone or changed"
    assert promotion.outcome == "refused"
    assert promotion.warnings[0].startswith(lost)
    assert any(line.startswith(f"warning: {lost}") for line in promotion_lines(promotion))
    assert json.loads((champion / "reports/promotion.json").read_text())["warnings"] == promotion.warnings
    assert mend_champion(champion).startswith(lost)


@pytest.mark.slow
def test_rollback_refuses_a_champion_that_cannot_be_loaded(champion: Path, settings: Callable[[], Params]) -> None:
    auroc(champion, kd=0.82, baseline=0.86)
    first = files_of(champion, "champion")
    promote(settings(), champion)
    shutil.rmtree(first)
    before, history = aliases(champion), read_history(champion)

    with pytest.raises(UserError, match=r"^small-kd-0 \(version 2\) cannot be loaded"):
        rollback(champion)

    assert (aliases(champion), read_history(champion)) == (before, history)


def killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_a_rollback_that_was_cut_short_is_finished(
    champion: Path, settings: Callable[[], Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the history was written and before the alias moved: the withdrawn model must not come back."""
    auroc(champion, baseline=0.86)
    promote(settings(), champion)
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.registry._return", killed)
        with pytest.raises(KeyboardInterrupt):
            rollback(champion)
    assert aliases(champion)["champion"] == "small-baseline-0"

    promotion = promote(settings(), champion)

    assert (promotion.outcome, promotion.champion.model) == ("kept", "small-kd-0")
    assert aliases(champion) == {"champion": "small-kd-0"}
    assert [line.action for line in read_history(champion)] == ["promoted", "promoted", "rolled_back", "kept"]


def test_a_logged_model_that_a_killed_promote_has_left_is_taken(
    repository: Path, settings: Callable[[], Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    def models() -> list[Any]:
        client = open_store(repository)
        return client.search_logged_models([client.get_experiment_by_name(EXPERIMENT).experiment_id])

    for call in ("log_model_artifacts", "create_model_version"):
        with monkeypatch.context() as patch:
            patch.setattr(mlflow.MlflowClient, call, killed)
            with pytest.raises(KeyboardInterrupt):
                promote(settings(), repository)
    (left,) = models()

    assert promote(settings(), repository).outcome == "promoted"
    found = {model.model_id: (model.name, model.status) for model in models()}
    assert left.model_id in found
    assert sorted(found.values()) == [("small-baseline-0", "READY"), ("small-kd-0", "READY")]
    versions = open_store(repository).search_model_versions(f"name = '{NAME}'")
    assert {version.source.removeprefix("models:/") for version in versions} == set(found)


def test_a_logged_model_that_nobody_completes_any_more_is_named(
    repository: Path, settings: Callable[[], Params], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "create_model_version", killed)
        with pytest.raises(KeyboardInterrupt):
            promote(settings(), repository)
    client = open_store(repository)
    (left,) = client.search_logged_models([client.get_experiment_by_name(EXPERIMENT).experiment_id])
    auroc(repository, **{left.name.split("-")[1]: 0.82})  # trained anew: no export has its bytes

    promotion = promote(settings(), repository)

    said = f"logged model {left.name} ({left.model_id}) in MLflow has no version, probably since `promote` was killed"
    assert [warning.startswith(said) for warning in promotion.warnings] == [True]
    client.delete_logged_model(left.model_id)
    assert promote(settings(), repository).warnings == []


@pytest.mark.slow
def test_a_promote_that_was_killed_before_it_writes_is_completed_by_the_next(repository: Path) -> None:
    script = Path(__file__).with_name("killed.py")
    command = [sys.executable, str(script), str(repository)]
    done = subprocess.run(command, env=fake_graph.environment(), capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    tries = [json.loads(line) for line in done.stdout.splitlines()]

    assert len(tries) > 30
    for calls, again, state in tries:
        assert again, f"killed before call {calls}, the next one failed: {done.stderr}"
        history, outcome = state.pop("history"), state.pop("outcome")
        assert state == {
            "champion": "small-kd-0",
            "versions": ["small-baseline-0", "small-kd-0"],
            "logged": ["small-baseline-0 READY", "small-kd-0 READY"],
            "referred": True,
            "whole": True,
            "figures": True,
            "runs": ["FINISHED"] * 3,
            "leftovers": [],
        }, f"killed before call {calls}"
        # "recorded": killed after the alias had moved; the next run adds it to the history.
        assert (history, outcome) in (
            (["promoted"], "promoted"),
            (["promoted"], "kept"),
            (["recorded", "kept"], "kept"),
        ), f"killed before call {calls}"
