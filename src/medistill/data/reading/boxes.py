"""Boxes from the columns of a table, checked."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, field_validator, model_validator

from medistill.data.reading.source import no_boxes
from medistill.errors import UserError
from medistill.records.data import LABEL_PREFIX
from medistill.settings import Settings
from medistill.text import pluralise

CORNER_AND_SIZE = ("x", "y", "w", "h")
TWO_CORNERS = ("x_min", "y_min", "x_max", "y_max")
"""The two ways to give a box by four numbers; x and y are measured from the left and the top."""

Extent = float | pd.Series
"""A width or height: one for all rows, or float (N,)."""

FRACTIONS = (1.0, 1.0)
"""Width and height of the picture that fractions refer to."""


ABSENT: Any = None
"""Default of a key that may be left out, but that says something where it is there: null is refused."""


class BoxColumns(Settings):
    """The columns of a box: `x`, `y`, `w`, `h`, or `x_min`, `y_min`, `x_max`, `y_max`; blank where a row has none."""

    x: str = Field(default=ABSENT)
    y: str = Field(default=ABSENT)
    w: str = Field(default=ABSENT)
    h: str = Field(default=ABSENT)
    x_min: str = Field(default=ABSENT)
    y_min: str = Field(default=ABSENT)
    x_max: str = Field(default=ABSENT)
    y_max: str = Field(default=ABSENT)
    label: str = Field(default=ABSENT)
    """The column that says what the box shows; where it is not there, the labels that are 1 in its row."""
    unit: Literal["pixels", "fractions"] = "pixels"
    size: list[int | str] = Field(default=ABSENT)
    """Width and height in pixels of the picture that the numbers refer to, where the files have been resized since: two
    numbers or two columns. Where it is not there, they refer to the files as they are."""

    @field_validator("size", mode="before")
    @classmethod
    def _width_and_height(cls, size: Any) -> Any:
        given = size if isinstance(size, list) else []
        if [isinstance(item, str) or (type(item) is int and item > 0) for item in given] != [True, True]:
            raise ValueError("must be a width and a height in pixels, or the columns that have them: [1024, 1024]")
        return size

    @model_validator(mode="after")
    def _four_numbers(self) -> "BoxColumns":
        given = tuple(name for name in (*CORNER_AND_SIZE, *TWO_CORNERS) if getattr(self, name) is not None)
        if given not in (CORNER_AND_SIZE, TWO_CORNERS):
            raise ValueError(f"name the columns of {', '.join(CORNER_AND_SIZE)}, or of {', '.join(TWO_CORNERS)}")
        if self.unit == "fractions" and self.size:
            raise ValueError("size is for boxes in pixels; fractions need none")
        return self

    @property
    def corners(self) -> bool:
        """Whether a box is given by two corners."""
        return self.x_min is not None

    @property
    def in_pixels(self) -> bool:
        """Whether boxes are in pixels of images whose size is unknown before they are decoded."""
        return self.unit == "pixels" and not self.size

    def columns(self) -> dict[str, str]:
        """Column of each key that names one, those of the four numbers first."""
        named = {key: getattr(self, key) for key in (TWO_CORNERS if self.corners else CORNER_AND_SIZE)}
        named |= {"label": self.label} if self.label else {}
        return named | {f"size.{place}": name for place, name in enumerate(self.size or []) if isinstance(name, str)}

    def read(self, raw: pd.DataFrame, file: Path) -> pd.DataFrame:
        """The boxes of a table that has these columns, as `read_boxes` gives them; `UserError` as there."""
        size: tuple[Extent, Extent] | None = FRACTIONS if self.unit == "fractions" else None
        cells = raw[list(self.columns().values())[:4]]
        if self.size:
            boxed = (cells != "").any(axis=1)
            width, height = (_extents(raw, file, name, boxed) if isinstance(name, str) else name for name in self.size)
            size = width, height
        return read_boxes(cells, raw["line"], file, corners=self.corners, size=size)


def _extents(raw: pd.DataFrame, file: Path, column: str, boxed: pd.Series) -> pd.Series:
    """A column of widths or heights; cells of rows without a box are ignored."""
    extents = pd.to_numeric(raw[column], errors="coerce").astype("float64")
    wrong = boxed & ~(np.isfinite(extents) & (extents > 0))
    if wrong.any():
        line, cell = raw["line"][wrong].iloc[0], raw[column][wrong].iloc[0]
        raise UserError(
            f"{file}: line {line}: column {column!r} has {cell!r} beside a box, which is not a size in pixels"
        )
    return extents


def read_boxes(
    cells: pd.DataFrame,
    lines: pd.Series,
    file: Path,
    *,
    corners: bool = False,
    size: tuple[Extent, Extent] | None = None,
) -> pd.DataFrame:
    """The boxes of a table's rows, not yet clipped to the image; that happens when they are mapped to the frame.

    Args:
        cells: str (N, 4), numbers as in `CORNER_AND_SIZE`, or as in `TWO_CORNERS`; all blank where a row has no box.
        lines: int (N,), the line of each row, for messages; same index.
        file: the table, for messages.
        corners: whether they are as in `TWO_CORNERS`.
        size: width and height of the picture that the numbers refer to, in their unit: pixels, or
            `FRACTIONS`. None: they are pixels of the image itself, whose size is unknown before it is decoded.

    Returns:
        float64 `x`, `y`, `w`, `h` of the rows that have a box, with their index: as fractions of the picture, or in
        pixels where there is no size.

    Raises:
        UserError: a box has fewer than four finite numbers, has its corners the wrong way round, or lies outside of the
            picture; the message names file and line.
    """
    names = TWO_CORNERS if corners else CORNER_AND_SIZE
    told = cells[(cells != "").any(axis=1)]
    numbers = told.apply(lambda column: pd.to_numeric(column.str.replace(",", ".", regex=False), errors="coerce"))
    boxes: pd.DataFrame = numbers.set_axis(list(CORNER_AND_SIZE), axis=1).astype("float64")
    if corners:
        boxes["w"] -= boxes["x"]
        boxes["h"] -= boxes["y"]

    def refuse(wrong: pd.Series, what: str) -> None:
        if wrong.any():
            given = ", ".join(told[wrong].iloc[0].map(lambda cell: cell or "''"))
            line = lines[told.index][wrong].iloc[0]
            raise UserError(f"{file}: line {line}: the box {', '.join(names)} = {given} {what}")

    refuse(~(boxes.abs() < np.inf).all(axis=1), "must be four numbers, or blank where there is none")
    refuse(
        (boxes["w"] <= 0) | (boxes["h"] <= 0),
        "must have x_max above x_min and y_max above y_min" if corners else "must have a width and height above 0",
    )
    if size is None:
        if len(boxes) and (boxes[["w", "h"]] <= 1).all(axis=None):
            raise UserError(f"{file}: no box is larger than a pixel; are they fractions of the image, not pixels?")
        refuse((boxes["x"] + boxes["w"] <= 0) | (boxes["y"] + boxes["h"] <= 0), "lies outside of the image")
        return boxes
    width, height = (extent[told.index] if isinstance(extent, pd.Series) else extent for extent in size)
    boxes[["x", "w"]] = boxes[["x", "w"]].div(width, axis=0)
    boxes[["y", "h"]] = boxes[["y", "h"]].div(height, axis=0)
    hint = "the image; are these pixels, not fractions?" if size is FRACTIONS else "the picture whose size is given"
    refuse(outside(boxes), f"lies outside of {hint}")
    return boxes


def outside(boxes: pd.DataFrame, width: Extent = 1, height: Extent = 1) -> pd.Series:
    """Whether a box, `x`, `y`, `w`, `h`, lies wholly outside a picture of this size: bool (N,)."""
    beyond = (boxes["x"] >= width) | (boxes["y"] >= height)
    return beyond | (boxes["x"] + boxes["w"] <= 0) | (boxes["y"] + boxes["h"] <= 0)


def upheld(boxes: pd.DataFrame, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The boxes of labels that are 1 for their image, each once, and a sentence on those that are left out.

    Args:
        boxes: `image_id`, `label`, `x`, `y`, `w`, `h`.
        rows: as in `Source`; boxes of other images are dropped.
    """
    place = pd.Series(np.arange(len(rows)), index=rows["image_id"]).reindex(boxes["image_id"]).to_numpy()
    boxes, place = boxes[~np.isnan(place)], place[~np.isnan(place)].astype(int)
    columns = [column for column in rows.columns if column.startswith(LABEL_PREFIX)]
    number = pd.Index(columns).get_indexer(pd.Index(LABEL_PREFIX + boxes["label"]))
    holds = rows[columns].to_numpy()[place, number] == 1
    left = int((~holds).sum())
    notes = [f"{pluralise(left, 'box')} left out, as the label is not 1 for the image"] if left else []
    empty = no_boxes()
    return boxes.loc[holds, list(empty.columns)].astype(empty.dtypes).drop_duplicates(ignore_index=True), notes
