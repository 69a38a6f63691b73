"""One offline page: images with their boxes, every model's map over them, and the figures on top."""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image

from medistill.explain.selection import Finding
from medistill.report.html import document, escape
from medistill.task import Task

COLOURS = "inferno"
OPACITY = 0.75
"""Of the strongest evidence; it falls to 0 with the root of it: weak evidence shows, none leaves the image as it is."""


@dataclass(frozen=True)
class Overlay:
    """One model's answer about one finding.

    Attributes:
        model: the model's name.
        probability: of the label, 0..1.
        heat: float32 (S, S), the map in the frame; 0 is no evidence and 1 the top of the model's scale for this label.
        peak: row and column in pixels; None for a flat map.
        hit: whether the peak is inside a box; None where the finding has no boxes.
        predicted: the class that the model names, where classes are exclusive; else None.
    """

    model: str
    probability: float
    heat: NDArray[np.float32]
    peak: tuple[int, int] | None
    hit: bool | None
    predicted: str | None = None


@dataclass(frozen=True)
class Row:
    """One image of the gallery.

    Attributes:
        finding: what is looked for.
        pixels: uint8 (C, S, S).
        facts: what else is known of the image, such as age and view, for the reader.
        overlays: one a model, in the order of the page.
    """

    finding: Finding
    pixels: NDArray[np.uint8]
    facts: str
    overlays: list[Overlay]


def render(
    dataset: str, task: Task, labels: list[str], roles: dict[str, str], metrics: dict[str, Any], rows: list[Row]
) -> str:
    """The page as one self-contained HTML text; everything that comes from data is escaped.

    Args:
        dataset: the data set's name.
        task: of the data set.
        labels: its labels, in order.
        roles: role of each model (`teacher`, `baseline`, `student`), in the order of the page.
        metrics: content of metrics.json.
        rows: the images, present findings first.
    """
    present = [row for row in rows if row.finding.present]
    absent = [row for row in rows if not row.finding.present]
    parts = [
        "<main>",
        f"<h1>Where the models look</h1><p class=lead>Grad-CAM on {escape(dataset)}. ",
        "<strong>Research use only, not a medical device.</strong></p>",
        _summary(roles, metrics),
        _per_label(labels, roles, metrics),
        _legend(),
        *_sections(task, present, absent),
        "</main>",
    ]
    return document(f"Where the models look: {dataset}", _STYLE, "\n".join(part for part in parts if part) + "\n")


def _summary(roles: dict[str, str], metrics: dict[str, Any]) -> str:
    if not any(entry["boxes"] for entry in metrics.values()):
        localisation = (
            "<p class=note>Localisation is absent: there are no boxes on validation or test images. "
            "The findings below are labels of test images.</p>"
        )
    else:
        first = next(iter(metrics.values()))
        localisation = (
            f"<p>{first['boxes']} boxes, {first['findings']} findings (a label on an image; its boxes are one target) "
            f"on {first['images']} images of {first['groups']} patients or groups; boxes on test images: "
            f"{first['boxes_test']}, on validation images: {first['boxes_val']}, on training images: none used. "
            f"A hit: the map's peak is inside a box; a flat map points nowhere and is a miss. "
            f"<em>Chance</em> is the share of the frame that the boxes cover; "
            f"<em>centre</em> is what pointing at the middle of every image hits; "
            f"below each is the pointing game minus it, finding by finding, which is what the conclusion reads; "
            f"<em>energy</em> is the share of the map inside the boxes (chance, if the map is the same everywhere). "
            f"<em>Agreement</em> is the mean cosine similarity of a student's and a teacher's maps. "
            f"Brackets: 95&nbsp;% intervals over groups, Wilson's of a share of hits, else by a bootstrap with the "
            f"same draws for every model.</p>"
        )
    head = "".join(
        f'<th scope="col">{title}</th>'
        for title in (
            *("Model", "Map", "Pointing game", "Flat maps", "Energy", "Chance", "Centre"),
            *("Pointing game − teacher's", "Agreement with teacher", "Conclusion"),
        )
    )
    body = "".join(_summary_row(name, role, metrics[name]) for name, role in roles.items())
    return (
        f"<section><h2>Summary</h2>{localisation}"
        f'<div class=scroll tabindex=0 role=region aria-label="Summary"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></section>"
    )


def _summary_row(name: str, role: str, entry: dict[str, Any]) -> str:
    against = "<br>".join(
        f"{_interval(value)}, {_name(teacher)}, n&nbsp;=&nbsp;{value['findings']}"
        for teacher, value in entry["agreement_teacher"].items()
    )
    lead = "<br>".join(_interval(value["pointing_game"], "+.2f") for value in entry["difference_teacher"].values())
    cells = [
        "×".join(str(side) for side in entry["map_size"]),
        _interval(entry["pointing_game"]),
        str(entry["flat_maps"]) if entry["boxes"] else "–",
        _interval(entry["energy"]),
        _prior(entry["chance"], entry["difference_chance"]),
        _prior(entry["centre_prior"], entry["difference_centre"]),
        lead or "–",
        against or "–",
        escape(entry["conclusion"]),
    ]
    return (
        f'<tr><th scope="row">{_name(name)} <span class=tag>{escape(role)}</span></th>'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
    )


def _per_label(labels: list[str], roles: dict[str, str], metrics: dict[str, Any]) -> str:
    tables = {name: metrics[name]["labels"] for name in roles}
    first = next(iter(tables.values()))
    if not first:
        return ""
    head = "".join(f'<th scope="col">{_name(name)}</th>' for name in roles)
    body = ""
    for label in (label for label in labels if label in first):
        here = first[label]
        cells = "".join(
            f"<td{'' if table[label]['conclusive'] else ' class=muted'}>{_interval(table[label]['pointing_game'])}</td>"
            for table in tables.values()
        )
        body += (
            f'<tr><th scope="row">{escape(label)}</th><td>{here["findings"]}</td><td>{_number(here["chance"])}</td>'
            f"<td>{_number(here['centre_prior'])}</td>{cells}</tr>"
        )
    return (
        "<details><summary>Pointing game by label</summary>"
        "<p>Grey: not conclusive (a map below 4×4 cells, or boxes from fewer than 10 patients or groups).</p>"
        '<div class=scroll tabindex=0 role=region aria-label="Pointing game by label"><table><thead><tr>'
        '<th scope="col">Label</th><th scope="col">Findings</th><th scope="col">Chance</th><th scope="col">Centre</th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div></details>"
    )


def _legend() -> str:
    stops = ", ".join(
        f"rgba({red}, {green}, {blue}, {alpha / 255:.2f})" for red, green, blue, alpha in _palette()[:: 255 // 15]
    )
    return (
        "<section><h2>Gallery</h2>"
        "<p>Images are chosen by a hash of their id, spread over the labels, never by success. Maps are not stretched "
        "image by image: for each model and label the scale runs from 0, no evidence for the label, to the largest "
        "value that the model's maps reach on the measured images that have the label. A faint map therefore means "
        "little evidence. Maps of two models share the colours, not the unit.</p>"
        f'<div class=legend><span>0 <i class=bar style="background-image: linear-gradient(to right, {stops})"></i> '
        "100&nbsp;%, the model's largest for this label</span>"
        '<span><i class="key box"></i> ground-truth box</span>'
        '<span><svg class=key viewBox="-8 -8 16 16" aria-hidden=true><path class=peak d="M-6 0H6M0-6V6"/></svg> '
        "peak of the map</span></div>"
        "<p class=switches><label><input type=checkbox id=show-heat checked> maps</label> "
        "<label><input type=checkbox id=show-marks checked> boxes and peaks</label></p></section>"
    )


def _sections(task: Task, present: list[Row], absent: list[Row]) -> Iterable[str]:
    if task.exclusive:
        yield from _section("The true class", present)
        note = "Test images that at least one model takes for another class, and the evidence for that class."
        yield from _section("A class that is named in place of the true one", absent, note)
    else:
        yield from _section("Findings that are present", present)
        yield from _section("Findings that are absent", absent)


def _section(title: str, rows: list[Row], note: str = "") -> Iterable[str]:
    if rows:
        yield f"<h2>{title}</h2>" + (f"<p>{note}</p>" if note else "")
    for place, row in enumerate(rows):
        finding = row.finding
        key = f"{'present' if finding.present else 'absent'}-{place}"
        size = row.pixels.shape[-1]
        facts = " · ".join(escape(text) for text in (f"image {finding.image_id}", finding.split, row.facts) if text)
        state = "" if finding.present else " (absent)"
        image = f'<image id="{key}" width="{size}" height="{size}" href="{_png(_grey_or_rgb(row.pixels))}"/>'
        figures = [_figure("Image", "", finding, size, image, None)]
        for overlay in row.overlays:
            layers = (
                f'<use href="#{key}"/><image class=heat width="{size}" height="{size}" href="{_heat(overlay.heat)}"/>'
            )
            figures.append(_figure(overlay.model, _verdict(overlay), finding, size, layers, overlay.peak))
        yield (
            f"<article><h3>{escape(finding.label)}{state} <span class=muted>{facts}</span></h3>"
            f'<div class="scroll strip" tabindex=0 role=region aria-label="{escape(finding.label)}">'
            f"{''.join(figures)}</div></article>"
        )


def _verdict(overlay: Overlay) -> str:
    text = f"probability {overlay.probability:.2f}, peak {overlay.heat.max():.0%}"
    if overlay.predicted is not None:
        text += f", predicts {_name(overlay.predicted)}"
    if overlay.hit is not None:
        text += " <b class=hit>✓ hit</b>" if overlay.hit else " <b class=miss>✗ miss</b>"
    if overlay.peak is None:
        text += " <span class=muted>flat map</span>"
    return text


def _figure(title: str, verdict: str, finding: Finding, size: int, layers: str, peak: tuple[int, int] | None) -> str:
    boxes = "".join(
        f'<rect class=box x="{x * size:.2f}" y="{y * size:.2f}" width="{w * size:.2f}" height="{h * size:.2f}"/>'
        for x, y, w, h in finding.boxes
    )
    cross = ""
    if peak:
        row, column, arm = peak[0] + 0.5, peak[1] + 0.5, size / 32
        cross = f'<path class=peak d="M{column - arm} {row}h{2 * arm}M{column} {row - arm}v{2 * arm}"/>'
    return (
        f'<figure><svg viewBox="0 0 {size} {size}" role=img aria-label="{escape(title)}: {escape(finding.label)}">'
        f"{layers}<g class=marks>{boxes}{cross}</g></svg>"
        f"<figcaption>{_name(title)}<br>{verdict}</figcaption></figure>"
    )


def _name(name: str) -> str:
    """A model's name, escaped, with places where a line may break."""
    return escape(name).replace("_", "_<wbr>").replace("-", "-<wbr>")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _prior(value: float | None, difference: dict[str, float | None] | None) -> str:
    """What is hit without a model, and the lead of the pointing game over it."""
    return _number(value) if difference is None else f"{_number(value)}<br>{_interval(difference, '+.2f')}"


def _interval(value: dict[str, float | None] | None, form: str = ".2f") -> str:
    if value is None or value["estimate"] is None:
        return "–"
    estimate, *bounds = (
        "–" if value[key] is None else format(value[key], form).replace("-", "−")
        for key in ("estimate", "lower", "upper")
    )
    return f"<span class=interval>{estimate} <span class=muted>[{', '.join(bounds)}]</span></span>"


def _palette() -> NDArray[np.uint8]:
    """RGBA, uint8 (256, 4), of a value from 0 to 1."""
    value = np.linspace(0, 1, 256)
    colours = colormaps[COLOURS](0.3 + 0.7 * value)  # its darkest part would look like shadow in the image
    colours[:, 3] = OPACITY * np.sqrt(value)
    return np.uint8(np.round(colours * 255))


def _heat(heat: NDArray[np.float32]) -> str:
    """A map as a PNG with a palette: a few kilobytes, and its colours are exactly the legend's."""
    picture = Image.fromarray(np.uint8(np.round(np.clip(heat, 0, 1) * 255)))
    picture.putpalette(_palette()[:, :3].tobytes())
    return _png(picture, transparency=_palette()[:, 3].tobytes())


def _grey_or_rgb(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _png(picture: Image.Image, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True, **options)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --muted: #5f6873; --paper: #fff; --line: #d5dae0; --panel: #f4f6f8;
  --hit: #0b6b3a; --miss: #a3262a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --muted: #9aa4b0; --paper: #14171b; --line: #363d46;
  --panel: #1c2127; --hit: #5fd38d; --miss: #ff8a8a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 1.25rem 1rem 3rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; } h3 .muted { font-weight: 400; font-size: .85rem; overflow-wrap: anywhere; }
p { max-width: 80ch; margin: .4rem 0; } .lead { color: var(--muted); } .muted { color: var(--muted); }
.note { border-left: 4px solid var(--line); padding-left: .75rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line); }
.interval { white-space: nowrap; }
th { font-weight: 600; } thead th { color: var(--muted); } tbody th { min-width: 9rem; }
td:last-child { min-width: 6rem; }
.tag { border: 1px solid var(--line); border-radius: 4px; padding: 0 .3rem; font-size: .75rem; font-weight: 400;
  color: var(--muted); }
details { margin: 1rem 0; } summary { cursor: pointer; font-weight: 600; }
article { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: .75rem;
  margin: .75rem 0; }
.strip { display: flex; gap: .6rem; padding-bottom: .3rem; }
figure { margin: 0; flex: 1 0 150px; max-width: 260px; }
figure svg { display: block; width: 100%; background: #000; border-radius: 4px; }
figcaption { font-size: .8rem; line-height: 1.35; margin-top: .3rem; }
rect.box, path.peak { fill: none; vector-effect: non-scaling-stroke; }
rect.box { stroke: #35d0ff; stroke-width: 1.5; }
path.peak { stroke: #fff; stroke-width: 1.5; filter: drop-shadow(0 0 1px #000); }
.hit { color: var(--hit); white-space: nowrap; } .miss { color: var(--miss); white-space: nowrap; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.2rem; font-size: .85rem; }
.bar, .key { display: inline-block; vertical-align: -3px; width: 16px; height: 16px; border-radius: 3px; }
.bar { width: 160px; background-color: #777; } .key.box { border: 2px solid #35d0ff; } svg.key { background: #555; }
.switches label { margin-right: 1rem; }
body:has(#show-heat:not(:checked)) .heat, body:has(#show-marks:not(:checked)) .marks { display: none; }
"""
