"""The storage commitment SCP (PS3.4 J.3.2.2): senders hear which of their objects the node keeps, and may delete them.

A request is entered in the ledger before it is answered. A sender that waits hears the report on its own association,
any other one on a new association to its address; what it did not hear is told again, by whichever process comes first,
so that neither a crash nor a sender that is away loses a report.
"""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field
from datetime import timedelta
from io import BytesIO
from typing import Final

import structlog
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import N_EVENT_REPORT_RSP
from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT
from pynetdicom.dsutils import encode
from pynetdicom.presentation import build_role

from dicom_node.backoff import delay_after
from dicom_node.dimse.commitment import (
    CLASS_INSTANCE_CONFLICT,
    NO_SUCH_INSTANCE,
    REQUEST,
    SOP_CLASS,
    SOP_INSTANCE,
    Reference,
    Report,
    Request,
    StatementError,
    context,
    legible,
)
from dicom_node.dimse.scu import SUCCESS, Peer, PeerError, Timeouts, associate
from dicom_node.dimse.tls import client_context
from dicom_node.ledger import Ledger
from dicom_node.ledger.records import OwedReport
from dicom_node.settings import CommitmentPeer, Destination, Settings, Source, TlsSettings
from dicom_node.spool import Spool, SpoolError, split
from engine.errors import NodeError

QUIET_SECONDS: Final = 1.0
"""A sender whose association has been quiet for so long after its request is taken to wait for the report there."""
_HERE_SECONDS: Final = 15.0
"""So long a sender's own association counts; after it, or a crash, the ledger says that the report is due."""
_PROCESSING_FAILURE: Final = 0x0110
_INVALID_ARGUMENT: Final = 0x0115
_NO_SUCH_ACTION: Final = 0x0123

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Waiting:
    """A sender that may wait for its report on its own association."""

    association: Association
    since: float
    asked: float = field(default_factory=time.monotonic)
    answered: threading.Event = field(default_factory=threading.Event)
    message_id: int | None = None
    status: int | None = None


class CommitmentScp:
    """Answers senders; one for a process that listens.

    Parameters
    ----------
    settings : Settings
    spool : Spool
    ledger : Ledger
    """

    def __init__(self, settings: Settings, spool: Spool, ledger: Ledger) -> None:
        self._settings = settings
        self._spool = spool
        self._ledger = ledger
        self._waiting: dict[str, _Waiting] = {}
        self._lock = threading.Lock()
        self._messages = itertools.count()

    def equip(self, entity: AE) -> list[evt.EventHandlerType]:
        """Have a listener take requests; returns its handlers."""
        if not self._settings.commitment.answers:
            return []
        syntaxes = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
        # Both roles: on the same context a destination may report to the node (`CommitmentScu`).
        entity.add_supported_context(SOP_CLASS, syntaxes, scu_role=True, scp_role=True)
        return [(evt.EVT_N_ACTION, self._asked), (evt.EVT_DIMSE_RECV, self._heard)]

    def _asked(self, event: evt.Event) -> tuple[Dataset | int, None]:
        calling_aet = str(event.assoc.requestor.ae_title).strip()
        try:
            request = self._request(event)
            due = self._ledger.clock() + timedelta(seconds=_HERE_SECONDS)
            called_aet = str(event.assoc.requestor.primitive.called_ae_title).strip()  # type: ignore[union-attr]
            if not self._ledger.commitments.owe(
                request.transaction_uid, request.references, calling_aet, called_aet, due
            ):
                raise StatementError("the transaction UID is in use", _INVALID_ARGUMENT)
        except NodeError as error:
            status = error.status if isinstance(error, StatementError) else _PROCESSING_FAILURE
            log.warning("commitment refused", calling_aet=calling_aet, status=f"0x{status:04X}", reason=str(error))
            answer = Dataset()
            answer.Status, answer.ErrorComment = status, str(error)[:64]
            return answer, None
        with self._lock:
            self._waiting[request.transaction_uid] = _Waiting(event.assoc, time.monotonic())
        log.info(
            "commitment asked for",
            calling_aet=calling_aet,
            transaction=request.transaction_uid,
            objects=len(request.references),
        )
        return SUCCESS, None

    def _request(self, event: evt.Event) -> Request:
        asked = event.request
        assert isinstance(asked, N_ACTION)  # noqa: S101 - EVT_N_ACTION carries nothing else
        if asked.RequestedSOPInstanceUID != SOP_INSTANCE:
            raise StatementError("not the instance of the Push Model", NO_SUCH_INSTANCE)
        if asked.ActionTypeID != REQUEST:
            raise StatementError("no such action", _NO_SUCH_ACTION)
        with legible():
            return Request.from_dataset(event.action_information)

    def _heard(self, event: evt.Event) -> None:
        if not isinstance(event.message, N_EVENT_REPORT_RSP):
            return
        answer = event.message.command_set
        with self._lock:
            waiting = [item for item in self._waiting.values() if item.association is event.assoc]
        for item in waiting:
            if item.message_id == answer.get("MessageIDBeingRespondedTo"):
                item.status = int(answer.get("Status", _PROCESSING_FAILURE))
                item.answered.set()

    def due(self) -> list[str]:
        """Transactions to be reported now, those of senders that wait or have gone first."""
        with self._lock:
            quiet = [uid for uid, item in self._waiting.items() if self._is_ready(item)]
        return [*quiet, *(uid for uid in self._ledger.commitments.reports_due() if uid not in quiet)]

    def _is_ready(self, item: _Waiting) -> bool:
        return not item.association.is_established or time.monotonic() - item.asked >= QUIET_SECONDS

    def report(self, transaction_uid: str) -> None:
        """Tell a sender, if that is still to be done. Every outcome is in the ledger."""
        with self._lock:
            waiting = self._waiting.get(transaction_uid)
        try:
            seconds = 2 * self._timeouts.association + self._timeouts.dimse
            owed = self._ledger.commitments.claim_report(transaction_uid, seconds, early=waiting is not None)
            if owed is not None:
                self._report(owed, waiting)
        finally:
            with self._lock:
                self._waiting.pop(transaction_uid, None)

    def _report(self, owed: OwedReport, waiting: _Waiting | None) -> None:
        how = "on its own association"
        try:
            report = self._answer(owed)
            if waiting is None or not self._tell_here(report, waiting):
                how = "on a new association"
                self._tell(report, owed)
        except NodeError as error:
            self._again(owed, error)
            return
        self._ledger.commitments.told(owed.transaction_uid, [uid for _, uid in report.kept], owed.calling_aet)
        log.info(
            f"commitment reported {how}",
            calling_aet=owed.calling_aet,
            transaction=owed.transaction_uid,
            kept=len(report.kept),
            not_kept=len(report.not_kept),
        )

    def _answer(self, owed: OwedReport) -> Report:
        """What is in the ledger, and still in the spool."""
        found = self._ledger.commitments.kept([uid for _, uid in owed.instances])
        kept: list[Reference] = []
        # With durability by association they may not be on the disk yet, and their sender may delete its own.
        self._spool.sync(here.path for here in found.values())
        not_kept: dict[Reference, int] = {}
        for sop_class, uid in owed.instances:
            here = found.get(uid)
            if here is None:
                not_kept[sop_class, uid] = NO_SUCH_INSTANCE
            elif here.sop_class_uid != sop_class:
                not_kept[sop_class, uid] = CLASS_INSTANCE_CONFLICT
            elif not self._is_whole(here.path, uid):
                log.error("an object of the ledger is not in the spool", sop_instance_uid=uid)
                not_kept[sop_class, uid] = NO_SUCH_INSTANCE
            else:
                kept.append((sop_class, uid))
        # Before the sender hears it: it may delete them in the next moment, and retention may be about to.
        promised = self._ledger.commitments.promise([uid for _, uid in kept])
        not_kept |= {reference: NO_SUCH_INSTANCE for reference in kept if reference[1] not in promised}
        kept = [reference for reference in kept if reference[1] in promised]
        return Report(owed.transaction_uid, tuple(kept), not_kept)

    def _is_whole(self, path: str, sop_instance_uid: str) -> bool:
        try:
            meta, offset = split(self._spool.path(path))
            return (
                meta.MediaStorageSOPInstanceUID == sop_instance_uid and self._spool.path(path).stat().st_size > offset
            )
        except (SpoolError, OSError, AttributeError):
            return False

    def _tell_here(self, report: Report, waiting: _Waiting) -> bool:
        """Report on the sender's association; whether it has heard."""
        association = waiting.association
        contexts = [item for item in association.accepted_contexts if item.abstract_syntax == SOP_CLASS]
        if not association.is_established or not contexts:
            return False
        syntax = contexts[0].transfer_syntax[0]
        event = N_EVENT_REPORT()
        event.MessageID = waiting.message_id = next(self._messages) % 0xFFFF + 1
        event.AffectedSOPClassUID, event.AffectedSOPInstanceUID = SOP_CLASS, SOP_INSTANCE
        event.EventTypeID = report.event_type
        event.EventInformation = BytesIO(
            encode(report.to_dataset(), syntax.is_implicit_VR, syntax.is_little_endian) or b""
        )
        # Not the library's send_n_event_report: it stops the association's own thread until the answer is there, and
        # a sender that releases just now would wait in vain. The answer comes by `_heard`.
        association.dimse.send_msg(event, contexts[0].context_id or 1)
        until = time.monotonic() + self._timeouts.dimse
        while not waiting.answered.wait(0.05) and association.is_established and time.monotonic() < until:
            pass
        return waiting.status == SUCCESS

    def _tell(self, report: Report, owed: OwedReport) -> None:
        peer, tls = self._address(owed.calling_aet)
        role = build_role(SOP_CLASS, scp_role=True)
        secure = client_context(tls) if tls is not None else None
        with associate(peer, [context()], owed.called_aet, self._timeouts, roles=[role], tls=secure) as association:
            answer, _ = association.send_n_event_report(report.to_dataset(), report.event_type, SOP_CLASS, SOP_INSTANCE)
        status = answer.get("Status")
        if status is None:
            raise PeerError(f"{peer} did not answer the report")
        if status != SUCCESS:
            raise PeerError(f"{peer} answered the report with status 0x{status:04X}")

    def _address(self, calling_aet: str) -> tuple[Peer, TlsSettings | None]:
        settings = self._settings
        tables: list[CommitmentPeer | Source | Destination] = [
            *settings.commitment_peers,
            *settings.sources,
            *settings.destinations,
        ]
        for table in tables:
            if table.aet == calling_aet and table.port is not None:
                return Peer(calling_aet, table.host, table.port), table.tls
        raise NodeError(
            f"the address of {calling_aet} is not known",
            advice="add a [[commitment_peers]] table with its host and port",
        )

    def _again(self, owed: OwedReport, error: NodeError) -> None:
        settings, now = self._settings.commitment, self._ledger.clock()
        given_up = now - owed.since >= timedelta(hours=settings.max_hours)
        at = None if given_up else now + delay_after(owed.attempts + 1, settings)
        self._ledger.commitments.not_told(owed.transaction_uid, error.explained, at)
        (log.error if given_up else log.warning)(
            "commitment given up" if given_up else "commitment not reported",
            calling_aet=owed.calling_aet,
            transaction=owed.transaction_uid,
            reason=error.explained,
        )

    @property
    def _timeouts(self) -> Timeouts:
        settings = self._settings.delivery
        return Timeouts(settings.association_timeout_seconds, settings.dimse_timeout_seconds)
