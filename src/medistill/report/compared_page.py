"""The page that `medistill compare` and `medistill evaluate` write: what they print, drawn, in one offline file."""

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from medistill.files import atomic
from medistill.records.evaluation import Compared, Comparison, OperatingPoint, SplitFigures
from medistill.records.external import External
from medistill.report import charts
from medistill.report.compared import figure_of, measured, overall
from medistill.report.forest import Mark, Row, forest
from medistill.report.html import render_page

LABEL_FIGURES = (
    ("auroc", "AUROC"),
    ("auprc", "AUPRC"),
    ("brier", "Brier score"),
    ("calibration_slope", "slope"),
    ("calibration_intercept", "intercept"),
    ("observed_expected", "O/E"),
)
"""Figures that the page shows label by label, by their names: how they are titled."""


@dataclass(frozen=True)
class Drawn:
    """A forest plot with what stands above and below it."""

    title: str
    plot: Markup
    legend: Markup


def write_page(path: Path, compared: Compared) -> None:
    """Write the page, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    with atomic(path) as temporary:
        temporary.write_text(as_page(compared), encoding="utf-8")


def as_page(compared: Compared) -> str:
    """The page as HTML text."""
    foreign = compared if isinstance(compared, External) else None
    title = f"{foreign.evaluated} on {foreign.dataset}" if foreign else ", ".join(compared.models)
    return render_page(
        "compared",
        title=title,
        compared=compared,
        foreign=foreign,
        first=next(iter(compared.models.values())),
        overall=overall(compared),
        measured=measured(compared),
        figure_of=figure_of,
        label_figures=LABEL_FIGURES,
        forests=[drawn for drawn in (_figures(compared), _differences(compared)) if drawn],
        promises=_promises(foreign) if foreign else {},
    )


def _figures(compared: Compared) -> Drawn | None:
    """AUROC of each label and each model, the mean first."""
    models = compared.models

    def marks(of: dict[str, SplitFigures], label: str | None) -> list[Mark]:
        values = [
            own.figure("macro_auroc") if label is None else own.per_label[label].figure("auroc") for own in of.values()
        ]
        return [Mark(name, value, k % charts.COLOURS) for k, (name, value) in enumerate(zip(of, values, strict=True))]

    labels = next(iter(models.values())).per_label
    rows = [Row("mean", marks(models, None), summary=True)]
    rows += [Row(label, marks(models, label)) for label in labels]
    return _drawn("AUROC by label", rows, "AUROC; the line is chance", reference=0.5)


def _differences(compared: Compared) -> Drawn | None:
    """Differences in AUROC of each label and each pair of models, the mean first."""
    if not compared.comparisons:
        return None
    names = list(compared.models)

    def marks(rows: list[Comparison]) -> list[Mark]:
        # one of the two is the first model: a pair has the colour of the other
        places = [(max(names.index(row.model), names.index(row.reference)), row) for row in rows]
        return [
            Mark(f"{row.model} − {row.reference}", row.interval, k % charts.COLOURS)
            for k, row in sorted(places, key=lambda p: p[0])
        ]

    means = [row for row in compared.comparisons if row.metric == "macro_auroc"]
    labels = dict.fromkeys(row.label for row in compared.comparisons if row.label)
    rows = [Row("mean", marks(means), summary=True)]
    rows += [Row(label, marks([row for row in compared.comparisons if row.label == label])) for label in labels]
    return _drawn("Differences in AUROC by label", rows, "difference in AUROC", keyed=True)


def _drawn(title: str, rows: list[Row], x_label: str, reference: float = 0.0, *, keyed: bool = False) -> Drawn | None:
    """The plot, with its key where there are several marks or it is asked for; None where no figure is defined."""
    marks = [mark for row in rows for mark in row.marks]
    if all(mark.value.estimate is None for mark in marks):
        return None
    names = dict.fromkeys((mark.name, mark.colour) for mark in marks)
    dots = [charts.Dot(name, 1, 0, None, None, colour) for name, colour in names]
    plot = forest(rows, title, x_label, reference=reference, signed=reference == 0)
    return Drawn(title, plot, charts.dot_legend(dots) if keyed or len(dots) > 1 else Markup())


def _promises(foreign: External) -> dict[str, dict[str, list[OperatingPoint | None]]]:
    """By promise and label: what is seen of it of each model, None of a model without this promise."""
    found: dict[str, dict[str, list[OperatingPoint | None]]] = {}
    kinds = {(p.kind, p.promised): None for of in foreign.operating.values() for own in of.values() for p in own}
    for kind, promised in kinds:
        by_label = found.setdefault(f"{kind} {promised:g}", {})
        for of in foreign.operating.values():
            for label, own in of.items():
                same = [point for point in own if (point.kind, point.promised) == (kind, promised)]
                by_label.setdefault(label, []).append(same[0] if same else None)
    return found
