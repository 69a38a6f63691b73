"""`medistill.images` on DICOM against other programs: GDCM by way of pydicom, and dcmtk of Debian."""

import shutil
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pydicom.data
import pytest
from PIL import Image
from pydicom import uid

from medistill.images.decode import read
from medistill.images.errors import ImageError
from tests.dicoms import COLOUR, EIGHT, TWELVE, dataset, linear, lossless_jpeg, lut, pillow, run_lengths, save

SHIPPED = Path(pydicom.data.__file__).parent / "test_files"


def made_files():
    """Files of every compression that both programs know, and with attributes that decide about the picture."""
    window = {"bits": 12, "WindowCenter": 1800, "WindowWidth": 2500}
    signed = TWELVE.astype(np.int16) - 2000
    deep = imagecodecs.jpeg2k_encode(TWELVE, level=0, codecformat="J2K", bitspersample=12, reversible=True)
    curve = np.rint(4095 * (np.arange(3000) / 2999) ** 2).astype(int).tolist()
    return {
        "plain": dataset(TWELVE, **window),
        "big endian": dataset(TWELVE, uid.ExplicitVRBigEndian, **window),
        "deflated": dataset(TWELVE, uid.DeflatedExplicitVRLittleEndian, **window),
        "inverted": dataset(TWELVE, photometric="MONOCHROME1", **window),
        "signed": dataset(signed, bits=12, WindowCenter=0, WindowWidth=3000),
        "rescaled": dataset(TWELVE, RescaleSlope=0.5, RescaleIntercept=900, **window),
        "high bit 15": dataset(TWELVE << 4, HighBit=15, **window),
        "high bit 13": dataset(TWELVE << 2 | 0xC003, HighBit=13, **window),
        "signed high bit 15": dataset(signed << 4, bits=12, HighBit=15, WindowCenter=0, WindowWidth=3000),
        "run lengths": dataset(TWELVE, uid.RLELossless, frame=run_lengths(TWELVE), **window),
        "run lengths, high bit": dataset(
            TWELVE << 4, uid.RLELossless, frame=run_lengths(TWELVE << 4), HighBit=15, **window
        ),
        "lossless": dataset(TWELVE, uid.JPEGLosslessSV1, frame=lossless_jpeg(TWELVE, 12), **window),
        "lossless of 16": dataset(TWELVE, uid.JPEGLosslessSV1, frame=lossless_jpeg(TWELVE, 16), **window),
        "lossless, high bit": dataset(
            TWELVE, uid.JPEGLosslessSV1, frame=lossless_jpeg(TWELVE << 4, 16), HighBit=15, **window
        ),
        "lossless in colour": dataset(COLOUR, uid.JPEGLosslessSV1, frame=lossless_jpeg(COLOUR, 8)),
        "baseline": dataset(
            EIGHT, uid.JPEGBaseline8Bit, frame=pillow(EIGHT, "JPEG"), WindowCenter=128, WindowWidth=256
        ),
        "baseline in colour": dataset(
            COLOUR, uid.JPEGBaseline8Bit, frame=pillow(COLOUR, "JPEG", quality=95), photometric="YBR_FULL_422"
        ),
        "ls": dataset(TWELVE, uid.JPEGLSLossless, frame=imagecodecs.jpegls_encode(TWELVE), **window),
        "ls in colour": dataset(COLOUR, uid.JPEGLSLossless, frame=imagecodecs.jpegls_encode(COLOUR)),
        "2000": dataset(TWELVE, uid.JPEG2000Lossless, frame=deep, **window),
        "extended": dataset(TWELVE, uid.JPEGExtended12Bit, frame=imagecodecs.jpeg8_encode(TWELVE), **window),
        "voi lut": dataset(TWELVE, bits=12, VOILUTSequence=lut(curve, 500, 12)),
        "modality lut": dataset(TWELVE, ModalityLUTSequence=lut(curve, 500, 12), **window),
        "colour": dataset(COLOUR),
        "six bits of colour": dataset(COLOUR >> 2, bits=6),
    }


BY_GDCM = """
import logging, sys, warnings
import numpy, pydicom
from pydicom.pixels import pixel_array
warnings.simplefilter("ignore")
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
arrays = {}
for path in sys.argv[2:]:
    data = pydicom.dcmread(path)
    plugin = "gdcm" if data.file_meta.TransferSyntaxUID.is_encapsulated else ""
    try:
        arrays[path] = pixel_array(data, index=0, decoding_plugin=plugin)
    except Exception:
        pass  # 12-bit JPEG Extended, for one
numpy.savez(sys.argv[1], **arrays)
"""


def shown(values, data):
    """How a viewer shows values or RGB (PS3.3 C.11), without tables."""
    if values.ndim == 3:
        return values.astype(float)
    values = values * float(data.get("RescaleSlope") or 1) + float(data.get("RescaleIntercept") or 0)
    if data.get("WindowCenter") is not None:
        center, width = (float(np.ravel(data[name].value)[0]) for name in ("WindowCenter", "WindowWidth"))
        levels, places = np.unique(values, return_inverse=True)
        result = linear(levels, center, width)[places].reshape(values.shape)
    else:
        result = (values - values.min()) / max(1e-9, np.ptp(values)) * 255
    return 255 - result if data.PhotometricInterpretation == "MONOCHROME1" else result


@pytest.mark.filterwarnings("ignore:Expected explicit VR")
def test_compressed_files_are_what_gdcm_reads(tmp_path):
    """Files made here and those in pydicom's package; in a process of its own, as damaged files could crash GDCM."""
    pytest.importorskip("gdcm", reason="python-gdcm is not installed: pip install -e '.[dev]'")
    known = {name: data for name, data in made_files().items() if "high bit" not in name and "six" not in name}
    made = [save(tmp_path / f"{name}.dcm", data) for name, data in known.items()]
    shipped = [path for path in sorted(SHIPPED.glob("*.dcm")) if is_compressed_and_read(path)]
    paths = [str(path) for path in [*made, *shipped]]
    subprocess.run([sys.executable, "-c", BY_GDCM, tmp_path / "gdcm.npz", *paths], check=True)
    compared = 0
    with np.load(tmp_path / "gdcm.npz") as arrays:
        for path in arrays.files:
            data = pydicom.dcmread(path, stop_before_pixels=True)
            if "ModalityLUTSequence" in data or "VOILUTSequence" in data:
                continue
            difference = np.abs(np.asarray(read(path)) - shown(arrays[path], data)).max()
            assert difference <= 1, path
            compared += 1
    assert compared > 35


def is_compressed_and_read(path):
    try:
        read(path)
        return pydicom.filereader.read_file_meta_info(str(path)).TransferSyntaxUID.is_encapsulated
    except ImageError:
        return False


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Expected explicit VR")
def test_pictures_are_those_that_dcmtk_shows(tmp_path):
    program = shutil.which("dcmj2pnm") or shutil.which("dcm2img")
    if program is None:
        pytest.skip("dcmtk is not installed: apt-get install dcmtk")
    paths = [save(tmp_path / f"{name}.dcm", data) for name, data in made_files().items()]
    paths += [path for path in sorted(SHIPPED.rglob("*")) if path.is_file()]
    compared = []
    for path in paths:
        try:
            mine = np.asarray(read(path)).astype(int)
        except ImageError:
            continue
        data = pydicom.dcmread(path, stop_before_pixels=True)
        options = []
        if data.PhotometricInterpretation.startswith("MONOCHROME"):
            has_window = data.get("WindowCenter") is not None and data.get("WindowWidth") is not None
            options = ["+Wl", "1"] if "VOILUTSequence" in data else ["+Wi", "1"] if has_window else ["+Wm"]
        # -O: without overlays
        command = [program, *options, "-O", "+op", "-q", str(path), str(tmp_path / "shown.pnm")]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            continue  # dcmtk lacks JPEG 2000 and JPEG-LS, for instance
        theirs = np.asarray(Image.open(tmp_path / "shown.pnm")).astype(int)
        assert theirs.shape == mine.shape, path
        assert np.abs(theirs - mine).max() <= 2, path
        compared.append(path)
    assert len(compared) > 75
