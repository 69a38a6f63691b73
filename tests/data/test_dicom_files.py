"""Real DICOM files: a chest X-ray, a copy that calls itself MONOCHROME1, and a web page with a DICOM name."""

import io

import numpy as np
import pytest
from PIL import Image

from medistill.images import ImageError, decode, read


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


def test_a_negative_that_says_so_is_the_same_picture(folder, xray, tmp_path):
    """What MONOCHROME1 is for: the pixels inverted in the file as well, here by another JPEG in it."""
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
    assert caught.value.reason.startswith("not an image, or in a format that is not read: a web page; the download has")
