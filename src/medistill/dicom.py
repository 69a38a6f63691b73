"""DICOM files as pictures; `medistill.images.read` calls it when it meets one.

Needs the extra `dicom`: pydicom, and imagecodecs for JPEG Lossless and JPEG-LS.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from medistill.images import MAX_PIXELS, Refused, too_large

if TYPE_CHECKING:
    from pydicom import Dataset

TRANSFER_SYNTAXES = {
    "1.2.840.10008.1.2": "",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.1": "",  # Explicit VR Little Endian
    "1.2.840.10008.1.2.2": "",  # Explicit VR Big Endian
    "1.2.840.10008.1.2.5": "pydicom",  # RLE Lossless
    "1.2.840.10008.1.2.4.50": "pillow",  # JPEG Baseline
    "1.2.840.10008.1.2.4.57": "jpeg8",  # JPEG Lossless, process 14
    "1.2.840.10008.1.2.4.70": "jpeg8",  # JPEG Lossless, process 14, selection value 1
    "1.2.840.10008.1.2.4.80": "jpegls",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.81": "jpegls",  # JPEG-LS Near-lossless
    "1.2.840.10008.1.2.4.90": "pillow",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.91": "pillow",  # JPEG 2000
}
"""DICOM transfer syntaxes that are read, and what decodes each: a plugin of pydicom, a codec of imagecodecs or nothing.

Deflated ones are not: pydicom unpacks them whole before anything of them is known.
"""


def read_dicom(file: BinaryIO) -> Image.Image:
    """Read the one frame of a DICOM file, 8-bit grey or RGB; `medistill.images.read` says how greys are shown.

    Raises:
        Refused: the file is not tried, or a package is missing.
        Exception: the file is damaged.
    """
    try:
        import pydicom
        from pydicom.filereader import read_file_meta_info
        from pydicom.pixels import apply_color_lut
    except ModuleNotFoundError:
        raise Refused(_NEEDS_EXTRA) from None
    with _quiet_pydicom():
        syntax = read_file_meta_info(file.name).get("TransferSyntaxUID")
        if syntax not in TRANSFER_SYNTAXES:
            raise Refused(f"DICOM transfer syntax {syntax.name if syntax else '(none)'} is not read")
        header = pydicom.dcmread(file, stop_before_pixels=True)  # what is refused by it need not fit into memory
        _check_header(header, has_pixels=file.read(1) != b"")
        file.seek(0)
        dataset = pydicom.dcmread(file)
        if "PixelData" not in dataset:
            raise Refused(_TRUNCATED)
        pixels = _decode_pixels(dataset)
        if dataset.PhotometricInterpretation in _GREY:
            return Image.fromarray(_shown_greys(pixels, dataset))
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, dataset)[..., :3]
            if pixels.dtype == np.uint16:
                pixels >>= 8
        return Image.fromarray(pixels.astype(np.uint8))


_NEEDS_EXTRA = 'DICOM needs more packages: pip install "medistill[dicom]"'

_TRUNCATED = "DICOM is truncated"

_GREY = ("MONOCHROME1", "MONOCHROME2")

_SAMPLES = {
    **dict.fromkeys((*_GREY, "PALETTE COLOR"), 1),
    **dict.fromkeys(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"), 3),
}
"""Photometric interpretations that are read, and the samples a pixel of each."""


@contextlib.contextmanager
def _quiet_pydicom() -> Iterator[None]:
    """pydicom tells of each oddity twice, by `warnings` and by its logger; what counts becomes an exception anyway."""
    logger = logging.getLogger("pydicom")
    propagate, logger.propagate = logger.propagate, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.propagate = propagate


def _check_header(header: "Dataset", *, has_pixels: bool) -> None:
    """Refuse what cannot or must not be decoded; `has_pixels`: something follows the header."""
    if not has_pixels:
        raise Refused(_TRUNCATED if "Rows" in header else "DICOM without an image")
    for name in ("Rows", "Columns", "BitsStored", "SamplesPerPixel", "PhotometricInterpretation"):
        if not header.get(name):
            raise Refused(f"DICOM without {name}")
    if (frames := int(header.get("NumberOfFrames") or 1)) > 1:
        raise Refused(f"DICOM with {frames} frames; only single ones are read")
    if header.Rows * header.Columns > MAX_PIXELS:
        raise Refused(too_large(f"{header.Columns}x{header.Rows} pixels"))
    photometric, samples = header.PhotometricInterpretation, header.SamplesPerPixel
    if _SAMPLES.get(photometric) != samples:
        raise Refused(f"DICOM photometric interpretation {photometric} with {samples} samples a pixel is not read")
    if header.BitsStored > (limit := 16 if samples == 1 else 8):
        raise Refused(f"DICOM with {header.BitsStored} bits a sample; at most {limit} are read")


def _decode_pixels(dataset: "Dataset") -> np.ndarray:
    """Stored values, (H, W), or colours as RGB, (H, W, 3)."""
    from pydicom.encaps import get_frame
    from pydicom.pixels import pixel_array
    from pydicom.uid import ExplicitVRLittleEndian

    decoder = TRANSFER_SYNTAXES[dataset.file_meta.TransferSyntaxUID]
    if decoder in ("pillow", "jpeg8", "jpegls"):
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        if not frame.rstrip(b"\0").endswith(b"\xff\xd9"):  # ends all kinds of JPEG; not every decoder minds
            raise Refused(_TRUNCATED)
        if decoder != "pillow":  # pydicom cannot call imagecodecs, so it is given what comes out
            pixels = _decode_lossless(frame, dataset, decoder)
            dataset.PixelData = pixels.tobytes()
            dataset.BitsAllocated = 8 * pixels.itemsize
            dataset.PlanarConfiguration = 0
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            decoder = ""
    return pixel_array(dataset, index=0, decoding_plugin=decoder)


def _decode_lossless(frame: bytes, dataset: "Dataset", codec: str) -> np.ndarray:
    """Decode JPEG Lossless (`jpeg8`) or JPEG-LS (`jpegls`): uint8 or uint16, (H, W) or (H, W, 3).

    By imagecodecs (libjpeg-turbo, CharLS) and not by GDCM, which pydicom would take: damaged headers make GDCM end the
    process, and with it all that the process still had to decode.
    """
    try:
        import imagecodecs
    except ModuleNotFoundError:
        raise Refused(_NEEDS_EXTRA) from None
    shape = (dataset.Rows, dataset.Columns, dataset.SamplesPerPixel)[: 3 if dataset.SamplesPerPixel > 1 else 2]
    # The decoders refuse an array of another shape, so a frame cannot be larger than its file says
    pixels = np.empty(shape, np.uint8 if dataset.BitsStored <= 8 else np.uint16)
    return getattr(imagecodecs, f"{codec}_decode")(frame, out=pixels)


def _shown_greys(stored: np.ndarray, dataset: "Dataset") -> np.ndarray:
    """Stored values (H, W) as uint8 (H, W), 0 black: modality LUT, VOI LUT or window, polarity (PS3.3 C.11)."""
    index = stored.astype(np.int32)
    low = int(index.min())
    index -= low
    levels = low + np.arange(index.max() + 1)  # at most 65,536: one look-up a pixel replaces the arithmetic on each
    values = _modality_values(levels, dataset)
    shares = _voi_shares(values, dataset)
    if shares is None:
        occurs = np.zeros(len(levels), bool)
        occurs[index] = True
        shares = _range_shares(values, occurs & ~_is_padding(levels, dataset))
    if not np.isfinite([values, shares]).all():
        raise ValueError("the rescale slope, intercept or window is not a number")
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shares = 1 - shares
    return np.rint(255 * shares).astype(np.uint8)[index]


def _modality_values(levels: np.ndarray, dataset: "Dataset") -> np.ndarray:
    """Stored values in the modality's own units (PS3.3 C.11.1)."""
    if dataset.get("ModalityLUTSequence"):
        return _look_up(levels, dataset.ModalityLUTSequence[0], dataset)
    return levels * _number(dataset, "RescaleSlope", 1) + _number(dataset, "RescaleIntercept", 0)


def _voi_shares(values: np.ndarray, dataset: "Dataset") -> np.ndarray | None:
    """Values as shares 0..1 of the range shown, by the VOI LUT or the first window; None if there is neither."""
    if dataset.get("VOILUTSequence"):
        item = dataset.VOILUTSequence[0]
        return np.clip(_look_up(values, item, dataset) / (2.0 ** item.LUTDescriptor[2] - 1), 0, 1)
    center, width = _number(dataset, "WindowCenter"), _number(dataset, "WindowWidth")
    if center is None or width is None:
        return None
    function = dataset.get("VOILUTFunction") or "LINEAR"
    if function == "SIGMOID" and width > 0:  # C.11.2.1.3.1, as a tanh, which cannot overflow
        return 0.5 + 0.5 * np.tanh(2 * (values - center) / width)
    if function == "LINEAR" and width >= 1:  # C.11.2.1.2.1
        center, width = center - 0.5, width - 1
    elif function != "LINEAR_EXACT" or width <= 0:  # C.11.2.1.3.2
        raise Refused(f"DICOM with a window width of {width:g} for the VOI LUT function {function}")
    if width == 0:
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _range_shares(values: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Values as shares 0..1 of the range of those that are `shown`; the others are clipped to it."""
    if not shown.any():
        return np.zeros(len(values))
    low, high = values[shown].min(), values[shown].max()
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros(len(values))


def _is_padding(levels: np.ndarray, dataset: "Dataset") -> np.ndarray:
    """Which stored values only fill up the rectangle (PS3.3 C.7.5.1.1.2)."""
    padding = _number(dataset, "PixelPaddingValue")
    if padding is None:
        return np.zeros(len(levels), bool)
    low, high = sorted((padding, _number(dataset, "PixelPaddingRangeLimit", padding)))
    return (levels >= low) & (levels <= high)


def _number(dataset: "Dataset", name: str, default: float | None = None) -> float | None:
    """An attribute's value, of several the first; `default` where it is absent or empty."""
    value = dataset.get(name)
    return default if value is None else float(np.ravel(value)[0])


def _look_up(values: np.ndarray, item: "Dataset", dataset: "Dataset") -> np.ndarray:
    """Entries, float64, of a modality or VOI LUT (PS3.3 C.11.1.1.1); values outside take its first or last.

    pydicom's own look-up computes an index into 8-bit entries in 8 bits, so it wraps around.
    """
    count, first, bits = (int(number) for number in item.LUTDescriptor)
    count = count or 2**16
    entries = item.LUTData
    if isinstance(entries, bytes):  # VR OW
        is_packed = bits == 8 and len(entries) < 2 * count
        _, little_endian = dataset.original_encoding
        entries = np.frombuffer(entries, np.uint8 if is_packed else "<u2" if little_endian else ">u2")
    entries = np.ravel(entries)
    if len(entries) < count:
        raise ValueError(f"a look-up table has {len(entries)} of its {count} entries")
    return entries[np.clip(np.rint(values).astype(np.int64) - first, 0, count - 1)].astype(np.float64)
