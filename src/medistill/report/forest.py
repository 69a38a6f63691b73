"""A forest plot: an interval per label and model beside a line of reference, as inline SVG in the style of `charts`."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from medistill.records.estimate import Estimate
from medistill.report.charts import WIDTH, tick_text, ticks
from medistill.report.html import escape
from medistill.report.numbers import interval
from medistill.text import shortened

_NAMES, _RIGHT, _TOP, _BOTTOM = 140, 18, 6, 42
_LINE, _GAP = 15, 9
"""Height of an interval, and of the space between rows."""
_NAME = 19
"""Longest name in characters; a longer one is in the title alone."""


@dataclass(frozen=True)
class Mark:
    """One interval of a row.

    Attributes:
        name: what it is of, such as a model.
        value: the figure; without bounds its point is hollow, without an estimate nothing is drawn.
        colour: 0..5, a class of the page as of `charts.Series`.
        hollow: whether its point is hollow, to tell baselines from distilled students.
    """

    name: str
    value: Estimate
    colour: int = 0
    hollow: bool = False


@dataclass(frozen=True)
class Row:
    """One label, or the mean over labels, with an interval of each model below each other.

    Attributes:
        name: on the left.
        marks: its intervals.
        summary: whether it is a mean over other rows: its points are diamonds.
    """

    name: str
    marks: Sequence[Mark]
    summary: bool = False


def forest(rows: Sequence[Row], title: str, x_label: str, *, reference: float = 0.0, signed: bool = True) -> Markup:
    """A forest plot; its key, where rows have several marks, is `charts.dot_legend`.

    Args:
        rows: from top to bottom; at least one estimate is defined.
        title: the content in words, for screen readers.
        x_label: below the axis.
        reference: where a line stands: 0 for differences, 0.5 for AUROCs.
        signed: whether figures are differences, whose sign is written.

    Raises:
        ValueError: no estimate is defined.
    """
    values = [mark.value for row in rows for mark in row.marks if mark.value.estimate is not None]
    if not values:
        raise ValueError("a forest plot needs an estimate")
    ends = [end for value in values for end in (value.estimate, value.lower, value.upper) if end is not None]
    scale = ticks(min(reference, *ends), max(reference, *ends))

    def px(value: float) -> float:
        return _NAMES + (value - scale[0]) / (scale[-1] - scale[0]) * (WIDTH - _NAMES - _RIGHT)

    parts, top = [], float(_TOP)
    for row in rows:
        height = _LINE * max(1, len(row.marks))
        name = f"<title>{escape(row.name)}</title>{escape(shortened(row.name, _NAME))}"
        middle = top + (height + _GAP) / 2
        parts.append(f'<text class="axis" x="{_NAMES - 12}" y="{middle + 4:.1f}" text-anchor="end">{name}</text>')
        for k, mark in enumerate(row.marks):
            value, at = mark.value, top + _GAP / 2 + _LINE * (k + 0.5)
            if value.estimate is None:
                continue
            inner = [f"<title>{escape(_words(row, mark, signed))}</title>"]
            hollow = mark.hollow or value.lower is None or value.upper is None
            if value.lower is not None and value.upper is not None:
                inner.append(
                    f'<path class="line s{mark.colour}" d="M{px(value.lower):.1f} {at:.1f}H{px(value.upper):.1f}"/>'
                )
            kind = f"mark s{mark.colour}{' hollow' if hollow else ''}"
            inner.append(_point(px(value.estimate), at, kind, diamond=row.summary))
            parts.append(f"<g>{''.join(inner)}</g>")
        top += height + _GAP
    return Markup(_frame("".join(parts), [(px(at), at) for at in scale], px(reference), title, x_label, top, signed))


def _words(row: Row, mark: Mark, signed: bool) -> str:
    """`Mass, student: +0.020 [−0.010, +0.050]`."""
    return f"{row.name}{f', {mark.name}' if mark.name else ''}: {interval(mark.value, signed)}"


def _point(x: float, y: float, kind: str, *, diamond: bool) -> str:
    if diamond:
        corners = ((x - 6, y), (x, y - 5), (x + 6, y), (x, y + 5))
        points = " ".join(f"{across:.1f},{down:.1f}" for across, down in corners)
        return f'<polygon class="{kind}" points="{points}"/>'
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'


def _frame(
    marks: str,
    scale: Sequence[tuple[float, float]],
    reference: float,
    title: str,
    x_label: str,
    bottom: float,
    signed: bool,
) -> str:
    """Marks on vertical lines with an axis below; `scale` are (position, value)."""
    height = bottom + _BOTTOM
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}">']
    for at, value in scale:
        parts.append(f'<path class="grid" d="M{at:.1f} {_TOP}V{bottom:.1f}"/>')
        text = tick_text(value, sign=signed)
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{text}</text>')
    parts.append(f'<path class="zero" d="M{reference:.1f} {_TOP}V{bottom:.1f}"/>')
    middle = (_NAMES + WIDTH - _RIGHT) / 2
    parts.append(f'{marks}<text class="axis" x="{middle:.0f}" y="{height - 6:.0f}" text-anchor="middle">')
    return "".join([*parts, escape(x_label), "</text></svg>"])
