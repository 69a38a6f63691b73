"""Procedurally drawn frontal chest X-rays with 14 localised findings, in ChestX-ray14's own layout on disk.

The phantom is the data set that everybody has: it needs nothing but numpy and pillow, it is the same byte for byte for
the same seed, and, unlike the real thing, its truth is known. A film is the attenuation along each ray (body wall,
lungs, heart, mediastinum, diaphragm, spine, ribs, clavicles, scapulae, vessels), put through a film's S-shaped
response with an exposure and a latitude of its own, plus quantum noise. A finding changes the attenuation in one
place, so that the same film can be drawn with and without it, and the difference is where the box says.

How hard it is was set once: the contrasts and sizes of the findings are such that an ImageNet-pretrained
EfficientNet-Lite2, trained on the default phantom (1,000 images of 128 px, 7 epochs), reaches a test AUROC between
0.70 and 0.97 for each label. Measured then, one run: Nodule 0.75, Pleural_Thickening 0.79, Mass and Pneumothorax 0.80,
Fibrosis 0.86, Cardiomegaly, Infiltration and Emphysema 0.87, Effusion 0.92, Atelectasis, Edema and Pneumonia 0.93,
Consolidation 0.94, Hernia 0.96; macro 0.87. Exposure varies more than any focal finding brightens or darkens a film,
so that a film's histogram says next to nothing about those.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from medistill.data.nih import BOX_FRAME, LABELS
from medistill.files import atomic

FOCAL: tuple[str, ...] = (
    "Atelectasis",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumothorax",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""Labels whose finding covers a small part of one lung. Consolidation and Pneumonia, which often come together, fill
much of a lobe; the others may change the heart, a pleural space or both lungs. From a film's mean and histogram alone
(logistic regression, 5 folds by patient, seeds 0 to 2) the AUROC of a focal label is at most 0.58; Consolidation has
0.65 to 0.69, Edema 0.62 to 0.66, Pneumonia 0.54 to 0.61, the other three 0.42 to 0.56."""

# Share of images by label. "nih" is what Data_Entry_2017_v2020.csv has.
_PREVALENCE: dict[str, dict[str, float]] = {
    "balanced": dict(
        zip(LABELS, (0.19, 0.16, 0.20, 0.19, 0.16, 0.17, 0.16, 0.16, 0.16, 0.16, 0.16, 0.16, 0.16, 0.16), strict=True)
    ),
    "nih": dict(
        zip(
            LABELS,
            (0.103, 0.025, 0.119, 0.177, 0.052, 0.056, 0.013, 0.047, 0.042, 0.021, 0.022, 0.015, 0.030, 0.002),
            strict=True,
        )
    ),
}
_ILL = {"balanced": 0.76, "nih": 0.462}
"""Share of images with at least the chance of a finding; the others are 'No Finding'."""

# child: (parent, P(child | parent) / P(child)), measured on the real label file; parents come before their children.
_COMES_WITH: dict[str, tuple[str, float]] = {
    "Edema": ("Cardiomegaly", 2.2),
    "Effusion": ("Edema", 2.2),
    "Atelectasis": ("Effusion", 2.4),
    "Pneumonia": ("Consolidation", 2.1),
    "Infiltration": ("Pneumonia", 2.4),
    "Nodule": ("Mass", 2.8),
    "Pneumothorax": ("Emphysema", 6.3),
    "Pleural_Thickening": ("Fibrosis", 3.5),
}
_ORDER = (
    *("Cardiomegaly", "Edema", "Effusion", "Atelectasis", "Consolidation", "Pneumonia", "Infiltration"),
    *("Mass", "Nodule", "Emphysema", "Pneumothorax", "Fibrosis", "Pleural_Thickening", "Hernia"),
)
_CHRONIC = frozenset({"Cardiomegaly", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia", "Nodule", "Mass"})
_KEEPS = {True: 0.75, False: 0.4}
"""Chance that a chronic or an acute finding (or its absence) is carried over to the patient's next image."""

_SIZES_PA = ((2500, 2048, "0.168"), (2992, 2991, "0.143"), (2048, 2500, "0.171"))
_SIZES_AP = ((3056, 2544, "0.139"), (2500, 2048, "0.168"), (2021, 2021, "0.194311"))
_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
_BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"
_MARK = ".phantom.json"

# Independent streams of random numbers, keyed (seed, stream, patient, …): nothing depends on what was drawn before.
_PATIENT, _IMAGE, _FINDING, _BLOCK = range(4)


def _rng(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


# ---------------------------------------------------------------------------------------------------- descriptions


@dataclass(frozen=True)
class Anatomy:
    """A patient's build, in shares of the film's side: the same on all of her images."""

    sex: str
    """``M`` or ``F``: F has breast shadows."""
    width: float
    """Scale of the thorax across; 1 is the mean."""
    apex: float
    """Height of the lungs' tops, from the upper border."""
    base: float
    """Height of the right dome of the diaphragm at full inspiration."""
    heart: float
    """Scale of the heart; 1 is the mean of the healthy."""
    fat: float
    """Soft tissue around the ribs, 0 (slim) to 1."""
    rib_phase: float
    """Where the first rib lies, in rib spacings."""
    rib_spacing: float
    """Distance from rib to rib."""
    flat: float
    """How flat the diaphragm is, 0 (domed) to 0.5; emphysema flattens it further."""
    sulcus: float
    """Depth of the angle between diaphragm and chest wall: a shallow one looks like a little fluid."""
    gas: float
    """Half-width of the stomach's air bubble."""
    seed: int
    """Of the vessels and the lung texture."""


@dataclass(frozen=True)
class Exposure:
    """How one film was taken."""

    view: str
    """``PA`` or ``AP``."""
    rotate: float
    """Rotation in radians."""
    zoom: float
    """Magnification."""
    shift: tuple[float, float]
    """Shift to the right and down, in shares of the film's side."""
    breath: float
    """How much higher than at full inspiration the diaphragm is."""
    level: float
    """Attenuation that comes out mid-grey: a larger one makes a darker film."""
    latitude: float
    """Width of the response; a larger one makes a flatter film."""
    noise: float
    """Standard deviation of the quantum noise in grey levels at 128 px."""
    leads: int
    """Number of cables and lines over the chest."""
    collimated: tuple[float, float, float, float]
    """Black borders left, top, right, bottom, in shares of the film's side."""
    seed: int
    """Of the noise, the cables and the side marker."""


@dataclass(frozen=True)
class Finding:
    """One finding: what, where, how large and how dense. ``across`` and ``along`` are in the lung's own coordinates."""

    label: str
    """One of ``LABELS``."""
    side: int
    """-1 the patient's right lung (left on the film), 1 the left lung."""
    across: float
    """0 at the mediastinum, 1 at the chest wall."""
    along: float
    """0 at the apex, 1 at the diaphragm."""
    size: float
    """0 (smallest) to 1 (largest) that this label comes in."""
    density: float
    """Contrast in units of the label's usual one, about 0.7 to 1.3."""
    seed: int
    """Of its shape and texture."""


def draw_patient(seed: int, patient: int) -> Anatomy:
    """Return the build of patient number ``patient``; a pure function of both arguments."""
    rng = _rng(seed, _PATIENT, patient)
    return Anatomy(
        sex="M" if rng.random() < 0.565 else "F",
        width=float(np.clip(rng.normal(1.0, 0.055), 0.88, 1.12)),
        apex=float(rng.uniform(0.085, 0.135)),
        base=float(rng.uniform(0.68, 0.76)),
        heart=float(np.clip(rng.normal(1.0, 0.05), 0.9, 1.1)),
        fat=float(rng.beta(1.6, 2.2)),
        rib_phase=float(rng.random()),
        rib_spacing=float(rng.uniform(0.066, 0.078)),
        flat=float(rng.uniform(0.0, 0.5)),
        sulcus=float(rng.uniform(0.065, 0.13)),
        gas=float(rng.uniform(0.02, 0.08)),
        seed=int(rng.integers(2**31)),
    )


def draw_exposure(rng: np.random.Generator, view: str) -> Exposure:
    """Draw how a film is taken; AP films (bedside) are flatter, noisier, more crooked, and in less inspiration."""
    ap = view == "AP"
    border = rng.random(4) < (0.12 if ap else 0.08)
    return Exposure(
        view=view,
        rotate=float(rng.normal(0, 0.035 if ap else 0.015)),
        zoom=float(rng.normal(1.02 if ap else 1.0, 0.035)),
        shift=(float(rng.normal(0, 0.02)), float(rng.normal(0.01, 0.02))),
        breath=float(rng.uniform(0.01, 0.08) if ap else rng.uniform(0.0, 0.035)),
        level=float(rng.normal(0.62, 0.065)),
        latitude=float(np.exp(rng.normal(math.log(0.158 if ap else 0.142), 0.16))),
        noise=float(rng.uniform(2.0, 5.0) if ap else rng.uniform(1.5, 4.0)),
        leads=int(rng.integers(0, 4)) if ap else int(rng.random() < 0.1),
        collimated=tuple(float(v) for v in np.where(border, rng.uniform(0.01, 0.07, 4), 0.0)),  # type: ignore[arg-type]
        seed=int(rng.integers(2**31)),
    )


# Where each label's finding lies: (across low, high), (along low, high).
_PLACE: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "Atelectasis": ((0.40, 0.65), (0.70, 0.92)),
    "Infiltration": ((0.35, 0.65), (0.30, 0.75)),
    "Mass": ((0.25, 0.75), (0.20, 0.80)),
    "Nodule": ((0.20, 0.80), (0.15, 0.88)),
    "Pneumonia": ((0.40, 0.65), (0.55, 0.85)),
    "Consolidation": ((0.40, 0.60), (0.20, 0.80)),
    "Fibrosis": ((0.55, 0.75), (0.62, 0.90)),
}


def draw_finding(label: str, seed: int, patient: int) -> Finding:
    """Draw a patient's finding of one label; a pure function, so that it is in the same place on her next film."""
    rng = _rng(seed, _FINDING, patient, LABELS.index(label))
    (a0, a1), (t0, t1) = _PLACE.get(label, ((0.5, 0.5), (0.5, 0.5)))
    return Finding(
        label=label,
        side=int(rng.choice((-1, 1))),
        across=float(rng.uniform(a0, a1)),
        along=float(rng.uniform(t0, t1)),
        size=float(rng.random()),
        density=float(rng.uniform(0.7, 1.3)),
        seed=int(rng.integers(2**31)),
    )


# --------------------------------------------------------------------------------------------------------- drawing


def _edge(distance: np.ndarray, width: float) -> np.ndarray:
    """Soft step: 0 below ``-width``, 1 above ``width``."""
    return np.clip(distance * (0.5 / width) + 0.5, 0.0, 1.0)


def _bump(distance: np.ndarray, width: float) -> np.ndarray:
    """Bell of height 1 and half-width ``width`` that is exactly 0 outside: a finding must end somewhere."""
    t = np.clip(1.0 - (distance / width) ** 2, 0.0, 1.0)
    return t * t


def _to_middle(phase: np.ndarray) -> np.ndarray:
    """Distance to the middle of the period, 0 to 0.5: what repeats, ribs and vertebrae, is drawn all at once."""
    return np.abs(phase - np.floor(phase) - 0.5)


def _cloud(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
    """Smooth random field, (size, size) float32 of about unit variance, whose grain is 1/cells of the film."""
    grid = rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    return np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC)) * np.float32(1.3)


def _oversampling(size: int) -> int:
    """How many times finer lines are drawn than the film is, to smooth their steps."""
    return max(1, min(4, 1024 // size))


def _shrunk(canvas: Image.Image, size: int) -> np.ndarray:
    small = canvas if canvas.width == size else canvas.reduce(canvas.width // size)
    return np.asarray(small, dtype=np.float32) * np.float32(1 / 255)


@lru_cache(maxsize=4)
def _pixels(size: int) -> tuple[np.ndarray, np.ndarray]:
    centre = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.broadcast_to(centre, (size, size)), np.broadcast_to(centre[:, None], (size, size))


def _lateral(y: np.ndarray | float, a: Anatomy) -> np.ndarray:
    """Distance of the chest wall's inner side from the midline at height ``y``."""
    t = np.clip((np.asarray(y, dtype=np.float32) - a.apex) / 0.75, 0.0, 1.0)
    u = 1.0 - t
    return a.width * 0.345 * np.sqrt(np.clip(1.0 - u * u * np.sqrt(u), 0.0, 1.0))


def _medial(y: np.ndarray | float, a: Anatomy) -> np.ndarray:
    """Distance of the lung's inner border from the midline at height ``y``."""
    t = np.clip(np.asarray(y, dtype=np.float32) - a.apex, 0.0, 1.0)
    return a.width * (0.042 + 0.05 * np.exp(-t * 14.0))


def _dome(r: np.ndarray | float, side: np.ndarray | float, a: Anatomy, e: Exposure, flat: float) -> np.ndarray:
    """Height of the diaphragm at distance ``r`` from the midline; ``flat`` (0 to 1) is emphysema's."""
    q = (np.asarray(r, dtype=np.float32) / a.width - 0.15) / 0.19
    top = a.base - e.breath + np.where(np.asarray(side) > 0, 0.025, 0.0) + 0.04 * flat
    return top + a.sulcus * (1.0 - 0.5 * flat) * q * q * np.where(q > 0, 1.0, 0.55)


@lru_cache(maxsize=8)
def _vessel_tree(seed: int) -> np.ndarray:
    """Branches of both lungs' vessels: (n, 6) of x0, y0, x1, y1, half-width and grey level 0 to 255, float64."""
    rng = _rng(seed, 17)
    start = []
    for side in (-1, 1):
        for angle in (-1.25, -0.9, -0.45, -0.1, 0.3, 0.65, 0.95, 1.2, 1.45):
            y = 0.43 + 0.012 * (side < 0) + 0.035 * angle
            start.append((side * 0.07, y, angle + rng.normal(0, 0.14), rng.uniform(0.0045, 0.0085), side))
    x, y, turn, width, side = np.array(start).T
    out = []
    for generation in range(6):
        length = (0.062, 0.05, 0.046, 0.042, 0.038, 0.035)[generation] * rng.uniform(0.6, 1.4, x.shape)
        turn = turn + rng.normal(0, 0.16, x.shape)
        x1, y1 = x + side * length * np.cos(turn), y + length * np.sin(turn)
        out.append(np.stack([x, y, x1, y1, width, np.minimum(255, 40 + 24000 * width)], 1))
        # The stem goes on, a thinner twig leaves it to either side; some end.
        spread = rng.uniform(0.25, 0.7, x.shape) * rng.choice((-1.0, 1.0), x.shape)
        x, y = np.tile(x1, 2), np.tile(y1, 2)
        turn = np.concatenate([turn - 0.25 * spread, turn + spread])
        width = np.concatenate([width * 0.80, width * 0.58])
        side = np.tile(side, 2)
        stay = (rng.random(x.shape) < 0.85) & (width > 0.0008) & (np.abs(x) < 0.36) & (y > 0.08) & (y < 0.88)
        x, y, turn, width, side = x[stay], y[stay], turn[stay], width[stay], side[stay]
    tree = np.concatenate(out)
    return tree[np.argsort(tree[:, 4], kind="stable")]


class _Film:
    """One film's geometry, and the fields that findings may change. All fields are (size, size) float32."""

    def __init__(self, a: Anatomy, e: Exposure, size: int) -> None:
        self.a, self.e, self.size = a, e, size
        px, py = _pixels(size)
        self.cos, self.sin = math.cos(e.rotate) / e.zoom, math.sin(e.rotate) / e.zoom
        dx, dy = px - np.float32(0.5 + e.shift[0]), py - np.float32(0.5 + e.shift[1])
        self.x = dx * np.float32(self.cos) + dy * np.float32(self.sin)
        self.y = dy * np.float32(self.cos) - dx * np.float32(self.sin) + np.float32(0.5)
        self.r = np.abs(self.x)
        self.side = np.sign(self.x)
        self.soft = 0.55 / size + 0.0012  # half-width of an edge: penumbra, at least half a pixel
        self.wall = _lateral(self.y, a) - self.r
        self.inner = self.r - _medial(self.y, a)
        # What no finding changes.
        self.body = self._body()
        self.ribs = self._ribs()
        self.bones = self._bones()
        self.centre, self.hila, self.hide = self._mediastinum()
        self.vessels = self._vessels()
        self.cables = self._cables()
        self.scatter = 0.018 * _cloud(_rng(e.seed, 31), 5, size)

    def to_pixels(self, xy: np.ndarray, scale: float) -> np.ndarray:
        """Body coordinates (n, 2) to pixels of a film ``scale`` px wide."""
        z = self.e.zoom
        c, s = math.cos(self.e.rotate) * z, math.sin(self.e.rotate) * z
        x, y = xy[:, 0], xy[:, 1] - 0.5
        px = x * c - y * s + 0.5 + self.e.shift[0]
        py = x * s + y * c + 0.5 + self.e.shift[1]
        return np.stack([px, py], 1) * scale

    def _lines(self, segments: np.ndarray) -> np.ndarray:
        """Draw (n, 6) segments x0, y0, x1, y1, half-width (body coordinates), grey (0 to 255), antialiased; 0 to 1."""
        side = self.size * _oversampling(self.size)
        canvas = Image.new("L", (side, side))
        draw = ImageDraw.Draw(canvas)
        ends = self.to_pixels(segments[:, :4].reshape(-1, 2), side).reshape(-1, 4).tolist()
        widths = np.maximum(1, np.rint(2 * side * segments[:, 4])).astype(int).tolist()
        for end, width, grey in zip(ends, widths, segments[:, 5].astype(int).tolist(), strict=True):
            draw.line(end, fill=grey, width=width)
        return _shrunk(canvas, self.size)

    def _body(self) -> np.ndarray:
        """Neck, shoulders, chest wall, belly and breasts: thick in the middle, nothing outside the outline."""
        a, y, r = self.a, self.y, self.r
        torso = (0.405 + 0.12 * a.fat) * a.width + 0.02 * (y - 0.5)
        lift = np.clip((y + 0.03 + 0.05 * a.fat) / 0.16, 0.0, 1.0)
        shoulder = 0.15 + 0.5 * lift * np.sqrt(lift)
        low = _edge(y - 0.36 - 0.2 * (r - 0.42), 0.06)  # below the armpit the arm is off the chest
        outline = np.where(y < 0.2, shoulder, np.maximum(torso, 0.62 * (1 - low) + torso * low))
        thick = np.clip((outline - r) / 0.13, 0.0, 1.0)
        body = np.sqrt(thick * (2.0 - thick)) * (0.66 + 0.10 * a.fat) + 0.05 * _edge(self.wall + 0.02, 0.03)
        if a.sex == "F":
            d = 0.105 + 0.05 * a.fat - np.hypot(r / a.width - 0.205, (y - 0.62 - 0.06 * a.fat) * 1.05)
            body += (0.05 + 0.05 * a.fat) * _edge(d, 0.012) * np.clip(0.4 + (y - 0.5) * 3.0, 0.1, 1.0)
        return body

    def _ribs(self) -> np.ndarray:
        """Ribs: their backs are one periodic band in rib coordinates, their fronts another that runs the other way."""
        a, y, rr = self.a, self.y, self.r / self.a.width
        cage = _edge(self.wall + 0.014, self.soft + 0.003)
        run = rr / 0.34
        back = y - (0.13 * run * run * np.sqrt(run) - 0.030 * run) * (0.55 + 0.75 * y)
        off = _to_middle(back / a.rib_spacing + a.rib_phase)
        band = _edge(0.215 - off, 0.06) + 0.55 * _bump(off - 0.20, 0.07)  # the rim is denser than the marrow
        ribs = 0.052 * band * cage * _edge(rr - 0.05, 0.01)
        front = y + (0.16 - 0.40 * rr) * (1.2 - 0.4 * y) - 0.02
        off = _to_middle(front / (a.rib_spacing * 1.08) + a.rib_phase + 0.4)
        ribs += 0.030 * _edge(0.20 - off, 0.09) * cage * _edge(rr - 0.16, 0.05) * _edge(y - a.apex - 0.10, 0.05)
        return ribs * _edge(y - a.apex + 0.05, 0.03)

    def _bones(self) -> np.ndarray:
        """Clavicles, scapulae, heads of the humeri and spine."""
        a, x, y, soft = self.a, self.x, self.y, self.soft
        rr = self.r / a.width
        ap = self.e.view == "AP"

        tilt = 0.02 if ap else 0.0
        along = np.clip((rr - 0.035) / 0.33, 0.0, 1.15)
        middle = a.apex + 0.095 - tilt - (0.105 - tilt) * along + 0.022 * np.sin(along * 6.0)
        off = np.abs(y - middle)
        thickness = 0.012 + 0.006 * (1 - np.clip(along * 4, 0, 1)) + 0.003 * along
        ends = _edge(rr - 0.035, soft) * _edge(0.37 - rr, 0.01)
        bones = (0.070 * _edge(thickness - off, soft) + 0.045 * _bump(off - thickness, 0.006)) * ends

        reach = 0.275 if ap else 0.345  # over the lungs on AP films, beside them on PA films
        border = rr - reach - 0.10 * (y - 0.38) ** 2 + 0.22 * np.clip(0.24 - y, 0, 1)
        blade = _edge(border, soft + 0.002) * _edge(0.53 - y - 0.9 * (rr - reach), 0.01) * _edge(y - 0.17, 0.01)
        bones += blade * (0.045 + 0.05 * _bump(border, 0.012))

        head = np.hypot(rr - 0.50, y - a.apex - 0.085)
        bones += 0.04 * _edge(0.05 - head, 0.014) + 0.02 * _bump(head - 0.045, 0.012)

        sway = x - 0.006 * np.sin(y * 5 + a.rib_phase * 6)
        column = _edge(0.030 * a.width - np.abs(sway), soft + 0.002)
        disc = _to_middle(y / 0.062 + a.rib_phase)
        return bones + column * (0.015 + 0.035 * _edge(0.42 - disc, 0.06))

    def _mediastinum(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Great vessels with the windpipe as a dark band; the hila; and the share of lung that is hidden behind."""
        a, x, y, r = self.a, self.x, self.y, self.r
        middle = np.abs(x - 0.1 * self.e.rotate)
        chest = _edge(0.050 * a.width + 0.012 * np.sin(y * 9) - middle, 0.022)
        knob = _edge(0.036 * a.width - np.hypot(x - 0.048 * a.width, (y - 0.335) * 0.85), self.soft + 0.004)
        aorta = _edge(0.018 - np.abs(x - 0.045 * a.width), 0.010) * _edge(y - 0.33, 0.02)
        pipe = _edge(0.021 - np.abs(x), 0.007) * _edge(0.40 - y, 0.02)
        fork = _edge(0.013 - np.abs(y - 0.40 - 0.75 * r), 0.006) * _edge(0.075 - r, 0.01) * _edge(y - 0.39, 0.01)
        centre = 0.13 * chest + 0.06 * knob + 0.03 * aorta - 0.11 * np.maximum(pipe, fork)
        hila = np.exp(-(((r / a.width - 0.078) / 0.034) ** 2 + ((y - 0.445 + 0.01 * self.side) / 0.062) ** 2))
        return centre, 0.12 * hila, np.maximum(chest, knob)

    def _vessels(self) -> np.ndarray:
        """The lungs' vessels, and the grain of those too fine to be seen one by one."""
        tree = _vessel_tree(self.a.seed) * np.array([self.a.width, 1, self.a.width, 1, 1, 1])
        rng = _rng(self.a.seed, 23)
        grain = _cloud(rng, 40, self.size) * 0.6 + _cloud(rng, 20, self.size) * 0.4
        return 0.15 * self._lines(tree) + 0.014 * grain

    def _cables(self) -> np.ndarray:
        """Cables and lines that lie over a bedside patient."""
        rng = _rng(self.e.seed, 29)
        wires = [np.zeros((0, 6))]
        for _ in range(self.e.leads):
            p = np.linspace(0, 1, 24)
            x0, x1 = rng.uniform(-0.4, 0.4, 2)
            sag = rng.uniform(-0.15, 0.15)
            line = np.stack([x0 + (x1 - x0) * p + sag * np.sin(3.1 * p), rng.uniform(0, 0.5) + 0.9 * p], 1)
            kind = np.tile([rng.uniform(0.0015, 0.003), rng.uniform(90, 190)], (len(p) - 1, 1))
            wires.append(np.concatenate([line[:-1], line[1:], kind], 1))
        return 0.22 * self._lines(np.concatenate(wires))

    # -- what findings work on

    def start(self, heart: float, flat: float) -> None:
        """Set the fields that findings change: ``air`` (share of lung that is air), ``vessel`` weight and ``extra``."""
        a, e, y, r, soft = self.a, self.e, self.y, self.r, self.soft
        self.floor = _dome(r, self.side, a, e, flat) - y
        lung = _edge(self.wall, soft + 0.002) * _edge(self.inner, soft + 0.004) * _edge(self.floor, soft + 0.002)
        self.lung = lung
        deep = np.sqrt(np.clip(self.wall / 0.17 + 0.06, 0.0, 1.0)) * np.clip(self.inner / 0.11 + 0.42, 0.0, 1.0)
        self.air = lung * deep
        grow = a.heart * heart * (1.10 if e.view == "AP" else 1.0)
        self.heart = self._heart(grow)
        self.vessel = np.ones_like(y)
        self.extra = np.zeros_like(y)

    def _heart(self, grow: float) -> np.ndarray:
        """Heart as a share 0 to 1: the left ventricle's flank and the right atrium, from the waist to the dome."""
        a, x, y = self.a, self.x, self.y
        low = a.base - self.e.breath + 0.035
        u = (y - 0.40) / (low - 0.40)  # 0 at the waist below the aortic arch, 1 on the diaphragm
        v = np.clip(u, 0.0, 1.25)
        bulge = np.sin(np.minimum(v * 1.85, 1.5708))
        flank = np.sin(np.minimum(v * 1.75, 1.5708))
        left = 0.050 + (0.150 * grow - 0.01) * flank * (0.35 + 0.65 * flank)
        left = left * np.sqrt(np.clip(1.0 - (np.clip(v - 0.68, 0.0, 1.0) / 0.54) ** 2, 0.0, 1.0))
        right = 0.048 + (0.052 * grow - 0.004) * bulge * bulge * np.sqrt(np.clip(1.3 - v, 0.0, 1.0))
        gap = np.where(x > 0, left, right) * a.width - np.abs(x)
        return _edge(gap, self.soft + 0.006) * _edge(u + 0.05, 0.1) * (u < 1.22)

    def point(self, f: Finding) -> tuple[float, float]:
        """Centre of a finding in body coordinates, inside the finding's lung."""
        a = self.a
        dome = float(_dome(0.17 * a.width, f.side, a, self.e, a.flat))
        y = a.apex + f.along * (dome - a.apex)
        inner, outer = float(_medial(y, a)), float(_lateral(y, a))
        return f.side * (inner + f.across * (outer - inner)), y

    def fill(self, share: np.ndarray, veil: float = 0.9) -> None:
        """Replace a share of the air by fluid or tissue; vessels drown in it."""
        share = np.clip(share, 0.0, 1.0)
        self.air = self.air * (1.0 - share)
        self.vessel = self.vessel * (1.0 - veil * share)

    def attenuation(self) -> np.ndarray:
        """Sum along the rays, (size, size) float32; about 0.3 in the lungs and 1 in the belly."""
        behind = 1.0 - 0.80 * self.heart
        air = self.air * behind * (1.0 - 0.9 * self.hide)
        under = _edge(-self.floor, self.soft + 0.003) * _edge(self.wall + 0.05, 0.04)
        a = self.a
        stomach = np.hypot((self.x - 0.14) / a.gas, (self.y - a.base - 0.065 - 0.4 * a.gas) / (0.5 * a.gas))
        d = self.body + self.centre + 0.15 * self.heart * (1.0 - 0.75 * under) + 0.10 * under
        d = d - 0.07 * _edge(1.0 - stomach, 0.15) * under
        d = d - 0.45 * air + self.hila * (1.0 - 0.7 * self.heart)
        d = d + self.vessels * self.vessel * (air + 0.10 * self.lung)
        d = d + self.ribs * (0.55 + 0.45 * self.lung) * (1.0 - 0.5 * under) + self.bones
        return d + self.extra + self.cables + self.scatter * np.minimum(1.0, self.body * 2.0)


def _blob(film: _Film, f: Finding, rx: float, ry: float, wobble: float, cells: int = 9) -> np.ndarray:
    """Distance to a blob's rim in units of its radius (1 centre, 0 rim, negative outside), with an uneven outline."""
    cx, cy = film.point(f)
    rng = _rng(f.seed)
    turn = rng.uniform(0, math.pi)
    c, s = math.cos(turn), math.sin(turn)
    dx, dy = film.x - cx, film.y - cy
    u, v = dx * c + dy * s, dy * c - dx * s
    d = 1.0 - np.hypot(u / rx, v / ry)
    return d + wobble * _cloud(rng, cells, film.size) * _bump(d - 0.1, 0.9)


def _one_side(film: _Film, f: Finding) -> np.ndarray:
    return film.lung * (film.side == f.side)


def _atelectasis(film: _Film, f: Finding) -> None:
    """Plates of collapsed lung above the diaphragm: short dense bands, nearly level."""
    cx, cy = film.point(f)
    rng = _rng(f.seed)
    lung = _one_side(film, f)
    half = 0.055 + 0.05 * f.size
    for k in range(1 + int(f.size > 0.5)):
        slope = f.side * rng.uniform(-0.45, 0.15)
        dx, dy = film.x - cx, film.y - cy - 0.04 * k - slope * (film.x - cx)
        plate = _bump(dx, half) * _bump(dy, 0.011 + 0.008 * rng.random())
        film.fill(0.55 * f.density * plate * lung)
        film.extra += 0.07 * f.density * plate * lung
    film.fill(0.16 * f.density * _bump(np.hypot(film.x - cx, (film.y - cy - 0.01) * 1.8), half * 1.1) * lung, 0.4)


def _effusion(film: _Film, f: Finding) -> None:
    """Fluid at the bottom of one pleural space, its surface rising towards the chest wall."""
    dome = float(_dome(0.17 * film.a.width, f.side, film.a, film.e, film.a.flat))
    level = dome + 0.055 - 0.14 * f.size * math.sqrt(f.size)
    rise = np.clip((film.r / film.a.width - 0.10) / 0.22, 0.0, 1.3)
    depth = film.y - level + 0.085 * rise * rise * rise
    fluid = _edge(depth - 0.01, 0.018) * (film.side == f.side)
    film.fill(min(1.0, 0.42 * f.density) * fluid)
    film.extra += 0.03 * f.density * fluid * film.lung


def _infiltration(film: _Film, f: Finding) -> None:
    """Ill-defined streaky haze."""
    shape = np.clip(_blob(film, f, 0.085 + 0.05 * f.size, 0.10 + 0.06 * f.size, 0.35), 0.0, 1.0)
    streaks = np.clip(0.35 + 0.5 * _cloud(_rng(f.seed, 1), 30, film.size), 0.0, 1.2)
    haze = np.minimum(1.0, 1.7 * shape) * (0.22 + 0.55 * streaks) * _one_side(film, f)
    film.fill(0.62 * f.density * haze, 0.5)


def _round(film: _Film, f: Finding, radius: float, contrast: float, wobble: float) -> None:
    d = _blob(film, f, radius, radius * (0.8 + 0.2 * f.size), wobble, 14)
    shape = _edge(d * radius - 0.2 * film.soft, film.soft + 0.003) * np.sqrt(np.clip(d * 1.5 + 0.3, 0.3, 1.0))
    film.extra += contrast * f.density * shape * _one_side(film, f)
    film.vessel = film.vessel * (1.0 - 0.6 * np.clip(shape, 0.0, 1.0) * _one_side(film, f))


def _mass(film: _Film, f: Finding) -> None:
    """A rounded, lobulated opacity of 3 cm and more."""
    _round(film, f, 0.042 + 0.028 * f.size, 0.17, 0.20)


def _nodule(film: _Film, f: Finding) -> None:
    """A small round opacity."""
    _round(film, f, 0.017 + 0.013 * f.size, 0.19, 0.08)


def _pneumonia(film: _Film, f: Finding) -> None:
    """Patches of filled air spaces with fuzzy edges, mostly in the lower zones."""
    shape = np.clip(_blob(film, f, 0.10 + 0.04 * f.size, 0.085 + 0.04 * f.size, 0.2), 0.0, 1.0)
    patches = np.clip(0.45 + 0.75 * _cloud(_rng(f.seed, 1), 15, film.size), 0.0, 1.0)
    film.fill(0.75 * f.density * np.minimum(1.0, 1.8 * shape) * patches * _one_side(film, f), 0.7)


def _pneumothorax(film: _Film, f: Finding) -> None:
    """Free air outside the upper lung: no vessels, and the lung's edge as a fine line."""
    y = film.y
    low = 0.26 + 0.3 * f.size
    t = np.clip((y - film.a.apex) / low, 0.0, 1.0)
    width = (0.018 + 0.042 * f.size) * (1.0 - t) * np.sqrt(np.clip(1.0 - t, 0.0, 1.0)) * 1.35
    apex = np.clip(film.a.apex + 0.02 + 0.04 * f.size - y, 0.0, 1.0)
    gap = width + 0.9 * apex - film.wall
    lung = _one_side(film, f)
    zone = _edge(gap, film.soft + 0.002) * lung * (t < 1.0)
    film.vessel = film.vessel * (1.0 - zone)
    film.air = film.air + 0.14 * f.density * zone * (1.0 - film.air)
    film.extra += 0.038 * f.density * _bump(gap, film.soft + 0.004) * lung * _edge(0.92 - t, 0.05)


def _consolidation(film: _Film, f: Finding) -> None:
    """Dense, even filling of a part of a lobe, ending straight at a fissure; air-filled bronchi shine through."""
    cx, cy = film.point(f)
    rng = _rng(f.seed)
    shape = _blob(film, f, 0.115 + 0.05 * f.size, 0.10 + 0.05 * f.size, 0.15)
    slope = rng.uniform(-0.35, 0.35)
    straight = (film.y - cy - slope * (film.x - cx)) * rng.choice((-1.0, 1.0)) + 0.03
    dense = _edge(shape * 0.12, 0.02) * _edge(straight, 0.008) * _one_side(film, f)
    tubes = np.clip(1.0 - np.abs(_cloud(rng, 14, film.size)) * 4.0, 0.0, 1.0)
    film.fill(0.66 * f.density * dense * (1.0 - 0.25 * tubes))


def _edema(film: _Film, f: Finding) -> None:
    """Bat-wing haze around both hila, in which the vessels drown."""
    r, y = film.r / film.a.width, film.y
    rng = _rng(f.seed)
    wing = _bump(np.hypot((r - 0.10) / (0.17 + 0.04 * f.size), (y - 0.47) / (0.20 + 0.03 * f.size)), 1.0)
    grain = np.clip(0.75 + 0.28 * _cloud(rng, 22, film.size), 0.2, 1.3)
    film.fill(0.35 * f.density * wing * grain * film.lung, 0.6)


def _emphysema(film: _Film, f: Finding) -> None:
    """Lucent upper zones with thin-walled bullae and pruned vessels; the diaphragm's flatness is in the geometry."""
    y = film.y
    zone = _bump(np.clip(y - 0.26, 0.0, 1.0), 0.32) * film.lung
    film.vessel = film.vessel * (1.0 - 0.4 * min(1.0, f.density) * zone)
    film.air = film.air + 0.08 * f.density * zone * (1.05 - film.air)
    rng = _rng(f.seed)
    for _ in range(1 + int(3 * f.size)):
        g = replace(f, side=int(rng.choice((-1, 1))), across=rng.uniform(0.3, 0.85), along=rng.uniform(0.08, 0.42))
        cx, cy = film.point(g)
        d = np.hypot(film.x - cx, film.y - cy) - rng.uniform(0.022, 0.05)
        film.extra += (0.028 * f.density * _bump(d, 0.006) - 0.012 * (d < 0)) * _one_side(film, g)


def _fibrosis(film: _Film, f: Finding) -> None:
    """A fine net of scars under the pleura of one base."""
    shape = np.clip(_blob(film, f, 0.085 + 0.04 * f.size, 0.095 + 0.05 * f.size, 0.3), 0.0, 1.0)
    net = np.clip(1.0 - np.abs(_cloud(_rng(f.seed, 1), 44, film.size)) * 2.4, 0.0, 1.0)
    film.extra += 0.105 * f.density * np.minimum(1.0, 2.0 * shape) * (net - 0.10) * _one_side(film, f)


def _thickening(film: _Film, f: Finding) -> None:
    """A band of thick pleura along the chest wall, or a cap on the apex."""
    rng = _rng(f.seed)
    lung = _one_side(film, f)
    top = film.a.apex + (0.0 if rng.random() < 0.4 else rng.uniform(0.15, 0.3))
    length = 0.16 + 0.14 * f.size
    t = np.clip((film.y - top) / length, 0.0, 1.0)
    width = (0.016 + 0.014 * f.size) * np.clip(4.5 * t * (1.0 - t), 0.0, 1.0)
    film.extra += 0.19 * f.density * _edge(width - film.wall, film.soft + 0.003) * lung * (t > 0) * (t < 1)


def _hernia(film: _Film, f: Finding) -> None:
    """Stomach above the diaphragm: a round shadow behind the heart with a level of air over fluid."""
    rng = _rng(f.seed)
    radius = 0.050 + 0.030 * f.size
    cx = rng.uniform(-0.01, 0.05)
    cy = film.a.base - film.e.breath - 0.035 - 0.4 * radius
    dx, dy = film.x - cx, film.y - cy
    d = radius - np.hypot(dx, dy * 1.1)
    inside = _edge(d, film.soft + 0.003)
    air = inside * _edge(-dy - 0.004, film.soft + 0.002)
    film.extra += f.density * (0.045 * inside - 0.095 * air + 0.045 * _bump(d, 0.007))


_DRAW: dict[str, Callable[[_Film, Finding], None]] = {
    "Emphysema": _emphysema,
    "Edema": _edema,
    "Infiltration": _infiltration,
    "Consolidation": _consolidation,
    "Pneumonia": _pneumonia,
    "Fibrosis": _fibrosis,
    "Mass": _mass,
    "Nodule": _nodule,
    "Atelectasis": _atelectasis,
    "Pleural_Thickening": _thickening,
    "Pneumothorax": _pneumothorax,
    "Effusion": _effusion,
    "Hernia": _hernia,
}


def _cardiomegaly(f: Finding) -> float:
    return 1.0 + (0.14 + 0.14 * f.size) * f.density


def _depict(film: _Film, findings: Sequence[Finding]) -> np.ndarray:
    """Attenuation with these findings, before the film's response, (size, size) float32."""
    by_label = {f.label: f for f in findings}
    heart = _cardiomegaly(by_label["Cardiomegaly"]) if "Cardiomegaly" in by_label else 1.0
    flat = film.a.flat + (0.05 + 0.2 * by_label["Emphysema"].size if "Emphysema" in by_label else 0.0)
    film.start(heart, flat)
    for label, draw in _DRAW.items():  # always in this order, so that adding one finding moves no other
        if label in by_label:
            draw(film, by_label[label])
    return film.attenuation()


def _respond(attenuation: np.ndarray, e: Exposure) -> np.ndarray:
    """The film's S-shaped response: grey levels 0 to 255, float32."""
    return 255.0 / (1.0 + np.exp((np.float32(e.level) - attenuation) * np.float32(1.0 / e.latitude)))


def _develop(film: _Film, attenuation: np.ndarray) -> np.ndarray:
    """Response, noise, borders and side marker: (size, size) uint8."""
    e, size = film.e, film.size
    grey = _respond(attenuation, e)
    rng = _rng(e.seed, 37)
    # The dose a pixel gets goes with its area; noise is strongest where the film is neither black nor white.
    sigma = e.noise * (size / 128) ** 0.5
    shape = np.float32(0.35) + np.float32(2.6 / 255) * grey * (1.0 - grey * np.float32(1 / 255))
    grey = grey + sigma * shape * rng.standard_normal((size, size), dtype=np.float32)
    marker = _marker(film, rng)
    grey = np.maximum(grey, marker * 235)
    left, top, right, bottom = (round(v * size) for v in e.collimated)
    grey[:, :left] = grey[:top] = 6
    grey[:, size - right :] = grey[size - bottom :] = 6
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def _marker(film: _Film, rng: np.random.Generator) -> np.ndarray:
    """The lead letter L beside the left shoulder (on the right of the film)."""
    x, y, h = rng.uniform(0.86, 0.95), rng.uniform(0.04, 0.12), rng.uniform(0.02, 0.03)
    side = film.size * _oversampling(film.size)
    canvas = Image.new("L", (side, side))
    points = np.array([[x, y], [x, y + h], [x + 0.6 * h, y + h]]) * side
    ImageDraw.Draw(canvas).line(points.ravel().tolist(), fill=255, width=max(1, round(0.006 * side)))
    return _shrunk(canvas, film.size)


def render(anatomy: Anatomy, exposure: Exposure, findings: Sequence[Finding] = (), *, size: int = 128) -> np.ndarray:
    """Draw one film.

    Args:
        anatomy: The patient's build.
        exposure: How the film was taken; the noise is a function of it alone, so that two films that differ in their
            findings only have the same noise.
        findings: At most one a label.
        size: Height and width in pixels.

    Returns:
        Grey levels, (size, size) uint8; 0 is black (air), 255 white (metal).

    """
    film = _Film(anatomy, exposure, size)
    return _develop(film, _depict(film, findings))


def boxes(
    anatomy: Anatomy, exposure: Exposure, findings: Sequence[Finding], *, size: int = 128
) -> dict[str, tuple[float, float, float, float]]:
    """Return each finding's box: the tightest that holds nearly all of what the finding changes on the film.

    Args:
        anatomy: The patient's build.
        exposure: How the film was taken.
        findings: At most one a label.
        size: Height and width in pixels at which it is drawn and looked at.

    Returns:
        Label to x, y, width, height in pixels of the 1024-px frame, as in ``BBox_List_2017.csv``. A finding that
        cannot be seen on this film (it lies outside, or under another) has none.

    """
    return _boxes(_Film(anatomy, exposure, size), findings)


def _boxes(film: _Film, findings: Sequence[Finding]) -> dict[str, tuple[float, float, float, float]]:
    size = film.size
    full = _respond(_depict(film, findings), film.e)
    heart = film.heart.copy()
    out = {}
    for f in findings:
        change = np.abs(full - _respond(_depict(film, [g for g in findings if g is not f]), film.e))
        left, top, right, bottom = (round(v * size) for v in film.e.collimated)
        change[:, :left] = change[:top] = change[:, size - right :] = change[size - bottom :] = 0
        if change.max() < 3.0:
            continue
        if f.label == "Cardiomegaly":  # readers box the heart, not the rim by which it is too large
            change = np.maximum(change, 20.0 * (heart > 0.5))
        edges = []
        for axis in (0, 1):
            mass = np.cumsum(change.sum(axis), dtype=np.float64)
            mass /= mass[-1]
            edges.append((int(np.searchsorted(mass, 0.006)), int(np.searchsorted(mass, 0.994)) + 1))
        (x0, x1), (y0, y1) = edges
        k = BOX_FRAME / size
        out[f.label] = (x0 * k, y0 * k, (x1 - x0) * k, (y1 - y0) * k)
    return out


# --------------------------------------------------------------------------------------------------- who has what


def _draw_labels(rng: np.random.Generator, prevalence: str) -> dict[str, bool]:
    """Draw one image's labels so that each has its prevalence and pairs come together as often as they really do."""
    share, ill = _PREVALENCE[prevalence], _ILL[prevalence]
    u = dict(zip(_ORDER, rng.random(len(_ORDER)), strict=True))
    has = dict.fromkeys(LABELS, False)
    if rng.random() >= ill:
        return has
    for label in _ORDER:
        p = share[label]
        parent, lift = _COMES_WITH.get(label, ("", 1.0))
        if not parent:
            has[label] = u[label] < p / ill
            continue
        with_parent = min(0.6, max(lift * p, p / ill))
        without = (p - share[parent] * with_parent) / (ill - share[parent])
        has[label] = u[label] < (with_parent if has[parent] else without)
    return has


@dataclass(frozen=True)
class _Row:
    """One image: what the label file says, and what is needed to draw it."""

    patient: int
    number: int
    labels: tuple[str, ...]
    age: int
    test: bool
    exposure: Exposure
    original: tuple[int, int, str]

    @property
    def name(self) -> str:
        return f"{self.patient:08d}_{self.number:03d}.png"


def _patient_rows(seed: int, patient: int, prevalence: str) -> list[_Row]:
    """All images of one patient; a pure function, so that a larger phantom begins like a smaller one."""
    rng = _rng(seed, _PATIENT, patient, 1)
    count = min(6, int(rng.geometric(0.6)))
    age = int(np.clip(rng.normal(47, 17), 3, 92))
    # Three patients of every ten are test patients, so that a small phantom has both sides too.
    block, place = divmod(patient, 10)
    test = bool(_rng(seed, _BLOCK, block).permutation(10)[place] < 3)
    rows: list[_Row] = []
    has: dict[str, bool] = {}
    for number in range(count):
        rng = _rng(seed, _IMAGE, patient, number)
        fresh, keep = _draw_labels(rng, prevalence), rng.random(len(LABELS))
        if number:
            has = {b: has[b] if k < _KEEPS[b in _CHRONIC] else fresh[b] for b, k in zip(LABELS, keep, strict=True)}
        else:
            has = fresh
        age = min(95, age + int(rng.random() < 0.3))
        # The bedside (AP) is where the sickest lie.
        view = "AP" if rng.random() < (0.62 if has["Edema"] else 0.36) else "PA"
        sizes = _SIZES_AP if view == "AP" else _SIZES_PA
        original = sizes[int(rng.integers(len(sizes)))]
        exposure = draw_exposure(rng, view)
        labels = tuple(b for b in LABELS if has[b])
        rows.append(_Row(patient, number, labels, age, test, exposure, original))
    return rows


def _rows(images: int, seed: int, prevalence: str) -> list[_Row]:
    rows: list[_Row] = []
    patient = 0
    while len(rows) < images:
        patient += 1
        rows += _patient_rows(seed, patient, prevalence)
    return rows[:images]


def _on_film(f: Finding, number: int, seed: int, patient: int) -> Finding:
    """The same finding on the patient's image ``number``: a little larger or smaller, denser or fainter."""
    rng = _rng(seed, _FINDING, patient, LABELS.index(f.label), 1 + number)
    size = float(np.clip(f.size + rng.normal(0, 0.12), 0, 1))
    return replace(f, size=size, density=f.density * float(np.exp(rng.normal(0, 0.08))))


# ---------------------------------------------------------------------------------------------------------- files


def write_phantom(
    out: Path,
    *,
    images: int = 1000,
    size: int = 128,
    seed: int = 0,
    prevalence: str = "balanced",
    progress: Callable[[Iterable, int], Iterable] | None = None,
) -> None:
    """Write a phantom data set in ChestX-ray14's layout.

    ``images/00000001_000.png`` … (mode L), ``Data_Entry_2017.csv``, ``BBox_List_2017.csv`` (boxes for about half of the
    test images, in the 1024-px frame), ``train_val_list.txt`` and ``test_list.txt`` (30 % of the patients). It appears
    at ``out`` complete or not at all. The same arguments give the same bytes, and a larger phantom begins with the
    images of a smaller one.

    Args:
        out: Folder to write; must be absent, empty, or a phantom written before, which is replaced.
        images: Number of images.
        size: Height and width in pixels.
        seed: Everything is a function of it.
        prevalence: ``balanced`` (15 to 20 % a label, so that a small set can be evaluated) or ``nih`` (ChestX-ray14's).
        progress: Wraps the loop over images, called with the iterable and its length.

    Raises:
        ValueError: For a setting that makes no sense, or an ``out`` that holds something else.

    """
    out = Path(out)
    if prevalence not in _PREVALENCE:
        raise ValueError(f"prevalence: {prevalence!r} is not one of {', '.join(_PREVALENCE)}")
    if images < 1 or size < 32 or seed < 0:
        raise ValueError(f"images: {images}, size: {size}, seed: {seed}: need at least 1 image, 32 px and a seed of 0")
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / _MARK).is_file())):
        raise ValueError(f"{out}: is there already and is not a phantom; name an empty or absent folder")
    with atomic(out) as temporary:
        temporary.mkdir()
        _write(temporary, images, size, seed, prevalence, progress)


def _write(
    folder: Path,
    images: int,
    size: int,
    seed: int,
    prevalence: str,
    progress: Callable[[Iterable, int], Iterable] | None,
) -> None:
    (folder / "images").mkdir()
    rows = _rows(images, seed, prevalence)
    entries, box_lines = [_HEADER], [_BOX_HEADER]
    boxed: set[str] = set()
    for row in rows if progress is None else progress(rows, len(rows)):
        anatomy = draw_patient(seed, row.patient)
        findings = [
            _on_film(draw_finding(label, seed, row.patient), row.number, seed, row.patient) for label in row.labels
        ]
        film = _Film(anatomy, row.exposure, size)
        Image.fromarray(_develop(film, _depict(film, findings))).save(folder / "images" / row.name, compress_level=3)
        width, height, spacing = row.original
        entries.append(
            f"{row.name},{'|'.join(row.labels) or 'No Finding'},{row.number},{row.patient},{row.age},{anatomy.sex},"
            f"{row.exposure.view},{width},{height},{spacing},{spacing},"
        )
        # Half of the test images, and any that is the first with one of its labels: every label has boxes.
        chosen = row.exposure.seed % 2 == 0 or not boxed.issuperset(row.labels)
        if row.test and row.labels and chosen:
            for label, box in _boxes(film, findings).items():
                boxed.add(label)
                name = "Infiltrate" if label == "Infiltration" else label
                box_lines.append(f"{row.name},{name},{','.join(f'{v:g}' for v in box)}")
    _lines_to(folder / "Data_Entry_2017.csv", entries)
    _lines_to(folder / "BBox_List_2017.csv", box_lines)
    _lines_to(folder / "train_val_list.txt", [row.name for row in rows if not row.test])
    _lines_to(folder / "test_list.txt", [row.name for row in rows if row.test])
    mark = {"images": images, "size": size, "seed": seed, "prevalence": prevalence}
    _lines_to(folder / _MARK, [json.dumps(mark)])


def _lines_to(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
