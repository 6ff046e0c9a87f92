"""STOW-RS (PS3.18 10.5), the server's side: every part of a request goes straight to the spool, and is answered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import structlog
from pydicom.dataset import Dataset

from dicom_node.dicomweb.files import ArrivingFile, keep
from dicom_node.dicomweb.multipart import PART_10, MediaType, MultipartError, Part
from dicom_node.dimse.sop_classes import storage_sop_classes, transfer_syntaxes
from dicom_node.intake.identity import CANNOT_UNDERSTAND, RefusedError
from dicom_node.intake.storage import Kept, Storage
from dicom_node.intake.transfers import Transfer
from dicom_node.spool import SpoolFullError
from engine.errors import NodeError, NotDicomError

# PS3.18 I.2.2; those of C-STORE but for the last one.
OUT_OF_RESOURCES: Final = 0xA700
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
TRANSFER_SYNTAX_NOT_SUPPORTED: Final = 0xC122
_MOST_PARTS: Final = 100_000

log = structlog.get_logger(__name__)


class BodyError(MultipartError):
    """A request's body cannot be read to its end.

    Parameters
    ----------
    status : int
        Of the answer, where nothing was stored.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class StoreAnswer:
    """What became of a request's instances (PS3.18 10.5.3, I.2.1)."""

    stored: list[tuple[ArrivingFile, Kept]] = field(default_factory=list)
    failed: list[tuple[ArrivingFile | None, int]] = field(default_factory=list)
    """With the failure reason; None where a part is no file whose UIDs can be told."""
    broken: MultipartError | None = None
    """Why the request ended early."""
    full: bool = False

    @property
    def status(self) -> int:
        """Of the HTTP response (PS3.18 table 10.5.3-1)."""
        if self.stored:
            return 202 if self.failed or self.broken else 200
        if self.broken is not None:
            return self.broken.status if isinstance(self.broken, BodyError) else 400
        if not self.failed:
            return 400  # a request without a part
        if all(reason == OUT_OF_RESOURCES for _, reason in self.failed):
            return 507 if self.full else 503
        return 409

    def module(self, url: str) -> Dataset:
        """The Store Instances Response Module.

        Parameters
        ----------
        url : str
            The service's root.
        """
        module = Dataset()
        studies = {kept.study_instance_uid for _, kept in self.stored}
        if len(studies) == 1:
            module.RetrieveURL = f"{url}/studies/{studies.pop()}"
        stored = [
            _item(
                file,
                RetrieveURL=f"{url}/studies/{kept.study_instance_uid}/series/{kept.series_instance_uid}"
                f"/instances/{file.sop_instance_uid}"
                if kept.stored is not None
                else None,
            )
            for file, kept in self.stored
        ]
        failed = [_item(file, FailureReason=reason) for file, reason in self.failed if file is not None]
        others = [_item(None, FailureReason=reason) for file, reason in self.failed if file is None]
        if self.broken is not None:
            others.append(_item(None, FailureReason=CANNOT_UNDERSTAND))
        if stored:
            module.ReferencedSOPSequence = stored
        if failed:
            module.FailedSOPSequence = failed
        if others:
            module.OtherFailuresSequence = others
        return module


def store_parts(
    parts: Iterator[Part],
    storage: Storage,
    transfer: Transfer,
    *,
    calling_aet: str,
    called_aet: str,
    study_instance_uid: str = "",
) -> StoreAnswer:
    """Keep what a request's parts hold.

    Parameters
    ----------
    parts : iterator of Part
    storage : Storage
    transfer : Transfer
        Told of what arrives, so that completion knows.
    calling_aet, called_aet : str
        The user, and the entry point that the objects count as sent to.
    study_instance_uid : str
        The study of the request's path; any without.
    """
    answer = StoreAnswer()
    try:
        for number, part in enumerate(parts):
            if number == _MOST_PARTS:
                raise BodyError("a request has too many parts", 413)
            _store_part(
                part,
                answer,
                storage,
                transfer,
                calling_aet=calling_aet,
                called_aet=called_aet,
                study_instance_uid=study_instance_uid,
            )
    except MultipartError as error:
        log.warning("request not read to its end", reason=str(error), calling_aet=calling_aet)
        answer.broken = error
    return answer


def _store_part(
    part: Part,
    answer: StoreAnswer,
    storage: Storage,
    transfer: Transfer,
    *,
    calling_aet: str,
    called_aet: str,
    study_instance_uid: str,
) -> None:
    file: ArrivingFile | None = None
    reason = OUT_OF_RESOURCES
    try:
        # RFC 2387: a part without a type is of the type that the whole names.
        if MediaType.parse(part.headers.get("content-type", PART_10)).name != PART_10:
            raise NotDicomError("a part is no DICOM file by its Content-Type")
        file = ArrivingFile.read(part.content)
        if file.sop_class_uid not in storage_sop_classes():
            raise RefusedError("the SOP class is not one of storage", SOP_CLASS_NOT_SUPPORTED)
        if file.transfer_syntax_uid not in transfer_syntaxes():
            raise RefusedError("the transfer syntax is not one of data sets", TRANSFER_SYNTAX_NOT_SUPPORTED)
        kept = keep(
            storage, file, calling_aet=calling_aet, called_aet=called_aet, study_instance_uid=study_instance_uid
        )
    except MultipartError:
        raise
    except (RefusedError, NotDicomError) as error:
        reason = error.status if isinstance(error, RefusedError) else CANNOT_UNDERSTAND
        said = str(error)
    except NodeError as error:
        # The disk is full or failed, or the ledger did: the sender keeps the object and sends it again.
        answer.full = answer.full or isinstance(error, SpoolFullError)
        said = str(error)
    else:
        answer.stored.append((file, kept))
        if kept.stored is not None:
            transfer.image(kept.study_instance_uid)
        return
    log.warning("object refused", status=f"0x{reason:04X}", reason=said, calling_aet=calling_aet)
    answer.failed.append((file, reason))


def _item(file: ArrivingFile | None, **elements: object) -> Dataset:
    item = Dataset()
    if file is not None:
        item.ReferencedSOPClassUID = file.sop_class_uid
        item.ReferencedSOPInstanceUID = file.sop_instance_uid
    for keyword, value in elements.items():
        if value is not None:
            setattr(item, keyword, value)
    return item
