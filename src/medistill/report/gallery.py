"""One offline page: images with their boxes, every model's map over them, and the figures on top."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from medistill.data.dataset import Dataset
from medistill.explain.second_look import Doubt
from medistill.explain.selection import Finding
from medistill.metrics.eligibility import MIN_GROUPS
from medistill.metrics.intervals import CONFIDENCE
from medistill.records.explain import REFERENCES, Choice, ModelMaps
from medistill.records.models import Role
from medistill.report.html import render_page

COLOURS = "inferno"
OPACITY = 0.75
"""Opacity of the strongest evidence; it falls with the root of the evidence, and is 0 without any."""


@dataclass(frozen=True)
class Overlay:
    """One model's answer about one finding.

    Attributes:
        model: the model's name.
        probability: of the label, 0..1.
        heat: float32 (S, S), the map in the frame; 0 is no evidence and 1 the top of the model's scale for this label.
        peak: row and column in pixels; None for a flat map.
        hit: whether the peak is inside the truth; None if the finding has neither boxes nor a mask.
        predicted: the class that the model predicts, for exclusive classes; else None.
    """

    model: str
    probability: float
    heat: NDArray[np.float32]
    peak: tuple[int, int] | None
    hit: bool | None
    predicted: str | None = None

    @property
    def picture(self) -> str:
        """The map as the data URI of a picture: a few kilobytes, in exactly the legend's colours."""
        picture = Image.fromarray(np.uint8(np.round(np.clip(self.heat, 0, 1) * 255)))
        picture.putpalette(_palette()[:, :3].tobytes())
        return _png(picture, transparency=_palette()[:, 3].tobytes())

    @property
    def top(self) -> float:
        """The map's largest value."""
        return float(self.heat.max())


@dataclass(frozen=True)
class Row:
    """One image of the gallery.

    Attributes:
        finding: the finding that is explained.
        pixels: uint8 (C, S, S).
        facts: further facts about the image, such as age and view.
        overlays: one per model, in the order of the page.
    """

    finding: Finding
    pixels: NDArray[np.uint8]
    facts: str
    overlays: list[Overlay]

    @property
    def size(self) -> int:
        """Width and height in pixels."""
        return int(self.pixels.shape[-1])

    @property
    def picture(self) -> str:
        """The image as the data URI of a picture."""
        return _image(self.pixels)

    @property
    def outline(self) -> str:
        """The border of the finding's mask as the path of an SVG, in pixels; empty without a mask."""
        return "" if self.finding.mask is None else outline(self.finding.mask)


@dataclass(frozen=True)
class DoubtRow:
    """A label that the teachers contradict, with its image.

    Attributes:
        doubt: the label.
        pixels: uint8 (C, S, S).
        facts: further facts about the image.
    """

    doubt: Doubt
    pixels: NDArray[np.uint8]
    facts: str

    @property
    def picture(self) -> str:
        """The image as the data URI of a picture."""
        return _image(self.pixels)


def render(
    dataset: Dataset,
    roles: Mapping[str, Role],
    metrics: Mapping[str, ModelMaps],
    choice: Choice,
    rows: list[Row],
    doubts: list[DoubtRow],
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """The page as one self-contained HTML text; everything that comes from data is escaped.

    Args:
        dataset: its name, task and labels.
        roles: role of each model (`teacher`, `baseline`, `distilled`), in the order of the page.
        metrics: content of metrics.json, by model.
        choice: how the way to make maps was chosen.
        rows: the images, present findings first.
        doubts: labels that the teachers contradict, the worst first.
        left_out: models that are not on the page, each with the reason.
    """
    first = metrics[next(iter(roles))]
    return render_page(
        "gallery",
        title=f"Where the models look: {dataset.name}",
        dataset=dataset.name,
        exclusive=dataset.task.exclusive,
        labels=[label for label in dataset.labels if label in first.labels],
        roles=roles,
        metrics=metrics,
        counts=first,
        located=any(entry.boxes or entry.masks for entry in metrics.values()),
        references=REFERENCES,
        agreements=any(entry.agreement_teacher for entry in metrics.values()),
        confidence=CONFIDENCE,
        choice=choice,
        min_groups=MIN_GROUPS,
        stops=[
            f"rgba({red}, {green}, {blue}, {alpha / 255:.2f})" for red, green, blue, alpha in _palette()[:: 255 // 15]
        ],
        present=[row for row in rows if row.finding.present],
        absent=[row for row in rows if not row.finding.present],
        doubts=doubts,
        left_out=left_out,
    )


def outline(mask: NDArray[np.bool_]) -> str:
    """Where a mask (S, S) ends, as the path of an SVG: lines along the edges of pixels.

    Example:
        >>> outline(np.array([[False, False], [True, True]]))
        'M0 1h2M0 2h2M0 1v1M2 1v1'
    """
    lines = []
    for step, edges in (("h", _edges(mask)), ("v", _edges(mask.T))):
        for at, start, length in edges:
            lines.append(f"M{start} {at}h{length}" if step == "h" else f"M{at} {start}v{length}")
    return "".join(lines)


def _edges(mask: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Row, first column and length of each line between a row of pixels and the one above where only one is inside."""
    framed = np.pad(mask, 1)
    changes = (framed[1:] != framed[:-1]).astype(np.int8)  # of rows; the outermost columns never change
    steps = np.diff(changes, axis=1)
    starts, ends = np.argwhere(steps == 1), np.argwhere(steps == -1)
    return [(int(row), int(first), int(last - first)) for (row, first), (_, last) in zip(starts, ends, strict=True)]


def _palette() -> NDArray[np.uint8]:
    """RGBA, uint8 (256, 4), of a value from 0 to 1."""
    value = np.linspace(0, 1, 256)
    colours = colormaps[COLOURS](0.3 + 0.7 * value)  # the darkest colours would look like shadow
    colours[:, 3] = OPACITY * np.sqrt(value)
    return np.round(colours * 255).astype(np.uint8)


def _image(pixels: NDArray[np.uint8]) -> str:
    """An image (C, S, S), grey or RGB, as a data URI."""
    return _png(Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))))


def _png(picture: Image.Image, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
