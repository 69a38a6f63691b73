"""The gate: a candidate that passes, one refused by each rule, and the ranking of those that pass."""

import json

import pytest

from medistill.gate import rules as gate
from medistill.gate.facts import Shipped
from medistill.gate.settings import Promote
from medistill.records.export import Checked, Parity
from medistill.records.gate import CandidateFacts, Release
from tests import filled

RULES = Promote(
    max_params=8_000_000,
    max_macs=600_000_000,
    max_onnx_mb=40.0,
    margin_teacher=0.05,
    max_ece=0.15,
    require_baseline=True,
    require_parity=True,
)
NAMES = list(Promote.model_fields)
VALIDATION = {
    "macro_auroc": 0.85,
    "macro_ece": 0.05,
    "difference_baseline": 0.01,
    "difference_teacher": -0.02,
    "difference_teacher_lower": -0.04,
    "difference_teacher_upper": 0.0,
}
GOOD = CandidateFacts(
    model="c2-kd-0",
    student="c2",
    recipe="kd",
    seed=0,
    arch="eeea_net_c2",
    initialisation="random",
    dataset_fingerprint="data",
    params=4_732_838,
    macs=290_000_000,
    onnx_mb=19.0,
    parity=filled.parity(max_abs_logit_difference=2e-6),
    validation=VALIDATION,
    distilled=True,
    has_baseline=True,
)


def replace(record, **changes):
    return record.model_copy(update=changes)


def parity(**changes) -> Parity:
    return replace(GOOD.parity, **changes)


def verdict(rules: Promote = RULES, **changes) -> gate.Verdict:
    return gate.evaluate_candidates([replace(GOOD, **changes)], rules)[0]


def without(*keys: str) -> dict[str, float]:
    return {key: value for key, value in VALIDATION.items() if key not in keys}


def test_a_good_candidate_passes_every_rule():
    result = verdict()
    assert result.passed
    assert [rule.rule for rule in result.rules] == NAMES
    assert result.reasons == []
    assert json.loads(json.dumps(result.record.to_json(), allow_nan=False))["passed"] is True


@pytest.mark.parametrize(
    ("rule", "changes", "number"),
    [
        ("max_params", {"params": 8_000_001}, "8,000,001"),
        ("max_macs", {"macs": 600_000_001}, "600,000,001"),
        ("max_onnx_mb", {"onnx_mb": 40.01}, "40.01"),
        ("max_onnx_mb", {"onnx_mb": None}, "no figure"),
        ("margin_teacher", {"validation": VALIDATION | {"difference_teacher_lower": -0.05}}, "-0.0500"),
        ("margin_teacher", {"validation": without("difference_teacher_lower")}, "no interval"),
        ("margin_teacher", {"validation": without("difference_teacher", "difference_teacher_lower")}, "no teacher"),
        ("max_ece", {"validation": VALIDATION | {"macro_ece": 0.1501}}, "0.1501"),
        ("max_ece", {"validation": without("macro_ece")}, "no figure"),
        ("max_ece", {"validation": VALIDATION | {"macro_ece": float("nan")}}, "no figure"),
        ("require_baseline", {"validation": VALIDATION | {"difference_baseline": -0.0001}}, "-0.0001"),
        ("require_baseline", {"validation": without("difference_baseline")}, "no label"),
        ("require_baseline", {"has_baseline": False}, "no recipe without teachers"),
        ("require_parity", {"parity": None}, "missing"),
        ("require_parity", {"parity": parity(passed=False)}, "passed"),
        ("require_parity", {"parity": parity(max_abs_logit_difference=1.1e-4)}, "1.1e-04"),
        ("require_parity", {"parity": parity(max_abs_logit_difference=None)}, "not finite"),
        (
            "require_parity",
            {"parity": parity(outputs={"saliency_map": Checked(difference=2e-4, limit=1e-4)})},
            "2.0e-04",
        ),
        ("require_parity", {"parity": parity(outputs={"auroc": Checked(difference=None, limit=1e-4)})}, "not finite"),
    ],
)
def test_each_rule_refuses_and_says_why(rule, changes, number):
    result = verdict(**changes)
    assert not result.passed
    assert [item.rule for item in result.rules if not item.passed] == [rule]
    assert number in result.reasons[0]
    assert result.reasons[0].startswith(f"{rule}: ")
    json.dumps([item.record.to_json() for item in result.rules], allow_nan=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"params": 8_000_000},
        {"macs": 600_000_000},
        {"onnx_mb": 40.0},
        {"validation": VALIDATION | {"difference_teacher_lower": -0.0499}},
        {"validation": VALIDATION | {"macro_ece": 0.15}},
        {"validation": VALIDATION | {"difference_baseline": 0.0}},
        {"parity": parity(max_abs_logit_difference=1e-4)},
    ],
)
def test_a_limit_itself_is_allowed(changes):
    assert verdict(**changes).passed


def test_a_baseline_needs_no_baseline():
    result = verdict(distilled=False, has_baseline=False, validation=without("difference_baseline"))
    assert result.passed
    assert next(rule.reason for rule in result.rules if rule.rule == "require_baseline") == "it is the baseline"


def test_requirements_can_be_waived_but_stay_in_the_table():
    rules = RULES.model_copy(update={"require_baseline": False, "require_parity": False})
    result = verdict(rules, parity=None, has_baseline=False, validation=without("difference_baseline"))
    assert result.passed
    reasons = {rule.rule: rule.reason for rule in result.rules}
    assert reasons["require_baseline"] == reasons["require_parity"] == "not required"


def ranked(*candidates: tuple[str, float | None, int]) -> list[str]:
    facts = [
        replace(GOOD, model=name, macs=macs, validation={} if auroc is None else {"macro_auroc": auroc})
        for name, auroc, macs in candidates
    ]
    return [item.model for item in gate.rank(gate.evaluate_candidates(facts, RULES))]


def test_rank_is_by_validation_auroc():
    assert ranked(("a", 0.80, 1), ("b", 0.90, 3), ("c", 0.85, 2)) == ["b", "c", "a"]


def test_within_two_thousandths_of_the_best_the_cheaper_one_is_first():
    assert ranked(("best", 0.900, 300), ("cheap", 0.898, 100), ("close", 0.8979, 1)) == ["cheap", "best", "close"]
    # Ties are counted from the best, not from neighbour to neighbour.
    assert ranked(("a", 0.900, 300), ("b", 0.899, 200), ("c", 0.897, 100)) == ["b", "a", "c"]


def test_candidates_without_a_figure_rank_last_whatever_the_order():
    assert ranked(("none", None, 1), ("b", 0.9, 5), ("a", 0.9, 5)) == ["a", "b", "none"]
    assert ranked(("a", 0.9, 5), ("none", None, 1), ("b", 0.9, 5)) == ["a", "b", "none"]
    assert gate.rank([]) == []


def test_parity_is_relative_where_logits_are_large():
    """float32 has some seven digits, whatever the size of the logits."""
    assert not verdict(parity=parity(max_abs_logit_difference=2.6e-4, largest_logit=20.0)).passed
    assert verdict(parity=parity(max_abs_logit_difference=2.6e-4, largest_logit=254.4)).passed
    assert not verdict(parity=parity(max_abs_logit_difference=2.6e-4, largest_logit=float("inf"))).passed
    assert not verdict(parity=parity(max_abs_logit_difference=2.6e-3, largest_logit=-254.4)).passed


def test_a_disabled_rule_is_skipped_and_passes():
    settings = RULES.model_copy(update={"require_baseline": False, "require_parity": False})
    by_name = {rule.rule: rule for rule in verdict(settings, parity=None).rules}
    assert [name for name, rule in by_name.items() if rule.verdict == "skipped"] == NAMES[-3:]
    assert by_name["require_parity"].record.to_json() == {
        "rule": "require_parity",
        "value": None,
        "limit": None,
        "verdict": "skipped",
        "reason": "not required",
    }
    (baseline,) = (rule for rule in verdict(distilled=False).rules if rule.rule == "require_baseline")
    assert (baseline.verdict, baseline.passed) == ("skipped", True)


def test_a_rule_shows_its_numbers_in_its_own_way():
    shown = {rule.rule: rule.shown for rule in verdict().rules}
    assert shown == {
        "max_params": ("4.73 M", "≤ 8.00 M"),
        "max_macs": ("290.00 M", "≤ 600.00 M"),
        "max_onnx_mb": ("19.0 MB", "≤ 40.0 MB"),
        "margin_teacher": ("−0.040", "> −0.050"),
        "max_ece": ("0.050", "≤ 0.150"),
        "require_baseline": ("+0.010", "≥ 0"),
        "require_parity": ("2e−06", "≤ 1e−04"),
        "licenses": ("", "not required"),
    }
    (missing,) = (rule for rule in verdict(parity=None).rules if rule.rule == "require_parity")
    assert missing.shown == ("", "≤ 1e−04")
    (baseline,) = (rule for rule in verdict(distilled=False).rules if rule.rule == "require_baseline")
    assert baseline.shown == ("", "it is the baseline")


NEW = Release(model="c2-kd-0", onnx_sha256="new", val_macro_auroc=0.85, dataset_fingerprint="data")
OLD = Release(model="lite0-kd-0", onnx_sha256="old", val_macro_auroc=0.84, dataset_fingerprint="data", version="3")


@pytest.mark.parametrize(
    ("champion", "withdrawn", "outcomes", "words"),
    [
        (None, {}, ("skipped", "passed"), "there is no champion yet"),
        (OLD, {}, ("passed", "passed"), "0.8500, not below the champion's 0.8400 (lite0-kd-0 (version 3))"),
        (replace(OLD, val_macro_auroc=0.86), {}, ("failed", "passed"), "0.8500, below the champion's 0.8600"),
        (replace(OLD, val_macro_auroc=0.85), {}, ("passed", "passed"), "not below"),
        (replace(OLD, val_macro_auroc=0.99, dataset_fingerprint="other"), {}, ("skipped", "passed"), "on other data"),
        (replace(OLD, val_macro_auroc=None), {}, ("skipped", "passed"), "the champion lite0-kd-0 (version 3) has no"),
        (replace(OLD, onnx_sha256="new"), {}, ("skipped", "passed"), "it is the champion"),
        (OLD, {"new": "2026-01-02"}, ("passed", "failed"), "it was rolled back at 2026-01-02"),
    ],
)
def test_earlier_champions_count(champion, withdrawn, outcomes, words):
    (judged,) = gate.add_shipping_rules([verdict()], {"c2-kd-0": NEW}, Shipped(champion, withdrawn))
    assert [rule.rule for rule in judged.rules] == [*NAMES, "champion", "withdrawn"]
    assert tuple(rule.verdict for rule in judged.rules[-2:]) == outcomes
    assert judged.passed == ("failed" not in outcomes)
    assert words in " ".join(rule.reason for rule in judged.rules[-2:])


def test_a_champion_that_now_fails_the_gate_does_not_block_candidates():
    champion = replace(OLD, val_macro_auroc=0.99, onnx_sha256="again")
    facts = [GOOD, replace(GOOD, model="again", params=9_000_000)]
    releases = {"c2-kd-0": NEW, "again": replace(NEW, model="again", onnx_sha256="again", val_macro_auroc=0.99)}
    judged, _ = gate.add_shipping_rules(gate.evaluate_candidates(facts, RULES), releases, Shipped(champion, {}))
    assert judged.passed
    assert judged.rules[-2].reason == "the champion lite0-kd-0 (version 3) no longer passes the gate"


def test_a_champion_that_is_a_candidate_is_judged_by_its_new_figure():
    champion = replace(OLD, val_macro_auroc=0.99, onnx_sha256="again")
    facts = [GOOD, replace(GOOD, model="again")]
    releases = {"c2-kd-0": NEW, "again": replace(NEW, model="again", onnx_sha256="again", val_macro_auroc=0.80)}
    judged, _ = gate.add_shipping_rules(gate.evaluate_candidates(facts, RULES), releases, Shipped(champion, {}))
    assert (judged.rules[-2].limit, judged.rules[-2].verdict) == (0.80, "passed")
