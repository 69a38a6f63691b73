"""`medistill.images` on DICOM: how greys and colours are shown, against the formulas of PS3.3 C.11 and C.7.

The expected values are worked out here in numpy from the standard's text, not by pydicom's helpers.
"""

import numpy as np
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from medistill.images.decode import decode, read
from tests.dicoms import (
    COLOUR,
    EIGHT,
    TWELVE,
    colours,
    dataset,
    greys,
    linear,
    linear_exact,
    lut,
    refusal,
    run_lengths,
    save,
    sigmoid,
    stored_range,
    to_ybr,
)


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
    edge = int(TWELVE[12, 16])  # a value that occurs, as the threshold itself must be black
    shown = greys(path, TWELVE, bits=12, WindowCenter=edge + 0.5, WindowWidth=1)
    assert np.array_equal(shown, np.where(edge < TWELVE, 255, 0))
    assert np.array_equal(shown, linear(TWELVE.astype(float), edge + 0.5, 1))


def test_of_several_windows_the_first_is_shown(path):
    shown = greys(path, TWELVE, bits=12, WindowCenter=[1000, 3000], WindowWidth=[800, 20])
    assert np.abs(shown - linear(TWELVE.astype(float), 1000, 800)).max() <= 0.5 + 1e-9


def test_an_incomplete_window_is_ignored(path):
    for attributes in ({"WindowCenter": 2000}, {"WindowCenter": None, "WindowWidth": None}):
        assert np.array_equal(greys(path, TWELVE, bits=12, **attributes), stored_range(TWELVE))


def test_monochrome1_is_inverted_after_the_window(path):
    window = {"bits": 12, "WindowCenter": 1000, "WindowWidth": 800}
    inverse = greys(path, TWELVE, photometric="MONOCHROME1", **window)
    assert np.abs(inverse - (255 - linear(TWELVE.astype(float), 1000, 800))).max() <= 0.5 + 1e-9
    # Inverted before the window, nearly all pixels would be white or black
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


def table_of(descriptor=(), data=(), **attributes):
    """A look-up table's item, with either of its two elements missing or empty."""
    item = Dataset()
    for keyword, value in (("LUTDescriptor", descriptor), ("LUTData", data)):
        if value != ():
            item.add_new(keyword, "US", value)
    for keyword, value in attributes.items():
        setattr(item, keyword, value)
    return [item]


@pytest.mark.parametrize("name", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize("item", [table_of(), table_of(LUTExplanation="none"), table_of(None, None)])
def test_a_table_without_content_is_none(path, name, item):
    shown = greys(path, TWELVE, bits=12, WindowCenter=1000, WindowWidth=800, **{name: item})
    assert np.abs(shown - linear(TWELVE.astype(float), 1000, 800)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("kind", ["8 bits", "12 bits"])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian], ids=["little", "big"])
def test_packed_and_plain_tables_are_read_in_both_byte_orders(path, kind, syntax):
    entries, bits = (CURVE, 12) if kind == "12 bits" else ((CURVE // 16).astype(np.uint8), 8)
    stored = entries
    if syntax == uid.ExplicitVRBigEndian:
        stored = entries.astype(">u2") if bits == 12 else entries.reshape(-1, 2)[:, ::-1]
    table = lut(np.ascontiguousarray(stored), 500, bits, vr="OW")
    table[0].LUTDescriptor[0] = len(entries)
    shown = greys(path, TWELVE, syntax, bits=12, VOILUTSequence=table)
    exact = entries[np.clip(TWELVE.astype(int) - 500, 0, 2999)] / (2**bits - 1) * 255
    assert np.abs(shown - exact).max() <= 0.5 + 1e-9


def test_the_first_value_of_a_table_may_be_negative_and_written_as_unsigned(path):
    rescaled = {"bits": 12, "RescaleSlope": 1, "RescaleIntercept": -1024}
    shown = greys(path, TWELVE, VOILUTSequence=lut(CURVE.tolist(), 65536 - 524, 12), **rescaled)
    exact = CURVE[np.clip(TWELVE.astype(int) - 1024 + 524, 0, 2999)] / 4095 * 255
    assert np.abs(shown - exact).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (table_of(data=[1, 2, 3]), "DICOM with a LUTDescriptor that is not valid: none"),
        (table_of([3, 0, 8]), "DICOM with a {name} without LUTData"),
    ],
)
@pytest.mark.parametrize("name", ["ModalityLUTSequence", "VOILUTSequence"])
def test_a_table_that_cannot_be_what_it_says_is_refused(path, name, table, reason):
    assert refusal(path, dataset(TWELVE, bits=12, **{name: table})) == reason.format(name=name)


@pytest.mark.parametrize("bits", [0, 8, 11, 17])
def test_tables_with_too_few_bits_are_refused_if_they_are_shown(path, bits):
    table = lut(CURVE.tolist(), 500, bits)
    reason = f"DICOM with a look-up table of {bits} bits, but a value of {CURVE.max()} in it"
    assert refusal(path, dataset(TWELVE, bits=12, VOILUTSequence=table)) == reason
    window = {"bits": 12, "WindowCenter": 2000, "WindowWidth": 3000}
    shown = greys(path, TWELVE, ModalityLUTSequence=lut(CURVE.tolist(), 500, bits), **window)
    assert np.array_equal(shown, greys(path, TWELVE, ModalityLUTSequence=lut(CURVE.tolist(), 500, 12), **window))
    dark = dataset(TWELVE // 4, bits=12, VOILUTSequence=lut([*range(1024), 60000], 0, 10))
    assert np.abs(np.asarray(read(save(path, dark))) - (TWELVE // 4) / 1023 * 255).max() <= 0.5 + 1e-9


def test_a_slope_of_zero_is_refused(path):
    """Some viewers ignore such a slope, others show a black picture."""
    reason = "DICOM with a RescaleSlope of 0, which makes all values the same"
    assert refusal(path, dataset(TWELVE, bits=12, RescaleSlope=0, RescaleIntercept=5)) == reason
    assert refusal(path, dataset(TWELVE, bits=12, RescaleSlope=0, WindowCenter=9, WindowWidth=9)) == reason


@pytest.mark.parametrize(("photometric", "shape"), [("MONOCHROME1", "INVERSE"), ("MONOCHROME2", "IDENTITY")])
def test_presentation_lut_shape_must_agree_with_the_photometric_interpretation(path, photometric, shape):
    window = {"bits": 12, "WindowCenter": 1000, "WindowWidth": 800, "photometric": photometric}
    plain = greys(path, TWELVE, **window)
    assert np.array_equal(greys(path, TWELVE, PresentationLUTShape=shape, **window), plain)
    other = {"INVERSE": "IDENTITY", "IDENTITY": "INVERSE"}[shape]
    assert refusal(path, dataset(TWELVE, PresentationLUTShape=other, **window)) == (
        f"DICOM that is {photometric} with the PresentationLUTShape {other}"
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


@pytest.mark.parametrize("kind", ["OB", "OW"])
def test_one_bit_in_big_endian_words(path, kind):
    """The first of the 16 pixels of a word is the lowest bit, which is in the second byte (PS3.5 8.1.1)."""
    bits = EIGHT > 100
    made = dataset(EIGHT, uid.ExplicitVRBigEndian, BitsAllocated=1, BitsStored=1, HighBit=0)
    packed = np.packbits(bits, bitorder="little")
    made.PixelData = (packed.reshape(-1, 2)[:, ::-1] if kind == "OW" else packed).tobytes()
    made["PixelData"].VR = kind
    assert np.array_equal(np.asarray(read(save(path, made))), np.where(bits, 255, 0))


@pytest.mark.parametrize("kind", ["OB", "OW"])
@pytest.mark.parametrize("pixels", [EIGHT, COLOUR], ids=["grey", "colour"])
def test_eight_bits_in_big_endian_words(path, kind, pixels):
    made = dataset(pixels, uid.ExplicitVRBigEndian)
    made.PixelData = (pixels.reshape(-1, 2)[:, ::-1] if kind == "OW" else pixels).tobytes()
    made["PixelData"].VR = kind
    exact = stored_range(pixels) if pixels.ndim == 2 else pixels
    assert np.array_equal(np.asarray(read(save(path, made))), exact)


def test_size_and_aspect_are_those_stored(path):
    made = dataset(EIGHT, PixelAspectRatio=[2, 1], PixelSpacing=[0.2, 0.1], PatientOrientation=["R", "H"])
    assert np.array_equal(np.asarray(read(save(path, made))), stored_range(EIGHT))
    frame = decode(path, size=32, channels=1, fit="pad")
    assert frame.shape == (1, 32, 32)
    assert np.array_equal(frame[0, 4:28], stored_range(EIGHT))


# Bits


def shifted(pixels, stored, high):
    """Words whose `stored` bits end at bit `high`; all other bits are 1, as an overlay may set them."""
    container = 8 * pixels.itemsize
    words = (pixels.astype(np.int64) % 2**stored) << (high + 1 - stored)
    around = (2**container - 1) ^ ((2**stored - 1) << (high + 1 - stored))
    return (words | around).astype(f"u{pixels.itemsize}").view(pixels.dtype)


SIX = (EIGHT >> 2).astype(np.uint8)


@pytest.mark.parametrize(
    ("pixels", "stored", "high"),
    [
        (TWELVE, 12, 11),
        (TWELVE, 12, 12),
        (TWELVE, 12, 15),
        (TWELVE.astype(np.int16) - 2000, 12, 11),
        (TWELVE.astype(np.int16) - 2000, 12, 13),
        (TWELVE.astype(np.int16) - 2000, 12, 15),
        (EIGHT.astype(np.uint16), 8, 7),
        (EIGHT.astype(np.uint16), 8, 15),
        (SIX, 6, 5),
        (SIX, 6, 7),
        ((SIX.astype(np.int8) - 32), 6, 6),
    ],
)
@pytest.mark.parametrize("kind", ["little endian", "big endian", "run lengths"])
def test_values_are_the_bits_stored_wherever_they_lie(path, kind, pixels, stored, high):
    syntax = uid.ExplicitVRBigEndian if kind == "big endian" else uid.ExplicitVRLittleEndian
    centre = 2.0 ** (stored - 1) if pixels.dtype.kind == "u" else 0
    window = {"WindowCenter": centre, "WindowWidth": 2.0**stored}
    made = dataset(shifted(pixels, stored, high), syntax, bits=stored, HighBit=high, **window)
    if kind == "run lengths":
        made.file_meta.TransferSyntaxUID = uid.RLELossless
        made.PixelData = encapsulate([run_lengths(shifted(pixels, stored, high))])
        made["PixelData"].VR = "OB"
    shown = np.asarray(read(save(path, made))).astype(float)
    assert np.abs(shown - linear(pixels.astype(float), centre, 2.0**stored)).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(("high", "stored", "allocated"), [(3, 12, 16), (17, 12, 16), (9, 12, 16), (3, 6, 8)])
def test_a_high_bit_where_the_bits_stored_have_no_room_is_refused(path, high, stored, allocated):
    pixels = TWELVE if allocated == 16 else SIX
    assert refusal(path, dataset(pixels, bits=stored, HighBit=high)) == (
        f"DICOM whose {stored} bits stored cannot end at the HighBit {high} of {allocated} bits"
    )


def test_a_high_bit_does_not_matter_where_all_bits_are_stored(path):
    assert np.array_equal(greys(path, TWELVE * 17, bits=16, HighBit=7), stored_range(TWELVE * 17))


def test_more_bits_stored_than_allocated_are_refused(path):
    assert refusal(path, dataset(EIGHT, bits=12)) == "DICOM with 12 bits stored of 8 allocated"


@pytest.mark.parametrize("high", [5, 7])
def test_colours_of_fewer_bits_reach_white(path, high):
    made = dataset(shifted(COLOUR >> 2, 6, high), bits=6, HighBit=high)
    assert np.array_equal(colours(path, made), np.rint((COLOUR >> 2) * (255 / 63)))
    made = dataset(COLOUR >> 2, bits=6, photometric="YBR_FULL")
    assert refusal(path, made) == "DICOM photometric interpretation YBR_FULL with 6 bits per sample is not read"


@pytest.mark.parametrize("high", [7, 15])
@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_colours_of_eight_bits_in_sixteen(path, high, photometric):
    pixels = (COLOUR if photometric == "RGB" else to_ybr(COLOUR)).astype(np.uint16)
    made = dataset(shifted(pixels, 8, high), bits=8, HighBit=high, photometric=photometric)
    assert np.abs(colours(path, made) - COLOUR).max() <= (0 if photometric == "RGB" else 2)


@pytest.mark.parametrize("extra", [0, 2, 700])
def test_twice_as_many_pixels_as_the_attributes_say_are_refused(path, extra):
    """For example 16-bit pixels with 8 bits allocated: each of their bytes would be shown as a pixel."""
    made = dataset(TWELVE, BitsAllocated=8, BitsStored=8, HighBit=7)
    made.PixelData += bytes(extra)
    reason = refusal(path, made)
    assert reason == f"DICOM with {1536 + extra} bytes of pixels, but its attributes need 768"


# Colours


@pytest.mark.parametrize("planar", [0, 1])
def test_rgb_by_pixel_and_by_plane(path, planar):
    made = dataset(COLOUR, PlanarConfiguration=planar)
    made.PixelData = (COLOUR if planar == 0 else COLOUR.transpose(2, 0, 1)).tobytes()
    assert np.array_equal(colours(path, made), COLOUR)


def test_ybr_full_becomes_rgb(path):
    assert np.abs(colours(path, dataset(to_ybr(COLOUR), photometric="YBR_FULL")) - COLOUR).max() <= 2


def test_ybr_full_422_becomes_rgb(path):
    pairs = np.repeat(COLOUR[:, ::2], 2, axis=1)  # two neighbours share their colour, so that nothing is lost
    ybr = to_ybr(pairs)
    made = dataset(pairs, photometric="YBR_FULL_422")
    made.PixelData = np.stack([ybr[:, ::2, 0], ybr[:, 1::2, 0], ybr[:, ::2, 1], ybr[:, ::2, 2]], axis=-1).tobytes()
    assert np.abs(colours(path, made) - pairs).max() <= 2


COLOURS = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) * 7 % 256], axis=-1)


def palette(table, bits, pixels=EIGHT, *, first=0, data="plain", syntax=uid.ExplicitVRLittleEndian, **attributes):
    """An image of indices into `table`, (N, 3); `data`: entries are `plain`, `wide` (8 bits in 16) or `packed`."""
    made = dataset(pixels, syntax, photometric="PALETTE COLOR", **attributes)
    big = syntax == uid.ExplicitVRBigEndian
    for channel, name in enumerate(("Red", "Green", "Blue")):
        entries = table[:, channel]
        if data == "wide" or (bits > 8 and data == "plain"):
            stored = entries.astype(">u2" if big else "<u2")
        else:
            stored = entries.astype(np.uint8)
            stored = stored.reshape(-1, 2)[:, ::-1] if big else stored  # two entries are a word
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [len(entries) % 65536, first, bits])
        setattr(made, f"{name}PaletteColorLookupTableData", stored.tobytes())
    return made


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian], ids=["little", "big"])
@pytest.mark.parametrize("kind", ["8 bits", "8 bits in 16", "16 bits", "12 bits", "says 16 has 8"])
def test_a_palette_becomes_rgb_in_both_byte_orders(path, syntax, kind):
    bits = {"16 bits": 16, "12 bits": 12, "says 16 has 8": 16}.get(kind, 8)
    data = {"8 bits in 16": "wide", "says 16 has 8": "packed"}.get(kind, "plain")
    table = COLOURS if data == "packed" else COLOURS << (bits - 8)
    assert np.array_equal(colours(path, palette(table, bits, data=data, syntax=syntax)), COLOURS[EIGHT])


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_for_indices_of_more_than_eight_bits(path, bits):
    table = np.stack([np.arange(4096) >> 4, 255 - (np.arange(4096) >> 4), np.arange(4096) % 256], axis=-1)
    made = palette(table << (bits - 8), bits, TWELVE, data="packed" if bits == 8 else "plain")
    made.BitsStored, made.HighBit = 12, 11
    assert np.array_equal(colours(path, made), table[TWELVE])


def test_a_palette_may_begin_anywhere_and_each_colour_elsewhere(path):
    made = palette(COLOURS[:100], 8, first=50)
    assert np.array_equal(colours(path, made), COLOURS[np.clip(EIGHT.astype(int) - 50, 0, 99)])
    signed = EIGHT.astype(np.int16) - 50
    made = palette(COLOURS, 8, signed, first=-50)
    assert np.array_equal(colours(path, made), COLOURS[EIGHT])
    made = palette(COLOURS, 8)
    made.GreenPaletteColorLookupTableDescriptor = [256, 10, 8]
    exact = COLOURS[EIGHT]
    exact[..., 1] = COLOURS[np.clip(EIGHT.astype(int) - 10, 0, 255), 1]
    assert np.array_equal(colours(path, made), exact)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian], ids=["little", "big"])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_of_segments(path, syntax, bits):
    """PS3.3 C.7.9.2: four values, a line to 100 in 8 steps, an indirect segment that repeats both, and 7 to the end."""
    scale = 1 if bits == 8 else 257
    discrete = [0, 4, *(value * scale for value in (10, 20, 40, 60))]
    line = [1, 8, 100 * scale]
    again = [2, 2, *([0] * (4 if bits == 8 else 2))]  # an indirect segment: two segments from byte 0
    pad = [0, 256 - 24, *([7 * scale] * (256 - 24))] if bits == 16 else [0, 232, *([7] * 232)]
    once = [10, 20, 40, 60, *(60 + 5 * step for step in range(1, 9))]
    entries = np.array([*once, *once, *([7] * 232)])
    words = np.array(discrete + line + again + pad)
    big = syntax == uid.ExplicitVRBigEndian
    made = dataset(EIGHT, syntax, photometric="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        if bits == 16:
            stored = words.astype(">u2" if big else "<u2")
        else:
            stored = np.append(words, [0] * (len(words) % 2)).astype(np.uint8)
            stored = stored.reshape(-1, 2)[:, ::-1] if big else stored
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [256, 0, bits])
        setattr(made, f"Segmented{name}PaletteColorLookupTableData", stored.tobytes())
    assert np.array_equal(colours(path, made)[..., 0], entries[EIGHT])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"GreenPaletteColorLookupTableData": None}, "DICOM with a palette without GreenPaletteColorLookupTableData"),
        (
            {"BluePaletteColorLookupTableDescriptor": None},
            "DICOM with a BluePaletteColorLookupTableDescriptor that is not valid: none",
        ),
        (
            {"RedPaletteColorLookupTableDescriptor": [256, 0, 16], "RedPaletteColorLookupTableData": bytes(510)},
            "cannot be decoded: a look-up table has 255 of its 256 entries",
        ),
    ],
)
def test_a_palette_that_cannot_be_what_it_says_is_refused(path, change, reason):
    made = palette(COLOURS, 8)
    for name, value in change.items():
        setattr(made, name, value)
    assert refusal(path, made) == reason


def test_a_palette_of_dark_sixteen_bits_is_refused(path):
    """Its values are probably of 8 bits, and would all be shown black."""
    assert refusal(path, palette(COLOURS, 16)) == "DICOM with a palette of 16 bits, but values of 8 bits"
