"""What the figures of a model on foreign images say plainly, in words."""

from collections.abc import Mapping, Sequence

from medistill.records.estimate import Estimate
from medistill.records.evaluation import OperatingPoint, SplitFigures
from medistill.text import pluralise

FAR = 0.05
"""Fall of the mean AUROC, from the model's own test images to these, beyond which it is far below: a tenth of
what lies between chance and perfection."""

OFF = 1.25
"""A ratio of observed to expected positives beyond this, or below its inverse, makes probabilities misleading."""


def judge(
    name: str, here: SplitFigures, own_auroc: float | None, operating: Mapping[str, Sequence[OperatingPoint]]
) -> tuple[bool, list[str]]:
    """Whether a model must not be used on such images, and what the figures say, a sentence each.

    It must not where its mean AUROC cannot be told from chance, or is far below that on its own test images. What
    is left is no proof that it may be used.

    Args:
        name: of the model.
        here: its figures.
        own_auroc: the mean over the same labels on its own test images; None: not known.
        operating: what is seen here of its thresholds, by label.
    """
    auroc = here.figure("macro_auroc")
    if auroc.estimate is None or auroc.lower is None or auroc.upper is None:
        many = pluralise(len(here.per_label), "label")
        return False, [
            f"Nothing can be said of {name}: of {many}, none has ten positives and ten negatives of ten patients or"
            " groups each that can be resampled."
        ]
    one = len(here.labels) == 1
    of = f"of {here.labels[0]}" if one else f"in the mean over {pluralise(len(here.labels), 'label')}"
    ranking = f"AUROC {_shown(auroc)} {of}"
    same = "" if one else " over the same labels"
    before = "" if own_auroc is None else f", {own_auroc:.3f}{same} on its own test images"
    chance, far = auroc.lower <= 0.5, own_auroc is not None and auroc.upper < own_auroc - FAR
    if chance:
        how = "it ranks worse than chance" if auroc.upper < 0.5 else "its ranking cannot be told from chance"
        first = f"Do not use {name} on such images: {how} ({ranking}{before})."
    elif far:
        first = f"Do not use {name} on such images: it ranks far worse than on its own ({ranking}{before})."
    else:
        first = f"{name} ranks better than chance on these images ({ranking}{before}); that alone is no proof of use."
    return chance or far, [first, *_labels(here), *_probabilities(here), *_promises(operating)]


def _labels(here: SplitFigures) -> list[str]:
    """Which labels are not told from chance, where some are."""
    lowest = {label: here.per_label[label].figure("auroc").lower for label in here.labels}
    lost = [label for label, lower in lowest.items() if lower is None or lower <= 0.5]
    if not lost or len(here.labels) == 1:
        return []
    return [f"Not told from chance: {', '.join(lost)} ({len(lost)} of {len(here.labels)})."]


def _probabilities(here: SplitFigures) -> list[str]:
    """Whether probabilities are too high or too low on the whole, label by label."""
    high, low = [], []
    for label in here.labels:
        ratio = here.per_label[label].figure("observed_expected")
        if ratio.upper is not None and ratio.upper < 1 / OFF:
            high.append(label)
        elif ratio.lower is not None and ratio.lower > OFF:
            low.append(label)
    found = []
    for labels, word in ((high, "high"), (low, "low")):
        if labels:
            found.append(
                f"Probabilities are much too {word} here for {', '.join(labels)}: do not read them as chances."
            )
    return found


def _promises(operating: Mapping[str, Sequence[OperatingPoint]]) -> list[str]:
    """Which promise is broken for which labels."""
    broken: dict[str, list[str]] = {}
    for label, points in operating.items():
        for point in points:
            if point.observed.upper is not None and point.observed.upper < point.promised:
                broken.setdefault(f"{point.kind} {point.promised:g}", []).append(label)
    return [f"The thresholds for {promise} do not keep it here for {', '.join(of)}." for promise, of in broken.items()]


def _shown(value: Estimate) -> str:
    return f"{value.estimate:.3f} [{value.lower:.3f}, {value.upper:.3f}]"
