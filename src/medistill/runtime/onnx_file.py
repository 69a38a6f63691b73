"""Checking, before ONNX Runtime opens an ONNX file, whether it refers to other files.

A tensor may keep its numbers in another file, which ONNX Runtime looks for in the current
folder. ONNX Runtime has no option that forbids it, and a device has no package `onnx`, so the protobuf is read here:
only as far as tensors can be nested, and only their field `data_location`.
"""

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types of protobuf; the two that are left are groups, which ONNX does not have."""

_MODEL, _TRAINING, _FUNCTION, _GRAPH, _NODE, _ATTRIBUTE, _SPARSE, _TENSOR = range(8)

_CHILDREN: dict[int, dict[int, int]] = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {},
}
"""onnx.proto: message -> number of each field in which tensors may lie -> the field's message."""

_DATA_LOCATION, _EXTERNAL = 14, 1
"""The field of a tensor, and its value where the numbers lie in another file."""


def has_external_data(model: bytes) -> bool:
    """Whether a tensor of an ONNX file keeps its numbers in another file, wherever in the file the tensor is.

    Raises:
        ValueError: this is not an ONNX file.
    """
    view = memoryview(model)
    waiting = [(_MODEL, 0, len(view))]
    while waiting:
        message, start, end = waiting.pop()
        children = _CHILDREN[message]
        for number, kind, value, stop in _fields(view, start, end):
            if kind == BYTES and number in children:
                waiting.append((children[number], value, stop))
            is_location = message == _TENSOR and number == _DATA_LOCATION and kind == VARINT
            if is_location and value & 0xFFFFFFFF == _EXTERNAL:  # protobuf ignores bits of an enum beyond 32
                return True
    return False


def _fields(view: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Fields of a message: number, wire type, value (of `BYTES`: where they begin), and where the field ends.

    Raises:
        ValueError: the message is cut off or is none.
    """
    while start < end:
        tag, start = _varint(view, start, end)
        number, kind = tag >> 3, tag & 7
        value = start
        if kind == VARINT:
            value, start = _varint(view, start, end)
        elif kind == BYTES:
            length, value = _varint(view, start, end)
            start = value + length
        elif kind in (FIXED64, FIXED32):
            start += 8 if kind == FIXED64 else 4
        if kind not in (VARINT, BYTES, FIXED64, FIXED32) or not 0 < number < 2**29 or start > end:
            raise ValueError("not a protobuf message")
        yield number, kind, value, start


def _varint(view: memoryview, start: int, end: int) -> tuple[int, int]:
    """A number of seven bits per byte, and where it ends."""
    number = 0
    for place in range(start, min(end, start + 10)):
        number |= (view[place] & 0x7F) << 7 * (place - start)
        if view[place] < 0x80:
            return number, place + 1
    raise ValueError("not a protobuf message")
