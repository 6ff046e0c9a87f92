"""Look-up tables: of values (PS3.3 C.11.1.1, C.11.2.1.1) and of colours (C.7.6.3.1.5, C.7.6.3.1.6, C.7.9.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

Values = npt.NDArray[np.float64]
Entries = npt.NDArray[np.uint16]

_MOST: Final = 2**16
_COLORS: Final = ("Red", "Green", "Blue")
_DISCRETE, _LINEAR, _INDIRECT = 0, 1, 2  # segment types (PS3.3 C.7.9.2)


@dataclass(frozen=True)
class Lut:
    """A look-up table of a Modality or VOI LUT Sequence item.

    Parameters
    ----------
    first : int
        The input value that the first entry is for.
    bits : int
        Bits of an entry.
    entries : ndarray of uint16
    """

    first: int
    bits: int
    entries: Entries

    @classmethod
    def from_item(cls, item: Dataset, *, signed: bool, little: bool = True) -> Lut:
        """Read a table.

        Parameters
        ----------
        item : Dataset
        signed : bool
            Whether the input is, and with it the descriptor's second value.
        little : bool
            Byte order of the object.

        Raises
        ------
        ValueError
            If descriptor and data do not fit.
        """
        count, first, bits = _descriptor(item.LUTDescriptor, signed=signed)
        if not 1 <= bits <= 16:
            raise ValueError("a look-up table's entries have 1 to 16 bits")
        return cls(first, bits, _entries(item.LUTData, count, little=little))

    def apply(self, values: Values) -> Values:
        """Return the entries for input values; those beyond the table get its first or last one."""
        place = np.clip(np.round(values) - self.first, 0, len(self.entries) - 1)
        return self.entries[place.astype(np.int64)].astype(np.float64)


@dataclass(frozen=True)
class Palette:
    """The colours of a PALETTE COLOR image.

    Parameters
    ----------
    first : int
        The stored value that the first colour is for.
    colors : ndarray of uint8, [entries, 3]
    """

    first: int
    colors: npt.NDArray[np.uint8]

    @classmethod
    def from_header(cls, header: Dataset, *, signed: bool, little: bool = True) -> Palette:
        """Read an image's palette, whole or in segments.

        Raises
        ------
        ValueError
            If it has none, or descriptor and data do not fit.
        """
        tables, first = [], 0
        for color in _COLORS:
            count, first, bits = _descriptor(header[f"{color}PaletteColorLookupTableDescriptor"].value, signed=signed)
            segmented = header.get(f"Segmented{color}PaletteColorLookupTableData")
            if segmented is not None:
                tables.append(_expand(segmented, count, bits, little=little))
            else:
                tables.append(_entries(header[f"{color}PaletteColorLookupTableData"].value, count, little=little))
        if len({len(table) for table in tables}) > 1:
            raise ValueError("the palette's three tables differ in length")
        colors = np.stack(tables, axis=1)
        # Some writers declare 16 bits and fill 8, or the reverse: what the entries need counts.
        return cls(first, (colors if colors.max(initial=0) < 256 else colors >> 8).astype(np.uint8))

    def apply(self, stored: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        """Return stored values [rows, columns] as RGB; those beyond the palette get its first or last colour."""
        place = np.clip(stored.astype(np.int64) - self.first, 0, len(self.colors) - 1)
        return self.colors[place]


def _descriptor(value: Any, *, signed: bool) -> tuple[int, int, int]:
    """Number of entries, first input value, bits of an entry."""
    count, first, bits = (int(number) for number in value)
    if signed and first >= 2**15:  # read as unsigned by whoever did not know the input's sign
        first -= 2**16
    return count or _MOST, first, bits


def _entries(data: Any, count: int, *, little: bool) -> Entries:
    """The first `count` entries of a table's data: 16 bits each, or 8 bits packed two in a word."""
    words = _words(data, little=little)
    if len(words) < count <= 2 * len(words):
        words = words.astype("<u2").view(np.uint8).astype(np.uint16)
    if len(words) < count:
        raise ValueError("a look-up table's descriptor does not fit its data")
    return words[:count]


def _words(data: Any, *, little: bool) -> Entries:
    if isinstance(data, bytes):
        return np.frombuffer(data + bytes(len(data) % 2), "<u2" if little else ">u2").astype(np.uint16)
    return np.atleast_1d(np.asarray(data)).astype(np.int64).astype(np.uint16)


def _expand(data: Any, count: int, bits: int, *, little: bool) -> Entries:
    """The entries that a segmented table stands for (PS3.3 C.7.9.2).

    Raises
    ------
    ValueError
        If the segments are none, or stand for fewer entries than declared.
    """
    if bits not in (8, 16):
        raise ValueError("a segmented palette's entries have 8 or 16 bits")
    words = _words(data, little=little)
    if bits == 8:
        words = words.astype("<u2").view(np.uint8).astype(np.uint16)
    numbers = [int(word) for word in words]
    out: list[int] = []
    place = 0
    while len(out) < count and place + 2 < len(numbers):
        kind, length = numbers[place], numbers[place + 1]
        if kind == _INDIRECT:
            # `length` segments are repeated from an offset in bytes: 32 bits, the least significant first.
            parts = 32 // bits
            offset = sum(number << bits * power for power, number in enumerate(numbers[place + 2 : place + 2 + parts]))
            start = offset * 8 // bits
            for _ in range(length):
                start = _segment(numbers, start, out)
            place += 2 + parts
        else:
            place = _segment(numbers, place, out)
    if len(out) < count:
        raise ValueError("a segmented palette ends before its last entry")
    return np.array(out[:count], np.uint16)


def _segment(numbers: list[int], place: int, out: list[int]) -> int:
    """Append a discrete or linear segment's entries; return where the next one begins."""
    kind, length = numbers[place : place + 2]
    if len(out) + length > _MOST:
        raise ValueError("a segmented palette has too many entries")
    if kind == _DISCRETE:
        out += numbers[place + 2 : place + 2 + length]
        return place + 2 + length
    if kind == _LINEAR and out:
        steps = np.linspace(out[-1], numbers[place + 2], length + 1)[1:]
        out += [round(float(step)) for step in steps]
        return place + 3
    raise ValueError("a palette's segment is of no known type")
