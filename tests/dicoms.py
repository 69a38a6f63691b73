"""DICOM files of known pixels for tests, and the formulas of PS3.3 C.11 for showing greys."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from medistill.images.decode import read
from medistill.images.errors import ImageError

EIGHT = np.add.outer(np.arange(24) * 6, np.arange(32) * 3).astype(np.uint8)  # 0..231, 24 rows of 32
TWELVE = EIGHT.astype(np.uint16) * 16 + 100  # 100..3796
COLOUR = np.stack([EIGHT, EIGHT[::-1], 255 - EIGHT], axis=-1)


def dataset(pixels, syntax=uid.ExplicitVRLittleEndian, *, frame=None, bits=None, photometric=None, **attributes):
    """A secondary capture of `pixels`, (H, W) or (H, W, 3); if it is compressed it holds the bytes `frame`."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = uid.SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3"
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    made.PhotometricInterpretation = photometric or ("MONOCHROME2" if pixels.ndim == 2 else "RGB")
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated = pixels.itemsize * 8
    made.BitsStored = bits or made.BitsAllocated
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in attributes.items():
        setattr(made, name, value)
    if frame is None:
        order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
        made.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
        made["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
    else:
        made.PixelData = encapsulate([frame])
        made["PixelData"].VR = "OB"
    return made


def save(path, made):
    made.save_as(path, enforce_file_format=True)
    return path


JPEG_XL = {kind: f"1.2.840.10008.1.2.4.{kind}" for kind in (110, 111, 112)}


def save_jpeg_xl(path, kind, pixels, frame, **attributes):
    """Save a file in a transfer syntax that pydicom does not know: its identifier replaces one of the same length."""
    save(path, dataset(pixels, uid.HTJ2KLossless, frame=frame, **attributes))
    content = path.read_bytes()
    assert content.count(uid.HTJ2KLossless.encode()) == 1
    path.write_bytes(content.replace(uid.HTJ2KLossless.encode(), JPEG_XL[kind].encode()))
    return path


def greys(path, pixels, *arguments, **attributes):
    """What `read` makes of a file with these pixels, as float64 (H, W)."""
    image = read(save(path, dataset(pixels, *arguments, **attributes)))
    assert image.mode == "L"
    return np.asarray(image).astype(float)


def stored_range(values):
    return np.rint((values - values.min()) / np.ptp(values.astype(float)) * 255)


def linear(x, c, w, *, low=0, high=255):
    """PS3.3 C.11.2.1.2.1, to the letter, pixel by pixel."""
    y = np.empty(x.shape)
    for i, value in np.ndenumerate(x):
        if value <= c - 0.5 - (w - 1) / 2:
            y[i] = low
        elif value > c - 0.5 + (w - 1) / 2:
            y[i] = high
        else:
            y[i] = ((value - (c - 0.5)) / (w - 1) + 0.5) * (high - low) + low
    return y


def linear_exact(x, c, w):
    """PS3.3 C.11.2.1.3.2."""
    between = ((x - c) / w + 0.5) * 255
    return np.where(x <= c - w / 2, 0, np.where(x > c + w / 2, 255, between))


def sigmoid(x, c, w):
    """PS3.3 C.11.2.1.3.1."""
    with np.errstate(over="ignore"):
        return 255 / (1 + np.exp(-4 * (x - c) / w))


def lut(entries, first, bits, *, vr="US"):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", vr, entries if vr == "US" else np.asarray(entries).tobytes())
    return [item]


def colours(path, made):
    image = read(save(path, made))
    assert image.mode == "RGB"
    return np.asarray(image).astype(float)


def to_ybr(rgb):
    """PS3.3 C.7.6.3.1.2."""
    matrix = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    return np.clip(np.rint(rgb @ matrix.T + [0, 128, 128]), 0, 255).astype(np.uint8)


def lossless_jpeg(pixels, precision, selection=1):
    """A JPEG Lossless stream (ITU-T T.81 annex H) of integers (H, W) or (H, W, 3); its 17 Huffman codes have 5 bits."""
    x = pixels.astype(int).reshape(*pixels.shape[:2], -1)
    a, b, c = (
        np.pad(x, ((1, 0), (1, 0), (0, 0)))[slices] for slices in (np.s_[1:, :-1], np.s_[:-1, 1:], np.s_[:-1, :-1])
    )
    predicted = {1: a, 2: b, 4: a + b - c, 7: (a + b) >> 1}[selection].copy()
    predicted[:, 0], predicted[0] = b[:, 0], a[0]
    predicted[0, 0] = 1 << (precision - 1)
    bits = []
    for difference in ((x - predicted + 32768) % 65536 - 32768).ravel().tolist():
        length = abs(difference).bit_length()
        bits.append(f"{length:05b}")
        if 0 < length < 16:
            bits.append(f"{difference if difference > 0 else difference + (1 << length) - 1:0{length}b}")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    scan = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")

    def segment(marker, body):
        return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body

    ids = range(1, x.shape[2] + 1)
    size = struct.pack(">BHHB", precision, *x.shape)
    start = segment(0xC3, size + bytes(byte for i in ids for byte in (i, 0x11, 0)))
    table = segment(0xC4, bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)]))
    scan_header = segment(0xDA, bytes([len(ids), *(byte for i in ids for byte in (i, 0)), selection, 0, 0]))
    return b"\xff\xd8" + start + table + scan_header + scan + b"\xff\xd9"


def run_lengths(pixels):
    """A frame of PS3.5 annex G: a segment for each byte of a word, the highest first, without a repetition."""
    segments = []
    for byte in reversed(range(pixels.itemsize)):
        plane = pixels.astype(pixels.dtype.newbyteorder("<")).view(np.uint8).reshape(*pixels.shape, -1)[..., byte]
        literal = b"".join(bytes([len(row) - 1]) + row.tobytes() for row in plane)
        segments.append(literal + b"\0" * (len(literal) % 2))
    offsets = 64 + np.cumsum([0, *map(len, segments)])[:-1]
    header = np.zeros(16, "<u4")
    header[0], header[1 : len(segments) + 1] = len(segments), offsets
    return header.tobytes() + b"".join(segments)


def pillow(image, kind, **options):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


def high_throughput(pixels, **options):
    return imagecodecs.htj2k_encode(pixels, reversible=True, **options)


def by_planes(pixels, encode, start):
    """One stream with three scans, made of three streams of one component; `start`: marker of its frame header."""
    tables, scans = b"", []
    for channel in range(3):
        alone = encode(np.ascontiguousarray(pixels[..., channel]))
        scan = alone.index(b"\xff\xda")
        scans.append(alone[scan : scan + 5] + bytes([channel + 1]) + alone[scan + 6 : -2])
        if b"\xff\xc4" in alone[:scan]:
            tables = alone[alone.index(b"\xff\xc4") : scan]  # the same for all components
    size = struct.pack(">BHHB", 8, *pixels.shape)
    frame = b"\xff" + bytes([start]) + struct.pack(">H", 17) + size + b"".join(bytes([i, 0x11, 0]) for i in (1, 2, 3))
    return b"\xff\xd8" + frame + tables + b"".join(scans) + b"\xff\xd9"


def jpeg_ls_by_planes(pixels):
    """JPEG-LS in interleave mode 0 (T.87)."""
    return by_planes(pixels, imagecodecs.jpegls_encode, 0xF7)


def lossless_jpeg_by_planes(pixels):
    return by_planes(pixels, lambda plane: lossless_jpeg(plane, 8), 0xC3)


def small_files():
    """A small file of every encoding."""
    small, deep = EIGHT[:8, :8], TWELVE[:8, :8]
    run_lengths = dataset(deep)
    run_lengths.compress(uid.RLELossless)
    return {
        "plain": dataset(deep, bits=12, WindowCenter=1000, WindowWidth=900),
        "implicit": dataset(small, uid.ImplicitVRLittleEndian),
        "run lengths": run_lengths,
        "jpeg": dataset(small, uid.JPEGBaseline8Bit, frame=pillow(small, "JPEG")),
        "jpeg lossless": dataset(deep, uid.JPEGLosslessSV1, frame=lossless_jpeg(deep, 12), bits=12),
        "jpeg 2000": dataset(deep, uid.JPEG2000Lossless, frame=pillow(deep, "JPEG2000", no_jp2=True)),
    }


def refusal(path, made):
    """The reason why a file is not read; `made` is a dataset or the file's bytes."""
    if isinstance(made, bytes):
        path.write_bytes(made)
    else:
        save(path, made)
    with pytest.raises(ImageError) as caught:
        read(path)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert caught.value.reason.isprintable()
    return caught.value.reason
