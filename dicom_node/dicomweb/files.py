"""DICOM files (PS3.10) as they arrive in a body: the file meta information first, then the data set as a stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from typing import Final

from pydicom.filereader import read_dataset

from dicom_node.intake.identity import is_uid
from dicom_node.intake.storage import Arrival, Kept, Storage
from engine.errors import NotDicomError
from engine.study import READ_ERRORS

_HEAD: Final = 144
"""Preamble, prefix, and the element that says how long the file meta information is (PS3.10 table 7.1-1)."""
_LARGEST_META: Final = 65_536


@dataclass(frozen=True, slots=True)
class ArrivingFile:
    """A file that arrives; `data_set` gives its encoded data set and is read once."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data_set: Iterator[bytes]

    @classmethod
    def read(cls, content: Iterable[bytes]) -> ArrivingFile:
        """Read the file meta information, and no more than that and one chunk.

        Raises
        ------
        NotDicomError
            If there is none, or it lacks one of the three UIDs.
        """
        chunks = iter(content)
        head = bytearray()

        def fill(length: int) -> None:
            while len(head) < length:
                chunk = next(chunks, None)
                if chunk is None:
                    raise NotDicomError("the file ends within its file meta information")
                head.extend(chunk)

        fill(_HEAD)
        if head[128:132] != b"DICM" or head[132:140] != b"\x02\0\0\0UL\x04\0":
            raise NotDicomError("not a DICOM file with file meta information")
        end = _HEAD + int.from_bytes(head[140:144], "little")
        if end > _LARGEST_META:
            raise NotDicomError("the file meta information is too long")
        fill(end)
        try:
            meta = read_dataset(BytesIO(bytes(head[132:end])), False, True)  # always Explicit VR Little Endian
            keywords = ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID")
            sop_class, sop_instance, transfer_syntax = (str(meta.get(keyword) or "") for keyword in keywords)
        except READ_ERRORS as error:
            raise NotDicomError(f"the file meta information cannot be read ({type(error).__name__})") from None
        if not all(map(is_uid, (sop_class, sop_instance, transfer_syntax))):
            raise NotDicomError("the file meta information lacks a UID")
        rest = [bytes(head[end:])] if len(head) > end else []
        return cls(sop_class, sop_instance, transfer_syntax, chain(rest, chunks))


def keep(
    storage: Storage,
    file: ArrivingFile,
    *,
    calling_aet: str,
    called_aet: str,
    study_instance_uid: str = "",
    prior: bool = False,
) -> Kept:
    """Take an arriving file into the spool and the ledger, chunk by chunk.

    Parameters
    ----------
    storage : Storage
    file : ArrivingFile
    calling_aet : str
        The user or source that stands for one.
    called_aet : str
        Entry point that it counts as sent to.
    study_instance_uid : str
        The study that it must belong to; any without.
    prior : bool
        Whether it is fetched to stand beside another study.

    Raises
    ------
    RefusedError
        If it cannot be taken.
    NodeError
        If the disk or the ledger fails, or the body breaks off; nothing is left of the file.
    """
    arrival = Arrival(
        sop_class_uid=file.sop_class_uid,
        sop_instance_uid=file.sop_instance_uid,
        transfer_syntax_uid=file.transfer_syntax_uid,
        calling_aet=calling_aet,
        called_aet=called_aet,
        study_instance_uid=study_instance_uid,
        prior=prior,
    )
    with storage.begin(arrival) as receiving:
        for chunk in file.data_set:
            receiving.write(chunk)
        return receiving.finish()
