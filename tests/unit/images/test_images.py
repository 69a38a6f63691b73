"""`medistill.images`: every mode against one picture, geometry against drawn rectangles, and damaged files."""

import contextlib
import io
import os
import pickle
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from medistill.images.decode import decode, read
from medistill.images.errors import ImageError
from medistill.images.frame import fit_boxes

GREY = np.add.outer(np.arange(32) * 5, np.arange(32) * 3).astype(np.uint8)  # 0..248, no two rows or columns alike
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


def save(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("l.png", Image.fromarray(GREY)),
        ("la.png", Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (32, 32), 255)])),
        ("rgb.png", Image.fromarray(np.stack([GREY] * 3, -1))),
        ("rgba.png", Image.fromarray(np.stack([GREY] * 3 + [np.full_like(GREY, 255)], -1))),
        ("p.png", Image.fromarray(GREY).convert("P")),
        ("l.bmp", Image.fromarray(GREY)),
        ("l.tif", Image.fromarray(GREY)),
    ],
)
def test_grey_in_any_mode_is_the_same_picture(tmp_path, name, image):
    path = save(tmp_path / name, image)
    assert np.array_equal(decode(path, size=32, channels=1, fit="pad"), GREY[None])
    assert np.array_equal(decode(path, size=32, channels=3, fit="pad"), np.stack([GREY] * 3))


def test_colour_keeps_its_channels_or_becomes_luma(tmp_path):
    path = save(tmp_path / "rgb.png", Image.fromarray(COLOUR))
    assert np.array_equal(decode(path, size=32, channels=3, fit="pad"), COLOUR.transpose(2, 0, 1))
    luma = COLOUR @ [0.299, 0.587, 0.114]  # ITU-R 601
    assert np.abs(decode(path, size=32, channels=1, fit="pad")[0] - luma).max() <= 1


def test_cmyk_is_read_as_colour(tmp_path):
    path = save(tmp_path / "cmyk.tif", Image.fromarray(COLOUR).convert("CMYK"))
    assert np.abs(decode(path, size=32, channels=3, fit="pad").astype(int) - COLOUR.transpose(2, 0, 1)).max() <= 2


@pytest.mark.parametrize("transform", [0, 2])
def test_cmyk_of_a_jpeg_is_turned_as_its_adobe_marker_says(tmp_path, transform):
    """Adobe's programs store 255 minus the ink, as CMYK (0) or YCCK (2)."""
    import imagecodecs

    ink = np.concatenate([255 - COLOUR, np.full((32, 32, 1), 40, np.uint8)], axis=-1)
    space = {"colorspace": "CMYK", "outcolorspace": "YCCK" if transform else "CMYK"}
    stream = imagecodecs.jpeg8_encode(255 - ink, level=98, subsampling="444", **space)
    marker = stream.index(b"Adobe")
    assert stream[marker + 11] == transform
    (tmp_path / "cmyk.jpg").write_bytes(stream)
    exact = COLOUR * ((255 - 40) / 255)
    assert np.abs(decode(tmp_path / "cmyk.jpg", size=32, channels=3, fit="pad") - exact.transpose(2, 0, 1)).max() <= 5


def test_a_palette_of_colours_is_looked_up(tmp_path):
    table = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) * 7 % 256], axis=-1).astype(np.uint8)
    image = Image.fromarray(GREY).convert("P")
    image.putpalette(table.tobytes())
    path = save(tmp_path / "palette.png", image)
    with Image.open(path) as stored:
        assert stored.mode == "P"
    assert np.array_equal(np.asarray(read(path)), table[np.asarray(image)])


def test_one_bit_is_black_and_white(tmp_path):
    bits = GREY > 100
    path = save(tmp_path / "one.png", Image.fromarray(bits))
    assert read(path).mode == "L"
    assert np.array_equal(decode(path, size=32, channels=1, fit="pad")[0], np.where(bits, 255, 0))


@pytest.mark.parametrize("name", ["twelve.png", "twelve.tif"])
def test_sixteen_bits_are_scaled_by_their_stored_range(tmp_path, name):
    stored = GREY.astype(np.uint16) * 12 + 700  # 12 of 16 bits, as many devices store them
    path = save(tmp_path / name, Image.fromarray(stored))
    exact = (stored - 700.0) / (stored.max() - 700.0) * 255
    assert np.abs(decode(path, size=32, channels=1, fit="pad")[0] - exact).max() <= 0.5 + 1e-9


def write_png(path, colour_type, samples):
    """PNG with 16 bits per sample, by hand: Pillow writes none but grey ones."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


@pytest.mark.parametrize(("colour_type", "samples"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bit_colour_and_transparency_are_refused(tmp_path, colour_type, samples):
    """Pillow keeps the upper 8 bits: a picture of 12 bits in 16 would be nearly black."""
    path = write_png(tmp_path / "x.png", colour_type, np.stack([GREY.astype(np.uint16) * 16] * samples, -1))
    with pytest.raises(
        ImageError, match=r"x\.png: colour or transparency with 16 bits per sample is not read; convert"
    ):
        read(path)
    grey = write_png(tmp_path / "grey.png", 0, GREY.astype(np.uint16) * 16)
    assert np.asarray(read(grey)).max() == 255


@pytest.mark.parametrize("compression", [1, 8])
def test_sixteen_bit_colour_of_tiff_is_refused(tmp_path, compression):
    """TIFF 6.0, uncompressed (1) and deflated (8), for which Pillow uses another decoder."""
    content = (COLOUR.astype(np.uint16) * 16).astype("<u2").tobytes()
    content = zlib.compress(content) if compression == 8 else content
    bits_at = 8 + 2 + 10 * 12 + 4
    entries = [(256, 3, 1, 32), (257, 3, 1, 32), (258, 3, 3, bits_at), (259, 3, 1, compression), (262, 3, 1, 2)]
    entries += [(273, 4, 1, bits_at + 6), (277, 3, 1, 3), (278, 3, 1, 32), (279, 4, 1, len(content)), (284, 3, 1, 1)]
    head = b"II*\0" + struct.pack("<IH", 8, 10) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    path = tmp_path / "x.tif"
    path.write_bytes(head + struct.pack("<IHHH", 0, 16, 16, 16) + content)
    with pytest.raises(ImageError, match=r"x\.tif: colour or transparency with 16 bits per sample is not read"):
        read(path)


def test_colour_whose_file_says_how_many_bits_it_has_is_read(tmp_path):
    path = tmp_path / "twelve.ppm"
    path.write_bytes(b"P6 32 32 4095\n" + (COLOUR.astype(np.uint16) * 16).astype(">u2").tobytes())
    assert np.abs(np.asarray(read(path)).astype(int) - COLOUR).max() <= 1
    pixels = np.arange(0, 32_768, 512, dtype="<u2").reshape(8, 8)  # 5 bits each for red, green and blue
    head = struct.pack("<IiiHHIIiiII", 40, 8, -8, 1, 16, 0, 128, 0, 0, 0, 0)
    path = tmp_path / "five.bmp"
    path.write_bytes(b"BM" + struct.pack("<IHHI", 54 + 128, 0, 0, 54) + head + pixels.tobytes())
    assert np.array_equal(np.asarray(read(path))[..., 0], (pixels >> 10) * 255 // 31)


def test_a_constant_sixteen_bit_image_is_black(tmp_path):
    path = save(tmp_path / "flat.png", Image.fromarray(np.full((32, 32), 3000, np.uint16)))
    assert not decode(path, size=32, channels=1, fit="pad").any()


def test_float_images_are_scaled_and_must_be_finite(tmp_path):
    values = (GREY / 248.0 - 0.5).astype(np.float32)
    path = save(tmp_path / "f.tif", Image.fromarray(values))
    assert np.array_equal(decode(path, size=32, channels=1, fit="pad")[0], np.rint((values + 0.5) * 255))
    values[3, 3] = np.nan
    path = save(tmp_path / "nan.tif", Image.fromarray(values))
    with pytest.raises(ImageError, match=r"nan\.tif: cannot be decoded: pixels are not finite"):
        decode(path, size=32, channels=1, fit="pad")


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_transparent_pixels_become_black(tmp_path, mode):
    alpha = np.where(np.arange(32) < 16, 0, 255).astype(np.uint8) * np.ones((32, 1), np.uint8)
    if mode == "P":
        indices = np.where(alpha > 0, 1, 0).astype(np.uint8)
        image = Image.fromarray(indices).convert("P")
        image.putpalette([200, 200, 200, 90, 90, 90])
        path = save(tmp_path / "p.png", image, transparency=0)
    else:
        layers = [Image.new("L", (32, 32), 90)] * (len(mode) - 1)
        path = save(tmp_path / f"{mode}.png", Image.merge(mode, [*layers, Image.fromarray(alpha)]))
    assert np.array_equal(decode(path, size=32, channels=1, fit="pad")[0], np.where(alpha > 0, 90, 0))


UPRIGHT = {  # EXIF 2.32, tag Orientation: from the stored to the upright picture
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "turned.png", Image.fromarray(GREY[:20]), exif=exif)
    upright = UPRIGHT[orientation](GREY[:20])
    assert np.array_equal(np.asarray(read(path)), upright)


@pytest.mark.parametrize(("shape", "rows", "columns"), [((40, 80), (8, 24), (0, 32)), ((80, 40), (0, 32), (8, 24))])
def test_pad_centres_between_black_bars(tmp_path, shape, rows, columns):
    path = save(tmp_path / "white.png", Image.fromarray(np.full(shape, 255, np.uint8)))
    frame = decode(path, size=32, channels=1, fit="pad")[0]
    expected = np.zeros((32, 32))
    expected[slice(*rows), slice(*columns)] = 255
    assert np.array_equal(frame, expected)


def test_crop_takes_the_centred_square_and_squash_all(tmp_path):
    wide = np.zeros((32, 96), np.uint8)
    wide[:, :32], wide[:, 32:64] = 255, GREY
    path = save(tmp_path / "wide.png", Image.fromarray(wide))
    assert np.array_equal(decode(path, size=32, channels=1, fit="crop")[0], GREY)
    squashed = decode(path, size=32, channels=1, fit="squash")[0]
    assert squashed[:, :10].min() >= 250
    assert squashed[:, 23:].max() == 0


@pytest.mark.parametrize("factor", [2, 8, 16])
def test_shrinking_antialiases(tmp_path, factor):
    board = (np.indices((16 * factor, 16 * factor)).sum(0) % 2 * 255).astype(np.uint8)
    path = save(tmp_path / "board.png", Image.fromarray(board))
    frame = decode(path, size=16, channels=1, fit="pad")[0].astype(int)
    assert np.abs(frame[1:-1, 1:-1] - 127).max() <= 2


@pytest.mark.parametrize("fit", ["pad", "squash", "crop"])
@pytest.mark.parametrize(("width", "height"), [(300, 300), (300, 200), (170, 290), (31, 50)])
def test_boxes_lie_where_the_pixels_lie(tmp_path, fit, width, height):
    size = 64
    random = np.random.default_rng(width)
    for _ in range(10):
        x, y = random.integers(0, width - 8), random.integers(0, height - 8)
        w, h = random.integers(8, width - x + 1), random.integers(8, height - y + 1)
        image = np.zeros((height, width), np.uint8)
        image[y : y + h, x : x + w] = 255
        path = save(tmp_path / "box.png", Image.fromarray(image))
        frame = decode(path, size=size, channels=1, fit=fit)[0]
        (box,) = fit_boxes(np.array([[x, y, w, h]]), width=width, height=height, size=size, fit=fit) * size
        # Each pixel is its share covered by the box, so sums over rows and columns are lengths
        mass = frame.sum() / 255
        assert mass == pytest.approx(box[2] * box[3], abs=2 + 0.05 * mass)
        if box[2] >= 2 and box[3] >= 2:
            rows, columns = np.nonzero(frame > 127)
            assert [columns.min(), rows.min()] == pytest.approx(box[:2], abs=1)
            assert [columns.max() + 1, rows.max() + 1] == pytest.approx(box[:2] + box[2:], abs=1)


def test_boxes_are_clipped_and_vanish_with_what_a_crop_cuts_away():
    boxes = np.array([[0, 0, 100, 100], [120, 20, 40, 40], [-50, -50, 500, 500]])
    cropped = fit_boxes(boxes, width=300, height=100, size=50, fit="crop")  # shows columns 100 to 200
    assert cropped[0, 2] == 0
    assert cropped[1] == pytest.approx([0.2, 0.2, 0.4, 0.4])
    assert cropped[2] == pytest.approx([0, 0, 1, 1])
    padded = fit_boxes(boxes[2:], width=300, height=100, size=30, fit="pad")  # rows 10 to 20 of 30
    assert padded[0] == pytest.approx([0, 1 / 3, 1, 1 / 3])
    assert fit_boxes(np.empty((0, 4)), width=300, height=100, size=50, fit="pad").shape == (0, 4)


@pytest.mark.parametrize(
    "name", [b"r\xf6ntgen.png", b"\xff\xfe.png", "Röntgen 胸部 X.png".encode(), b"two\nlines.png", b"no suffix"]
)
def test_names_may_be_any_bytes(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    with open(path, "wb") as file:
        Image.fromarray(GREY).save(file, "PNG")
    assert np.array_equal(np.asarray(read(path)), GREY)
    content = path.read_bytes()
    for broken, reason in ((content[:-30], "cannot be decoded: "), (b"x", "not an image"), (b"", "the file is empty")):
        path.write_bytes(broken)
        with pytest.raises(ImageError) as caught:
            read(path)
        assert caught.value.path == path
        assert caught.value.reason.startswith(reason)
        assert caught.value.reason.isprintable()  # without the name, so that it can be written as UTF-8


@pytest.mark.parametrize(
    ("kind", "options", "spare"),
    [
        ("PNG", {}, 20),  # the last, empty chunk with its checksum, and the checksum before it
        ("JPEG", {}, 2),  # the end marker
        ("JPEG", {"progressive": True}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 4),
        ("GIF", {}, 2),
        ("WEBP", {"lossless": True}, 0),
        ("BMP", {}, 0),
        ("JPEG2000", {"tile_size": (8, 16)}, 0),
    ],
)
@pytest.mark.filterwarnings("error")
def test_wherever_a_file_is_cut_off_it_is_refused_or_has_all_its_pixels(tmp_path, kind, options, spare):
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    Image.fromarray(noise).save(stream, kind, **options)
    whole, path = stream.getvalue(), tmp_path / "cut"
    path.write_bytes(whole)
    pixels = np.asarray(read(path))
    read_all_the_same = []
    ends = {match.start() + extra for match in re.finditer(rb"\xff\x90", whole) for extra in range(20)}  # of tiles
    for length in {*range(1, len(whole), 9), *range(len(whole) - 30, len(whole)), *ends}:
        path.write_bytes(whole[:length])
        with contextlib.suppress(ImageError):
            assert np.array_equal(np.asarray(read(path)), pixels)
            read_all_the_same.append(length)
    assert len(read_all_the_same) <= spare


def huge_png(path, side):
    """A valid PNG header of a huge picture, in a hundred bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b""))


def damaged(kind, path):
    image = Image.effect_noise((64, 64), 60)
    if kind == "truncated png":
        image.save(path, "PNG")
        path.write_bytes(path.read_bytes()[:-1500])
    elif kind == "truncated jpeg":
        image.save(path, "JPEG")
        path.write_bytes(path.read_bytes()[:600])
    elif kind == "flipped byte":
        image.save(path, "PNG")
        data = bytearray(path.read_bytes())
        data[200] ^= 255
        path.write_bytes(data)
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("<!DOCTYPE html><html>404 not found</html>")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "bomb":
        huge_png(path, 11_000)  # above our limit, below Pillow's
    elif kind == "great bomb":
        huge_png(path, 50_000)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("truncated png", "cannot be decoded: "),
        ("truncated jpeg", "cannot be decoded: "),
        ("flipped byte", "cannot be decoded: "),
        ("empty", "the file is empty"),
        ("text", "not an image, or in a format that is not read"),
        ("missing", "no such file"),
        ("folder", "not a file"),
        ("pipe", "not a file"),
        ("bomb", "11000x11000 pixels exceeds the limit of 100 million pixels"),
        ("great bomb", "the image exceeds the limit of 100 million pixels"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_bad_file_says_which_and_why(tmp_path, kind, reason):
    path = tmp_path / "bad.png"
    damaged(kind, path)
    with pytest.raises(ImageError) as caught:
        decode(path, size=32, channels=1, fit="pad")
    assert caught.value.reason.startswith(reason)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_errors_travel_between_processes(tmp_path):
    error = pickle.loads(pickle.dumps(ImageError(tmp_path / "x.png", "no such file")))
    assert (error.path, error.reason) == (tmp_path / "x.png", "no such file")


def test_wrong_arguments_are_refused(tmp_path):
    path = save(tmp_path / "l.png", Image.fromarray(GREY))
    with pytest.raises(ValueError, match="channels"):
        decode(path, size=32, channels=2, fit="pad")
    with pytest.raises(ValueError, match="fit"):
        decode(path, size=32, channels=1, fit="stretch")
