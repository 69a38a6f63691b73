"""The patients, their images, and which labels each image has."""

from dataclasses import dataclass, replace

import numpy as np

from medistill.nih import LABELS
from medistill.phantom.anatomy import BLOCK, FINDING, IMAGE, PATIENT, DrawnFinding, Exposure, draw_exposure, generator

# Share of images by label. "nih" is what Data_Entry_2017_v2020.csv has.
PREVALENCE: dict[str, dict[str, float]] = {
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
"""Share of images that may have a finding; the others are 'No Finding'."""

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
"""Probability that a chronic or an acute finding (or its absence) persists on the patient's next image."""

_SIZES_PA = ((2500, 2048, "0.168"), (2992, 2991, "0.143"), (2048, 2500, "0.171"))
_SIZES_AP = ((3056, 2544, "0.139"), (2500, 2048, "0.168"), (2021, 2021, "0.194311"))


def draw_labels(rng: np.random.Generator, prevalence: str) -> dict[str, bool]:
    """Draw one image's labels so that each has its prevalence and pairs co-occur as often as in the real data."""
    share, ill = PREVALENCE[prevalence], _ILL[prevalence]
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
class Row:
    """One image: its row of the label file, and the parameters to draw it."""

    patient: int
    number: int
    labels: tuple[str, ...]
    age: int
    test: bool
    exposure: Exposure
    original: tuple[int, int, str]

    @property
    def name(self) -> str:
        """File name, as ChestX-ray14 has it."""
        return f"{self.patient:08d}_{self.number:03d}.png"


def _patient_rows(seed: int, patient: int, prevalence: str) -> list[Row]:
    """All images of one patient; a pure function, so that a larger phantom begins like a smaller one."""
    rng = generator(seed, PATIENT, patient, 1)
    count = min(6, int(rng.geometric(0.6)))
    age = int(np.clip(rng.normal(47, 17), 3, 92))
    # Three patients of every ten are test patients, so that a small phantom has both splits.
    block, place = divmod(patient, 10)
    test = bool(generator(seed, BLOCK, block).permutation(10)[place] < 3)
    rows: list[Row] = []
    has: dict[str, bool] = {}
    for number in range(count):
        rng = generator(seed, IMAGE, patient, number)
        fresh, keep = draw_labels(rng, prevalence), rng.random(len(LABELS))
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
        rows.append(Row(patient, number, labels, age, test, exposure, original))
    return rows


def draw_rows(images: int, seed: int, prevalence: str) -> list[Row]:
    """Return the first `images` images of the patients 1, 2, …, in order."""
    rows: list[Row] = []
    patient = 0
    while len(rows) < images:
        patient += 1
        rows += _patient_rows(seed, patient, prevalence)
    return rows[:images]


def finding_on_image(f: DrawnFinding, number: int, seed: int, patient: int) -> DrawnFinding:
    """Return the same finding on the patient's image `number`: a little larger or smaller, denser or fainter."""
    rng = generator(seed, FINDING, patient, LABELS.index(f.label), 1 + number)
    size = float(np.clip(f.size + rng.normal(0, 0.12), 0, 1))
    return replace(f, size=size, density=f.density * float(np.exp(rng.normal(0, 0.08))))
