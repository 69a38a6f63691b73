"""`medistill.images` on DICOM: greys against the formulas of PS3.3 C.11, every encoding, and files that are damaged.

The expected greys are worked out here in numpy from the standard's text, not by pydicom's helpers.
"""

import io
import logging
import pickle
import struct
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from medistill.images import ImageError, decode, read

EIGHT = np.add.outer(np.arange(24) * 6, np.arange(32) * 3).astype(np.uint8)  # 0..231, 24 rows of 32
TWELVE = EIGHT.astype(np.uint16) * 16 + 100  # 100..3796
COLOUR = np.stack([EIGHT, EIGHT[::-1], 255 - EIGHT], axis=-1)


def dataset(pixels, syntax=uid.ExplicitVRLittleEndian, *, frame=None, bits=None, photometric=None, **attributes):
    """A secondary capture of `pixels`, (H, W) or (H, W, 3); a compressed one holds the bytes `frame`."""
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


def greys(path, pixels, *arguments, **attributes):
    """What `read` makes of a file with these pixels, as float64 (H, W)."""
    image = read(save(path, dataset(pixels, *arguments, **attributes)))
    assert image.mode == "L"
    return np.asarray(image).astype(float)


def stored_range(values):
    return np.rint((values - values.min()) / np.ptp(values.astype(float)) * 255)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "image.dcm"


# Greys


@pytest.mark.parametrize(
    "syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian], ids=lambda s: s.name
)
@pytest.mark.parametrize(
    ("pixels", "bits"),
    [(EIGHT, 8), (TWELVE, 12), (TWELVE * 17, 16), (TWELVE.astype(np.int16) - 2000, 12), (EIGHT[:23, :31], 8)],
    ids=["8", "12", "16", "signed", "odd length"],
)
def test_without_a_window_the_stored_range_is_shown(path, syntax, pixels, bits):
    assert np.array_equal(greys(path, pixels, syntax, bits=bits), stored_range(pixels))


def linear(x, c, w, *, low=0, high=255):
    """PS3.3 C.11.2.1.2.1, word for word, a pixel at a time."""
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


@pytest.mark.parametrize(
    ("function", "formula"),
    [(None, linear), ("LINEAR", linear), ("LINEAR_EXACT", linear_exact), ("SIGMOID", sigmoid)],
)
@pytest.mark.parametrize(("center", "width"), [(2000, 1000), (300.5, 77.25), (2048, 4096), (-50, 400), (2000, 2)])
def test_the_window_is_the_standards(path, function, formula, center, width):
    attributes = {"VOILUTFunction": function} if function else {}
    shown = greys(path, TWELVE, bits=12, WindowCenter=center, WindowWidth=width, **attributes)
    exact = formula(TWELVE.astype(float), center, width)
    assert np.abs(shown - exact).max() <= 0.5 + 1e-9


def test_a_window_as_narrow_as_one_is_a_threshold(path):
    edge = int(TWELVE[12, 16])  # a value that occurs: the threshold itself is black
    shown = greys(path, TWELVE, bits=12, WindowCenter=edge + 0.5, WindowWidth=1)
    assert np.array_equal(shown, np.where(edge < TWELVE, 255, 0))
    assert np.array_equal(shown, linear(TWELVE.astype(float), edge + 0.5, 1))


def test_of_several_windows_the_first_is_shown(path):
    shown = greys(path, TWELVE, bits=12, WindowCenter=[1000, 3000], WindowWidth=[800, 20])
    assert np.abs(shown - linear(TWELVE.astype(float), 1000, 800)).max() <= 0.5 + 1e-9


def test_half_a_window_or_an_empty_one_is_none(path):
    for attributes in ({"WindowCenter": 2000}, {"WindowCenter": None, "WindowWidth": None}):
        assert np.array_equal(greys(path, TWELVE, bits=12, **attributes), stored_range(TWELVE))


def test_monochrome1_is_inverted_after_the_window(path):
    window = {"bits": 12, "WindowCenter": 1000, "WindowWidth": 800}
    inverse = greys(path, TWELVE, photometric="MONOCHROME1", **window)
    assert np.abs(inverse - (255 - linear(TWELVE.astype(float), 1000, 800))).max() <= 0.5 + 1e-9
    # Inverted before, the window would lie elsewhere, and nearly all would be white or black
    before = linear(4095.0 - TWELVE, 1000, 800)
    assert np.abs(inverse - before).mean() > 50


def test_monochrome1_without_a_window_is_the_negative_of_its_range(path):
    shown = greys(path, TWELVE, bits=12, photometric="MONOCHROME1")
    exact = 255 - (TWELVE - 100.0) / (TWELVE.max() - 100.0) * 255
    assert np.abs(shown - exact).max() <= 0.5 + 1e-9


def test_rescaling_comes_before_the_window(path):
    shown = greys(path, TWELVE, bits=12, RescaleSlope=0.5, RescaleIntercept=-1000, WindowCenter=-40, WindowWidth=400)
    assert np.abs(shown - linear(TWELVE * 0.5 - 1000, -40, 400)).max() <= 0.5 + 1e-9


def test_a_negative_slope_turns_the_stored_range(path):
    shown = greys(path, TWELVE, bits=12, RescaleSlope=-2, RescaleIntercept=7)
    assert np.abs(shown - (255 - stored_range(TWELVE))).max() <= 1


def lut(entries, first, bits, *, vr="US"):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries) % 65536, first, bits])
    item.add_new("LUTData", vr, entries if vr == "US" else np.asarray(entries).tobytes())
    return [item]


CURVE = np.rint(4095 * (np.arange(3000) / 2999) ** 2).astype(np.uint16)  # for values 500 to 3499


@pytest.mark.parametrize("kind", ["US", "OW", "OW big endian", "8 bits", "8 bits packed"])
def test_a_voi_lut_goes_before_the_window(path, kind):
    entries, bits, syntax = CURVE, 12, uid.ExplicitVRLittleEndian
    if kind == "OW big endian":
        entries, syntax = CURVE.astype(">u2"), uid.ExplicitVRBigEndian
    elif kind.startswith("8 bits"):
        entries, bits = (CURVE // 16).astype(np.uint8 if "packed" in kind else np.uint16), 8
    table = lut(entries.tolist() if kind == "US" else entries, 500, bits, vr="US" if kind == "US" else "OW")
    shown = greys(path, TWELVE, syntax, bits=12, VOILUTSequence=table, WindowCenter=1, WindowWidth=1)
    exact = np.empty(TWELVE.shape)
    for i, value in np.ndenumerate(TWELVE):  # PS3.3 C.11.1.1.1: outside, the first or the last entry
        exact[i] = entries[min(max(int(value) - 500, 0), 2999)]
    assert np.abs(shown - exact / (2**bits - 1) * 255).max() <= 0.5 + 1e-9


def test_a_modality_lut_comes_before_the_window(path):
    table = lut(CURVE.tolist(), 500, 12)
    shown = greys(path, TWELVE, bits=12, ModalityLUTSequence=table, WindowCenter=2000, WindowWidth=3000)
    values = CURVE[np.clip(TWELVE.astype(int) - 500, 0, 2999)].astype(float)
    assert np.abs(shown - linear(values, 2000, 3000)).max() <= 0.5 + 1e-9


def test_a_table_that_is_cut_short_is_refused(path):
    table = lut(CURVE.tolist(), 500, 12)
    table[0].LUTData = CURVE[:100].tolist()
    assert refusal(path, dataset(TWELVE, bits=12, VOILUTSequence=table)) == (
        "cannot be decoded: a look-up table has 100 of its 3000 entries"
    )


@pytest.mark.parametrize(
    ("photometric", "padding", "limit"),
    [("MONOCHROME2", -2000, None), ("MONOCHROME2", -2000, -1900), ("MONOCHROME1", 2047, None)],
)
def test_padding_is_black_and_not_part_of_the_range(path, photometric, padding, limit):
    pixels = TWELVE.astype(np.int16) - 1900  # -1800..1896
    padded = np.zeros(pixels.shape, bool)
    padded[:, :5] = True
    exact = (pixels[~padded] - pixels[~padded].min()) / np.ptp(pixels[~padded].astype(float)) * 255
    pixels[padded] = padding
    attributes = {"PixelPaddingValue": padding}
    if limit is not None:  # all values between the two are padding
        pixels[:4, :5] = (padding + limit) // 2
        attributes["PixelPaddingRangeLimit"] = limit
    shown = greys(path, pixels, bits=12, photometric=photometric, **attributes)
    assert np.abs(shown[~padded] - (exact if photometric == "MONOCHROME2" else 255 - exact)).max() <= 0.5 + 1e-9
    assert not shown[padded].any()


@pytest.mark.parametrize("attributes", [{}, {"PixelPaddingValue": 700}])
def test_a_constant_picture_is_black(path, attributes):
    assert not greys(path, np.full((8, 8), 700, np.uint16), bits=12, **attributes).any()


def test_one_bit_is_black_and_white(path):
    bits = EIGHT > 100
    made = dataset(EIGHT, BitsAllocated=1, BitsStored=1, HighBit=0)
    made.PixelData = np.packbits(bits, bitorder="little").tobytes()
    assert np.array_equal(np.asarray(read(save(path, made))), np.where(bits, 255, 0))


def test_size_and_aspect_are_those_stored(path):
    made = dataset(EIGHT, PixelAspectRatio=[2, 1], PixelSpacing=[0.2, 0.1], PatientOrientation=["R", "H"])
    assert np.array_equal(np.asarray(read(save(path, made))), stored_range(EIGHT))
    frame = decode(path, size=32, channels=1, fit="pad")
    assert frame.shape == (1, 32, 32)
    assert np.array_equal(frame[0, 4:28], stored_range(EIGHT))


# Colours


def colours(path, made):
    image = read(save(path, made))
    assert image.mode == "RGB"
    return np.asarray(image).astype(float)


@pytest.mark.parametrize("planar", [0, 1])
def test_rgb_by_pixel_and_by_plane(path, planar):
    made = dataset(COLOUR, PlanarConfiguration=planar)
    made.PixelData = (COLOUR if planar == 0 else COLOUR.transpose(2, 0, 1)).tobytes()
    assert np.array_equal(colours(path, made), COLOUR)


def to_ybr(rgb):
    """PS3.3 C.7.6.3.1.2."""
    matrix = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    return np.clip(np.rint(rgb @ matrix.T + [0, 128, 128]), 0, 255).astype(np.uint8)


def test_ybr_full_becomes_rgb(path):
    assert np.abs(colours(path, dataset(to_ybr(COLOUR), photometric="YBR_FULL")) - COLOUR).max() <= 2


def test_ybr_full_422_becomes_rgb(path):
    pairs = np.repeat(COLOUR[:, ::2], 2, axis=1)  # two neighbours share their colour, so that nothing is lost
    ybr = to_ybr(pairs)
    made = dataset(pairs, photometric="YBR_FULL_422")
    made.PixelData = np.stack([ybr[:, ::2, 0], ybr[:, 1::2, 0], ybr[:, ::2, 1], ybr[:, ::2, 2]], axis=-1).tobytes()
    assert np.abs(colours(path, made) - pairs).max() <= 2


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_becomes_rgb(path, bits):
    made = dataset(EIGHT, photometric="PALETTE COLOR")
    table = np.stack([np.arange(256), 255 - np.arange(256), (np.arange(256) * 7) % 256], axis=-1)
    for channel, name in enumerate(("Red", "Green", "Blue")):
        entries = table[:, channel] << (bits - 8)
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [256, 0, bits])
        packed = entries.astype(np.uint8 if bits == 8 else "<u2").tobytes()
        setattr(made, f"{name}PaletteColorLookupTableData", packed)
    assert np.array_equal(colours(path, made), table[EIGHT])


# Compressed pixels


def lossless_jpeg(pixels, precision, selection=1):
    """A JPEG Lossless stream (ITU-T T.81 annex H) of integers (H, W) or (H, W, 3), all 17 Huffman codes of 5 bits."""
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


def pillow(image, kind, **options):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


NOISE = np.random.default_rng(0).integers(0, 65536, (24, 32)).astype(np.uint16)


@pytest.mark.parametrize("syntax", [uid.JPEGLossless, uid.JPEGLosslessSV1], ids=["process 14", "SV1"])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("noisy", [False, True])
def test_jpeg_lossless_loses_nothing(path, syntax, bits, noisy):
    pixels = (NOISE >> (16 - bits) if noisy else TWELVE >> (12 - bits) if bits < 12 else TWELVE).astype(
        np.uint8 if bits == 8 else np.uint16
    )
    shown = greys(path, pixels, syntax, frame=lossless_jpeg(pixels, bits), bits=bits)
    assert np.array_equal(shown, stored_range(pixels))


@pytest.mark.parametrize("selection", [2, 4, 7])
def test_jpeg_lossless_by_other_predictors(path, selection):
    frame = lossless_jpeg(TWELVE, 12, selection)
    assert np.array_equal(greys(path, TWELVE, uid.JPEGLossless, frame=frame, bits=12), stored_range(TWELVE))


def test_jpeg_lossless_of_signed_values(path):
    pixels = TWELVE.astype(np.int16) - 2000
    frame = lossless_jpeg(pixels & 0xFFF, 12)  # two's complement in the 12 bits stored
    shown = greys(path, pixels, uid.JPEGLosslessSV1, frame=frame, bits=12, WindowCenter=0, WindowWidth=3000)
    assert np.abs(shown - linear(pixels.astype(float), 0, 3000)).max() <= 0.5 + 1e-9


def test_jpeg_lossless_of_colours(path):
    assert np.array_equal(colours(path, dataset(COLOUR, uid.JPEGLosslessSV1, frame=lossless_jpeg(COLOUR, 8))), COLOUR)
    ybr = to_ybr(COLOUR)
    made = dataset(ybr, uid.JPEGLosslessSV1, frame=lossless_jpeg(ybr, 8), photometric="YBR_FULL")
    made.PlanarConfiguration = 1  # has no meaning for a compressed frame
    assert np.abs(colours(path, made) - COLOUR).max() <= 2


def test_jpeg_ls_by_the_standards_own_example(path):
    """ITU-T T.87 annex H.3: an image of 4 x 4 and its stream."""
    stream = (
        "ffd8fff7000b080004000401011100ffda0008010100000000c000006c80208e01c00000574000006ee6000001bc18000005d80000"
    )
    stream = bytes.fromhex(stream + "9160ffd9")
    pixels = np.array([[0, 0, 90, 74], [68, 50, 43, 205], [64, 145, 145, 145], [100, 145, 145, 145]], np.uint8)
    assert np.array_equal(greys(path, pixels, uid.JPEGLSLossless, frame=stream), stored_range(pixels))


@pytest.mark.parametrize(("pixels", "bits"), [(EIGHT, 8), (TWELVE, 12)])
def test_jpeg_2000_loses_nothing(path, pixels, bits):
    frame = pillow(pixels, "JPEG2000", no_jp2=True)
    if bits == 12:  # Pillow writes 16 bits; the precision is that of the stream
        bits = 16
    shown = greys(path, pixels, uid.JPEG2000Lossless, frame=frame, bits=bits)
    assert np.array_equal(shown, stored_range(pixels))


def test_jpeg_2000_in_colour(path):
    frame = pillow(COLOUR, "JPEG2000", no_jp2=True, mct=1)
    for photometric in ("RGB", "YBR_RCT"):
        made = dataset(COLOUR, uid.JPEG2000Lossless, frame=frame, photometric=photometric)
        assert np.array_equal(colours(path, made), COLOUR)


def test_jpeg_baseline_is_what_pillow_reads(path):
    frame = pillow(EIGHT, "JPEG", quality=90)
    stored = np.asarray(Image.open(io.BytesIO(frame)))
    assert np.array_equal(greys(path, EIGHT, uid.JPEGBaseline8Bit, frame=frame), stored_range(stored))


@pytest.mark.parametrize(("photometric", "subsampling"), [("YBR_FULL_422", 1), ("YBR_FULL_422", 0)])
def test_jpeg_baseline_in_colour(path, photometric, subsampling):
    frame = pillow(COLOUR, "JPEG", quality=95, subsampling=subsampling)
    stored = np.asarray(Image.open(io.BytesIO(frame))).astype(float)
    made = dataset(COLOUR, uid.JPEGBaseline8Bit, frame=frame, photometric=photometric)
    assert np.abs(colours(path, made) - stored).max() <= 2


@pytest.mark.parametrize("pixels", [EIGHT, TWELVE, COLOUR], ids=["8", "12", "colour"])
def test_run_lengths_lose_nothing(path, pixels):
    made = dataset(pixels)
    made.compress(uid.RLELossless)
    shown = np.asarray(read(save(path, made)))
    assert np.array_equal(shown, COLOUR if pixels.ndim == 3 else stored_range(pixels))


# What is not read


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


def test_the_content_counts_and_not_the_name(tmp_path):
    made = dataset(EIGHT)
    assert np.array_equal(np.asarray(read(save(tmp_path / "misnamed.png", made))), stored_range(EIGHT))
    Image.fromarray(EIGHT).save(tmp_path / "picture.png")
    (tmp_path / "picture.png").rename(tmp_path / "picture.dcm")
    assert np.array_equal(np.asarray(read(tmp_path / "picture.dcm")), EIGHT)


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>404 not found</html>", b"\0" * 131, b"\0" * 500])
def test_other_files_are_no_dicom(path, content):
    assert refusal(path, content) == "not an image, or in a format that is not read"


def test_dicom_without_its_preamble_is_named(path):
    save(path, dataset(EIGHT))
    content, reason = path.read_bytes(), "a DICOM file without its preamble, which is not read"
    assert refusal(path, content[128:]) == reason
    assert refusal(path, content[132:]) == reason  # from the group 0002 on
    assert refusal(path, b"\x08\0\x05\0\x0a\0\0\0ISO_IR 100" + bytes(200)) == reason  # 0008, implicit VR
    assert refusal(path, content[100:]) == "not an image, or in a format that is not read"
    assert refusal(path, b"\x08\0\x05\0\x0a\0\0\x99" + bytes(200)) == "not an image, or in a format that is not read"


def without(made, name):
    delattr(made, name)
    return made


def report():
    """A structured report: no image at all."""
    made = dataset(EIGHT)
    for name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel", "PixelData"):
        delattr(made, name)
    return made


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda: report(), "DICOM without an image"),
        (lambda: without(dataset(EIGHT), "PixelData"), "DICOM is truncated"),
        (lambda: without(dataset(EIGHT), "Rows"), "DICOM without Rows"),
        (lambda: without(dataset(EIGHT), "Columns"), "DICOM without Columns"),
        (lambda: without(dataset(EIGHT), "BitsStored"), "DICOM without BitsStored"),
        (lambda: dataset(EIGHT, Rows=0), "DICOM without Rows"),
        (lambda: dataset(EIGHT, NumberOfFrames=3), "DICOM with 3 frames; only single ones are read"),
        (
            lambda: dataset(EIGHT, Rows=50_000, Columns=50_000),
            "50000x50000 pixels exceeds the limit of 100 million pixels",
        ),
        (
            lambda: dataset(EIGHT, uid.MPEG2MPML, frame=b"\0" * 64),
            "DICOM transfer syntax MPEG2 Main Profile / Main Level is not read",
        ),
        (
            lambda: dataset(EIGHT, uid.DeflatedExplicitVRLittleEndian),
            "DICOM transfer syntax Deflated Explicit VR Little Endian is not read",
        ),
        (
            lambda: dataset(EIGHT, photometric="HSV"),
            "DICOM photometric interpretation HSV with 1 samples a pixel is not read",
        ),
        (
            lambda: dataset(COLOUR, photometric="MONOCHROME2"),
            "DICOM photometric interpretation MONOCHROME2 with 3 samples a pixel is not read",
        ),
        (lambda: dataset(EIGHT.astype(np.uint32)), "DICOM with 32 bits a sample; at most 16 are read"),
        (lambda: dataset(COLOUR.astype(np.uint16)), "DICOM with 16 bits a sample; at most 8 are read"),
        (
            lambda: dataset(TWELVE, WindowCenter=2000, WindowWidth=0),
            "DICOM with a window width of 0 for the VOI LUT function LINEAR",
        ),
        (
            lambda: dataset(TWELVE, WindowCenter=2000, WindowWidth=0, VOILUTFunction="SIGMOID"),
            "DICOM with a window width of 0 for the VOI LUT function SIGMOID",
        ),
        (
            lambda: dataset(TWELVE, WindowCenter=2000, WindowWidth=-5, VOILUTFunction="LINEAR_EXACT"),
            "DICOM with a window width of -5 for the VOI LUT function LINEAR_EXACT",
        ),
        (
            lambda: dataset(TWELVE, WindowCenter=2000, WindowWidth=100, VOILUTFunction="CUBIC"),
            "DICOM with a window width of 100 for the VOI LUT function CUBIC",
        ),
    ],
)
def test_a_file_that_is_not_read_says_why(path, made, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of writing what nobody should write
        made = made()
        save(path, made)
    assert refusal(path, path.read_bytes()) == reason


@pytest.mark.parametrize(
    "attributes", [{"RescaleSlope": "nan"}, {"RescaleIntercept": "inf"}, {"WindowCenter": "nan", "WindowWidth": 5}]
)
@pytest.mark.filterwarnings("ignore:Invalid value")
def test_attributes_that_are_no_numbers_are_refused(path, attributes):
    reason = refusal(path, dataset(TWELVE, **attributes))
    assert reason == "cannot be decoded: the rescale slope, intercept or window is not a number"


def files():
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


COMPRESSED = ("run lengths", "jpeg", "jpeg lossless", "jpeg 2000")


@pytest.mark.parametrize("kind", files())
def test_wherever_it_is_cut_off_it_is_refused(path, kind):
    save(path, files()[kind])
    read(path)
    whole = path.read_bytes()
    pixels = whole.rindex(struct.pack("<HH", 0x7FE0, 0x0010))
    end = len(whole) - (8 if kind in COMPRESSED else 0)  # what follows delimits the frames, of which there is one
    reasons = {length: refusal(path, whole[:length]) for length in range(132, end, 5)}
    assert reasons[pixels - pixels % 5 - 3] == "DICOM is truncated"  # between two attributes of the header, or in one
    if kind in COMPRESSED:
        assert {reason for length, reason in reasons.items() if length > pixels + 12} == {"DICOM is truncated"}
    else:
        assert reasons[max(reasons)].startswith("cannot be decoded: The number of bytes of pixel data is less than")


@pytest.mark.parametrize("kind", ["jpeg", "jpeg lossless", "jpeg 2000"])
def test_a_frame_that_is_cut_off_inside_a_whole_file_is_refused(path, kind):
    made = files()[kind]
    frame = {
        "jpeg": pillow(EIGHT[:8, :8], "JPEG"),
        "jpeg lossless": lossless_jpeg(TWELVE[:8, :8], 12),
        "jpeg 2000": pillow(TWELVE[:8, :8], "JPEG2000", no_jp2=True),
    }[kind]
    for length in {*range(2, len(frame), 7), *range(len(frame) - 4, len(frame))}:
        made.PixelData = encapsulate([frame[:length]])
        assert refusal(path, made) == "DICOM is truncated"


def test_a_frame_larger_than_the_file_says_is_refused_before_it_is_decoded(path):
    stream = bytearray(lossless_jpeg(EIGHT, 8))
    stream[7:11] = struct.pack(">HH", 65_000, 65_000)  # 4 GiB of pixels
    reason = refusal(path, dataset(EIGHT, uid.JPEGLosslessSV1, frame=bytes(stream)))
    assert reason.startswith("cannot be decoded: invalid out.shape=(24, 32)")


@pytest.mark.parametrize("kind", files())
@pytest.mark.filterwarnings("error")
def test_damage_ends_in_an_image_or_in_one_line(path, kind, capfd, caplog):
    """Of 120 files with a few changed bytes: no crash of the process, no other exception, no word on stderr."""
    save(path, files()[kind])
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    reasons = []
    with caplog.at_level(logging.DEBUG):
        for _ in range(120):
            damaged = bytearray(whole)
            for place in random.integers(132, len(whole), random.integers(1, 6)):
                damaged[place] = random.integers(0, 256)
            path.write_bytes(damaged)
            try:
                read(path)
            except ImageError as error:
                reasons.append(error.reason)
    assert len(reasons) > 10
    assert all(reason.isprintable() and len(reason) < 220 and " at 0x" not in reason for reason in reasons)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("error")
def test_oddities_are_not_told(path, capfd, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = dataset(EIGHT, PatientAge="sixty-two", StudyDate="yesterday")
        made.PixelData += b"\0" * 10  # more than the picture needs
        save(path, made)
    caplog.clear()
    with caplog.at_level(logging.DEBUG):
        assert np.array_equal(np.asarray(read(path)), stored_range(EIGHT))
    assert not caplog.records
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("pydicom").propagate


def test_errors_travel_between_processes(path):
    with pytest.raises(ImageError) as caught:
        read(save(path, dataset(EIGHT, NumberOfFrames=2)))
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.path, error.reason) == (path, "DICOM with 2 frames; only single ones are read")


@pytest.mark.parametrize("module", ["pydicom", "imagecodecs"])
def test_without_the_extra_it_says_what_to_install(path, module, monkeypatch):
    made = dataset(EIGHT, uid.JPEGLosslessSV1, frame=lossless_jpeg(EIGHT, 8))
    monkeypatch.setitem(sys.modules, module, None)  # what Python itself puts there for a module it must not find
    assert refusal(path, made) == 'DICOM needs more packages: pip install "medistill[dicom]"'


def test_pictures_need_nothing_of_the_extra(tmp_path):
    Image.fromarray(EIGHT).save(tmp_path / "picture.png")
    code = "import sys; from medistill.images import read; read(sys.argv[1]); print(*sys.modules)"
    command = [sys.executable, "-c", code, tmp_path / "picture.png"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "PIL.PngImagePlugin" in loaded
    assert not {"pydicom", "imagecodecs"} & set(loaded)
