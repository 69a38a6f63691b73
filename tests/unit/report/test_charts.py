"""Charts: round ticks, and marks at the right places."""

import itertools
import re

import pytest

from medistill.report import charts


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-0.03, 0.02, [-0.03, -0.02, -0.01, 0, 0.01, 0.02]),
        (0.61, 0.79, [0.6, 0.65, 0.7, 0.75, 0.8]),
    ],
)
def test_ticks_are_round_and_enclose_the_range(low, high, expected):
    assert charts.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0, 0.5, -3])
def test_ticks_of_a_single_value_enclose_it(value):
    marks = charts.ticks(value, value)
    assert marks[0] <= value <= marks[-1]
    assert len(marks) > 1


@pytest.mark.parametrize(("value", "end"), [(1.0, -1), (0.5, -1), (-3, 0)])
def test_a_single_value_is_the_end_of_its_axis_that_is_farther_from_zero(value, end):
    assert charts.ticks(value, value)[end] == value


@pytest.mark.parametrize("last", [1, 2, 3, 10, 47])
def test_whole_ticks_are_whole(last):
    marks = charts.ticks(1, last, whole=True)
    assert all(mark == int(mark) for mark in marks)
    assert marks[0] <= 1
    assert marks[-1] >= last


def test_forest_marks_lie_in_proportion_on_the_axis():
    scale = [-0.1, 0.0, 0.1]
    svg = charts.forest_interval(0.05, -0.05, 0.1, scale)
    zero = float(re.search(r'class="zero" d="M([\d.]+)', svg)[1])
    lower, upper = map(float, re.search(r'class="interval" d="M([\d.]+) 12H([\d.]+)', svg).groups())
    point = float(re.search(r'cx="([\d.]+)"', svg)[1])
    unit = (upper - zero) / 0.1
    assert point == pytest.approx(zero + 0.05 * unit, abs=0.11)
    assert lower == pytest.approx(zero - 0.05 * unit, abs=0.11)


def test_without_an_interval_the_point_is_hollow():
    svg = charts.forest_interval(0.05, None, None, [0.0, 0.1])
    assert "hollow" in svg
    assert 'class="interval"' not in svg


def test_a_band_lies_between_its_bounds_and_lines_of_no_model_are_grey():
    grey = charts.Series("all", [(0, 0), (1, 1)], colour=None)
    axis, band = charts.Axis("x", (0, 1)), [(0, 0.0, 0.5), (1, 0.5, 1.0)]
    svg = charts.line_chart([grey], "t", axis, axis, diagonal="<right>", band=band)
    assert '<polygon class="band" points="48.0,278.0 422.0,145.0 422.0,12.0 48.0,145.0"/>' in svg
    assert '<path class="without" d="M48.0 278.0L422.0 12.0"><title>all</title></path>' in svg
    assert "<title>&lt;right&gt;</title>" in svg


def test_marked_lines_have_a_mark_at_each_point():
    line = charts.Series("a", [(0, 0), (1, 1)], colour=0, marked=True)
    svg = charts.line_chart([line], "t", charts.Axis("x", (0, 1)), charts.Axis("y", (0, 1)))
    assert re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg) == [("48.0", "278.0"), ("422.0", "12.0")]


def test_line_chart_spans_its_frame_and_escapes_names():
    line = charts.Series("<b>", [(0, 0), (1, 1)], colour=2, dashed=True)
    svg = charts.line_chart([line], "t", charts.Axis("x", (0, 1)), charts.Axis("y", (0, 1)))
    assert '<path class="line s2 dashed" d="M48.0 278.0L422.0 12.0"><title>&lt;b&gt;</title></path>' in svg
    assert "<b>" not in svg + charts.legend([line])


def test_dots_stand_in_proportion_on_a_logarithmic_axis():
    dots = [
        charts.Dot("a", 10, 0.5, 0.4, 0.6, 0),
        charts.Dot("b", 100, 0.7, None, None, 1, True),
        charts.Dot("c", 1000, 0.9, 0.8, 1, 2),
    ]
    svg = charts.dot_chart(dots, "t", "x", "y")
    centres = [tuple(map(float, pair)) for pair in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    (ax, ay), (bx, by), (cx, cy) = centres
    assert bx - ax == pytest.approx(cx - bx, abs=0.11)
    assert ay - by == pytest.approx(by - cy, abs=0.11)
    assert cy < by < ay
    assert svg.count('class="line') == 2
    assert svg.count("hollow") == 1


def test_dots_of_equal_cost_do_not_hide_each_other():
    dots = [charts.Dot(name, 290, 0.8, 0.7, 0.9, 0) for name in "abc"]
    centres = re.findall(r'cx="([\d.]+)"', charts.dot_chart(dots, "t", "x", "y"))
    assert len(set(centres)) == 3


def test_texts_of_a_forest_axis_do_not_touch_and_zero_has_one():
    for low, high in ((-0.075, 0.075), (-0.02, 0.1), (0, 0.06), (-0.3, 0.0)):
        scale = charts.ticks(low, high)
        texts = re.findall(r'x="([\d.]+)"[^>]*>([^<]+)<', charts.forest_axis(scale))
        places = [float(x) for x, _ in texts]
        widest = max(len(text) for _, text in texts) * 6.5  # width of a digit at 11.5 px, and a little space
        assert min(b - a for a, b in itertools.pairwise(places)) >= widest
        assert "0" in [text for _, text in texts]
