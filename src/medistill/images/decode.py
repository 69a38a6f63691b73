"""Decoding image files into square uint8 frames, by the same code for training and for the device.

Needs only numpy and Pillow, so that the exported student sees exactly the pixels it was trained on; DICOM files
need the extra `dicom` as well, which is imported for the first DICOM file.
"""

import io
import math
import re
import warnings
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from medistill.images.codestream import CutOff, Stream, read_jpeg_2000
from medistill.images.errors import ImageError, Refused
from medistill.images.frame import Fit, to_frame
from medistill.images.limits import require_size, strips, too_large
from medistill.kinds import HEAD, describe_kind, describe_picture
from medistill.text import printable, shortened

FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "GIF", "WEBP", "PPM")
"""Pillow decoders that are tried; the rarer ones (among them PostScript, which starts another program) are not.

DICOM files are read besides, see `read`.
"""


def decode(path: Path, *, size: int, channels: int, fit: Fit, memory: float = math.inf) -> np.ndarray:
    """Decode an image file into a square frame.

    Args:
        path: an image in one of `FORMATS`, or a DICOM file with one frame.
        size: height and width of the frame in pixels.
        channels: 1 (grey) or 3 (RGB).
        fit: how an image that is not square becomes square; see `to_frame`.
        memory: bytes that decoding may take, if less than `MAX_BYTES`.

    Returns:
        uint8 (channels, size, size), 0 black to 255 white.

    Raises:
        ImageError: the file is missing, truncated, larger than `MAX_PIXELS`, takes more memory than `MAX_BYTES`, or is
            not an image, or could be read as a different picture than its author meant.
    """
    return to_frame(read(path, memory=memory), size=size, channels=channels, fit=fit)


def read(path: Path, *, memory: float = math.inf) -> Image.Image:
    """Read an image file upright (EXIF orientation applied), as 8-bit grey (mode `L`) or colour (mode `RGB`).

    Grey images with more than 8 bits are scaled by their stored range: their lowest value becomes 0, their highest 255,
    since many are stored with 10 or 12 of 16 bits. Pillow has no colours of 16 bits: it would drop the lower 8 bits,
    and with them most of a picture of 10 or 12 bits, so those of PNG and TIFF are refused, as is grey with
    transparency. Transparent pixels become black. Of several pages the first is read. docs/data.md has the whole list.

    DICOM files are recognised by their content. Their greys are those that a viewer shows first (DICOM PS3.3 C.11):
    modality LUT, then VOI LUT or the first window; where there is neither, the stored range as above, padding apart.
    MONOCHROME1 is inverted, so that 0 is black. Orientation and the pixels' aspect ratio stay as they are stored.

    Raises:
        ImageError: as for `decode`.
    """
    path = Path(path)
    if not path.is_file():
        raise ImageError(path, "no such file" if not path.exists() else "not a file")
    if path.stat().st_size == 0:
        raise ImageError(path, "the file is empty")
    try:
        with open(str(path), "rb") as file:  # pydicom wants the name of an open file as str
            is_dicom = file.read(132)[128:] == b"DICM"
            file.seek(0)
            if not is_dicom:
                return _read_picture(file, memory)
            from medistill.images.dicom import read_dicom

            return read_dicom(file, memory)
    except Refused as refusal:
        raise ImageError(path, _in_one_line(refusal)) from None
    except MemoryError:
        raise ImageError(path, "there is not enough memory to decode it") from None
    except Exception as error:  # decoders raise many kinds of exceptions for damaged files
        raise ImageError(path, f"cannot be decoded: {_in_one_line(error)}") from error


def _read_picture(file: BinaryIO, memory: float) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about sizes below our own limit, and about damage that raises anyway
        head = file.read(HEAD)
        file.seek(0)
        if (size := _webp_size(head)) is not None:  # Pillow takes memory for the picture when it opens the file
            require_size(*size, _WEBP_BYTES * size[0] * size[1] + 2 * _bytes_in(file), memory)
        try:
            image = Image.open(file, formats=FORMATS)
        except Image.DecompressionBombError:
            raise Refused(too_large("the image")) from None
        except Image.UnidentifiedImageError:
            raise Refused(_unidentified(head)) from None
        stream = None
        if image.format == "JPEG2000":
            require_size(*image.size, 2 * _bytes_in(file), memory)
            stream = _jpeg_2000_stream(file, image.mode)
        require_size(*image.size, _bytes_needed(image, stream), memory)
        raw_mode = _raw_mode(image)
        is_inverted = isinstance(image, TiffImageFile) and _is_inverted_tiff(image, raw_mode)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if _is_signed_tiff(image) and np.max(image.getextrema()) > 127:
            raise Refused("TIFF with negative numbers of 8 bits is not read")
        if image.mode == "F" or image.mode.startswith("I"):
            return _stretched(image, is_inverted=is_inverted, is_unsigned=raw_mode == "I;32N")
        return _to_8_bit(image if stream is None or stream.bits >= 8 else _shifted_down(image, stream.bits))


_WEBP_BYTES = 17
"""What Pillow takes for WebP, measured, in bytes per pixel: canvases of an animation, though there is none."""


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """Width and height in a WebP file's first 30 bytes; None if it is none."""
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return None
    if head[12:16] == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if head[12:16] == b"VP8L":
        packed = int.from_bytes(head[21:25], "little")
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


def _bytes_in(file: IO[bytes]) -> int:
    """How long a file is; it is at its beginning again afterwards."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    return size


def _jpeg_2000_stream(file: BinaryIO, mode: str) -> Stream:
    """The header of a complete JPEG 2000 file; Pillow would decode truncated tiles as black.

    Raises:
        Refused: Pillow, which opens it in this mode, would read wrong pixels.
    """
    try:
        stream = read_jpeg_2000(file.read())
    except CutOff:
        raise ValueError("image file is truncated") from None
    if stream.is_mixed:  # each is shifted up to 8 bits, so that of one bit 128 would be the highest
        raise Refused("JPEG 2000 whose components differ in bits is not read")
    if stream.palette:
        count, columns = int.from_bytes(stream.palette[:2], "big"), stream.palette[2]
        depths, entries = stream.palette[3 : 3 + columns], stream.palette[3 + columns :]
        distinct = {entries[i : i + columns] for i in range(0, count * columns, columns)}
        if mode != "P" or set(depths) != {7} or len(distinct) < count:  # equal ones become one, and the rest move up
            raise Refused("JPEG 2000 with a palette of greys, of equal colours or of other than 8 bits is not read")
    return stream


def _shifted_down(image: Image.Image, bits: int) -> Image.Image:
    """Undo Pillow's shift of samples to 8 bits, which would make white grey and change indices of a palette."""
    levels = np.arange(256) >> (8 - bits)
    if image.mode != "P":
        levels = np.rint(levels * (255 / (2**bits - 1))).astype(int)
    return image.point(levels.tolist() * len(image.getbands()))


def _bytes_needed(image: ImageFile.ImageFile, stream: Stream | None) -> float:
    """Most memory that decoding an opened image takes, measured: its pixels and all copies of them."""
    pixels = image.width * image.height
    native = 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4
    # copies: rotated by EXIF; converted to 8 bits
    needed = pixels * (native + max(native, 1 if image.mode[0] in "1LIF" else 4))
    if stream is not None:  # a tile at once, with 4 bytes per sample
        tile = stream.tile * stream.samples * (4 + (2 if stream.bits > 8 else 1))
        return max(needed, pixels * native + tile + len(stream.content))
    if "progressive" in image.info:  # all coefficients at once
        return max(needed, pixels * (native + 2 * len(image.getbands())))
    # a strip at once, packed and unpacked
    if isinstance(image, TiffImageFile) and image.tile and image.tile[0][0] == "libtiff":
        assert image.fp is not None  # until the picture is loaded
        of_ycbcr = 2 if image.tag_v2.get(_PHOTOMETRIC) == 6 else 1  # becomes RGB beside
        rows = image.tag_v2.get(_TILE_LENGTH) or image.tag_v2.get(_ROWS_PER_STRIP, image.height)
        share: float = min(1, rows / image.height)
        return max(needed, pixels * native + share * (of_ycbcr * pixels * native + _bytes_in(image.fp)))
    return needed


def _unidentified(head: bytes) -> str:
    """Why Pillow cannot read a file, by the file's first bytes."""
    if _begins_like_dicom(head):
        return "DICOM without a preamble is not read"
    picture, kind = describe_picture(head), describe_kind(head)
    if picture:
        return f"{picture} that is damaged or of an unsupported kind"
    return "not an image, or in a format that is not read" + (f": {'; '.join(filter(None, kind))}" if kind else "")


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """How an opened image's samples are stored, in Pillow's words.

    Raises:
        Refused: Pillow would read the samples wrongly.
    """
    arguments = [tile[3] if isinstance(tile[3], str) else tile[3][0] for tile in image.tile if tile[3]]
    raw_mode = str(arguments[0]) if arguments else image.mode
    # `RGB;16B`, where `BGR;16` is 16 bits for all three
    if image.mode[0] not in "IF" and re.search(";16[BLN]", raw_mode):
        raise Refused(_SIXTEEN_BITS)
    transparent = image.info.get("transparency")
    if image.format == "PNG" and raw_mode in ("L;2", "L;4") and transparent is not None:  # not scaled, unlike greys
        image.info["transparency"] = transparent * (85 if raw_mode == "L;2" else 17)
    return raw_mode


_SIXTEEN_BITS = "colour or transparency with 16 bits per sample is not read; convert it to 8 bits"


def _is_inverted_tiff(image: TiffImageFile, raw_mode: str) -> bool:
    """Whether an opened TIFF's zero is white and Pillow does not turn it.

    Raises:
        Refused: Pillow would read wrong pixels.
    """
    tags, codec = image.tag_v2, image.tile[0][0] if image.tile else ""
    if _PHOTOMETRIC not in tags and image.info.get("compression") != "tiff_jpeg":
        raise Refused("TIFF that does not say whether 0 is black or white")
    if image.mode[0] not in "IF" and max(tags.get(_BITS_PER_SAMPLE, (1,))) > 8:  # of planes, Pillow forgets the 16
        raise Refused(_SIXTEEN_BITS)
    if codec == "libtiff" and raw_mode in ("F;32BF", "I;16BS", "I;32BS"):  # its bytes are swapped already
        raise Refused("TIFF with compressed big-endian numbers is not read; save it without compression")
    if image.mode in ("P", "PA") and 0 < max(tags[_COLOUR_MAP]) < 256:
        raise Refused("TIFF with a palette of 8 bits instead of 16 is not read")
    if tags.get(_PHOTOMETRIC) == 6 and codec == "raw" and tuple(tags.get(_YCBCR_SUBSAMPLING, (2, 2))) != (1, 1):
        raise Refused("TIFF with subsampled YCbCr that is not compressed is not read")
    return tags.get(_PHOTOMETRIC) == 0 and raw_mode in ("I;16", "I;16N", "F;32F", "F;32BF")


def _is_signed_tiff(image: Image.Image) -> bool:
    """Whether it is a TIFF of signed numbers of 8 bits, which Pillow takes as unsigned ones."""
    return (
        isinstance(image, TiffImageFile) and image.mode == "L" and tuple(image.tag_v2.get(_SAMPLE_FORMAT, ())) == (2,)
    )


_BITS_PER_SAMPLE, _PHOTOMETRIC, _ROWS_PER_STRIP, _COLOUR_MAP = 258, 262, 278, 320
_TILE_LENGTH, _SAMPLE_FORMAT, _YCBCR_SUBSAMPLING = 323, 339, 530


def _begins_like_dicom(head: bytes) -> bool:
    """Whether a file begins with a data element of DICOM's group 0002 or 0008, with a VR or a length below 65,536."""
    return head[:4] == b"DICM" or (
        head[:2] in (b"\x02\x00", b"\x08\x00") and (head[4:6].isupper() or head[6:8] == b"\x00\x00")
    )


def _in_one_line(error: Exception) -> str:
    """The message of an exception, shortened.

    Without the path, without addresses in memory (they differ from run to run), and printable: a damaged file's bytes
    may be in it.
    """
    message = getattr(error, "strerror", None) or re.sub(r" ?<[^<>]* at 0x[0-9a-f]+>", "", str(error))
    return shortened(printable(" ".join(message.split())), 200) or type(error).__name__


def _stretched(image: Image.Image, *, is_inverted: bool, is_unsigned: bool) -> Image.Image:
    """Greys with more than 8 bits, scaled by their stored range; `is_unsigned`: Pillow takes 32 bits as signed."""
    transparent = image.info.get("transparency")

    def values_of(rows: slice) -> np.ndarray:
        part = np.asarray(image.crop((0, rows.start, image.width, rows.stop)))
        return part.view(np.uint32) if is_unsigned else part

    low, high, is_transparent = np.inf, -np.inf, False
    for rows in strips((image.height, image.width)):
        values = values_of(rows)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError("pixels are not finite")
        is_transparent = is_transparent or (transparent is not None and bool((values == transparent).any()))
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    if is_transparent and transparent != low:  # the lowest is black anyway
        raise Refused(_SIXTEEN_BITS)
    scaled = np.zeros((image.height, image.width), np.uint8)
    if high > low:
        for rows in strips(scaled.shape):
            values = values_of(rows).astype(np.float64)
            values = high - values if is_inverted else values - low
            scaled[rows] = np.rint(values * (255 / (high - low)))
    return Image.fromarray(scaled)


def _to_8_bit(image: Image.Image) -> Image.Image:
    """An image of at most 8 bits per sample in mode `L` or `RGB`, on black where it is transparent."""
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if not image.has_transparency_data:
        return image if image.mode == mode else image.convert(mode)
    if image.mode == "La":  # premultiplied by its transparency, which is its appearance on black
        return image.getchannel("L")
    shown = Image.new(mode, image.size)
    for rows in strips((image.height, image.width)):
        part = image.crop((0, rows.start, image.width, rows.stop)).convert("RGBA")
        black = Image.new("RGBA", part.size, (0, 0, 0, 255))
        shown.paste(Image.alpha_composite(black, part).convert(mode), (0, rows.start))
    return shown
