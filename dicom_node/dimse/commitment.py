"""What is said in storage commitment (PS3.4 J, Push Model): which objects, and which are kept, or why not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import StorageCommitmentPushModel  # type: ignore[attr-defined]

from dicom_node.intake.identity import is_uid
from engine.errors import NodeError
from engine.study import READ_ERRORS

SOP_CLASS: Final = UID(StorageCommitmentPushModel)
SOP_INSTANCE: Final = UID("1.2.840.10008.1.20.1.1")
"""The one, well-known instance."""
REQUEST: Final = 1
"""Action type: request storage commitment."""
ALL_KEPT: Final = 1
SOME_NOT_KEPT: Final = 2
"""Event types."""

NO_SUCH_INSTANCE: Final = 0x0112
CLASS_INSTANCE_CONFLICT: Final = 0x0119
_INVALID_ARGUMENT: Final = 0x0115
_REASONS: Final[Mapping[int, str]] = {
    0x0110: "processing failure",
    NO_SUCH_INSTANCE: "no such object instance",
    CLASS_INSTANCE_CONFLICT: "class and instance conflict",
    0x0122: "referenced SOP class not supported",
    0x0131: "duplicate transaction UID",
    0x0213: "resource limitation",
}
"""Failure Reason (PS3.3 C.14.1.1)."""

Reference = tuple[str, str]
"""SOP class and SOP instance UID."""


class StatementError(NodeError):
    """A request or report of storage commitment cannot be used.

    Parameters
    ----------
    status : int
        For the response (PS3.7 10.1.1, 10.1.4).
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Report:
    """What one application entity keeps for another.

    Parameters
    ----------
    transaction_uid : str
    kept : tuple of Reference
    not_kept : mapping of Reference to int
        Failure Reasons.
    """

    transaction_uid: str
    kept: tuple[Reference, ...]
    not_kept: Mapping[Reference, int]

    @property
    def event_type(self) -> int:
        """Event type of the N-EVENT-REPORT that says it."""
        return SOME_NOT_KEPT if self.not_kept else ALL_KEPT

    def to_dataset(self) -> Dataset:
        """Event information (PS3.4 table J.3-2)."""
        information = Dataset()
        information.TransactionUID = self.transaction_uid
        if self.not_kept:
            failed = [_item(reference) for reference in self.not_kept]
            for item, reason in zip(failed, self.not_kept.values(), strict=True):
                item.FailureReason = reason
            information.FailedSOPSequence = Sequence(failed)
        if self.kept:
            information.ReferencedSOPSequence = Sequence(map(_item, self.kept))
        return information

    @classmethod
    def from_dataset(cls, information: Dataset) -> Report:
        """Read event information.

        Raises
        ------
        StatementError
        """
        with legible():
            failed = information.get("FailedSOPSequence") or ()
            return cls(
                _transaction(information),
                tuple(map(_reference, information.get("ReferencedSOPSequence") or ())),
                {_reference(item): int(item.get("FailureReason") or 0) for item in failed},
            )


@dataclass(frozen=True, slots=True)
class Request:
    """A request that the peer commits to objects."""

    transaction_uid: str
    references: tuple[Reference, ...]

    def to_dataset(self) -> Dataset:
        """Action information (PS3.4 table J.3-1)."""
        information = Dataset()
        information.TransactionUID = self.transaction_uid
        information.ReferencedSOPSequence = Sequence(map(_item, self.references))
        return information

    @classmethod
    def from_dataset(cls, information: Dataset) -> Request:
        """Read action information.

        Raises
        ------
        StatementError
        """
        with legible():
            references = dict.fromkeys(map(_reference, information.get("ReferencedSOPSequence") or ()))
            if not references:
                raise StatementError("no object is named", _INVALID_ARGUMENT)
            return cls(_transaction(information), tuple(references))


def context() -> PresentationContext:
    """The presentation context to propose."""
    return build_context(SOP_CLASS, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])


def reason_in_words(reason: int) -> str:
    """A Failure Reason in the Standard's words."""
    return _REASONS.get(reason, f"failure reason 0x{reason:04X}")


@contextmanager
def legible() -> Iterator[None]:
    """Turn what a library raises over a peer's words into a `StatementError`."""
    try:
        yield
    except READ_ERRORS as error:
        raise StatementError(f"it cannot be read ({type(error).__name__})", _INVALID_ARGUMENT) from None


def _transaction(information: Dataset) -> str:
    uid = str(information.get("TransactionUID") or "")
    if not is_uid(uid):
        raise StatementError("the transaction has no UID", _INVALID_ARGUMENT)
    return uid


def _reference(item: Dataset) -> Reference:
    reference = str(item.get("ReferencedSOPClassUID") or ""), str(item.get("ReferencedSOPInstanceUID") or "")
    if not all(map(is_uid, reference)):
        raise StatementError("an object is named without its UIDs", _INVALID_ARGUMENT)
    return reference


def _item(reference: Iterable[str]) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = reference
    return item
