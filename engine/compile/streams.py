"""Tensors as streams of blocks: read from one safetensors file and written into another without holding them whole."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from engine.errors import ModelError
from engine.model.stored import SIZES, Stored

BLOCK: Final = 1 << 24
"""Bytes held at a time."""
_NUMPY: Final[dict[str, np.dtype[Any]]] = {"BF16": np.dtype("<u2"), "F16": np.dtype("<f2"), "F32": np.dtype("<f4")}


class Sink:
    """A file being written: counted, digested, and reported on.

    Parameters
    ----------
    stream : BinaryIO
    advance : callable
        Told the bytes of each block.
    """

    def __init__(self, stream: BinaryIO, advance: Callable[[int], None]) -> None:
        self._stream, self._advance, self._hash = stream, advance, hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append."""
        self._stream.write(data)
        self._hash.update(data)
        self.size += len(data)
        self._advance(len(data))

    @property
    def sha256(self) -> str:
        """Digest of all that was written."""
        return self._hash.hexdigest()


def file_digest(path: Path, advance: Callable[[int], None]) -> str:
    """SHA-256 of a file, read in blocks that are reported."""
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            total.update(block)
            advance(len(block))
    return total.hexdigest()


@dataclass(frozen=True, slots=True)
class Cut:
    """A rectangle of a stored matrix; a vector is a matrix of one column.

    Parameters
    ----------
    source : Stored
    rows, columns : tuple of int, optional
        First, and one behind the last; all of them without.
    """

    source: Stored
    rows: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for part, size in ((self.rows, self._height), (self.columns, self._width)):
            if part is not None and not 0 <= part[0] <= part[1] <= size:
                raise ValueError(f"{part} is no part of 0 to {size}")

    @property
    def _height(self) -> int:
        return self.source.shape[0] if self.source.shape else 1

    @property
    def _width(self) -> int:
        return math.prod(self.source.shape[1:])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the rectangle, with as many axes as the source where its columns are whole."""
        begin, end = self.rows or (0, self._height)
        if self.columns is None:
            return (end - begin, *self.source.shape[1:])
        return end - begin, self.columns[1] - self.columns[0]

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        """The rectangle from above to below, some rows at a time; BF16 as its bits."""
        begin, end = self.rows or (0, self._height)
        dtype = _NUMPY[self.source.dtype]
        line = self._width * dtype.itemsize
        step = max(1, BLOCK // max(line, 1))
        left, right = self.columns or (0, self._width)
        with self.source.file.open("rb") as stream:
            stream.seek(self.source.offset + begin * line)
            for first in range(begin, end, step):
                count = min(first + step, end) - first
                data = stream.read(count * line)
                if len(data) != count * line:
                    raise ModelError(f"{self.source.file} ends too early", advice="Copy the file again.")
                yield np.frombuffer(data, dtype).reshape(count, self._width)[:, left:right]


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor to be written: rectangles one below the other, then rows of zeros.

    Parameters
    ----------
    name : str
    cuts : sequence of Cut
        Of the same width.
    dtype : {"BF16"}, optional
        Convert to this; as stored without.
    padding : int
        Rows of zeros below.
    """

    name: str
    cuts: Sequence[Cut]
    dtype: str | None = None
    padding: int = 0

    @property
    def stored_dtype(self) -> str:
        """The type it will have in the file."""
        return self.dtype or self.cuts[0].source.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all rectangles and the padding together."""
        return (sum(cut.shape[0] for cut in self.cuts) + self.padding, *self.cuts[0].shape[1:])

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * SIZES[self.stored_dtype]

    def blocks(self) -> Iterator[bytes]:
        """The bytes, some rows at a time."""
        for cut in self.cuts:
            for block in cut.blocks():
                convert = self.stored_dtype == "BF16" and cut.source.dtype != "BF16"
                yield (to_bfloat16(block) if convert else block).tobytes()
        if self.padding:
            yield bytes(self.padding * math.prod(self.shape[1:]) * SIZES[self.stored_dtype])


def to_bfloat16(array: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """Bits of the nearest bfloat16, ties to even, as PyTorch rounds."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(array.astype(np.float32)), np.uint16(0x7FC0), rounded)


def safetensors_header(entries: Sequence[Entry]) -> bytes:
    """What a safetensors file of these tensors begins with."""
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for entry in entries:
        end = offset + entry.size
        described[entry.name] = {"dtype": entry.stored_dtype, "shape": entry.shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_safetensors(entries: Sequence[Entry], sink: Sink) -> None:
    """Write tensors, block by block."""
    sink.write(safetensors_header(entries))
    for entry in entries:
        for block in entry.blocks():
            sink.write(block)
