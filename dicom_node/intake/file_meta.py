"""File meta information (PS3.10 7.1), written without building a data set."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

PREAMBLE: Final = b"\0" * 128 + b"DICM"
_LONG: Final = struct.Struct("<HH2sxxI")
_SHORT: Final = struct.Struct("<HH2sH")


def encode(
    *,
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
    implementation_class_uid: str,
    implementation_version: str,
    sending_aet: str,
    receiving_aet: str,
) -> bytes:
    """Write preamble, prefix and group 0002; the titles say who sent an object and to whom ((0002,0017), (0002,0018)).

    Parameters
    ----------
    sop_class_uid, sop_instance_uid, transfer_syntax_uid, implementation_class_uid : str
        ASCII.
    implementation_version, sending_aet, receiving_aet : str
        At most 16 characters.
    """
    before, behind = _around(
        sop_class_uid,
        transfer_syntax_uid,
        implementation_class_uid,
        implementation_version,
        sending_aet,
        receiving_aet,
    )
    elements = before + _element(0x0003, b"UI", sop_instance_uid, b"\0") + behind
    return PREAMBLE + _SHORT.pack(2, 0, b"UL", 4) + len(elements).to_bytes(4, "little") + elements


@lru_cache
def _around(
    sop_class_uid: str,
    transfer_syntax_uid: str,
    implementation_class_uid: str,
    implementation_version: str,
    sending_aet: str,
    receiving_aet: str,
) -> tuple[bytes, bytes]:
    """What stands before and behind the SOP instance UID: the same for all objects of a series."""
    before = _LONG.pack(2, 0x0001, b"OB", 2) + b"\0\1" + _element(0x0002, b"UI", sop_class_uid, b"\0")
    behind = (
        _element(0x0010, b"UI", transfer_syntax_uid, b"\0"),
        _element(0x0012, b"UI", implementation_class_uid, b"\0"),
        _element(0x0013, b"SH", implementation_version, b" "),
        _element(0x0017, b"AE", sending_aet, b" "),
        _element(0x0018, b"AE", receiving_aet, b" "),
    )
    return before, b"".join(behind)


def _element(element: int, vr: bytes, value: str, filler: bytes) -> bytes:
    encoded = value.encode("ascii", "replace")
    if len(encoded) % 2:
        encoded += filler
    return _SHORT.pack(2, element, vr, len(encoded)) + encoded
