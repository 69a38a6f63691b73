"""What the audit finds, and what it costs: `python -m benchmarks.audit duplicates|groups|scale`.

Each prints a table and writes it into docs/data.md. All need real images (`--data`, or MEDISTILL_TEST_DATA).

`duplicates`: the share of copies that `near_duplicates` finds, by how they were made, and its false pairs, in real
X-rays and in the phantom. Its thresholds were chosen on the first half of the patients of the 1,000 images of
ChestX-ray14.

`groups`: how well `discover_groups` finds the known groups of LC25000's lung tiles, and whether it merges images that
are not augmented. Its threshold was chosen on the class lung_n.

`scale`: seconds and peak memory of both on 2,500, 5,000 and 10,000 images, 20 copies of each source.
"""

import argparse
import csv
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks.ingest import publish
from medistill.audit.alignment import Frames
from medistill.audit.duplicates import near_duplicates
from medistill.audit.groups import discover_groups
from medistill.images.decode import decode
from medistill.phantom.write import write_phantom

ROOT = Path(__file__).resolve().parents[1]
POOL, COPIES = 500, 100  # images among which copies are sought, and copies of each kind
SIZES = [2_500, 5_000, 10_000]
BLACK, EDGE = cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE

Copy = Callable[[np.ndarray, np.random.Generator], np.ndarray]


# Copies of a grey image uint8 (S, S).


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def resized(image: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))


def curve(image: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.clip(np.rint(change(image.astype(float))), 0, 255).astype(np.uint8)


def gamma(image: np.ndarray, exponent: float) -> np.ndarray:
    return curve(image, lambda grey: 255 * (grey / 255) ** exponent)


def cropped(image: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    size, kept = len(image), round(share * len(image))
    top, left = generator.integers(0, size - kept + 1, 2)
    return resized(image[top : top + kept, left : left + kept], size)


def shifted(image: np.ndarray, share: float, border: int, generator: np.random.Generator) -> np.ndarray:
    angle = generator.uniform(0, 2 * np.pi)
    move = share * len(image) * np.array([np.cos(angle), np.sin(angle)])
    return cv2.warpAffine(image, np.column_stack([np.eye(2), move]), image.shape, borderMode=border)


def turned(image: np.ndarray, degrees: float) -> np.ndarray:
    centre = (len(image) / 2 - 0.5,) * 2
    return cv2.warpAffine(image, cv2.getRotationMatrix2D(centre, degrees, 1.0), image.shape)


def posted(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return gamma(jpeg(cropped(image, 0.97, generator), 50), 0.7)


KINDS: dict[str, Copy] = {
    "JPEG, quality 50": lambda image, _: jpeg(image, 50),
    "resized to 60 % and back": lambda image, _: resized(resized(image, round(0.6 * len(image))), len(image)),
    "brightness + 30": lambda image, _: curve(image, lambda grey: grey + 30),
    "brightness - 30": lambda image, _: curve(image, lambda grey: grey - 30),
    "contrast x 0.6": lambda image, _: curve(image, lambda grey: 0.6 * (grey - 128) + 128),
    "contrast x 1.4": lambda image, _: curve(image, lambda grey: 1.4 * (grey - 128) + 128),
    "gamma 0.6": lambda image, _: gamma(image, 0.6),
    "gamma 1.7": lambda image, _: gamma(image, 1.7),
    "cropped to 97 %": lambda image, generator: cropped(image, 0.97, generator),
    "shifted by 1 %, black edge": lambda image, generator: shifted(image, 0.01, BLACK, generator),
    "shifted by 2 %, black edge": lambda image, generator: shifted(image, 0.02, BLACK, generator),
    "shifted by 2 %, edge repeated": lambda image, generator: shifted(image, 0.02, EDGE, generator),
    "cropped to 97 %, JPEG 50, gamma 0.7": lambda image, generator: posted(image, generator),
    "histogram equalised": lambda image, _: cv2.equalizeHist(image),
    # harder than what the audit must find
    "CLAHE": lambda image, _: cv2.createCLAHE(2.0, (8, 8)).apply(image),
    "cropped to 94 %": lambda image, generator: cropped(image, 0.94, generator),
    "turned by 2 degrees": lambda image, generator: turned(image, 2 * generator.choice([-1, 1])),
    "negative": lambda image, _: 255 - image,
    "mirrored": lambda image, _: np.ascontiguousarray(image[:, ::-1]),
    "JPEG, quality 20": lambda image, _: jpeg(image, 20),
    "noise of 8 grey levels": lambda image, generator: curve(image, lambda g: g + generator.normal(0, 8, g.shape)),
}


def augmentor(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """As Augmentor made LC25000's pictures: turned by up to 25°, cut by its formula, stretched back, and flipped."""
    size = len(image)
    angle = np.deg2rad(generator.uniform(-25, 25))
    centre = (size / 2 - 0.5,) * 2
    turned = cv2.warpAffine(image, cv2.getRotationMatrix2D(centre, np.rad2deg(angle), 1.0), image.shape)
    slope, full = abs(np.tan(angle)), size * (abs(np.cos(angle)) + abs(np.sin(angle)))
    high = size * slope * (1 - slope)
    wide = slope * (size - high)
    left, top = (max(0, round((size - full) / 2 + cut)) for cut in (wide, high))
    view = resized(turned[top : size - top, left : size - left], size)
    return np.ascontiguousarray(view[:: generator.choice([-1, 1]), :: generator.choice([-1, 1])])


# Data sets: grey frames uint8 (N, S, S), or frames (N, C, S, S), and the patient or source of each.


def read(files: list[Path], size: int, channels: int = 1) -> np.ndarray:
    return np.stack([decode(file, size=size, channels=channels, fit="pad") for file in files])


def table_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def nih(data: Path, size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    files = sorted((data / "nih1000_256" / "images").iterdir())
    return read(files, size)[:, 0], np.array([file.name[:8] for file in files])


def hannover(data: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = table_of(data / "hannover_256" / "data.csv")
    rows = [row for row in rows if (data / "hannover_256" / "png" / f"{row['image_id']}.png").is_file()]
    frames = read([data / "hannover_256" / "png" / f"{row['image_id']}.png" for row in rows], 256)
    return frames[:, 0], np.array([row["patient_id"] for row in rows])


def phantom() -> tuple[np.ndarray, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        write_phantom(Path(folder) / "phantom")
        rows = table_of(Path(folder) / "phantom" / "Data_Entry_2017.csv")
        frames = read([Path(folder) / "phantom" / "images" / row["Image Index"] for row in rows], 128)
    return frames[:, 0], np.array([row["Patient ID"] for row in rows])


def tiles(data: Path, size: int = 96) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = table_of(data / "lc25000_lung_96" / "groups.csv")
    frames = read([data / "lc25000_lung_96" / row["file"] for row in rows], size, channels=3)
    return frames, np.array([row["group_id"] for row in rows]), np.array([row["label"] for row in rows])


# Figures.


def seconds(task: Callable) -> tuple[float, object]:
    start = time.perf_counter()
    result = task()
    return time.perf_counter() - start, result


def of(frames: np.ndarray) -> Frames:
    return lambda chosen: frames[chosen]


def shrunk(frames: np.ndarray, size: int) -> np.ndarray:
    return frames if size == frames.shape[-1] else np.stack([resized(frame, size) for frame in frames])


def duplicates(data: Path) -> None:
    """Print the recall of copies, and the false pairs."""
    x_rays, patients = nih(data)
    people = np.unique(patients)
    half = np.isin(patients, np.random.default_rng(0).permutation(people)[: len(people) // 2])
    other = (x_rays[~half], patients[~half])
    columns = {
        "ChestX-ray14, half the thresholds were chosen on, 256 px": (x_rays[half], patients[half], 256),
        **{f"ChestX-ray14, other half, {size} px": (*other, size) for size in (256, 128, 64, 32)},
        "Hannover, 256 px": (*hannover(data), 256),
        "phantom, 128 px": (*phantom(), 128),
    }
    rows: dict[str, list[str]] = {kind: [] for kind in KINDS}
    none = ["images", "pairs of two patients", "pairs of one patient", "seconds"]
    rows |= {name: [] for name in none}
    for name, (images, owners, size) in columns.items():
        frames = shrunk(images, size)
        took, table = seconds(lambda frames=frames: near_duplicates(of(frames[:, None]), len(frames)))
        two = int((owners[table["i"]] != owners[table["j"]]).sum())
        for row, value in zip(none, (len(frames), two, len(table) - two, f"{took:.0f}"), strict=True):
            rows[row].append(str(value))
        generator = np.random.default_rng(1)
        pool = generator.permutation(len(images))[:POOL]
        for kind, copy in tqdm(KINDS.items(), desc=name, disable=None):
            copies = shrunk(np.stack([copy(images[number], generator) for number in pool[:COPIES]]), size)
            together = np.concatenate([frames[pool], copies])[:, None]
            table = near_duplicates(of(together), len(together))
            found = set(zip(table["i"].tolist(), table["j"].tolist(), strict=True))
            true = sum((number, len(pool) + number) in found for number in range(COPIES))
            rows[kind].append(f"{true / COPIES:.2f}")
    show("copies", ["", *columns], [[name, *values] for name, values in rows.items()])


def groups(data: Path) -> None:
    """Print how well the found groups agree with the true ones."""
    frames, sources, labels = tiles(data)
    x_rays, patients = nih(data, 128)
    _, first = np.unique(patients, return_index=True)
    generator = np.random.default_rng(0)
    few = generator.permutation(first)[:100]
    views = [[x_rays[number], *(augmentor(x_rays[number], generator) for _ in range(9))] for number in few]
    drawn, drawn_patients = phantom()
    sets = {
        "LC25000 lung_n (threshold chosen here)": (frames[labels == "lung_n"], sources[labels == "lung_n"]),
        "LC25000 lung_aca": (frames[labels == "lung_aca"], sources[labels == "lung_aca"]),
        "LC25000 lung_scc": (frames[labels == "lung_scc"], sources[labels == "lung_scc"]),
        "LC25000 lung, all": (frames, sources),
        "LC25000 lung, all, 64 px": (tiles(data, 64)[0], sources),
        "LC25000 lung, all, 48 px": (tiles(data, 48)[0], sources),
        "100 X-rays, 10 augmented copies of each": (np.concatenate(views)[:, None], np.repeat(np.arange(100), 10)),
        "1,000 X-rays, groups: patients": (x_rays[:, None], patients),
        "phantom, groups: patients": (drawn[:, None], drawn_patients),
    }
    rows = []
    for name, (images, truth) in sets.items():
        took, found = seconds(lambda images=images: discover_groups(of(images), len(images)))
        figures = agreement(np.unique(truth, return_inverse=True)[1], found)
        rows.append([name, *figures, f"{1000 * took / len(found):.0f}"])
    head = ["images", "groups", "found", "largest", "pairs: precision", "recall", "B-cubed: precision", "recall"]
    show("groups", ["", *head, "exact", "ms per image"], rows)


def agreement(truth: np.ndarray, found: np.ndarray) -> list[str]:
    true, together = truth[:, None] == truth, found[:, None] == found
    both, pairs = true & together, np.triu_indices(len(truth), 1)
    exact = np.mean([(together[truth == group] == (truth == group)).all() for group in np.unique(truth)])
    shares = [
        both[pairs].sum() / max(1, together[pairs].sum()),
        both[pairs].sum() / max(1, true[pairs].sum()),
        (both.sum(axis=1) / together.sum(axis=1)).mean(),
        (both.sum(axis=1) / true.sum(axis=1)).mean(),
        exact,
    ]
    counts = (len(truth), truth.max() + 1, found.max() + 1, np.bincount(found).max())
    return [*(f"{count:,}" for count in counts), *(f"{share:.4f}" for share in shares)]


def scale(data: Path) -> None:
    """Print time and memory at several sizes, each in a process of its own."""
    rows = []
    for count in SIZES:
        command = [sys.executable, "-m", "benchmarks.audit", "one", "--data", str(data), "--count", str(count)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(done.stdout.split(";"))
    head = ["images", "`near_duplicates`, s", "peak, MB", "`discover_groups`, s", "peak, MB", "precision", "recall"]
    show("audit", head, rows)


def one(data: Path, count: int) -> None:
    """One row of `scale`: 20 augmented copies of each of many crops of X-rays."""
    x_rays, _ = nih(data)
    generator = np.random.default_rng(0)
    frames, truth = np.empty((count, 1, 96, 96), np.uint8), np.arange(count) // 20
    for number, source in enumerate(truth):
        frames[number, 0] = resized(augmentor(x_rays[source, 50:178, 50:178], generator), 96)
    cells = [f"{count:,}"]
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for task in (near_duplicates, discover_groups):
        took, result = seconds(lambda task=task: task(of(frames), count))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base
        cells += [f"{took:.0f}", f"{peak / 1024:.0f}"]
    print(";".join([*cells, *agreement(truth, result)[4:6]]))


def show(name: str, head: list[str], rows: list[list[str]]) -> None:
    publish(name, [f"| {' | '.join(cell.strip() for cell in cells)} |" for cells in (head, *rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=["duplicates", "groups", "scale", "one"], metavar="duplicates|groups|scale", default=None
    )
    default = os.environ.get("MEDISTILL_TEST_DATA") or ROOT.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of real images")
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.what == "one":
        one(arguments.data, arguments.count)
    else:
        {"duplicates": duplicates, "groups": groups, "scale": scale}[arguments.what](arguments.data)


if __name__ == "__main__":
    main()
