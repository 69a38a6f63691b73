"""Stored values of a DICOM file as a viewer shows them: greys (PS3.3 C.11) and palettes (C.7.6.3.1.5, C.7.9)."""

import math
from typing import TYPE_CHECKING, overload

import numpy as np

from medistill.images.errors import Refused
from medistill.images.limits import strips

if TYPE_CHECKING:
    from pydicom import Dataset


def shown_greys(stored: np.ndarray, dataset: "Dataset") -> np.ndarray:
    """Stored values, integers (H, W), as uint8 (H, W), 0 black: modality LUT, VOI LUT or window, polarity.

    Raises:
        Refused: an attribute that decides about the picture is missing, no number, or contradicts another.
    """
    levels, index = _levels(stored)
    values = _modality_values(levels, dataset)
    shares = _voi_shares(values, dataset)
    if shares is None:
        shares = _range_shares(values, _occurring(index, len(levels)) & ~_is_padding(levels, dataset))
    if not np.isfinite([values, shares]).all():
        raise ValueError("the rescale slope, intercept or window is too large a number")
    if _is_inverted(dataset):
        shares = 1 - shares
    return _looked_up(np.rint(255 * shares).astype(np.uint8), index)


def shown_palette(stored: np.ndarray, dataset: "Dataset") -> np.ndarray:
    """Stored indices, integers (H, W), as RGB, uint8 (H, W, 3).

    Raises:
        Refused: a palette is missing or cannot be what it says.
    """
    levels, index = _levels(stored)
    table = np.empty((len(levels), 3), np.uint8)
    for channel, colour in enumerate(("Red", "Green", "Blue")):
        name = f"{colour}PaletteColorLookupTable"
        count, first, bits = _descriptor(dataset, f"{name}Descriptor")
        data, segments = dataset.get(f"{name}Data"), dataset.get(f"Segmented{name}Data")
        if data:
            is_packed = isinstance(data, bytes) and len(data) <= count + count % 2
            entries = _numbers(dataset, f"{name}Data", 8 if is_packed else 16)
            bits = 8 if is_packed else bits
        elif segments:
            words = _numbers(dataset, f"Segmented{name}Data", bits).tolist()
            entries = np.array(_expanded(words, count, is_wide=bits > 8))
        else:
            raise Refused(f"DICOM with a palette without {name}Data")
        entries = _whole(entries, count)
        if bits > 8 and 0 < entries.max() < 256:
            raise Refused(f"DICOM with a palette of {bits} bits, but values of 8 bits")
        table[:, channel] = _of_bits(_entries_at(levels, entries, first), bits) >> max(0, bits - 8)
    return _looked_up(table, index)


@overload
def number(dataset: "Dataset", name: str) -> float | None: ...
@overload
def number(dataset: "Dataset", name: str, default: float) -> float: ...
def number(dataset: "Dataset", name: str, default: float | None = None) -> float | None:
    """An attribute's value, of several the first; `default` where it is absent or empty.

    Raises:
        Refused: it is not a number.
    """
    try:
        value = dataset.get(name)
        if value is None or np.size(value) == 0:
            return default
        if math.isfinite(first := float(np.ravel(value)[0])):
            return first
    except (TypeError, ValueError, OverflowError):
        value = dataset.get_item(name).value  # as it is stored
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace").strip("\0 ")
    text = str(value) if np.ndim(value) == 0 else "\\".join(str(part).strip() for part in value)
    raise Refused(f"DICOM with a {name} of {text!r}, which is not a number")


def _levels(stored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All values from the lowest to the highest, at most 65,536, and for each pixel the index of its value.

    Arithmetic on these values and one look-up per pixel replace arithmetic on each pixel.
    """
    low, high = int(stored.min()), int(stored.max())
    if high - low >= 2**16:
        raise Refused(f"DICOM with values from {low} to {high}; at most 65,536 different ones are read")
    if stored.itemsize > 2:
        index = (stored - low).astype(np.uint16)
    else:
        unsigned = np.dtype(f"u{stored.itemsize}")  # in which differences do not overflow
        index = stored.view(unsigned) - np.array(low).astype(unsigned)
    return np.arange(low, high + 1), index


def _looked_up(table: np.ndarray, index: np.ndarray) -> np.ndarray:
    shown = np.empty((*index.shape, *table.shape[1:]), table.dtype)
    for rows in strips(index.shape):  # an index takes 8 bytes per pixel
        shown[rows] = table[index[rows]]
    return shown


def _occurring(index: np.ndarray, count: int) -> np.ndarray:
    """Which of `count` levels occur, bool (count,)."""
    occurs = np.zeros(count, bool)
    for rows in strips(index.shape):
        occurs[index[rows]] = True
    return occurs


def _modality_values(levels: np.ndarray, dataset: "Dataset") -> np.ndarray:
    """Stored values in the modality's own units (PS3.3 C.11.1)."""
    if (table := _lut(dataset, "ModalityLUTSequence")) is not None:
        entries, first, _ = table
        return _entries_at(levels, entries, first)
    slope = number(dataset, "RescaleSlope", 1)
    if slope == 0:
        raise Refused("DICOM with a RescaleSlope of 0, which makes all values the same")
    return levels * slope + number(dataset, "RescaleIntercept", 0)


def _voi_shares(values: np.ndarray, dataset: "Dataset") -> np.ndarray | None:
    """Values as shares 0..1 of the range shown, by the VOI LUT or the first window; None if there is neither."""
    if (table := _lut(dataset, "VOILUTSequence")) is not None:
        entries, first, bits = table
        return _of_bits(_entries_at(values, entries, first), bits) / (2.0**bits - 1)
    center, width = number(dataset, "WindowCenter"), number(dataset, "WindowWidth")
    if center is None or width is None:
        return None
    function = dataset.get("VOILUTFunction") or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise Refused(f"DICOM with the VOI LUT function {function} is not read")
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
    """Which stored values are padding (PS3.3 C.7.5.1.1.2)."""
    padding = number(dataset, "PixelPaddingValue")
    if padding is None:
        return np.zeros(len(levels), bool)
    low, high = sorted((padding, number(dataset, "PixelPaddingRangeLimit", padding)))
    return (levels >= low) & (levels <= high)


def _is_inverted(dataset: "Dataset") -> bool:
    """Whether low values are white; two attributes declare it, and viewers differ in which one they follow."""
    inverted: bool = dataset.PhotometricInterpretation == "MONOCHROME1"
    shape = dataset.get("PresentationLUTShape")
    if shape in ("IDENTITY", "INVERSE") and inverted != (shape == "INVERSE"):
        raise Refused(f"DICOM that is {dataset.PhotometricInterpretation} with the PresentationLUTShape {shape}")
    return inverted


def _lut(dataset: "Dataset", name: str) -> tuple[np.ndarray, int, int] | None:
    """Entries of a modality or VOI LUT, int64 (N,), the value of the first, and bits; None where it has no content.

    pydicom's own look-up computes an index into 8-bit entries in 8 bits, so it wraps around.
    """
    if not (items := dataset.get(name)):
        return None
    if dataset[name].VR != "SQ":
        raise Refused(f"DICOM with a {name} that is no sequence")
    item = items[0]
    data = item.get("LUTData")
    is_empty = data is None or np.size(data) == 0 or data == b""
    if is_empty and item.get("LUTDescriptor") is None:
        return None
    if is_empty:
        raise Refused(f"DICOM with a {name} without LUTData")
    count, first, bits = _descriptor(item, "LUTDescriptor")
    is_packed = isinstance(data, bytes) and bits == 8 and len(data) < 2 * count
    entries = _numbers(item, "LUTData", 8 if is_packed else 16, is_little_endian=_is_little_endian(dataset))
    return _whole(entries, count), first, bits


def _descriptor(item: "Dataset", name: str) -> tuple[int, int, int]:
    """How many entries a table has, the value of the first, and bits per entry (PS3.3 C.11.1.1)."""
    descriptor = np.ravel(item.get(name) if item.get(name) is not None else [])
    if len(descriptor) != 3:
        text = "\\".join(str(value) for value in descriptor) or "none"
        raise Refused(f"DICOM with a {name} that is not valid: {text}")
    count, first, bits = (int(value) for value in descriptor)
    return count or 2**16, first, bits


def _is_little_endian(dataset: "Dataset") -> bool | None:
    """The order of bytes in its file; None where it is not from a file."""
    return dataset.original_encoding[1]


def _numbers(item: "Dataset", name: str, bits: int, *, is_little_endian: bool | None = None) -> np.ndarray:
    """Entries as they are stored, int64 (N,): numbers (VR US), or words (OW) of one entry, or of two of 8 bits."""
    data = item.get(name)
    if not isinstance(data, bytes):
        return np.ravel(data).astype(np.int64) & 0xFFFF
    little = _is_little_endian(item) if is_little_endian is None else is_little_endian
    if bits > 8:
        return np.frombuffer(data[: len(data) // 2 * 2], "<u2" if little else ">u2").astype(np.int64)
    entries = np.frombuffer(data, np.uint8)
    if not little and item[name].VR == "OW" and len(entries) % 2 == 0:  # the first of two is a word's lower byte
        entries = entries.reshape(-1, 2)[:, ::-1].ravel()
    return entries.astype(np.int64)


def _whole(entries: np.ndarray, count: int) -> np.ndarray:
    if len(entries) < count:
        raise ValueError(f"a look-up table has {len(entries)} of its {count} entries")
    return entries[:count]


def _of_bits(entries: np.ndarray, bits: int) -> np.ndarray:
    """The entries that are shown, if a table of so many bits can hold them."""
    if not 1 <= bits <= 16 or entries.max() >= 2**bits:
        raise Refused(f"DICOM with a look-up table of {bits} bits, but a value of {entries.max()} in it")
    return entries


def _entries_at(values: np.ndarray, entries: np.ndarray, first: int) -> np.ndarray:
    """The entry of each value; values outside take the first or the last (PS3.3 C.11.1.1.1)."""
    if first >= 2**15 and values.min() < 0:
        first -= 2**16  # a negative number that was written as an unsigned one
    found: np.ndarray = entries[np.clip(np.rint(values).astype(np.int64) - first, 0, len(entries) - 1)]
    return found


def _expanded(words: list[int], count: int, *, is_wide: bool) -> list[int]:
    """At most `count` entries of a segmented palette, whose words have 16 bits or 8 (PS3.3 C.7.9.2)."""
    entries: list[int] = []
    place = 0
    while len(words) >= place + 3 and len(entries) < count:
        if words[place] != 2:
            place = _add_segment(entries, words, place)
            continue
        again, offset = (
            words[place + 1],
            words[place + 2 : place + (4 if is_wide else 6)],
        )  # segments, and the place where each begins
        source = sum(word << ((16 if is_wide else 8) * i) for i, word in enumerate(offset)) // (2 if is_wide else 1)
        for _ in range(again):
            if len(entries) < count:
                source = _add_segment(entries, words, source)
        place += 2 + len(offset)
    return entries[:count]


def _add_segment(entries: list[int], words: list[int], place: int) -> int:
    """Append the entries of the segment at `place`; returns the place of the next one."""
    kind, length, *values = words[place : place + 3]
    if kind == 0:
        entries += words[place + 2 : place + 2 + length]
        return place + 2 + length
    if kind != 1 or not entries or not values:
        raise ValueError(f"a segmented palette has no segment of kind 0 or 1 at its word {place}")
    steps = np.arange(1, length + 1) / max(1, length)
    entries += np.rint(entries[-1] + (values[0] - entries[-1]) * steps).astype(int).tolist()
    return place + 3
