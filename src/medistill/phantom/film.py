"""A film of a chest: its geometry, the tissues that each ray passes, and how it is developed."""

import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from medistill.phantom.anatomy import Anatomy, DrawnFinding, Exposure, generator


def edge(distance: np.ndarray, width: float) -> np.ndarray:
    """Soft step: 0 below `-width`, 1 above `width`."""
    return np.clip(distance * (0.5 / width) + 0.5, 0.0, 1.0)


def bump(distance: np.ndarray, width: float) -> np.ndarray:
    """Bell of height 1 and half-width `width` that is exactly 0 outside, so that a finding has an end."""
    t = np.clip(1.0 - (distance / width) ** 2, 0.0, 1.0)
    return t * t


def _to_middle(phase: np.ndarray) -> np.ndarray:
    """Distance to the middle of the period, 0 to 0.5: draws repeated structures (ribs, vertebrae) in one step."""
    distance: np.ndarray = np.abs(phase - np.floor(phase) - 0.5)
    return distance


def cloud(rng: np.random.Generator, cells: int, size: int) -> np.ndarray:
    """Smooth random field, (size, size) float32 of about unit variance, whose grain is 1/cells of the film."""
    grid = rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    return np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC)) * np.float32(1.3)


def _oversampling(size: int) -> int:
    """How many times finer lines are drawn than the film is, to smooth their steps."""
    return max(1, min(4, 1024 // size))


def _shrunk(canvas: Image.Image, size: int) -> np.ndarray:
    """`canvas` as (size, size) float32, 0 to 1."""
    small = canvas if canvas.width == size else canvas.reduce(canvas.width // size)
    return np.asarray(small, dtype=np.float32) * np.float32(1 / 255)


@lru_cache(maxsize=4)
def _pixels(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y of the centre of each pixel, (size, size) float32, in shares of the film's side."""
    centre = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.broadcast_to(centre, (size, size)), np.broadcast_to(centre[:, None], (size, size))


def _lateral(y: np.ndarray | float, a: Anatomy) -> np.ndarray:
    """Distance of the chest wall's inner side from the midline at height `y`."""
    t = np.clip((np.asarray(y, dtype=np.float32) - a.apex) / 0.75, 0.0, 1.0)
    u = 1.0 - t
    distance: np.ndarray = a.width * 0.345 * np.sqrt(np.clip(1.0 - u * u * np.sqrt(u), 0.0, 1.0))
    return distance


def _medial(y: np.ndarray | float, a: Anatomy) -> np.ndarray:
    """Distance of the lung's inner border from the midline at height `y`."""
    t = np.clip(np.asarray(y, dtype=np.float32) - a.apex, 0.0, 1.0)
    distance: np.ndarray = a.width * (0.042 + 0.05 * np.exp(-t * 14.0))
    return distance


def diaphragm(r: np.ndarray | float, side: np.ndarray | float, a: Anatomy, e: Exposure, flat: float) -> np.ndarray:
    """Height of the diaphragm at distance `r` from the midline; `flat` (0 to 1) is emphysema's."""
    q = (np.asarray(r, dtype=np.float32) / a.width - 0.15) / 0.19
    top = a.base - e.breath + np.where(np.asarray(side) > 0, 0.025, 0.0) + 0.04 * flat
    height: np.ndarray = top + a.sulcus * (1.0 - 0.5 * flat) * q * q * np.where(q > 0, 1.0, 0.55)
    return height


@lru_cache(maxsize=8)
def _vessel_tree(seed: int) -> np.ndarray:
    """Branches of both lungs' vessels: (n, 6) of x0, y0, x1, y1, half-width and grey level 0 to 255, float64."""
    rng = generator(seed, 17)
    start = []
    for lung in (-1, 1):
        for angle in (-1.25, -0.9, -0.45, -0.1, 0.3, 0.65, 0.95, 1.2, 1.45):
            high = 0.43 + 0.012 * (lung < 0) + 0.035 * angle
            start.append((lung * 0.07, high, angle + rng.normal(0, 0.14), rng.uniform(0.0045, 0.0085), lung))
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


class Film:
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
        # Structures that no finding changes.
        self.body = self._body()
        self.ribs = self._ribs()
        self.bones = self._bones()
        self.centre, self.hila, self.hide = self._mediastinum()
        self.vessels = self._vessels()
        self.cables = self._cables()
        self.scatter = 0.018 * cloud(generator(e.seed, 31), 5, size)

    def to_pixels(self, xy: np.ndarray, scale: float) -> np.ndarray:
        """Body coordinates (n, 2) to pixels of a film `scale` px wide."""
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
        low = edge(y - 0.36 - 0.2 * (r - 0.42), 0.06)  # below the armpit the arm is off the chest
        outline = np.where(y < 0.2, shoulder, np.maximum(torso, 0.62 * (1 - low) + torso * low))
        thick = np.clip((outline - r) / 0.13, 0.0, 1.0)
        body: np.ndarray = np.sqrt(thick * (2.0 - thick)) * (0.66 + 0.10 * a.fat) + 0.05 * edge(self.wall + 0.02, 0.03)
        if a.sex == "F":
            d = 0.105 + 0.05 * a.fat - np.hypot(r / a.width - 0.205, (y - 0.62 - 0.06 * a.fat) * 1.05)
            body += (0.05 + 0.05 * a.fat) * edge(d, 0.012) * np.clip(0.4 + (y - 0.5) * 3.0, 0.1, 1.0)
        return body

    def _ribs(self) -> np.ndarray:
        """Ribs: their backs are one periodic band in rib coordinates, their fronts another that runs the other way."""
        a, y, rr = self.a, self.y, self.r / self.a.width
        cage = edge(self.wall + 0.014, self.soft + 0.003)
        run = rr / 0.34
        back = y - (0.13 * run * run * np.sqrt(run) - 0.030 * run) * (0.55 + 0.75 * y)
        off = _to_middle(back / a.rib_spacing + a.rib_phase)
        band = edge(0.215 - off, 0.06) + 0.55 * bump(off - 0.20, 0.07)  # the rim is denser than the marrow
        ribs = 0.052 * band * cage * edge(rr - 0.05, 0.01)
        front = y + (0.16 - 0.40 * rr) * (1.2 - 0.4 * y) - 0.02
        off = _to_middle(front / (a.rib_spacing * 1.08) + a.rib_phase + 0.4)
        ribs += 0.030 * edge(0.20 - off, 0.09) * cage * edge(rr - 0.16, 0.05) * edge(y - a.apex - 0.10, 0.05)
        shown: np.ndarray = ribs * edge(y - a.apex + 0.05, 0.03)
        return shown

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
        ends = edge(rr - 0.035, soft) * edge(0.37 - rr, 0.01)
        bones = (0.070 * edge(thickness - off, soft) + 0.045 * bump(off - thickness, 0.006)) * ends

        reach = 0.275 if ap else 0.345  # over the lungs on AP films, beside them on PA films
        border = rr - reach - 0.10 * (y - 0.38) ** 2 + 0.22 * np.clip(0.24 - y, 0, 1)
        blade = edge(border, soft + 0.002) * edge(0.53 - y - 0.9 * (rr - reach), 0.01) * edge(y - 0.17, 0.01)
        bones += blade * (0.045 + 0.05 * bump(border, 0.012))

        head = np.hypot(rr - 0.50, y - a.apex - 0.085)
        bones += 0.04 * edge(0.05 - head, 0.014) + 0.02 * bump(head - 0.045, 0.012)

        sway = x - 0.006 * np.sin(y * 5 + a.rib_phase * 6)
        column = edge(0.030 * a.width - np.abs(sway), soft + 0.002)
        disc = _to_middle(y / 0.062 + a.rib_phase)
        shown: np.ndarray = bones + column * (0.015 + 0.035 * edge(0.42 - disc, 0.06))
        return shown

    def _mediastinum(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Great vessels with the windpipe as a dark band; the hila; and the share of the lung hidden behind them."""
        a, x, y, r = self.a, self.x, self.y, self.r
        middle = np.abs(x - 0.1 * self.e.rotate)
        chest = edge(0.050 * a.width + 0.012 * np.sin(y * 9) - middle, 0.022)
        knob = edge(0.036 * a.width - np.hypot(x - 0.048 * a.width, (y - 0.335) * 0.85), self.soft + 0.004)
        aorta = edge(0.018 - np.abs(x - 0.045 * a.width), 0.010) * edge(y - 0.33, 0.02)
        pipe = edge(0.021 - np.abs(x), 0.007) * edge(0.40 - y, 0.02)
        fork = edge(0.013 - np.abs(y - 0.40 - 0.75 * r), 0.006) * edge(0.075 - r, 0.01) * edge(y - 0.39, 0.01)
        centre = 0.13 * chest + 0.06 * knob + 0.03 * aorta - 0.11 * np.maximum(pipe, fork)
        hila = np.exp(-(((r / a.width - 0.078) / 0.034) ** 2 + ((y - 0.445 + 0.01 * self.side) / 0.062) ** 2))
        return centre, 0.12 * hila, np.maximum(chest, knob)

    def _vessels(self) -> np.ndarray:
        """The lungs' vessels, and the texture of vessels too fine to be seen singly."""
        tree = _vessel_tree(self.a.seed) * np.array([self.a.width, 1, self.a.width, 1, 1, 1])
        rng = generator(self.a.seed, 23)
        grain = cloud(rng, 40, self.size) * 0.6 + cloud(rng, 20, self.size) * 0.4
        return 0.15 * self._lines(tree) + 0.014 * grain

    def _cables(self) -> np.ndarray:
        """Cables and lines that lie over a bedside patient."""
        rng = generator(self.e.seed, 29)
        wires = [np.zeros((0, 6))]
        for _ in range(self.e.leads):
            p = np.linspace(0, 1, 24)
            x0, x1 = rng.uniform(-0.4, 0.4, 2)
            sag = rng.uniform(-0.15, 0.15)
            line = np.stack([x0 + (x1 - x0) * p + sag * np.sin(3.1 * p), rng.uniform(0, 0.5) + 0.9 * p], 1)
            kind = np.tile([rng.uniform(0.0015, 0.003), rng.uniform(90, 190)], (len(p) - 1, 1))
            wires.append(np.concatenate([line[:-1], line[1:], kind], 1))
        return 0.22 * self._lines(np.concatenate(wires))

    # -- the fields that findings change

    def start(self, heart: float, flat: float) -> None:
        """Set the fields that findings change: `air` (share of lung that is air), `vessel` weight and `extra`."""
        a, e, y, r, soft = self.a, self.e, self.y, self.r, self.soft
        self.floor = diaphragm(r, self.side, a, e, flat) - y
        lung = edge(self.wall, soft + 0.002) * edge(self.inner, soft + 0.004) * edge(self.floor, soft + 0.002)
        self.lung = lung
        deep = np.sqrt(np.clip(self.wall / 0.17 + 0.06, 0.0, 1.0)) * np.clip(self.inner / 0.11 + 0.42, 0.0, 1.0)
        self.air = lung * deep
        grow = a.heart * heart * (1.10 if e.view == "AP" else 1.0)
        self.heart = self._heart(grow)
        self.vessel: np.ndarray = np.ones_like(y)
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
        share: np.ndarray = edge(gap, self.soft + 0.006) * edge(u + 0.05, 0.1) * (u < 1.22)
        return share

    def point(self, f: DrawnFinding) -> tuple[float, float]:
        """Centre of a finding in body coordinates, inside the finding's lung."""
        a = self.a
        dome = float(diaphragm(0.17 * a.width, f.side, a, self.e, a.flat))
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
        under = edge(-self.floor, self.soft + 0.003) * edge(self.wall + 0.05, 0.04)
        a = self.a
        stomach = np.hypot((self.x - 0.14) / a.gas, (self.y - a.base - 0.065 - 0.4 * a.gas) / (0.5 * a.gas))
        d = self.body + self.centre + 0.15 * self.heart * (1.0 - 0.75 * under) + 0.10 * under
        d = d - 0.07 * edge(1.0 - stomach, 0.15) * under
        d = d - 0.45 * air + self.hila * (1.0 - 0.7 * self.heart)
        d = d + self.vessels * self.vessel * (air + 0.10 * self.lung)
        d = d + self.ribs * (0.55 + 0.45 * self.lung) * (1.0 - 0.5 * under) + self.bones
        total: np.ndarray = d + self.extra + self.cables + self.scatter * np.minimum(1.0, self.body * 2.0)
        return total


def respond(attenuation: np.ndarray, e: Exposure) -> np.ndarray:
    """The film's S-shaped response: grey levels 0 to 255, float32."""
    grey: np.ndarray = 255.0 / (1.0 + np.exp((np.float32(e.level) - attenuation) * np.float32(1.0 / e.latitude)))
    return grey


def develop(film: Film, attenuation: np.ndarray) -> np.ndarray:
    """Response, noise, borders and side marker: (size, size) uint8."""
    e, size = film.e, film.size
    grey = respond(attenuation, e)
    rng = generator(e.seed, 37)
    # A pixel's dose is proportional to its area; noise is strongest where the film is neither black nor white.
    sigma = e.noise * (size / 128) ** 0.5
    shape = np.float32(0.35) + np.float32(2.6 / 255) * grey * (1.0 - grey * np.float32(1 / 255))
    grey = grey + sigma * shape * rng.standard_normal((size, size), dtype=np.float32)
    marker = _marker(film, rng)
    grey = np.maximum(grey, marker * 235)
    left, top, right, bottom = (round(v * size) for v in e.collimated)
    grey[:, :left] = grey[:top] = 6
    grey[:, size - right :] = grey[size - bottom :] = 6
    levels: np.ndarray = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return levels


def _marker(film: Film, rng: np.random.Generator) -> np.ndarray:
    """The lead letter L beside the left shoulder (on the right of the film)."""
    x, y, h = rng.uniform(0.86, 0.95), rng.uniform(0.04, 0.12), rng.uniform(0.02, 0.03)
    side = film.size * _oversampling(film.size)
    canvas = Image.new("L", (side, side))
    points = np.array([[x, y], [x, y + h], [x + 0.6 * h, y + h]]) * side
    ImageDraw.Draw(canvas).line(points.ravel().tolist(), fill=255, width=max(1, round(0.006 * side)))
    return _shrunk(canvas, film.size)
