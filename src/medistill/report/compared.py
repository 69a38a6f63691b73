"""What `medistill compare` prints."""

from medistill.records.estimate import Estimate
from medistill.records.evaluation import Compared
from medistill.report.numbers import number, p_value
from medistill.text import pluralise, printable


def as_text(compared: Compared) -> str:
    """What the command prints."""
    first = next(iter(compared.models.values()))
    labels = f"{len(first.labels)} of {pluralise(len(first.per_label), 'label')} eligible"
    blocks = [[f"{pluralise(first.images, 'image')} of {first.groups:,} patients or groups, {labels}"]]
    blocks[0] += [f"  left out of the means: {label} ({reason})" for label, reason in first.skipped.items()]
    keys = [
        ("macro_auroc", "AUROC"),
        ("macro_auprc", "AUPRC"),
        ("macro_brier", "Brier score"),
        ("macro_calibration_slope", "slope"),
        ("macro_calibration_intercept", "intercept"),
        ("accuracy", "accuracy"),
    ]
    keys = [(key, title) for key, title in keys if key in first.figures]
    rows = [["", *(title for _, title in keys)]]
    rows += [[name, *(_interval(own.figure(key)) for key, _ in keys)] for name, own in compared.models.items()]
    blocks.append(_columns(rows))
    if compared.comparisons:
        rows = [["", "figure", "difference", "p", "p, Holm"]]
        for row in compared.comparisons:
            what = f"AUROC of {row.label}" if row.label else row.metric.removeprefix("macro_")
            numbers = [_interval(row.interval, signed=True), p_value(row.p), p_value(row.p_holm)]
            rows.append([f"{row.model} − {row.reference}", what, *numbers])
        blocks.append(_columns(rows))
    groups = next(iter(compared.subgroups.values()))
    if groups:
        rows = [["AUROC by group", "images", "labels", *compared.subgroups]]
        for k, group in enumerate(groups):
            own = [_interval(found[k].auroc) for found in compared.subgroups.values()]
            rows.append([f"{group.attribute}: {group.group}", str(group.images), str(len(group.labels)), *own])
        blocks.append(_columns(rows))
    if compared.notes:
        blocks.append([f"note: {note}" for note in compared.notes])
    return "\n\n".join("\n".join(printable(line) for line in block) for block in blocks)


def _columns(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _interval(value: Estimate, *, signed: bool = False) -> str:
    shown = number(value.estimate, signed=signed)
    if value.lower is None:
        return shown
    return f"{shown} [{number(value.lower, signed=signed)}, {number(value.upper, signed=signed)}]"
