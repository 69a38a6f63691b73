"""A folder with every fault at once: each file has one outcome, and none is lost on the way."""

import os
import struct
import zlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medistill.data.dataset import Dataset
from medistill.data.ingest import ingest
from medistill.data.settings import Data

NOT_READ = "not an image, or in a format that is not read"


def png_header(width, height):
    """A PNG that promises more pixels than it has."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


GRADIENT = np.linspace(0, 255, 32 * 32).reshape(32, 32).astype(np.uint8)  # no two rows are alike, so turns show


def unusual(folder, names):
    """Unusual but valid images; name -> their expected frame."""
    one_bit, sixteen, rgba, cmyk, palette, turned, jpeg = names
    grey = Image.fromarray(GRADIENT)
    grey.point(lambda value: 255 * (value > 127)).convert("1").save(folder / one_bit)
    Image.fromarray(GRADIENT.astype(np.uint16) * 16).save(folder / sixteen)  # 12 bits in 16
    opaque = grey.convert("RGBA")
    opaque.save(folder / rgba)
    grey.convert("CMYK").save(folder / cmyk, format="TIFF")
    grey.convert("P").save(folder / palette)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(GRADIENT[::-1, ::-1].copy()).save(folder / turned, format="PNG", exif=exif)
    grey.save(folder / jpeg, format="JPEG", quality=100)
    truth = dict.fromkeys(names, GRADIENT)
    return truth | {one_bit: np.where(GRADIENT > 127, 255, 0)}


def spoil(folder, names, tmp_path):
    """Replace good files by bad ones; name -> reason."""
    cut_png, cut_jpeg, empty, html, bomb, link, gone = names
    content = (folder / cut_png).read_bytes()
    (folder / cut_png).write_bytes(content[: len(content) // 2])
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
    noise.save(folder / cut_jpeg, format="JPEG")
    content = (folder / cut_jpeg).read_bytes()
    (folder / cut_jpeg).write_bytes(content[: len(content) * 3 // 4])
    (folder / empty).write_bytes(b"")
    (folder / html).write_text("<!DOCTYPE html><html><body>404</body></html>")
    (folder / bomb).write_bytes(png_header(50_000, 50_000))
    (folder / link).rename(tmp_path / "secret.png")
    (folder / link).symlink_to(tmp_path / "secret.png")
    (folder / gone).unlink()
    return {
        cut_png: "cannot be decoded: ",
        cut_jpeg: "cannot be decoded: ",
        empty: "the file is empty",
        html: NOT_READ,
        bomb: "exceeds the limit of 100 million pixels",
        link: "is a link that leads out of the data set's folder",
        gone: "but there is no such file",
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_each_file_has_one_fate_and_nothing_is_lost(nih, tmp_path, workers):
    images = nih / "images"
    odd = [f"{patient:08d}_000.png" for patient in range(1, 8)]
    bad = [f"{patient:08d}_001.png" for patient in range(1, 8)]
    bad[3] = "00000004_001.dcm"
    (images / "00000004_001.png").rename(images / bad[3])
    truth = unusual(images, odd)
    reasons = spoil(images, bad, tmp_path)

    table = nih / "Data_Entry_2017.csv"
    text = table.read_text().replace("00000004_001.png", bad[3])
    text += "../../secret.png,Mass,0,99,40,F,PA,1,1,1,1\n"
    text = "\ufeff" + text.replace("OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]", "a,b,c,d")
    lines = [line.replace(",", ";") for line in text.splitlines()]
    fields = [line.split(";") for line in lines]
    for row in fields[1:]:
        row[3] = f"{row[3]}.0"  # as pandas writes ids of a column with an empty cell
    table.write_bytes("\r\n".join(";".join(row) for row in fields).encode())
    for name in ("train_val_list.txt", "test_list.txt"):
        (nih / name).write_text((nih / name).read_text().replace("00000004_001.png", bad[3]))

    (images / "unlisted.jpg").write_bytes((images / "00000009_000.png").read_bytes())
    (images / "notes.txt").write_text("no image, no entry")
    with open(os.path.join(os.fsencode(images), b"M\xfcller.png"), "wb") as file:
        file.write(b"x")

    data = Data(
        format="chestxray14",
        root=nih,
        split="official",
        val_fraction=0.3,
        test_fraction=0.3,
        seed=0,
        image_size=32,
        channels=1,
        fit="squash",
        max_quarantined=0.5,
        workers=workers,
    )
    summary = ingest(data, tmp_path / "out", tmp_path / "cache")
    dataset = Dataset.open(tmp_path / "out")
    quarantine = pd.read_csv(tmp_path / "out" / "quarantine.csv").set_index("path")["reason"]

    assert summary.entries == 60 + 1 + 2  # rows, one more with a path out of the root, and files that no row names
    assert summary.entries == len(dataset.manifest) + len(quarantine)
    expected = {f"images/{name}": reason for name, reason in reasons.items()} | {
        "images/../../secret.png": "but there is no such file",
        "images/unlisted.jpg": "no row of Data_Entry_2017.csv names this image",
        "images/M\\xfcller.png": "its name is not valid UTF-8; rename the file",
    }
    assert set(quarantine.index) == set(expected)
    for path, reason in expected.items():
        assert reason in quarantine[path], path
    assert set(dataset.manifest["patient_id"]) == {str(patient) for patient in range(1, 31)}

    rows = dataset.manifest[dataset.manifest["image_id"].isin(odd)]
    for name, frame in zip(rows["image_id"], dataset.images(rows), strict=True):
        assert np.abs(frame[0].astype(int) - truth[name]).max() <= 3, name  # rounding of JPEG and CMYK
