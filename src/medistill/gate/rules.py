"""The gate before the registry: every candidate against every rule, with a reason for each verdict.

A rule is one object in `RULES` or `SHIPPING_RULES`: its judgement, the format of its numbers, and its sentence. Only
validation figures are read: the test split chooses nothing.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Generic, TypeVar

from medistill.checksums import LICENSES_AGAIN
from medistill.export.tolerance import parity_limit
from medistill.gate.facts import Shipped, finite
from medistill.gate.settings import AllowedLicenses, Promote
from medistill.records.gate import CandidateFacts, Judged, Release, RuleResult
from medistill.records.licenses import Ancestor
from medistill.text import pluralise

TIE = 0.002
"""Candidates this close to the best validation macro AUROC count as equally good; the cheaper one goes first."""


class Outcome(StrEnum):
    """A rule's outcome for a candidate; `skipped`: the rule does not apply to it."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Judgement:
    """What a rule finds: the outcome, the sentence for it, and the two numbers that were compared, if any."""

    outcome: Outcome
    reason: str
    value: float | None = None
    limit: float | None = None


Case = TypeVar("Case")


def _passed(holds: bool, reason: str, value: float | None = None, limit: float | None = None) -> Judgement:
    return Judgement(Outcome.PASSED if holds else Outcome.FAILED, reason, value, limit)


@dataclass(frozen=True)
class Rule(Generic[Case]):
    """One rule.

    Attributes:
        name: its key in section `promote` of params.yaml, if it has one.
        judge: the function from a case to its result.
        relation: of value and limit if it passes: ≤, ≥ or >.
        form: format of its numbers in a table.
        unit: after a number in a table.
        scale: numbers are divided by it in a table.
    """

    name: str
    judge: Callable[[Case], Judgement]
    relation: str = "≤"
    form: str = ".3f"
    unit: str = ""
    scale: float = 1.0

    def __call__(self, case: Case) -> "RuleVerdict":
        """Judge one candidate by the rule."""
        found = self.judge(case)
        return RuleVerdict(self, found.value, found.limit, found.outcome, found.reason)

    def show(self, number: float | None) -> str:
        """A value or limit as a table shows it; empty if there is none."""
        if number is None:
            return ""
        text = f"{number / self.scale:{self.form}}".replace("-", "−") if number else "0"
        return text + self.unit


@dataclass(frozen=True)
class RuleVerdict:
    """One rule for one candidate.

    Attributes:
        of: the rule, which formats its numbers.
        value, limit: the numbers that were compared; None if there is none.
        verdict: passed, failed or skipped.
        reason: a sentence.
    """

    of: Rule[Any]
    value: float | None
    limit: float | None
    verdict: Outcome
    reason: str

    @property
    def rule(self) -> str:
        """Name of the rule."""
        return self.of.name

    @property
    def is_skipped(self) -> bool:
        """Whether the rule does not apply to the candidate."""
        return self.verdict is Outcome.SKIPPED

    @property
    def passed(self) -> bool:
        """Whether the candidate passes it."""
        return self.verdict is not Outcome.FAILED

    @property
    def shown(self) -> tuple[str, str]:
        """Value and limit as a table shows them: `4.73 M`, `≤ 8.00 M`."""
        bound = self.reason if self.limit is None else f"{self.of.relation} {self.of.show(self.limit)}"
        return self.of.show(self.value), bound

    @property
    def record(self) -> RuleResult:
        """As gate.json has it."""
        return RuleResult(
            rule=self.rule, value=self.value, limit=self.limit, verdict=self.verdict.value, reason=self.reason
        )


@dataclass(frozen=True)
class Verdict:
    """All rules for one candidate."""

    facts: CandidateFacts
    rules: tuple[RuleVerdict, ...]

    @property
    def model(self) -> str:
        """Name of the candidate."""
        return self.facts.model

    @property
    def passed(self) -> bool:
        """Whether it passes every rule."""
        return all(rule.passed for rule in self.rules)

    @property
    def reasons(self) -> list[str]:
        """Why it was refused: `rule: reason` of each failed rule; empty if it passed."""
        return [f"{rule.rule}: {rule.reason}" for rule in self.rules if not rule.passed]

    @property
    def record(self) -> Judged:
        """Its entry in gate.json."""
        return Judged(**dict(self.facts), rules=[rule.record for rule in self.rules], passed=self.passed)


@dataclass(frozen=True)
class GateCase:
    """The input of the gate's own rules: a candidate, and section `promote`."""

    facts: CandidateFacts
    settings: Promote


@dataclass(frozen=True)
class ShippingCase:
    """The input of the rules about models that were shipped before.

    Attributes:
        release: the candidate.
        champion: the present one; None if there is none.
        champion_today: today's figure of a champion that is a candidate itself; None if it is not.
        champion_holds: whether such a champion passes today's gate.
        withdrawn: sha256 of every model that was rolled back → when.
    """

    release: Release
    champion: Release | None
    champion_today: Release | None
    champion_holds: bool
    withdrawn: Mapping[str, str]


def _at_most(
    name: str, what: str, value: Callable[[CandidateFacts], float | None], words: str, **shown: Any
) -> Rule[GateCase]:
    """The rule value ≤ limit, the limit being the setting of the same name.

    Args:
        name: of rule and setting.
        what: the value in words.
        value: reads it from a candidate.
        words: format of both numbers in the sentence.
        shown: how they are shown in a table, see `Rule`.
    """

    def judge(case: GateCase) -> Judgement:
        number, limit = finite(value(case.facts)), getattr(case.settings, name)
        if number is None:
            return Judgement(Outcome.FAILED, f"there is no figure for {what}", None, limit)
        relation = "within" if number <= limit else "above"
        reason = f"{what} is {words.format(number)}, {relation} the limit of {words.format(limit)}"
        return _passed(number <= limit, reason, number, limit)

    return Rule(name, judge, **shown)


def _margin_teacher(case: GateCase) -> Judgement:
    limit = -case.settings.margin_teacher
    found = case.facts.figure("difference_teacher")
    difference, lower = finite(found.estimate), finite(found.lower)
    if difference is None:
        reason = "no label is eligible on validation, or no teacher knows all that are, so there is no comparison"
        return Judgement(Outcome.FAILED, reason, None, limit)
    if lower is None:
        reason = f"the difference to the best teacher on validation is {difference:+.4f}, but it has no interval"
        return Judgement(Outcome.FAILED, reason, None, limit)
    reason = (
        f"validation macro AUROC minus the best teacher's is {difference:+.4f}; the lower bound {lower:+.4f} "
        f"is {'above' if lower > limit else 'not above'} {limit:+.4f}"
    )
    return _passed(lower > limit, reason, lower, limit)


def _baseline(case: GateCase) -> Judgement:
    if not case.facts.distilled:
        return Judgement(Outcome.SKIPPED, "it is the baseline")
    difference = finite(case.facts.figure("difference_baseline").estimate)
    if not case.settings.require_baseline:
        return Judgement(Outcome.SKIPPED, "not required", difference)
    if not case.facts.has_baseline:
        reason = "the run has no recipe without teachers for the same student and seed"
        return Judgement(Outcome.FAILED, reason, None, 0.0)
    if difference is None:
        reason = "validation has no label on which student and baseline can be compared"
        return Judgement(Outcome.FAILED, reason, None, 0.0)
    relation = "not below" if difference >= 0 else "below"
    reason = f"validation macro AUROC minus the better baseline's is {difference:+.4f}, {relation} 0"
    return _passed(difference >= 0, reason, difference, 0.0)


def _parity(case: GateCase) -> Judgement:
    parity = case.facts.parity
    difference = finite(parity.max_abs_logit_difference if parity else None)
    limit = parity_limit(finite(parity.largest_logit if parity else None))
    if not case.settings.require_parity:
        return Judgement(Outcome.SKIPPED, "not required", difference)
    if parity is None:
        return Judgement(Outcome.FAILED, "parity.json is missing: export the model", None, limit)
    if difference is None:
        reason = "max_abs_logit_difference in parity.json is missing or not finite"
        return Judgement(Outcome.FAILED, reason, None, limit)
    relation = "within" if difference <= limit else "above"
    reason = f"a logit of ONNX Runtime and torch differs by {difference:.1e} at most, {relation} {limit:.1e}"
    wrong = [(name, one) for name, one in parity.outputs.items() if not one.passed]
    if difference <= limit and wrong:
        name, one = wrong[0]
        found = "is not finite" if finite(one.difference) is None else f"differs by {one.difference:.1e}"
        more = f", above {one.limit:.1e}" if finite(one.difference) is not None else ""
        reason = f"{name} of ONNX Runtime and torch {found}{more} (parity.json)"
        return Judgement(Outcome.FAILED, reason, difference, limit)
    if difference <= limit and not parity.passed:
        return Judgement(Outcome.FAILED, f"{reason}, but parity.json does not say passed: true", difference, limit)
    return _passed(difference <= limit, reason, difference, limit)


def _licenses(case: GateCase) -> Judgement:
    rule, ancestors = case.settings.licenses, case.facts.ancestors
    if rule is None:
        return Judgement(Outcome.SKIPPED, "not required")
    if ancestors is None:
        return Judgement(Outcome.FAILED, f"its licences are not known: {LICENSES_AGAIN}", None, 0)
    refused = refused_ancestors(ancestors, rule)
    if not refused:
        return Judgement(Outcome.PASSED, f"{pluralise(len(ancestors), 'ancestor')}, each with an allowed licence", 0, 0)
    first, more = refused[0], len(refused) - 1
    verdict = f"is {first.license}, which is not allowed" if first.license else "is unknown"
    reason = f"the licence of {first.what} {verdict} ({first.way})" + (f"; and {more} more" if more else "")
    return Judgement(Outcome.FAILED, reason, len(refused), 0)


def refused_ancestors(ancestors: Iterable[Ancestor], rule: AllowedLicenses) -> list[Ancestor]:
    """The ancestors whose licence is not allowed or unknown, in their order; case does not matter."""
    allowed = {name.casefold() for name in rule.allow}
    return [one for one in ancestors if one.license is None or one.license.casefold() not in allowed]


RULES: tuple[Rule[GateCase], ...] = (
    _at_most(
        "max_params", "the number of parameters", lambda f: f.params, "{:,.0f}", form=",.2f", unit=" M", scale=1e6
    ),
    _at_most("max_macs", "the number of MACs", lambda f: f.macs, "{:,.0f}", form=",.2f", unit=" M", scale=1e6),
    _at_most("max_onnx_mb", "the size of model.onnx", lambda f: f.onnx_mb, "{:.2f} MB", form=".1f", unit=" MB"),
    Rule("margin_teacher", _margin_teacher, ">", "+.3f"),
    _at_most("max_ece", "validation ECE", lambda f: f.figure("macro_ece").estimate, "{:.4f}"),
    Rule("require_baseline", _baseline, "≥", "+.3f"),
    Rule("require_parity", _parity, form=".0e"),
    Rule("licenses", _licenses, form=".0f"),
)
"""The rules of section `promote`, in its order."""


def _champion(case: ShippingCase) -> Judgement:
    """On the same data a candidate must not be worse than the champion, as long as that one passes today's gate."""
    champion, value = case.champion, case.release.val_macro_auroc
    if champion is None:
        return Judgement(Outcome.SKIPPED, "there is no champion yet", value)
    if case.release.onnx_sha256 == champion.onnx_sha256:
        return Judgement(Outcome.SKIPPED, "it is the champion", value)
    if case.release.dataset_fingerprint != champion.dataset_fingerprint:
        reason = f"the champion {champion.title} was measured on other data, so it is not compared"
        return Judgement(Outcome.SKIPPED, reason, value)
    if not case.champion_holds:
        return Judgement(Outcome.SKIPPED, f"the champion {champion.title} no longer passes the gate", value)
    limit = (case.champion_today or champion).val_macro_auroc
    if value is None:
        return Judgement(Outcome.FAILED, "the candidate has no validation macro AUROC", value, limit)
    if limit is None:
        return Judgement(Outcome.SKIPPED, f"the champion {champion.title} has no validation macro AUROC", value)
    relation = "not below" if value >= limit else "below"
    reason = f"validation macro AUROC is {value:.4f}, {relation} the champion's {limit:.4f} ({champion.title})"
    return _passed(value >= limit, reason, value, limit)


def _withdrawn(case: ShippingCase) -> Judgement:
    when = case.withdrawn.get(case.release.onnx_sha256 or "")
    return _passed(when is None, f"it was rolled back at {when}" if when else "it was never rolled back")


SHIPPING_RULES: tuple[Rule[ShippingCase], ...] = (Rule("champion", _champion, "≥"), Rule("withdrawn", _withdrawn))
"""Rules about models that were shipped before; the report does not know these and omits the rules."""


def evaluate_candidates(facts: Iterable[CandidateFacts], settings: Promote) -> list[Verdict]:
    """Judge every candidate by every rule of `promote`; a figure that is missing is a refusal, never a pass.

    Args:
        facts: the candidates, see `collect_facts`.
        settings: section `promote` of params.yaml.

    Returns:
        One verdict per candidate, in the order given; each has all of `RULES`.
    """
    return [Verdict(candidate, tuple(rule(GateCase(candidate, settings)) for rule in RULES)) for candidate in facts]


def add_shipping_rules(verdicts: list[Verdict], releases: Mapping[str, Release], shipped: Shipped) -> list[Verdict]:
    """Compare every candidate with the models that were shipped before, too.

    Args:
        verdicts: the gate's.
        releases: the candidates by name.
        shipped: the champion, and the withdrawn models.

    Returns:
        The same verdicts, each with `SHIPPING_RULES` behind its rules.
    """
    champion = shipped.champion
    # Of a champion that is still a candidate today's figures count, and it must pass today's rules to hold others up.
    again = next((v for v in verdicts if champion and releases[v.model].onnx_sha256 == champion.onnx_sha256), None)
    judged = []
    for verdict in verdicts:
        case = ShippingCase(
            release=releases[verdict.model],
            champion=champion,
            champion_today=None if again is None else releases[again.model],
            champion_holds=again is None or again.passed,
            withdrawn=shipped.withdrawn,
        )
        judged.append(replace(verdict, rules=verdict.rules + tuple(rule(case) for rule in SHIPPING_RULES)))
    return judged


def rank(candidates: Iterable[Verdict]) -> list[Verdict]:
    """Order candidates, best first: by validation macro AUROC; within `TIE` of the best, fewer MACs first.

    It orders all given candidates: to choose a champion give only those that passed. Candidates without a validation
    macro AUROC come last. Remaining ties are broken by macro AUROC or MACs, then by name.
    """

    def auroc(verdict: Verdict) -> float:
        value = finite(verdict.facts.figure("macro_auroc").estimate)
        return -math.inf if value is None else value

    ordered = sorted(candidates, key=lambda v: (-auroc(v), v.facts.macs, v.model))
    if not ordered or auroc(ordered[0]) == -math.inf:
        return ordered
    # The added grain keeps a difference of exactly `TIE` inside in floating point.
    floor = auroc(ordered[0]) - TIE - 1e-12
    tied = [v for v in ordered if auroc(v) >= floor]
    return sorted(tied, key=lambda v: (v.facts.macs, -auroc(v), v.model)) + ordered[len(tied) :]
