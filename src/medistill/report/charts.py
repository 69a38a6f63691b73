"""Inline SVG charts for offline pages: no script, no style of their own; colours come from the page's CSS classes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from medistill.report.html import escape

WIDTH = 440
"""Width of a line chart in CSS pixels before scaling: text stays readable on a phone."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 18, 12, 42

COLOURS = 6
"""How many series colours the page defines: classes `s0` to `s5`."""


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: in the key.
        points: (x, y), from left to right.
        colour: 0..5, a class of the page; None: grey, as it is of no model.
        dashed: tells baselines from distilled students.
        dotted: tells two lines of one colour apart, where there are more lines than colours.
        marked: whether each point has a mark.
    """

    name: str
    points: Sequence[tuple[float, float]]
    colour: int | None
    dashed: bool = False
    dotted: bool = False
    marked: bool = False

    @property
    def kind(self) -> str:
        """Its classes."""
        if self.colour is None:
            return "without dashed" if self.dashed else "without"
        dashes = " dashed" if self.dashed else " dotted" if self.dotted else ""
        return f"line s{self.colour}{dashes}"


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Some five round numbers that enclose low..high; steps of 1, 2 or 5 times a power of ten, whole if `whole`.

    A single value is the end that is farther from zero: no axis of an AUROC of 1 goes beyond it.
    """
    if low == high:
        low, high = min(0.9 * low, low), max(0.9 * high, high)
    span = (high - low) or 1.0
    raw = max(span / 5, 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, max(last, first + 1) + 1)]


@dataclass(frozen=True)
class Axis:
    """An axis: its label, its range (None: that of the points), and whether ticks are whole numbers."""

    label: str
    range: tuple[float, float] | None = None
    whole: bool = False

    def ticks(self, values: Sequence[float]) -> list[float]:
        """Its ticks, for points at `values`."""
        return ticks(*(self.range or (min(values), max(values))), whole=self.whole)


def line_chart(
    series: Sequence[Series],
    title: str,
    x: Axis,
    y: Axis,
    height: int = 320,
    diagonal: str = "",
    band: Sequence[tuple[float, float, float]] = (),
) -> Markup:
    """A line chart; its title is for screen readers, its key is `legend`.

    Args:
        series: lines; those without points are left out.
        title: the content in words.
        x, y: the axes.
        height: of the chart; its width is `WIDTH`.
        diagonal: what the line y = x is, chance in a ROC chart; empty: it is not drawn.
        band: (x, lower, upper) from left to right, shaded behind the lines.
    """
    points = [point for line in series for point in line.points]
    xs, ys = x.ticks([at for at, _ in points]), y.ticks([at for _, at in points])

    def px(value: float) -> float:
        return _LEFT + (value - xs[0]) / (xs[-1] - xs[0]) * (WIDTH - _LEFT - _RIGHT)

    def py(value: float) -> float:
        return height - _BOTTOM - (value - ys[0]) / (ys[-1] - ys[0]) * (height - _TOP - _BOTTOM)

    parts = []
    if diagonal:
        ends = f"M{px(xs[0]):.1f} {py(ys[0]):.1f}L{px(xs[-1]):.1f} {py(ys[-1]):.1f}"
        parts.append(f'<path class="chance" d="{ends}"><title>{escape(diagonal)}</title></path>')
    if band:
        edge = [(at, lower) for at, lower, _ in band] + [(at, upper) for at, _, upper in reversed(band)]
        parts.append(f'<polygon class="band" points="{" ".join(f"{px(at):.1f},{py(up):.1f}" for at, up in edge)}"/>')
    for line in series:
        if line.points:
            path = "L".join(f"{px(across):.1f} {py(up):.1f}" for across, up in line.points)
            parts.append(f'<path class="{line.kind}" d="M{path}"><title>{escape(line.name)}</title></path>')
        if line.marked:
            parts += [
                f'<circle class="mark s{line.colour}" cx="{px(across):.1f}" cy="{py(up):.1f}" r="2.5"/>'
                for across, up in line.points
            ]
    x_ticks, y_ticks = [(px(at), at) for at in xs], [(py(at), at) for at in ys]
    return _framed("".join(parts), x_ticks, y_ticks, title, x.label, y.label, height)


def _framed(
    marks: str,
    x_ticks: Sequence[tuple[float, float]],
    y_ticks: Sequence[tuple[float, float]],
    title: str,
    x_label: str,
    y_label: str,
    height: int,
) -> Markup:
    """Marks on a grid with axes; ticks are (position, value)."""
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">']
    for at, value in x_ticks:
        parts.append(f'<path class="grid" d="M{at:.1f} {_TOP}V{height - _BOTTOM}"/>')
        parts.append(f'<text x="{at:.1f}" y="{height - _BOTTOM + 16}" text-anchor="middle">{tick_text(value)}</text>')
    for at, value in y_ticks:
        parts.append(f'<path class="grid" d="M{_LEFT} {at:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{tick_text(value)}</text>')
    middle = (_TOP + height - _BOTTOM) / 2
    parts.append(
        f'{marks}<text class="axis" x="{(_LEFT + WIDTH - _RIGHT) / 2:.0f}" y="{height - 6}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
        f'<text class="axis" transform="translate(13 {middle:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text></svg>"
    )
    return Markup("".join(parts))


@dataclass(frozen=True)
class Dot:
    """One model in a `dot_chart`: a point with its interval, hollow for baselines."""

    name: str
    x: float
    y: float
    lower: float | None
    upper: float | None
    colour: int
    hollow: bool = False


def dot_chart(dots: Sequence[Dot], title: str, x_label: str, y_label: str, height: int = 320) -> Markup:
    """Points with vertical intervals over a logarithmic x axis; points of the same x stand side by side.

    Args:
        dots: at least one; x > 0.
        title: the content in words.
        x_label, y_label: under and beside the axes.
        height: of the chart; its width is `WIDTH`.
    """
    bounds = [value for dot in dots for value in (dot.y, dot.lower, dot.upper) if value is not None]
    ys = ticks(min(bounds), max(bounds))
    steps = [m * 10.0**p for p in range(-6, 13) for m in (1, 2, 5)]
    least, most = min(dot.x for dot in dots), max(dot.x for dot in dots)
    xs = [x for x in steps if max(s for s in steps if s < least) <= x <= min(s for s in steps if s > most)]
    decades = math.log10(xs[-1] / xs[0])

    def px(x: float) -> float:
        return _LEFT + math.log10(x / xs[0]) / decades * (WIDTH - _LEFT - _RIGHT)

    def py(y: float) -> float:
        return height - _BOTTOM - (y - ys[0]) / (ys[-1] - ys[0]) * (height - _TOP - _BOTTOM)

    parts = []
    for dot in dots:
        beside = [other for other in dots if other.x == dot.x]
        at = px(dot.x) + 12 * (beside.index(dot) - (len(beside) - 1) / 2)
        name = escape(dot.name)
        parts.append(f"<g><title>{name}</title>")
        if dot.lower is not None and dot.upper is not None:
            parts.append(f'<path class="line s{dot.colour}" d="M{at:.1f} {py(dot.lower):.1f}V{py(dot.upper):.1f}"/>')
        parts.append(f'<circle class="{_mark(dot)}" cx="{at:.1f}" cy="{py(dot.y):.1f}" r="4.5"/></g>')
    x_ticks, y_ticks = [(px(x), x) for x in xs], [(py(y), y) for y in ys]
    return _framed("".join(parts), x_ticks, y_ticks, title, x_label, y_label, height)


def _mark(dot: Dot) -> str:
    return f"mark s{dot.colour}{' hollow' if dot.hollow else ''}"


def dot_legend(dots: Sequence[Dot]) -> Markup:
    """The key of a dot chart."""
    items = "".join(
        '<li><svg class="key" viewBox="0 0 28 10" aria-hidden="true">'
        f'<circle class="{_mark(dot)}" cx="20" cy="5" r="4"/></svg>{escape(dot.name)}</li>'
        for dot in dots
    )
    return Markup(f'<ul class="legend">{items}</ul>')


def legend(series: Sequence[Series]) -> Markup:
    """The key of one or several line charts."""
    items = "".join(
        f'<li><svg class="key" viewBox="0 0 28 10" aria-hidden="true"><path class="{line.kind}" d="M1 5H27"/></svg>'
        f"{escape(line.name)}</li>"
        for line in series
    )
    return Markup(f'<ul class="legend">{items}</ul>')


FOREST_WIDTH = 270
_FOREST_TEXTS = 5
"""More texts such as +0.025 side by side would touch."""


def forest_axis(scale: Sequence[float]) -> Markup:
    """The axis of a column of `forest_interval`s; `scale` are its ticks, every second with a text if there are many."""
    zero = min(range(len(scale)), key=lambda k: abs(scale[k]))
    step = 1 if len(scale) <= _FOREST_TEXTS else 2
    texts = "".join(
        f'<text x="{_fx(x, scale):.1f}" y="13" text-anchor="middle">{tick_text(x, sign=True)}</text>'
        for k, x in enumerate(scale)
        if (k - zero) % step == 0
    )
    return Markup(f'<svg class="forest" viewBox="0 0 {FOREST_WIDTH} 18" aria-hidden="true">{texts}</svg>')


def forest_interval(estimate: float, lower: float | None, upper: float | None, scale: Sequence[float]) -> Markup:
    """A point with its interval beside the line of no difference; without an interval the point is hollow."""
    lines = "".join(
        f'<path class="{"zero" if x == 0 else "grid"}" d="M{_fx(x, scale):.1f} 0V24"/>' for x in sorted({*scale, 0.0})
    )
    if lower is None or upper is None:
        bar, style = "", "point hollow"
    else:
        bar = f'<path class="interval" d="M{_fx(lower, scale):.1f} 12H{_fx(upper, scale):.1f}"/>'
        style = "point"
    point = f'<circle class="{style}" cx="{_fx(estimate, scale):.1f}" cy="12" r="4.5"/>'
    return Markup(f'<svg class="forest" viewBox="0 0 {FOREST_WIDTH} 24" aria-hidden="true">{lines}{bar}{point}</svg>')


def _fx(x: float, scale: Sequence[float]) -> float:
    """Position on a forest axis; the margin holds half of the outermost tick's text."""
    return 24 + (x - scale[0]) / (scale[-1] - scale[0]) * (FOREST_WIDTH - 48)


def tick_text(value: float, sign: bool = False) -> str:
    """A tick as short as it can be, with a true minus sign."""
    text = f"{value:+g}" if sign and value else f"{value:g}"
    return text.replace("-", "−")
