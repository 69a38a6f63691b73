"""Real DICOM files: a chest X-ray, a copy that calls itself MONOCHROME1, and a web page with a DICOM name.

Also small files that were once refused or read wrongly, each with its right answer.
"""

import io

import numpy as np
import pytest
from PIL import Image

from medistill.images.decode import decode, read
from medistill.images.errors import ImageError


@pytest.fixture(scope="module")
def folder(real_data):
    return real_data / "dicom"


@pytest.fixture(scope="module")
def xray(folder):
    return folder / "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm"


def embedded_jpeg(path):
    """The JPEG inside the file, found by its markers, uint8 (H, W)."""
    content = path.read_bytes()
    stream = content[content.index(b"\xff\xd8\xff") : content.rindex(b"\xff\xd9") + 2]
    return np.asarray(Image.open(io.BytesIO(stream))).astype(float)


def test_a_real_xray_is_the_jpeg_inside_with_its_range_stretched(xray):
    stored = embedded_jpeg(xray)
    assert (stored.shape, stored.min(), stored.max()) == ((1024, 1024), 0, 254)
    shown = np.asarray(read(xray))
    assert np.array_equal(shown, np.rint(stored / 254 * 255))
    assert shown[300:450, 300:380].mean() < 110  # a lung: air is black
    assert shown[700:800, 400:480].mean() > 180  # the mediastinum is white


def test_the_monochrome1_copy_is_its_negative(folder, xray):
    """The copy has the very same pixels and only says MONOCHROME1, so that a viewer shows its lungs white."""
    copy = folder / "Fake_MONOHR1.dcm"
    assert xray.read_bytes().replace(b"MONOCHROME2", b"MONOCHROME1") == copy.read_bytes()
    original, inverse = (np.asarray(read(path)).astype(float) for path in (xray, copy))
    assert np.abs(original + inverse - 255).max() <= 1  # 127.5 is rounded to 128 in both
    assert np.corrcoef(original.ravel(), inverse.ravel())[0, 1] < -0.999


def test_monochrome1_with_inverted_pixels_is_the_same_picture(folder, xray, tmp_path):
    """The use of MONOCHROME1: the pixels are inverted in the file as well, here by another JPEG in it."""
    import pydicom
    from pydicom.encaps import encapsulate

    dataset = pydicom.dcmread(folder / "Fake_MONOHR1.dcm")
    stream = io.BytesIO()
    Image.fromarray((255 - embedded_jpeg(xray)).astype(np.uint8)).save(stream, "JPEG", quality=95)
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset.save_as(tmp_path / "negative.dcm")
    original, again = (np.asarray(read(path)).astype(float) for path in (xray, tmp_path / "negative.dcm"))
    assert np.corrcoef(original.ravel(), again.ravel())[0, 1] > 0.999
    assert np.abs(original - again).mean() < 2


def test_frames_are_averages_of_the_picture(xray):
    frame = decode(xray, size=64, channels=1, fit="pad")
    blocks = (embedded_jpeg(xray) / 254 * 255).reshape(64, 16, 64, 16).mean(axis=(1, 3))
    assert frame.shape == (1, 64, 64)
    assert np.abs(frame[0] - blocks).mean() < 4


def test_a_web_page_with_a_dicom_name_is_refused(folder):
    with pytest.raises(ImageError) as caught:
        read(folder / "NOT_A_DICOM_html_page.dcm")
    assert caught.value.reason.startswith(
        "not an image, or in a format that is not read: a web page; the download failed"
    )


@pytest.fixture(scope="module")
def failing(real_data):
    if not (real_data / "failing").is_dir():
        pytest.skip("the files that failed once are not here")
    return real_data / "failing"


def pixels(path):
    return np.asarray(read(path)).astype(int)


@pytest.mark.parametrize("name", ["j2k-pad-20", "jpeg-pad-20", "jpeg-pad-ff", "jpegll-pad-20", "jpegls-pad-ff"])
def test_a_pad_byte_of_any_value_is_ignored(failing, name):
    folder = failing / "D1-pad-byte"
    assert np.array_equal(pixels(folder / f"{name}.dcm"), pixels(folder / f"{name[:-2]}00.dcm"))


def test_a_high_bit_above_the_bits_stored_is_the_same_picture(failing):
    folder = failing / "D2-high-bit"
    assert np.array_equal(pixels(folder / "highbit15-window.dcm"), pixels(folder / "highbit11-window.dcm"))


def test_a_slope_of_zero_is_refused(failing):
    with pytest.raises(ImageError, match="DICOM with a RescaleSlope of 0, which makes all values the same"):
        read(failing / "D3-rescale-slope-0" / "slope0.dcm")


@pytest.mark.parametrize("name", ["empty-ModalityLUTSequence", "empty-VOILUTSequence"])
def test_an_empty_look_up_table_is_ignored_and_the_window_applies(failing, name):
    shown = pixels(failing / "D4-empty-lut-item" / f"{name}.dcm")
    assert np.abs(shown - pixels(failing / "D2-high-bit" / "highbit11-window.dcm")).max() <= 1
    assert (shown.min(), shown.max()) == pytest.approx((32, 235), abs=1)


def test_a_palette_is_the_same_in_both_byte_orders(failing):
    folder = failing / "D5-palette-big-endian"
    assert np.array_equal(pixels(folder / "palette-be.dcm"), pixels(folder / "palette-le.dcm"))


@pytest.mark.parametrize("name", ["jpegls-stored8-stream16", "stored12-stream8"])
def test_a_stream_whose_bits_differ_from_bits_stored_is_read(failing, name):
    """The values 16..118 are stretched."""
    shown = pixels(failing / "D6-jpegll-precision" / f"{name}.dcm")
    assert (shown.min(), shown.max()) == (0, 255)
    assert {*np.unique(shown)} <= {*np.rint((np.arange(16, 119) - 16) / 102 * 255).astype(int)}


def test_jpeg_extended_of_twelve_bits_is_read(failing):
    import imagecodecs

    path = failing / "D7-jpeg-extended" / "extended-12bit.dcm"
    content = path.read_bytes()
    stored = imagecodecs.jpeg8_decode(content[content.index(b"\xff\xd8\xff") : content.rindex(b"\xff\xd9") + 2])
    assert (stored.min(), stored.max()) == (529, 3780)
    assert np.array_equal(pixels(path), np.rint((stored - 529.0) / (3780 - 529) * 255))


@pytest.mark.parametrize("bits", [1, 8])
def test_a_png_whose_white_is_transparent_is_black_there(failing, bits):
    path = failing / "I1-png-trns" / f"grey{bits}-white-transparent.png"
    with Image.open(path) as stored:
        values = np.asarray(stored.convert("L"))
    assert np.array_equal(pixels(path), np.where(values == 255, 0, values))


def test_sixteen_bits_beside_transparency_are_refused(failing):
    with pytest.raises(ImageError, match="colour or transparency with 16 bits per sample is not read"):
        read(failing / "I1-png-trns" / "grey16-white-transparent.png")
