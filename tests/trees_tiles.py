"""Small data sets in the exact layouts of COVID-QU-Ex and LC25000, in one folder per class, and with a table."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medistill.data.adapters import read_source
from medistill.data.reading.source import Source
from medistill.data.settings import Data

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom excluded."""

COVID_CLASSES = ("COVID-19", "Non-COVID", "Normal")
LUNG, INFECTION = "Lung Segmentation Data", "Infection Segmentation Data"
LC25000_CLASSES = {"lung_image_sets": ("lung_aca", "lung_n", "lung_scc"), "colon_image_sets": ("colon_aca", "colon_n")}


def settings(format: str, root: Path, **changed: Any) -> Data:
    """Settings of `data` for small trees."""
    return Data(
        **{
            "format": format,
            "root": root,
            "split": "patient",
            "splits": root.parent / "splits of nothing",
            "val_fraction": 0.3,
            "test_fraction": 0.3,
            "seed": 0,
            "image_size": 32,
            "channels": 1,
            "fit": "pad",
            "max_quarantined": 0,
            "workers": 1,
        }
        | changed
    )


def read_whole(format: str, root: Path, **options: Any) -> Source:
    """`read_source`, with a check that no entry got lost or doubled."""
    source = read_source(format, root, options)
    assert source.entries == len(source.rows) + len(source.quarantined)
    assert source.rows["image_id"].is_unique
    assert source.rows["path"].is_unique
    assert source.rows["group_id"].notna().all()
    values = source.rows[[f"label:{label}" for label in source.labels]].to_numpy()
    assert values.dtype == np.float32
    assert np.isin(values[~np.isnan(values)], (0, 1)).all()
    if source.task == "multiclass":
        assert (values.sum(axis=1)[~np.isnan(values).any(axis=1)] == 1).all()
    return source


def classes_of(source: Source) -> dict[str, str]:
    """The class of each image of single-label data, by path."""
    columns = source.rows.set_index("path")[[f"label:{label}" for label in source.labels]]
    return columns.idxmax(axis=1).str.removeprefix("label:").to_dict()


def write_picture(path: Path, *seed: int, size: int = 32, colour: bool = False) -> None:
    """Noise that depends on the seed."""
    shape = (size, size, 3) if colour else (size, size)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(path)


def write_mask(path: Path, box: Box, size: int = 32) -> None:
    """White in the box, black elsewhere."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_mask(box, size).astype(np.uint8) * 255).save(path)


def draw_mask(box: Box, size: int = 32) -> np.ndarray:
    """Bool (size, size), true in the box."""
    left, top, right, bottom = box
    mask = np.zeros((size, size), bool)
    mask[top:bottom, left:right] = True
    return mask


def write_covid_qu_ex(
    root: Path, *, doubled: bool = True, images_each: int = 4, infection: bool = True
) -> dict[str, Box]:
    """Write `images_each` images for each split and class, in both parts; all classes use the same file names.

    The first half of the lung part's images are in the infection part too: those of Train in its Train, of Val in its
    Test and of Test in its Val. The masks of class Normal are black.

    Returns:
        The box of the infection of each image that has a mask, by its path within the lung part.
    """
    parts = {name: root / name / name if doubled else root / name for name in (LUNG, INFECTION)}
    moved = {"Train": "Train", "Val": "Test", "Test": "Val"}
    boxes = {}
    for s, split in enumerate(moved):
        for c, label in enumerate(COVID_CLASSES):
            for number in range(images_each):
                name = f"{split.lower()}_{number}.png"
                place = Path(split) / label
                write_picture(parts[LUNG] / place / "images" / name, s, c, number)
                write_mask(parts[LUNG] / place / "lung masks" / name, (1, 1, 31, 31))
                if not infection or number >= images_each // 2:
                    continue
                twin = Path(moved[split]) / label
                write_picture(parts[INFECTION] / twin / "images" / name, s, c, number)
                write_mask(parts[INFECTION] / twin / "lung masks" / name, (1, 1, 31, 31))
                box = (0, 0, 0, 0) if label == "Normal" else (2 + number, 3 + c, 12 + 2 * number, 20 + s)
                write_mask(parts[INFECTION] / twin / "infection masks" / name, box)
                boxes[(place / "images" / name).as_posix()] = box
    return boxes


def write_lc25000(
    root: Path,
    *,
    halves: tuple[str, ...] = tuple(LC25000_CLASSES),
    sources: int = 8,
    copies: int = 3,
    top: str = "",
    groups: bool = True,
) -> dict[str, str]:
    """Write `copies` quarter turns of `sources` pictures for each class.

    Args:
        root: the data set's folder.
        halves: `lung_image_sets`, `colon_image_sets`.
        sources: pictures per class.
        copies: of each picture, at most four.
        top: a folder between the root and the halves, `lung_colon_image_set`.
        groups: write `groups.csv`, too.

    Returns:
        The source of each image, by path.
    """
    group_of = {}
    for half in halves:
        for label in LC25000_CLASSES[half]:
            for number in range(sources * copies):
                source, turn = divmod(number, copies)
                path = Path(top, half, label, f"{label.replace('_', '')}{number + 1}.jpeg")
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                generator = np.random.default_rng([len(label), sum(label.encode()), source])
                tile = np.kron(generator.integers(0, 256, (8, 8, 3), np.uint8), np.ones((4, 4, 1), np.uint8))
                Image.fromarray(np.rot90(tile, turn)).save(root / path, quality=95)
                group_of[path.as_posix()] = f"{label}_{source}"
    if groups:
        lines = [f"{path},{Path(path).parent.name},{group}" for path, group in group_of.items()]
        (root / "groups.csv").write_text("\n".join(["file,label,group_id", *lines]) + "\n")
    return group_of


def write_folder(
    root: Path,
    *,
    classes: tuple[str, ...] = ("NORMAL", "PNEUMONIA"),
    splits: tuple[str, ...] = (),
    images_each: int = 8,
) -> list[str]:
    """Write `images_each` images into a folder for each class, in each of the splits if there are any.

    Returns:
        Their paths.
    """
    paths = []
    for s, split in enumerate(splits or ("",)):
        for c, label in enumerate(classes):
            for number in range(images_each):
                path = Path(split, label, f"person{s}{number}_{label.lower()}.png")
                write_picture(root / path, s, c, number)
                paths.append(path.as_posix())
    return paths


def write_csv(root: Path, *, patients: int = 16, images_each: int = 2) -> dict[str, Any]:
    """Write `table.csv` and `images/`: `images_each` images of each patient, with labels in every form and some masks.

    Columns: `image` (name without suffix), `patient` (1.0, 2.0 ... as pandas ruins ids), `Mass` (1, 0), `Effusion` (1,
    0, blank), `findings` (`Mass|Effusion`, `No Finding`), `severity` (mild, severe), `sex`, `age`, `view`, `split`
    (train, val, test), `mask` (of every image with Mass; a path).

    Returns:
        `data.options` that read the columns of labels, of patients and of all details.
    """
    lines = ["image,patient,Mass,Effusion,findings,severity,sex,age,view,split,mask"]
    for patient in range(1, patients + 1):
        split = ("train", "train", "val", "test")[patient % 4]
        for number in range(images_each):
            name, mass, effusion = f"{patient}_{number}", patient % 2, (1, 0, None)[(patient + number) % 3]
            findings = "|".join(["Mass"] * mass + ["Effusion"] * (effusion == 1)) or "No Finding"
            write_picture(root / "images" / f"{name}.png", patient, number)
            if mass:
                write_mask(root / "masks" / f"{name}.png", (4, 5, 6 + patient, 9 + number))
            cells = (
                *(name, f"{patient}.0", mass, "" if effusion is None else effusion, findings),
                *("severe" if mass else "mild", "Female" if patient % 3 else "m", 30 + patient, "ap", split),
                f"masks/{name}.png" if mass else "",
            )
            lines.append(",".join(map(str, cells)))
    (root / "table.csv").write_text("\n".join(lines) + "\n")
    known = {name: name for name in ("patient", "sex", "age", "view", "mask")}
    return {"images": "images", "path": "image", "labels": ["Mass", "Effusion"], "split": "split"} | known
