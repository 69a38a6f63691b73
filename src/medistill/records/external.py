"""What `medistill evaluate` says of an exported model on a data set that it comes to from outside."""

from medistill.records.base import Content
from medistill.records.evaluation import Compared, OperatingPoint, SplitFigures
from medistill.records.figures import Interval


class Shift(Content):
    """What a constant added to the logits would do, fitted on the very images that it is judged on.

    Attributes:
        intercept: the constant, with its interval.
        brier, log_loss: without it.
        brier_after, log_loss_after: with it; better than on other images, since it was fitted on these.
    """

    intercept: Interval
    brier: float | None
    log_loss: float | None
    brier_after: float | None
    log_loss_after: float | None


class Recalibration(Content):
    """A recalibration in the large that is offered, never applied: a constant for each label.

    Attributes:
        macro: means over eligible labels.
        per_label: of each label.
    """

    macro: Shift
    per_label: dict[str, Shift]


class External(Compared):
    """What `medistill evaluate --json` prints.

    Attributes:
        dataset, format: its name, and as which it was read.
        evaluated: the model that was asked about; the others in `models` are those that it is compared with.
        do_not_use: whether the figures say plainly that the model must not be used on such images.
        verdict: what they say, a sentence each.
        own_auroc: mean AUROC over the same labels on the model's own test images; None where its export does not say.
        unknown_labels: of the model, which the data set does not have.
        unasked_labels: of the data set, which no model was asked.
        left_out: how many images or entries are left out, by reason.
        calibrated: figures of probabilities once the calibration in the bundle is applied, by model; models without
            one are left out.
        operating: what is seen here of each label's thresholds in the bundle, by model.
        recalibration: of each model.
    """

    dataset: str
    format: str
    evaluated: str
    do_not_use: bool
    verdict: list[str]
    own_auroc: float | None
    unknown_labels: list[str]
    unasked_labels: list[str]
    left_out: dict[str, int]
    calibrated: dict[str, SplitFigures]
    operating: dict[str, dict[str, list[OperatingPoint]]]
    recalibration: dict[str, Recalibration]
