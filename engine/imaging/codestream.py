"""What a compressed frame says of itself, read first: a decoder allocates what the codestream asks for."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

# Start of frame markers: every JPEG process (ITU-T T.81 table B.1) and JPEG-LS (T.87 C.2.2).
_SOF: Final = frozenset([*range(0xC0, 0xD0), 0xF7]) - {0xC4, 0xC8, 0xCC}
_SOF_LOSSLESS: Final = 0xC3
_ALONE: Final = frozenset([0x01, *range(0xD0, 0xD9)])
_J2K_BEGIN: Final = b"\xff\x4f\xff\x51"
_APP14: Final = 0xEE


@dataclass(frozen=True, slots=True)
class Codestream:
    """Size of a compressed frame, and what its Adobe marker says of the colours.

    Parameters
    ----------
    rows, columns, samples : int
    precision : int
        Bits a sample.
    lossless : bool
        Whether it is JPEG Lossless (process 14); transfer syntaxes are sometimes wrong about it.
    adobe_transform : int, optional
        0: as they are, RGB; 1: YCbCr. None where there is no such marker.
    """

    rows: int
    columns: int
    samples: int
    precision: int
    lossless: bool = False
    adobe_transform: int | None = None


def breaks_off(frame: bytes) -> bool:
    """Whether a JPEG or JPEG-LS codestream has no end behind its last scan: decoders fill up what is missing in grey.

    Neither marker occurs within entropy-coded data (T.81 B.1.1.5, T.87 A.1).
    """
    scan = frame.rfind(b"\xff\xda")
    return frame[:2] == b"\xff\xd8" and scan >= 0 and frame.rfind(b"\xff\xd9") < scan


def read_codestream(frame: bytes) -> Codestream | None:
    """Read the size of a JPEG, JPEG-LS or JPEG 2000 codestream; None if it is neither or breaks off before it."""
    try:
        if frame[:2] == b"\xff\xd8":
            return _jpeg(frame)
        start = frame.find(_J2K_BEGIN, 0, 4096)  # at the very beginning, or within a JP2 wrapper
        return _jpeg_2000(frame, start) if start >= 0 else None
    except (IndexError, struct.error):
        return None


def _jpeg(frame: bytes) -> Codestream | None:
    place, transform = 2, None
    while True:
        if frame[place] != 0xFF:
            return None
        marker = frame[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker in _ALONE:
            place += 2
        else:
            (length,) = struct.unpack_from(">H", frame, place + 2)
            if marker in _SOF:
                precision, rows, columns, samples = struct.unpack_from(">BHHB", frame, place + 4)
                return Codestream(rows, columns, samples, precision, marker == _SOF_LOSSLESS, transform)
            if marker == _APP14 and frame[place + 4 : place + 9] == b"Adobe" and length >= 14:
                transform = frame[place + 15]
            place += 2 + max(length, 2)


def _jpeg_2000(frame: bytes, start: int) -> Codestream:
    # SIZ (ITU-T T.800 A.5.1) follows the start of codestream.
    x1, y1, x0, y0 = struct.unpack_from(">IIII", frame, start + 8)
    samples, depth = struct.unpack_from(">HB", frame, start + 40)
    return Codestream(y1 - y0, x1 - x0, samples, (depth & 0x7F) + 1)
