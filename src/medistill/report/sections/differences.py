"""Every student minus its references, with intervals, p-values and a verdict in words."""

from dataclasses import dataclass

from markupsafe import Markup

from medistill.evaluation.figures import LEAD, figures_of
from medistill.records.estimate import Estimate
from medistill.records.evaluation import Comparison
from medistill.report import charts, forest
from medistill.report.content import Content


@dataclass(frozen=True)
class Row:
    """A student minus a reference; `label` if the figure is of one label, `plot` if it is drawn."""

    model: str
    relation: str
    reference: str
    label: str
    difference: Estimate
    p: float | None
    p_holm: float | None
    plot: Markup | None
    words: str


@dataclass(frozen=True)
class Forest:
    """A table of differences with a plot; `axis` is its head."""

    title: str
    split: str
    rows: list[Row]
    axis: Markup


@dataclass(frozen=True)
class Changed:
    """The labels of a student that differ from a reference once p is adjusted for all labels."""

    model: str
    relation: str
    reference: str
    better: list[str]
    worse: list[str]


@dataclass(frozen=True)
class Differences:
    """Macro AUROC on test first, then the folded tables.

    Attributes:
        forests: the tables.
        plots: a chart for each student that has a baseline, its AUROC label by label, by name.
        legend: of these charts.
        first: the student whose chart is not folded: the first in rank, else the first; None without a chart.
        labels: rows of one label each.
        changed: in words, which of these differ.
        alpha: level of significance.
    """

    forests: list[Forest]
    plots: dict[str, Markup]
    legend: Markup
    first: str | None
    labels: list[Row]
    changed: list[Changed]
    alpha: float


ALPHA = 0.05
"""Significance level for p-values after Holm's adjustment."""


def build(content: Content) -> Differences:
    """The differences of a run; no forests where there is nothing to compare."""
    if not content.comparisons:
        return Differences([], {}, Markup(), None, [], [], ALPHA)
    plotted = [figure for figure in figures_of(content.dataset.task) if figure.plotted]
    forests = [_forest(content, "Test", "test", f"macro_{LEAD}")]
    forests.append(_forest(content, "Validation, which the gate reads", "val", f"macro_{LEAD}"))
    for figure in plotted:
        if figure.name != LEAD:
            title = f"{figure.title[0].upper()}{figure.title[1:]} on test"
            forests.append(_forest(content, title, "test", figure.key))
    labels = [row for row in content.comparisons if row.split == "test" and row.label is not None]
    plots, legend = _plots(labels)
    first = next((name for name in [*content.ranking, *plots] if name in plots), None)
    rows = [_row(row, None) for row in labels]
    return Differences(forests, plots, legend, first, rows, _changed(rows), ALPHA)


def _changed(rows: list[Row]) -> list[Changed]:
    """Which labels each student has changed, of its references; `rows` are of one label each."""
    found: dict[tuple[str, str, str], Changed] = {}
    for row in rows:
        pair = (row.model, row.relation, row.reference)
        own = found.setdefault(pair, Changed(*pair, [], []))
        if row.words in ("better", "worse"):
            {"better": own.better, "worse": own.worse}[row.words].append(row.label)
    return sorted(found.values(), key=lambda pair: pair.relation)  # baselines first: what distillation changed


def _plots(rows: list[Comparison]) -> tuple[dict[str, Markup], Markup]:
    """A forest plot of each student that is compared with a baseline, and the key of all."""
    taught = list(dict.fromkeys(row.model for row in rows if row.relation == "baseline"))
    rows = [row for row in rows if row.model in taught and row.estimate is not None]
    references = list(dict.fromkeys((row.relation, row.reference) for row in rows))
    plots = {}
    for model in taught:
        labels: dict[str, list[forest.Mark]] = {}
        for row in (row for row in rows if row.model == model):
            name, is_clear = f"− {row.reference}", row.p_holm is not None and row.p_holm < ALPHA
            colour = references.index((row.relation, row.reference)) % charts.COLOURS
            labels.setdefault(row.label or "", []).append(forest.Mark(name, row.interval, colour, hollow=not is_clear))
        if labels:
            drawn = [forest.Row(label, marks) for label, marks in labels.items()]
            title = f"AUROC of {model} minus its references on test, label by label"
            plots[model] = forest.forest(drawn, title, "difference in AUROC")
    named = [(name, colour % charts.COLOURS) for colour, (_, name) in enumerate(references)]
    dots = [charts.Dot(f"minus {name}", 1.0, 0.0, None, None, colour) for name, colour in named]
    return plots, charts.dot_legend(dots)


def _forest(content: Content, title: str, split: str, metric: str) -> Forest:
    chosen = [row for row in content.comparisons if row.split == split and row.metric == metric]
    bounds = [end for row in chosen for end in (row.estimate, row.lower, row.upper) if end is not None]
    scale = charts.ticks(min([0.0, *bounds]), max([0.0, *bounds]))
    baselines_first = sorted(chosen, key=lambda row: row.relation)  # the order within stays
    return Forest(title, split, [_row(row, scale) for row in baselines_first], charts.forest_axis(scale))


def _row(row: Comparison, scale: list[float] | None) -> Row:
    difference = row.interval
    plot = None
    if scale is not None and difference.estimate is not None:
        plot = charts.forest_interval(difference.estimate, difference.lower, difference.upper, scale)
    return Row(
        model=row.model,
        relation=row.relation,
        reference=row.reference,
        label=row.label or "",
        difference=difference,
        p=row.p,
        p_holm=row.p_holm,
        plot=plot,
        words=_words(difference, row.p_holm),
    )


def _words(difference: Estimate, p_holm: float | None) -> str:
    """The verdict on a difference, which is one of several, by its interval and p-value."""
    if difference.lower is None or difference.upper is None:
        return "no interval"
    if difference.lower <= 0 <= difference.upper:
        return "no difference shown"
    if p_holm is None or p_holm >= ALPHA:
        return "no difference shown, once adjusted"
    return "better" if difference.lower > 0 else "worse"
