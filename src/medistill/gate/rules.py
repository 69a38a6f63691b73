"""The gate before the registry: every candidate against every rule of `promote`, with a reason for each verdict.

Only validation figures are read: the test part chooses nothing.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medistill.checksums import what_to_run
from medistill.files import read_json
from medistill.gate.settings import Promote
from medistill.layout import Layout, ReportsFolder
from medistill.params import Params
from medistill.records.base import Sealed
from medistill.records.export import Parity
from medistill.records.models import ModelRecord

PARITY_ABSOLUTE, PARITY_RELATIVE = 1e-4, 1e-5
"""Largest difference between a logit of ONNX Runtime and of torch: this much, or this share of the largest logit."""

TIE = 0.002
"""Candidates this close to the best validation macro AUROC count as equally good; the cheaper one goes first."""


@dataclass(frozen=True)
class CandidateFacts:
    """What the gate knows of one student.

    Attributes:
        model: name of its folder, `<student>-<recipe>-<seed>`.
        student, recipe, seed: its place in the matrix.
        arch, initialisation: for the reader; no rule looks at them.
        params: number of parameters.
        macs: multiply-accumulates of one image at the model's input size.
        onnx_mb: size of `model.onnx` in megabytes (10^6 bytes); None where it was not exported.
        parity: what `parity.json` says; None where it was not exported.
        validation: its `val` entry of `reports/metrics.json`; a figure that is undefined is absent.
        distilled: whether its recipe has teachers.
        has_baseline: whether the run has the same student and seed by a recipe without teachers.
    """

    model: str
    student: str
    recipe: str
    seed: int
    arch: str
    initialisation: str
    params: int
    macs: int
    onnx_mb: float | None
    parity: Parity | None
    validation: dict[str, float]
    distilled: bool
    has_baseline: bool

    def to_dict(self) -> dict[str, Any]:
        """All facts, as JSON takes them."""
        return asdict(self) | {"parity": self.parity and self.parity.to_json()}


@dataclass(frozen=True)
class RuleVerdict:
    """One rule for one candidate; `value` and `limit` are None where there is no number, `reason` is a sentence."""

    rule: str
    value: float | None
    limit: float | None
    passed: bool
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


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
        """Whether it passed every rule."""
        return all(rule.passed for rule in self.rules)

    @property
    def reasons(self) -> list[str]:
        """Why it was refused: `rule: reason` of each rule it failed; empty where it passed."""
        return [f"{rule.rule}: {rule.reason}" for rule in self.rules if not rule.passed]

    def to_dict(self) -> dict[str, Any]:
        """Its entry in `reports/gate.json`: the facts, then `rules` and `passed`."""
        return {**self.facts.to_dict(), "rules": [rule.to_dict() for rule in self.rules], "passed": self.passed}


def evaluate_candidates(facts: Iterable[CandidateFacts], rules: Promote) -> list[Verdict]:
    """Hold every candidate against every rule; a figure that is missing is a refusal, never a pass.

    Args:
        facts: the candidates, see `collect_facts`.
        rules: section `promote` of params.yaml.

    Returns:
        A verdict a candidate, in the order given; each has all seven rules in the order of params.yaml.
    """
    return [
        Verdict(
            candidate,
            (
                _at_most("max_params", "the number of parameters", "{:,.0f}", candidate.params, rules.max_params),
                _at_most("max_macs", "the number of MACs", "{:,.0f}", candidate.macs, rules.max_macs),
                _at_most("max_onnx_mb", "the size of model.onnx", "{:.2f} MB", candidate.onnx_mb, rules.max_onnx_mb),
                _margin_teacher(candidate, rules.margin_teacher),
                _at_most("max_ece", "validation ECE", "{:.4f}", candidate.validation.get("macro_ece"), rules.max_ece),
                _baseline(candidate, rules.require_baseline),
                _parity(candidate, rules.require_parity),
            ),
        )
        for candidate in facts
    ]


def rank(candidates: Iterable[Verdict]) -> list[Verdict]:
    """Order candidates, best first: by validation macro AUROC; within 0.002 of the best, fewer MACs first.

    It orders whatever it is given: pass only those that passed to choose a champion. Candidates without a validation
    macro AUROC come last. Remaining ties are broken by macro AUROC or MACs, then by name.
    """

    def auroc(verdict: Verdict) -> float:
        value = _number(verdict.facts.validation.get("macro_auroc"))
        return -math.inf if value is None else value

    ordered = sorted(candidates, key=lambda v: (-auroc(v), v.facts.macs, v.model))
    if not ordered or auroc(ordered[0]) == -math.inf:
        return ordered
    # The added grain keeps a difference of exactly 0.002 inside in floating point.
    floor = auroc(ordered[0]) - TIE - 1e-12
    tied = [v for v in ordered if auroc(v) >= floor]
    return sorted(tied, key=lambda v: (v.facts.macs, -auroc(v), v.model)) + ordered[len(tied) :]


def collect_facts(params: Params, root: Path = Path()) -> list[CandidateFacts]:
    """Read what the gate needs of every student of the run.

    Reads `models/students/*/config.json`, `reports/metrics.json`, and from `exports/*/` the size of `model.onnx` and
    `parity.json`, where there is an export. All that these folders' records name must be whole.

    Args:
        params: the run's settings; its roster says which students there are.
        root: the repository's root.

    Raises:
        UserError: a student's folder or `reports/metrics.json` is missing, or a file is damaged.
    """
    layout = Layout(Path(root))
    metrics = read_metrics(layout.reports)
    facts = []
    for model in params.student_models():
        config = ModelRecord.read_whole(layout.student(model.name).config)
        export = layout.export(model.name)
        exported = Sealed.read_whole(export.bundle).files if export.folder.is_dir() else {}
        has_parity, again = export.parity.name in exported, what_to_run(export.bundle)
        facts.append(
            CandidateFacts(
                model=model.name,
                student=model.student,
                recipe=model.recipe,
                seed=model.seed,
                arch=config.arch,
                initialisation=config.initialisation,
                params=config.params,
                macs=config.macs,
                onnx_mb=export.onnx.stat().st_size / 1e6 if export.onnx.name in exported else None,
                parity=Parity.read(export.parity, again) if has_parity else None,
                validation=metrics.get(model.name, {}).get("val", {}),
                distilled=bool(params.recipes[model.recipe].teachers),
                has_baseline=bool(params.baseline_of(model)),
            )
        )
    return facts


def read_metrics(reports: ReportsFolder) -> dict[str, Any]:
    """What `evaluate` has measured: `reports/metrics.json`, held against the record of all that it has written.

    Raises:
        UserError: one of its files is missing or damaged.
    """
    Sealed.read_whole(reports.evaluation_record)
    return read_json(reports.metrics)


def _number(value: Any) -> float | None:
    """`value` where it is a finite number, else None: NaN must neither pass a rule nor reach a JSON file."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _at_most(rule: str, what: str, form: str, value: Any, limit: float) -> RuleVerdict:
    """A rule of the form value ≤ limit; `form` formats both numbers."""
    value = _number(value)
    if value is None:
        return RuleVerdict(rule, None, limit, False, f"there is no figure for {what}")
    passed = value <= limit
    relation = "within" if passed else "above"
    reason = f"{what} is {form.format(value)}, {relation} the limit of {form.format(limit)}"
    return RuleVerdict(rule, value, limit, passed, reason)


def _margin_teacher(candidate: CandidateFacts, margin: float) -> RuleVerdict:
    rule, limit = "margin_teacher", -margin
    difference = _number(candidate.validation.get("difference_teacher"))
    lower = _number(candidate.validation.get("difference_teacher_lower"))
    if difference is None:
        reason = "no teacher knows all labels that are eligible on validation, or there are none, so nothing compares"
        return RuleVerdict(rule, None, limit, False, reason)
    if lower is None:
        reason = f"the difference to the best teacher on validation is {difference:+.4f}, but it has no interval"
        return RuleVerdict(rule, None, limit, False, reason)
    passed = lower > limit
    reason = (
        f"validation macro AUROC minus the best teacher's is {difference:+.4f}; the lower bound {lower:+.4f} "
        f"is {'above' if passed else 'not above'} {limit:+.4f}"
    )
    return RuleVerdict(rule, lower, limit, passed, reason)


def _baseline(candidate: CandidateFacts, required: bool) -> RuleVerdict:
    rule = "require_baseline"
    if not candidate.distilled:
        return RuleVerdict(rule, None, None, True, "it is the baseline")
    difference = _number(candidate.validation.get("difference_baseline"))
    if not required:
        return RuleVerdict(rule, difference, None, True, "not required")
    if not candidate.has_baseline:
        reason = "the run has no recipe without teachers for the same student and seed"
        return RuleVerdict(rule, None, 0.0, False, reason)
    if difference is None:
        reason = "validation has no label on which student and baseline can be compared"
        return RuleVerdict(rule, None, 0.0, False, reason)
    passed = difference >= 0
    relation = "not below" if passed else "below"
    reason = f"validation macro AUROC minus the better baseline's is {difference:+.4f}, {relation} 0"
    return RuleVerdict(rule, difference, 0.0, passed, reason)


def parity_limit(largest_logit: Any) -> float:
    """How far logits may differ: float32 rounds in proportion, some 1e-6 of the largest in networks of this depth."""
    return max(PARITY_ABSOLUTE, PARITY_RELATIVE * abs(_number(largest_logit) or 0.0))


def _parity(candidate: CandidateFacts, required: bool) -> RuleVerdict:
    rule = "require_parity"
    parity = candidate.parity
    difference = _number(parity and parity.max_abs_logit_difference)
    limit = parity_limit(parity and parity.largest_logit)
    if not required:
        return RuleVerdict(rule, difference, None, True, "not required")
    if parity is None:
        reason = "parity.json is missing: export the model"
        return RuleVerdict(rule, None, limit, False, reason)
    if difference is None:
        reason = "max_abs_logit_difference in parity.json is missing or not finite"
        return RuleVerdict(rule, None, limit, False, reason)
    passed = difference <= limit
    relation = "within" if passed else "above"
    reason = f"a logit of ONNX Runtime and torch differs by {difference:.1e} at most, {relation} {limit:.1e}"
    if passed and not parity.passed:
        passed, reason = False, f"{reason}, but parity.json does not say passed: true"
    return RuleVerdict(rule, difference, limit, passed, reason)
