"""Image files as square uint8 frames: the one way in, for training and for the device.

Needs nothing but numpy and Pillow, so that the exported student sees exactly the pixels it was trained on; DICOM files
need the extra `dicom` as well, which is imported when one is met.
"""

import re
import warnings
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps

from medistill.kinds import HEAD, describe_kind

Fit = Literal["pad", "squash", "crop"]

FORMATS = ("PNG", "JPEG", "JPEG2000", "TIFF", "BMP", "GIF", "WEBP", "PPM")
"""Pillow decoders that are tried; the rarer ones (among them PostScript, which starts another program) are not.

DICOM files are read besides, see `read`.
"""

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded: a small file can unpack to more than the memory holds."""


class ImageError(ValueError):
    """A file that cannot be decoded.

    Attributes:
        path: the file.
        reason: what is wrong with it, without the path.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type["ImageError"], tuple[Path, str]]:
        """Exceptions with two arguments must say how they travel between processes."""
        return ImageError, (self.path, self.reason)


def decode(path: Path, *, size: int, channels: int, fit: Fit) -> np.ndarray:
    """Decode an image file into a square frame.

    Args:
        path: an image in one of `FORMATS`, or a DICOM file with one frame.
        size: height and width of the frame in pixels.
        channels: 1 (grey) or 3 (RGB).
        fit: how an image that is not square becomes square; see `to_frame`.

    Returns:
        uint8 (channels, size, size), 0 black to 255 white.

    Raises:
        ImageError: the file is missing, truncated, larger than `MAX_PIXELS`, or not an image.
    """
    return to_frame(read(path), size=size, channels=channels, fit=fit)


def read(path: Path) -> Image.Image:
    """Read an image file upright (EXIF orientation applied), as 8-bit grey (mode `L`) or colour (mode `RGB`).

    Grey images with more than 8 bits are scaled by their stored range: their lowest value becomes 0, their highest 255,
    as many are stored with 10 or 12 of 16 bits. Pillow has no such colours: it would drop the lower 8 bits, and with
    them most of a picture of 10 or 12 bits, so those of PNG and TIFF are refused, grey with transparency as well. What
    is transparent becomes black. Of several pages the first is read.

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
                return _read_picture(file)
            from medistill.dicom import read_dicom

            return read_dicom(file)
    except Refused as refusal:
        raise ImageError(path, _in_one_line(refusal)) from None
    except Exception as error:  # damaged files make decoders raise nearly anything
        raise ImageError(path, f"cannot be decoded: {_in_one_line(error)}") from error


class Refused(Exception):
    """Raised by a decoder for a file that it does not even try; the message is the reason."""


def _read_picture(file: BinaryIO) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes below our own limit, and of damage that raises anyway
        try:
            image = Image.open(file, formats=FORMATS)
        except Image.DecompressionBombError:
            raise Refused(too_large("the image")) from None
        except Image.UnidentifiedImageError:
            file.seek(0)
            head = file.read(HEAD)
            if _begins_like_dicom(head):
                raise Refused("a DICOM file without its preamble, which is not read") from None
            kind = describe_kind(head)
            known = ": " + "; ".join(filter(None, kind)) if kind else ""
            raise Refused(f"not an image, or in a format that is not read{known}") from None
        if image.width * image.height > MAX_PIXELS:
            raise Refused(too_large(f"{image.width}x{image.height} pixels"))
        stored = str([tile.args for tile in image.tile])  # `RGB;16B`, where `BGR;16` is 16 bits for all three
        if image.mode[0] not in "IF" and re.search(";16[BLN]", stored):
            raise Refused("colour or transparency with 16 bits a sample is not read; convert it to 8 bits")
        image.load()
        if image.format == "JPEG2000":  # cut off between two tiles, it is decoded as if the others were black
            file.seek(0)
            content = file.read()
            if content.rfind(b"\xff\xd9") < content.rfind(b"\xff\x90"):  # end of the stream, start of a tile
                raise ValueError("image file is truncated")
        return _to_8_bit(ImageOps.exif_transpose(image))


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
    message = " ".join(re.sub(r"[^ -~]+", " ", message).split()) or type(error).__name__
    return message if len(message) <= 200 else message[:199] + "…"


def too_large(what: str) -> str:
    """The reason of an image with more than `MAX_PIXELS`."""
    return f"{what} exceeds the limit of {MAX_PIXELS // 1_000_000} million pixels"


def _to_8_bit(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("pixels are not finite")
        low, high = values.min(), values.max()
        scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
        return Image.fromarray(np.rint(scaled).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    if image.mode in ("L", "1"):
        return image.convert("L")
    return image.convert("RGB")


def to_frame(image: Image.Image, *, size: int, channels: int, fit: Fit) -> np.ndarray:
    """Make an image of `read` square.

    Args:
        image: mode `L` or `RGB`.
        size: height and width of the frame in pixels.
        channels: 1 (grey; colour by ITU-R 601 luma) or 3 (RGB; grey repeated).
        fit: `pad`: black bars, the image centred; `squash`: the aspect ratio is lost; `crop`: the centred square.

    Returns:
        uint8 (channels, size, size). Resized by Pillow's bilinear filter with antialiasing.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, not {channels}")
    source, target = _placement(*image.size, size, fit)
    inner = (target[2] - target[0], target[3] - target[1])
    image = image.convert("L" if channels == 1 else "RGB")
    if inner != image.size or source != (0, 0, *image.size):
        # reducing_gap: large factors are box-averaged to three times the target first; as good, several times faster
        image = image.resize(inner, Image.Resampling.BILINEAR, box=source, reducing_gap=3.0)
    frame = np.zeros((channels, size, size), np.uint8)
    pixels = np.asarray(image).reshape(inner[1], inner[0], channels)
    frame[:, target[1] : target[3], target[0] : target[2]] = pixels.transpose(2, 0, 1)
    return frame


def fit_boxes(boxes: np.ndarray, *, width: int, height: int, size: int, fit: Fit) -> np.ndarray:
    """Carry boxes from an image into its frame, by the same geometry as `to_frame`.

    Args:
        boxes: (N, 4) x, y, w, h in pixels of the upright source image; x, y is the top left corner.
        width: width of the source image in pixels.
        height: height of the source image in pixels.
        size: height and width of the frame in pixels.
        fit: as in `to_frame`.

    Returns:
        float64 (N, 4) x, y, w, h as fractions of the frame, clipped to it; a box of which the frame shows nothing has a
        width or height of 0.
    """
    (left, top, right, bottom), (x0, y0, x1, y1) = _placement(width, height, size, fit)
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    scale = np.array([(x1 - x0) / (right - left), (y1 - y0) / (bottom - top)])
    offset = np.array([x0, y0])
    low = (boxes[:, :2] - (left, top)) * scale + offset
    high = (boxes[:, :2] + boxes[:, 2:] - (left, top)) * scale + offset
    low, high = np.clip(low, (x0, y0), (x1, y1)), np.clip(high, (x0, y0), (x1, y1))
    return np.hstack([low, high - low]) / size


def _placement(
    width: int, height: int, size: int, fit: Fit
) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """Which part of the image goes where in the frame: two boxes (left, top, right, bottom) in pixels."""
    source, target = (0, 0, width, height), (0, 0, size, size)
    if fit == "pad":
        longest = max(width, height)
        inner_width, inner_height = (max(1, round(side * size / longest)) for side in (width, height))
        left, top = (size - inner_width) // 2, (size - inner_height) // 2
        target = (left, top, left + inner_width, top + inner_height)
    elif fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        source = (left, top, left + side, top + side)
    elif fit != "squash":
        raise ValueError(f"fit must be pad, squash or crop, not {fit!r}")
    return source, target
