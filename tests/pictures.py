"""Picture files for tests, written byte by byte, so that their pixels are known without any decoder or encoder."""

import struct
import zlib

import numpy as np

GREY = np.add.outer(np.arange(12) * 11, np.arange(20) * 6).astype(np.uint8)  # 0..235, 12 rows of 20
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)
ALPHA = np.broadcast_to(np.linspace(0, 255, 20).round().astype(np.uint8), (12, 20))
TABLE = np.stack([np.arange(256), 255 - np.arange(256), np.arange(256) * 7 % 256], axis=-1).astype(np.uint8)


def stretched(values):
    """Values stretched from their range to 0..255."""
    values = values.astype(float)
    return np.rint((values - values.min()) / (values.max() - values.min()) * 255)


def hidden(pixels, transparent):
    """Pixels, (H, W) or (H, W, 3), black where they are transparent."""
    return np.where(transparent if pixels.ndim == 2 else transparent[..., None], 0, pixels)


def packed(values, bits, order=">"):
    """Rows of integers as bytes; values of fewer than 8 bits are packed from the left."""
    rows = values.reshape(len(values), -1)
    if bits in (8, 16, 32):
        return [row.astype(f"{order}u{bits // 8}").tobytes() for row in rows]
    places = np.arange(bits - 1, -1, -1)
    return [np.packbits((row[:, None].astype(int) >> places & 1).ravel()).tobytes() for row in rows]


def png(values, bits, colour_type, *chunks, width=None):
    """PNG of integers, (H, W) or (H, W, samples), with additional `chunks`, (kind, content), before its pixels.

    `width`: a width other than that of the values, so that most pixels are missing.
    """

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width or values.shape[1], len(values), bits, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in packed(values, bits)))
    parts = [(b"IHDR", head), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


TIFF_TYPES = {1: "B", 3: "H", 4: "I"}


def tiff(content, bits, photometric, samples=1, *, order="<", shape=(12, 20), **tags):
    """TIFF 6.0 of one strip (bytes), or of one for each plane (a list); `t259=8` is a tag with its value or values."""
    strips = content if isinstance(content, list) else [content]
    entries = {256: [shape[1]], 257: [shape[0]], 258: [bits] * samples, 259: [1], 262: [photometric]}
    entries |= {277: [samples], 278: [shape[0]], 273: [0] * len(strips), 279: [len(strip) for strip in strips]}
    entries |= {int(name[1:]): list(np.ravel(value)) for name, value in tags.items()}
    entries = {tag: values for tag, values in sorted(entries.items()) if values != [None]}
    place = 8 + 2 + 12 * len(entries) + 4
    long = {tag: 4 if tag in (273, 279) else 3 for tag in entries}
    sizes = {tag: len(values) * (4 if long[tag] == 4 else 2) for tag, values in entries.items()}
    places = {}
    for tag, size in sizes.items():
        if size > 4:
            places[tag] = place
            place += size
    offsets = [place + sum(len(strip) for strip in strips[:i]) for i in range(len(strips))]
    entries[273] = offsets
    directory, beyond = struct.pack(order + "H", len(entries)), b""
    for tag, values in entries.items():
        numbers = struct.pack(order + TIFF_TYPES[long[tag]] * len(values), *(int(value) for value in values))
        directory += struct.pack(order + "HHI", tag, long[tag], len(values))
        if tag in places:
            directory += struct.pack(order + "I", places[tag])
            beyond += numbers
        else:
            directory += numbers.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    return head + directory + struct.pack(order + "I", 0) + beyond + b"".join(strips)


def bmp(bits, rows, palette=b"", *, compression=0, masks=b"", height=12):
    """BMP of rows as bytes, from the bottom up, or with a negative height from the top down."""
    body = rows if isinstance(rows, bytes) else b"".join(row + b"\0" * (-len(row) % 4) for row in rows)
    start = 54 + len(masks) + len(palette)
    head = struct.pack("<IiiHHIIiiII", 40, 20, height, 1, bits, compression, len(body), 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + head + masks + palette + body


def gif(indices, table, bits=8, *, transparent=None, is_local=False, is_interlaced=False):
    """GIF of one picture, with one code for each index."""
    colours = table[: 2**bits].astype(np.uint8).tobytes()
    height, width = indices.shape
    content = b"GIF89a" + struct.pack("<HHBBB", width, height, 0 if is_local else 0x80 | bits - 1, 0, 0)
    content += b"" if is_local else colours
    if transparent is not None:
        content += b"\x21\xf9\x04\1\0\0" + bytes([transparent]) + b"\0"
    flags = (0x80 | bits - 1 if is_local else 0) | (0x40 if is_interlaced else 0)
    content += b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, flags) + (colours if is_local else b"")
    if is_interlaced:
        indices = np.concatenate([indices[0::8], indices[4::8], indices[2::4], indices[1::2]])
    least = max(bits, 2)
    codes = []
    for i, index in enumerate(indices.ravel().tolist()):
        if i % (2**least - 2) == 0:
            codes.append(2**least)  # the clear code, before codes grow longer
        codes.append(index)
    codes.append(2**least + 1)
    number = sum(code << (least + 1) * i for i, code in enumerate(codes))
    packed_codes = number.to_bytes((len(codes) * (least + 1) + 7) // 8, "little")
    blocks = [packed_codes[i : i + 255] for i in range(0, len(packed_codes), 255)]
    return content + bytes([least]) + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0;"


def pnm(kind, maximum, values, *, is_text=False):
    """PBM, PGM or PPM of the kind 1 to 6."""
    height, width = values.shape[:2]
    head = f"P{kind} {width} {height} " + ("" if kind in (1, 4) else f"{maximum} ")
    if is_text:
        return head.encode() + " ".join(str(value) for value in values.ravel().tolist()).encode()
    bits = 1 if kind == 4 else 8 if maximum < 256 else 16
    return head.encode() + b"".join(packed(values, bits))


def box(kind, content):
    """A box of a JP2 file (T.800 annex I)."""
    return struct.pack(">I", len(content) + 8) + kind + content


def jp2(stream, samples, *boxes, colours=16):
    """A JP2 file around a codestream of 12 rows of 20; `boxes`: more boxes of its header; `colours`: EnumCS."""
    size = struct.pack(">IIHBBBB", 12, 20, samples, 7, 7, 0, 0)
    header = box(b"ihdr", size) + box(b"colr", b"\1\0\0" + struct.pack(">I", colours)) + b"".join(boxes)
    head = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return head + box(b"jp2h", header) + box(b"jp2c", stream)


def jp2_palette(table, depth=8):
    """The boxes of a palette, (N, 3), for a stream of one component, and of its mapping to colours."""
    head = struct.pack(">HB", len(table), 3) + bytes([depth - 1] * 3)
    mapping = b"".join(struct.pack(">HBB", 0, 1, channel) for channel in range(3))
    return box(b"pclr", head + table.astype(np.uint8).tobytes()) + box(b"cmap", mapping)
