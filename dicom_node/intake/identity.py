"""Which object a received data set is: its UIDs, read from its first elements and nothing more of it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from engine.errors import NodeError
from engine.header import Counted
from engine.study import READ_ERRORS, is_own_result

DOES_NOT_MATCH: Final = 0xA900
"""Data set does not match SOP class: an attribute that every IOD demands is missing, or is not as the request says."""
CANNOT_UNDERSTAND: Final = 0xC000

_TAGS: Final = (
    "SOPClassUID",
    "SOPInstanceUID",
    "SoftwareVersions",
    "ContributingEquipmentSequence",
    "StudyInstanceUID",
    "SeriesInstanceUID",
)
_PREFIXES: Final = (1 << 16, 1 << 24)
"""How much of a data set is looked at, and how much more when the UIDs do not stand within that."""
_MOST_ELEMENTS: Final = 50_000
"""Elements and items, before and among those that are looked for, that are read at most."""
_UID: Final = re.compile(r"[0-9.]{1,64}")


class RefusedError(NodeError):
    """A received object is not taken.

    Parameters
    ----------
    status : int
        For the C-STORE response (PS3.4 table B.2-1).
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Identity:
    """The UIDs of an object; `sop_class_uid` and `sop_instance_uid` are empty where the data set has none.

    Parameters
    ----------
    own : bool
        Whether it says that a node of this kind made it.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    own: bool


def identify(dataset: bytes | memoryview, transfer_syntax_uid: str) -> Identity:
    """Read the UIDs of an encoded data set.

    Raises
    ------
    RefusedError
        If it cannot be parsed, or lacks its study's or series' UID, or one of them is no UID.
    """
    header = read_elements(dataset, UID(transfer_syntax_uid), _TAGS)
    try:
        uids = [str(header.get(keyword) or "") for keyword in _TAGS if keyword.endswith("UID")]
        own = is_own_result(header)
    except READ_ERRORS as error:
        raise RefusedError(f"the data set's UIDs cannot be read ({type(error).__name__})", CANNOT_UNDERSTAND) from None
    sop_class, sop_instance, study, series = uids
    for name, uid in (("Study", study), ("Series", series)):
        if not uid:
            raise RefusedError(f"the data set has no {name} Instance UID", DOES_NOT_MATCH)
    if not all(is_uid(uid) for uid in uids if uid):
        raise RefusedError("a UID of the data set is not made of digits and dots, at most 64", DOES_NOT_MATCH)
    return Identity(study, series, sop_instance, sop_class, own)


def is_uid(uid: str) -> bool:
    """Whether a UID is made of digits and dots, at most 64 (PS3.5 9.1), and so can name a file."""
    return bool(_UID.fullmatch(uid) and uid.strip("."))


def read_elements(dataset: bytes | memoryview, transfer_syntax: UID, keywords: Sequence[str]) -> Dataset:
    """Read some elements of an encoded data set, and nothing behind the last of them.

    Parameters
    ----------
    dataset : bytes or memoryview
    transfer_syntax : UID
    keywords : sequence of str
        In the order of their tags.

    Raises
    ------
    RefusedError
        If it cannot be parsed as far as that.
    """
    tags = [Tag(keyword) for keyword in keywords]
    last = int(tags[-1])
    failure, counted = "", Counted(BytesIO(), _MOST_ELEMENTS)
    for limit in _PREFIXES:
        passed, found, whole = False, False, len(dataset) <= limit

        def beyond(tag: BaseTag, _vr: str | None, _length: int) -> bool:
            nonlocal passed, found
            # Elements ascend and come once (PS3.5 7.1); what comes again behind the last one is not looked at.
            passed, found = found or int(tag) > last, int(tag) == last
            return passed

        try:
            if transfer_syntax == DeflatedExplicitVRLittleEndian:
                # Never inflated as a whole: a few hundred KB can hold hundreds of MB.
                head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(dataset[:limit], limit)
                whole = len(head) < limit
            else:
                head = bytes(dataset[:limit])
            counted = Counted(BytesIO(head), _MOST_ELEMENTS)
            header = read_dataset(
                counted,  # type: ignore[arg-type]  # as a file
                transfer_syntax.is_implicit_VR,
                transfer_syntax.is_little_endian,
                stop_when=beyond,
                specific_tags=list(tags),
            )
        except READ_ERRORS as error:
            failure = type(error).__name__
        else:
            failure = ""
            if (passed or whole) and not counted.exceeded:
                return header
        if counted.exceeded:
            failure = f"more than {_MOST_ELEMENTS} elements and items"
            break
        if whole:
            break
    why = failure or "what is looked for does not stand at its beginning"
    raise RefusedError(f"the data set cannot be parsed ({why})", CANNOT_UNDERSTAND)
