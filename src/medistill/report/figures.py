"""Which figures and rules the report's tables show, and how each is written."""

from collections.abc import Callable
from dataclasses import dataclass

from medistill.report.numbers import millions, number, scientific


@dataclass(frozen=True)
class Figure:
    """A column of the table of models.

    Attributes:
        split: `val` or `test`.
        key: of the figure in metrics.json.
        title: head of the column.
        interval: whether it has one.
        signed: whether it is a difference.
        exclusive: whether it is of exclusive classes alone.
    """

    split: str
    key: str
    title: str
    interval: bool = True
    signed: bool = False
    exclusive: bool = False


FIGURES = (
    Figure("val", "macro_auroc", "Validation AUROC"),
    Figure("test", "macro_auroc", "Test AUROC"),
    Figure("test", "difference_baseline", "Test AUROC − baseline", signed=True),
    Figure("test", "difference_teacher", "Test AUROC − best teacher", signed=True),
    Figure("test", "accuracy", "Test accuracy", exclusive=True),
    Figure("test", "balanced_accuracy", "Test balanced accuracy", exclusive=True),
    Figure("test", "macro_auprc", "Test AUPRC"),
    Figure("test", "macro_ece", "Test ECE", interval=False),
)


@dataclass(frozen=True)
class RuleForm:
    """How a rule of the gate is written: the relation of a value that passes to the limit, and its numbers."""

    relation: str
    form: Callable[[float], str]

    def text(self, value: float | None) -> str:
        """A value or a limit; empty where there is none."""
        return "" if value is None else self.form(value)


def _signed(value: float) -> str:
    return number(value, signed=True) if value else "0"


RULES = {
    "max_params": RuleForm("≤", millions),
    "max_macs": RuleForm("≤", millions),
    "max_onnx_mb": RuleForm("≤", lambda value: f"{value:.1f} MB"),
    "margin_teacher": RuleForm(">", _signed),
    "max_ece": RuleForm("≤", lambda value: number(value) if value else "0"),
    "require_baseline": RuleForm("≥", _signed),
    "require_parity": RuleForm("≤", scientific),
}
