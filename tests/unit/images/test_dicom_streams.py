"""`medistill.images` on compressed DICOM files: every codec, bits and colours of its streams, boxes and tiles."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom import uid

from medistill.images.decode import read
from tests.dicoms import (
    COLOUR,
    EIGHT,
    TWELVE,
    colours,
    dataset,
    greys,
    high_throughput,
    jpeg_ls_by_planes,
    linear,
    lossless_jpeg,
    pillow,
    refusal,
    save,
    save_jpeg_xl,
    stored_range,
    to_ybr,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "image.dcm"


# Compressed pixels


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
    made.PlanarConfiguration = 1  # without meaning for a compressed frame
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
    if bits == 12:  # Pillow writes 16 bits, so the stream's precision counts
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


def jpeg_2000(pixels, bits=None, **options):
    """A JPEG 2000 stream of integers with `bits` per sample."""
    return imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="J2K", bitspersample=bits, reversible=True, **options)


@pytest.mark.parametrize("syntax", [uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K], ids=lambda s: s.name[-30:])
@pytest.mark.parametrize("pixels", [EIGHT, TWELVE, TWELVE.astype(np.int16) - 2000], ids=["8", "12", "signed"])
def test_high_throughput_jpeg_2000_loses_nothing(path, syntax, pixels):
    bits = 8 if pixels.dtype == np.uint8 else 12
    window = {"WindowCenter": 0, "WindowWidth": 3000} if pixels.dtype == np.int16 else {}
    shown = greys(path, pixels, syntax, frame=high_throughput(pixels), bits=bits, **window)
    exact = linear(pixels.astype(float), 0, 3000) if window else stored_range(pixels)
    assert np.abs(shown - exact).max() <= (0.5 + 1e-9 if window else 0)


def test_high_throughput_jpeg_2000_is_what_another_decoder_reads(path):
    """A lossy stream, against OpenJPEG."""
    frame = imagecodecs.htj2k_encode(TWELVE, level=0.001, reversible=False)
    stored = imagecodecs.jpeg2k_decode(frame)
    assert 0 < np.abs(stored.astype(int) - TWELVE).max() < 200
    shown = greys(path, TWELVE, uid.HTJ2K, frame=frame, bits=12, WindowCenter=2000, WindowWidth=4000)
    assert np.abs(shown - linear(stored.astype(float), 2000, 4000)).max() <= 0.6


@pytest.mark.parametrize("photometric", ["RGB", "YBR_RCT"])
def test_high_throughput_jpeg_2000_in_colour(path, photometric):
    made = dataset(COLOUR, uid.HTJ2KLossless, frame=high_throughput(COLOUR), photometric=photometric)
    assert np.array_equal(colours(path, made), COLOUR)


def jpeg_xl(pixels, **options):
    return imagecodecs.jpegxl_encode(pixels, lossless=True, **options)


@pytest.mark.parametrize(("pixels", "bits"), [(EIGHT, 8), (TWELVE, 12), (TWELVE * 17, 16)])
@pytest.mark.parametrize("boxes", [False, True])
def test_jpeg_xl_loses_nothing(path, pixels, bits, boxes):
    frame = jpeg_xl(pixels, usecontainer=boxes, bitspersample=bits)
    shown = np.asarray(read(save_jpeg_xl(path, 110, pixels, frame, bits=bits)))
    assert np.array_equal(shown, stored_range(pixels))


def test_jpeg_xl_in_colour(path):
    assert np.array_equal(np.asarray(read(save_jpeg_xl(path, 110, COLOUR, jpeg_xl(COLOUR)))), COLOUR)
    lossy = imagecodecs.jpegxl_encode(COLOUR, level=95)
    shown = np.asarray(read(save_jpeg_xl(path, 112, COLOUR, lossy, photometric="XYB"))).astype(int)
    assert np.abs(shown - COLOUR).mean() < 2


@pytest.mark.parametrize("pixels", [EIGHT, COLOUR], ids=["grey", "colour"])
def test_jpeg_xl_of_a_jpeg_is_that_jpeg(path, pixels):
    jpeg = imagecodecs.jpeg8_encode(pixels, level=95, subsampling="444")
    stored = imagecodecs.jpeg8_decode(jpeg)
    photometric = "YBR_FULL_422" if pixels.ndim == 3 else None
    frame = imagecodecs.jpegxl_encode_jpeg(jpeg)
    shown = np.asarray(read(save_jpeg_xl(path, 111, pixels, frame, photometric=photometric))).astype(int)
    assert np.abs(shown - (stored if pixels.ndim == 3 else stored_range(stored))).max() <= 3


@pytest.mark.parametrize(
    ("pixels", "frame", "attributes", "reason"),
    [
        (TWELVE, jpeg_xl(np.stack([TWELVE, TWELVE])), {"bits": 12}, "invalid out.shape=(24, 32), shape=(2, 24, 32)"),
        (COLOUR, jpeg_xl(np.dstack([COLOUR, EIGHT])), {}, "invalid out.shape=(24, 32, 3), shape=(24, 32, 4)"),
        (EIGHT, jpeg_xl(np.zeros((3000, 3000), np.uint8)), {}, "invalid out.shape=(24, 32), shape=(3000, 3000)"),
        (EIGHT, b"no JPEG XL at all", {}, "not a JPEG XL codestream"),
    ],
)
def test_jpeg_xl_that_is_not_the_picture_described_is_refused(path, pixels, frame, attributes, reason):
    save_jpeg_xl(path, 110, pixels, frame, **attributes)
    assert refusal(path, path.read_bytes()) == f"cannot be decoded: {reason}"


def test_jpeg_xl_of_signed_values_is_refused(path):
    save_jpeg_xl(path, 110, TWELVE.astype(np.int16), jpeg_xl(TWELVE), bits=12)
    reason = "DICOM with signed or shifted values in JPEG XL is not read"
    assert refusal(path, path.read_bytes()) == reason


@pytest.mark.parametrize(("pixels", "bits"), [(EIGHT, 8), (TWELVE, 12)])
def test_jpeg_extended_is_what_the_codec_reads(path, pixels, bits):
    frame = imagecodecs.jpeg8_encode(pixels, level=90)
    stored = imagecodecs.jpeg8_decode(frame)
    assert 0 < np.abs(stored.astype(int) - pixels).max() < 2 ** (bits - 4)
    shown = greys(path, pixels, uid.JPEGExtended12Bit, frame=frame, bits=bits)
    assert np.array_equal(shown, stored_range(stored))
    window = {"WindowCenter": 2.0 ** (bits - 1), "WindowWidth": 2.0**bits}
    shown = greys(path, pixels, uid.JPEGExtended12Bit, frame=frame, bits=bits, **window)
    assert np.abs(shown - linear(pixels.astype(float), *window.values())).max() <= 8


def test_jpeg_extended_in_colour(path):
    frame = pillow(COLOUR, "JPEG", quality=95, subsampling=0)
    made = dataset(COLOUR, uid.JPEGExtended12Bit, frame=frame, photometric="YBR_FULL_422")
    assert np.abs(colours(path, made) - np.asarray(Image.open(io.BytesIO(frame)))).max() <= 2


@pytest.mark.parametrize("quality", [30, 92])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("shape", [(24, 32), (17, 23)])
def test_baseline_samples_are_those_that_pillow_reads(path, quality, subsampling, shape):
    """No sample differs before the conversion to RGB: another codec must not change a network's training pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    frame = pillow(noise, "JPEG", quality=quality, subsampling=subsampling)
    picture = Image.open(io.BytesIO(frame))
    picture.draft("YCbCr", picture.size)
    stored = np.asarray(picture)
    made = dataset(noise, uid.JPEGBaseline8Bit, frame=frame, photometric="YBR_FULL_422")
    plain = dataset(stored, photometric="YBR_FULL")
    shown = colours(path, made)
    assert np.array_equal(shown, colours(path, plain))
    assert np.abs(shown - np.asarray(Image.open(io.BytesIO(frame)))).max() <= 2


def with_markers(frame, *, jfif=False, adobe=None, ids=None):
    """A JPEG stream of three components with these segments and component numbers and no others."""
    head, place = b"\xff\xd8", 2
    if jfif:
        head += b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
    if adobe is not None:
        head += b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0" + bytes([adobe])
    while True:
        marker, end = frame[place + 1], place + 2 + int.from_bytes(frame[place + 2 : place + 4], "big")
        segment = bytearray(frame[place:end])
        if ids and marker in (0xC0, 0xC3):
            segment[10:19:3] = ids
        elif ids and marker == 0xDA:
            segment[5:11:2] = ids
        place = end
        if marker not in (0xE0, 0xEE):
            head += segment
        if marker == 0xDA:
            return head + frame[place:]


IN_YBR = imagecodecs.jpeg8_encode(to_ybr(COLOUR), level=100, colorspace="YCBCR", outcolorspace="YCBCR")
IN_RGB = imagecodecs.jpeg8_encode(COLOUR, level=100, colorspace="YCBCR", outcolorspace="YCBCR")  # not transformed


@pytest.mark.parametrize(
    ("frame", "markers", "photometric"),
    [
        (IN_YBR, {}, "YBR_FULL_422"),
        (IN_YBR, {"jfif": True}, "YBR_FULL"),
        (IN_YBR, {"jfif": True}, "RGB"),  # the stream says that it is YCbCr
        (IN_YBR, {"adobe": 1}, "YBR_FULL_422"),
        (IN_YBR, {"adobe": 1}, "YBR_FULL"),
        (IN_YBR, {"adobe": 1}, "RGB"),
        (IN_YBR, {"adobe": 1, "jfif": True}, "YBR_FULL_422"),
        (IN_YBR, {"adobe": 0, "jfif": True}, "YBR_FULL"),
        (IN_YBR, {"adobe": 0}, "YBR_FULL"),
        (IN_YBR, {"ids": b"\0\1\2"}, "YBR_FULL_422"),
        (IN_RGB, {}, "RGB"),
        (IN_RGB, {"adobe": 0}, "RGB"),
        (IN_RGB, {"ids": b"RGB"}, "RGB"),
        (IN_RGB, {"adobe": 0, "ids": b"RGB"}, "RGB"),
        (IN_RGB, {"adobe": 0, "ids": b"RGB"}, "YBR_FULL_422"),  # the stream says that it is RGB
    ],
)
def test_colours_are_transformed_once_whatever_a_jpeg_says_of_itself(path, frame, markers, photometric):
    made = dataset(COLOUR, uid.JPEGBaseline8Bit, frame=with_markers(frame, **markers), photometric=photometric)
    assert np.abs(colours(path, made) - COLOUR).max() <= 8


@pytest.mark.parametrize("markers", [{"ids": b"RGB"}, {"jfif": True, "ids": b"RGB"}])
def test_a_jpeg_whose_colours_nobody_can_tell_is_refused(path, markers):
    frame = with_markers(IN_YBR, **markers)
    made = dataset(COLOUR, uid.JPEGBaseline8Bit, frame=frame, photometric="YBR_FULL")
    assert refusal(path, made) == "DICOM whose stream says RGB and whose photometric interpretation says YBR_FULL"
    frame = with_markers(lossless_jpeg(COLOUR, 8), jfif=True)
    assert refusal(path, dataset(COLOUR, uid.JPEGLosslessSV1, frame=frame)) == (
        "DICOM whose stream says YCbCr and whose photometric interpretation says RGB"
    )


@pytest.mark.parametrize("adobe", [0, 1])
def test_lossless_colours_are_what_the_attribute_says(path, adobe):
    for pixels, photometric in ((COLOUR, "RGB"), (to_ybr(COLOUR), "YBR_FULL")):
        frame = with_markers(lossless_jpeg(pixels, 8), adobe=adobe)
        made = dataset(pixels, uid.JPEGLosslessSV1, frame=frame, photometric=photometric)
        assert np.abs(colours(path, made) - COLOUR).max() <= 2


@pytest.mark.parametrize("kind", ["by pixel", "by plane"])
def test_jpeg_ls_in_colour(path, kind):
    frame = imagecodecs.jpegls_encode(COLOUR) if kind == "by pixel" else jpeg_ls_by_planes(COLOUR)
    assert np.array_equal(colours(path, dataset(COLOUR, uid.JPEGLSLossless, frame=frame)), COLOUR)


# Streams whose bits differ from the attributes


def frame_of(kind, pixels, bits):
    """A stream with `bits` per sample, and its transfer syntax."""
    if kind == "JPEG Lossless":
        return uid.JPEGLosslessSV1, lossless_jpeg(pixels, bits)
    if kind == "JPEG-LS":
        return uid.JPEGLSLossless, imagecodecs.jpegls_encode(pixels)  # of 8 or 16 bits
    if kind == "JPEG 2000":
        return uid.JPEG2000Lossless, jpeg_2000(pixels, bits)
    if kind == "High-Throughput JPEG 2000":
        return uid.HTJ2KLossless, high_throughput(pixels)
    return uid.JPEGExtended12Bit, imagecodecs.jpeg8_encode(pixels, level=100)


KINDS = ["JPEG Lossless", "JPEG-LS", "JPEG 2000", "High-Throughput JPEG 2000", "JPEG Extended"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("pixels", "bits", "stored", "allocated"),
    [(EIGHT, 8, 12, 16), (EIGHT, 8, 16, 16), (TWELVE, 12, 8, 8), (TWELVE, 12, 8, 16), (TWELVE, 12, 16, 16)],
)
def test_the_streams_own_bits_count(path, kind, pixels, bits, stored, allocated):
    syntax, frame = frame_of(kind, pixels, bits)
    attributes = {"bits": stored, "BitsAllocated": allocated, "WindowCenter": 1500, "WindowWidth": 3000}
    shown = greys(path, pixels, syntax, frame=frame, **attributes)
    exact = linear(pixels.astype(float), 1500, 3000)
    assert np.abs(shown - exact).max() <= (0.5 + 1e-9 if kind != "JPEG Extended" else 2)


@pytest.mark.parametrize("kind", ["JPEG Lossless", "JPEG 2000"])
@pytest.mark.parametrize("shift", [0, 4])
def test_values_in_the_streams_upper_bits_are_shifted_down(path, kind, shift):
    """16 bits in the stream, 12 stored, ending at bit 15; or 12 and 12, where the high bit has no meaning."""
    syntax, frame = frame_of(kind, TWELVE << shift, 12 + shift)
    attributes = {"bits": 12, "HighBit": 15, "WindowCenter": 2000, "WindowWidth": 3000}
    shown = greys(path, TWELVE, syntax, frame=frame, **attributes)
    assert np.abs(shown - linear(TWELVE.astype(float), 2000, 3000)).max() <= 0.5 + 1e-9


def test_a_high_bit_that_fits_neither_is_refused(path):
    frame = lossless_jpeg(TWELVE, 14)
    reason = refusal(path, dataset(TWELVE, uid.JPEGLosslessSV1, frame=frame, bits=12, HighBit=15))
    assert reason == "DICOM whose 12 bits stored cannot end at the HighBit 15 of 14 bits"


@pytest.mark.parametrize(("mask", "bits"), [(0xFFF, 12), (0xFFF, 16), (0xFFFF, 16), (0x1FFF, 13)])
def test_signed_values_in_a_stream_that_knows_no_sign(path, mask, bits):
    """Their sign is at the highest stored bit, or, if the stream has more bits and values use them, at its highest."""
    pixels = TWELVE.astype(np.int16) - 2000
    frame = lossless_jpeg(pixels.astype(np.uint16) & mask, bits)
    attributes = {"bits": 12, "WindowCenter": 0, "WindowWidth": 3000}
    shown = greys(path, pixels, uid.JPEGLosslessSV1, frame=frame, **attributes)
    assert np.abs(shown - linear(pixels.astype(float), 0, 3000)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("kind", ["JPEG 2000", "High-Throughput JPEG 2000"])
def test_signed_values_that_the_attribute_calls_unsigned_are_refused(path, kind):
    """Three decoders read three different pictures."""
    pixels = TWELVE.astype(np.int16) - 2000
    syntax, frame = frame_of(kind, pixels, 12)
    reason = "DICOM with PixelRepresentation 0 (unsigned), but a stream of signed values"
    assert refusal(path, dataset(pixels, syntax, frame=frame, bits=12, PixelRepresentation=0)) == reason


def test_signed_values_that_lost_their_sign_are_refused(path):
    pixels = (EIGHT.astype(np.int16) - 50).astype(np.int16)
    frame = lossless_jpeg(pixels & 0xFF, 8)
    made = dataset(pixels, uid.JPEGLosslessSV1, frame=frame, bits=12)
    assert refusal(path, made) == "DICOM with signed values of 12 bits in a stream of 8"
    positive = (EIGHT // 2).astype(np.int16)
    made = dataset(positive, uid.JPEGLosslessSV1, frame=lossless_jpeg(positive, 8), bits=12)
    assert np.array_equal(np.asarray(read(save(path, made))), stored_range(positive))


def test_an_overlay_in_the_upper_bits_of_a_stream_is_not_shown(path):
    drawn = TWELVE | ((EIGHT > 100).astype(np.uint16) << 12)
    made = dataset(TWELVE, uid.JPEGLosslessSV1, frame=lossless_jpeg(drawn, 16), bits=12)
    made.add_new((0x6000, 0x0100), "US", 16)
    made.add_new((0x6000, 0x0102), "US", 12)
    assert np.array_equal(np.asarray(read(save(path, made))), stored_range(TWELVE))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(32, 24), (12, 64), (23, 32)])
def test_a_stream_of_another_shape_is_refused(path, kind, shape):
    """32x24 has as many pixels as 24x32, and would be a scrambled picture."""
    pixels = np.resize(TWELVE, shape)
    syntax, frame = frame_of(kind, pixels, 12)
    assert refusal(path, dataset(TWELVE, syntax, frame=frame, bits=12)) == (
        f"DICOM of 32x24 pixels with 1 samples, but its stream has {shape[1]}x{shape[0]} with 1"
    )


@pytest.mark.parametrize("kind", ["JPEG Lossless", "JPEG 2000"])
def test_colours_of_fewer_bits_reach_white(path, kind):
    syntax, frame = frame_of(kind, COLOUR >> 2, 6)
    made = dataset(COLOUR >> 2, syntax, frame=frame, bits=6)
    assert np.array_equal(colours(path, made), np.rint((COLOUR >> 2) * (255 / 63)))
    made = dataset(COLOUR >> 2, syntax, frame=frame, bits=6, photometric="YBR_FULL")
    assert refusal(path, made) == "DICOM photometric interpretation YBR_FULL with 6 bits per sample is not read"


def test_a_stream_of_more_bits_than_are_read_is_refused(path):
    frame = jpeg_2000(COLOUR.astype(np.uint16) * 16, 12)
    assert refusal(path, dataset(COLOUR, uid.JPEG2000Lossless, frame=frame)) == (
        "DICOM with 12 bits per sample; at most 8 are read"
    )


# Boxes and tiles


def in_boxes(stream, *, long=False, to_the_end=False):
    """A JP2 file around a codestream (T.800 annex I): a signature, a header with wrong values, and the stream."""

    def box(kind, content):
        return struct.pack(">I", len(content) + 8) + kind + content

    head = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    head += box(b"jp2h", box(b"ihdr", struct.pack(">IIHBBBB", 1, 1, 1, 7, 7, 0, 0)))
    if long:
        return head + struct.pack(">I", 1) + b"jp2c" + struct.pack(">Q", len(stream) + 16) + stream
    if to_the_end:
        return head + struct.pack(">I", 0) + b"jp2c" + stream
    return head + box(b"jp2c", stream) + box(b"uuid", bytes(16))


@pytest.mark.parametrize("boxes", [{}, {"long": True}, {"to_the_end": True}])
@pytest.mark.parametrize("kind", ["JPEG 2000", "High-Throughput JPEG 2000"])
def test_a_stream_in_the_boxes_of_a_file_is_read(path, kind, boxes):
    syntax, frame = frame_of(kind, TWELVE, 12)
    assert np.array_equal(greys(path, TWELVE, syntax, frame=in_boxes(frame, **boxes), bits=12), stored_range(TWELVE))
    if not boxes:
        for length in (9, 40, 80, 100, 150):
            made = dataset(TWELVE, syntax, frame=in_boxes(frame)[:length], bits=12)
            assert refusal(path, made) == "DICOM is truncated"


@pytest.mark.parametrize("kind", ["tiles", "tiles in parts"])
def test_high_throughput_jpeg_2000_of_tiles(path, kind):
    pixels = np.tile(TWELVE, (4, 4))
    frame = high_throughput(pixels, tile=(32, 32), tilepart=1 if kind == "tiles in parts" else 0)
    assert frame.count(b"\xff\x90") == (12 if kind == "tiles" else 72)
    assert np.array_equal(greys(path, pixels, uid.HTJ2KLossless, frame=frame, bits=12), stored_range(pixels))


# Deflated


def test_a_deflated_file_is_the_same_picture(path):
    window = {"bits": 12, "WindowCenter": 1000, "WindowWidth": 800}
    plain = greys(path, TWELVE, **window)
    assert np.array_equal(greys(path, TWELVE, uid.DeflatedExplicitVRLittleEndian, **window), plain)
    made = dataset(EIGHT, uid.DeflatedExplicitVRLittleEndian, photometric="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(made, f"{name}PaletteColorLookupTableData", (np.arange(256) << 8).astype("<u2").tobytes())
    assert np.array_equal(colours(path, made)[..., 0], EIGHT)


def deflated(path, content):
    """A file whose deflated part is `content`, compressed."""
    save(path, dataset(EIGHT, uid.DeflatedExplicitVRLittleEndian))
    head = path.read_bytes()
    end = 144 + int.from_bytes(head[140:144], "little")
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return head[:end] + packer.compress(content) + packer.flush()


def test_a_deflated_file_that_unpacks_to_too_much_is_refused_before_it_does(path, monkeypatch):
    bomb = deflated(path, bytes(30_000_000))
    assert len(bomb) < 50_000
    monkeypatch.setattr("medistill.images.dicom.MAX_BYTES", 40_000_000)
    assert refusal(path, bomb) == "DICOM that unpacks to more than 10 MB"


def test_a_deflated_file_that_is_cut_off_is_refused(path):
    save(path, dataset(TWELVE, uid.DeflatedExplicitVRLittleEndian))
    whole = path.read_bytes()
    packed = 144 + int.from_bytes(whole[140:144], "little")
    for length in range(packed + 1, len(whole) - 1, 7):
        assert refusal(path, whole[:length]) == "DICOM is truncated"
