"""`medistill.images` on compressed DICOM files: ends of streams, bytes after them, and streams that are cut off."""

import contextlib
import itertools
import struct

import imagecodecs
import numpy as np
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate

from medistill.images.decode import read
from medistill.images.errors import ImageError
from tests.dicoms import (
    COLOUR,
    EIGHT,
    TWELVE,
    dataset,
    high_throughput,
    jpeg_ls_by_planes,
    lossless_jpeg,
    lossless_jpeg_by_planes,
    pillow,
    refusal,
    save,
    small_files,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "image.dcm"


def whole_streams():
    """A small stream of every codec with its file."""
    small, deep = EIGHT[:8, :8], TWELVE[:8, :8]
    with_restarts = pillow(np.tile(EIGHT, (2, 2)), "JPEG", restart_marker_rows=1)
    progressive = pillow(small, "JPEG", progressive=True)
    return {
        "jpeg": (dataset(small, uid.JPEGBaseline8Bit, frame=b"--"), pillow(small, "JPEG")),
        "jpeg in colour": (
            dataset(COLOUR, uid.JPEGBaseline8Bit, frame=b"--", photometric="YBR_FULL_422"),
            pillow(COLOUR, "JPEG", quality=90),
        ),
        "jpeg with restarts": (dataset(np.tile(EIGHT, (2, 2)), uid.JPEGBaseline8Bit, frame=b"--"), with_restarts),
        "progressive jpeg": (dataset(small, uid.JPEGBaseline8Bit, frame=b"--"), progressive),
        "jpeg extended": (
            dataset(deep, uid.JPEGExtended12Bit, frame=b"--", bits=12),
            imagecodecs.jpeg8_encode(deep, level=90),
        ),
        "jpeg lossless": (dataset(deep, uid.JPEGLosslessSV1, frame=b"--", bits=12), lossless_jpeg(deep, 12)),
        "jpeg lossless by plane": (
            dataset(COLOUR, uid.JPEGLosslessSV1, frame=b"--"),
            lossless_jpeg_by_planes(COLOUR),
        ),
        "jpeg-ls": (dataset(deep, uid.JPEGLSLossless, frame=b"--", bits=12), imagecodecs.jpegls_encode(deep)),
        "jpeg-ls by plane": (dataset(COLOUR, uid.JPEGLSLossless, frame=b"--"), jpeg_ls_by_planes(COLOUR)),
        "jpeg 2000": (dataset(deep, uid.JPEG2000Lossless, frame=b"--"), pillow(deep, "JPEG2000", no_jp2=True)),
        "jpeg 2000 with tiles": (
            dataset(COLOUR, uid.JPEG2000Lossless, frame=b"--"),
            pillow(COLOUR, "JPEG2000", no_jp2=True, tile_size=(16, 16)),
        ),
        "high-throughput jpeg 2000": (dataset(deep, uid.HTJ2KLossless, frame=b"--", bits=12), high_throughput(deep)),
    }


PADDINGS = [b"", b"\0", b"\xff", b" ", b"\xd9", b"\x4f", b"\0\0\0", b"\xff\xff\xff\xff", b" \0", bytes(4096)]


def given(made, *fragments, table=False):
    """A dataset with these fragments, each of an even length; `table`: with an offset table."""
    offsets = struct.pack("<I", 0) if table else b""
    items = [offsets, *fragments]
    made.PixelData = b"".join(b"\xfe\xff\0\xe0" + struct.pack("<I", len(item)) + item for item in items)
    made.PixelData += b"\xfe\xff\xdd\xe0\0\0\0\0"
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    return made


@pytest.mark.parametrize("kind", whole_streams())
def test_what_follows_the_end_of_a_stream_is_padding(path, kind):
    made, frame = whole_streams()[kind]
    made.PixelData = encapsulate([frame])
    exact = np.asarray(read(save(path, made)))
    for padding in PADDINGS:
        for more in (b"", b"\0"):  # one of the two makes the length even
            if len(item := frame + padding + more) % 2 == 0:
                assert np.array_equal(np.asarray(read(save(path, given(made, item)))), exact), padding
                break


@pytest.mark.parametrize("kind", whole_streams())
@pytest.mark.parametrize("table", [False, True])
def test_a_stream_may_lie_in_several_fragments(path, kind, table):
    made, frame = whole_streams()[kind]
    made.PixelData = encapsulate([frame])
    exact = np.asarray(read(save(path, made)))
    item = frame + b"\xff" * (len(frame) % 2)
    cuts = [0, 2, 20, len(item) // 4 * 2, len(item) - 2, len(item)]
    fragments = [item[start:end] for start, end in itertools.pairwise(cuts)]
    assert np.array_equal(np.asarray(read(save(path, given(made, *fragments, table=table)))), exact)
    assert refusal(path, given(made, *fragments[:-1], table=table)) == "DICOM is truncated"
    assert refusal(path, given(made, *fragments[:-2], bytes(200), table=table)) == "DICOM is truncated"


ENDS = [b"\xff", b"\xd9", b"\xff\xd9", b"\xff\xff\xd9\xff"]


# the end of a progressive JPEG only refines the picture
@pytest.mark.parametrize("kind", sorted({*whole_streams()} - {"progressive jpeg"}))
def test_bytes_after_a_cut_do_not_make_a_stream_whole(path, kind):
    """Wherever the stream is cut off and whatever follows: an end marker, a part of one, or random bytes."""
    made, frame = whole_streams()[kind]
    made.PixelData = encapsulate([frame])
    exact = np.asarray(read(save(path, made)))
    random = np.random.default_rng(0)
    for length in {*range(2, len(frame) - 2, max(1, len(frame) // 15)), *range(len(frame) - 8, len(frame) - 2)}:
        for tail in (*ENDS, random.integers(0, 256, 300, dtype=np.uint8).tobytes()):
            item = frame[:length] + tail
            if "2000" in kind and item[len(frame) - 2 :].startswith(b"\xff\xd9"):
                continue  # nothing is missing, only bytes have changed
            with contextlib.suppress(ImageError):
                shown = np.asarray(read(save(path, given(made, item + b"\0" * (len(item) % 2)))))
                assert np.array_equal(shown, exact), (length, tail)


@pytest.mark.parametrize("kind", ["jpeg", "jpeg lossless", "jpeg extended", "jpeg with restarts"])
def test_a_stream_that_was_closed_before_its_end_is_refused(path, kind):
    """Decoders fill the missing part with grey without a warning."""
    made, frame = whole_streams()[kind]
    start = frame.index(b"\xff\xda") + 12
    for length in {*range(start, len(frame) - 4, 3), *range(len(frame) - 16, len(frame) - 4)}:
        item = frame[:length] + b"\xff\xd9"
        assert refusal(path, given(made, item + b"\0" * (len(item) % 2))) == "DICOM is truncated", length


def test_a_stream_whose_last_components_are_missing_is_refused(path):
    """The stream is closed between two scans, each of which is whole."""
    made, frame = whole_streams()["jpeg lossless by plane"]
    scans = [i for i in range(len(frame)) if frame.startswith(b"\xff\xda\0\x08\1", i)]
    assert len(scans) == 3
    for scan in scans[1:]:
        item = frame[:scan] + b"\xff\xd9"
        assert refusal(path, given(made, item + b"\0" * (len(item) % 2))) == "DICOM is truncated"


def test_two_streams_in_one_frame_are_refused(path):
    for kind in ("jpeg", "jpeg lossless", "jpeg-ls", "jpeg 2000"):
        made, frame = whole_streams()[kind]
        item = frame + b"\0" * (len(frame) % 2)
        assert refusal(path, given(made, item, item)) == "DICOM with one frame that holds several images is not read"
        made.PixelData = encapsulate([frame, frame])  # with a table of where each begins
        assert refusal(path, made) == "DICOM with one frame that holds several images is not read"


COMPRESSED = ("run lengths", "jpeg", "jpeg lossless", "jpeg 2000")


@pytest.mark.parametrize("kind", small_files())
def test_wherever_it_is_cut_off_it_is_refused(path, kind):
    save(path, small_files()[kind])
    read(path)
    whole = path.read_bytes()
    pixels = whole.rindex(struct.pack("<HH", 0x7FE0, 0x0010))
    end = len(whole) - (8 if kind in COMPRESSED else 0)  # without the delimiter after the only frame
    reasons = {length: refusal(path, whole[:length]) for length in range(132, end, 5)}
    assert reasons[pixels - pixels % 5 - 3] == "DICOM is truncated"  # cut off within the header
    if kind in COMPRESSED:
        assert {reason for length, reason in reasons.items() if length > pixels + 12} == {"DICOM is truncated"}
    else:
        assert reasons[max(reasons)].startswith("cannot be decoded: The number of bytes of pixel data is less than")


@pytest.mark.parametrize("kind", ["jpeg", "jpeg lossless", "jpeg 2000"])
def test_a_frame_that_is_cut_off_inside_a_whole_file_is_refused(path, kind):
    made = small_files()[kind]
    frame = {
        "jpeg": pillow(EIGHT[:8, :8], "JPEG"),
        "jpeg lossless": lossless_jpeg(TWELVE[:8, :8], 12),
        "jpeg 2000": pillow(TWELVE[:8, :8], "JPEG2000", no_jp2=True),
    }[kind]
    for length in {*range(2, len(frame), 7), *range(len(frame) - 4, len(frame))}:
        made.PixelData = encapsulate([frame[:length]])
        assert refusal(path, made) == "DICOM is truncated"
