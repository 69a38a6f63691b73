"""Which figures the report's tables show, and how each is written."""

from dataclasses import dataclass


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
