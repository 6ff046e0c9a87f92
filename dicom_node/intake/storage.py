"""Taking an object in, whatever brought it (C-STORE, STOW-RS, C-GET): safe on disk, and in the ledger or soon so.

::

    receiving = storage.begin(arrival)      refused: RefusedError; no space: SpoolFullError
    receiving.write(part) ...               straight to a file of its own in the spool
    kept = receiving.finish()               identified, synced, in place: only now may Success be said
    receiving.abandon()                     instead, where the object does not arrive whole: nothing is left of it
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import structlog
from pydicom.uid import UID

from dicom_node.intake import file_meta
from dicom_node.intake.elements import images_of_study, leading_uids
from dicom_node.intake.gathered import Gathered
from dicom_node.intake.identity import CANNOT_UNDERSTAND, DOES_NOT_MATCH, Identity, RefusedError, identify, is_uid
from dicom_node.intake.promised import Promised
from dicom_node.ledger import Ledger
from dicom_node.ledger.records import ReceivedInstance
from dicom_node.metrics import process as metrics
from dicom_node.spool import IncomingFile, Spool, SpoolError, Stored, is_conflict

IMPLEMENTATION_CLASS_UID: Final = UID("2.25.118463921704826543311946770258103317129")
IMPLEMENTATION_VERSION: Final = "MEDREGA_PACS"
_HEAD: Final = 1 << 14
"""Bytes of a data set that are kept at hand for its UIDs."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is known of an object before its first byte: what the request says, and who makes it.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid, transfer_syntax_uid : str
    calling_aet : str
        AE title of the sender; for DICOMweb the name of the user or source that stands for one.
    called_aet : str
        AE title that it was sent to, which names an entry point of the node.
    study_instance_uid : str
        The study that it must belong to (the path of a STOW-RS request, the study that is fetched); any without.
    prior : bool
        Whether it was fetched to stand beside another study: it is set aside, entered nowhere and read by no run.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    calling_aet: str
    called_aet: str
    study_instance_uid: str = ""
    prior: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of an object.

    Parameters
    ----------
    study_instance_uid, series_instance_uid : str
    stored : Stored or None
        None for a result of this node's own, which is answered with Success and not kept, and for a prior.
    path : str
        Where it is, relative to the data folder; empty where it is not kept.
    """

    study_instance_uid: str
    series_instance_uid: str
    stored: Stored | None
    path: str = ""


class Storage:
    """Takes objects in; one for a process, called from several threads.

    Parameters
    ----------
    spool : Spool
    ledger : Ledger
    synced : bool
        Whether each object is synced before `Receiving.finish` returns; else the caller does so by `Spool.sync`.
    prompt : bool
        Whether each object is in the ledger before `Receiving.finish` returns. Else it is a moment later, or
        at `flush`; `start` has to be called before the first one and `stop` at the end.
    """

    def __init__(self, spool: Spool, ledger: Ledger, *, synced: bool = True, prompt: bool = True) -> None:
        self._synced = synced
        self.spool = spool
        self.ledger = ledger
        self._arrivals = Gathered(ledger)
        self._promised = Promised(ledger)
        self._prompt = prompt

    def flush(self) -> None:
        """Have all that was finished in the ledger; to be called before anyone looks there for a sender's objects.

        Raises
        ------
        NodeError
            If the ledger fails. What was finished is entered when it is back, or after the next start.
        """
        self._promised.flush()

    def start(self) -> None:
        """Begin to enter what was finished."""
        self._promised.start()

    def stop(self) -> None:
        """Enter what waits for that."""
        self._promised.stop()

    def begin(self, arrival: Arrival) -> Receiving:
        """Make ready for an object's data set.

        Raises
        ------
        RefusedError
            If the request alone says that the object cannot be taken.
        SpoolError
            If no file can be made for it; `SpoolFullError` where there is no space.
        NodeError
            If objects wait for the ledger, and it fails.
        """
        self._promised.make_room()
        if not is_uid(arrival.sop_instance_uid):
            raise RefusedError("the request's SOP Instance UID is no UID", DOES_NOT_MATCH)
        head = file_meta.encode(
            sop_class_uid=arrival.sop_class_uid,
            sop_instance_uid=arrival.sop_instance_uid,
            transfer_syntax_uid=arrival.transfer_syntax_uid,
            implementation_class_uid=IMPLEMENTATION_CLASS_UID,
            implementation_version=IMPLEMENTATION_VERSION,
            sending_aet=arrival.calling_aet,
            receiving_aet=arrival.called_aet,
        )
        return Receiving(self, arrival, self.spool.incoming(head, synced=self._synced))

    def is_own(self, sop_instance_uid: str, series_instance_uid: str) -> bool:
        """Whether this node made the object, or its series: an archive that compresses may give an object a new UID."""
        uids = [uid for uid in (sop_instance_uid, series_instance_uid) if _may_be_own(uid)]
        return bool(uids) and self.ledger.intake.is_own_result(*uids)

    def enter(self, stored: Stored, received: ReceivedInstance, file: IncomingFile) -> None:
        """Enter a stored object in the ledger, or have that done."""
        if stored is Stored.NEW:
            if self._prompt:
                self._arrivals.enter(received)
            else:
                self._promised.add(received, file.hand_over())
            return
        self.flush()
        intake = self.ledger.intake
        if stored is Stored.SAME and intake.known_paths([received.path]):
            intake.touch([received.study_instance_uid])  # which waits for a purge that is at work
            self._must_be_here(received)
        elif is_conflict(received.path):
            intake.record_conflict(received)
            log.warning(
                "other content under a known SOP instance UID",
                study=received.study_instance_uid,
                sop_instance_uid=received.sop_instance_uid,
                calling_aet=received.calling_aet,
            )
        else:
            # In place, and not in the ledger: a crash came between, before its sender heard Success.
            intake.record(received)
            self._must_be_here(received)

    def _must_be_here(self, received: ReceivedInstance) -> None:
        if not self.spool.path(received.path).exists():
            raise SpoolError("what was here of the same object was purged in this moment")


class Receiving:
    """An object that arrives; as a context it is abandoned unless it was finished."""

    def __init__(self, storage: Storage, arrival: Arrival, file: IncomingFile) -> None:
        self._storage = storage
        self._arrival = arrival
        self._file = file
        self._head = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abandon()

    def write(self, *parts: bytes | memoryview) -> None:
        """Keep the next parts of the data set.

        Raises
        ------
        SpoolError
            If the disk fails; `SpoolFullError` where there is no space.
        RefusedError
            If it has become larger than the limit.
        """
        for part in parts:
            if len(self._head) >= _HEAD:
                break
            self._head += part[: _HEAD - len(self._head)]
        self._file.write(*parts)
        if self._file.size > (limit := self._storage.spool.limits.data_set_mib) << 20:
            raise RefusedError(f"the data set is larger than the limit of {limit} MiB", CANNOT_UNDERSTAND)

    @property
    def size(self) -> int:
        """Bytes of the data set so far."""
        return self._file.size

    def content(self) -> AbstractContextManager[memoryview]:
        """The data set so far."""
        return self._file.content()

    def finish(self) -> Kept:
        """The object is whole: identify it, sync it, move it into place and have it entered in the ledger.

        Raises
        ------
        RefusedError
            If it cannot be taken; its `status` is one of PS3.4 table B.2-1.
        NodeError
            If the disk or the ledger fails: the sender should keep it and send it again.
        """
        arrival = self._arrival
        identity = self._identity()
        if identity.sop_class_uid not in ("", arrival.sop_class_uid) or identity.sop_instance_uid not in (
            "",
            arrival.sop_instance_uid,
        ):
            raise RefusedError("the data set's SOP Class or Instance UID is not the request's", DOES_NOT_MATCH)
        study = identity.study_instance_uid
        if arrival.study_instance_uid not in ("", study):
            raise RefusedError("the object belongs to another study than the request's", DOES_NOT_MATCH)
        if identity.own or self._storage.is_own(arrival.sop_instance_uid, identity.series_instance_uid):
            log.info(
                "own result not stored",
                study=study,
                sop_instance_uid=arrival.sop_instance_uid,
                calling_aet=arrival.calling_aet,
            )
            return Kept(study, identity.series_instance_uid, None)
        if arrival.prior:
            self._file.set_aside(study, arrival.sop_instance_uid)
            return Kept(study, identity.series_instance_uid, None)
        size = self._file.size
        stored, path = self._file.place(study, arrival.sop_instance_uid)
        self._storage.enter(
            stored,
            ReceivedInstance(
                study_instance_uid=study,
                series_instance_uid=identity.series_instance_uid,
                sop_instance_uid=arrival.sop_instance_uid,
                sop_class_uid=arrival.sop_class_uid,
                transfer_syntax_uid=arrival.transfer_syntax_uid,
                calling_aet=arrival.calling_aet,
                called_aet=arrival.called_aet,
                path=path,
            ),
            self._file,
        )
        if stored is Stored.NEW:
            metrics.received(arrival.calling_aet, size)
        return Kept(study, identity.series_instance_uid, stored, path)

    def images_of_study(self) -> int | None:
        """How many images the study has by the object's own word (0020,1208), where an ordinary one says it."""
        return images_of_study(bytes(self._head), self._arrival.transfer_syntax_uid)

    def _identity(self) -> Identity:
        uids = leading_uids(self._head, self._arrival.transfer_syntax_uid)
        if uids is not None and all(map(is_uid, uids)):
            sop_class, sop_instance, study, series = uids
            return Identity(study, series, sop_instance, sop_class, own=False)
        with self._file.content() as content:
            return identify(content, self._arrival.transfer_syntax_uid)

    def abandon(self) -> None:
        """Leave nothing of it; without effect once it is in place."""
        self._file.discard()


def _may_be_own(sop_instance_uid: str) -> bool:
    """Whether a UID is of the shape that results have (a UUID of version 8 under 2.25), so that it is worth a query."""
    root, _, number = sop_instance_uid.rpartition(".")
    return root == "2.25" and number.isdigit() and int(number) >> 128 == 0 and (int(number) >> 76) & 0xF == 8
