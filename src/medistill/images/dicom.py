"""DICOM files as pictures; `decode.read` calls it when it meets one.

Needs the extra `dicom`: pydicom, and imagecodecs for compressed files. docs/data.md has the table of attributes and
syntaxes that are read.
"""

import contextlib
import io
import logging
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from medistill.images.codestream import CutOff, Stream, read_jpeg, read_jpeg_2000
from medistill.images.dicom_display import number, shown_greys, shown_palette
from medistill.images.errors import Refused
from medistill.images.limits import MAX_BYTES, require_size, strips

if TYPE_CHECKING:
    from pydicom import Dataset

TRANSFER_SYNTAXES = {
    "1.2.840.10008.1.2": "",  # Implicit VR Little Endian
    "1.2.840.10008.1.2.1": "",  # Explicit VR Little Endian
    "1.2.840.10008.1.2.1.99": "",  # Deflated Explicit VR Little Endian
    "1.2.840.10008.1.2.2": "",  # Explicit VR Big Endian
    "1.2.840.10008.1.2.5": "pydicom",  # RLE Lossless
    "1.2.840.10008.1.2.4.50": "jpeg8",  # JPEG Baseline
    "1.2.840.10008.1.2.4.51": "jpeg8",  # JPEG Extended, 8 or 12 bits
    "1.2.840.10008.1.2.4.57": "jpeg8",  # JPEG Lossless, process 14
    "1.2.840.10008.1.2.4.70": "jpeg8",  # JPEG Lossless, process 14, selection value 1
    "1.2.840.10008.1.2.4.80": "jpegls",  # JPEG-LS Lossless
    "1.2.840.10008.1.2.4.81": "jpegls",  # JPEG-LS Near-lossless
    "1.2.840.10008.1.2.4.90": "jpeg2k",  # JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.91": "jpeg2k",  # JPEG 2000
    "1.2.840.10008.1.2.4.201": "htj2k",  # High-Throughput JPEG 2000 Lossless
    "1.2.840.10008.1.2.4.202": "htj2k",  # High-Throughput JPEG 2000 Lossless, RPCL
    "1.2.840.10008.1.2.4.203": "htj2k",  # High-Throughput JPEG 2000
    "1.2.840.10008.1.2.4.110": "jpegxl",  # JPEG XL Lossless
    "1.2.840.10008.1.2.4.111": "jpegxl",  # JPEG XL of a JPEG
    "1.2.840.10008.1.2.4.112": "jpegxl",  # JPEG XL
}
"""DICOM transfer syntaxes that are read, with their decoders: a codec of imagecodecs, pydicom's run-length decoder, or
none. JPEG 2000 is Pillow's first; see `_decode_jpeg_2000`."""

_DEFLATED = "1.2.840.10008.1.2.1.99"

_BYTES_PER_PIXEL = {
    "": (6, 9),
    "pydicom": (7, 9),
    "jpeg8": (7, 12),
    "jpegls": (7, 9),
    "jpeg2k": (9, 20),
    "htj2k": (7, 9),
    "jpegxl": (9, 18),
}
"""Most bytes per pixel that decoding takes, measured, for greys and for colours; compressed files take more."""


def read_dicom(file: BinaryIO, memory: float) -> Image.Image:
    """Read the one frame of a DICOM file, 8-bit grey or RGB; `medistill.images.decode.read` says how greys are shown.

    Args:
        file: open, at its beginning.
        memory: bytes that decoding may take, if less than `MAX_BYTES`.

    Raises:
        Refused: the file's kind is not read, or a package is missing.
        Exception: the file is damaged.
    """
    try:
        from pydicom import filereader
        from pydicom.encaps import parse_basic_offsets
    except ModuleNotFoundError:
        raise Refused(_NEEDS_EXTRA) from None
    with _quiet_pydicom():
        syntax = filereader.read_file_meta_info(file.name).get("TransferSyntaxUID")
        if syntax not in TRANSFER_SYNTAXES:
            raise Refused(f"DICOM transfer syntax {syntax.name if syntax else '(none)'} is not read")
        if syntax == _DEFLATED:
            file = _inflated(file)
        codec = TRANSFER_SYNTAXES[syntax]
        # files that are refused by their header need not fit into memory
        header = filereader.read_partial(file, _is_at_pixels, defer_size=_LARGE)
        has_pixels = file.read(1) != b""
        size = file.seek(0, io.SEEK_END)
        _check_header(header, codec, has_pixels=has_pixels)
        _check_size(header, codec, size=2 * size if syntax == _DEFLATED else size, memory=memory)
        file.seek(0)
        dataset = filereader.read_partial(file, _is_behind_pixels)
        if "PixelData" not in dataset:
            is_float = "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset
            raise Refused("DICOM with pixels of floating point numbers is not read" if is_float else _TRUNCATED)
        if codec and len(parse_basic_offsets(dataset.PixelData)) > 1:
            raise Refused(_SEVERAL)
        pixels = _native_pixels(dataset, codec) if codec in ("", "pydicom") else _decompressed_pixels(dataset, codec)
        del dataset.PixelData
        if dataset.PhotometricInterpretation in _GREY:
            return Image.fromarray(shown_greys(pixels, dataset))
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            return Image.fromarray(shown_palette(pixels, dataset))
        return Image.fromarray(pixels)


_LARGE = 2**20
"""Longest attribute in bytes that is skipped before the size of the pixels is known."""


def _is_at_pixels(tag: int, vr: str | None, length: int) -> bool:
    """Whether the header ends here: with pixels, or with zeros in the place of attributes, maybe very many."""
    return tag in (0x7FE00008, 0x7FE00009, 0x7FE00010) or tag < 0x10000


def _is_behind_pixels(tag: int, vr: str | None, length: int) -> bool:
    return tag > 0x7FE00010 or tag < 0x10000


_NEEDS_EXTRA = 'DICOM needs more packages: pip install "medistill[dicom]"'

_TRUNCATED = "DICOM is truncated"

_SEVERAL = "DICOM with one frame that holds several images is not read"

_GREY = ("MONOCHROME1", "MONOCHROME2")

_YBR = ("YBR_FULL", "YBR_FULL_422")

_OF_JPEG_2000 = ("YBR_ICT", "YBR_RCT")
"""Colours as JPEG 2000 transforms them inside; its decoders give RGB."""

_SAMPLES = {**dict.fromkeys((*_GREY, "PALETTE COLOR"), 1), **dict.fromkeys(("RGB", *_YBR, *_OF_JPEG_2000, "XYB"), 3)}
"""Photometric interpretations that are read, and the samples per pixel of each."""


_CODECS_OF = {**dict.fromkeys(_OF_JPEG_2000, ("jpeg2k", "htj2k")), "XYB": ("jpegxl",)}
"""Photometric interpretations that are valid only in these compressions."""


@contextlib.contextmanager
def _quiet_pydicom() -> Iterator[None]:
    """Silence pydicom, which reports oddities twice, by `warnings` and by its logger; errors raise anyway."""
    logger = logging.getLogger("pydicom")
    propagate, logger.propagate = logger.propagate, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.propagate = propagate


def _inflated(file: BinaryIO) -> BinaryIO:
    """A deflated file, inflated up to a limit; pydicom would unpack it whole, however large it is."""
    file.seek(128)
    head = file.read(16)
    if head[4:12] != b"\2\0\0\0UL\4\0":
        raise Refused("DICOM that does not say how long its file meta information is")
    meta = file.read(int.from_bytes(head[12:], "little"))
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    packed = file.read(MAX_BYTES // 4)
    content = unpacker.decompress(packed, MAX_BYTES // 4)
    if unpacker.unconsumed_tail or (len(packed) == MAX_BYTES // 4 and not unpacker.eof):
        raise Refused(f"DICOM that unpacks to more than {MAX_BYTES // 4_000_000} MB")
    if not unpacker.eof:
        raise Refused(_TRUNCATED)
    plain = _DEFLATED.removesuffix(".99").ljust(len(_DEFLATED), "\0")
    return io.BytesIO(bytes(128) + head + meta.replace(_DEFLATED.encode(), plain.encode()) + content)


def _check_header(header: "Dataset", codec: str, *, has_pixels: bool) -> None:
    """Refuse files that cannot or must not be decoded.

    Args:
        header: all attributes before the pixels.
        codec: the decoder of the pixels.
        has_pixels: whether anything follows the header.
    """
    if not has_pixels:
        raise Refused(_TRUNCATED if "Rows" in header else "DICOM without an image")
    needed = ("Rows", "Columns", "BitsStored", "SamplesPerPixel", "PhotometricInterpretation")
    for name in needed if codec not in ("", "pydicom") else (*needed, "BitsAllocated"):
        if not header.get(name):
            raise Refused(f"DICOM without {name}")
        is_word = name == "PhotometricInterpretation"
        if not isinstance(value := header.get(name), str if is_word else (int, float)):
            raise Refused(f"DICOM with a {name} of {value}, which is not one {'word' if is_word else 'number'}")
    if (frames := number(header, "NumberOfFrames", 1)) > 1:
        raise Refused(f"DICOM with {frames:g} frames; only single ones are read")
    photometric, samples = header.PhotometricInterpretation, header.SamplesPerPixel
    if _SAMPLES.get(photometric) != samples:
        raise Refused(f"DICOM photometric interpretation {photometric} with {samples} samples per pixel is not read")
    if codec not in _CODECS_OF.get(photometric, (codec,)):
        raise Refused(f"DICOM photometric interpretation {photometric} without its compression is not read")
    _check_bits(header.BitsStored, samples)
    if header.get("PixelRepresentation") not in (0, 1):
        raise Refused(f"DICOM with a PixelRepresentation of {header.get('PixelRepresentation')}, which is not 0 or 1")


def _check_size(header: "Dataset", codec: str, *, size: int, memory: float) -> None:
    """Refuse files that take too much memory.

    Args:
        header: as for `_check_header`, which must have been called.
        codec: what decodes the pixels.
        size: bytes that are in memory beside the pixels: the file's, once more if they were unpacked.
        memory: as for `read_dicom`.
    """
    pixels, samples = header.Columns * header.Rows, header.SamplesPerPixel
    per_pixel = _BYTES_PER_PIXEL[codec][header.PhotometricInterpretation not in _GREY]
    beside = 3 * size if codec else max(0, size - pixels * samples * header.BitsAllocated // 8)
    require_size(header.Columns, header.Rows, pixels * per_pixel + beside, memory)


def _check_bits(bits: int, samples: int) -> None:
    if bits > (limit := 16 if samples == 1 else 8):
        raise Refused(f"DICOM with {bits} bits per sample; at most {limit} are read")


def _bits_below(dataset: "Dataset", width: int) -> int:
    """How many of the `width` bits of a sample lie below those stored, which end at the high bit (PS3.5 8.1.1)."""
    stored: int = dataset.BitsStored
    high = int(number(dataset, "HighBit", stored - 1))
    if high == stored - 1 or stored == width:
        return 0
    if not stored <= high < width:
        raise Refused(f"DICOM whose {stored} bits stored cannot end at the HighBit {high} of {width} bits")
    return high + 1 - stored


def _native_pixels(dataset: "Dataset", plugin: str) -> np.ndarray:
    """Stored values, (H, W), or colours as RGB, uint8 (H, W, 3), of pixels that are plain or run lengths."""
    from pydicom.pixels import pixel_array

    stored, allocated, samples = dataset.BitsStored, dataset.BitsAllocated, dataset.SamplesPerPixel
    if not plugin:
        needed = -(-dataset.Rows * dataset.Columns * samples * allocated // 8)
        if len(dataset.PixelData) >= max(2 * needed, needed + 2):  # a little more is padding
            raise Refused(f"DICOM with {len(dataset.PixelData)} bytes of pixels, but its attributes need {needed}")
    if stored > allocated:
        raise Refused(f"DICOM with {stored} bits stored of {allocated} allocated")
    if allocated == 1 and not dataset.original_encoding[1] and dataset["PixelData"].VR == "OW":
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()  # 16 pixels are a word
    pixels = pixel_array(dataset, index=0, decoding_plugin=plugin, raw=True, correct_unused_bits=False)
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if allocated > 1:  # bits above and below those stored may hold anything, such as an overlay
        unused = 8 * pixels.itemsize - stored
        np.left_shift(pixels, unused - _bits_below(dataset, allocated), out=pixels)
        np.right_shift(pixels, unused, out=pixels)
    if samples == 1:
        return pixels
    return _as_rgb(pixels.astype(np.uint8, copy=False), stored, dataset.PhotometricInterpretation)


def _decompressed_pixels(dataset: "Dataset", codec: str) -> np.ndarray:
    """As `_native_pixels`, of a compressed frame.

    By imagecodecs and not by GDCM, which pydicom would use: damaged headers make GDCM end the process, before it has
    decoded its other files.
    """
    from pydicom.encaps import get_frame

    try:
        import imagecodecs
    except ModuleNotFoundError:
        raise Refused(_NEEDS_EXTRA) from None
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = b""
    decode = getattr(imagecodecs, f"{codec}_decode")
    if codec == "jpegxl":
        return _decode_jpeg_xl(frame, dataset, decode)
    try:
        stream = read_jpeg(frame) if codec in ("jpeg8", "jpegls") else read_jpeg_2000(frame)
    except CutOff:
        raise Refused(_TRUNCATED) from None
    del frame
    _check_stream(stream, dataset)
    if codec == "jpeg2k":
        return _decode_jpeg_2000(stream, dataset, decode)
    if codec == "jpeg8":
        pixels = _decode_jpeg(stream, decode)
    elif codec == "jpegls":
        pixels = decode(stream.content, out=_empty(stream))
    else:
        pixels = decode(stream.content, planar=False, out=_empty(stream))
    return _interpreted(pixels, stream, dataset)


def _check_stream(stream: Stream, dataset: "Dataset") -> None:
    """Refuse a stream that does not match the attributes."""
    described = (dataset.Columns, dataset.Rows, dataset.SamplesPerPixel)
    if (stream.columns, stream.rows, stream.samples) != described:
        raise Refused(
            "DICOM of {}x{} pixels with {} samples, but its stream has {}x{} with {}".format(
                *described, stream.columns, stream.rows, stream.samples
            )
        )
    _check_bits(stream.bits, stream.samples)
    # decoders treat negative values differently: they add, wrap or keep
    if stream.is_signed and dataset.PixelRepresentation == 0:
        raise Refused("DICOM with PixelRepresentation 0 (unsigned), but a stream of signed values")
    if stream.is_mixed or stream.is_subsampled or stream.palette:
        raise Refused("DICOM with JPEG 2000 of a palette, or of components that differ in bits or size, is not read")
    if any(start in stream.rest for start in (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")):
        raise Refused(_SEVERAL)


def _empty(stream: Stream) -> np.ndarray:
    """The array that a stream is decoded into; decoders refuse a stream of another shape, so memory stays bounded."""
    shape: tuple[int, ...] = (stream.rows, stream.columns)
    if stream.samples > 1:
        shape = (stream.samples, *shape) if stream.is_planar else (*shape, stream.samples)
    return np.empty(shape, f"{'i' if stream.is_signed else 'u'}{1 if stream.bits <= 8 else 2}")


_FILLING = b"\xa5\x5a" * 8 + b"".join(b"\xff" + bytes([0xD0 + i]) + b"\xa5\x5a" * 8 for i in range(8))
"""Bits beyond the end of a picture: not the 0 that a decoder fills up with, and preceded by restart markers."""


def _decode_jpeg(stream: Stream, decode: Callable[..., np.ndarray]) -> np.ndarray:
    """Samples of a JPEG stream as they are stored, uint8 or uint16 (H, W) or (H, W, 3).

    The decoder silently fills pixels that are missing before an end marker with grey. So the stream is decoded again
    with some bits added before that marker: pixels that change were not in the stream.
    """
    # equal colour spaces: no conversion
    colours = {"colorspace": "RGB", "outcolorspace": "RGB"} if stream.samples == 3 else {}
    pixels = decode(stream.content, out=_empty(replace(stream, is_planar=False)), **colours)
    longer = stream.content[:-2] + _FILLING + stream.content[-2:]
    if not np.array_equal(pixels, decode(longer, **colours)):
        raise Refused(_TRUNCATED)
    return pixels


def _decode_jpeg_2000(stream: Stream, dataset: "Dataset", decode: Callable[..., np.ndarray]) -> np.ndarray:
    """Pixels of a JPEG 2000 stream by Pillow, or by imagecodecs: Pillow cannot read tiles whose parts are mixed."""
    from pydicom.encaps import encapsulate
    from pydicom.pixels import pixel_array

    stored = dataset.BitsStored
    below = _bits_below(dataset, stream.bits) if stream.samples == 1 else 0
    dataset.PixelData = encapsulate([stream.content])
    dataset.BitsAllocated, dataset.BitsStored = 8 if stream.bits <= 8 else 16, stream.bits
    try:
        pixels = pixel_array(dataset, index=0, decoding_plugin="pillow", raw=True)
    except RuntimeError:
        dataset.BitsStored = stored
        return _interpreted(decode(stream.content, out=_empty(stream)), stream, dataset)
    if stream.samples == 3:
        return _as_rgb(pixels.astype(np.uint8, copy=False), stream.bits, _colours_of(stream, dataset))
    return pixels >> below if below else pixels


def _decode_jpeg_xl(frame: bytes, dataset: "Dataset", decode: Callable[..., np.ndarray]) -> np.ndarray:
    """As `_decompressed_pixels`; the decoder itself sees whether a stream is whole, and gives RGB."""
    samples, stored = dataset.SamplesPerPixel, dataset.BitsStored
    if dataset.PixelRepresentation == 1 or _bits_below(dataset, 16):
        raise Refused("DICOM with signed or shifted values in JPEG XL is not read")
    shape = (dataset.Rows, dataset.Columns, samples)[: 3 if samples > 1 else 2]
    errors = []
    for kind in ("u1", "u2") if stored <= 8 else ("u2", "u1"):  # the stream's own, which the attributes may not say
        try:
            pixels = decode(frame, numthreads=1, out=np.empty(shape, kind))
        except ValueError as error:
            errors.append(error)
        except RuntimeError as error:
            if "NEED_MORE_INPUT" in str(error):
                raise Refused(_TRUNCATED) from None
            raise
        else:
            _check_bits(8 * pixels.itemsize, samples)
            return pixels if samples == 1 else _as_rgb(pixels, stored, "RGB")
    raise errors[0]


def _interpreted(pixels: np.ndarray, stream: Stream, dataset: "Dataset") -> np.ndarray:
    """Decoded samples as stored values, signed where PixelRepresentation says so, or as RGB.

    The stream says how many bits its samples have; BitsStored may differ.
    """
    if stream.samples == 3:
        return _as_rgb(pixels.view(np.uint8), stream.bits, _colours_of(stream, dataset))
    stored, bits = dataset.BitsStored, stream.bits
    is_signed = dataset.PixelRepresentation == 1
    below = _bits_below(dataset, bits)
    values = pixels.view(f"u{pixels.itemsize}")
    if below:
        bits = stored
    elif is_signed and not stream.is_signed and bits != stored:
        highest = values.max()
        if bits < stored and highest >= 2 ** (bits - 1):
            raise Refused(f"DICOM with signed values of {stored} bits in a stream of {bits}")
        if bits > stored and highest < 2**stored:  # or else the sign is at the stream's highest bit
            bits = stored
    elif bits > stored and not is_signed and _has_overlay_in_pixels(dataset):
        bits = stored
    unused = 8 * values.itemsize - bits
    values = np.left_shift(values, unused - below)
    shifted: np.ndarray = np.right_shift(values.view(f"i{values.itemsize}") if is_signed else values, unused)
    return shifted


def _has_overlay_in_pixels(dataset: "Dataset") -> bool:
    """Whether the bits above those stored hold a drawing (PS3.3 C.9.2, retired)."""
    return any(dataset.get((group, 0x0102)) is not None and (group, 0x3000) not in dataset for group in _OVERLAYS)


_OVERLAYS = range(0x6000, 0x6020, 2)


def _colours_of(stream: Stream, dataset: "Dataset") -> str:
    """The photometric interpretation of a stream's samples; where stream and attribute differ as other decoders do."""
    photometric: str = dataset.PhotometricInterpretation
    syntax: str = dataset.file_meta.TransferSyntaxUID
    if photometric in _OF_JPEG_2000:
        return "RGB"
    if TRANSFER_SYNTAXES[syntax] != "jpeg8":
        return photometric
    if syntax in _LOSSLESS_JPEG:
        if stream.has_jfif and photometric == "RGB":
            raise Refused("DICOM whose stream says YCbCr and whose photometric interpretation says RGB")
        return photometric
    if stream.adobe_transform == 1:
        return "YBR_FULL"
    if photometric == "RGB":
        return "YBR_FULL" if stream.has_jfif else "RGB"
    if stream.component_ids not in (b"RGB", b"rgb"):
        return photometric
    if stream.has_jfif or stream.adobe_transform is None:
        raise Refused(f"DICOM whose stream says RGB and whose photometric interpretation says {photometric}")
    return "RGB"


_LOSSLESS_JPEG = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")


def _as_rgb(pixels: np.ndarray, bits: int, photometric: str) -> np.ndarray:
    """Colours of `bits` a sample, uint8 (H, W, 3), as RGB of 8 bits."""
    from pydicom.pixels import convert_color_space

    if photometric in _YBR:
        if bits < 8:
            raise Refused(f"DICOM photometric interpretation {photometric} with {bits} bits per sample is not read")
        for rows in strips(pixels.shape):  # it computes in 8 bytes per sample
            pixels[rows] = convert_color_space(pixels[rows], "YBR_FULL", "RGB")
    elif bits < 8:
        pixels = np.rint(np.arange(256) * (255 / (2**bits - 1))).clip(0, 255).astype(np.uint8)[pixels]
    return np.ascontiguousarray(pixels)
