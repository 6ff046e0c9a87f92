"""The header of an object, read defensively: a broken element is left out, and no file fills memory or stack."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from io import BytesIO
from typing import Any, BinaryIO, Final

import pydicom.config
from pydicom import dcmread
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_sequence
from pydicom.hooks import raw_element_vr

from engine.errors import NotDicomError
from engine.limits import Limits

# Values are judged where they are used. The library's own warnings about them quote them, and they are patients' data.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

MAX_ELEMENT_BYTES: Final = 64 * 1024 * 1024
"""Larger header elements are left out; they are bulk data (overlays, waveforms), not description."""

# What pydicom raises on damaged files: its own error, and whatever its parsing of arbitrary bytes runs into.
READ_ERRORS: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

_NUMBERS: Final = ("DS", "IS")
_BULK: Final = ("OB", "OD", "OF", "OL", "OV", "OW", "UN")
_HEAD: Final = 8
"""Bytes in which every element and every item begins (PS3.5 7.1, 7.5)."""


class Counted:
    """A file of which pydicom reads no more than so many elements and items.

    It reads sequences of undefined length at once, a kilobyte for the eight bytes of an item, so that counting them
    afterwards would be too late.
    """

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file = file
        self._read = file.read
        self._left = limit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        """The next bytes; none any more once the limit is passed."""
        if size == _HEAD:
            self._left -= 1
            if self._left < 0:
                return b""
        return self._read(size)

    @property
    def exceeded(self) -> bool:
        """Whether more were asked for."""
        return self._left < 0


def read_header(file: BinaryIO, limits: Limits) -> FileDataset:
    """Read all but the pixels, every element parsed: later users meet no surprise.

    Raises
    ------
    NotDicomError
        If it exceeds a limit.
    READ_ERRORS
        If it is damaged.
    """
    counted = Counted(file, limits.items)
    try:
        header = dcmread(counted, stop_before_pixels=True, force=True, defer_size=MAX_ELEMENT_BYTES)
    finally:
        if counted.exceeded:
            raise _too_many(limits)
    _settle(header, limits)
    _settle(header.file_meta, limits)
    return header


def _settle(dataset: Dataset, limits: Limits) -> None:
    """Parse every element now, and leave out what cannot be."""
    pending: list[tuple[Dataset, int]] = [(dataset, 1)]
    count = 0
    while pending:
        current, depth = pending.pop()
        count += len(current)
        for raw in list(current.values()):
            tag = raw.tag
            if isinstance(raw, RawDataElement):
                if raw.value is None and raw.length:
                    del current[tag]  # deferred: bulk data
                    continue
                _check_raw(raw, current, limits)
            try:
                element = current[tag]
            except READ_ERRORS:
                del current[tag]
                continue
            if element.VR in _NUMBERS and any(isinstance(value, str) for value in _values(element)):
                del current[tag]  # a number string that is no number
            elif element.VR == "SQ":
                if depth > limits.nesting:
                    raise NotDicomError(f"the object's sequences are nested deeper than the limit of {limits.nesting}")
                count += len(element.value)
                pending.extend((item, depth + 1) for item in element.value)
        if count > limits.items:
            raise _too_many(limits)


def _check_raw(raw: RawDataElement, dataset: Dataset, limits: Limits) -> None:
    """Refuse what would grow beyond a limit as it is parsed."""
    size = len(raw.value or b"")
    if size <= min(limits.value_bytes, limits.items * _HEAD):
        return
    told: dict[str, str] = {}
    try:
        raw_element_vr(raw, told, ds=dataset)
    except READ_ERRORS:
        return  # parsing it raises the same
    if told["VR"] == "SQ":
        counted = Counted(BytesIO(raw.value or b""), limits.items)
        with suppress(*READ_ERRORS):  # parsing it raises the same
            read_sequence(counted, raw.is_implicit_VR, raw.is_little_endian, size, "iso8859")  # type: ignore[arg-type]
        if counted.exceeded:
            raise _too_many(limits)
    elif told["VR"] not in _BULK and size > limits.value_bytes:
        raise NotDicomError(
            f"a value of the object's header {raw.tag} has {size} bytes, more than the limit of {limits.value_bytes}"
        )


def _values(element: DataElement) -> list[Any]:
    if element.is_empty:
        return []
    return list(element.value) if element.VM > 1 else [element.value]


def _too_many(limits: Limits) -> NotDicomError:
    return NotDicomError(f"the object's header has more elements and items than the limit of {limits.items}")
