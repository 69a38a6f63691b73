"""Procedurally drawn frontal chest X-rays with 14 localised findings, in ChestX-ray14's own layout on disk.

The phantom is a data set that everybody can make: it needs only numpy and pillow, it is byte for byte the same for the
same seed, and, unlike in real data, the ground truth is known. A film is the attenuation along each ray (body wall,
lungs, heart, mediastinum, diaphragm, spine, ribs, clavicles, scapulae, vessels), put through a film's S-shaped
response with an exposure and a latitude of its own, plus quantum noise. A finding changes the attenuation in one
place, so that the same film can be drawn with and without it, and the two films differ inside the box.

Its difficulty was set once: the contrasts and sizes of the findings are such that an ImageNet-pretrained
EfficientNet-Lite2, trained on the default phantom (1,000 images of 128 px, 7 epochs), reaches a test AUROC between
0.70 and 0.97 for each label. Measured then, one run: Nodule 0.75, Pleural_Thickening 0.79, Mass and Pneumothorax 0.80,
Fibrosis 0.86, Cardiomegaly, Infiltration and Emphysema 0.87, Effusion 0.92, Atelectasis, Edema and Pneumonia 0.93,
Consolidation 0.94, Hernia 0.96; macro 0.87. Exposure varies more than any focal finding brightens or darkens a film,
so that a film's histogram says almost nothing about focal findings.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from PIL import Image

from medistill.files import atomic
from medistill.phantom.anatomy import draw_finding, draw_patient
from medistill.phantom.film import Film, develop
from medistill.phantom.findings import boxes_on_film, depict
from medistill.phantom.population import PREVALENCE, Row, draw_rows, finding_on_image
from medistill.phantom.settings import MARK

_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
_BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"


def write_phantom(
    out: Path,
    *,
    images: int = 1000,
    size: int = 128,
    seed: int = 0,
    prevalence: str = "balanced",
    progress: Callable[[Iterable[Row], int], Iterable[Row]] | None = None,
) -> None:
    """Write a phantom data set in ChestX-ray14's layout.

    `images/00000001_000.png` … (mode L), `Data_Entry_2017.csv`, `BBox_List_2017.csv` (boxes for about half of the
    images, in the 1024-px frame), `train_val_list.txt` and `test_list.txt` (30 % of the patients). It appears
    at `out` complete or not at all. The same arguments give the same bytes, and a larger phantom begins with the
    images of a smaller one.

    Args:
        out: folder to write; must be absent, empty, or a phantom written before, which is replaced.
        images: number of images.
        size: height and width in pixels.
        seed: everything is a function of it.
        prevalence: `balanced` (15 to 20 % per label, so that a small set can be evaluated) or `nih` (ChestX-ray14's).
        progress: wraps the loop over images, called with the iterable and its length.

    Raises:
        ValueError: a setting makes no sense, or `out` holds something else.
    """
    out = Path(out)
    if prevalence not in PREVALENCE:
        raise ValueError(f"prevalence: {prevalence!r} is not one of {', '.join(PREVALENCE)}")
    if images < 1 or size < 32 or seed < 0:
        raise ValueError(f"images: {images}, size: {size}, seed: {seed}: need at least 1 image, 32 px and a seed of 0")
    if out.exists() and not (out.is_dir() and (not any(out.iterdir()) or (out / MARK).is_file())):
        raise ValueError(f"{out}: exists already and is not a phantom; name an empty or a new folder")
    with atomic(out) as temporary:
        temporary.mkdir()
        _write(temporary, images, size, seed, prevalence, progress)


def _write(
    folder: Path,
    images: int,
    size: int,
    seed: int,
    prevalence: str,
    progress: Callable[[Iterable[Row], int], Iterable[Row]] | None,
) -> None:
    (folder / "images").mkdir()
    rows = draw_rows(images, seed, prevalence)
    entries, box_lines = [_HEADER], [_BOX_HEADER]
    boxed: dict[bool, set[str]] = {True: set(), False: set()}
    for row in rows if progress is None else progress(rows, len(rows)):
        anatomy = draw_patient(seed, row.patient)
        findings = [
            finding_on_image(draw_finding(label, seed, row.patient), row.number, seed, row.patient)
            for label in row.labels
        ]
        film = Film(anatomy, row.exposure, size)
        Image.fromarray(develop(film, depict(film, findings))).save(folder / "images" / row.name, compress_level=3)
        width, height, spacing = row.original
        entries.append(
            f"{row.name},{'|'.join(row.labels) or 'No Finding'},{row.number},{row.patient},{row.age},{anatomy.sex},"
            f"{row.exposure.view},{width},{height},{spacing},{spacing},"
        )
        # Half of the images of either list, and any that is its first with one of its labels: every label has boxes.
        chosen = row.exposure.seed % 2 == 0 or not boxed[row.test].issuperset(row.labels)
        if row.labels and chosen:
            for label, box in boxes_on_film(film, findings).items():
                boxed[row.test].add(label)
                name = "Infiltrate" if label == "Infiltration" else label
                box_lines.append(f"{row.name},{name},{','.join(f'{v:g}' for v in box)}")
    _lines_to(folder / "Data_Entry_2017.csv", entries)
    _lines_to(folder / "BBox_List_2017.csv", box_lines)
    _lines_to(folder / "train_val_list.txt", [row.name for row in rows if not row.test])
    _lines_to(folder / "test_list.txt", [row.name for row in rows if row.test])
    mark = {"images": images, "size": size, "seed": seed, "prevalence": prevalence}
    _lines_to(folder / MARK, [json.dumps(mark)])


def _lines_to(path: Path, lines: Sequence[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
