"""Decoding takes no more memory than estimated before, and files that would take too much are refused."""

import io
import json
import struct
import subprocess
import sys
import time
import tracemalloc

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom import uid

from medistill.images.decode import decode, read
from medistill.images.errors import ImageError
from medistill.images.limits import MAX_BYTES, MAX_PIXELS, require_size
from tests.dicoms import dataset, refusal, save, save_jpeg_xl
from tests.pictures import png

SIDE = 2000
ROWS = np.arange(SIDE)
GREY = ((ROWS[:, None] // 7 * 3 + ROWS // 5) % 256).astype(np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)
LAYERS = np.dstack([COLOUR, np.broadcast_to((ROWS % 256).astype(np.uint8), GREY.shape)])
DEEP = GREY.astype(np.uint16) * 16

PICTURES = {  # most bytes per pixel, and the file
    "grey.png": (2, GREY, {"compress_level": 1}),
    "grey alpha.png": (8, LAYERS[..., 2:], {"compress_level": 1}),
    "colour.png": (5, COLOUR, {"compress_level": 1}),
    "alpha.png": (8, LAYERS, {"compress_level": 1}),
    "deep.png": (4, DEEP, {"compress_level": 1}),
    "colour.jpg": (5, COLOUR, {}),
    "progressive.jpg": (8, COLOUR, {"progressive": True}),
    "float.tif": (6, GREY.astype(np.float32), {}),
    "one strip.tif": (9, GREY.astype(np.float32), {"compression": "tiff_adobe_deflate", "strip_size": 10**9}),
    "ycbcr.tif": (12.5, Image.fromarray(COLOUR).convert("YCbCr"), {"compression": "tiff_lzw", "strip_size": 10**9}),
    "layers.tif": (9, LAYERS, {"compression": "tiff_adobe_deflate"}),
    "colour.ppm": (5, COLOUR, {}),
    "alpha.webp": (17, LAYERS, {"quality": 30, "method": 0}),
    "tiles.jp2": (6, COLOUR, {"tile_size": (512, 512)}),
}


def write_dicoms(folder):
    """DICOM files of equally many pixels, and the most bytes per pixel of each."""
    in_jpeg_2000 = imagecodecs.jpeg2k_encode(DEEP, level=0, codecformat="J2K", reversible=True)
    lossless = imagecodecs.jpeg8_encode(DEEP, lossless=True, bitspersample=12)
    save(folder / "plain.dcm", dataset(DEEP, bits=12, WindowCenter=2000, WindowWidth=3000))
    save(folder / "colour.dcm", dataset(COLOUR, photometric="YBR_FULL"))
    save(folder / "lossless.dcm", dataset(DEEP, uid.JPEGLosslessSV1, frame=lossless, bits=12))
    save(folder / "ls.dcm", dataset(DEEP, uid.JPEGLSLossless, frame=imagecodecs.jpegls_encode(DEEP), bits=12))
    save(folder / "2000.dcm", dataset(DEEP, uid.JPEG2000Lossless, frame=in_jpeg_2000, bits=12))
    baseline = imagecodecs.jpeg8_encode(COLOUR, level=90)
    save(folder / "baseline.dcm", dataset(COLOUR, uid.JPEGBaseline8Bit, frame=baseline, photometric="YBR_FULL_422"))
    throughput = imagecodecs.htj2k_encode(DEEP)
    save(folder / "throughput.dcm", dataset(DEEP, uid.HTJ2KLossless, frame=throughput, bits=12))
    save_jpeg_xl(folder / "xl.dcm", 110, DEEP, imagecodecs.jpegxl_encode(DEEP, lossless=True, effort=1), bits=12)
    return {
        **{"plain.dcm": 6, "colour.dcm": 9, "lossless.dcm": 7, "ls.dcm": 7, "2000.dcm": 9, "baseline.dcm": 12},
        **{"throughput.dcm": 7, "xl.dcm": 9},
    }


MEASURE = """
import json, os, resource, sys
import numpy, pydicom, pydicom.pixels, imagecodecs, PIL.TiffImagePlugin, PIL.WebPImagePlugin, PIL.Jpeg2KImagePlugin
for codec in ("jpeg8", "jpegls", "jpeg2k", "htj2k", "jpegxl"):
    getattr(imagecodecs, codec + "_decode")
from medistill.images import decode as images, dicom

plain = images.require_size

def require_size(width, height, needed, memory):
    reckoned.append(needed)
    plain(width, height, needed, memory)

images.require_size = dicom.require_size = require_size
taken, reckoned = {}, []
for path in sys.argv[1:]:
    reader, writer = os.pipe()
    if os.fork() == 0:  # a process of its own for each file: what it took at most is the process's
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        images.decode(path, size=128, channels=3, fit="pad")
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        os.write(writer, json.dumps([(after - before) * 1024, max(reckoned)]).encode())
        os._exit(0)
    os.close(writer)
    os.wait()
    taken[os.path.basename(path)] = json.loads(os.read(reader, 99) or "[-1, 0]")
print(json.dumps(taken))
"""


def test_decoding_takes_no_more_than_is_reckoned(tmp_path):
    """A few more megabytes are allowed for buffers."""
    most = write_dicoms(tmp_path)
    for name, (bytes_per_pixel, pixels, options) in PICTURES.items():
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        image.save(tmp_path / name, **options)
        most[name] = bytes_per_pixel
    command = [sys.executable, "-c", MEASURE, *(str(tmp_path / name) for name in most)]
    taken = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for name, (bytes_taken, reckoned) in taken.items():
        assert 0 < bytes_taken <= 12_000_000 + min(reckoned, most[name] * SIDE**2), name


def webp(width, height):
    """The first bytes of a lossless WebP file."""
    head = b"VP8L" + struct.pack("<I", 20) + b"\x2f" + struct.pack("<I", width - 1 | height - 1 << 14)
    return b"RIFF" + struct.pack("<I", len(head) + 20) + b"WEBP" + head + bytes(20)


def progressive(width, height):
    """A progressive JPEG of four components that declares this size."""
    stream = io.BytesIO()
    Image.new("CMYK", (16, 16)).save(stream, "JPEG", progressive=True)
    content = bytearray(stream.getvalue())
    size = content.index(b"\xff\xc2") + 5
    content[size : size + 4] = struct.pack(">HH", height, width)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (webp(9_000, 9_000), "9000x9000 pixels take 1.38 GB to decode; the limit is 1 GB"),
        (webp(16_000, 16_000), "16000x16000 pixels exceeds the limit of 100 million pixels"),
        (progressive(9_900, 9_900), "9900x9900 pixels take 1.18 GB to decode; the limit is 1 GB"),
    ],
)
def test_what_takes_too_much_is_refused_before_it_is_decoded(tmp_path, content, reason):
    (tmp_path / "large").write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read(tmp_path / "large")
    assert caught.value.reason == reason


def test_webp_says_its_size_in_three_ways(tmp_path):
    """The size is read before Pillow opens the file, which would take memory for all of its pixels."""
    from medistill.images.decode import _webp_size

    for options in ({"quality": 80}, {"lossless": True}, {"lossless": True, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}):
        image = Image.fromarray(LAYERS[:37, :53])
        image.save(tmp_path / "small.webp", **options)
        assert _webp_size((tmp_path / "small.webp").read_bytes()[:30]) == (53, 37)
    Image.fromarray(COLOUR[:37, :53]).save(tmp_path / "lossy.webp", quality=80)
    assert _webp_size((tmp_path / "lossy.webp").read_bytes()[:30]) == (53, 37)
    assert _webp_size(b"RIFF\0\0\0\0WAVEfmt " + bytes(14)) is None


def test_a_jpeg_2000_file_of_one_large_tile_is_refused(tmp_path, monkeypatch):
    Image.fromarray(COLOUR[:512, :512]).save(tmp_path / "one.jp2")
    Image.fromarray(COLOUR[:512, :512]).save(tmp_path / "tiles.jp2", tile_size=(128, 128))
    monkeypatch.setattr("medistill.images.limits.MAX_BYTES", 3_000_000)
    assert np.array_equal(np.asarray(read(tmp_path / "tiles.jp2")), COLOUR[:512, :512])
    with pytest.raises(ImageError, match=r"512x512 pixels take 0\.00 GB to decode; the limit is 0\.003 GB"):
        read(tmp_path / "one.jp2")


def test_a_dicom_file_that_takes_too_much_is_refused_before_it_is_decoded(tmp_path):
    made = dataset(COLOUR[:8, :8], uid.JPEG2000Lossless, frame=b"--", Rows=9_000, Columns=9_000)
    assert refusal(tmp_path / "large.dcm", made) == "9000x9000 pixels take 1.62 GB to decode; the limit is 1 GB"


LONG = 100_000_000


def longer(kind, path):
    """A small picture in a file with `LONG` zero bytes beside its pixels, or in place of them."""
    name, small = path / "long", GREY[:24, :32]
    gap, rest = b"", b""
    if kind in ("JPEG2000", "WEBP"):
        Image.fromarray(small).save(name, kind)
        head = name.read_bytes()
    else:
        frame = imagecodecs.jpeg8_encode(small) if "jpeg" in kind else None
        syntax = uid.JPEGBaseline8Bit if frame else uid.ExplicitVRLittleEndian
        whole = save(name, dataset(small, syntax, frame=frame)).read_bytes()
        place = whole.index(b"\xe0\x7f\x10\0")
        head, rest = whole[:place], whole[place:]
        if kind == "private attribute":
            gap = b"\x29\0\x10\x10OB\0\0" + struct.pack("<I", LONG)
        elif kind == "trailing attribute":
            head, gap, rest = whole, b"\xfc\xff\xfc\xffOB\0\0" + struct.pack("<I", LONG), b""
        elif kind == "long pixels":
            head, rest = head + rest[:8] + struct.pack("<I", LONG), b""
        elif kind == "long jpeg":
            frame_at = whole.index(b"\xff\xd8")
            head = whole[: frame_at - 4] + struct.pack("<I", LONG + len(whole) - frame_at - 8) + whole[frame_at:-8]
            rest = whole[-8:]
        elif kind == "zeros behind":
            head, rest = whole, b""
        else:
            rest = b""
    with open(name, "wb") as file:
        file.write(head + gap)
        file.truncate(file.tell() + LONG)  # takes no room on the disk
        file.seek(0, io.SEEK_END)
        file.write(rest)
    return name


DICOM_KINDS = (
    *("zeros behind", "zeros in the header", "private attribute", "trailing attribute", "long pixels", "long jpeg"),
)


@pytest.mark.parametrize("kind", [*DICOM_KINDS, "JPEG2000", "WEBP"])
def test_a_small_picture_in_a_long_file_is_refused_before_that_is_read(tmp_path, monkeypatch, kind):
    """Reading the whole file would take a device's memory, or minutes."""
    monkeypatch.setattr("medistill.images.limits.MAX_BYTES", 20_000_000)
    path = longer(kind, tmp_path)
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(ImageError) as caught:
        read(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    times = {"long jpeg": 3, "JPEG2000": 2, "WEBP": 2}.get(kind, 1)
    assert caught.value.reason == f"32x24 pixels take {times * LONG / 1e9:.2f} GB to decode; the limit is 0.02 GB"
    assert most < 20_000_000
    assert time.process_time() - started < 5


def test_zero_bytes_are_not_read_as_attributes(tmp_path, monkeypatch):
    """Zeros after the pixels are ignored; zeros before them, as from a lost page of a disk, hide the picture."""
    monkeypatch.setattr("tests.unit.images.test_image_memory.LONG", 100_000)
    exact = np.asarray(read(save(tmp_path / "whole", dataset(GREY[:24, :32]))))
    assert np.array_equal(np.asarray(read(longer("zeros behind", tmp_path))), exact)
    assert np.array_equal(np.asarray(read(longer("private attribute", tmp_path))), exact)
    assert np.array_equal(np.asarray(read(longer("trailing attribute", tmp_path))), exact)
    with pytest.raises(ImageError, match="DICOM is truncated"):
        read(longer("zeros in the header", tmp_path))


def test_a_file_for_which_there_is_no_memory_is_named(tmp_path):
    """On a device with less than `MAX_BYTES` it is one line, and the process goes on."""
    (tmp_path / "large.png").write_bytes(png(np.zeros((9_000, 1), np.uint8), 8, 6, width=9_000))
    code = """
import resource, sys
from medistill.images.decode import read
from medistill.images.errors import ImageError
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000,) * 2)
try:
    read(sys.argv[1])
except ImageError as error:
    print(error.reason)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "large.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "there is not enough memory to decode it\n"


def test_a_hundred_million_greys_and_colours_are_within_the_limit():
    require_size(10_000, MAX_PIXELS // 10_000, MAX_BYTES)
    with pytest.raises(Exception, match="10001x10000 pixels exceeds the limit of 100 million pixels"):
        require_size(10_001, 10_000, 0)
    with pytest.raises(Exception, match=r"1x1 pixels take 1\.10 GB to decode; the limit is 1 GB"):
        require_size(1, 1, 1.1 * MAX_BYTES)


def test_strips_change_no_pixel(tmp_path):
    """A picture of several strips, against the same arithmetic on the whole picture."""
    values = DEEP.astype(np.int32) * 7 - 5000
    Image.fromarray(values).save(tmp_path / "deep.tif")
    low, high = float(values.min()), float(values.max())
    exact = np.rint((values - low) * (255 / (high - low))).astype(np.uint8)
    assert np.array_equal(np.asarray(read(tmp_path / "deep.tif")), exact)
    Image.fromarray(LAYERS).save(tmp_path / "alpha.png", compress_level=1)
    black = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 255))
    exact = np.asarray(Image.alpha_composite(black, Image.fromarray(LAYERS)).convert("RGB"))
    assert np.array_equal(np.asarray(read(tmp_path / "alpha.png")), exact)
    save(tmp_path / "deep.dcm", dataset(DEEP, bits=12))
    exact = np.rint((DEEP - float(DEEP.min())) / np.ptp(DEEP.astype(float)) * 255)
    assert np.array_equal(np.asarray(read(tmp_path / "deep.dcm")), exact)
    assert decode(tmp_path / "deep.dcm", size=64, channels=1, fit="pad").shape == (1, 64, 64)
