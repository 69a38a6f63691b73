"""`medistill.images` on DICOM files that are refused, each with its reason, and on damaged ones."""

import logging
import pickle
import struct
import subprocess
import sys
import warnings

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from medistill.images.decode import read
from medistill.images.errors import ImageError
from tests.dicoms import COLOUR, EIGHT, TWELVE, dataset, lossless_jpeg, refusal, save, small_files, stored_range
from tests.pictures import TABLE, jp2, jp2_palette


@pytest.fixture
def path(tmp_path):
    return tmp_path / "image.dcm"


# Refused files


def test_the_content_counts_and_not_the_name(tmp_path):
    made = dataset(EIGHT)
    assert np.array_equal(np.asarray(read(save(tmp_path / "misnamed.png", made))), stored_range(EIGHT))
    Image.fromarray(EIGHT).save(tmp_path / "picture.png")
    (tmp_path / "picture.png").rename(tmp_path / "picture.dcm")
    assert np.array_equal(np.asarray(read(tmp_path / "picture.dcm")), EIGHT)


WEB_PAGE = b"<!DOCTYPE html><html>404 not found</html>"
FAILED = ": a web page; the download failed; sign in at its source and download it again"


@pytest.mark.parametrize(("content", "known"), [(WEB_PAGE, FAILED), (b"\0" * 131, ""), (b"\0" * 500, "")])
def test_other_files_are_no_dicom(path, content, known):
    assert refusal(path, content) == f"not an image, or in a format that is not read{known}"


def test_dicom_without_its_preamble_is_named(path):
    save(path, dataset(EIGHT))
    content, reason = path.read_bytes(), "DICOM without a preamble is not read"
    assert refusal(path, content[128:]) == reason
    assert refusal(path, content[132:]) == reason  # starts with group 0002
    assert refusal(path, b"\x08\0\x05\0\x0a\0\0\0ISO_IR 100" + bytes(200)) == reason  # starts with 0008, implicit VR
    assert refusal(path, content[100:]) == "not an image, or in a format that is not read"
    assert refusal(path, b"\x08\0\x05\0\x0a\0\0\x99" + bytes(200)) == "not an image, or in a format that is not read"


def without(made, name):
    delattr(made, name)
    return made


def of_floats(keyword):
    """An image with float pixels, which are in another element than integers."""
    made = without(dataset(TWELVE), "PixelData")
    setattr(made, keyword, EIGHT.astype(np.float32 if keyword[0] == "F" else np.float64).tobytes())
    return made


def report():
    """A structured report, which has no image."""
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
        (lambda: without(dataset(EIGHT), "BitsAllocated"), "DICOM without BitsAllocated"),
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
            lambda: dataset(EIGHT, uid.MPEG4HP41, frame=b"--"),
            "DICOM transfer syntax MPEG-4 AVC/H.264 High Profile / Level 4.1 is not read",
        ),
        (
            lambda: dataset(EIGHT, uid.HEVCMP51, frame=b"--"),
            "DICOM transfer syntax HEVC/H.265 Main Profile / Level 5.1 is not read",
        ),
        (
            lambda: dataset(EIGHT, "1.2.840.10008.1.2.4.94", frame=b"--"),
            "DICOM transfer syntax JPIP Referenced is not read",
        ),
        (
            lambda: dataset(EIGHT, uid.JPEG2000MC, frame=b"--"),
            "DICOM transfer syntax JPEG 2000 Part 2 Multi-component Image Compression is not read",
        ),
        (lambda: of_floats("FloatPixelData"), "DICOM with pixels of floating point numbers is not read"),
        (lambda: of_floats("DoubleFloatPixelData"), "DICOM with pixels of floating point numbers is not read"),
        (lambda: dataset(TWELVE, PixelRepresentation=2), "DICOM with a PixelRepresentation of 2, which is not 0 or 1"),
        (
            lambda: without(dataset(TWELVE), "PixelRepresentation"),
            "DICOM with a PixelRepresentation of None, which is not 0 or 1",
        ),
        (
            lambda: dataset(COLOUR, photometric="YBR_RCT"),
            "DICOM photometric interpretation YBR_RCT without its compression is not read",
        ),
        (
            lambda: dataset(COLOUR, uid.JPEGBaseline8Bit, frame=b"--", photometric="XYB"),
            "DICOM photometric interpretation XYB without its compression is not read",
        ),
        (
            lambda: dataset(COLOUR, uid.JPEG2000, frame=b"--", Rows=9000, Columns=8000),
            "8000x9000 pixels take 1.44 GB to decode; the limit is 1 GB",
        ),
        (
            lambda: dataset(EIGHT, photometric="HSV"),
            "DICOM photometric interpretation HSV with 1 samples per pixel is not read",
        ),
        (
            lambda: dataset(COLOUR, photometric="MONOCHROME2"),
            "DICOM photometric interpretation MONOCHROME2 with 3 samples per pixel is not read",
        ),
        (lambda: dataset(EIGHT.astype(np.uint32)), "DICOM with 32 bits per sample; at most 16 are read"),
        (lambda: dataset(COLOUR.astype(np.uint16)), "DICOM with 16 bits per sample; at most 8 are read"),
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
            "DICOM with the VOI LUT function CUBIC is not read",
        ),
    ],
)
def test_a_file_that_is_not_read_says_why(path, made, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of writing invalid values
        made = made()
        save(path, made)
    assert refusal(path, path.read_bytes()) == reason


@pytest.mark.parametrize(
    "attributes",
    [
        {"RescaleSlope": "nan"},
        {"RescaleSlope": "inf"},
        {"RescaleIntercept": "inf"},
        {"WindowCenter": "nan", "WindowWidth": 5},
        {"WindowCenter": 5, "WindowWidth": "inf"},
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value")
def test_attributes_that_are_no_finite_numbers_are_refused(path, attributes):
    ((name, value),) = ((name, value) for name, value in attributes.items() if isinstance(value, str))
    assert refusal(path, dataset(TWELVE, **attributes)) == f"DICOM with a {name} of '{value}', which is not a number"


def test_numbers_whose_product_is_too_large_are_refused(path):
    reason = refusal(path, dataset(TWELVE, RescaleSlope="1e307"))
    assert reason == "cannot be decoded: the rescale slope, intercept or window is too large a number"


ELEMENTS = {
    "WindowCenter": (0x00281050, "DS"),
    "WindowWidth": (0x00281051, "DS"),
    "RescaleSlope": (0x00281053, "DS"),
    "RescaleIntercept": (0x00281052, "DS"),
    "NumberOfFrames": (0x00280008, "IS"),
}


@pytest.mark.parametrize("name", ELEMENTS)
@pytest.mark.parametrize("value", ["2048,0", "none", "1e", "12 34", "\\40", " \\40", "--5", "0x10", "1A"])
@pytest.mark.filterwarnings("ignore:Invalid value")
def test_an_attribute_that_is_not_a_number_is_refused_with_a_reason(path, name, value):
    """Stored with a decimal comma, as text, or as several values of which the first is empty."""
    made = dataset(TWELVE, bits=12, WindowCenter=2000, WindowWidth=1000)
    tag, kind = ELEMENTS[name]
    raw = value.encode() + b" " * (len(value) % 2)
    made[tag] = RawDataElement(Tag(tag), kind, len(raw), raw, 0, False, True)
    assert refusal(path, made) == f"DICOM with a {name} of {value.strip()!r}, which is not a number"


@pytest.mark.parametrize("codec", ["", "JPEG Lossless"])
@pytest.mark.parametrize(
    ("tag", "kind", "raw", "reason"),
    [
        (0x00280010, "US", b"\x18\0\x18\0", "a Rows of [24, 24], which is not one number"),
        (0x00280011, "LO", b"many", "a Columns of many, which is not one number"),
        (0x00280101, "US", b"\x0c\0\x0c\0", "a BitsStored of [12, 12], which is not one number"),
        (0x00280002, "US", b"\1\0\1\0", "a SamplesPerPixel of [1, 1], which is not one number"),
        (
            0x00280004,
            "CS",
            b"MONOCHROME2\\RGB ",
            "a PhotometricInterpretation of ['MONOCHROME2', 'RGB'], which is not one word",
        ),
        (0x00283000, "LO", b"abcd", "a ModalityLUTSequence that is no sequence"),
        (0x00283010, "LO", b"abcd", "a VOILUTSequence that is no sequence"),
    ],
)
def test_an_attribute_of_another_kind_is_refused_in_words(path, codec, tag, kind, raw, reason):
    frame = {"syntax": uid.JPEGLosslessSV1, "frame": lossless_jpeg(TWELVE, 12)} if codec else {}
    made = dataset(TWELVE, **frame, bits=12)
    made[tag] = RawDataElement(Tag(tag), kind, len(raw), raw, 0, False, True)
    assert refusal(path, made) == f"DICOM with {reason}"


@pytest.mark.parametrize("value", ["2048\\x", "2048", "2048.0 ", "+2.048E3\\"])
def test_of_several_numbers_the_first_counts(path, value):
    made = dataset(TWELVE, bits=12, WindowCenter=2048, WindowWidth=1000)
    exact = np.asarray(read(save(path, made)))
    raw = value.encode() + b" " * (len(value) % 2)
    made[0x00281050] = RawDataElement(Tag(0x00281050), "DS", len(raw), raw, 0, False, True)
    assert np.array_equal(np.asarray(read(save(path, made))), exact)


def test_values_further_apart_than_sixteen_bits_are_refused(path):
    made = dataset(TWELVE.astype(np.uint32) << 8, bits=16, BitsAllocated=32, HighBit=15)
    assert np.asarray(read(save(path, made))).max() == 255  # bits above 15 do not count


def test_a_frame_larger_than_the_file_says_is_refused_before_it_is_decoded(path):
    stream = bytearray(lossless_jpeg(EIGHT, 8))
    stream[7:11] = struct.pack(">HH", 65_000, 65_000)  # 4 GiB of pixels
    reason = refusal(path, dataset(EIGHT, uid.JPEGLosslessSV1, frame=bytes(stream)))
    assert reason == "DICOM of 32x24 pixels with 1 samples, but its stream has 65000x65000 with 1"


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.HTJ2KLossless])
@pytest.mark.parametrize("kind", ["palette", "bits", "size"])
def test_jpeg_2000_that_is_another_picture_than_its_samples_is_refused(path, syntax, kind):
    """Indices of a palette, 4 bits read as if they were 8, and colours that Pillow converts to RGB unasked."""
    pixels = EIGHT if kind == "palette" else COLOUR
    encode = imagecodecs.jpeg2k_encode if syntax == uid.JPEG2000Lossless else imagecodecs.htj2k_encode
    options = {"codecformat": "J2K", "mct": False} if syntax == uid.JPEG2000Lossless else {}
    stream = bytearray(encode(pixels, reversible=True, **options))
    made = dataset(pixels, syntax, frame=bytes(stream))
    read(save(path, made))
    if kind == "palette":
        stream = jp2(bytes(stream), 1, jp2_palette(TABLE))
    elif kind == "bits":
        stream[45] = 3
    else:
        stream[46:48] = b"\2\2"
    reason = refusal(path, dataset(pixels, syntax, frame=bytes(stream), photometric=made.PhotometricInterpretation))
    assert reason == "DICOM with JPEG 2000 of a palette, or of components that differ in bits or size, is not read"


@pytest.mark.parametrize("kind", small_files())
@pytest.mark.filterwarnings("error")
def test_damage_ends_in_an_image_or_in_one_line(path, kind, capfd, caplog):
    """120 files with a few changed bytes cause no crash, no other exception and no output on stderr."""
    save(path, small_files()[kind])
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
def test_harmless_oddities_cause_no_warning(path, capfd, caplog):
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
    monkeypatch.setitem(sys.modules, module, None)  # makes Python's import of the module fail
    assert refusal(path, made) == 'DICOM needs more packages: pip install "medistill[dicom]"'


def test_pictures_need_nothing_of_the_extra(tmp_path):
    Image.fromarray(EIGHT).save(tmp_path / "picture.png")
    code = "import sys; from medistill.images.decode import read; read(sys.argv[1]); print(*sys.modules)"
    command = [sys.executable, "-c", code, tmp_path / "picture.png"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert "PIL.PngImagePlugin" in loaded
    assert not {"pydicom", "imagecodecs"} & set(loaded)
