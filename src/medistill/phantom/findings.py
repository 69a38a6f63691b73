"""How each finding changes a film, and the box around the change."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from medistill.nih import BOX_FRAME
from medistill.phantom.anatomy import Anatomy, DrawnFinding, Exposure, generator
from medistill.phantom.film import Film, bump, cloud, develop, diaphragm, edge, respond

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


def _blob(film: Film, f: DrawnFinding, rx: float, ry: float, wobble: float, cells: int = 9) -> np.ndarray:
    """Distance to a blob's rim in units of its radius (1 centre, 0 rim, negative outside), with an uneven outline."""
    cx, cy = film.point(f)
    rng = generator(f.seed)
    turn = rng.uniform(0, math.pi)
    c, s = math.cos(turn), math.sin(turn)
    dx, dy = film.x - cx, film.y - cy
    u, v = dx * c + dy * s, dy * c - dx * s
    d = 1.0 - np.hypot(u / rx, v / ry)
    rim: np.ndarray = d + wobble * cloud(rng, cells, film.size) * bump(d - 0.1, 0.9)
    return rim


def _one_side(film: Film, f: DrawnFinding) -> np.ndarray:
    """Share of the finding's own lung in each pixel."""
    lung: np.ndarray = film.lung * (film.side == f.side)
    return lung


def _atelectasis(film: Film, f: DrawnFinding) -> None:
    """Plates of collapsed lung above the diaphragm: short dense bands, nearly level."""
    cx, cy = film.point(f)
    rng = generator(f.seed)
    lung = _one_side(film, f)
    half = 0.055 + 0.05 * f.size
    for k in range(1 + int(f.size > 0.5)):
        slope = f.side * rng.uniform(-0.45, 0.15)
        dx, dy = film.x - cx, film.y - cy - 0.04 * k - slope * (film.x - cx)
        plate = bump(dx, half) * bump(dy, 0.011 + 0.008 * rng.random())
        film.fill(0.55 * f.density * plate * lung)
        film.extra += 0.07 * f.density * plate * lung
    film.fill(0.16 * f.density * bump(np.hypot(film.x - cx, (film.y - cy - 0.01) * 1.8), half * 1.1) * lung, 0.4)


def _effusion(film: Film, f: DrawnFinding) -> None:
    """Fluid at the bottom of one pleural space, its surface rising towards the chest wall."""
    dome = float(diaphragm(0.17 * film.a.width, f.side, film.a, film.e, film.a.flat))
    level = dome + 0.055 - 0.14 * f.size * math.sqrt(f.size)
    rise = np.clip((film.r / film.a.width - 0.10) / 0.22, 0.0, 1.3)
    depth = film.y - level + 0.085 * rise * rise * rise
    fluid = edge(depth - 0.01, 0.018) * (film.side == f.side)
    film.fill(min(1.0, 0.42 * f.density) * fluid)
    film.extra += 0.03 * f.density * fluid * film.lung


def _infiltration(film: Film, f: DrawnFinding) -> None:
    """Ill-defined streaky haze."""
    shape = np.clip(_blob(film, f, 0.085 + 0.05 * f.size, 0.10 + 0.06 * f.size, 0.35), 0.0, 1.0)
    streaks = np.clip(0.35 + 0.5 * cloud(generator(f.seed, 1), 30, film.size), 0.0, 1.2)
    haze = np.minimum(1.0, 1.7 * shape) * (0.22 + 0.55 * streaks) * _one_side(film, f)
    film.fill(0.62 * f.density * haze, 0.5)


def _round(film: Film, f: DrawnFinding, radius: float, contrast: float, wobble: float) -> None:
    """A round opacity of `radius`, in shares of the film's side."""
    d = _blob(film, f, radius, radius * (0.8 + 0.2 * f.size), wobble, 14)
    shape = edge(d * radius - 0.2 * film.soft, film.soft + 0.003) * np.sqrt(np.clip(d * 1.5 + 0.3, 0.3, 1.0))
    film.extra += contrast * f.density * shape * _one_side(film, f)
    film.vessel = film.vessel * (1.0 - 0.6 * np.clip(shape, 0.0, 1.0) * _one_side(film, f))


def _mass(film: Film, f: DrawnFinding) -> None:
    """A rounded, lobulated opacity of 3 cm and more."""
    _round(film, f, 0.042 + 0.028 * f.size, 0.17, 0.20)


def _nodule(film: Film, f: DrawnFinding) -> None:
    """A small round opacity."""
    _round(film, f, 0.017 + 0.013 * f.size, 0.19, 0.08)


def _pneumonia(film: Film, f: DrawnFinding) -> None:
    """Patches of filled air spaces with fuzzy edges, mostly in the lower zones."""
    shape = np.clip(_blob(film, f, 0.10 + 0.04 * f.size, 0.085 + 0.04 * f.size, 0.2), 0.0, 1.0)
    patches = np.clip(0.45 + 0.75 * cloud(generator(f.seed, 1), 15, film.size), 0.0, 1.0)
    film.fill(0.75 * f.density * np.minimum(1.0, 1.8 * shape) * patches * _one_side(film, f), 0.7)


def _pneumothorax(film: Film, f: DrawnFinding) -> None:
    """Free air outside the upper lung: no vessels, and the lung's edge as a fine line."""
    y = film.y
    low = 0.26 + 0.3 * f.size
    t = np.clip((y - film.a.apex) / low, 0.0, 1.0)
    width = (0.018 + 0.042 * f.size) * (1.0 - t) * np.sqrt(np.clip(1.0 - t, 0.0, 1.0)) * 1.35
    apex = np.clip(film.a.apex + 0.02 + 0.04 * f.size - y, 0.0, 1.0)
    gap = width + 0.9 * apex - film.wall
    lung = _one_side(film, f)
    zone = edge(gap, film.soft + 0.002) * lung * (t < 1.0)
    film.vessel = film.vessel * (1.0 - zone)
    film.air = film.air + 0.14 * f.density * zone * (1.0 - film.air)
    film.extra += 0.038 * f.density * bump(gap, film.soft + 0.004) * lung * edge(0.92 - t, 0.05)


def _consolidation(film: Film, f: DrawnFinding) -> None:
    """Dense, even filling of a part of a lobe, ending straight at a fissure; air-filled bronchi shine through."""
    cx, cy = film.point(f)
    rng = generator(f.seed)
    shape = _blob(film, f, 0.115 + 0.05 * f.size, 0.10 + 0.05 * f.size, 0.15)
    slope = rng.uniform(-0.35, 0.35)
    straight = (film.y - cy - slope * (film.x - cx)) * rng.choice((-1.0, 1.0)) + 0.03
    dense = edge(shape * 0.12, 0.02) * edge(straight, 0.008) * _one_side(film, f)
    tubes = np.clip(1.0 - np.abs(cloud(rng, 14, film.size)) * 4.0, 0.0, 1.0)
    film.fill(0.66 * f.density * dense * (1.0 - 0.25 * tubes))


def _edema(film: Film, f: DrawnFinding) -> None:
    """Bat-wing haze around both hila, in which the vessels drown."""
    r, y = film.r / film.a.width, film.y
    rng = generator(f.seed)
    wing = bump(np.hypot((r - 0.10) / (0.17 + 0.04 * f.size), (y - 0.47) / (0.20 + 0.03 * f.size)), 1.0)
    grain = np.clip(0.75 + 0.28 * cloud(rng, 22, film.size), 0.2, 1.3)
    film.fill(0.35 * f.density * wing * grain * film.lung, 0.6)


def _emphysema(film: Film, f: DrawnFinding) -> None:
    """Lucent upper zones with thin-walled bullae and pruned vessels; the diaphragm's flatness is in the geometry."""
    y = film.y
    zone = bump(np.clip(y - 0.26, 0.0, 1.0), 0.32) * film.lung
    film.vessel = film.vessel * (1.0 - 0.4 * min(1.0, f.density) * zone)
    film.air = film.air + 0.08 * f.density * zone * (1.05 - film.air)
    rng = generator(f.seed)
    for _ in range(1 + int(3 * f.size)):
        g = replace(f, side=int(rng.choice((-1, 1))), across=rng.uniform(0.3, 0.85), along=rng.uniform(0.08, 0.42))
        cx, cy = film.point(g)
        d = np.hypot(film.x - cx, film.y - cy) - rng.uniform(0.022, 0.05)
        film.extra += (0.028 * f.density * bump(d, 0.006) - 0.012 * (d < 0)) * _one_side(film, g)


def _fibrosis(film: Film, f: DrawnFinding) -> None:
    """A fine net of scars under the pleura of one base."""
    shape = np.clip(_blob(film, f, 0.085 + 0.04 * f.size, 0.095 + 0.05 * f.size, 0.3), 0.0, 1.0)
    net = np.clip(1.0 - np.abs(cloud(generator(f.seed, 1), 44, film.size)) * 2.4, 0.0, 1.0)
    film.extra += 0.105 * f.density * np.minimum(1.0, 2.0 * shape) * (net - 0.10) * _one_side(film, f)


def _thickening(film: Film, f: DrawnFinding) -> None:
    """A band of thick pleura along the chest wall, or a cap on the apex."""
    rng = generator(f.seed)
    lung = _one_side(film, f)
    top = film.a.apex + (0.0 if rng.random() < 0.4 else rng.uniform(0.15, 0.3))
    length = 0.16 + 0.14 * f.size
    t = np.clip((film.y - top) / length, 0.0, 1.0)
    width = (0.016 + 0.014 * f.size) * np.clip(4.5 * t * (1.0 - t), 0.0, 1.0)
    film.extra += 0.19 * f.density * edge(width - film.wall, film.soft + 0.003) * lung * (t > 0) * (t < 1)


def _hernia(film: Film, f: DrawnFinding) -> None:
    """Stomach above the diaphragm: a round shadow behind the heart with a level of air over fluid."""
    rng = generator(f.seed)
    radius = 0.050 + 0.030 * f.size
    cx = rng.uniform(-0.01, 0.05)
    cy = film.a.base - film.e.breath - 0.035 - 0.4 * radius
    dx, dy = film.x - cx, film.y - cy
    d = radius - np.hypot(dx, dy * 1.1)
    inside = edge(d, film.soft + 0.003)
    air = inside * edge(-dy - 0.004, film.soft + 0.002)
    film.extra += f.density * (0.045 * inside - 0.095 * air + 0.045 * bump(d, 0.007))


_DRAW: dict[str, Callable[[Film, DrawnFinding], None]] = {
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


def _cardiomegaly(f: DrawnFinding) -> float:
    """Factor by which the finding enlarges the heart."""
    return 1.0 + (0.14 + 0.14 * f.size) * f.density


def depict(film: Film, findings: Sequence[DrawnFinding]) -> np.ndarray:
    """Attenuation with these findings, before the film's response, (size, size) float32."""
    by_label = {f.label: f for f in findings}
    heart = _cardiomegaly(by_label["Cardiomegaly"]) if "Cardiomegaly" in by_label else 1.0
    flat = film.a.flat + (0.05 + 0.2 * by_label["Emphysema"].size if "Emphysema" in by_label else 0.0)
    film.start(heart, flat)
    for label, draw in _DRAW.items():  # always in this order, so that adding one finding does not change another
        if label in by_label:
            draw(film, by_label[label])
    return film.attenuation()


def render(
    anatomy: Anatomy, exposure: Exposure, findings: Sequence[DrawnFinding] = (), *, size: int = 128
) -> np.ndarray:
    """Draw one film.

    Args:
        anatomy: the patient's build.
        exposure: how the film was taken; the noise is a function of it alone, so that two films that differ in their
            findings only have the same noise.
        findings: at most one per label.
        size: height and width in pixels.

    Returns:
        Grey levels, (size, size) uint8; 0 is black (air), 255 white (metal).
    """
    film = Film(anatomy, exposure, size)
    return develop(film, depict(film, findings))


def boxes(
    anatomy: Anatomy, exposure: Exposure, findings: Sequence[DrawnFinding], *, size: int = 128
) -> dict[str, tuple[float, float, float, float]]:
    """Return each finding's box: the tightest that holds nearly all of what the finding changes on the film.

    Args:
        anatomy: the patient's build.
        exposure: how the film was taken.
        findings: at most one per label.
        size: height and width in pixels at which the film is drawn and compared.

    Returns:
        Label to x, y, width, height in pixels of the 1024-px frame, as in `BBox_List_2017.csv`. A finding that
        cannot be seen on this film (it lies outside, or under another) has none.
    """
    return boxes_on_film(Film(anatomy, exposure, size), findings)


def boxes_on_film(film: Film, findings: Sequence[DrawnFinding]) -> dict[str, tuple[float, float, float, float]]:
    """As `boxes`, on a film whose geometry has been drawn."""
    size = film.size
    full = respond(depict(film, findings), film.e)
    heart = film.heart.copy()
    out = {}
    for f in findings:
        change = np.abs(full - respond(depict(film, [g for g in findings if g is not f]), film.e))
        left, top, right, bottom = (round(v * size) for v in film.e.collimated)
        change[:, :left] = change[:top] = change[:, size - right :] = change[size - bottom :] = 0
        if change.max() < 3.0:
            continue
        if f.label == "Cardiomegaly":  # readers box the whole heart, not the rim by which it is enlarged
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
