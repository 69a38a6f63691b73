"""The rule on licences: all of a student's ancestors, by name, whatever the case; unknown is not allowed."""

import pytest

from medistill.gate.rules import evaluate_candidates
from medistill.gate.settings import AllowedLicenses, Promote
from medistill.records.licenses import Ancestor
from tests.unit.gate.test_gate import GOOD

DATA = Ancestor(license="CC0-1.0", what="data nih", path=["students.c2", "data"])
START = Ancestor(license="Apache-2.0", what="weights of lite2", path=["students.c2", "init_from", "pretrained"])
TEACHER = Ancestor(
    license="cc-by-nc-4.0", what="weights of dino", path=["students.c2", "recipes.kd", "teachers.big", "pretrained"]
)
UNKNOWN = Ancestor(license=None, what="weights of resnet18", path=["students.c2", "recipes.kd", "teachers.friend"])


def judge(allow: list[str] | None, ancestors: list[Ancestor] | None):
    settings = Promote(licenses=AllowedLicenses(allow=allow) if allow else None)
    verdict = evaluate_candidates([GOOD.model_copy(update={"ancestors": ancestors})], settings)[0]
    (rule,) = (rule for rule in verdict.rules if rule.rule == "licenses")
    return rule, verdict.passed


@pytest.mark.parametrize("ancestors", [None, [], [DATA, UNKNOWN]])
def test_without_the_rule_any_licence_will_do(ancestors):
    rule, passed = judge(None, ancestors)
    assert (rule.verdict, rule.reason, rule.shown) == ("skipped", "not required", ("", "not required"))
    assert passed


def test_all_ancestors_must_be_allowed_in_small_or_large_letters():
    rule, passed = judge(["CC0-1.0", "apache-2.0", "CC-BY-NC-4.0"], [DATA, START, TEACHER])
    assert (rule.verdict, rule.reason) == ("passed", "3 ancestors, each with an allowed licence")
    assert rule.shown == ("0", "≤ 0")
    assert passed


def test_the_first_ancestor_that_is_not_allowed_is_named_with_its_path():
    rule, passed = judge(["CC0-1.0", "Apache-2.0"], [DATA, START, TEACHER, UNKNOWN])
    assert (rule.verdict, rule.value, rule.limit) == ("failed", 2, 0)
    assert rule.reason == (
        "the licence of weights of dino is cc-by-nc-4.0, which is not allowed"
        " (students.c2 → recipes.kd → teachers.big → pretrained); and 1 more"
    )
    assert not passed


def test_an_unknown_licence_is_refused():
    rule, passed = judge(["CC0-1.0"], [DATA, UNKNOWN])
    assert rule.reason == ("the licence of weights of resnet18 is unknown (students.c2 → recipes.kd → teachers.friend)")
    assert (rule.verdict, passed) == ("failed", False)


def test_licences_that_were_never_recorded_are_refused():
    rule, passed = judge(["CC0-1.0"], None)
    assert (rule.verdict, passed) == ("failed", False)
    assert "run the licenses stage again" in rule.reason
