"""How fast and in how much memory a data set is read: `python -m benchmarks.ingest decode|join|memory`.

Each writes its table into docs/data.md.

`decode`: images per second of decoding and of the whole of `ingest`, as ratios to what the same two processes reach
when they only open, convert and resize with Pillow and drop the result. The three are measured in turn, so that other
load of the machine falls on all of them; a ratio is of times of one round. Needs real X-rays (`--data`, or
MEDISTILL_TEST_DATA): at their own 256 px, and enlarged to the 1024 px of NIH's release, with a little noise.

`join`: seconds to read and join the label file of ChestX-ray14 (112,120 rows, with lists and boxes) and tables of the
size of CheXpert's (223,414 rows), MIMIC-CXR-JPG's (377,110), VinDr-CXR's (54,000 with three readers) and the RSNA
challenge's (30,227), each with as many empty files; and the labels of an archive of ChestMNIST (112,120 pictures).

`memory`: peak resident memory of `ingest` at 1,000, 10,000 and 100,000 images of 32 px.
"""

import argparse
import gzip
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.page import spread, write_between

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".cache" / "benchmark-ingest"
SIZE = 224
WORKERS = 2
ROUNDS = 5


def bare(paths: list[str]) -> int:
    """Open, convert and resize, and nothing else."""
    for path in paths:
        with Image.open(path) as image:
            image.convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return len(paths)


def settings(root: Path, **changed):
    from medistill.data.settings import Data

    defaults = {"format": "chestxray14", "root": root, "split": "patient", "val_fraction": 0.1, "test_fraction": 0.2}
    defaults |= {"seed": 0, "image_size": SIZE, "channels": 1, "fit": "pad", "max_quarantined": 0.0, "workers": WORKERS}
    return Data(**(defaults | changed))


def decode(data: Path) -> None:
    """Print images per second and ratios for files of 256 and of 1024 px."""
    small = data / "nih1000_256"
    large = FOLDER / "large"
    if not large.is_dir():
        enlarge(small, large)
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as executor:
        list(executor.map(bare, [[str(next((small / "images").iterdir()))]] * 2 * WORKERS))  # warm
        lines = ["| decoding to 224 px | bare Pillow, images/s | decode stage / bare | whole `ingest` / bare |"]
        for name, root in (("256 px", small), ("1024 px", large)):
            rounds = [one_round(root, executor) for _ in range(ROUNDS)]
            ratios = [[bare_s / seconds for bare_s, *own in rounds for seconds in own[k : k + 1]] for k in range(2)]
            images = len(list((root / "images").iterdir()))
            rates = [images / bare_s for bare_s, *_ in rounds]
            lines.append(
                f"| {images:,} PNG of {name} | {spread(rates, 0)} | {spread(ratios[0], 2)} | {spread(ratios[1], 2)} |"
            )
    publish("decode", lines)


def one_round(root: Path, executor: Executor) -> tuple[float, float, float]:
    """Seconds of bare decoding, of the decode stage, and of the whole of ingest, each from an empty folder."""
    from medistill.data.cache import decode_all
    from medistill.data.ingest import ingest
    from medistill.images.frame import Framing

    paths = sorted(f"images/{file.name}" for file in (root / "images").iterdir())
    chunks = [[str(root / path) for path in paths[start : start + 16]] for start in range(0, len(paths), 16)]

    def bare_all() -> None:
        sum(executor.map(bare, chunks))

    def decode_stage() -> None:
        decode_all(root, paths, out / "a", Framing(SIZE, 1, "pad"), workers=WORKERS, executor=executor)

    def whole() -> None:
        ingest(settings(root), out / "processed", out / "b", executor=executor)

    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        out = Path(folder)
        return seconds(bare_all), seconds(decode_stage), seconds(whole)


def seconds(task) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def enlarge(small: Path, large: Path, images: int = 400) -> None:
    """Write the first of the X-rays at 1024 px with noise, in a data set of their own."""
    (large / "images").mkdir(parents=True)
    names = sorted(file.name for file in (small / "images").iterdir())[:images]
    for number, name in enumerate(names):
        with Image.open(small / "images" / name) as image:
            pixels = np.asarray(image.convert("L").resize((1024, 1024), Image.Resampling.BICUBIC), np.float32)
        noise = np.random.default_rng(number).normal(0, 2, pixels.shape)
        Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(large / "images" / name)
    header, *lines = (small / "Data_Entry_2017.csv").read_text().splitlines()
    kept = [line for line in lines if line.split(",")[0] in set(names)]
    (large / "Data_Entry_2017.csv").write_text("\n".join([header, *kept]) + "\n")


def join(data: Path) -> None:
    """Print seconds to read and join label files at true scale."""
    from medistill.data.adapters import read_source

    lines = ["| reading and joining tables and files | images | seconds |"]
    memory = Path("/dev/shm")  # on some disks it takes minutes to remove half a million files
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        writers = {"chestxray14": write_nih, "chexpert": write_chexpert, "mimic_cxr": write_mimic}
        writers |= {"vindr_cxr": write_vindr, "rsna_pneumonia": write_rsna, "medmnist": write_chestmnist}
        for format, write in writers.items():
            root = Path(folder) / format
            root.mkdir()
            write(root, data)
            times = []
            for _ in range(ROUNDS):
                start = time.perf_counter()
                rows = read_source(format, root, {"views": "all"} if format == "mimic_cxr" else {}).entries
                times.append(time.perf_counter() - start)
            shutil.rmtree(root)
            lines.append(f"| `{format}` | {rows:,} | {spread(times, 2)} |")
    publish("join", lines)


def write_nih(root: Path, data: Path) -> None:
    """The real label files, and an empty file per image."""
    (root / "images").mkdir()
    for file in (data / "nih_label_files").iterdir():
        if file.name.startswith(("Data_Entry", "BBox")):
            (root / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
        elif file.name in ("train_val_list.txt", "test_list.txt"):
            shutil.copy(file, root)
    for line in (root / "Data_Entry_2017_v2020.csv").read_text().splitlines()[1:]:
        (root / "images" / line.partition(",")[0]).touch()


def write_chexpert(root: Path, data: Path) -> None:
    """Tables of CheXpert's size with cells at random, and an empty file per image."""
    from medistill.data.adapters.chexpert import LABELS

    random = np.random.default_rng(0)
    prefix = "CheXpert-v1.0-small"
    header = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS])
    for table, rows, patients in (("train", 223_414, 64_540), ("valid", 234, 200)):
        patient = np.sort(np.append(np.arange(patients), random.integers(0, patients, rows - patients)))
        cells = random.choice(["1.0", "0.0", "-1.0", ""], (rows, len(LABELS)), p=[0.15, 0.1, 0.05, 0.7])
        lines, seen = [header], 0
        for row in range(rows):
            seen = seen + 1 if row and patient[row] == patient[row - 1] else 0
            offset = 0 if table == "train" else 64_540
            path = f"{table}/patient{patient[row] + 1 + offset:05d}/study{seen // 2 + 1}/view{seen % 2 + 1}_frontal.jpg"
            file = root / path
            if seen % 2 == 0:
                file.parent.mkdir(parents=True)
            file.touch()
            lines.append(f"{prefix}/{path},Female,68,Frontal,AP," + ",".join(cells[row]))
        (root / f"{table}.csv").write_text("\n".join(lines) + "\n")


def write_mimic(root: Path, data: Path) -> None:
    """Tables of MIMIC-CXR-JPG's size with cells at random, and an empty file per image."""
    from medistill.data.reading.chexpert_labels import LABELS

    random = np.random.default_rng(0)
    images, studies, patients = 377_110, 227_835, 65_379
    cells = random.choice(["1.0", "0.0", "-1.0", ""], (studies, len(LABELS)), p=[0.15, 0.1, 0.05, 0.7])
    patient = 10_000_000 + np.sort(np.append(np.arange(patients), random.integers(0, patients, studies - patients)))
    rows, splits, labels = [], [], []
    for study in range(studies):
        folder = f"files/p10/p{patient[study]}/s{50_000_000 + study}"
        os.makedirs(root / folder)
        labels.append(f"{patient[study]},{50_000_000 + study},{','.join(cells[study])}")
        for view in range(2 if study < images - studies else 1):
            name = f"{study:08x}-00000000-00000000-{view:08x}"
            (root / folder / f"{name}.jpg").touch()
            rows.append(f"{name},{patient[study]},{50_000_000 + study},CHEST,{('PA', 'LATERAL')[view]},3056,2544")
            splits.append(f"{name},{50_000_000 + study},{patient[study]},train")
    write_table(root / "mimic-cxr-2.0.0-chexpert.csv.gz", f"subject_id,study_id,{','.join(LABELS)}", labels)
    header = "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns"
    write_table(root / "mimic-cxr-2.0.0-metadata.csv.gz", header, rows)
    write_table(root / "mimic-cxr-2.0.0-split.csv.gz", "dicom_id,study_id,subject_id,split", splits)


def write_vindr(root: Path, data: Path) -> None:
    """Tables of VinDr-CXR's size with three readers who name labels at random, and an empty file per image."""
    from medistill.data.adapters.vindr_cxr import FINDINGS, IMPRESSIONS

    random = np.random.default_rng(0)
    labels = [*FINDINGS, *IMPRESSIONS]
    for part, images, readers in (("train", 15_000, ("R1", "R2", "R3")), ("test", 3_000, ("",))):
        (root / part).mkdir()
        rows, boxes = [], []
        for image in (f"{part}{number:027d}" for number in range(images)):
            (root / part / f"{image}.dicom").touch()
            for reader in readers:
                who = f"{reader}," if reader else ""
                seen = random.random(len(labels)) < 0.05
                rows.append(f"{image},{who}{','.join(map(str, seen.astype(int)))}")
                boxes += [f"{image},{who}{labels[k]},1,2,300.5,400.5" for k in np.flatnonzero(seen[: len(FINDINGS)])]
        first, folder = "image_id,rad_id" if part == "train" else "image_id", root / "annotations"
        write_table(folder / f"image_labels_{part}.csv", f"{first},{','.join(labels)}", rows)
        write_table(folder / f"annotations_{part}.csv", f"{first},class_name,x_min,y_min,x_max,y_max", boxes)


def write_rsna(root: Path, data: Path) -> None:
    """A table of the challenge's size, of 9,555 boxes on 6,012 of 26,684 images, and an empty file per image."""
    (root / "stage_2_train_images").mkdir()
    rows = []
    for number in range(26_684):
        (root / "stage_2_train_images" / f"{number:036d}.dcm").touch()
        count = 0 if number >= 6_012 else 2 if number < 3_543 else 1
        rows += [f"{number:036d},264.0,{box}.0,213.0,379.0,1" for box in range(count)] or [f"{number:036d},,,,,0"]
    write_table(root / "stage_2_train_labels.csv", "patientId,x,y,width,height,Target", rows)


def write_chestmnist(root: Path, data: Path) -> None:
    """An archive of ChestMNIST's size: noise, and labels at random."""
    random, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 78_468), ("val", 11_219), ("test", 22_433)):
        arrays[f"{split}_images"] = random.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{split}_labels"] = random.integers(0, 2, (count, 14), np.uint8)
    np.savez_compressed(root / "chestmnist.npz", **arrays)


def write_table(file: Path, header: str, rows: list[str]) -> None:
    """Write a table, compressed if its name ends in `.gz`."""
    file.parent.mkdir(exist_ok=True)
    content = "\n".join([header, *rows]).encode() + b"\n"
    file.write_bytes(gzip.compress(content, compresslevel=1) if file.suffix == ".gz" else content)


def memory() -> None:
    """Print the peak resident memory of `ingest`, and how much each image adds to it."""
    counts = (1_000, 10_000, 100_000)
    lines = ["| images | peak memory of `ingest` | their pixels |"]
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        root = Path(folder) / "data"
        write_tiny(root, max(counts))
        table = (root / "Data_Entry_2017.csv").read_text().splitlines()
        peaks = []
        for count in counts:
            (root / "images").rename(root / "all")
            (root / "images").mkdir()
            for line in table[1 : count + 1]:
                name = line.partition(",")[0]
                os.link(root / "all" / name, root / "images" / name)
            (root / "Data_Entry_2017.csv").write_text("\n".join(table[: count + 1]) + "\n")
            command = [sys.executable, "-m", "benchmarks.ingest", "one", str(root)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            peaks.append(int(done.stdout.splitlines()[-1]))
            lines.append(f"| {count:,} | {peaks[-1] / 1e6:.0f} MB | {count * 32 * 32 / 1e6:.0f} MB |")
            shutil.rmtree(root / "images")
            (root / "all").rename(root / "images")
    lines.append(f"| each more | {(peaks[-1] - peaks[0]) / (counts[-1] - counts[0]) / 1e3:.1f} kB | 1.0 kB |")
    publish("memory", lines)


def write_tiny(root: Path, count: int) -> None:
    (root / "images").mkdir(parents=True)
    lines = ["Image Index,Finding Labels,Patient ID,Patient Age,Patient Gender,View Position"]
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (32, 32), np.uint8)
        name = f"{number // 4:08d}_{number % 4:03d}.png"
        Image.fromarray(pixels).save(root / "images" / name, compress_level=1)
        lines.append(f"{name},Mass|Effusion,{number // 4},58,F,PA")
    (root / "Data_Entry_2017.csv").write_text("\n".join(lines) + "\n")


def one(root: Path) -> None:
    """Ingest, and print the peak resident memory of this process in bytes."""
    from medistill.data.ingest import ingest

    with tempfile.TemporaryDirectory(dir=root.parent) as out:
        ingest(settings(root, image_size=32), Path(out) / "processed", Path(out) / "cache")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def publish(name: str, lines: list[str]) -> None:
    """Print a table and put it into docs/data.md, between the markers with its name."""
    head, *rows = lines
    table = "\n".join([head, "|---" * (head.count("|") - 1) + "|", *rows])
    print(table)
    write_between("docs/data.md", name, table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["decode", "join", "memory", "one"], metavar="decode|join|memory")
    parser.add_argument("root", nargs="?", type=Path, help=argparse.SUPPRESS)
    default = os.environ.get("MEDISTILL_TEST_DATA") or ROOT.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(default), help="folder of real X-rays and label files")
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if arguments.what == "one":
        one(arguments.root)
    elif arguments.what == "memory":
        memory()
    else:
        {"decode": decode, "join": join}[arguments.what](arguments.data)


if __name__ == "__main__":
    main()
