"""What a compressed frame says of itself, read first: a decoder allocates what the codestream asks for."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

# Start of frame markers: every JPEG process (ITU-T T.81 table B.1) and JPEG-LS (T.87 C.2.2).
_SOF: Final = frozenset([*range(0xC0, 0xD0), 0xF7]) - {0xC4, 0xC8, 0xCC}
_SOF_LOSSLESS: Final = 0xC3
_ALONE: Final = frozenset([0x01, *range(0xD0, 0xD9)])
_JPEG_LS: Final = 0xF7
_APP0: Final = 0xE0
_APP14: Final = 0xEE
_J2K_BEGIN: Final = b"\xff\x4f\xff\x51"
_J2K_TILE: Final = 0xFF90
_J2K_COD: Final = 0xFF52


@dataclass(frozen=True, slots=True)
class Codestream:
    """Size of a compressed frame, and what it says of its own colours.

    Parameters
    ----------
    rows, columns, samples : int
    precision : int
        Bits a sample.
    lossless : bool
        Whether it is JPEG Lossless (process 14); transfer syntaxes are sometimes wrong about it.
    photometric : str, optional
        What its decoded samples are, where it tells, ``RGB`` or ``YBR_FULL``: headers are often wrong about it.
    """

    rows: int
    columns: int
    samples: int
    precision: int
    lossless: bool = False
    photometric: str | None = None


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
    place, transform, jfif = 2, None, False
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
                components = frame[place + 10 : place + 10 + 3 * samples]
                colors = None
                if samples == 3 and marker != _JPEG_LS:
                    colors = _colors(components, transform, jfif=jfif and marker != _SOF_LOSSLESS)
                return Codestream(rows, columns, samples, precision, marker == _SOF_LOSSLESS, colors)
            words = frame[place + 4 : place + 9]
            if marker == _APP14 and words == b"Adobe" and length >= 14:
                transform = frame[place + 15]
            jfif |= marker == _APP0 and words == b"JFIF\0"
            place += 2 + max(length, 2)


def _colors(components: bytes, transform: int | None, *, jfif: bool) -> str | None:
    """What three components are: by Adobe's marker, else their names, else JFIF's marker or their subsampling."""
    if transform in (0, 1):
        return "YBR_FULL" if transform else "RGB"
    names, sampling = components[::3], components[1::3]
    if names in (b"RGB", b"rgb"):
        return "RGB"
    # Colour differences may be subsampled, red, green and blue are not.
    return "YBR_FULL" if jfif or len(set(sampling)) > 1 else None


def _jpeg_2000(frame: bytes, start: int) -> Codestream:
    # SIZ (ITU-T T.800 A.5.1) follows the start of codestream.
    x1, y1, x0, y0 = struct.unpack_from(">IIII", frame, start + 8)
    samples, depth = struct.unpack_from(">HB", frame, start + 40)
    colors = "RGB" if samples == 3 and _multiple_component_transform(frame, start + 2) else None
    return Codestream(y1 - y0, x1 - x0, samples, (depth & 0x7F) + 1, photometric=colors)


def _multiple_component_transform(frame: bytes, place: int) -> bool:
    """Whether COD (ITU-T T.800 A.6.1) asks for a colour transform, which every decoder then takes back."""
    while place + 9 <= len(frame):
        marker, length = struct.unpack_from(">HH", frame, place)
        if marker == _J2K_COD:
            return frame[place + 8] == 1
        if marker == _J2K_TILE or length < 2:
            return False
        place += 2 + length
    return False
