"""The kind of a file that was given as a table or an image but is not one: a web page, a workbook, a Git LFS pointer.

It is told by the file's first bytes, not by its name. Nothing is unpacked and nothing is run.
"""

import re

HEAD = 600
"""Bytes from the beginning of a file that `describe_kind` looks at."""

_DOWNLOAD = "the download failed; sign in at its source and download it again"
_UNPACK = "unpack it"

_SIGNATURES = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an Excel workbook of the old kind (.xls)", ""),
    b"PAR1": ("a Parquet file", ""),
    b"\x93NUMPY": ("a NumPy array (.npy)", ""),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file", ""),
    b"SQLite format 3\0": ("an SQLite database", ""),
    b"ARROW1": ("an Arrow file", ""),
    b"\x1f\x8b": ("packed by gzip", _UNPACK),
    b"BZh": ("packed by bzip2", _UNPACK),
    b"\xfd7zXZ\0": ("packed by xz", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("packed by zstd", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"Rar!\x1a\x07": ("a RAR archive", _UNPACK),
    b"%PDF-": ("a PDF", ""),
    b"\x80\x03": ("a pickle of Python", ""),
    b"\x80\x04": ("a pickle of Python", ""),
    b"\x80\x05": ("a pickle of Python", ""),
    b"version https://git-lfs": ("a Git LFS pointer in place of the file", "run git lfs pull"),
    b"/annex/objects/": ("a git-annex pointer in place of the file", "run git annex get"),
    b"../.git/annex/objects/": ("a git-annex pointer in place of the file", "run git annex get"),
}

_IN_ZIP = (
    (re.compile(rb"mimetype.*application/vnd\.oasis\.opendocument", re.DOTALL), ("an OpenDocument sheet", "")),
    (re.compile(rb"\[Content_Types\]\.xml|_rels/|docProps/|xl/"), ("an Excel workbook (.xlsx)", "")),
    (re.compile(rb"[^/]*\.npy"), ("a NumPy archive (.npz)", "set data.format: medmnist if it is of MedMNIST")),
)
"""Name of the first entry of a ZIP archive -> the kind of the archive."""

_TEXT = (
    (re.compile(rb"\s*<(!doctype|html|head|body|script|!--)", re.IGNORECASE), ("a web page", _DOWNLOAD)),
    (re.compile(rb"\s*<\?xml", re.IGNORECASE), ("an XML document", _DOWNLOAD)),
    (re.compile(rb'\s*(\{\s*("|\}|$)|\[\s*("|\{|\[|\]|$))'), ("JSON", "")),
)

_PICTURES = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "a PNG image"),
    (re.compile(rb"\xff\xd8\xff"), "a JPEG image"),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), "a TIFF image"),
    (re.compile(rb".{128}DICM", re.DOTALL), "a DICOM file"),
)


def describe_kind(head: bytes) -> tuple[str, str] | None:
    """The kind of a file that begins with `head` (up to `HEAD` bytes), and what to do; None if it is unknown.

    The second is empty where that depends on what the file should have been. Images are none of these kinds; see
    `describe_picture`.
    """
    if head.startswith(b"PK\x03\x04"):
        first = head[30:]  # of the entry's name, and what the entry begins with
        return next((kind for pattern, kind in _IN_ZIP if pattern.match(first)), ("a ZIP archive", _UNPACK))
    if head[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    kind = next((kind for signature, kind in _SIGNATURES.items() if head.startswith(signature)), None)
    text = head.removeprefix(b"\xef\xbb\xbf")
    return kind or next((kind for pattern, kind in _TEXT if pattern.match(text)), None)


def describe_picture(head: bytes) -> str | None:
    """Which kind of image begins with `head`, where a table was expected; None for none."""
    return next((name for pattern, name in _PICTURES if pattern.match(head)), None)
