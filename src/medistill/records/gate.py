"""What gate and registry write: gate.json and promotion.json."""

from typing import Literal

from pydantic import ConfigDict

from medistill.records.base import Content, Plain
from medistill.records.estimate import Estimate
from medistill.records.export import Parity
from medistill.records.figures import Figures
from medistill.records.licenses import Ancestor


class RuleResult(Content):
    """What one rule says of one candidate.

    Attributes:
        rule: its name.
        value, limit: what was compared; None where there is no number.
        verdict: `skipped` where it does not ask anything of this candidate.
        reason: a sentence.
    """

    rule: str
    value: float | int | None
    limit: float | int | None
    verdict: Literal["passed", "failed", "skipped"]
    reason: str


class CandidateFacts(Content):
    """What the gate knows of one student.

    Attributes:
        model: name of its folder, `<student>-<recipe>-<seed>`.
        student, recipe, seed: its place in the matrix.
        arch, initialisation: for the reader; no rule looks at them.
        dataset_fingerprint: of the data it was trained and measured on.
        params: number of parameters.
        macs: multiply-accumulates of one image at the model's input size.
        onnx_mb: size of `model.onnx` in megabytes (10^6 bytes); None where it was not exported.
        parity: what `parity.json` says; None where it was not exported.
        validation: its `val` entry of `reports/metrics.json`; a figure that is undefined is absent.
        distilled: whether its recipe has teachers.
        has_baseline: whether the run has the same student and seed by a recipe without teachers.
        ancestors: what it descends from, with the licence of each; None where the stage `licenses` has not said it.
    """

    model: str
    student: str
    recipe: str
    seed: int
    arch: str
    initialisation: str
    dataset_fingerprint: str
    params: int
    macs: int
    onnx_mb: float | None
    parity: Parity | None
    validation: Figures
    distilled: bool
    has_baseline: bool
    ancestors: list[Ancestor] | None = None

    def figure(self, key: str) -> Estimate:
        """A validation figure with its interval."""
        return Estimate.read(self.validation, key)


class Judged(CandidateFacts):
    """A candidate's entry in gate.json: the facts, what each rule says, and whether all let it through."""

    rules: list[RuleResult]
    passed: bool

    @property
    def reasons(self) -> list[str]:
        """Why it was refused: `rule: reason` of each rule it failed; empty where it passed."""
        return [f"{rule.rule}: {rule.reason}" for rule in self.rules if rule.verdict == "failed"]


class Gate(Plain):
    """gate.json: every student of the run against every rule of `promote`."""

    candidates: list[Judged]


class Release(Content):
    """A student as registry and history know it.

    Attributes:
        model: its name, `<student>-<recipe>-<seed>`.
        onnx_sha256: of model.onnx; None where it was not exported.
        val_macro_auroc: on validation; None where undefined.
        dataset_fingerprint: of the data it was trained and measured on.
        version: in the registry; None where it is not in it.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)  # of history.jsonl

    model: str
    onnx_sha256: str | None
    val_macro_auroc: float | None
    dataset_fingerprint: str
    version: str | None = None

    @property
    def title(self) -> str:
        """Its name, with the version where it has one."""
        return self.model if self.version is None else f"{self.model} (version {self.version})"


class JudgedRelease(Judged):
    """A candidate's entry in promotion.json: as in gate.json, with the registry's rules and what `Release` says."""

    onnx_sha256: str | None
    val_macro_auroc: float | None
    version: str | None


class Promotion(Plain):
    """promotion.json: the outcome of `promote`.

    Attributes:
        outcome: `promoted` (the alias moved), `kept` (the champion is still the best) or `refused` (nothing passed).
        champion: who is champion now; None where there has never been one.
        previous: who was champion before; None where there was none or the alias did not move.
        candidates: the gate's entry of each candidate, with the champion's rules added.
        ranking: names of those that passed every rule, best first.
        dry_run: whether nothing was written.
        warnings: what a person should know of the champion, and of what a killed process has left.
    """

    outcome: Literal["promoted", "kept", "refused"]
    champion: Release | None
    previous: Release | None
    candidates: list[JudgedRelease]
    ranking: list[str]
    dry_run: bool
    warnings: list[str] = []

    @property
    def reasons(self) -> list[str]:
        """`model: rule: reason` of every rule that was not passed."""
        return [f"{candidate.model}: {reason}" for candidate in self.candidates for reason in candidate.reasons]
