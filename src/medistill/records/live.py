"""What a training writes while it is at work, for the live page."""

from typing import Annotated

from pydantic import Field

from medistill.records.base import Record
from medistill.records.figures import Number

Point = Annotated[tuple[Number, float], Field(strict=False)]
"""Where on the axis, and the value there."""


class LiveTraining(Record):
    """reports/live/<name>.json: how far a training has come.

    Attributes:
        name: of the training.
        width: how many steps a point of `loss` is the mean of.
        loss: by step.
        val_macro_auroc: by epoch.
        epoch, step, steps: where it is, and how many steps there are.
        learning_rate: of the step.
        images_per_second, seconds_left: its speed, and what is left by that speed.
        status: whether it is at work, or how it ended.
        time: when this was written, in seconds since 1970.
    """

    name: str
    width: int
    loss: list[Point]
    val_macro_auroc: list[Point]
    epoch: int
    step: int
    steps: int
    learning_rate: float
    images_per_second: float
    seconds_left: float
    status: str
    time: float
