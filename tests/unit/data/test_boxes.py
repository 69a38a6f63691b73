"""Boxes from the columns of a table."""

from pathlib import Path

import pandas as pd
import pytest

from medistill.data.reading.boxes import BoxColumns, outside, read_boxes
from medistill.errors import UserError

FILE = Path("boxes.csv")
XYWH = {"x": "a", "y": "b", "w": "c", "h": "d"}
CORNERS = {"x_min": "a", "y_min": "b", "x_max": "c", "y_max": "d"}


def table(*rows, columns="abcd"):
    raw = pd.DataFrame(rows, columns=list(columns), dtype=str)
    return raw.assign(line=range(2, 2 + len(raw)))


@pytest.mark.parametrize(
    ("columns", "row", "expected"),
    [
        (XYWH, ("10", "20", "30", "40"), (10, 20, 30, 40)),
        (CORNERS, ("10", "20", "40", "60"), (10, 20, 30, 40)),
        (CORNERS, ("10,5", "20.5", "40.5", "6e1"), (10.5, 20.5, 30, 39.5)),
        (CORNERS | {"size": [200, 100]}, ("10", "20", "40", "60"), (0.05, 0.2, 0.15, 0.4)),
        (XYWH | {"unit": "fractions"}, (".1", "0.2", "0.3", "1"), (0.1, 0.2, 0.3, 1)),
        (XYWH | {"size": ["w", "h"]}, ("-5", "20", "30", "40", "100", "50"), (-0.05, 0.4, 0.3, 0.8)),
    ],
)
def test_four_numbers_are_a_corner_and_a_size_in_pixels_or_fractions(columns, row, expected):
    raw = table(("", "", "", "", "", "")[: len(row)], row, columns="abcdwh"[: len(row)])
    found = BoxColumns(**columns).read(raw, FILE)
    assert found.index.tolist() == [1]  # the other row has no box
    assert tuple(found.iloc[0]) == pytest.approx(expected)
    assert BoxColumns(**columns).in_pixels == (max(expected) > 1)


@pytest.mark.parametrize(
    ("columns", "row", "message"),
    [
        (XYWH, ("1", "", "3", "4"), r"the box x, y, w, h = 1, '', 3, 4 must be four numbers, or blank where there is"),
        (XYWH, ("1", "nan", "3", "4"), "= 1, nan, 3, 4 must be four numbers"),
        (XYWH, ("1", "2", "inf", "4"), "= 1, 2, inf, 4 must be four numbers"),
        (XYWH, ("1", "2", "wide", "4"), "= 1, 2, wide, 4 must be four numbers"),
        (XYWH, ("1", "2", "3", "0"), "must have a width and height above 0"),
        (XYWH, ("1", "2", "-3", "4"), "must have a width and height above 0"),
        (CORNERS, ("9", "2", "3", "4"), "the box x_min, y_min, x_max, y_max = 9, 2, 3, 4 must have x_max above x_min"),
        (XYWH, ("-9", "2", "3", "4"), "lies outside of the image"),
        (XYWH | {"size": [64, 64]}, ("64", "2", "3", "4"), "lies outside of the picture whose size is given"),
        (XYWH | {"unit": "fractions"}, ("10", "20", "3", "4"), "outside of the image; are these pixels, not fractions"),
    ],
)
def test_what_is_no_box_is_named_with_its_line(columns, row, message):
    with pytest.raises(UserError, match=rf"boxes\.csv: line 3: .*{message}"):
        BoxColumns(**columns).read(
            table(("5", "6", "7", "8") if "unit" not in columns else ("", "", "", ""), row), FILE
        )


def test_boxes_of_less_than_a_pixel_each_are_fractions():
    cells = table((".1", ".2", ".3", ".4"), ("0", "0", "1", "1"))
    with pytest.raises(UserError, match="no box is larger than a pixel; are they fractions of the image"):
        read_boxes(cells[list("abcd")], cells["line"], FILE)


@pytest.mark.parametrize("size", ["", "0", "-5", "wide", "inf"])
def test_a_size_must_stand_beside_a_box_and_nowhere_else(size):
    columns = BoxColumns(**XYWH, size=["w", "h"])
    assert len(columns.read(table(("", "", "", "", size, size), columns="abcdwh"), FILE)) == 0
    with pytest.raises(
        UserError, match=rf"line 2: column 'h' has '{size}' beside a box, which is not a size in pixels"
    ):
        columns.read(table(("1", "2", "3", "4", "100", size), columns="abcdwh"), FILE)


def test_a_box_that_only_touches_the_border_is_outside():
    boxes = pd.DataFrame(
        [(64, 0, 5, 5), (0, 48, 5, 5), (-5, 0, 5, 5), (63, 47, 5, 5), (-4, -4, 5, 5)], columns=[*"xywh"]
    )
    assert outside(boxes, 64, 48).tolist() == [True, True, True, False, False]
