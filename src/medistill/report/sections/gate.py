"""Every student against every rule of the gate."""

from collections.abc import Sequence
from dataclasses import dataclass

from medistill.gate.rules import TIE, Verdict
from medistill.report.content import Content


@dataclass(frozen=True)
class Gate:
    """Verdicts, names of the candidates that passed, best first, and the tie distance to the best."""

    verdicts: Sequence[Verdict]
    ranking: Sequence[str]
    tie: float

    @property
    def rules(self) -> list[str]:
        """Names of the rules, in order."""
        return [rule.rule for rule in self.verdicts[0].rules] if self.verdicts else []


def build(content: Content) -> Gate:
    """The verdicts of a run."""
    return Gate(content.verdicts, content.ranking, TIE)
