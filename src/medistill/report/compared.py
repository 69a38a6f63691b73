"""What `medistill compare` and `medistill evaluate` print."""

from medistill.evaluation.figures import FIGURES
from medistill.records.evaluation import Compared, Comparison, SplitFigures
from medistill.records.external import External
from medistill.report.numbers import interval, number, p_value
from medistill.runtime.bundle import DISCLAIMER
from medistill.text import pluralise, printable

OVERALL = (
    ("macro_auroc", "AUROC"),
    ("macro_auprc", "AUPRC"),
    ("macro_brier", "Brier score"),
    ("macro_calibration_slope", "slope"),
    ("macro_calibration_intercept", "intercept"),
    ("macro_observed_expected", "O/E"),
    ("accuracy", "accuracy"),
)
"""Figures over all labels that are shown of each model, where it has them, by their keys: how they are titled."""


def as_text(compared: Compared) -> str:
    """What the commands print."""
    foreign = compared if isinstance(compared, External) else None
    blocks = [*(_about(foreign) if foreign else []), _size(compared), _models(compared), _labels(compared)]
    blocks += _differences(compared)
    if foreign:
        blocks += [_operating(foreign), _recalibration(foreign)]
    blocks += _subgroups(compared)
    if compared.notes:
        blocks.append([f"note: {note}" for note in compared.notes])
    return "\n\n".join("\n".join(printable(line) for line in block) for block in blocks if block)


def _about(foreign: External) -> list[list[str]]:
    head = [f"{foreign.evaluated} on {foreign.dataset} ({foreign.format}). {DISCLAIMER}."]
    head += [f"  left out: {pluralise(count, 'image')} {reason}" for reason, count in foreign.left_out.items()]
    if foreign.unknown_labels:
        head.append(f"  labels that only the model has: {', '.join(foreign.unknown_labels)}")
    if foreign.unasked_labels:
        head.append(f"  labels that only the data set has: {', '.join(foreign.unasked_labels)}")
    return [head, foreign.verdict]


def _size(compared: Compared) -> list[str]:
    first = next(iter(compared.models.values()))
    labels = f"{len(first.labels)} of {pluralise(len(first.per_label), 'label')} eligible"
    return [
        f"{pluralise(first.images, 'image')} of {first.groups:,} patients or groups, {labels}",
        *(f"  left out of the means: {label} ({reason})" for label, reason in first.skipped.items()),
    ]


def overall(compared: Compared) -> list[tuple[str, str]]:
    """Of `OVERALL`, what these models have."""
    first = next(iter(compared.models.values()))
    return [(key, title) for key, title in OVERALL if key in first.figures]


def measured(compared: Compared) -> dict[str, SplitFigures]:
    """The figures of each model and, where its export has a calibration, of its calibrated probabilities."""
    calibrated = compared.calibrated if isinstance(compared, External) else {}
    found = {}
    for name, own in compared.models.items():
        found[name] = own
        if name in calibrated:
            found[f"{name}, calibrated"] = calibrated[name]
    return found


def _models(compared: Compared) -> list[str]:
    keys = overall(compared)
    rows = [["", *(title for _, title in keys)]]
    rows += [[name, *(interval(own.figure(key)) for key, _ in keys)] for name, own in measured(compared).items()]
    return _columns(rows)


def _labels(compared: Compared) -> list[str]:
    """AUROC of each label and model."""
    rows = [["AUROC by label", "positives", "negatives", *compared.models]]
    for label, about in next(iter(compared.models.values())).per_label.items():
        own = [interval(figures.per_label[label].figure("auroc")) for figures in compared.models.values()]
        rows.append([label, str(about.positives), str(about.negatives), *own])
    return _columns(rows)


def figure_of(row: Comparison) -> str:
    """What a difference is of: `AUROC of Mass`, `mean Brier score`, `accuracy`."""
    if row.label:
        return f"AUROC of {row.label}"
    titles = {figure.key: f"mean {figure.title}" if figure.of_labels else figure.title for figure in FIGURES}
    return titles.get(row.metric, row.metric)


def _differences(compared: Compared) -> list[list[str]]:
    if not compared.comparisons:
        return []
    rows = [["", "figure", "difference", "p", "p, Holm"]]
    for row in compared.comparisons:
        what = figure_of(row)
        numbers = [interval(row.interval, signed=True), p_value(row.p), p_value(row.p_holm)]
        rows.append([f"{row.model} − {row.reference}", what, *numbers])
    return [_columns(rows)]


def _operating(foreign: External) -> list[str]:
    """The first model's thresholds, a row for each promise."""
    points = foreign.operating[foreign.evaluated]
    promises = list(dict.fromkeys((p.kind, p.promised) for own in points.values() for p in own))
    rows = [["thresholds of the bundle", *(f"{kind} {promised:g}" for kind, promised in promises)]]
    for label, own in points.items():
        cells = [interval(point.observed) if point.threshold is not None else "none" for point in own]
        rows.append([label, *cells])
    return _columns(rows) if promises else []


def _recalibration(foreign: External) -> list[str]:
    found = foreign.recalibration[foreign.evaluated]
    rows = [["offered, fitted on these very images", "added to logits", "Brier score", "log loss"]]
    for name, shift in {"mean over labels": found.macro, **found.per_label}.items():
        scores = [
            f"{number(before)} to {number(after)}"
            for before, after in ((shift.brier, shift.brier_after), (shift.log_loss, shift.log_loss_after))
        ]
        rows.append([name, interval(shift.intercept, signed=True), *scores])
    return _columns(rows)


def _subgroups(compared: Compared) -> list[list[str]]:
    groups = next(iter(compared.subgroups.values()))
    if not groups:
        return []
    rows = [["AUROC by group", "images", "labels", *compared.subgroups]]
    for k, group in enumerate(groups):
        own = [interval(found[k].auroc) for found in compared.subgroups.values()]
        rows.append([f"{group.attribute}: {group.group}", str(group.images), str(len(group.labels)), *own])
    return [_columns(rows)]


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
