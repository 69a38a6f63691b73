"""A forest plot shows each interval where its numbers are."""

import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from medistill.records.estimate import Estimate
from medistill.report.charts import WIDTH
from medistill.report.forest import Mark, Row, forest


def shapes(rows, **options):
    return ET.fromstring(forest(rows, "Differences", "AUROC", **options))


def test_points_and_intervals_lie_where_their_numbers_are():
    rows = [
        Row("Mass", [Mark("student", Estimate(0.02, -0.02, 0.04), 1)]),
        Row("Macro", [Mark("student", Estimate(-0.02), 2)], summary=True),
    ]
    svg = shapes(rows)
    texts = {t.text.replace("−", "-"): float(t.get("x")) for t in svg.iter("text") if t.get("text-anchor") == "middle"}
    places = {float(text): x for text, x in texts.items() if re.fullmatch(r"[-+]?[\d.]+", text)}
    (circle,) = svg.iter("circle")
    assert float(circle.get("cx")) == pytest.approx(places[0.02], abs=0.1)
    (line,) = [path for path in svg.iter("path") if "line" in path.get("class")]
    left, right = map(float, re.fullmatch(r"M(\S+) \S+H(\S+)", line.get("d")).groups())
    assert (left, right) == pytest.approx((places[-0.02], places[0.04]), abs=0.1)
    (diamond,) = svg.iter("polygon")
    corners = [float(pair.split(",")[0]) for pair in diamond.get("points").split()]
    assert sum(corners) / 4 == pytest.approx(places[-0.02], abs=0.1)
    assert "hollow" in diamond.get("class")  # it has no interval
    assert "hollow" not in circle.get("class")
    (zero,) = [path for path in svg.iter("path") if path.get("class") == "zero"]
    assert float(re.match(r"M(\S+)", zero.get("d"))[1]) == pytest.approx(places[0], abs=0.1)


def test_everything_lies_within_the_plot_and_no_two_marks_overlap():
    values = [Estimate(0.1 * k, 0.1 * k - 0.05, 0.1 * k + 0.05) for k in range(-3, 9)]
    rows = [Row(f"label {k}", [Mark("a", value), Mark("b", value, 1)]) for k, value in enumerate(values)]
    svg = shapes(rows)
    width, height = map(float, svg.get("viewBox").split()[2:])
    assert width == WIDTH
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in svg.iter("circle")]
    assert len(circles) == 2 * len(rows)
    assert all(0 < x < width and 0 < y < height for x, y in circles)
    heights = sorted(y for _, y in circles)
    assert min(b - a for a, b in itertools.pairwise(heights)) > 8  # their radius is 4


def test_the_line_of_chance_is_within_the_axis_though_no_figure_is_near():
    svg = shapes([Row("Mass", [Mark("", Estimate(0.9, 0.85, 0.95))])], reference=0.5, signed=False)
    (line,) = [path for path in svg.iter("path") if path.get("class") == "zero"]
    (circle,) = svg.iter("circle")
    assert 140 <= float(re.match(r"M(\S+)", line.get("d"))[1]) < float(circle.get("cx"))
    assert not [t.text for t in svg.iter("text") if t.text and t.text.startswith("+")]


def test_names_from_data_are_text_and_long_ones_are_whole_in_the_title():
    name = "<script>alert(1)</script> and more of it"
    svg = shapes([Row(name, [Mark("m", Estimate(0.1, 0.0, 0.2))])])
    (shown,) = [t for t in svg.iter("text") if t.get("text-anchor") == "end"]
    assert shown.find("title").text == name
    assert len(shown.find("title").tail) == 19
    assert not list(svg.iter("script"))


def test_undefined_figures_are_not_drawn():
    rows = [Row("Hernia", [Mark("m", Estimate(None))]), Row("Mass", [Mark("m", Estimate(0.1, 0.0, 0.2))])]
    assert len(list(shapes(rows).iter("circle"))) == 1
    with pytest.raises(ValueError, match="needs an estimate"):
        forest(rows[:1], "Differences", "AUROC")
