"""The UIDs at the beginning of an ordinary data set, without building one: tens of microseconds, not hundreds."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection
from functools import cache
from typing import Final

from pydicom.uid import UID

_CHARACTER_SET: Final = 0x0008_0005
_SOP_CLASS: Final = 0x0008_0016
_SOP_INSTANCE: Final = 0x0008_0018
_SOFTWARE_VERSIONS: Final = 0x0018_1020
_CONTRIBUTING_EQUIPMENT: Final = 0x0018_A001
_STUDY: Final = 0x0020_000D
_SERIES: Final = 0x0020_000E
_IMAGES_OF_STUDY: Final = 0x0020_1208
_WANTED: Final = frozenset({_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES})
_UNDEFINED: Final = 0xFFFF_FFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFE_E000, 0xFFFE_E00D, 0xFFFE_E0DD

_SHORT_VRS: Final = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_VRS: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_TAG: Final = struct.Struct("<HH")
_LENGTH: Final = struct.Struct("<I")
_SHORT_LENGTH: Final = struct.Struct("<H")
_CHARACTER_SETS: Final = re.compile(rb"(?:\\?(?:ISO_IR \d{1,3}|ISO 2022 IR \d{1,3}|GB18030|GBK) ?)*")
_UIDS: Final = re.compile(rb"[0-9.]{1,64}")


class _Unusual(Exception):  # noqa: N818 - no error: someone else reads it
    """Not for this reader."""


def leading_uids(head: bytes | bytearray | memoryview, transfer_syntax_uid: str) -> tuple[str, str, str, str] | None:
    """Read SOP class, SOP instance, study and series instance UID.

    Parameters
    ----------
    head : bytes
        The first bytes of a data set.
    transfer_syntax_uid : str

    Returns
    -------
    tuple of str or None
        None for whatever is not plain: another byte order, deflated, elements out of order or beyond the head, a UID
        that is missing or no UID, equipment that must be looked at. Then the data set has to be parsed.
    """
    implicit = _is_implicit(transfer_syntax_uid)
    if implicit is None:
        return None
    try:
        found = _walk(bytes(head), implicit)
    except (_Unusual, struct.error, RecursionError):
        return None
    return found[_SOP_CLASS], found[_SOP_INSTANCE], found[_STUDY], found[_SERIES]


@cache
def _is_implicit(transfer_syntax_uid: str) -> bool | None:
    syntax = UID(transfer_syntax_uid)
    try:
        if syntax.is_deflated or not syntax.is_little_endian or ".4.95" in syntax or ".4.205" in syntax:
            return None
        return syntax.is_implicit_VR
    except ValueError:  # no transfer syntax of the Standard's
        return None


def _walk(head: bytes, implicit: bool) -> dict[int, str]:
    found: dict[int, str] = {}
    at, last = 0, 0x0007_FFFF
    # A data set that is not encoded as was agreed on is one for the parser, which finds out.
    if implicit and head[4:6] in _SHORT_VRS | _LONG_VRS:
        raise _Unusual
    while len(found) < len(_WANTED):
        vr = b"UI" if implicit else head[at + 4 : at + 6]
        tag, length, at = _header(head, at, implicit)
        if tag <= last or tag > _SERIES or tag == _CONTRIBUTING_EQUIPMENT:
            raise _Unusual
        last = tag
        if length == _UNDEFINED:
            at = _end_of_sequence(head, at, implicit)
            continue
        end = at + length
        if tag == _CHARACTER_SET and not _CHARACTER_SETS.fullmatch(head, at, end):
            raise _Unusual  # a parser may refuse what follows
        if tag == _SOFTWARE_VERSIONS and b"medrega-pacs" in head[at:end]:
            raise _Unusual
        if tag in _WANTED:
            value = head[at:end].rstrip(b"\0 ")
            # A parser makes a number of what is called one.
            if vr != b"UI" or len(value) > 64 or end > len(head) or not _UIDS.fullmatch(value):
                raise _Unusual
            found[tag] = value.decode()
        at = end
    return found


def _header(head: bytes, at: int, implicit: bool) -> tuple[int, int, int]:
    """Tag, length, and where the value begins."""
    group, element = _TAG.unpack_from(head, at)
    tag = group << 16 | element
    if implicit or group == 0xFFFE:
        return tag, _LENGTH.unpack_from(head, at + 4)[0], at + 8
    vr = head[at + 4 : at + 6]
    if vr in _SHORT_VRS:
        return tag, _SHORT_LENGTH.unpack_from(head, at + 6)[0], at + 8
    if vr not in _LONG_VRS:
        raise _Unusual
    length = _LENGTH.unpack_from(head, at + 8)[0]
    if length == _UNDEFINED and vr != b"SQ":
        raise _Unusual
    return tag, length, at + 12


def _end_of_sequence(head: bytes, at: int, implicit: bool) -> int:
    while True:
        tag, length, at = _header(head, at, implicit)
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM:
            raise _Unusual
        if length != _UNDEFINED:
            at += length
            continue
        while True:
            tag, length, at = _header(head, at, implicit)
            if tag == _ITEM_END:
                break
            if tag >> 16 == 0xFFFE:
                raise _Unusual
            at = _end_of_sequence(head, at, implicit) if length == _UNDEFINED else at + length


def excerpt(head: bytes, transfer_syntax_uid: str, tags: Collection[int]) -> bytes | None:
    """Some elements of an ordinary data set, encoded as they were and one behind the other.

    Parameters
    ----------
    head : bytes
        The first bytes of a data set.
    transfer_syntax_uid : str
    tags : collection of int

    Returns
    -------
    bytes or None
        None for whatever is not plain, as `leading_uids`, and where the last of the tags is not passed within the head.
    """
    implicit = _is_implicit(transfer_syntax_uid)
    if implicit is None or (implicit and head[4:6] in _SHORT_VRS | _LONG_VRS):
        return None
    parts: list[bytes] = []
    at, last, end = 0, 0x0007_FFFF, max(tags)
    try:
        while True:
            begin = at
            tag, length, at = _header(head, at, implicit)
            if tag > end:
                return b"".join(parts)
            if tag <= last:
                return None
            last = tag
            at = _end_of_sequence(head, at, implicit) if length == _UNDEFINED else at + length
            if tag in tags:
                parts.append(head[begin:at])
    except (_Unusual, struct.error, RecursionError):
        return None


def images_of_study(head: bytes, transfer_syntax_uid: str) -> int | None:
    """Read Number of Study Related Instances (0020,1208).

    Returns
    -------
    int or None
        None where it is missing, no positive number, or not to be read as `excerpt` reads.
    """
    element = excerpt(head, transfer_syntax_uid, {_IMAGES_OF_STUDY})
    value = element[8:].strip(b" \0") if element else b""  # IS has a short header, and an implicit one is as long
    return int(value) or None if len(value) <= 12 and value.isdigit() else None
