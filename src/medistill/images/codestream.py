"""Reading the header of a compressed picture, and finding the end of its stream, without decoding it.

JPEG and JPEG Lossless (ITU-T T.81), JPEG-LS (T.87), JPEG 2000 with its boxes and HTJ2K (T.800, T.814). Decoders treat
a truncated stream differently, and some fill up missing pixels silently; here truncation is an error.
"""

import re
from dataclasses import dataclass


class CutOff(ValueError):
    """The stream ends before its end marker, or has no picture before it."""

    def __init__(self) -> None:
        super().__init__("the stream is cut off")


@dataclass(frozen=True)
class Stream:
    """A whole stream and its header.

    Attributes:
        content: from the first marker to the end marker.
        rest: bytes after the end marker, mostly padding.
        rows: height in pixels.
        columns: width in pixels.
        samples: components.
        bits: the precision of a sample.
        is_signed: whether samples are signed, which only JPEG 2000 can declare.
        is_planar: whether the first scan has one of several components.
        component_ids: of JPEG, the identifiers of the components.
        has_jfif: of JPEG, whether there is a JFIF segment, which implies YCbCr.
        adobe_transform: of JPEG, the colour transform of an Adobe segment: 0 none, 1 YCbCr, 2 YCCK; None without one.
        tile: of JPEG 2000, pixels of a tile.
        is_mixed: of JPEG 2000, whether components differ in their bits or sign.
        is_subsampled: of JPEG 2000, whether components have fewer pixels than the picture.
        palette: of JPEG 2000 in boxes, the content of its palette box (T.800 I.5.3.4); empty without one.
    """

    content: bytes
    rest: bytes
    rows: int
    columns: int
    samples: int
    bits: int
    is_signed: bool = False
    is_planar: bool = False
    component_ids: bytes = b""
    has_jfif: bool = False
    adobe_transform: int | None = None
    tile: int = 0
    is_mixed: bool = False
    is_subsampled: bool = False
    palette: bytes = b""


_SOI, _EOI, _SOS, _SOT = 0xD8, 0xD9, 0xDA, 0x90
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
_WITHOUT_LENGTH = frozenset(range(0xD0, 0xD9)) | {0x01}

_MARKER = re.compile(rb"\xff[^\x00\xff]")

# In entropy-coded data 0xff is followed by 0 (JPEG) or by a byte below 0x80 (JPEG-LS), or begins a restart marker
_AFTER_JPEG_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_AFTER_JPEG_LS_SCAN = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")


def read_jpeg(data: bytes) -> Stream:
    """Walk through a JPEG or JPEG-LS stream from segment to segment.

    Raises:
        CutOff: it is truncated.
        ValueError: it is not such a stream.
    """
    if data[:2] != bytes([0xFF, _SOI]):
        raise ValueError("not a JPEG stream")
    frame, scanned, is_planar, ids = None, 0, False, b""
    has_jfif, adobe_transform = False, None
    place = 2
    while True:
        found = _MARKER.search(data, place)  # decoders skip bytes between two segments
        if found is None:
            raise CutOff
        place, marker = found.start(), data[found.start() + 1]
        if marker == _EOI:
            break
        if marker in _WITHOUT_LENGTH:
            place += 2
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        segment = data[place + 4 : end]
        if end > len(data) or end < place + 4:
            raise CutOff
        place = end
        if marker in _FRAME_HEADERS and len(segment) >= 6 and frame is None:
            frame, is_jpeg_ls = segment, marker == 0xF7
            ids = segment[6::3]
        elif marker == 0xE0 and segment.startswith(b"JFIF"):
            has_jfif = True
        elif marker == 0xEE and segment.startswith(b"Adobe") and len(segment) >= 12:
            adobe_transform = segment[11]
        elif marker == _SOS and frame is not None and segment:
            is_planar = is_planar or (scanned == 0 and segment[0] == 1 < frame[5])
            scanned += segment[0]
            found = (_AFTER_JPEG_LS_SCAN if is_jpeg_ls else _AFTER_JPEG_SCAN).search(data, place)
            if found is None:
                raise CutOff
            place = found.start()
    if frame is None or scanned < frame[5]:
        raise CutOff
    end = place + 2
    rows, columns = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    return Stream(
        *(data[:end], data[end:], rows, columns, frame[5], frame[0]),
        is_planar=is_planar,
        component_ids=ids,
        has_jfif=has_jfif,
        adobe_transform=adobe_transform,
    )


def read_jpeg_2000(data: bytes) -> Stream:
    """Walk through a JPEG 2000 or HTJ2K stream from tile to tile, in the boxes of a JP2 file or without them.

    Raises:
        CutOff: it is truncated: a tile is missing.
        ValueError: it is not such a stream.
    """
    data, palette = _out_of_boxes(data)
    if len(data) < 45:
        raise CutOff
    if data[:4] != b"\xff\x4f\xff\x51":
        raise ValueError("not a JPEG 2000 stream")
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top = (
        int.from_bytes(data[8 + 4 * i : 12 + 4 * i], "big") for i in range(8)
    )
    if not tile_width or not tile_height:
        raise ValueError("tiles of the JPEG 2000 stream have no size")
    missing = -((tile_left - right) // tile_width) * -((tile_top - bottom) // tile_height)
    place = 4 + int.from_bytes(data[4:6], "big")
    seen: set[int] = set()
    while (marker := data[place : place + 2]) != b"\xff\xd9":
        if marker[:1] != b"\xff" or len(marker) < 2:
            raise CutOff
        length = int.from_bytes(data[place + 2 : place + 4], "big") + 2
        if marker[1] == _SOT:
            seen.add(int.from_bytes(data[place + 4 : place + 6], "big"))
            length = int.from_bytes(data[place + 6 : place + 10], "big")
            if length == 0:  # of the last part: up to the end marker, whose bytes occur in no other place
                length = data.find(b"\xff\xd9", place) - place
            if length < 14:
                raise CutOff
        place += length
    if len(seen) < missing:
        raise CutOff
    end, samples = place + 2, int.from_bytes(data[40:42], "big")
    # for each component its bits, and how many columns and rows a sample covers
    components = data[42 : 42 + 3 * samples]
    return Stream(
        *(data[:end], data[end:], bottom - top, right - left, samples),
        bits=(data[42] & 0x7F) + 1,
        is_signed=data[42] >= 0x80,
        tile=min(tile_width, right - left) * min(tile_height, bottom - top),
        is_mixed=len(set(components[::3])) > 1,
        is_subsampled={*components[1::3], *components[2::3]} != {1},
        palette=palette,
    )


def _out_of_boxes(data: bytes) -> tuple[bytes, bytes]:
    """The codestream inside a JP2 file, from its box on, and its palette; `data` itself where there are no boxes."""
    if data[4:8] != b"jP  ":
        return data, b""
    place, palette = 0, b""
    while place + 8 <= len(data):
        length, head = int.from_bytes(data[place : place + 4], "big"), 8
        if length == 1:  # a length that needs 64 bits
            length, head = int.from_bytes(data[place + 8 : place + 16], "big"), 16
        kind = data[place + 4 : place + 8]
        if kind == b"jp2c":
            return data[place + head : place + length if length else None], palette
        if length < head:
            break
        if kind == b"pclr":
            palette = data[place + head : place + length]
        place += head if kind == b"jp2h" else length  # that one holds boxes itself
    raise CutOff
