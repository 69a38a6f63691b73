"""The parameters that a film is drawn from: the patient's build, how the film is taken, and the findings."""

import math
from dataclasses import dataclass

import numpy as np

from medistill.nih import LABELS

# Independent streams of random numbers, keyed (seed, stream, patient, …): nothing depends on what was drawn before.
PATIENT, IMAGE, FINDING, BLOCK = range(4)


def generator(*key: int) -> np.random.Generator:
    """Return the random numbers that belong to `key`: the seed, one of the streams above, and further integers."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


@dataclass(frozen=True)
class Anatomy:
    """A patient's build, in shares of the film's side: the same on all of her images."""

    sex: str
    """`M` or `F`: F has breast shadows."""
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
    """`PA` or `AP`."""
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
class DrawnFinding:
    """One finding: what, where, how large and how dense. `across` and `along` are in the lung's own coordinates."""

    label: str
    """One of `LABELS`."""
    side: int
    """-1 the patient's right lung (left on the film), 1 the left lung."""
    across: float
    """0 at the mediastinum, 1 at the chest wall."""
    along: float
    """0 at the apex, 1 at the diaphragm."""
    size: float
    """Size, 0 (the smallest for this label) to 1 (the largest)."""
    density: float
    """Contrast in units of the label's usual one, about 0.7 to 1.3."""
    seed: int
    """Of its shape and texture."""


def draw_patient(seed: int, patient: int) -> Anatomy:
    """Return the build of patient number `patient`; a pure function of both arguments."""
    rng = generator(seed, PATIENT, patient)
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


def draw_finding(label: str, seed: int, patient: int) -> DrawnFinding:
    """Draw a patient's finding of one label; a pure function, so that it is in the same place on her next film."""
    rng = generator(seed, FINDING, patient, LABELS.index(label))
    (a0, a1), (t0, t1) = _PLACE.get(label, ((0.5, 0.5), (0.5, 0.5)))
    return DrawnFinding(
        label=label,
        side=int(rng.choice((-1, 1))),
        across=float(rng.uniform(a0, a1)),
        along=float(rng.uniform(t0, t1)),
        size=float(rng.random()),
        density=float(rng.uniform(0.7, 1.3)),
        seed=int(rng.integers(2**31)),
    )
