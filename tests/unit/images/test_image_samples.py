"""`medistill.images`: samples of any depth, sign, order and transparency are read correctly, or refused."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from medistill.images.decode import decode, read
from medistill.images.errors import ImageError
from tests.pictures import (
    ALPHA,
    COLOUR,
    GREY,
    TABLE,
    bmp,
    gif,
    hidden,
    jp2,
    jp2_palette,
    packed,
    png,
    pnm,
    stretched,
    tiff,
)

SIXTEEN_BITS = "colour or transparency with 16 bits per sample is not read; convert it to 8 bits"
UNKNOWN = "a TIFF image that is damaged or of an unsupported kind"


def pixels_of(path, content):
    """The pixels that `read` returns for a file, float64: (H, W) if it is grey."""
    path.write_bytes(content)
    image = read(path)
    assert image.mode in ("L", "RGB")
    shown = np.asarray(image).astype(float)
    frame = decode(path, size=max(image.size), channels=1, fit="crop")
    assert frame.shape[1] == max(image.size)
    return shown


def reason_of(path, content):
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        read(path)
    return caught.value.reason


@pytest.fixture
def path(tmp_path):
    return tmp_path / "picture"


# PNG: transparency by colour


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("which", ["lowest", "middle", "highest", "absent"])
def test_a_grey_that_is_transparent_is_black_in_any_depth(path, bits, which):
    highest = 2**bits - 1
    values = GREY.astype(int) * (highest + 1) // 256
    level = {"lowest": 0, "middle": highest // 2, "highest": highest, "absent": highest}[which]
    if which == "absent":
        values = np.minimum(values, max(0, highest - 1))
    shown = pixels_of(path, png(values, bits, 0, (b"tRNS", struct.pack(">H", level))))
    assert np.array_equal(shown, hidden(values * 255 // highest, values == level))


def test_sixteen_bits_with_a_transparent_grey_are_refused_where_it_shows(path):
    values = GREY.astype(int) * 200 + 1000
    for level in (0, 65535, 1001, int(values.min())):  # no pixel has it, or it is black anyway
        content = png(values, 16, 0, (b"tRNS", struct.pack(">H", level)))
        assert np.array_equal(pixels_of(path, content), stretched(values))
    for level in (int(values.max()), int(values[4, 4])):
        assert reason_of(path, png(values, 16, 0, (b"tRNS", struct.pack(">H", level)))) == SIXTEEN_BITS


def test_a_colour_that_is_transparent_is_black(path):
    colour = COLOUR[4, 5].tolist()
    shown = pixels_of(path, png(COLOUR, 8, 2, (b"tRNS", struct.pack(">HHH", *colour))))
    assert np.array_equal(shown, hidden(COLOUR, (colour == COLOUR).all(axis=-1)))
    absent = png(COLOUR, 8, 2, (b"tRNS", struct.pack(">HHH", 1, 2, 3)))
    assert np.array_equal(pixels_of(path, absent), COLOUR)
    deep = png(COLOUR.astype(int) * 257, 16, 2, (b"tRNS", struct.pack(">HHH", 1, 2, 3)))
    assert reason_of(path, deep) == SIXTEEN_BITS


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_with_transparent_entries(path, bits):
    count = 2**bits
    values = GREY.astype(int) * count // 256
    palette = (b"PLTE", TABLE[:count].tobytes())
    assert np.array_equal(pixels_of(path, png(values, bits, 3, palette)), TABLE[values])
    first = png(values, bits, 3, palette, (b"tRNS", b"\0"))
    assert np.array_equal(pixels_of(path, first), hidden(TABLE[values], values == 0))
    shares = np.linspace(0, 255, count).round().astype(int)
    graded = png(values, bits, 3, palette, (b"tRNS", bytes(shares.tolist())))
    exact = TABLE[values] * (shares[values] / 255)[..., None]
    assert np.abs(pixels_of(path, graded) - exact).max() <= 0.5 + 1e-9


def test_transparency_by_pixel_lies_on_black(path):
    grey = pixels_of(path, png(np.stack([GREY, ALPHA], axis=-1), 8, 4))
    assert grey.ndim == 2
    assert np.abs(grey - GREY * (ALPHA / 255)).max() <= 0.5 + 1e-9
    colour = pixels_of(path, png(np.dstack([COLOUR, ALPHA]), 8, 6))
    assert np.abs(colour - COLOUR * (ALPHA / 255)[..., None]).max() <= 0.5 + 1e-9


# TIFF


def grey_tiff(values, kind, *, white_is_zero=False, is_packed=False, order="<", **tags):
    """Grey TIFF of numbers of the type `kind` (`u2`, `f4`, ...), deflated if `is_packed`."""
    content = values.astype(order + kind).tobytes()
    format_ = {"u": None, "i": 2, "f": 3}[kind[0]]
    return tiff(
        zlib.compress(content) if is_packed else content,
        8 * int(kind[1]),
        0 if white_is_zero else 1,
        order=order,
        t259=8 if is_packed else 1,
        t339=format_,
        **tags,
    )


DEEP = GREY.astype(float) * 60 - 3000  # -3000..11100


@pytest.mark.parametrize("is_packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("white_is_zero", [False, True], ids=["black", "white"])
@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("kind", ["u2", "i2", "u4", "i4", "f2", "f4", "f8"])
def test_deep_greys_of_tiff_are_those_stored_or_refused(path, kind, order, white_is_zero, is_packed):
    values = DEEP / 7 if kind[0] == "f" else DEEP + 3000 if kind[0] == "u" else DEEP
    if kind == "u4":
        values = values * 300_000  # up to 4.2e9, beyond the range of signed integers
    content = grey_tiff(values, kind, order=order, white_is_zero=white_is_zero, is_packed=is_packed)
    unread = kind in ("f2", "f8") or (white_is_zero and (kind in ("i2", "i4", "u4") or (kind, order) == ("u2", ">")))
    if unread or (kind, order) == ("u4", ">"):
        assert reason_of(path, content) == UNKNOWN
    elif order == ">" and is_packed and kind in ("i2", "i4", "f4"):
        assert reason_of(path, content) == (
            "TIFF with compressed big-endian numbers is not read; save it without compression"
        )
    else:
        exact = stretched(-values if white_is_zero else values)
        assert np.abs(pixels_of(path, content) - exact).max() <= 1


@pytest.mark.parametrize("white_is_zero", [False, True], ids=["black", "white"])
@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("compression", [1, 8, 32773])
def test_greys_of_tiff_of_up_to_eight_bits(path, bits, order, white_is_zero, compression):
    highest = 2**bits - 1
    values = GREY.astype(int) * (highest + 1) // 256
    content = b"".join(packed(values, bits))
    if compression == 8:
        content = zlib.compress(content)
    elif compression == 32773:  # PackBits: rows stored literally
        content = b"".join(bytes([len(row) - 1]) + row for row in packed(values, bits))
    exact = (highest - values if white_is_zero else values) * 255 // highest
    made = tiff(content, bits, 0 if white_is_zero else 1, order=order, t259=compression)
    assert np.array_equal(pixels_of(path, made), exact)


def test_twelve_bits_of_tiff(path):
    values = GREY.astype(int) * 16
    assert np.array_equal(pixels_of(path, tiff(b"".join(packed(values, 12)), 12, 1)), stretched(values))


def test_signed_bytes_of_tiff_are_refused_where_one_is_negative(path):
    for order in "<>":
        made = grey_tiff(GREY.astype(int) - 100, "i1", order=order)
        assert reason_of(path, made) == "TIFF with negative numbers of 8 bits is not read"
        assert np.array_equal(pixels_of(path, grey_tiff(GREY // 2, "i1", order=order)), GREY // 2)


def test_tiff_that_does_not_say_what_white_is_is_refused(path):
    made = tiff(GREY.tobytes(), 8, None)
    assert reason_of(path, made) == "TIFF that does not say whether 0 is black or white"


@pytest.mark.parametrize("planes", [False, True], ids=["by pixel", "by plane"])
@pytest.mark.parametrize("is_packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("bits", [8, 16])
def test_colours_of_tiff_have_eight_bits(path, bits, planes, is_packed):
    values = COLOUR.astype(f"<u{bits // 8}") * (257 if bits == 16 else 1)
    strips = [values[..., i].tobytes() for i in range(3)] if planes else [values.tobytes()]
    if is_packed:
        strips = [zlib.compress(strip) for strip in strips]
    made = tiff(strips, bits, 2, 3, t284=2 if planes else 1, t259=8 if is_packed else 1)
    if bits == 16:
        assert reason_of(path, made) == SIXTEEN_BITS
    else:
        assert np.array_equal(pixels_of(path, made), COLOUR)


@pytest.mark.parametrize("order", ["<", ">"], ids=["little", "big"])
def test_transparency_of_tiff_lies_on_black(path, order):
    """ExtraSamples 1: premultiplied alpha; 2: alpha that is not; 0: another sample, which is ignored."""
    on_black = COLOUR * (ALPHA / 255)[..., None]
    multiplied = np.rint(on_black).astype(np.uint8)
    for extra, pixels, exact in ((2, COLOUR, on_black), (1, multiplied, on_black), (0, COLOUR, COLOUR)):
        made = tiff(np.dstack([pixels, ALPHA]).tobytes(), 8, 2, 4, order=order, t338=extra)
        assert np.abs(pixels_of(path, made) - exact).max() <= 1.5
    on_black, multiplied = on_black[..., 0], multiplied[..., 0]
    for extra, pixels, exact in ((2, GREY, on_black), (1, multiplied, on_black), (0, GREY, GREY)):
        made = tiff(np.dstack([pixels, ALPHA]).tobytes(), 8, 1, 2, order=order, t338=extra)
        assert np.abs(pixels_of(path, made) - exact).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_tiff_have_sixteen_bits(path, bits):
    values = GREY.astype(int) * 2**bits // 256
    table = TABLE[: 2**bits].T.astype(int)
    content = b"".join(packed(values, bits))
    assert np.array_equal(pixels_of(path, tiff(content, bits, 3, t320=table * 257)), TABLE[values])
    reason = "TIFF with a palette of 8 bits instead of 16 is not read"
    assert reason_of(path, tiff(content, bits, 3, t320=table)) == reason


def test_ycbcr_of_tiff(path):
    stored = np.asarray(Image.fromarray(COLOUR).convert("YCbCr"))
    assert np.abs(pixels_of(path, tiff(stored.tobytes(), 8, 6, 3, t530=[1, 1])) - COLOUR).max() <= 3
    content = stored.tobytes() + bytes(2000)  # enough bytes to be misread as subsampled
    assert reason_of(path, tiff(content, 8, 6, 3)) == "TIFF with subsampled YCbCr that is not compressed is not read"


def test_cmyk_and_cielab_of_tiff(path):
    ink = np.dstack([255 - COLOUR, np.zeros_like(GREY)])
    assert np.array_equal(pixels_of(path, tiff(ink.tobytes(), 8, 5, 4)), COLOUR)
    deep = (ink.astype("<u2") * 257).tobytes()
    assert reason_of(path, tiff(deep, 16, 5, 4)) == SIXTEEN_BITS
    red = np.tile(np.array([136, 80, 67], np.uint8), (12, 20, 1))  # L* 53, a* 80, b* 67
    assert np.abs(pixels_of(path, tiff(red.tobytes(), 8, 8, 3)) - [255, 0, 0]).max() <= 12


@pytest.mark.parametrize("fill_order", [1, 2])
@pytest.mark.parametrize("bits", [1, 8, 16])
def test_bits_of_tiff_in_either_order(path, bits, fill_order):
    highest = 2**bits - 1
    values = GREY.astype(int) * (highest + 1) // 256
    content = b"".join(packed(values, bits, "<"))
    if fill_order == 2:
        content = bytes(int(f"{byte:08b}"[::-1], 2) for byte in content)
    exact = stretched(values) if bits == 16 else values * 255 // highest
    assert np.array_equal(pixels_of(path, tiff(content, bits, 1, t266=fill_order)), exact)


# BMP, GIF, PNM


def test_bmp_of_any_depth(path):
    blue_first = COLOUR[..., ::-1]
    assert np.array_equal(pixels_of(path, bmp(24, [row.tobytes() for row in blue_first[::-1]])), COLOUR)
    assert np.array_equal(pixels_of(path, bmp(24, [row.tobytes() for row in blue_first], height=-12)), COLOUR)
    for fourth in (np.zeros_like(GREY), ALPHA):  # the fourth byte is ignored without a mask
        rows = np.dstack([blue_first, fourth])[::-1]
        assert np.array_equal(pixels_of(path, bmp(32, rows.tobytes())), COLOUR)
    red, green, blue = (COLOUR[..., i].astype(int) for i in range(3))
    five = (red >> 3) << 10 | (green >> 3) << 5 | blue >> 3
    exact = (COLOUR.astype(int) >> 3) * 255 / 31
    assert np.abs(pixels_of(path, bmp(16, [row.astype("<u2").tobytes() for row in five[::-1]])) - exact).max() <= 1
    six = (red >> 3) << 11 | (green >> 2) << 5 | blue >> 3
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    exact[..., 1] = (green >> 2) * 255 / 63
    made = bmp(16, [row.astype("<u2").tobytes() for row in six[::-1]], compression=3, masks=masks)
    assert np.abs(pixels_of(path, made) - exact).max() <= 1


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_bmp_palettes(path, bits):
    values = GREY.astype(int) * 2**bits // 256
    rows = packed(values[::-1], bits)
    entries = b"".join(bytes([blue, green, red, 0]) for red, green, blue in TABLE[: 2**bits].tolist())
    assert np.array_equal(pixels_of(path, bmp(bits, rows, entries)), TABLE[values])
    falling = np.linspace(255, 0, 2**bits).astype(int)
    entries = b"".join(bytes([level, level, level, 0]) for level in falling.tolist())
    shown = pixels_of(path, bmp(bits, rows, entries))
    assert np.array_equal(shown if shown.ndim == 2 else shown[..., 0], falling[values])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("is_local", [False, True])
@pytest.mark.parametrize("is_interlaced", [False, True])
def test_gif_of_any_depth(path, bits, is_local, is_interlaced):
    values = GREY.astype(int) * 2**bits // 256
    options = {"is_local": is_local, "is_interlaced": is_interlaced}
    assert np.array_equal(pixels_of(path, gif(values, TABLE, bits, **options)), TABLE[values])
    level = int(values[3, 4])
    shown = pixels_of(path, gif(values, TABLE, bits, transparent=level, **options))
    assert np.array_equal(shown, hidden(TABLE[values], values == level))
    greys = np.repeat(np.linspace(0, 255, 2**bits).astype(np.uint8)[:, None], 3, axis=1)
    shown = pixels_of(path, gif(values, greys, bits, transparent=level, **options))
    assert np.array_equal(shown if shown.ndim == 2 else shown[..., 0], hidden(greys[values, 0], values == level))


@pytest.mark.parametrize("maximum", [100, 255, 4095, 65535])
@pytest.mark.parametrize("is_text", [False, True])
def test_pnm_is_scaled_by_the_maximum_that_it_says(path, maximum, is_text):
    values = GREY.astype(int) * maximum // 255
    shown = pixels_of(path, pnm(2 if is_text else 5, maximum, values, is_text=is_text))
    exact = values * 255 / maximum if maximum <= 255 else stretched(values)
    assert np.abs(shown - exact).max() <= 1
    values = COLOUR.astype(int) * maximum // 255
    shown = pixels_of(path, pnm(3 if is_text else 6, maximum, values, is_text=is_text))
    assert np.abs(shown - values * 255 / maximum).max() <= 1


def test_bits_of_pnm_are_ink(path):
    ink = GREY > 100
    for content in (pnm(4, 1, ink.astype(int)), pnm(1, 1, ink.astype(int), is_text=True)):
        assert np.array_equal(pixels_of(path, content), np.where(ink, 0, 255))


def test_floats_of_pfm_in_both_orders(path):
    values = GREY / 100 - 1
    for scale, order in ((b"-1.0", "<"), (b"1.0", ">")):
        content = b"Pf\n20 12\n" + scale + b"\n" + values[::-1].astype(f"{order}f4").tobytes()
        assert np.array_equal(pixels_of(path, content), stretched(values))


# JPEG 2000, WebP, JPEG


def written(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("boxes", ["JP2", "J2K"])
@pytest.mark.parametrize("bits", [1, 2, 4, 7, 8, 10, 12, 16])
def test_jpeg_2000_of_any_depth(path, bits, boxes):
    values = GREY.astype(np.uint16) << (bits - 8) if bits > 8 else GREY >> (8 - bits)
    options = {"level": 0, "codecformat": boxes, "bitspersample": bits, "reversible": True}
    shown = pixels_of(path, imagecodecs.jpeg2k_encode(values, **options))
    exact = stretched(values) if bits > 8 else np.rint(values * (255 / (2**bits - 1)))
    assert np.array_equal(shown, exact)
    if bits >= 8:
        deep = COLOUR.astype(values.dtype) << (bits - 8)
        shown = pixels_of(path, imagecodecs.jpeg2k_encode(deep, **options))
        assert np.array_equal(shown, COLOUR)


def in_jpeg_2000(values, bits=8):
    return imagecodecs.jpeg2k_encode(values, level=0, codecformat="J2K", bitspersample=bits, reversible=True, mct=False)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_jpeg_2000(path, bits):
    values, table = GREY >> (8 - bits), TABLE[: 2**bits]
    shown = pixels_of(path, jp2(in_jpeg_2000(values, bits), 1, jp2_palette(table)))
    assert np.array_equal(shown, table[values])


@pytest.mark.parametrize("kind", ["equal colours", "4 bits each", "of grey"])
def test_palettes_of_jpeg_2000_that_pillow_does_not_look_up_are_refused(path, kind):
    """Pillow merges equal colours, reads 4 bits as if they were 8, and drops a palette of greys."""
    values, table, depth = GREY >> 4, TABLE[:16].copy(), 8
    if kind == "equal colours":
        table[3] = table[2]
    elif kind == "4 bits each":
        table, depth = table >> 4, 4
    content = jp2(in_jpeg_2000(values), 1, jp2_palette(table, depth), colours=17 if kind == "of grey" else 16)
    assert reason_of(path, content) == (
        "JPEG 2000 with a palette of greys, of equal colours or of other than 8 bits is not read"
    )


@pytest.mark.parametrize("component", [0, 1, 2, 3])
def test_jpeg_2000_whose_components_differ_in_bits_is_refused(path, component):
    """For example transparency of one bit, in which 1 would be read as one half."""
    stream = bytearray(in_jpeg_2000(np.dstack([COLOUR, ALPHA])))
    assert np.abs(pixels_of(path, bytes(stream)) - COLOUR * (ALPHA / 255)[..., None]).max() <= 0.5 + 1e-9
    assert stream[42 + 3 * component] == 7
    stream[42 + 3 * component] = 0
    assert reason_of(path, bytes(stream)) == "JPEG 2000 whose components differ in bits is not read"


@pytest.mark.parametrize("is_raw", [False, True])
def test_transparency_of_jpeg_2000_and_webp_lies_on_black(path, is_raw):
    layers = Image.fromarray(np.dstack([COLOUR, ALPHA]))
    exact = COLOUR * (ALPHA / 255)[..., None]
    shown = pixels_of(path, written(layers, "JPEG2000", no_jp2=is_raw))
    assert np.abs(shown - exact).max() <= 0.5 + 1e-9
    shown = pixels_of(path, written(layers, "WEBP", lossless=True, exact=True))
    assert np.abs(shown - exact).max() <= 0.5 + 1e-9
    grey = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA.copy())])
    shown = pixels_of(path, written(grey, "JPEG2000", no_jp2=is_raw))
    assert np.abs(shown - GREY * (ALPHA / 255)).max() <= 0.5 + 1e-9


def test_of_an_animation_the_first_picture_is_read(path):
    for kind, options in (("WEBP", {"lossless": True}), ("GIF", {}), ("PNG", {}), ("TIFF", {})):
        first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
        shown = pixels_of(path, written(first, kind, save_all=True, append_images=[second], **options))
        assert np.array_equal(shown if shown.ndim == 2 else shown[..., 0], GREY), kind


@pytest.mark.parametrize("bits", [12, 16])
def test_jpeg_that_no_decoder_here_knows_is_named(path, bits):
    deep = GREY.astype(np.uint16) * (2 ** (bits - 8))
    content = imagecodecs.jpeg8_encode(deep, lossless=bits == 16 or None, bitspersample=bits)
    assert reason_of(path, content) == "a JPEG image that is damaged or of an unsupported kind"
